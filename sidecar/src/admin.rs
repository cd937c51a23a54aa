//! What the sidecar shows of itself over HTTP/1.1: read only, and nothing that a peer could have written there.
//!
//! ```text
//! admin   127.0.0.1:15020, [::1]:15020    /config /certificates /connections /verdicts /metrics
//! health  every address, 15021            /healthz /readyz /metrics /app-probe/KEY/CONTAINER/KIND (see `replay`)
//! ```
//!
//! There is no verb that changes anything (F13): every method but GET is refused with 405. Runs on the control thread, with
//! few connections and short times, so that nobody can tie it up. Built by the composition root, which gives a [`Source`].

mod pages;
mod ready;
mod server;

pub use pages::Source;
pub use ready::{Readiness, Step};
pub use server::{open, serve};

/// Which of the two servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// Loopback only.
    Admin,
    /// For kubelet and Prometheus, without mutual TLS.
    Health,
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) status: http::StatusCode,
    pub(crate) kind: &'static str,
    pub(crate) body: String,
}

#[cfg(test)]
mod tests;
