//! The connection after its handshake: bytes in, records out, and back. close_notify ends one direction; the end of the TCP stream
//! without it is an error, never an end.
use super::cipher::{self, ALERT, Cipher, DATA, HANDSHAKE, RecordError, record_length};
use super::{BUFFER, give_back, take_buffer};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

const CLOSE_NOTIFY: u8 = 0;
const USER_CANCELED: u8 = 90;
const UNEXPECTED_MESSAGE: u8 = 10;
const WARNING: u8 = 1;
const FATAL: u8 = 2;
const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
/// Records without content in a row; a peer that sends more only burns our time (OpenSSL refuses after 32 too).
const EMPTY_RECORDS: u8 = 32;

/// What rustls keeps so that keys can change later.
pub enum Kernel {
    /// We are the client.
    Client(Box<KernelConnection<ClientConnectionData>>),
    /// We are the server.
    Server(Box<KernelConnection<ServerConnectionData>>),
}

impl Kernel {
    fn next_sealer(&mut self) -> Result<Cipher, rustls::Error> {
        let (sequence, secrets) = match self {
            Self::Client(kernel) => kernel.update_tx_secret()?,
            Self::Server(kernel) => kernel.update_tx_secret()?,
        };
        Cipher::new((sequence, &secrets))
    }
    fn next_opener(&mut self) -> Result<Cipher, rustls::Error> {
        let (sequence, secrets) = match self {
            Self::Client(kernel) => kernel.update_rx_secret()?,
            Self::Server(kernel) => kernel.update_rx_secret()?,
        };
        Cipher::new((sequence, &secrets))
    }
}

/// A window into a pooled buffer that is held only while the window is not empty.
#[derive(Default)]
struct Window {
    buffer: Option<Box<[u8]>>,
    start: usize,
    end: usize,
}

impl Window {
    fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[self.start..self.end])
    }
    fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.release();
        }
    }
    fn release(&mut self) {
        (self.start, self.end) = (0, 0);
        if let Some(buffer) = self.buffer.take() {
            give_back(buffer);
        }
    }
    /// Room behind the window; what is in it moves to the front when less than `want` is left.
    fn room(&mut self, want: usize) -> &mut [u8] {
        let buffer = self.buffer.get_or_insert_with(take_buffer);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if BUFFER - self.end < want && self.start > 0 {
            buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        &mut buffer[self.end..]
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.release();
    }
}

/// One TLS connection.
pub struct Records {
    tcp: TcpStream,
    kernel: Kernel,
    opener: Cipher,
    sealer: Cipher,
    /// Ciphertext that has arrived.
    incoming: Window,
    /// Where opened content that did not fit into the reader's buffer lies in `incoming`; before its ciphertext window.
    opened: std::ops::Range<usize>,
    /// Plaintext from before this record layer: of the handshake, or given back.
    ahead: Vec<u8>,
    /// Ciphertext that has not left.
    outgoing: Window,
    read_closed: bool,
    write_closed: bool,
    owes_key_update: bool,
    /// Records after which we change our key: `UPDATE_AFTER`, or less in a test.
    update_after: u64,
    empties: u8,
    /// What ended reading. It is final: the record behind one that was refused would still open.
    failed: Option<RecordFailure>,
}

