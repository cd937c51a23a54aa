//! From attested facts and a public key to a certificate that is in the journal: the one way by which any leaf leaves, the
//! CA's own included.
//!
//! ```text
//!   prepare (clock, issuing CA, "signing until")  ─▶  sign (template, sign, validate; off the async threads)  ─▶  journal
//! ```
use crate::{
    attest::{Attested, Refusal},
    certificate::{self, P256PublicKey, Serial, Template},
    clock::Clock,
    issuing::{Issuing, IssuingCa},
    ledger::Ledger,
    metrics::Metrics,
    store::{Entry, StoreError},
};
use rustls_pki_types::CertificateDer;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// Issues leaves.
#[derive(Debug)]
pub struct Issuance {
    issuing: Arc<Issuing>,
    ledger: Ledger,
    clock: Clock,
    metrics: Metrics,
    lifetime: Duration,
    last: AtomicU64,
}

/// The right to sign one leaf at this moment.
#[derive(Debug)]
pub struct Ticket {
    ca: Arc<IssuingCa>,
    now: u64,
    lifetime: Duration,
}

/// A signed leaf that is not in the journal yet and must not leave.
#[derive(Debug)]
pub struct Unjournaled {
    chain: Vec<CertificateDer<'static>>,
    entry: Entry,
}

impl Issuance {
    /// Reads the latest record, which the clock must not be behind.
    pub fn new(
        issuing: Arc<Issuing>,
        ledger: Ledger,
        clock: Clock,
        metrics: Metrics,
        lifetime: Duration,
    ) -> Result<Self, StoreError> {
        let last = AtomicU64::new(ledger.last_record()?);
        Ok(Self { issuing, ledger, clock, metrics, lifetime, last })
    }

    /// Whether the clock and the issuing CA allow signing now; records how far it signs.
    pub async fn prepare(&self) -> Result<Ticket, Refusal> {
        // The record is read before the clock: a record that is written in between is never taken for the future.
        let last = self.last.load(Ordering::Acquire);
        let now = self.clock.seconds();
        if now < last {
            return Err(Refusal::ClockBehind { now, last });
        }
        self.last.fetch_max(now, Ordering::AcqRel);
        let ca = self.issuing.ready_until(now, now.saturating_add(self.lifetime.as_secs())).await?;
        Ok(Ticket { ca, now, lifetime: self.lifetime })
    }

    /// Writes the journal entry; only then is there a chain to hand out, leaf first, without the root.
    pub async fn journal(&self, leaf: Unjournaled) -> Result<Vec<CertificateDer<'static>>, Refusal> {
        let attestor = leaf.entry.attestor;
        self.ledger.journal(leaf.entry).await?;
        self.metrics.issued(attestor);
        Ok(leaf.chain)
    }
}

impl Ticket {
    /// Signs a leaf for these facts. Takes some hundred microseconds of CPU.
    pub fn sign(self, facts: Attested, key: &P256PublicKey, trust_held: u64) -> Result<Unjournaled, Refusal> {
        let serial = Serial::random().ok_or_else(|| Refusal::Internal("no randomness".into()))?;
        let ends = self.ca.signer().not_after();
        let template = Template::leaf(facts.id, facts.uid, serial, self.now, self.lifetime, ends);
        let leaf = certificate::make(&template, key, self.ca.signer())?;
        let entry = Entry {
            serial: serial.0.to_vec(),
            issuer: self.ca.signer().subject_key_id().to_vec(),
            identity: template.id.to_string(),
            uid: match template.role {
                certificate::Role::Leaf { uid } => uid.map(|uid| uid.to_string()),
                certificate::Role::Root | certificate::Role::Issuing => None,
            },
            attestor: facts.attestor,
            host_key: facts.host_key,
            issued_at: self.now,
            not_before: template.not_before,
            not_after: template.not_after,
            trust_held,
            place: facts.place,
        };
        let chain = std::iter::once(leaf).chain(self.ca.chain().iter().cloned()).collect();
        Ok(Unjournaled { chain, entry })
    }
}
