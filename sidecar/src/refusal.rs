//! Why a connection was not carried. Each refusal has a stable code for logs, metrics and `Proxy-Status`, and a text that tells
//! the person what to do.
use crate::live::CutReason;
use signet_identity::Rejection;
use signet_policy::Reason;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// One reason for each way to fail.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the connection did not come through the redirect: it has no original destination")]
    NoOriginalDestination,
    #[error("{0} is a port of the sidecar itself")]
    OwnPort(SocketAddr),
    #[error("no configuration has arrived from the operator yet")]
    NoConfiguration,
    #[error(
        "{0} is inside the mesh's ranges, and the operator named no workload there within {1:?}; a host there without a sidecar needs a Workload with `meshed: false`"
    )]
    UnknownDestination(SocketAddr, Duration),
    #[error("the Service at {0} has no port {1}")]
    NoServicePort(IpAddr, u16),
    #[error("the Service at {0} has no endpoint")]
    NoEndpoint(SocketAddr),
    #[error("the egress posture does not allow {0}, which is not meshed")]
    EgressDenied(SocketAddr),
    #[error("this sidecar has no certificate yet: the CA has not issued one")]
    NoSvid,
    #[error("this sidecar's certificate has ended, and the CA has not renewed it")]
    SvidExpired,
    #[error("cannot connect to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    #[error("no answer from {0} within {1:?}; maybe a NetworkPolicy or firewall blocks the port")]
    ConnectTimeout(SocketAddr, Duration),
    #[error("the TLS handshake did not end within {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("the peer's certificate was refused: {0}")]
    PeerCertificate(Rejection),
    #[error("the peer refused this sidecar's certificate or broke off the handshake: {0}")]
    RefusedByPeer(io::Error),
    #[error("the peer speaks no framing that this sidecar knows")]
    NoFraming,
    #[error("the peer answered {status}{}", reason.as_deref().map(|r| format!(": {r}")).unwrap_or_default())]
    PeerAnswered { status: u16, reason: Option<String> },
    #[error("the peer's side of the tunnel broke: {0}")]
    TunnelBroke(io::Error),
    #[error("the request is not CONNECT")]
    NotConnect,
    #[error("the CONNECT head is malformed")]
    HeadMalformed,
    #[error("the CONNECT head is longer than {0} bytes")]
    HeadTooLarge(u32),
    #[error("the CONNECT head did not arrive within {0:?}")]
    HeadTimeout(Duration),
    #[error("the CONNECT target is not ip:port")]
    BadTarget,
    #[error("the CONNECT target {0} is not an address of this workload")]
    ForeignTarget(SocketAddr),
    #[error("no rule or posture admits this caller ({0})")]
    Denied(&'static str),
    #[error("the application at {0} does not answer: {1}")]
    Application(SocketAddr, io::Error),
    #[error("no source address is left to call the application: run `signet-sidecar capture up`: {0}")]
    SourceAddress(io::Error),
    #[error("the limit of {0} is reached")]
    Limit(&'static str),
    #[error("callers of this identity hold {0} connections, which is the limit (connections_per_identity)")]
    IdentityLimit(usize),
    #[error("the sidecar is stopping")]
    Draining,
    #[error("the operator names {0} as unmeshed behind a Service and as meshed by itself")]
    Contradiction(SocketAddr),
    /// Of one attempt that many connections waited for.
    #[error("{0}")]
    Shared(Arc<Refusal>),
}

impl Refusal {
    /// Stable, lower case.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoOriginalDestination => "no_original_destination",
            Self::OwnPort(_) => "own_port",
            Self::NoConfiguration => "no_configuration",
            Self::UnknownDestination(..) => "unknown_destination",
            Self::NoServicePort(..) => "no_service_port",
            Self::NoEndpoint(_) => "no_endpoint",
            Self::EgressDenied(_) => "egress_denied",
            Self::NoSvid => "no_svid",
            Self::SvidExpired => "svid_expired",
            Self::Connect(..) => "connect_failed",
            Self::ConnectTimeout(..) => "connect_timeout",
            Self::HandshakeTimeout(_) => "handshake_timeout",
            Self::Handshake(_) => "handshake_failed",
            Self::PeerCertificate(rejection) => rejection.code(),
            Self::RefusedByPeer(_) => "refused_by_peer",
            Self::NoFraming => "no_framing",
            // The verdict's own reason, so that both sides' records and metrics say the same; only codes that we know.
            Self::PeerAnswered { reason, .. } => reason
                .as_deref()
                .and_then(|code| Reason::all().iter().map(|known| known.code()).find(|known| *known == code))
                .unwrap_or("peer_answered"),
            Self::TunnelBroke(_) => "tunnel_broke",
            Self::NotConnect => "not_connect",
            Self::HeadMalformed => "head_malformed",
            Self::HeadTooLarge(_) => "head_too_large",
            Self::HeadTimeout(_) => "head_timeout",
            Self::BadTarget => "bad_target",
            Self::ForeignTarget(_) => "foreign_target",
            Self::Denied(code) => code,
            Self::Application(..) => "application_unreachable",
            Self::SourceAddress(_) => "source_address",
            Self::Limit(_) => "limit",
            Self::IdentityLimit(_) => "limit_identity",
            Self::Draining => "draining",
            Self::Contradiction(_) => "contradiction",
            Self::Shared(refusal) => refusal.code(),
        }
    }

    /// The HTTP status that a tunnel's client sees.
    pub fn status(&self) -> u16 {
        match self {
            Self::Denied(_) | Self::OwnPort(_) | Self::ForeignTarget(_) | Self::NoConfiguration => 403,
            Self::NotConnect => 405,
            Self::HeadTooLarge(_) => 431,
            Self::HeadTimeout(_) => 408,
            Self::Application(..)
            | Self::SourceAddress(_)
            | Self::Limit(_)
            | Self::IdentityLimit(_)
            | Self::Draining => 503,
            Self::Shared(refusal) => refusal.status(),
            _ => 400,
        }
    }

    /// The `Proxy-Status` field (RFC 9209): a standard error token and our code; never a rule's name.
    pub fn proxy_status(&self) -> String {
        let token = match self {
            Self::Application(..) => "connection_refused",
            Self::SourceAddress(_) | Self::Limit(_) | Self::IdentityLimit(_) => "connection_limit_reached",
            Self::Denied(_) | Self::NoConfiguration => "http_request_denied",
            Self::ForeignTarget(_) | Self::OwnPort(_) => "destination_ip_prohibited",
            _ => "http_request_error",
        };
        format!("signet; error={token}; details=\"{}\"", self.code())
    }

    /// Whether another endpoint of the same Service may do better.
    pub fn is_worth_another_endpoint(&self) -> bool {
        match self {
            Self::Connect(..)
            | Self::ConnectTimeout(..)
            | Self::HandshakeTimeout(_)
            | Self::Handshake(_)
            | Self::PeerCertificate(_)
            | Self::RefusedByPeer(_)
            | Self::TunnelBroke(_) => true,
            Self::PeerAnswered { status, .. } => *status == 503,
            Self::Shared(refusal) => refusal.is_worth_another_endpoint(),
            _ => false,
        }
    }
}

/// Why a connection that was being carried ended before both sides were done.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    #[error("reading from the {0}: {1}")]
    Read(&'static str, io::Error),
    #[error("writing to the {0}: {1}")]
    Write(&'static str, io::Error),
    #[error("cut: {0}")]
    Cut(CutReason),
}

impl Broken {
    /// Why it was cut, here or by the peer; `None` when it was not cut.
    pub fn cut(&self) -> Option<CutReason> {
        match self {
            Self::Cut(reason) => Some(*reason),
            Self::Read(_, error) | Self::Write(_, error) => {
                error.get_ref().and_then(|inner| inner.downcast_ref::<CutByPeer>()).map(|cut| cut.0)
            }
        }
    }
}

/// The peer's sidecar cut the connection and said why. The reason is one of ours: nothing of what the peer sent is shown.
#[derive(Debug, thiserror::Error)]
#[error("the peer cut it: {0}")]
pub struct CutByPeer(pub CutReason);
