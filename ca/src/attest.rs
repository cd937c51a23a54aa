//! Attestation: what a caller shows becomes an identity and a UID, or a refusal. The identity comes from here alone, never
//! from the request.
//!
//! - `join_token` exchanges a one-time token for the registration of a host key;
//! - `host_key` attests every issuance after that, by a signature over the CA's fresh nonce;
//! - `nonces` makes those nonces, without memory for the ones that were not used;
//! - `kubernetes` takes a pod's projected token to the cluster that it came from, and `renewal` stands in while the cluster
//!   cannot answer, by `receipt`s of what it said before.
//!
//! Called by `service`, which has checked sizes and rates before.
pub mod host_key;
pub mod join_token;
pub mod kubernetes;
pub mod nonces;
pub mod receipt;
pub mod renewal;

use crate::{
    certificate::{CertificateError, RequestError},
    issuing::IssuingError,
    kube::ClusterError,
    limits::{BenchError, Busy},
    store::{JournalError, Place, RedeemError, StoreError},
};
use signet_identity::{SpiffeId, TrustDomain, WorkloadUid};
use std::time::Duration;

/// Who the caller is, and how we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// The identity to give.
    pub id: SpiffeId,
    /// The workload UID to give; absent for the CA's own certificate alone.
    pub uid: Option<WorkloadUid>,
    /// Name of the attestor, for the journal and the metrics.
    pub attestor: &'static str,
    /// The host key that vouched.
    pub host_key: Option<String>,
    /// The pod that it is.
    pub place: Option<Place>,
}

/// Why a request is refused. The text goes to the caller: it helps an honest one and tells a dishonest one nothing about
/// others.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// A field is missing, too long or too short.
    #[error("{field} is {found}; {want}")]
    Field {
        /// Which.
        field: &'static str,
        /// What was found, without its content.
        found: String,
        /// What would be right.
        want: &'static str,
    },
    /// An attestation that this CA does not take.
    #[error("{0}")]
    Unsupported(&'static str),
    /// The nonce is not one of ours, too old, or used before.
    #[error("the nonce is unknown, older than a minute, or used; ask for a new one")]
    Nonce,
    /// A signature does not verify.
    #[error("the proof does not verify with the host key")]
    Proof,
    /// No such host key, or revoked, or replaced by a later join.
    #[error("the host key is not registered (revoked, replaced, or never joined); join again with a new token")]
    HostKey,
    /// The join token or what it is bound to.
    #[error(transparent)]
    Redeem(RedeemError),
    /// A pod, its token or its address.
    #[error(transparent)]
    Pod(#[from] kubernetes::PodRefusal),
    /// The cluster cannot say who this is: denied (F2), unless a valid certificate is renewed.
    #[error("the cluster's API server cannot be asked who this pod is, and no valid certificate is renewed")]
    Cluster(#[source] ClusterError),
    /// The certificate request.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// Too many requests.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The clock went back.
    #[error(
        "the CA's clock reads {now}, and its last record is of {last} (unix seconds); nothing is signed until it catches up"
    )]
    ClockBehind {
        /// The clock.
        now: u64,
        /// The record.
        last: u64,
    },
    /// No issuing CA may sign.
    #[error(transparent)]
    Issuing(#[from] IssuingError),
    /// The state cannot be read or written: denied (F2).
    #[error("the CA's state is not available")]
    Store(#[source] StoreError),
    /// The disk, most likely: nothing was handed out, and the same request may be made again.
    #[error(
        "the CA could not answer within {0:?}: its disk or its processors are too slow; nothing was handed out, ask again"
    )]
    Slow(Duration),
    /// A defect of ours: the certificate that was made is not the one that was meant, or the work was broken off.
    #[error("internal error; see the CA's log")]
    Internal(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<RedeemError> for Refusal {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Store(error) => Self::Store(error),
            other => Self::Redeem(other),
        }
    }
}

impl From<JournalError> for Refusal {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::HostKeyGone => Self::HostKey,
            JournalError::Fenced => Self::Issuing(IssuingError::Fenced),
            JournalError::Store(error) => Self::Store(error),
        }
    }
}

impl From<BenchError> for Refusal {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Busy(busy) => Self::Busy(busy),
            BenchError::Broken => Self::Internal(error.into()),
        }
    }
}

impl From<CertificateError> for Refusal {
    fn from(error: CertificateError) -> Self {
        Self::Internal(error.into())
    }
}

impl Refusal {
    /// A stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Field { .. } => "malformed",
            Self::Unsupported(_) => "unsupported",
            Self::Nonce => "nonce",
            Self::Proof => "proof",
            Self::HostKey => "host_key",
            Self::Redeem(RedeemError::Unknown) => "join_token",
            Self::Redeem(RedeemError::UidTaken) => "uid_taken",
            Self::Redeem(_) => "host_key_taken",
            Self::Pod(refusal) => match refusal {
                kubernetes::PodRefusal::Token => "pod_token",
                kubernetes::PodRefusal::NotBound => "pod_not_bound",
                kubernetes::PodRefusal::Gone => "pod_gone",
                kubernetes::PodRefusal::Other(_) => "pod_other",
                kubernetes::PodRefusal::Ended => "pod_ended",
                kubernetes::PodRefusal::Terminating => "pod_terminating",
                kubernetes::PodRefusal::Address(_) => "pod_address",
                kubernetes::PodRefusal::NotPublished => "pod_address_not_published",
                kubernetes::PodRefusal::Renewal(_) => "renewal",
            },
            Self::Cluster(_) => "api_server",
            Self::Request(_) => "certificate_request",
            Self::Busy(_) => "busy",
            Self::ClockBehind { .. } => "clock_behind",
            Self::Issuing(_) => "no_issuing_ca",
            Self::Store(_) => "store",
            Self::Slow(_) => "slow",
            Self::Internal(_) => "internal",
        }
    }
}

/// Checks a field's length.
fn length(
    field: &'static str,
    found: usize,
    bounds: std::ops::RangeInclusive<usize>,
    want: &'static str,
) -> Result<(), Refusal> {
    if bounds.contains(&found) {
        return Ok(());
    }
    let found = if found == 0 { "missing".into() } else { format!("{found} bytes long") };
    Err(Refusal::Field { field, found, want })
}

/// The identities of the control plane, which workloads pin before they send a token or accept configuration.
#[derive(Debug, Clone)]
pub struct Reserved {
    /// The CA's own.
    pub ca: SpiffeId,
    /// The operator's.
    pub operator: SpiffeId,
}

impl Reserved {
    /// Of this trust domain and control namespace.
    pub fn new(td: &TrustDomain, control_namespace: &str) -> Result<Self, signet_identity::IdError> {
        Ok(Self {
            ca: SpiffeId::workload(td, control_namespace, "signet-ca")?,
            operator: SpiffeId::workload(td, control_namespace, "signet-operator")?,
        })
    }

    /// Whether it takes `--control` to give this identity.
    pub fn holds(&self, id: &SpiffeId) -> bool {
        *id == self.ca || *id == self.operator
    }
}

#[cfg(test)]
mod tests;