impl Records {
    pub(super) fn new(
        tcp: TcpStream,
        kernel: Kernel,
        opener: Cipher,
        sealer: Cipher,
        buffer: Option<Box<[u8]>>,
        filled: usize,
        ahead: Vec<u8>,
    ) -> Self {
        let mut incoming = Window { buffer, start: 0, end: filled };
        if filled == 0 {
            incoming.release();
        }
        Self {
            tcp,
            kernel,
            opener,
            sealer,
            incoming,
            opened: 0..0,
            ahead,
            outgoing: Window::default(),
            read_closed: false,
            write_closed: false,
            owes_key_update: false,
            update_after: cipher::UPDATE_AFTER,
            empties: 0,
            failed: None,
        }
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    #[cfg(test)]
    pub(super) fn holds_buffer(&self) -> bool {
        self.incoming.buffer.is_some() || self.outgoing.buffer.is_some()
    }

    #[cfg(test)]
    pub(super) fn update_after(&mut self, records: u64) {
        self.update_after = records;
    }

    /// Gives back plaintext that was read too far: the next read returns it first.
    pub fn unread(&mut self, mut bytes: Vec<u8>) {
        bytes.extend_from_slice(&self.ahead);
        self.ahead = bytes;
    }

    /// Hands out plaintext that is already there.
    fn take_ready(&mut self, out: &mut ReadBuf<'_>) -> bool {
        if !self.ahead.is_empty() {
            let count = self.ahead.len().min(out.remaining());
            out.put_slice(&self.ahead[..count]);
            self.ahead.drain(..count);
            if self.ahead.is_empty() {
                self.ahead = Vec::new();
            }
            return true;
        }
        if self.opened.is_empty() {
            return false;
        }
        if let Some(buffer) = &self.incoming.buffer {
            let count = self.opened.len().min(out.remaining());
            out.put_slice(&buffer[self.opened.start..self.opened.start + count]);
            self.opened.start += count;
        }
        true
    }

    /// Opens the next whole record, if there is one. Data goes to `out` directly when it has room. When it has not and `out` holds
    /// something already, the record waits: whoever reads may make room for it first, and spare the copy.
    fn open_next(&mut self, out: &mut ReadBuf<'_>, begun: bool) -> Result<bool, RecordFailure> {
        let Some(length) = record_length(self.incoming.bytes())? else { return Ok(false) };
        if self.incoming.bytes().len() < length {
            return Ok(false);
        }
        let inner = length - cipher::HEADER - cipher::TAG;
        if begun && out.remaining() < inner {
            return Ok(false);
        }
        let start = self.incoming.start;
        let Some(buffer) = &mut self.incoming.buffer else { return Ok(false) };
        let record = &mut buffer[start..start + length];
        self.incoming.start += length;
        let (kind, content) = if out.remaining() >= inner {
            let room = out.initialize_unfilled_to(inner);
            let (kind, length) = self.opener.open_into(record, room)?;
            if kind == DATA {
                self.count_empty(length)?;
                out.advance(length);
                return Ok(true);
            }
            // Rare: a control message. Small, or it is refused below.
            (kind, room[..length.min(64)].to_vec())
        } else {
            let (kind, range) = self.opener.open(record)?;
            if kind == DATA {
                self.count_empty(range.len())?;
                self.opened = start + range.start..start + range.end;
                return Ok(true);
            }
            (kind, record[range.start..range.end.min(range.start + 64)].to_vec())
        };
        self.control(kind, &content)?;
        Ok(true)
    }

    fn count_empty(&mut self, length: usize) -> Result<(), RecordFailure> {
        self.empties = if length == 0 { self.empties + 1 } else { 0 };
        if self.empties > EMPTY_RECORDS {
            Err(RecordFailure::new(UNEXPECTED_MESSAGE, "too many empty records"))
        } else {
            Ok(())
        }
    }

    fn control(&mut self, kind: u8, content: &[u8]) -> Result<(), RecordFailure> {
        match (kind, content) {
            (ALERT, [_, CLOSE_NOTIFY]) => self.read_closed = true,
            (ALERT, [_, USER_CANCELED]) => self.count_empty(0)?,
            (ALERT, [_, description]) => return Err(RecordFailure::received(*description)),
            (HANDSHAKE, [KEY_UPDATE, 0, 0, 1, request @ (0 | 1)]) => {
                // Bounded like empty records: each costs a key derivation and carries nothing.
                self.count_empty(0)?;
                self.opener = self.kernel.next_opener().map_err(|_| RecordFailure::new(80, "key update failed"))?;
                self.owes_key_update |= *request == 1;
            }
            // Tickets are never used: every handshake is verified against today's trust.
            (HANDSHAKE, [NEW_SESSION_TICKET, ..]) if matches!(self.kernel, Kernel::Client(_)) => self.count_empty(0)?,
            _ => return Err(RecordFailure::new(UNEXPECTED_MESSAGE, "unexpected message after the handshake")),
        }
        Ok(())
    }

    /// Whether a record with this much content has room behind what has not left yet.
    fn has_room(&mut self, content: usize) -> bool {
        let length = cipher::sealed(content);
        self.outgoing.room(length).len() >= length
    }

    /// Seals one record behind what has not left yet.
    pub(super) fn queue(&mut self, kind: u8, content: &[u8]) -> Result<(), RecordError> {
        let room = self.outgoing.room(cipher::sealed(content.len()));
        self.outgoing.end += self.sealer.seal(kind, content, room)?;
        Ok(())
    }

    /// Changes the key that we seal with.
    pub(super) fn update_key(&mut self) -> io::Result<()> {
        self.queue(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, 0]).map_err(io::Error::other)?;
        self.change_key()
    }

    /// The second half of `update_key`: what is sealed from here on takes the next key.
    pub(super) fn change_key(&mut self) -> io::Result<()> {
        self.sealer = self.kernel.next_sealer().map_err(io::Error::other)?;
        self.owes_key_update = false;
        Ok(())
    }

