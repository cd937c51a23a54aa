//! The CA in a cluster: against a real API server, with exactly the permissions that `kube` documents. Where that server is not
//! built the tests say SKIPPED.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod attestation;
mod outage;
mod replicas;
mod shared_state;
mod world;

#[path = "../support/mod.rs"]
mod support;
