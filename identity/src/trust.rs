//! Trust state: which roots are trusted for which trust domain, and what is denied. One object, applied whole, with a
//! sequence that never goes back (design section 3).
use crate::profile::MAX_ROOTS;
use crate::rejection::{At, Rejection};
use crate::verify::authority::{self, Authority};
use crate::verify::vetted::Vetted;
use crate::{IdError, SpiffeId, TrustDomain};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use std::collections::{BTreeMap, BTreeSet};

mod json;

/// The most text that is read as a bundle, in bytes.
pub const MAX_BUNDLE_TEXT: usize = 1 << 20;
/// The most trust domains of one trust state.
pub const MAX_TRUST_DOMAINS: usize = 1024;

/// A trust domain's roots. Empty means: nothing of this trust domain is trusted (SPIFFE V6).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
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
    roots: BTreeMap<TrustDomain, Roots>,
}

/// One trust domain's anchors, and beside each what webpki's anchor leaves out.
#[derive(Debug)]
pub(crate) struct Roots {
    pub(crate) anchors: Vec<TrustAnchor<'static>>,
    facts: Vec<Root>,
    /// Issuing CAs that were verified against these roots.
    pub(crate) vetted: Vetted,
}

/// What the verifier asks of a root beyond its name and key.
#[derive(Debug, Clone)]
pub(crate) struct Root {
    pub(crate) subject_key: Vec<u8>,
    /// Unix seconds.
    pub(crate) not_before: u64,
    /// Unix seconds.
    pub(crate) not_after: u64,
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
    /// A certificate that cannot be a root.
    #[error("certificate {number} of the bundle cannot be a root: {problem}")]
    Root {
        /// Counted from 1.
        number: usize,
        /// What is wrong with it.
        problem: Rejection,
    },
    /// A root with the SPIFFE ID of another trust domain than the bundle's.
    #[error("certificate {number} of the bundle for trust domain {trust_domain} is the root of {found}")]
    OtherTrustDomain {
        /// Counted from 1.
        number: usize,
        /// The bundle's.
        trust_domain: TrustDomain,
        /// The root's.
        found: SpiffeId,
    },
    /// More than [`MAX_ROOTS`].
    #[error("bundle has {0} roots, more than 32")]
    TooManyRoots(usize),
    /// More than [`MAX_TRUST_DOMAINS`].
    #[error("trust state has {0} trust domains, more than 1024")]
    TooManyTrustDomains(usize),
    /// More than [`MAX_BUNDLE_TEXT`].
    #[error("bundle has {0} bytes of text, more than 1 MiB")]
    TooLong(usize),
    /// No `CERTIFICATE` block.
    #[error("bundle has no PEM block \"CERTIFICATE\"")]
    NoPemBlock,
    /// A PEM block that is broken.
    #[error("bundle is not PEM: {0}")]
    Pem(String),
    /// Not JSON, or the same key twice in one object (B9).
    #[error("bundle is not JSON: {0}")]
    Json(String),
    /// JSON of another shape than a SPIFFE bundle.
    #[error("bundle: {field} is not {want}")]
    Shape {
        /// Where.
        field: String,
        /// What would be right.
        want: &'static str,
    },
    /// A key of the bundle map that is no trust domain.
    #[error("bundle map: {0:?} is not a trust domain: {1}")]
    TrustDomain(String, IdError),
}

