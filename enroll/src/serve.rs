//! Accepts TLS connections for a gRPC server: what the CA and the operator give to tonic's `serve_with_incoming`.
//!
//! ```text
//! listener ── accept loop ──┬─ handshake (own task, own timeout) ──┐
//!                           ├─ handshake                           ├── stream of Connection
//!                           └─ ...                                 ┘
//! ```
//!
//! Strangers reach this code: the accept loop survives every error (finding F36), handshakes in progress are bounded in all
//! and for each address, and one that does not finish in time is dropped.
use crate::escaped;
use signet_identity::{ClientAuth, Credentials, Peer, tls};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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
    /// Handshakes in progress from one address (IPv6: from one /64), so that one stranger cannot take them all.
    pub handshakes_per_address: usize,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: 1024,
            handshakes_per_address: 256,
            handshake_timeout: Duration::from_secs(10),
            connections: 20_000,
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
    _slot: OwnedSemaphorePermit,
}

/// Who is at the other end. tonic puts it into every request's extensions; see [`caller`].
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The other end's address, v4-mapped addresses as IPv4.
    pub remote: SocketAddr,
    /// The verified peer; absent where clients present no certificate.
    pub peer: Option<Arc<Peer>>,
}

/// Who sent a request that came in through [`serve_tls`].
pub fn caller<T>(request: &tonic::Request<T>) -> Option<&ConnectionInfo> {
    request.extensions().get()
}

/// Serves TLS on a listener, with default limits. Needs a tokio runtime.
pub fn serve_tls(listener: TcpListener, credentials: &Arc<Credentials>, auth: ClientAuth) -> Incoming {
    serve_tls_with(listener, credentials, auth, Limits::default())
}

/// The same with limits.
pub fn serve_tls_with(
    listener: TcpListener,
    credentials: &Arc<Credentials>,
    auth: ClientAuth,
    limits: Limits,
) -> Incoming {
    let counters = Arc::new(Counters::default());
    let (sender, connections) = mpsc::channel(64);
    let door = Arc::new(Door {
        acceptor: TlsAcceptor::from(credentials.server_config(auth, ALPN)),
        auth,
        limits,
        counters: counters.clone(),
        handshakes: Arc::new(Semaphore::new(limits.handshakes)),
        connections: Arc::new(Semaphore::new(limits.connections)),
        by_address: Mutex::default(),
    });
    tokio::spawn(accept(listener, door, sender));
    Incoming { connections, counters }
}

struct Door {
    acceptor: TlsAcceptor,
    auth: ClientAuth,
    limits: Limits,
    counters: Arc<Counters>,
    handshakes: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    by_address: Mutex<HashMap<IpAddr, usize>>,
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
                let Some(guest) = door.let_in(remote.ip()) else {
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
                    ClientAuth::None => None,
                };
                self.counters.accepted.fetch_add(1, Ordering::Relaxed);
                Some(Connection { stream, info: ConnectionInfo { remote, peer }, _slot: slot })
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

    /// Counts a handshake for its address until the guest is dropped; nothing when that address has too many.
    fn let_in(self: &Arc<Self>, address: IpAddr) -> Option<Guest> {
        let address = network(address);
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_address.entry(address).or_default();
        if *count >= self.limits.handshakes_per_address {
            return None;
        }
        *count += 1;
        Some(Guest { door: self.clone(), address })
    }
}

/// One handshake in progress, counted for its address.
struct Guest {
    door: Arc<Door>,
    address: IpAddr,
}

impl Drop for Guest {
    fn drop(&mut self) {
        let mut by_address = self.door.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_address.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                by_address.remove(&self.address);
            }
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// What one stranger has of addresses: one of IPv4, a /64 of IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => IpAddr::V6((u128::from(v6) & !u128::from(u64::MAX)).into()),
    }
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

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
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
