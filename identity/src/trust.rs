//! Trust state: which roots are trusted for which trust domain, and what is denied. One object, applied whole, with a
//! sequence that never goes back (design section 3).
use crate::{SpiffeId, TrustDomain};
use rustls_pki_types::CertificateDer;
use std::collections::{BTreeMap, BTreeSet};

/// A trust domain's roots. Empty means: nothing of this trust domain is trusted (SPIFFE V6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    /// Root certificates, DER, in the order given.
    pub roots: Vec<CertificateDer<'static>>,
}

/// What is refused although its chain is good.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DenyList {
    /// Subject key identifiers of issuing CAs and roots.
    pub issuers: BTreeSet<Vec<u8>>,
    /// Serial numbers of leaves, big-endian without leading zeros.
    pub serials: BTreeSet<Vec<u8>>,
    /// Identities.
    pub identities: BTreeSet<SpiffeId>,
}

/// The whole trust state as the CA publishes it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TrustState {
    /// 0 for the bootstrap bundle that only authenticates first contact; afterwards at least unix seconds.
    pub sequence: u64,
    /// By trust domain, never pooled.
    pub bundles: BTreeMap<TrustDomain, Bundle>,
    /// Denials.
    pub deny: DenyList,
}

/// A trust state made ready for verification: anchors parsed once.
#[derive(Debug)]
pub struct Trust {
    state: TrustState,
    anchors: BTreeMap<TrustDomain, Vec<rustls_pki_types::TrustAnchor<'static>>>,
}

/// What became of an offered trust state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adoption {
    /// It was newer and is in force now.
    Adopted,
    /// It equals the one in force.
    Unchanged,
}

/// Why a trust state or bundle was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// Older than the one held.
    #[error("trust state {offered} is older than {held}, which is held")]
    Older {
        /// Its sequence.
        offered: u64,
        /// The one held.
        held: u64,
    },
    /// The same sequence with other content: an alarm.
    #[error("trust state {0} was offered with other content than the one held under the same sequence")]
    Conflict(u64),
}

impl Bundle {
    /// One or more `CERTIFICATE` blocks; each must be a CA certificate that keeps the profile of a root.
    pub fn from_pem(_pem: &str) -> Result<Self, TrustError> {
        todo!()
    }
    /// PEM.
    pub fn to_pem(&self) -> String {
        todo!()
    }
    /// SPIFFE trust bundle (JWKS); rules B1 to B9 of the checklist. Returns bundle, sequence and refresh hint.
    pub fn from_spiffe_json(_json: &str) -> Result<(Self, Option<u64>, Option<u64>), TrustError> {
        todo!()
    }
    /// SPIFFE trust bundle (JWKS).
    pub fn to_spiffe_json(&self, _sequence: u64, _refresh_hint: u64) -> String {
        todo!()
    }
}

impl Trust {
    /// Parses every root; one that cannot be an anchor refuses the whole.
    pub fn new(_state: TrustState) -> Result<Self, TrustError> {
        todo!()
    }
    /// The state as published.
    pub fn state(&self) -> &TrustState {
        &self.state
    }
    /// The anchors of one trust domain.
    pub fn anchors(&self, td: &TrustDomain) -> Option<&[rustls_pki_types::TrustAnchor<'static>]> {
        self.anchors.get(td).map(Vec::as_slice)
    }
}
