//! An X.509-SVID: the chain that proves an identity, with its key.
use crate::{PrivateKey, SpiffeId, WorkloadUid};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// A leaf with its issuing chain and private key, parsed and matched once.
#[derive(Debug)]
pub struct Svid {
    certified: Arc<rustls::sign::CertifiedKey>,
    leaf: crate::verify::Leaf,
}

/// Why a chain and a key are no SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SvidError {
    /// placeholder
    #[error("certificate chain is empty")]
    EmptyChain,
}

impl Svid {
    /// Leaf first, without the root. The key must be the leaf's; the leaf must keep the profile. Trust is not checked here.
    pub fn new(_chain: Vec<CertificateDer<'static>>, _key: &PrivateKey) -> Result<Self, SvidError> {
        todo!()
    }
    /// The identity.
    pub fn id(&self) -> &SpiffeId {
        &self.leaf.id
    }
    /// The workload UID, if the leaf carries one.
    pub fn uid(&self) -> Option<&WorkloadUid> {
        self.leaf.uid.as_ref()
    }
    /// Unix seconds.
    pub fn not_before(&self) -> u64 {
        self.leaf.not_before
    }
    /// Unix seconds.
    pub fn not_after(&self) -> u64 {
        self.leaf.not_after
    }
    /// Serial number, big-endian without leading zeros.
    pub fn serial(&self) -> &[u8] {
        &self.leaf.serial
    }
    /// Leaf first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
    /// For rustls resolvers.
    pub fn certified_key(&self) -> Arc<rustls::sign::CertifiedKey> {
        self.certified.clone()
    }
}
