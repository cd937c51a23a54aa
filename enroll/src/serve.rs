//! Accepts TLS connections for a gRPC server: what the CA and the operator give to tonic's `serve_with_incoming`.
//!
//! ```text
//! listener ── accept loop ──┬─ handshake (own task, own timeout) ──┐
//!                           ├─ handshake                           ├── stream of Connection
//!                           └─ ...                                 ┘
//! ```
//!
//! Strangers reach this code: the accept loop survives every error (finding F36), handshakes in progress and connections are
//! bounded in all and for each address, a handshake that does not finish in time is dropped, and a connection from which nothing
//! comes too. Whoever has proved who he is counts by that and no longer by his address, which others may share.
mod metrics;

pub use metrics::ListenerMetrics;

use crate::escaped;
use crate::places::{Counted, Counts};
use rustls::pki_types::UnixTime;
use signet_identity::verify::{Side, verify_chain};
use signet_identity::{ClientAuth, Credentials, Peer, tls};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// gRPC is HTTP/2 alone.
pub(crate) const ALPN: &[&[u8]] = &[b"h2"];

/// What one listener takes on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Handshakes in progress. One that stalls holds about 40 KiB.
    pub handshakes: usize,
    /// Handshakes in progress from one address, so that one stranger cannot take them all.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
    /// Open connections of one address that have not proved who they are; those whose handshake goes on are not among them.
    pub connections_per_address: usize,
    /// Open connections of one peer that has: identity and UID.
    pub connections_per_peer: usize,
    /// A connection from which nothing comes for so long is closed. HTTP/2's own pings come more often.
    pub silence: Duration,
    /// What one stranger has of IPv6: one address where nobody can choose his own, as in a cluster; else a /64.
    pub whole_ipv6: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 1024,
            handshakes_per_address: 256,
            handshake_timeout: Duration::from_secs(10),
            connections: 20_000,
            connections_per_address: 1024,
            connections_per_peer: 16,
            silence: Duration::from_secs(60),
            whole_ipv6: false,
        }
    }
}

/// What happened on one listener, for metrics. Counts only go up.
#[derive(Debug, Default)]
pub struct Counters {
    /// Handshakes that ended well.
    pub accepted: AtomicU64,
    /// Handshakes that failed: refused certificate, no TLS at all, hung up.
    pub failed: AtomicU64,
    /// Handshakes that took too long.
    pub timed_out: AtomicU64,
    /// Connections closed unanswered because their address had too many handshakes in progress.
    pub crowded: AtomicU64,
    /// Connections closed because their address or their peer had too many.
    pub refused: AtomicU64,
    /// Connections closed because nothing came from them.
    pub silent: AtomicU64,
    /// Connections that are open: the one that goes down, too.
    pub open: AtomicU64,
    /// Errors of accept itself, such as no more file descriptors.
    pub accept_errors: AtomicU64,
}

/// The stream of connections. Dropping it stops the accept loop.
#[derive(Debug)]
pub struct Incoming {
    connections: mpsc::Receiver<io::Result<Connection>>,
    counters: Arc<Counters>,
}

/// One TLS connection, with its peer verified.
#[derive(Debug)]
pub struct Connection {
    stream: TlsStream<TcpStream>,
    info: ConnectionInfo,
    silence: Silence,
    counters: Arc<Counters>,
    _held: (OwnedSemaphorePermit, Resident),
}

/// Whom an open connection counts for.
#[derive(Debug)]
enum Resident {
    Stranger(#[allow(dead_code, reason = "held, and given back when dropped")] Counted<IpAddr>),
    Peer(#[allow(dead_code, reason = "held, and given back when dropped")] Counted<String>),
}

/// When it last said something.
#[derive(Debug)]
struct Silence {
    longest: Duration,
    last: Instant,
    end: Pin<Box<Sleep>>,
}

impl Silence {
    fn new(longest: Duration) -> Self {
        let last = Instant::now();
        Self { longest, last, end: Box::pin(sleep_until(last + longest)) }
    }

    /// Ready when it has been silent for too long. The timer is moved when it ends, not at every byte.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.end.as_mut().poll(cx).is_ready() {
            let end = self.last + self.longest;
            if end <= Instant::now() {
                return Poll::Ready(());
            }
            self.end.as_mut().reset(end);
        }
        Poll::Pending
    }
}

