//! Where a captured connection was going before the redirect turned it to us.
use std::net::{IpAddr, SocketAddr};
use tokio::net::TcpStream;

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
