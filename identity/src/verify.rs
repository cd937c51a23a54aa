//! The peer verifier: webpki path, then everything webpki does not check. Called by `tls` inside every handshake, and by the
//! sidecar again when trust changes. Peer bytes go in; a `Peer` or one `Rejection` that names the field comes out.
use crate::{SpiffeId, Trust, WorkloadUid};
use rustls_pki_types::{CertificateDer, UnixTime};

/// What Signet reads from a leaf.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    /// The only URI SAN.
    pub id: SpiffeId,
    /// From the private extension.
    pub uid: Option<WorkloadUid>,
    /// Unix seconds.
    pub not_before: u64,
    /// Unix seconds.
    pub not_after: u64,
    /// Big-endian, without leading zeros.
    pub serial: Vec<u8>,
    /// Authority key identifier.
    pub authority_key: Vec<u8>,
}

/// A peer whose chain was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Its leaf.
    pub leaf: Leaf,
    /// Subject key identifiers of the CAs above the leaf, nearest first, root last.
    pub issuers: Vec<Vec<u8>>,
}

/// Which end presented the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// We are the client; the chain is the server's.
    Server,
    /// We are the server; the chain is the client's.
    Client,
}

/// Why a chain was refused: one variant per broken rule, with the value that broke it (escaped and bounded).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// placeholder
    #[error("no certificate was presented")]
    NoCertificate,
}

impl Rejection {
    /// A stable, lower-case reason code for logs, metrics and `Proxy-Status`: `peer_cert_expired`, `peer_cert_two_uri_sans`, ...
    pub fn code(&self) -> &'static str {
        todo!()
    }
}

/// Parses a leaf and checks it against the profile; says nothing about trust.
pub fn parse_leaf(_der: &CertificateDer<'_>) -> Result<Leaf, Rejection> {
    todo!()
}

/// The whole check: bundle by the leaf's trust domain, path, usages, validity (the root's too), profile, deny list.
pub fn verify_chain(
    _chain: &[CertificateDer<'_>],
    _trust: &Trust,
    _now: UnixTime,
    _side: Side,
) -> Result<Peer, Rejection> {
    todo!()
}

/// The check that a live tunnel's peer would pass today: the same anchors and deny list, expiry left out (design section 3).
/// `peer_chain` is what the peer presented in its handshake.
pub fn still_trusted(_peer_chain: &[CertificateDer<'_>], _peer: &Peer, _trust: &Trust) -> Result<(), Rejection> {
    todo!()
}
