//! The workload UID: names one pod or one host key, so that a reused address or a neighbour with the same service account
//! is not taken for the workload that was meant. Travels in a private extension of the leaf (`profile::UID_EXTENSION`).
use std::{fmt, str::FromStr, sync::Arc};

/// 1 to 64 bytes of `[A-Za-z0-9._-]`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WorkloadUid(Arc<str>);

/// Why a string is not a workload UID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("workload uid {0:?} is not 1 to 64 characters of A-Z a-z 0-9 . _ -")]
pub struct UidError(pub String);

impl WorkloadUid {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for WorkloadUid {
    type Err = UidError;
    fn from_str(s: &str) -> Result<Self, UidError> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if (1..=64).contains(&s.len()) && s.bytes().all(plain) {
            Ok(Self(s.into()))
        } else {
            Err(UidError(s.chars().take(80).collect()))
        }
    }
}
impl fmt::Display for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for WorkloadUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
