//! Trust state and issuer records in two ConfigMaps. Every change is a compare-and-swap on the object's resourceVersion, and a
//! replica hears of the others' changes by a watch; the journal, which is no object, is written here too because it is held
//! against the issuer records.
mod issuers;
mod trust;

use super::{Cluster, ClusterError, journal::Journal, lowest::Lowest};
use crate::{
    metrics::Metrics,
    store::{Entry, IssuerRecord, JournalError, StoreError},
};
use issuers::Records;
use k8s_openapi::api::core::v1::ConfigMap;
use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// How far the clocks of two nodes may differ before one replica takes another's record for the future, in seconds.
pub const SKEW: u64 = 60;

/// How long readiness waits for the API server; a kubelet's probe gives up after a second.
const PROBE: Duration = Duration::from_millis(500);

/// The state of one replica. Shared by all who write to it.
#[derive(Debug)]
pub struct ClusterState {
    cluster: Cluster,
    /// Which replica this is, in its issuer records.
    instance: String,
    journal: Journal,
    metrics: Metrics,
    /// The trust state as it was last read or written.
    trust: Mutex<Option<ConfigMap>>,
    /// The issuer records as they were last read or written.
    issuers: Mutex<Records>,
    held: Mutex<Held>,
    /// Whether "lowest held" was lowered since the last housekeeping.
    lowered: AtomicBool,
    /// One writer of issuer records at a time in this process; the others are kept apart by the API server.
    writing: tokio::sync::Mutex<()>,
}

/// What this replica's living leaves hold, by issuing CA.
#[derive(Debug, Default)]
struct Held {
    lowest: HashMap<Vec<u8>, Lowest>,
    /// What housekeeping is writing, or may have written when it failed, or what a renewal without the API server left to it: it
    /// counts as soon as it is on its way.
    written: HashMap<Vec<u8>, Option<u64>>,
}

impl ClusterState {
    /// Reads nothing yet. `instance` names this replica among its like, and its successor after a restart in place.
    pub fn new(cluster: Cluster, instance: String, journal: Journal, metrics: Metrics) -> Self {
        Self {
            cluster,
            instance,
            journal,
            metrics,
            trust: Mutex::default(),
            issuers: Mutex::default(),
            held: Mutex::default(),
            lowered: AtomicBool::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }

    /// Whether the state can be reached, for readiness. An API server that is away does not count: certificates are renewed
    /// without it, and a replica that was never able to reach it does not come as far as this.
    pub async fn check(&self) -> Result<(), StoreError> {
        match tokio::time::timeout(PROBE, self.read_issuers()).await {
            Ok(Err(StoreError::Cluster(error))) if error.is_away() => Ok(()),
            Ok(other) => other,
            Err(_) => Ok(()),
        }
    }

    /// Writes the journal's line for a leaf of ours, if its issuer may sign as far as that. "Lowest held" is written before the
    /// leaf leaves where the leaf lowers it, which is at most twice between two housekeepings, whatever callers claim to hold.
    pub async fn journal(&self, entry: Entry) -> Result<(), JournalError> {
        if !self.note(&entry)? {
            // In a place of its own: it is seldom.
            Box::pin(self.lower(&entry)).await?;
        }
        let written = self.journal.write(&entry).await;
        written.map_err(|error| StoreError::Journal(error.to_string()).into())
    }

    /// Counts a leaf among those that live, if its issuer may sign it; `false` when "lowest held" must be lowered first. Under the
    /// lock of what is held, so that housekeeping either counts the leaf or is seen to be on its way.
    fn note(&self, entry: &Entry) -> Result<bool, JournalError> {
        let mut held = lock(&self.held);
        let record = lock(&self.issuers).get(&entry.issuer).cloned();
        let record = record.filter(|record| !record.fenced && record.signing_until >= entry.not_after);
        let record = record.ok_or(JournalError::Fenced)?;
        held.lowest.entry(entry.issuer.clone()).or_default().note(entry.not_after, entry.trust_held);
        let low_enough = |lowest: Option<u64>| lowest.is_some_and(|lowest| lowest <= entry.trust_held);
        Ok(low_enough(record.lowest_held) && held.written.get(&entry.issuer).is_none_or(|written| low_enough(*written)))
    }

    async fn lower(&self, entry: &Entry) -> Result<(), JournalError> {
        let _turn = self.writing.lock().await;
        // Housekeeping has the turn while it writes: what is left of it failed, and what it wrote is not known.
        let unknown = lock(&self.held).written.contains_key(&entry.issuer);
        if unknown {
            match self.read_issuers().await {
                Ok(()) => drop(lock(&self.held).written.remove(&entry.issuer)),
                Err(error) => return self.later(entry, error),
            }
        }
        let known = lock(&self.issuers).get(&entry.issuer).and_then(|record| record.lowest_held);
        if known.is_some_and(|lowest| lowest <= entry.trust_held) {
            // Somebody else has lowered it while this one waited.
            return Ok(());
        }
        let to = if self.lowered.swap(true, Ordering::AcqRel) { 0 } else { entry.trust_held };
        let set =
            |record: &mut IssuerRecord| record.lowest_held = Some(record.lowest_held.map_or(to, |held| held.min(to)));
        match self.change_issuer(&entry.issuer, entry.issued_at, set).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(JournalError::Fenced),
            Err(error) => self.later(entry, error),
        }
    }

