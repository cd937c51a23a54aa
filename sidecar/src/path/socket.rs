//! Sockets as every connection of the data path has them: where a captured one was going before the redirect; no delay and keepalive of 30 s; towards the application one of the
//! link-local source addresses that `capture` adds; below pooled tunnels a user timeout.
use crate::refusal::Refusal;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};

/// Keepalive, and TCP_USER_TIMEOUT of pooled tunnels (design section 4). Conntrack forgets a half-closed connection after 60 s
/// without traffic; keepalive runs at half of that.
const ALIVE: Duration = Duration::from_secs(30);
/// As nginx and HAProxy allow by default on busy hosts; the kernel caps it with net.core.somaxconn.
const BACKLOG: i32 = 4096;

/// Sets the options of a connection, accepted or made. No TCP_USER_TIMEOUT: the kernel ends by it also a connection whose other
/// end lives and does not read for so long (measured: with 3 s, 2.5 s after the window closed), and an application may.
pub fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(ALIVE).with_interval(ALIVE / 6).with_retries(5))
}

/// Ends a connection whose other end takes nothing for 30 s. For pooled tunnels: both ends always read.
pub fn must_read(side: &impl super::Socket) -> io::Result<()> {
    SockRef::from(side.tcp()).set_tcp_user_timeout(Some(ALIVE))
}

/// The original destination, canonical (never v4-mapped). `None` when the kernel knows of no redirect: the connection was
/// made to our own port directly (F22).
pub fn original_destination(stream: &TcpStream) -> Option<SocketAddr> {
    let local = canonical(stream.local_addr().ok()?);
    let found = match local.ip() {
        IpAddr::V4(_) => rustix::net::sockopt::ip_original_dst(stream).ok().map(SocketAddr::V4),
        IpAddr::V6(_) => rustix::net::sockopt::ipv6_original_dst(stream).ok().map(SocketAddr::V6),
    };
    // An untranslated connection that is tracked all the same reports our own address.
    found.map(canonical).filter(|original| *original != local && original.port() != 0)
}

/// `::ffff:1.2.3.4` becomes `1.2.3.4`; scope and flow label go.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// A listener that shares its port with those of the other data path threads.
pub fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connects within `limit`.
pub async fn dial(to: SocketAddr, limit: Duration) -> Result<TcpStream, Refusal> {
    connect(new(to).map_err(|e| Refusal::Connect(to, e))?, to, limit).await
}

fn new(to: SocketAddr) -> io::Result<TcpSocket> {
    if to.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
}

async fn connect(socket: TcpSocket, to: SocketAddr, limit: Duration) -> Result<TcpStream, Refusal> {
    let connected = tokio::time::timeout(limit, socket.connect(to)).await;
    let stream = connected.map_err(|_| Refusal::ConnectTimeout(to, limit))?.map_err(|e| Refusal::Connect(to, e))?;
    tune(&stream).map_err(|e| Refusal::Connect(to, e))?;
    Ok(stream)
}

/// The addresses that applications are called from, taken in turn: one source address alone runs out of ports in TIME_WAIT
/// (563 connections a second measured, against 4,694 with four).
#[derive(Debug, Default)]
pub struct Sources {
    addresses: Vec<IpAddr>,
    next: AtomicUsize,
}

impl Sources {
    /// From these addresses.
    pub fn new(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, next: 0.into() }
    }

    fn pick(&self, for_v4: bool) -> Option<IpAddr> {
        let turn = self.next.fetch_add(1, Relaxed);
        let count = self.addresses.iter().filter(|a| a.is_ipv4() == for_v4).count();
        self.addresses.iter().filter(|a| a.is_ipv4() == for_v4).nth(turn.checked_rem(count)?).copied()
    }

    /// Connects to the application at the workload's own address. When a source address has no free port the next is tried.
    pub async fn dial(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream, Refusal> {
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        for _ in 0..self.addresses.len().max(1) {
            let Some(source) = self.pick(to.is_ipv4()) else { break };
            let socket = new(to).map_err(|e| Refusal::Application(to, e))?;
            // The port is chosen at connect, so that only the whole four-tuple must be free.
            setsockopt(&socket, sockopt::IpBindAddressNoPort, &true).map_err(|e| Refusal::Application(to, e.into()))?;
            if let Err(e) = socket.bind(SocketAddr::new(source, 0)) {
                last = e;
                continue;
            }
            match connect(socket, to, limit).await {
                Err(Refusal::Connect(_, e)) if e.kind() == io::ErrorKind::AddrNotAvailable => last = e,
                Err(Refusal::Connect(to, e)) => return Err(Refusal::Application(to, e)),
                Err(Refusal::ConnectTimeout(to, _)) => {
                    return Err(Refusal::Application(to, io::ErrorKind::TimedOut.into()));
                }
                other => return other,
            }
        }
        Err(Refusal::SourceAddress(last))
    }
}
