//! What the CA counts. Every label comes from a fixed list; none ever takes bytes from a peer (F26).
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use signet_enroll::{Counters, ListenerMetrics};
use std::{sync::Arc, time::Duration};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Issued {
    attestor: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Refused {
    rpc: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Committed {
    result: &'static str,
}

/// The counters, shared by every part of the CA.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    listener: ListenerMetrics,
    issued: Family<Issued, Counter>,
    refused: Family<Refused, Counter>,
    commits: Family<Committed, Counter>,
    commit_seconds: Histogram,
    group: Histogram,
    /// Unix seconds at which the present issuing CA ends.
    pub issuing_not_after: Gauge,
    /// Unix seconds at which the root ends.
    pub root_not_after: Gauge,
    /// The published trust state.
    pub trust_sequence: Gauge,
    /// Trust streams open.
    pub watches: Gauge,
    /// Trust streams refused because their address had too many.
    pub watches_crowded: Counter,
    /// Failures to replace the issuing CA or the CA's own certificate.
    pub renewal_failures: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("signet_ca");
        let listener = ListenerMetrics::default();
        registry.register_collector(Box::new(listener.clone()));
        let issued = Family::default();
        let refused = Family::default();
        let commits = Family::default();
        let commit_seconds = Histogram::new([0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0]);
        let group = Histogram::new([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0]);
        let issuing_not_after = Gauge::default();
        let root_not_after = Gauge::default();
        let trust_sequence = Gauge::default();
        let watches = Gauge::default();
        let watches_crowded = Counter::default();
        let renewal_failures = Counter::default();
        registry.register("certificates_issued", "Certificates handed out", issued.clone());
        registry.register("requests_refused", "Requests refused, by call and reason", refused.clone());
        registry.register("store_commits", "Transactions of the store", commits.clone());
        registry.register("store_commit_seconds", "Time of one transaction", commit_seconds.clone());
        registry.register("store_commit_changes", "Changes in one transaction", group.clone());
        registry.register("issuing_not_after_seconds", "End of the present issuing CA", issuing_not_after.clone());
        registry.register("root_not_after_seconds", "End of the root", root_not_after.clone());
        registry.register("trust_sequence", "Sequence of the published trust state", trust_sequence.clone());
        registry.register("trust_watches", "Trust streams open", watches.clone());
        registry.register(
            "trust_watches_crowded",
            "Trust streams refused because their address had too many",
            watches_crowded.clone(),
        );
        registry.register(
            "renewal_failures",
            "Failures to replace the CA's own certificates",
            renewal_failures.clone(),
        );
        Self {
            registry: Arc::new(registry),
            listener,
            issued,
            refused,
            commits,
            commit_seconds,
            group,
            issuing_not_after,
            root_not_after,
            trust_sequence,
            watches,
            watches_crowded,
            renewal_failures,
        }
    }
}

impl Metrics {
    /// Shows the listener's own counters from now on.
    pub fn watch_listener(&self, counters: Arc<Counters>) {
        self.listener.watch(counters);
    }

    /// One certificate was handed out.
    pub fn issued(&self, attestor: &'static str) {
        self.issued.get_or_create(&Issued { attestor }).inc();
    }

    /// One request was refused.
    pub fn refused(&self, rpc: &'static str, reason: &'static str) {
        self.refused.get_or_create(&Refused { rpc, reason }).inc();
    }

    /// One transaction of the store ended.
    pub fn store_committed(&self, changes: usize, took: Duration, well: bool) {
        self.commits.get_or_create(&Committed { result: if well { "committed" } else { "failed" } }).inc();
        self.commit_seconds.observe(took.as_secs_f64());
        self.group.observe(changes as f64);
    }

    /// The text of `/metrics` (OpenMetrics).
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}
