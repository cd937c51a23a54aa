//! SPIFFE IDs and trust domains in the strict grammar (SPIFFE-ID section 2): lower case only, nothing is ever normalised.
//!
//! Two identities are the same exactly when their bytes are the same (finding F3), so a string that would need
//! normalising to be compared is refused where it enters (finding F23). The verifier, the CA and the rules all parse here.
use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

/// What every SPIFFE ID begins with.
const SCHEME: &str = "spiffe://";
/// The longest SPIFFE ID, scheme included (SPIFFE-ID section 2.3).
pub const MAX_ID: usize = 2048;
/// The longest trust domain (SPIFFE-ID section 2.3).
pub const MAX_TRUST_DOMAIN: usize = 255;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IdError {
    /// Nothing at all.
    #[error("spiffe id is empty")]
    Empty,
    /// Not `spiffe://`, in lower case.
    #[error("spiffe id does not begin with \"spiffe://\" in lower case")]
    Scheme,
    /// More than [`MAX_ID`] bytes.
    #[error("spiffe id has {0} bytes, more than 2048")]
    TooLong(usize),
    /// `spiffe:///path`.
    #[error("trust domain is empty")]
    TrustDomainEmpty,
    /// More than [`MAX_TRUST_DOMAIN`] bytes.
    #[error("trust domain has {0} bytes, more than 255")]
    TrustDomainTooLong(usize),
    /// Upper case, percent-encoding, user, port, brackets, non-ASCII, NUL, ...
    #[error("trust domain has the byte {}, and may have only a-z 0-9 . - _", byte(*.0))]
    TrustDomainByte(u8),
    /// `spiffe://td/`, or a path that ends with a slash.
    #[error("path ends with a slash")]
    TrailingSlash,
    /// `//`.
    #[error("path has an empty segment")]
    EmptySegment,
    /// `.` or `..`.
    #[error("path has a segment \".\" or \"..\"")]
    DotSegment,
    /// Percent-encoding, query, fragment, non-ASCII, NUL, ...
    #[error("path has the byte {}, and may have only a-z A-Z 0-9 . - _ between its slashes", byte(*.0))]
    PathByte(u8),
}

/// One byte as a reader of an error message can see it.
fn byte(b: u8) -> String {
    format!("'{}'", std::ascii::escape_default(b))
}

impl TrustDomain {
    /// The text, without scheme.
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The SPIFFE ID of the trust domain itself, `spiffe://<trust domain>`: what signing authorities carry.
    pub fn id(&self) -> SpiffeId {
        let text: Arc<str> = format!("{SCHEME}{}", self.0).into();
        let path_at = text.len() as u16; // at most 9 + 255
        SpiffeId { text, path_at }
    }
}

impl SpiffeId {
    /// `spiffe://<td>/ns/<namespace>/sa/<service account>`.
    pub fn workload(td: &TrustDomain, namespace: &str, service_account: &str) -> Result<Self, IdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        format!("{SCHEME}{td}/ns/{namespace}/sa/{service_account}").parse()
    }
    /// The whole URI.
    pub fn as_str(&self) -> &str {
        &self.text
    }
    /// The trust domain.
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(self.trust_domain_str().into())
    }
    /// The trust domain's text, without an allocation.
    pub fn trust_domain_str(&self) -> &str {
        self.text.get(SCHEME.len()..usize::from(self.path_at)).unwrap_or_default()
    }
    /// The path with its leading slash, or "".
    pub fn path(&self) -> &str {
        self.text.get(usize::from(self.path_at)..).unwrap_or_default()
    }
    /// Namespace and service account, when the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn namespace_and_service_account(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let service_account = rest.strip_prefix("sa/")?;
        (!service_account.contains('/')).then_some((namespace, service_account))
    }
}

fn check_trust_domain(s: &str) -> Result<(), IdError> {
    if s.is_empty() {
        return Err(IdError::TrustDomainEmpty);
    }
    if s.len() > MAX_TRUST_DOMAIN {
        return Err(IdError::TrustDomainTooLong(s.len()));
    }
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    s.bytes().find(|&b| !allowed(b)).map_or(Ok(()), |b| Err(IdError::TrustDomainByte(b)))
}

fn check_segment(s: &str) -> Result<(), IdError> {
    match s {
        "" => return Err(IdError::EmptySegment),
        "." | ".." => return Err(IdError::DotSegment),
        _ => {}
    }
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    s.bytes().find(|&b| !allowed(b)).map_or(Ok(()), |b| Err(IdError::PathByte(b)))
}

impl FromStr for TrustDomain {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        check_trust_domain(s)?;
        Ok(Self(s.into()))
    }
}
impl FromStr for SpiffeId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s.is_empty() {
            return Err(IdError::Empty);
        }
        if s.len() > MAX_ID {
            return Err(IdError::TooLong(s.len()));
        }
        let rest = s.strip_prefix(SCHEME).ok_or(IdError::Scheme)?;
        let (trust_domain, path) = rest.split_once('/').map_or((rest, None), |(td, path)| (td, Some(path)));
        check_trust_domain(trust_domain)?;
        if let Some(path) = path {
            if path.is_empty() || path.ends_with('/') {
                return Err(IdError::TrailingSlash);
            }
            path.split('/').try_for_each(check_segment)?;
        }
        let path_at = (SCHEME.len() + trust_domain.len()) as u16; // at most 9 + 255
        Ok(Self { text: s.into(), path_at })
    }
}
/// Lets a map by trust domain be asked with the text that a SPIFFE ID holds.
impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
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

#[cfg(test)]
mod tests;