/// Who is at the other end. tonic puts it into every request's extensions; see [`caller`].
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The other end's address, v4-mapped addresses as IPv4.
    pub remote: SocketAddr,
    /// The verified peer; absent where clients need not present a certificate, and this one presented none that is good now.
    pub peer: Option<Arc<Peer>>,
}

/// Who sent a request that came in through [`serve_tls`].
pub fn caller<T>(request: &tonic::Request<T>) -> Option<&ConnectionInfo> {
    request.extensions().get()
}

/// Serves TLS on a listener. Needs a tokio runtime.
pub fn serve_tls(listener: TcpListener, credentials: &Arc<Credentials>, auth: ClientAuth, limits: Limits) -> Incoming {
    let counters = Arc::new(Counters::default());
    let (sender, connections) = mpsc::channel(64);
    let door = Arc::new(Door {
        acceptor: TlsAcceptor::from(credentials.server_config(auth, ALPN)),
        credentials: credentials.clone(),
        auth,
        limits,
        counters: counters.clone(),
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        connections: Arc::new(Semaphore::new(limits.connections)),
        by_address: Counts::new(limits.handshakes_per_address),
        open_by_address: Counts::new(limits.connections_per_address),
        open_by_peer: Counts::new(limits.connections_per_peer),
    });
    tokio::spawn(accept(listener, door, sender));
    Incoming { connections, counters }
}

struct Door {
    acceptor: TlsAcceptor,
    credentials: Arc<Credentials>,
    auth: ClientAuth,
    limits: Limits,
    counters: Arc<Counters>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    by_address: Counts<IpAddr>,
    open_by_address: Counts<IpAddr>,
    open_by_peer: Counts<String>,
}

