//! What the webhook counts, shown with the operator's other metrics. Every label is a word of ours, never a peer's bytes.
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use signet_enroll::places::Places;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Counters of the injection webhook; all at zero where there is none.
#[derive(Debug, Clone)]
pub struct Metrics {
    reviews: Family<Verdict, Counter>,
    refused: Family<Reason, Counter>,
    in_progress: Gauge,
    seconds: Histogram,
    connections: Gauge,
    places: Arc<OnceLock<Arc<Places>>>,
    /// What of the places' own counts is in `refused` already.
    seen: Arc<[AtomicU64; 2]>,
}

impl Metrics {
    /// Names of their own in this registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            reviews: Family::default(),
            refused: Family::default(),
            in_progress: Gauge::default(),
            // A pod waits for it; the API server gives up after 5 s.
            seconds: Histogram::new([0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0]),
            connections: Gauge::default(),
            places: Arc::default(),
            seen: Arc::default(),
        };
        registry.register("webhook_reviews", "Pods reviewed, by what became of them", metrics.reviews.clone());
        registry.register(
            "webhook_refused",
            "Connections and requests that the webhook did not take, by reason",
            metrics.refused.clone(),
        );
        registry.register("webhook_reviews_in_progress", "Reviews that are under way", metrics.in_progress.clone());
        registry.register("webhook_review_seconds", "From a review's last byte to its answer", metrics.seconds.clone());
        registry.register("webhook_connections", "Connections to the webhook", metrics.connections.clone());
        metrics
    }

    /// Shows these places' counts from now on.
    pub(super) fn watch(&self, places: Arc<Places>) {
        // There is one webhook.
        _ = self.places.set(places);
    }

    /// A review ended: `injected`, `skipped`, `refused`, `ignored`, `unavailable` or `failed`.
    pub(super) fn reviewed(&self, verdict: &'static str) {
        self.reviews.get_or_create(&Verdict { verdict }).inc();
    }

    /// Something was not taken.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a review as under way until it is dropped, and then how long it took.
    pub(super) fn begin(&self) -> InProgress<'_> {
        self.in_progress.inc();
        InProgress { metrics: self, since: Instant::now() }
    }

    /// Brings up to date what others count.
    pub fn catch_up(&self) {
        let Some(places) = self.places.get() else { return };
        self.connections.set(i64::try_from(places.taken()).unwrap_or(i64::MAX));
        for (reason, count, seen) in
            [("evicted", &places.evicted, &self.seen[0]), ("crowded", &places.refused, &self.seen[1])]
        {
            let now = count.load(Ordering::Relaxed);
            let before = seen.fetch_max(now, Ordering::Relaxed);
            self.refused.get_or_create(&Reason { reason }).inc_by(now.saturating_sub(before));
        }
    }
}

/// A review that is under way.
pub(super) struct InProgress<'a> {
    metrics: &'a Metrics,
    since: Instant,
}

impl Drop for InProgress<'_> {
    fn drop(&mut self) {
        self.metrics.in_progress.dec();
        self.metrics.seconds.observe(Instant::now().duration_since(self.since).as_secs_f64());
    }
}