    /// Sends what is queued; ready when nothing is left.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.outgoing.bytes().is_empty() {
            let sent = ready!(Pin::new(&mut self.tcp).poll_write(cx, self.outgoing.bytes()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outgoing.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the peer why, as far as the socket takes it at once, and becomes unusable.
    fn fail(&mut self, cx: &mut Context<'_>, failure: RecordFailure) {
        if let Told::Peer(alert) = failure.told
            && !self.write_closed
            && self.queue(ALERT, &[FATAL, alert]).is_ok()
        {
            // Whether the alert leaves does not change what happened.
            drop(self.poll_send(cx));
        }
        self.write_closed = true;
        self.incoming.release();
        self.failed = Some(failure);
    }
}

/// Who was told by an alert, and which.
#[derive(Debug, Clone, Copy)]
enum Told {
    Peer(u8),
    Us(u8),
}

/// Why the connection cannot go on.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{what}")]
struct RecordFailure {
    told: Told,
    what: String,
}

impl RecordFailure {
    fn new(alert: u8, what: &str) -> Self {
        Self { told: Told::Peer(alert), what: what.into() }
    }
    fn received(description: u8) -> Self {
        Self { told: Told::Us(description), what: String::new() }
    }
    /// An alert of the peer's is `ConnectionAborted` and holds rustls' error, as it does in a handshake; HTTP/2 keeps the kind.
    fn error(&self) -> io::Error {
        match self.told {
            Told::Peer(_) => io::Error::new(io::ErrorKind::InvalidData, self.clone()),
            Told::Us(description) => {
                io::Error::new(io::ErrorKind::ConnectionAborted, rustls::Error::AlertReceived(description.into()))
            }
        }
    }
}

impl From<RecordError> for RecordFailure {
    fn from(error: RecordError) -> Self {
        Self { told: Told::Peer(error.alert()), what: error.to_string() }
    }
}

impl AsyncRead for Records {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = out.filled().len();
        while out.remaining() > 0 {
            if this.take_ready(out) {
                continue;
            }
            if let Some(failure) = &this.failed {
                // What was opened before the fault is handed out first; the fault comes again with the next read.
                if out.filled().len() > before {
                    break;
                }
                return Poll::Ready(Err(failure.error()));
            }
            if this.read_closed {
                // What follows close_notify is ignored (RFC 8446 section 6.1).
                this.incoming.release();
                break;
            }
            match this.open_next(out, out.filled().len() > before) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(failure) => {
                    this.fail(cx, failure);
                    continue;
                }
            }
            if out.filled().len() > before {
                break;
            }
            let want = record_length(this.incoming.bytes()).ok().flatten().unwrap_or(cipher::HEADER + cipher::LARGEST);
            let missing = want.saturating_sub(this.incoming.bytes().len()).max(1);
            let mut buffer = ReadBuf::new(this.incoming.room(missing));
            match Pin::new(&mut this.tcp).poll_read(cx, &mut buffer) {
                Poll::Ready(Ok(())) => match buffer.filled().len() {
                    0 => {
                        this.incoming.release();
                        return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
                    }
                    count => this.incoming.end += count,
                },
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if this.incoming.bytes().is_empty() {
                        this.incoming.release();
                    }
                    return Poll::Pending;
                }
            }
        }
        if this.incoming.bytes().is_empty() && this.opened.is_empty() {
            this.incoming.release();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Records {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, content: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.write_closed {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let Some(first) = content.chunks(cipher::LARGEST).next() else { return Poll::Ready(Ok(0)) };
        let update = this.owes_key_update || this.sealer.sequence() >= this.update_after;
        // At most one buffer is queued, whatever the writer does.
        if update || !this.has_room(first.len()) {
            ready!(this.poll_send(cx))?;
        }
        if update {
            this.update_key()?;
        }
        let mut taken = 0;
        for piece in content.chunks(cipher::LARGEST) {
            if !this.has_room(piece.len()) {
                break;
            }
            this.queue(DATA, piece).map_err(io::Error::other)?;
            taken += piece.len();
        }
        // What is little waits for more, or for the flush: small frames share a send. What the socket does not take now leaves with
        // the next write or flush.
        if !this.has_room(cipher::LARGEST)
            && let Poll::Ready(Err(error)) = this.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_send(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.write_closed {
            ready!(this.poll_send(cx))?;
            this.queue(ALERT, &[WARNING, CLOSE_NOTIFY]).map_err(io::Error::other)?;
            this.write_closed = true;
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}
