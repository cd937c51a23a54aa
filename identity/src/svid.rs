//! An X.509-SVID: the chain that proves an identity, with its key.
use crate::profile::MAX_CHAIN;
use crate::rejection::{At, Rejection};
use crate::verify::{authority, leaf};
use crate::{KeyError, PrivateKey, SpiffeId, WorkloadUid};
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
    /// No certificate at all.
    #[error("certificate chain is empty")]
    EmptyChain,
    /// More certificates than a peer would accept.
    #[error("certificate chain has {0} certificates, more than 3")]
    ChainTooLong(usize),
    /// A certificate that does not keep the profile.
    #[error(transparent)]
    Profile(#[from] Rejection),
    /// The key is not the one that the leaf certifies.
    #[error("private key is not the leaf's")]
    OtherKey,
    /// The key cannot sign.
    #[error(transparent)]
    Key(#[from] KeyError),
}

impl Svid {
    /// Leaf first, without the root. The key must be the leaf's; the leaf must keep the profile. Trust is not checked here.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, SvidError> {
        if chain.len() > MAX_CHAIN {
            return Err(SvidError::ChainTooLong(chain.len()));
        }
        let (first, above) = chain.split_first().ok_or(SvidError::EmptyChain)?;
        let (leaf, spki) = leaf::read(first)?;
        for (der, index) in above.iter().zip(1..) {
            authority::read(der, At::Ca(index))?;
        }
        if spki != key.public_key_der() {
            return Err(SvidError::OtherKey);
        }
        let certified = Arc::new(rustls::sign::CertifiedKey::new(chain, key.signing_key()?));
        Ok(Self { certified, leaf })
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
    /// Signs with the leaf's key: ECDSA P-256 with SHA-256, ASN.1 encoded. For proofs that this SVID is held; the message begins
    /// with a label, so that it is no TLS handshake's.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        let scheme = rustls::SignatureScheme::ECDSA_NISTP256_SHA256;
        let signer = self.certified.key.choose_scheme(&[scheme]).ok_or(KeyError::Sign)?;
        signer.sign(message).map_err(|_| KeyError::Sign)
    }
    /// For rustls resolvers.
    pub fn certified_key(&self) -> Arc<rustls::sign::CertifiedKey> {
        self.certified.clone()
    }
}
