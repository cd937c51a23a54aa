//! What the operator counts. No label ever takes bytes from a peer: all are words of ours, in the functions below and where
//! they are called.
use crate::state::{Outcome, Published};
use crate::webhook;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use signet_enroll::ListenerMetrics;
use signet_identity::Credentials;
use std::sync::Arc;

/// One word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Edge {
    direction: &'static str,
    reason: &'static str,
}

type Words = Family<Kind, Counter>;

/// Counters and gauges of one operator.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    readings: Words,
    streams: Gauge,
    opened: Words,
    closed: Words,
    sent: Words,
    acknowledged: Words,
    edges: Family<Edge, Counter>,
    revision: Gauge,
    findings: Gauge,
    good: Gauge,
    workloads: Gauge,
    unranged: Gauge,
    svid_not_before: Gauge,
    svid_not_after: Gauge,
    /// The control service's listener's.
    pub control: ListenerMetrics,
    trust_sequence: Gauge,
    /// The injection webhook's.
    pub webhook: webhook::Metrics,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("signet_operator");
        let (readings, opened, closed) = (Words::default(), Words::default(), Words::default());
        let (sent, acknowledged, edges) = (Words::default(), Words::default(), Family::default());
        let gauges = || Gauge::default();
        let (streams, revision, findings, good, workloads, unranged, svid_not_after, trust_sequence) =
            (gauges(), gauges(), gauges(), gauges(), gauges(), gauges(), gauges(), gauges());
        registry.register("readings", "Readings of the directory, by what became of them", readings.clone());
        registry.register("streams", "Control streams that are open", streams.clone());
        registry.register("streams_opened", "Attempts to attach, by how they ended", opened.clone());
        registry.register("streams_closed", "Control streams that ended, by reason", closed.clone());
        registry.register("messages_sent", "Messages to sidecars", sent.clone());
        registry.register("acknowledgements", "What sidecars say of configurations", acknowledged.clone());
        registry.register("edge_connections", "Connections that sidecars report, by verdict", edges.clone());
        registry.register("revision", "The revision in force; 0 for none", revision.clone());
        registry.register("findings", "Problems in the files as they are now", findings.clone());
        registry.register(
            "files_good",
            "1 when the files are what is in force, with nothing wrong in them",
            good.clone(),
        );
        registry.register("workloads", "Workloads in the index", workloads.clone());
        registry.register(
            "workloads_outside_ranges",
            "Meshed workloads with an address that neither mesh_ranges nor the nodes' podCIDRs cover",
            unranged.clone(),
        );
        let svid_not_before = Gauge::default();
        registry.register(
            "svid_not_before_seconds",
            "When the operator's certificate began, in seconds since 1970; 0 without one",
            svid_not_before.clone(),
        );
        registry.register(
            "svid_not_after_seconds",
            "When the operator's certificate ends, in seconds since 1970; 0 without one",
            svid_not_after.clone(),
        );
        let control = ListenerMetrics::default();
        registry.sub_registry_with_prefix("control").register_collector(Box::new(control.clone()));
        registry.register("trust_sequence", "Sequence of the trust state in force", trust_sequence.clone());
        let webhook = webhook::Metrics::register(&mut registry);
        Self {
            registry,
            readings,
            streams,
            opened,
            closed,
            sent,
            acknowledged,
            edges,
            revision,
            findings,
            good,
            workloads,
            unranged,
            svid_not_before,
            svid_not_after,
            control,
            trust_sequence,
            webhook,
        }
    }
}

impl Metrics {
    /// A reading of the directory.
    pub fn reading(&self, outcome: Outcome) {
        let kind = match outcome {
            Outcome::Pending => "pending",
            Outcome::Applied => "applied",
            Outcome::Guarding => "guarding",
            Outcome::Refused => "refused",
        };
        self.readings.get_or_create(&Kind { kind }).inc();
    }
    /// An attempt to attach: `attached`, `waiting` for its document (then one of the others too), or why not.
    pub fn attach(&self, kind: &'static str) {
        self.opened.get_or_create(&Kind { kind }).inc();
    }
    /// A stream that ended, and why.
    pub fn closed(&self, kind: &'static str) {
        self.closed.get_or_create(&Kind { kind }).inc();
    }
    /// How many streams are open.
    pub fn streams(&self, open: usize) {
        self.streams.set(i64::try_from(open).unwrap_or(i64::MAX));
    }
    /// A message to a sidecar: `config` or `destinations`.
    pub fn sent(&self, kind: &'static str) {
        self.sent.get_or_create(&Kind { kind }).inc();
    }
    /// What a sidecar says of a configuration: `applied` or `refused`.
    pub fn acknowledged(&self, kind: &'static str) {
        self.acknowledged.get_or_create(&Kind { kind }).inc();
    }
    /// Connections that a sidecar reports.
    pub fn edge(&self, outbound: bool, reason: &'static str, connections: u64) {
        let direction = if outbound { "outbound" } else { "inbound" };
        self.edges.get_or_create(&Edge { direction, reason }).inc_by(connections);
    }

    /// The text for `/metrics`.
    pub fn text(&self, published: &Published, credentials: &Credentials) -> String {
        let report = published.report.borrow().clone();
        let (workloads, unranged) = published
            .snapshot
            .borrow()
            .as_ref()
            .map_or((0, 0), |snapshot| (snapshot.members().count(), snapshot.unranged()));
        let gauge = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        self.revision.set(i64::try_from(report.revision).unwrap_or(i64::MAX));
        self.findings.set(gauge(report.findings.len()));
        self.good.set(i64::from(report.good));
        self.workloads.set(gauge(workloads));
        self.unranged.set(gauge(unranged));
        let (begin, end) = credentials.svid().map_or((0, 0), |svid| (svid.not_before(), svid.not_after()));
        self.svid_not_before.set(i64::try_from(begin).unwrap_or(i64::MAX));
        self.svid_not_after.set(i64::try_from(end).unwrap_or(i64::MAX));
        self.trust_sequence.set(i64::try_from(credentials.trust().state().sequence).unwrap_or(i64::MAX));
        self.encoded()
    }

    /// The same without what is read from elsewhere.
    pub fn encoded(&self) -> String {
        self.webhook.catch_up();
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(error) => format!("# {error}\n"),
        }
    }

    /// Shared by every task.
    pub fn shared() -> Arc<Self> {
        Arc::new(Self::default())
    }
}
