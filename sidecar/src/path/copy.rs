//! Carries bytes both ways until both sides are done. Half-close passes as half-close, reset as reset; buffers come from a pool
//! of the thread and go back when a direction is idle, so that an idle connection holds none.
use crate::live::{CutReason, Live};
use crate::refusal::Broken;
use crate::tls::{BUFFER, give_back, take_buffer};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// One end of a connection that is being carried.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// For messages: "application", "peer".
    const NAME: &'static str;
    /// Most bytes of one read. What goes into records is read in whole records: 64 KiB.
    const READ: usize = 64 * 1024;
    /// Most bytes of one write that leave in whole records.
    const WRITE: usize = BUFFER;
    /// Whether `broken` wakes the task; otherwise it only looks.
    const WAKES: bool = false;
    /// Why the other end broke the connection, as far as that is known without reading. Asked while nothing is read from this
    /// side: its direction has ended, or what was read has no room at the other.
    fn broken(&mut self, cx: &mut Context<'_>) -> Option<io::Error>;
    /// Makes the other end see a reset instead of an orderly end, and the reason, where the framing has a place for it.
    fn abort(&mut self, cut: Option<CutReason>);
}

/// How often a side that nothing is read from is looked at: the kernel wakes nobody for a reset there.
const LOOK: Duration = Duration::from_secs(1);

/// One direction.
#[derive(Default)]
struct Flow {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
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
    fn poll<R: Side, W: Side>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        count: &AtomicU64,
    ) -> Poll<Result<(), Broken>> {
        loop {
            match self.stage {
                Stage::Done => return Poll::Ready(Ok(())),
                Stage::Closing => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(|e| Broken::Write(W::NAME, e))?;
                    self.stage = Stage::Done;
                }
                Stage::Copying if self.start < self.end => {
                    let Some(buffer) = &self.buffer else { return Poll::Ready(Ok(())) };
                    let written = ready!(Pin::new(&mut *to).poll_write(cx, &buffer[self.start..self.end]))
                        .map_err(|e| Broken::Write(W::NAME, e))?;
                    if written == 0 {
                        return Poll::Ready(Err(Broken::Write(W::NAME, io::ErrorKind::WriteZero.into())));
                    }
                    self.start += written;
                    self.unflushed = true;
                    count.fetch_add(written as u64, Relaxed);
                }
                Stage::Copying => {
                    let mut storage = self.buffer.take().unwrap_or_else(take_buffer);
                    let mut buffer = ReadBuf::new(&mut storage[..R::READ.min(W::WRITE)]);
                    let polled = Pin::new(&mut *from).poll_read(cx, &mut buffer);
                    let filled = buffer.filled().len();
                    match polled {
                        Poll::Pending => {
                            give_back(storage);
                            if self.unflushed {
                                ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(|e| Broken::Write(W::NAME, e))?;
                                self.unflushed = false;
                            }
                            return Poll::Pending;
                        }
                        Poll::Ready(Err(e)) => return Poll::Ready(Err(Broken::Read(R::NAME, e))),
                        Poll::Ready(Ok(())) if filled == 0 => {
                            give_back(storage);
                            self.stage = Stage::Closing;
                        }
                        Poll::Ready(Ok(())) => {
                            (self.start, self.end) = (0, filled);
                            self.buffer = Some(storage);
                        }
                    }
                }
            }
        }
    }
}

impl Flow {
    /// Whether it waits for bytes, so that a reset would wake it.
    fn is_reading(&self) -> bool {
        self.stage == Stage::Copying && self.start == self.end
    }

    /// Why the side that this direction reads from is broken, if that would not show by itself.
    fn broken<R: Side>(&self, cx: &mut Context<'_>, from: &mut R, due: bool) -> Option<Broken> {
        let ask = !self.is_reading() && (due || R::WAKES);
        ask.then(|| from.broken(cx)).flatten().map(|error| Broken::Read(R::NAME, error))
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }
}

/// Carries bytes between the caller and the destination until both directions have ended, one breaks, or the connection is cut.
/// What breaks or is cut is aborted on both sides.
pub async fn carry<A: Side, B: Side>(caller: &mut A, destination: &mut B, live: &Live) -> Result<(), Broken> {
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
        if let Some(error) = there.broken(cx, caller, due) {
            return Poll::Ready(Err(error));
        }
        if let Some(error) = back.broken(cx, destination, due) {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
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

impl Side for tokio::net::TcpStream {
    const NAME: &'static str = "application";
    fn broken(&mut self, _: &mut Context<'_>) -> Option<io::Error> {
        // What the kernel does not tell about a socket is no fault of the connection.
        self.take_error().ok().flatten()
    }
    fn abort(&mut self, _: Option<CutReason>) {
        // A socket that is gone already cannot be reset, and need not be.
        drop(self.set_zero_linger());
    }
}

#[cfg(test)]
mod tests;