    /// Without the API server nothing can be rotated either, and the next housekeeping writes what is held. Until then this counts
    /// as written: housekeeping that failed must not make every renewal ask an API server that is away.
    fn later(&self, entry: &Entry, error: StoreError) -> Result<(), JournalError> {
        match error {
            StoreError::Cluster(error) if error.is_away() && entry.attestor == crate::attest::renewal::NAME => {
                tracing::warn!(%error, "renewing without the API server; the lowest trust sequence held is recorded later");
                lock(&self.held).written.insert(entry.issuer.clone(), Some(entry.trust_held));
                Ok(())
            }
            error => Err(error.into()),
        }
    }

    /// Housekeeping: "lowest held" of our own records over the leaves that still live, and the end of records that can have no
    /// living leaf and get no new one. Writes only what has changed.
    pub async fn tidy(&self, now: u64) -> Result<(), StoreError> {
        let _turn = self.writing.lock().await;
        let lowest: HashMap<Vec<u8>, Option<u64>> = {
            let mut held = lock(&self.held);
            let lowest: HashMap<_, _> =
                held.lowest.iter_mut().map(|(ski, lowest)| (ski.clone(), lowest.at(now))).collect();
            held.lowest.retain(|_, lowest| lowest.at(now).is_some());
            held.written.extend(lowest.clone());
            lowest
        };
        self.change_issuers(|records| {
            records.retain(|_, record| record.signing_until >= now || (!record.fenced && record.not_after >= now));
            for (ski, lowest) in &lowest {
                if let Some(record) = records.get_mut(ski) {
                    record.lowest_held = *lowest;
                }
            }
        })
        .await?;
        lock(&self.held).written.clear();
        self.lowered.store(false, Ordering::Release);
        Ok(())
    }

    /// Forgets nothing and adopts what others wrote, for ever: trust states go to `publisher`, issuer records into the cache.
    pub async fn follow(&self, publisher: &crate::trust::Publisher) {
        tokio::join!(Box::pin(self.follow_trust(publisher)), Box::pin(self.follow_issuers()));
    }

    /// Counts a write to the API server.
    fn written<T>(&self, began: tokio::time::Instant, outcome: &Result<T, ClusterError>) {
        self.metrics.store_committed(1, began.elapsed(), outcome.is_ok());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether `offered` is not older than `held`: an event of the watch may come after our own newer write. Versions count up
/// (guaranteed for objects of one resource since Kubernetes 1.35, and true before); one that is no number is taken.
fn not_older(held: Option<&ConfigMap>, offered: &ConfigMap) -> bool {
    let version = |object: &ConfigMap| object.metadata.resource_version.as_deref().and_then(|v| v.parse::<u64>().ok());
    match (held.and_then(version), version(offered)) {
        (Some(held), Some(offered)) => offered >= held,
        _ => true,
    }
}

/// An empty ConfigMap of ours.
fn empty(name: &str) -> ConfigMap {
    let labels = [("app.kubernetes.io/part-of", "signet"), ("app.kubernetes.io/managed-by", "signet-ca")];
    let mut object = ConfigMap::default();
    object.metadata.name = Some(name.to_owned());
    object.metadata.labels = Some(labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into());
    object
}
