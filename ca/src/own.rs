//! The CA's own certificate: issued by itself to its reserved identity, its key in memory alone, renewed like everyone's
//! between one half and two thirds of its life. Started by `program`; the listener picks up each new one by itself.
use crate::{
    attest::{Attested, Refusal, Reserved},
    certificate::P256PublicKey,
    clock::Clock,
    issuance::Issuance,
    metrics::Metrics,
    trust::Publisher,
};
use signet_identity::{Credentials, PrivateKey, Svid, profile};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, sleep_until};

/// Keeps the credentials of the CA's listener fresh.
#[derive(Debug)]
pub struct Own {
    /// What the listener serves with.
    pub credentials: Arc<Credentials>,
    /// Which identity is the CA's.
    pub reserved: Reserved,
    /// Who signs.
    pub issuance: Arc<Issuance>,
    /// Which trust state is held.
    pub publisher: Arc<Publisher>,
    /// The time.
    pub clock: Clock,
    /// Where failures are counted.
    pub metrics: Metrics,
}

impl Own {
    /// Issues a new certificate for a new key and puts it in force; returns how long it lives from now.
    pub async fn renew(&self) -> Result<Duration, Refusal> {
        let internal = |error: Box<dyn std::error::Error + Send + Sync>| Refusal::Internal(error);
        let key = PrivateKey::generate().map_err(|error| internal(error.into()))?;
        let public = P256PublicKey::from_spki(&key.public_key_der()).map_err(|error| internal(error.into()))?;
        let facts = Attested { id: self.reserved.ca.clone(), uid: None, attestor: "self", host_key: None, place: None };
        let held = self.publisher.newest().state.sequence;
        let leaf = self.issuance.prepare().await?.sign(facts, &public, held)?;
        let chain = self.issuance.journal(leaf).await?;
        let svid = Svid::new(chain, &key).map_err(|error| internal(error.into()))?;
        let life = svid.not_after().saturating_sub(self.clock.seconds());
        tracing::info!(not_after = svid.not_after(), "renewed the CA's own certificate");
        self.credentials.set_svid(svid);
        Ok(Duration::from_secs(life))
    }

    /// Renews for ever, from a certificate that lives `life` from now. A failure is retried with growing pauses.
    pub async fn keep(&self, mut life: Duration) {
        let mut pause = Duration::from_millis(500);
        loop {
            self.sleep_until_due(profile::renewal_delay(life, rand::random())).await;
            loop {
                match self.renew().await {
                    Ok(next) => {
                        life = next;
                        pause = Duration::from_millis(500);
                        break;
                    }
                    Err(error) => {
                        self.metrics.renewal_failures.inc();
                        tracing::error!(%error, "the CA's own certificate could not be renewed; the present one stays in use");
                        sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_mins(1));
                    }
                }
            }
        }
    }

    /// By the earlier of the wall clock (which may be set forward) and the running time (which no one sets).
    async fn sleep_until_due(&self, delay: Duration) {
        let due = Instant::now() + delay;
        let due_by_wall = self.clock.since_epoch() + delay;
        while Instant::now() < due && self.clock.since_epoch() < due_by_wall {
            sleep_until(due.min(Instant::now() + Duration::from_secs(30))).await;
        }
    }
}
