//! The issuing CA of this process: its key lives in memory alone, it is replaced at two thirds of its life while the old one
//! goes on signing, and it records how far it signs before it does (design sections 3 and 6).
use crate::{
    certificate::{P256PublicKey, SignError, Signer, authority_key_id},
    clock::Clock,
    ledger::{Blocks, Ledger},
    metrics::Metrics,
    root::{Upstream, UpstreamError},
    store::{IssuerRecord, StoreError},
};
use arc_swap::ArcSwapOption;
use rustls_pki_types::CertificateDer;
use signet_identity::{KeyError, PrivateKey};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// The longest sleep of [`Issuing::keep`], in seconds.
const LOOK: u64 = 30;

/// One issuing CA.
#[derive(Debug)]
pub struct IssuingCa {
    signer: Signer,
    chain: Vec<CertificateDer<'static>>,
    made_at: u64,
    signing_until: AtomicU64,
    /// The end of the latest leaf that was asked for.
    furthest: AtomicU64,
}

impl IssuingCa {
    /// What signs.
    pub fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Issuing CA first, without the root: what follows the leaf.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// When its successor is made, unix seconds: at two thirds of its life.
    pub fn replace_at(&self) -> u64 {
        let life = self.signer.not_after().saturating_sub(self.made_at);
        self.made_at.saturating_add(life - life / 3)
    }
}

/// Why there is no issuing CA that may sign.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IssuingError {
    /// None was made yet, or the last one ended before its successor could be made.
    #[error("there is no issuing CA in force")]
    None,
    /// The clock went back.
    #[error("the clock reads {now}, and the last record is of {last} (unix seconds)")]
    ClockBehind {
        /// The clock.
        now: u64,
        /// The record.
        last: u64,
    },
    /// Another process took over.
    #[error("this issuing CA was fenced and may sign no more")]
    Fenced,
    /// The upstream.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The upstream's answer is not for our key, or unreadable.
    #[error("the upstream's certificate cannot be used: {0}")]
    Chain(#[from] SignError),
    /// Making a key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The present issuing CA and the way to the next.
#[derive(Debug)]
pub struct Issuing {
    upstream: Box<dyn Upstream>,
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
    present: ArcSwapOption<IssuingCa>,
}

impl Issuing {
    /// Starts without one; `replace` makes the first.
    pub fn new(upstream: Box<dyn Upstream>, ledger: impl Into<Ledger>, clock: Clock, metrics: Metrics) -> Self {
        Self { upstream, ledger: ledger.into(), clock, metrics, present: ArcSwapOption::empty() }
    }

    /// Makes a new issuing CA with a new key, records it, and puts it in force. On failure the old one stays.
    pub async fn replace(&self) -> Result<Arc<IssuingCa>, IssuingError> {
        let last = self.ledger.last_record()?;
        let now = self.clock.seconds();
        if now < last {
            return Err(IssuingError::ClockBehind { now, last });
        }
        let key = PrivateKey::generate()?;
        let public = P256PublicKey::from_spki(&key.public_key_der())?;
        let signed = self.upstream.sign_issuing(&public, now).await?;
        let (Some(first), Some(last)) = (signed.chain.first(), signed.chain.last()) else {
            return Err(SignError::Issuer("the chain is empty".into()).into());
        };
        let signer = Signer::new(first.clone(), &key)?;
        let record = IssuerRecord {
            ski: signer.subject_key_id().to_vec(),
            root: authority_key_id(last)?,
            not_after: signer.not_after(),
            signing_until: now,
            lowest_held: None,
            fenced: false,
        };
        self.ledger.add_issuer(record, now).await?;
        let (signing_until, furthest) = (AtomicU64::new(now), AtomicU64::new(now));
        let ca = Arc::new(IssuingCa { signer, chain: signed.chain, made_at: now, signing_until, furthest });
        self.metrics.issuing_not_after.set(i64::try_from(ca.signer.not_after()).unwrap_or(i64::MAX));
        tracing::info!(not_after = ca.signer.not_after(), replace_at = ca.replace_at(), "made an issuing CA");
        self.present.store(Some(ca.clone()));
        Ok(ca)
    }

    /// The issuing CA in force at `now`.
    pub fn present(&self, now: u64) -> Result<Arc<IssuingCa>, IssuingError> {
        self.present.load_full().filter(|ca| now < ca.signer.not_after()).ok_or(IssuingError::None)
    }

    /// The issuing CA in force, after the store knows that it signs leaves that end at `end` or earlier.
    pub async fn ready_until(&self, now: u64, end: u64) -> Result<Arc<IssuingCa>, IssuingError> {
        let ca = self.present(now)?;
        let end = end.min(ca.signer.not_after());
        ca.furthest.fetch_max(end, Ordering::AcqRel);
        if ca.signing_until.load(Ordering::Acquire) < end {
            self.extend(&ca, end, now).await?;
        }
        Ok(ca)
    }

    async fn extend(&self, ca: &IssuingCa, end: u64, now: u64) -> Result<(), IssuingError> {
        let Blocks { block, reserve } = self.ledger.blocks();
        let until = end.saturating_add(reserve).saturating_add(block).min(ca.signer.not_after());
        if !self.ledger.extend_issuer(ca.signer.subject_key_id(), until, now).await? {
            return Err(IssuingError::Fenced);
        }
        ca.signing_until.fetch_max(until, Ordering::AcqRel);
        Ok(())
    }

    /// Keeps "signing until" as far ahead as the ledger wants it, before a signature has to wait for it.
    pub async fn look_ahead(&self, now: u64) -> Result<(), IssuingError> {
        let Ok(ca) = self.present(now) else { return Ok(()) };
        let furthest = ca.furthest.load(Ordering::Acquire);
        let wanted = furthest.saturating_add(self.ledger.blocks().reserve).min(ca.signer.not_after());
        if ca.signing_until.load(Ordering::Acquire) < wanted { self.extend(&ca, furthest, now).await } else { Ok(()) }
    }

    /// Replaces the issuing CA at two thirds of its life, for ever. A failure is retried with growing pauses while the old one
    /// stays in force.
    pub async fn keep(&self) {
        let mut pause = Duration::from_millis(500);
        loop {
            let now = self.clock.seconds();
            // Short sleeps, so that a wall clock that was set is noticed.
            let present = self.present.load_full();
            // One that was fenced will never sign again, however long it would live.
            let fenced = present.as_ref().is_some_and(|ca| self.ledger.is_fenced(ca.signer.subject_key_id()));
            let wait = present.map_or(0, |ca| ca.replace_at().saturating_sub(now)).min(LOOK);
            if wait > 0 && !fenced {
                if let Err(error) = self.look_ahead(now).await {
                    tracing::warn!(%error, "how far this CA signs could not be recorded ahead; trying again");
                }
                tokio::time::sleep(Duration::from_secs(wait)).await;
                continue;
            }
            match self.replace().await {
                Ok(_) => pause = Duration::from_millis(500),
                Err(error) => {
                    self.metrics.renewal_failures.inc();
                    tracing::error!(%error, "the issuing CA could not be replaced; the present one stays in force");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_mins(1));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