async fn accept(listener: TcpListener, door: Arc<Door>, sender: mpsc::Sender<io::Result<Connection>>) {
    let mut pause = Duration::ZERO;
    loop {
        // Both slots are taken before the connection, so that what does not fit waits in the kernel.
        let slots = async {
            let connection = door.connections.clone().acquire_owned().await.ok()?;
            let handshake = door.handshakes.clone().acquire_owned().await.ok()?;
            Some((connection, handshake, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = slots => accepted,
            () = sender.closed() => return,
        };
        // The semaphores are never closed.
        let Some((slot, handshake, accepted)) = accepted else { return };
        match accepted {
            Ok((stream, remote)) => {
                pause = Duration::ZERO;
                let remote = canonical(remote);
                let key = door.limits.key(remote.ip());
                let Some(guest) = door.by_address.enter(key) else {
                    door.counters.crowded.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                let (door, sender) = (door.clone(), sender.clone());
                tokio::spawn(async move {
                    let connection = door.handshake(stream, remote, slot).await;
                    drop((guest, handshake));
                    if let Some(connection) = connection {
                        // The server has gone; so does the connection.
                        let _ = sender.send(Ok(connection)).await;
                    }
                });
            }
            Err(error) => {
                door.counters.accept_errors.fetch_add(1, Ordering::Relaxed);
                // A peer that hung up before accept is no reason to wait; no more descriptors or memory is (F36).
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    pause = (pause * 2).clamp(Duration::from_millis(10), Duration::from_secs(1));
                    tracing::warn!(%error, retry_in = ?pause, "cannot accept a connection");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
}

impl Door {
    async fn handshake(&self, stream: TcpStream, remote: SocketAddr, slot: OwnedSemaphorePermit) -> Option<Connection> {
        if let Err(error) = set_socket_options(&stream) {
            tracing::debug!(%remote, %error, "socket options were not taken");
        }
        let handshake = self.acceptor.accept(stream);
        match tokio::time::timeout(self.limits.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => {
                let peer = match self.auth {
                    ClientAuth::Required => match tls::peer(stream.get_ref().1.peer_certificates()) {
                        Ok(peer) => Some(Arc::new(peer)),
                        Err(rejection) => {
                            self.counters.failed.fetch_add(1, Ordering::Relaxed);
                            tracing::info!(%remote, code = rejection.code(), reason = %rejection, "peer refused");
                            return None;
                        }
                    },
                    ClientAuth::Optional => self.proved(&stream, remote).map(Arc::new),
                };
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                let Some(resident) = self.resident(peer.as_deref(), remote) else {
                    self.counters.refused.fetch_add(1, Ordering::Relaxed);
                    tracing::debug!(%remote, "too many connections of one address, or of one peer");
                    return None;
                };
                self.counters.open.fetch_add(1, Ordering::Relaxed);
                let info = ConnectionInfo { remote, peer };
                let silence = Silence::new(self.limits.silence);
                Some(Connection { stream, info, silence, counters: self.counters.clone(), _held: (slot, resident) })
            }
            Ok(Err(error)) => {
                self.counters.failed.fetch_add(1, Ordering::Relaxed);
                if let Some(rejection) = tls::rejection(&error) {
                    tracing::info!(%remote, code = rejection.code(), reason = %rejection, "peer refused");
                } else {
                    tracing::debug!(%remote, error = escaped(&error), "handshake failed");
                }
                None
            }
            Err(_) => {
                self.counters.timed_out.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%remote, "handshake took too long");
                None
            }
        }
    }

    /// Who the client is, if what it showed would let it in where a certificate is needed.
    fn proved(&self, stream: &TlsStream<TcpStream>, remote: SocketAddr) -> Option<Peer> {
        let chain = stream.get_ref().1.peer_certificates()?;
        let proved = verify_chain(chain, &self.credentials.trust(), UnixTime::now(), Side::Client);
        proved
            .inspect_err(|rejection| tracing::debug!(%remote, code = rejection.code(), "a stranger's certificate"))
            .ok()
    }

    /// Whom a connection counts for from now on.
    fn resident(&self, peer: Option<&Peer>, remote: SocketAddr) -> Option<Resident> {
        let Some(Peer { leaf, .. }) = peer else {
            return self.open_by_address.enter(self.limits.key(remote.ip())).map(Resident::Stranger);
        };
        let uid = leaf.uid.as_ref().map(signet_identity::WorkloadUid::as_str).unwrap_or_default();
        self.open_by_peer.enter(format!("{} {uid}", leaf.id)).map(Resident::Peer)
    }
}

impl Limits {
    /// What one stranger has of addresses.
    fn key(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V6(v6) if !self.whole_ipv6 => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
            _ => address,
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A dead peer is noticed within about 30 s whether it owes an answer or not (design section 4).
pub(crate) fn set_socket_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = socket2::SockRef::from(stream);
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(Duration::from_secs(30)))
}

impl Incoming {
    /// What happened so far.
    pub fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }
}

impl tokio_stream::Stream for Incoming {
    type Item = io::Result<Connection>;
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.connections.poll_recv(cx)
    }
}

impl Connected for Connection {
    type ConnectInfo = ConnectionInfo;
    fn connect_info(&self) -> ConnectionInfo {
        self.info.clone()
    }
}

impl Connection {
    /// Who is at the other end.
    pub fn info(&self) -> &ConnectionInfo {
        &self.info
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.counters.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if read.is_ready() {
            self.silence.last = Instant::now();
            return read;
        }
        if self.silence.poll(cx).is_ready() {
            self.counters.silent.fetch_add(1, Ordering::Relaxed);
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing came for too long")));
        }
        Poll::Pending
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests;
