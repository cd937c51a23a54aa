//! Replays probes and lifecycle hooks to the application.
//!
//! The kubelet's calls would come from an address that anybody on the node has, so injection turns them to the health port,
//! and the sidecar makes exactly the declared call itself, from the addresses that `capture` adds, as it does for admitted
//! callers:
//!
//! ```text
//! kubelet ── GET :15021/app-probe/KEY/CONTAINER/KIND ──▶ admin::server ──▶ Replay ── HTTP, HTTPS, TCP or gRPC ──▶ application
//! ```
//!
//! KEY is in the pod's spec and known to nobody else but who may read pods: a stranger who reaches the port can make the sidecar
//! call nothing, neither hooks nor probes. A hook is replayed once at a time, and each time is a line of the access log.
//!
//! Nothing that the caller sends reaches the application, and nothing of the application's answer but its verdict the caller.
//! Built by `run` from `SIGNET_PROBES`, `SIGNET_PROBE_KEY` and `SIGNET_POD_IPS`.

mod declared;
mod grpc;
mod http;

pub use declared::Declared;
pub(crate) use declared::Kind;

use crate::path::socket::Sources;
use crate::refusal::Refusal;
use ::http::StatusCode;
use declared::{Action, Probe};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpStream;

/// The head of every path that is replayed.
pub(crate) const PREFIX: &str = "/app-probe/";

/// Makes declared calls.
#[derive(Debug, Clone)]
pub struct Replay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    declared: Declared,
    sources: Sources,
}

/// What the caller is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The verdict, without the application's words.
    Status(StatusCode),
    /// The connection ends without an answer: for hooks any answer would be a success.
    Nothing,
}

impl Replay {
    /// Replays what was declared, from these addresses.
    pub fn new(declared: Declared, sources: Sources) -> Self {
        Self(Arc::new(Inner { declared, sources }))
    }

    /// What is declared under `KEY/CONTAINER/KIND`.
    pub(crate) fn find(&self, name: &str) -> Option<Kind> {
        self.0.declared.find(name).map(|probe| probe.kind)
    }

    /// Makes the call that is declared under `KEY/CONTAINER/KIND`; 404 when there is none. `reached` is the address of this pod
    /// that the caller called.
    pub(crate) async fn run(&self, name: &str, reached: IpAddr) -> Answer {
        let Inner { declared, sources } = &*self.0;
        let Some(probe) = declared.find(name) else { return Answer::Status(StatusCode::NOT_FOUND) };
        let ip = declared.own_address(reached);
        let called = async {
            let _alone = if probe.kind == Kind::Hook { Some(probe.replaying.lock().await) } else { None };
            call(probe, ip, sources, declared).await
        };
        let outcome = tokio::time::timeout(probe.timeout, called).await;
        let outcome = outcome.unwrap_or(Err(Failed::Late(probe.timeout)));
        if let Err(error) = &outcome {
            tracing::debug!(probe = shown(name), %error, "a probe failed");
        }
        match (probe.kind, outcome) {
            // The kubelet looks at no status of a hook.
            (Kind::Hook, Ok(_)) => Answer::Status(StatusCode::OK),
            (Kind::Hook, Err(_)) => Answer::Nothing,
            // What the kubelet takes for success, and never a redirect of ours.
            (Kind::Probe, Ok(status)) if (200..400).contains(&status.as_u16()) => Answer::Status(StatusCode::OK),
            (Kind::Probe, Ok(status)) if status.as_u16() >= 400 => Answer::Status(status),
            (Kind::Probe, Err(Failed::Late(_))) => Answer::Status(StatusCode::GATEWAY_TIMEOUT),
            (Kind::Probe, _) => Answer::Status(StatusCode::BAD_GATEWAY),
        }
    }
}

/// A name as it may be shown: without the key.
pub(crate) fn shown(name: &str) -> &str {
    name.split_once('/').map_or("", |(_, name)| name)
}

/// Why the application gave no verdict.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("no answer within {0:?}")]
    Late(std::time::Duration),
    #[error(transparent)]
    Dial(#[from] Refusal),
    #[error("TLS: {0}")]
    Tls(std::io::Error),
    #[error("HTTP: {0}")]
    Http(#[from] hyper::Error),
    #[error("the declared request is none: {0}")]
    Request(#[from] ::http::Error),
    #[error("gRPC: {0}")]
    Grpc(String),
    #[error("more than {0} redirects")]
    Redirects(usize),
    #[error("redirected to {0}, a port of the sidecar")]
    OwnPort(u16),
}

async fn call(probe: &Probe, ip: IpAddr, sources: &Sources, declared: &Declared) -> Result<StatusCode, Failed> {
    let dial = Dial { ip, sources, probe };
    match &probe.action {
        Action::Tcp(port) => dial.port(*port).await.map(|_| StatusCode::OK),
        Action::Http(get) => http::get(get, &dial, declared).await,
        Action::Grpc(port, service) => grpc::check(dial.port(*port).await?, service).await,
    }
}

/// Connects to the application, at the pod's own address.
struct Dial<'a> {
    ip: IpAddr,
    sources: &'a Sources,
    probe: &'a Probe,
}

impl Dial<'_> {
    async fn port(&self, port: u16) -> Result<TcpStream, Failed> {
        Ok(self.sources.dial(SocketAddr::new(self.ip, port), self.probe.timeout).await?)
    }
}

#[cfg(test)]
mod tests;
