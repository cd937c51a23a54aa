//! Carries bytes both ways until both sides are done. Half-close passes as half-close, reset as reset. What was read goes on as it
//! is, without a copy; its buffer comes from a pool of the thread and goes back with the last of it, so that an idle connection
//! holds none.
use crate::live::{CutReason, Live};
use crate::refusal::Broken;
use crate::tls::{BUFFER, give_back, take_buffer};
use bytes::{Buf as _, Bytes};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What a side is.
pub struct About {
    /// For messages: "application", "peer".
    pub name: &'static str,
    /// What it takes at once and sends in whole records, in bytes: at most a pooled buffer.
    pub most: usize,
    /// Whether `broken` wakes the task; otherwise it only looks.
    pub wakes: bool,
}

/// One end of a connection that is being carried.
pub trait Side: Send {
    /// What is known of it before anything moves.
    fn about(&self) -> About;
    /// What came next, where it can be chosen no more than `most` bytes; empty: its direction has ended.
    fn poll_take(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>>;
    /// Gives it some of these bytes, and takes those off.
    fn poll_give(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>>;
    /// What it was given leaves.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Ends the direction towards it.
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Why the other end broke the connection, as far as that is known without reading. Asked while nothing is read from this
    /// side: its direction has ended, or what was read has no room at the other.
    fn broken(&mut self, cx: &mut Context<'_>) -> Option<io::Error>;
    /// Makes the other end see a reset instead of an orderly end, and the reason, where the framing has a place for it.
    fn abort(&mut self, cut: Option<CutReason>);
}

/// How often a side that nothing is read from is looked at: the kernel wakes nobody for a reset there.
const LOOK: Duration = Duration::from_secs(1);
/// What is not longer is copied out of its pooled buffer: else a few bytes that wait would hold 64 KiB.
const SMALL: usize = 4096;

/// A pooled buffer and what of it was filled.
struct Filled(Box<[u8]>, usize);

impl AsRef<[u8]> for Filled {
    fn as_ref(&self) -> &[u8] {
        &self.0[..self.1]
    }
}

impl Drop for Filled {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.0));
    }
}

type Polled = Poll<Result<(), Broken>>;

/// One direction.
#[derive(Default)]
struct Flow {
    /// Was read and has not been written.
    chunk: Bytes,
    unflushed: bool,
    stage: Stage,
}

#[derive(Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Copying,
    Closing,
    Done,
}

impl Flow {
    fn poll(&mut self, cx: &mut Context<'_>, from: &mut dyn Side, to: &mut dyn Side, count: &AtomicU64) -> Polled {
        let About { name, most, .. } = to.about();
        let write = |error| Broken::Write(name, error);
        loop {
            match self.stage {
                Stage::Done => return Poll::Ready(Ok(())),
                Stage::Closing => {
                    ready!(to.poll_shutdown(cx)).map_err(write)?;
                    self.stage = Stage::Done;
                }
                Stage::Copying if !self.chunk.is_empty() => {
                    let before = self.chunk.len();
                    ready!(to.poll_give(cx, &mut self.chunk)).map_err(write)?;
                    self.unflushed = true;
                    count.fetch_add((before - self.chunk.len()) as u64, Relaxed);
                }
                Stage::Copying => match from.poll_take(cx, most) {
                    Poll::Ready(Ok(chunk)) if chunk.is_empty() => self.stage = Stage::Closing,
                    Poll::Ready(Ok(chunk)) => self.chunk = chunk,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Read(from.about().name, error))),
                    Poll::Pending => {
                        if self.unflushed {
                            ready!(to.poll_flush(cx)).map_err(write)?;
                            self.unflushed = false;
                        }
                        return Poll::Pending;
                    }
                },
            }
        }
    }

    /// Whether it waits for bytes, so that a reset would wake it.
    fn is_reading(&self) -> bool {
        self.stage == Stage::Copying && self.chunk.is_empty()
    }

    /// Why the side that this direction reads from is broken, if that would not show by itself.
    fn broken(&self, cx: &mut Context<'_>, from: &mut dyn Side, due: bool) -> Option<Broken> {
        let ask = !self.is_reading() && (due || from.about().wakes);
        ask.then(|| from.broken(cx)).flatten().map(|error| Broken::Read(from.about().name, error))
    }
}

