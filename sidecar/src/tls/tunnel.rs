//! A tunnel between two sidecars: a finished handshake yields the stream and what it proved.
use super::cipher::LARGEST;
use super::{Established, Records, client, server};
use crate::clock::Moment;
use crate::live::{Evidence, Exporter, Tunnel, Validity};
use crate::path::Socket;
use crate::refusal::Refusal;
use crate::shared::Shared;
use rustls_pki_types::CertificateDer;
use signet_identity::{Peer, Svid, tls};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How a tunnel carries connections; named by ALPN, of which the client offers exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// One TLS connection carries one application connection.
    Alone,
    /// HTTP/2: one TLS connection carries many (HBONE).
    Pooled,
    /// No connection at all: proves open tunnels again.
    Proof,
}

impl Framing {
    /// Every framing, in the order in which a server prefers them.
    pub const ALL: [Self; 3] = [Self::Pooled, Self::Alone, Self::Proof];

    /// The ALPN protocol name.
    pub const fn alpn(self) -> &'static [u8] {
        match self {
            Self::Alone => b"http/1.1",
            Self::Pooled => b"h2",
            Self::Proof => b"signet-prove/1",
        }
    }

    /// For logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alone => "alone",
            Self::Pooled => "pooled",
            Self::Proof => "proof",
        }
    }
}

/// What a handshake proved.
pub struct Proven {
    /// The peer's verified identity.
    pub peer: Peer,
    /// What it presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust sequence before it was verified.
    pub trust: u64,
    /// Our SVID in this handshake. When a new one came in the middle, either may have been presented: then the client counts on
    /// the older and proves the tunnel again in time for both, and the server on the newer and does not cut it before.
    pub own: Arc<Svid>,
    /// Which framing was agreed.
    pub framing: Framing,
    /// The key exchange group, for logs.
    pub group: &'static str,
    /// Names the tunnel on both ends.
    pub exporter: Exporter,
    /// When it ended.
    pub at: Moment,
}

impl Proven {
    /// The span in which both ends' leaves are valid.
    pub fn validity(&self) -> Validity {
        let leaf = &self.peer.leaf;
        Validity::of((leaf.not_before, leaf.not_after), (self.own.not_before(), self.own.not_after())).from(self.at)
    }

    /// As an entry for the registry.
    pub fn into_tunnel(self, remote: SocketAddr, outbound: bool) -> Tunnel {
        let validity = self.validity();
        let evidence = Evidence::new(self.peer, self.chain, self.trust);
        let mut tunnel = Tunnel::new(evidence, self.own.id().clone(), self.exporter, remote, outbound, validity);
        tunnel.group = self.group;
        tunnel
    }
}

/// A TLS connection between two sidecars after its handshake.
pub struct Tls {
    records: Records,
}

impl Tls {
    /// Opens TLS to a peer's sidecar. The chain is verified; which identity it must be is the caller's to check.
    pub async fn connect(
        shared: &Shared,
        tcp: TcpStream,
        framing: Framing,
        limit: Duration,
    ) -> Result<(Self, Proven), Refusal> {
        let (own, trust) = (shared.usable_svid()?, shared.credentials.trust().state().sequence);
        let handshake = tokio::time::timeout(limit, client(tcp, shared.tls.client(framing), tls::unnamed()));
        let established =
            handshake.await.map_err(|_| Refusal::HandshakeTimeout(limit))?.map_err(|e| Self::failed(e, true))?;
        Self::finish(established, own, trust, None, shared.clock.now())
    }

    /// Answers a peer's sidecar.
    pub async fn accept(shared: &Shared, tcp: TcpStream, limit: Duration) -> Result<(Self, Proven), Refusal> {
        shared.usable_svid()?;
        let trust = shared.credentials.trust().state().sequence;
        let handshake = tokio::time::timeout(limit, server(tcp, shared.tls.server()));
        let established =
            handshake.await.map_err(|_| Refusal::HandshakeTimeout(limit))?.map_err(|e| Self::failed(e, false))?;
        // TLS without ALPN carries HTTP/1.1: curl offers no protocol to a proxy.
        Self::finish(established, shared.usable_svid()?, trust, Some(Framing::Alone), shared.clock.now())
    }

    fn failed(error: io::Error, by_client: bool) -> Refusal {
        match tls::rejection(&error) {
            Some(rejection) => Refusal::PeerCertificate(rejection),
            None if by_client && is_alert(&error) => Refusal::RefusedByPeer(error),
            None => Refusal::Handshake(error),
        }
    }

    fn finish(
        established: Established,
        own: Arc<Svid>,
        trust: u64,
        without_alpn: Option<Framing>,
        at: Moment,
    ) -> Result<(Self, Proven), Refusal> {
        let Established { records, chain, alpn, group, binding } = established;
        let peer = tls::peer(Some(&chain)).map_err(Refusal::PeerCertificate)?;
        let framing = match alpn {
            None => without_alpn,
            Some(name) => Framing::ALL.into_iter().find(|framing| name == framing.alpn()),
        };
        let framing = framing.ok_or(Refusal::NoFraming)?;
        let group = group.map_or("none", group_name);
        Ok((Self { records }, Proven { peer, chain, trust, own, framing, group, exporter: binding, at }))
    }

    /// Gives back bytes that were read too far: the next read returns them first.
    pub fn unread(&mut self, bytes: Vec<u8>) {
        self.records.unread(bytes);
    }
}

/// Whether the other side spoke the refusal: a TLS alert, or an end in the middle.
pub fn is_alert(error: &io::Error) -> bool {
    let alert = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(alert, Some(rustls::Error::AlertReceived(_)))
        || matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted
        )
}

fn group_name(group: rustls::NamedGroup) -> &'static str {
    match group {
        rustls::NamedGroup::X25519MLKEM768 => "X25519MLKEM768",
        rustls::NamedGroup::X25519 => "X25519",
        rustls::NamedGroup::secp256r1 => "secp256r1",
        rustls::NamedGroup::secp384r1 => "secp384r1",
        _ => "other",
    }
}

impl AsyncRead for Tls {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.records).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tls {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.records).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.records).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.records).poll_shutdown(cx)
    }
}

impl Socket for Tls {
    const NAME: &'static str = "peer";
    const MOST: usize = 4 * LARGEST;
    fn tcp(&self) -> &TcpStream {
        self.records.tcp()
    }
}
