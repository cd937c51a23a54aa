//! How a refusal looks on the wire and in the log.
use crate::{
    attest::{
        Refusal,
        kubernetes::{PUBLISHED_SOON, PodRefusal},
    },
    store::RedeemError,
};
use std::{error::Error, net::IpAddr};
use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key that says, in milliseconds, when asking again can succeed.
const RETRY_AFTER: &str = "retry-after-ms";

pub(super) fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Field { .. } | Refusal::Request(_) => Code::InvalidArgument,
        Refusal::Unsupported(_) => Code::Unimplemented,
        Refusal::Nonce
        | Refusal::Proof
        | Refusal::HostKey
        | Refusal::Redeem(RedeemError::Unknown)
        | Refusal::Pod(PodRefusal::Token | PodRefusal::NotBound) => Code::Unauthenticated,
        Refusal::Busy(_) => Code::ResourceExhausted,
        Refusal::ClockBehind { .. }
        | Refusal::Issuing(_)
        | Refusal::Store(_)
        | Refusal::Cluster(_)
        | Refusal::Slow(_)
        | Refusal::Pod(PodRefusal::NotPublished) => Code::Unavailable,
        Refusal::Redeem(_) | Refusal::Pod(_) => Code::PermissionDenied,
        Refusal::Internal(_) => Code::Internal,
    };
    let mut status = Status::new(code, refusal.to_string());
    let retry_after = match refusal {
        Refusal::Busy(busy) => Some(busy.retry_after),
        Refusal::Pod(PodRefusal::NotPublished) => Some(PUBLISHED_SOON),
        _ => None,
    };
    if let Some(retry_after) = retry_after {
        // Rounded up, so that a caller which obeys is not early.
        let millis = u64::try_from(retry_after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(millis));
    }
    status
}

pub(super) fn log(rpc: &'static str, address: IpAddr, refusal: &Refusal) {
    let reason = refusal.reason();
    match refusal {
        Refusal::Busy(_) | Refusal::Pod(PodRefusal::NotPublished) => tracing::debug!(rpc, %address, reason, "refused"),
        Refusal::Store(_)
        | Refusal::Slow(_)
        | Refusal::Internal(_)
        | Refusal::Issuing(_)
        | Refusal::Cluster(_)
        | Refusal::ClockBehind { .. } => {
            let cause = refusal.source().map(ToString::to_string).unwrap_or_default();
            tracing::error!(rpc, %address, reason, error = %refusal, cause, "refused");
        }
        _ => tracing::info!(rpc, %address, reason, error = %refusal, "refused"),
    }
}
