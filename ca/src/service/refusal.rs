//! How a refusal looks on the wire and in the log.
use crate::{attest::Refusal, store::RedeemError};
use std::{error::Error, net::IpAddr};
use tonic::{Code, Status, metadata::MetadataValue};

/// The metadata key that says, in milliseconds, when asking again can succeed.
const RETRY_AFTER: &str = "retry-after-ms";

pub(super) fn status(refusal: &Refusal) -> Status {
    let code = match refusal {
        Refusal::Field { .. } | Refusal::Request(_) => Code::InvalidArgument,
        Refusal::Unsupported(_) => Code::Unimplemented,
        Refusal::Nonce | Refusal::Proof | Refusal::HostKey | Refusal::Redeem(RedeemError::Unknown) => {
            Code::Unauthenticated
        }
        Refusal::Redeem(_) => Code::PermissionDenied,
        Refusal::Busy(_) => Code::ResourceExhausted,
        Refusal::ClockBehind { .. } | Refusal::Issuing(_) | Refusal::Store(_) | Refusal::Slow(_) => Code::Unavailable,
        Refusal::Internal(_) => Code::Internal,
    };
    let mut status = Status::new(code, refusal.to_string());
    if let Refusal::Busy(busy) = refusal {
        // Rounded up, so that a caller which obeys is not early.
        let millis = u64::try_from(busy.retry_after.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        status.metadata_mut().insert(RETRY_AFTER, MetadataValue::from(millis));
    }
    status
}

pub(super) fn log(rpc: &'static str, address: IpAddr, refusal: &Refusal) {
    let reason = refusal.reason();
    match refusal {
        Refusal::Busy(_) => tracing::debug!(rpc, %address, reason, "refused"),
        Refusal::Store(_)
        | Refusal::Slow(_)
        | Refusal::Internal(_)
        | Refusal::Issuing(_)
        | Refusal::ClockBehind { .. } => {
            let cause = refusal.source().map(ToString::to_string).unwrap_or_default();
            tracing::error!(rpc, %address, reason, error = %refusal, cause, "refused");
        }
        _ => tracing::info!(rpc, %address, reason, error = %refusal, "refused"),
    }
}
