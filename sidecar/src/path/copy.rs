//! Carries bytes both ways until both sides are done. Half-close passes as half-close, reset as reset; buffers come from a pool
//! of the thread and go back when a direction is idle, so that an idle connection holds none.
use crate::live::Live;
use crate::refusal::Broken;
use crate::tls::{give_back, take_buffer};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// One end of a connection that is being carried.
pub trait Side: AsyncRead + AsyncWrite + Unpin {
    /// For messages: "application", "peer".
    const NAME: &'static str;
    /// Most bytes of one read. What goes into records is read in whole records: 64 KiB.
    const READ: usize = 64 * 1024;
    /// Makes the other end see a reset instead of an orderly end.
    fn abort(&mut self);
}

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
                    let mut buffer = ReadBuf::new(&mut storage[..R::READ]);
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
    let result = poll_fn(|cx| {
        if let Some(reason) = live.cut.poll(cx) {
            return Poll::Ready(Err(Broken::Cut(reason)));
        }
        let there = there.poll(cx, caller, destination, &live.sent)?;
        let back = back.poll(cx, destination, caller, &live.received)?;
        if there.is_ready() && back.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    })
    .await;
    if result.is_err() {
        caller.abort();
        destination.abort();
    }
    result
}

impl Side for tokio::net::TcpStream {
    const NAME: &'static str = "application";
    fn abort(&mut self) {
        // A socket that is gone already cannot be reset, and need not be.
        drop(self.set_zero_linger());
    }
}