impl Bundle {
    /// One or more `CERTIFICATE` blocks; each must be a CA certificate that keeps the profile of a root.
    pub fn from_pem(pem: &str) -> Result<Self, TrustError> {
        if pem.len() > MAX_BUNDLE_TEXT {
            return Err(TrustError::TooLong(pem.len()));
        }
        let mut roots = Vec::new();
        for block in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let root = block.map_err(|error| TrustError::Pem(format!("{error:?}").chars().take(100).collect()))?;
            roots.push(root.into_owned());
        }
        if roots.is_empty() {
            return Err(TrustError::NoPemBlock);
        }
        let bundle = Self { roots };
        bundle.authorities()?;
        Ok(bundle)
    }
    /// PEM.
    pub fn to_pem(&self) -> String {
        let mut pem = String::new();
        for root in &self.roots {
            pem.push_str("-----BEGIN CERTIFICATE-----\n");
            for line in STANDARD.encode(root).as_bytes().chunks(64) {
                pem.extend(line.iter().copied().map(char::from));
                pem.push('\n');
            }
            pem.push_str("-----END CERTIFICATE-----\n");
        }
        pem
    }
    /// SPIFFE trust bundle (JWKS); rules B1 to B9 of the checklist. Returns bundle, sequence and refresh hint (in seconds).
    pub fn from_spiffe_json(json: &str) -> Result<(Self, Option<u64>, Option<u64>), TrustError> {
        json::read_bundle(json)
    }
    /// SPIFFE bundle map (B9): bundle and sequence of each trust domain.
    pub fn map_from_spiffe_json(json: &str) -> Result<BTreeMap<TrustDomain, (Self, Option<u64>)>, TrustError> {
        json::read_map(json)
    }
    /// SPIFFE trust bundle (JWKS); `refresh_hint` in seconds. A root that keeps no profile is left out, as a reader would.
    pub fn to_spiffe_json(&self, sequence: u64, refresh_hint: u64) -> String {
        json::write_bundle(self, sequence, refresh_hint)
    }

    /// Every root, parsed and checked against the profile.
    fn authorities(&self) -> Result<Vec<Authority<'_>>, TrustError> {
        if self.roots.len() > MAX_ROOTS {
            return Err(TrustError::TooManyRoots(self.roots.len()));
        }
        let read =
            |(der, number)| authority::read(der, At::Root).map_err(|problem| TrustError::Root { number, problem });
        self.roots.iter().map(AsRef::as_ref).zip(1..).map(read).collect()
    }
}

impl Trust {
    /// Parses every root; one that cannot be an anchor refuses the whole.
    pub fn new(state: TrustState) -> Result<Self, TrustError> {
        if state.bundles.len() > MAX_TRUST_DOMAINS {
            return Err(TrustError::TooManyTrustDomains(state.bundles.len()));
        }
        let roots = state.bundles.iter().map(|(td, bundle)| Ok((td.clone(), Roots::new(td, bundle)?)));
        Ok(Self { roots: roots.collect::<Result<_, TrustError>>()?, state })
    }
    /// The state as published.
    pub fn state(&self) -> &TrustState {
        &self.state
    }
    /// The anchors of one trust domain.
    pub fn anchors(&self, td: &TrustDomain) -> Option<&[TrustAnchor<'static>]> {
        self.roots(td.as_str()).map(|roots| roots.anchors.as_slice())
    }
    /// The roots of one trust domain, by its text.
    pub(crate) fn roots(&self, trust_domain: &str) -> Option<&Roots> {
        self.roots.get(trust_domain)
    }
    /// Whether `offered` may take this one's place.
    pub(crate) fn compare(&self, offered: &TrustState) -> Result<Adoption, TrustError> {
        let held = self.state.sequence;
        match offered.sequence.cmp(&held) {
            std::cmp::Ordering::Less => Err(TrustError::Older { offered: offered.sequence, held }),
            std::cmp::Ordering::Greater => Ok(Adoption::Adopted),
            std::cmp::Ordering::Equal if *offered == self.state => Ok(Adoption::Unchanged),
            std::cmp::Ordering::Equal => Err(TrustError::Conflict(held)),
        }
    }
}

impl Roots {
    fn new(trust_domain: &TrustDomain, bundle: &Bundle) -> Result<Self, TrustError> {
        let mut roots = Self { anchors: Vec::new(), facts: Vec::new(), vetted: Vetted::default() };
        for ((authority, der), number) in bundle.authorities()?.into_iter().zip(&bundle.roots).zip(1..) {
            if let Some(found) = authority.id.filter(|id| id.trust_domain_str() != trust_domain.as_str()) {
                return Err(TrustError::OtherTrustDomain { number, trust_domain: trust_domain.clone(), found });
            }
            let anchor = webpki::anchor_from_trusted_cert(der).map_err(|error| TrustError::Root {
                number,
                problem: Rejection::Path(format!("{error:?}").chars().take(100).collect()),
            })?;
            roots.anchors.push(anchor.to_owned());
            roots.facts.push(Root {
                subject_key: authority.subject_key.to_vec(),
                not_before: authority.not_before,
                not_after: authority.not_after,
            });
        }
        Ok(roots)
    }
    /// Whether one of them has this subject key identifier.
    pub(crate) fn has_key(&self, subject_key: &[u8]) -> bool {
        self.facts.iter().any(|root| root.subject_key == subject_key)
    }
    /// What is known of an anchor of this list.
    pub(crate) fn of(&self, anchor: &TrustAnchor<'_>) -> Option<&Root> {
        let same = |(mine, _): &(&TrustAnchor<'_>, &Root)| *mine == anchor;
        self.anchors.iter().zip(&self.facts).find(same).map(|(_, facts)| facts)
    }
}

#[cfg(test)]
mod tests;
