//! SPIFFE IDs and trust domains in the strict grammar (SPIFFE-ID section 2): lower case only, nothing is ever normalised.
use std::{fmt, str::FromStr, sync::Arc};

/// A trust domain, 1 to 255 bytes of `[a-z0-9.-_]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

/// `spiffe://<trust domain>/<path>`; at most 2048 bytes. The path may be empty only for signing authorities.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    path_at: u16,
}

/// Which rule of the grammar a string breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// placeholder variant: one variant per broken rule
    #[error("spiffe id is empty")]
    Empty,
}

impl TrustDomain {
    /// The text, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The SPIFFE ID of the trust domain itself, `spiffe://<trust domain>`: what signing authorities carry.
    pub fn id(&self) -> SpiffeId {
        todo!()
    }
}

impl SpiffeId {
    /// `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub fn workload(_td: &TrustDomain, _namespace: &str, _service_account: &str) -> Result<Self, IdError> {
        todo!()
    }
    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        todo!()
    }
    /// The path with its leading slash, or "".
    pub fn path(&self) -> &str {
        &self.text[self.path_at as usize..]
    }
    /// Namespace and service account, when the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn namespace_and_service_account(&self) -> Option<(&str, &str)> {
        todo!()
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;
    fn from_str(_s: &str) -> Result<Self, IdError> {
        todo!()
    }
}
impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(_s: &str) -> Result<Self, IdError> {
        todo!()
    }
}
impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}
