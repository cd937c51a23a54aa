//! The wire between Signet's programs: `signet.ca.v1` (spoken by `enroll` and `ca`) and `signet.control.v1` (spoken by
//! `sidecar` and `operator`). Generated from the protobuf files beside this crate, but for the codec.
mod codec;

pub use codec::Frugal;

/// `signet.ca.v1`: how a workload is attested, gets certificates and follows the trust state.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]
pub mod ca {
    tonic::include_proto!("signet.ca.v1");
}

/// `signet.control.v1`: how a sidecar learns its rules, its posture and its peers.
#[allow(clippy::all, clippy::pedantic, missing_docs, reason = "generated code")]
pub mod control {
    tonic::include_proto!("signet.control.v1");
}