/// Carries bytes between the caller and the destination until both directions have ended, one breaks, or the connection is cut.
/// What breaks or is cut is aborted on both sides.
pub async fn carry(caller: &mut dyn Side, destination: &mut dyn Side, live: &Live) -> Result<(), Broken> {
    let (mut there, mut back) = (Flow::default(), Flow::default());
    let mut look = None;
    let result = poll_fn(|cx| {
        if let Some(reason) = live.cut.poll(cx) {
            return Poll::Ready(Err(Broken::Cut(reason)));
        }
        let sent = there.poll(cx, caller, destination, &live.sent)?;
        let received = back.poll(cx, destination, caller, &live.received)?;
        if sent.is_ready() && received.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let due = poll_look(&mut look, there.is_reading() && back.is_reading(), cx);
        let broken = there.broken(cx, caller, due).or_else(|| back.broken(cx, destination, due));
        broken.map_or(Poll::Pending, |error| Poll::Ready(Err(error)))
    })
    .await;
    result.map_err(|broken| {
        // Whatever broke first: when the tunnel below was cut, that is why.
        let cut = live.tunnel.as_ref().and_then(|tunnel| tunnel.cut.thrown());
        let broken = cut.map_or(broken, Broken::Cut);
        let said = if let Broken::Cut(reason) = &broken { Some(*reason) } else { None };
        caller.abort(said);
        destination.abort(said);
        broken
    })
}

/// Whether it is time to look. Made when first needed and let go when it ends, so that bulk costs a timer a second at most.
fn poll_look(look: &mut Option<Pin<Box<Sleep>>>, reading: bool, cx: &mut Context<'_>) -> bool {
    if look.is_none() && reading {
        return false;
    }
    let due = look.get_or_insert_with(|| Box::pin(sleep(LOOK))).as_mut().poll(cx).is_ready();
    if due {
        *look = None;
        // The next one is registered by the poll that this asks for.
        if !reading {
            cx.waker().wake_by_ref();
        }
    }
    due
}

/// A side that is a socket, with or without TLS on it.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send {
    const NAME: &'static str;
    const MOST: usize;
    /// The socket.
    fn tcp(&self) -> &TcpStream;
}

impl Socket for TcpStream {
    const NAME: &'static str = "application";
    const MOST: usize = BUFFER;
    fn tcp(&self) -> &TcpStream {
        self
    }
}

impl<S: Socket> Side for S {
    fn about(&self) -> About {
        About { name: S::NAME, most: S::MOST, wakes: false }
    }
    fn poll_take(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        let mut filled = Filled(take_buffer(), 0);
        let mut buffer = ReadBuf::new(&mut filled.0[..most]);
        ready!(Pin::new(self).poll_read(cx, &mut buffer))?;
        filled.1 = buffer.filled().len();
        let small = filled.1 <= SMALL;
        Poll::Ready(Ok(if small { Bytes::copy_from_slice(filled.as_ref()) } else { Bytes::from_owner(filled) }))
    }
    fn poll_give(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        match ready!(Pin::new(self).poll_write(cx, bytes))? {
            0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            written => bytes.advance(written),
        }
        Poll::Ready(Ok(()))
    }
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(self), cx)
    }
    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(self), cx)
    }
    fn broken(&mut self, _: &mut Context<'_>) -> Option<io::Error> {
        // What the kernel does not tell about a socket is no fault of the connection.
        self.tcp().take_error().ok().flatten()
    }
    fn abort(&mut self, _: Option<CutReason>) {
        // A socket that is gone already cannot be reset, and need not be.
        drop(self.tcp().set_zero_linger());
    }
}

#[cfg(test)]
mod tests;
