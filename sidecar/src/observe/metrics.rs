//! Counters of the sidecar, and their Prometheus text.
//!
//! Every label is a `&'static str`: it can only come from this program's own words, never from a peer's bytes, and the number
//! of series is bounded by the program text (F14, F26).
use crate::live::{Direction, Live};
use crate::record::Facts;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use signet_policy::Decision;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

/// Counted by the data path, read by admin. Counting a connection takes one uncontended lock; nothing is counted per byte.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Ended and refused connections.
    connections: Mutex<BTreeMap<Key, Tally>>,
    shadows: Mutex<BTreeMap<(&'static str, &'static str), u64>>,
    open: [AtomicI64; 2],
    handshakes: AtomicU64,
    handshake_failures: Mutex<BTreeMap<&'static str, u64>>,
    limits: Mutex<BTreeMap<&'static str, u64>>,
    descriptors: AtomicU64,
    accepts: AtomicU64,
}

/// Direction, outcome, reason code.
type Key = (&'static str, Outcome, &'static str);

/// Connections of one key, and what they moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) connections: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// It was carried until it ended.
    Carried,
    /// It was refused.
    Refused,
}

impl Outcome {
    /// For labels.
    pub fn name(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Refused => "refused",
        }
    }
}

/// What is not counted but is so at the moment of asking.
#[derive(Debug, Clone, Default)]
pub struct Present {
    /// Unix seconds; `None` without an SVID.
    pub svid_not_after: Option<u64>,
    /// The trust state in force.
    pub trust_sequence: u64,
    /// The configuration in force; `None` before the first.
    pub configuration_revision: Option<u64>,
    /// Attempts to get a certificate that failed, since the start.
    pub certificate_failures: u64,
    /// Whether the control stream stands.
    pub operator_connected: bool,
    /// Connections that were accepted and are not carried yet.
    pub opening: usize,
    /// Tunnels that are open.
    pub tunnels: usize,
    /// Access-log records that were dropped.
    pub log_dropped: u64,
    /// Whether this sidecar is ready.
    pub ready: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Every operation under these locks is one addition: a panic leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For labels and records.
pub(super) fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}

/// For labels and records.
pub(super) fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "inbound",
        Direction::Outbound => "outbound",
    }
}

impl Metrics {
    fn open(&self, direction: Direction) -> &AtomicI64 {
        let [inbound, outbound] = &self.open;
        match direction {
            Direction::Inbound => inbound,
            Direction::Outbound => outbound,
        }
    }

    /// A connection is being carried from now on.
    pub fn opened(&self, facts: &Facts) {
        self.open(facts.direction).fetch_add(1, Relaxed);
    }

    /// A connection ended or was refused.
    pub fn ended(&self, facts: &Facts) {
        let outcome = if facts.admitted { Outcome::Carried } else { Outcome::Refused };
        if facts.admitted {
            self.open(facts.direction).fetch_sub(1, Relaxed);
        }
        if let Some((decision, reason, _)) = facts.verdict.as_ref().and_then(|verdict| verdict.shadow.as_ref()) {
            *lock(&self.shadows).entry((word(*decision), reason.code())).or_default() += 1;
        }
        let mut connections = lock(&self.connections);
        let tally = connections.entry((name(facts.direction), outcome, facts.reason)).or_default();
        tally.connections += 1;
    }

    /// Counts what a connection has moved since the last time, under the reason by which it was admitted: at its end, and
    /// before that whenever somebody asks for the counters.
    pub fn moved(&self, live: &Live, admitted: &'static str) {
        let (sent, received) = live.uncounted();
        if sent > 0 || received > 0 {
            let mut connections = lock(&self.connections);
            let tally = connections.entry((name(live.direction), Outcome::Carried, admitted)).or_default();
            tally.sent += sent;
            tally.received += received;
        }
    }

    /// The same for everything that is open.
    pub fn catch_up(&self, open: &[Arc<Live>]) {
        for live in open {
            if let Some(admitted) = live.admitted.get() {
                self.moved(live, admitted);
            }
        }
    }

    /// A handshake with a peer succeeded.
    pub fn handshake(&self) {
        self.handshakes.fetch_add(1, Relaxed);
    }

    /// A handshake with a peer failed.
    pub fn handshake_failed(&self, code: &'static str) {
        *lock(&self.handshake_failures).entry(code).or_default() += 1;
    }

    /// A limit refused something.
    pub fn limit(&self, limit: &'static str) {
        *lock(&self.limits).entry(limit).or_default() += 1;
    }

    /// accept(2) failed: out of descriptors, or otherwise (F36).
    pub fn accept_failed(&self, error: &io::Error) {
        let full = rustix::io::Errno::from_io_error(error)
            .is_some_and(|errno| matches!(errno, rustix::io::Errno::MFILE | rustix::io::Errno::NFILE));
        if full { &self.descriptors } else { &self.accepts }.fetch_add(1, Relaxed);
    }

    /// Ended and refused connections by direction, outcome and reason.
    pub(crate) fn tallies(&self) -> BTreeMap<Key, Tally> {
        lock(&self.connections).clone()
    }

    /// What Audit rules and the audit posture would have decided otherwise, by decision and reason.
    pub(crate) fn shadows(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        lock(&self.shadows).clone()
    }

    /// The Prometheus text (OpenMetrics 1.0).
    pub fn encode(self: &Arc<Self>, present: Present) -> String {
        let mut registry = Registry::with_prefix("signet_sidecar");
        registry.register_collector(Box::new(Scrape { metrics: self.clone(), present }));
        let mut text = String::new();
        // Writing to a String cannot fail.
        _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

#[derive(Debug)]
struct Scrape {
    metrics: Arc<Metrics>,
    present: Present,
}

type Labels = Vec<(&'static str, &'static str)>;

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Self { metrics, present } = self;
        let tallies = metrics.tallies();
        let by_outcome = |value: fn(&Tally) -> u64| {
            let series = |((direction, outcome, reason), tally): (&Key, &Tally)| {
                (vec![("direction", *direction), ("outcome", outcome.name()), ("reason", *reason)], value(tally))
            };
            tallies.iter().map(series).collect::<Vec<_>>()
        };
        let help = "Connections that ended or were refused";
        counters(&mut encoder, "connections", help, by_outcome(|t| t.connections))?;
        let help = "Bytes towards destinations, by the reason that admitted the connection";
        counters(&mut encoder, "sent_bytes", help, by_outcome(|t| t.sent))?;
        let help = "Bytes towards callers, by the reason that admitted the connection";
        counters(&mut encoder, "received_bytes", help, by_outcome(|t| t.received))?;
        let open = |direction| (vec![("direction", name(direction))], metrics.open(direction).load(Relaxed));
        let open = vec![open(Direction::Inbound), open(Direction::Outbound)];
        gauges(&mut encoder, "connections_open", "Connections that are being carried", open)?;
        let shadows = metrics.shadows();
        let series = |((decision, reason), count): (&(&'static str, &'static str), &u64)| {
            (vec![("decision", *decision), ("reason", *reason)], *count)
        };
        let help = "Connections that Audit rules or the audit posture would have decided otherwise";
        counters(&mut encoder, "shadow_verdicts", help, shadows.iter().map(series).collect())?;
        let help = "Handshakes with peers that succeeded";
        counters(&mut encoder, "handshakes", help, vec![(vec![], metrics.handshakes.load(Relaxed))])?;
        let help = "Handshakes with peers that failed";
        counters(&mut encoder, "handshake_failures", help, coded("code", &metrics.handshake_failures))?;
        let help = "Connections and requests that a limit refused";
        counters(&mut encoder, "limit_refusals", help, coded("limit", &metrics.limits))?;
        let errors = vec![
            (vec![("kind", "descriptors")], metrics.descriptors.load(Relaxed)),
            (vec![("kind", "other")], metrics.accepts.load(Relaxed)),
        ];
        counters(&mut encoder, "accept_errors", "Failures to accept a connection", errors)?;
        let help = "Access-log records that were dropped because nobody read them fast enough";
        counters(&mut encoder, "access_log_dropped", help, vec![(vec![], present.log_dropped)])?;

        let help = "Attempts to get a certificate that failed; what is held stays in use until its end";
        counters(&mut encoder, "certificate_failures", help, vec![(vec![], present.certificate_failures)])?;

        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut gauge = |name: &str, help: &str, value: i64| gauges(&mut encoder, name, help, vec![(vec![], value)]);
        if let Some(end) = present.svid_not_after {
            gauge("svid_not_after_seconds", "Unix time at which this workload's certificate ends", signed(end))?;
        }
        gauge("trust_sequence", "Sequence of the trust state in force", signed(present.trust_sequence))?;
        let revision = present.configuration_revision.map_or(0, signed);
        gauge("configuration_revision", "Revision of the configuration in force; 0 before the first", revision)?;
        gauge("operator_connected", "Whether the control stream stands", present.operator_connected.into())?;
        gauge("connections_opening", "Connections that are being opened", signed(present.opening as u64))?;
        gauge("tunnels_open", "Tunnels to and from peers that are open", signed(present.tunnels as u64))?;
        gauge("ready", "Whether this sidecar is ready", present.ready.into())
    }
}

fn coded(label: &'static str, counts: &Mutex<BTreeMap<&'static str, u64>>) -> Vec<(Labels, u64)> {
    lock(counts).iter().map(|(code, count)| (vec![(label, *code)], *count)).collect()
}

fn counters(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: Vec<(Labels, u64)>) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, value) in series {
        let metric = ConstCounter::new(value);
        if labels.is_empty() {
            // Alone under its name.
            return metric.encode(family);
        }
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

fn gauges(to: &mut DescriptorEncoder<'_>, name: &str, help: &str, series: Vec<(Labels, i64)>) -> fmt::Result {
    let mut family = to.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (labels, value) in series {
        let metric = ConstGauge::new(value);
        if labels.is_empty() {
            // Alone under its name.
            return metric.encode(family);
        }
        metric.encode(family.encode_family(&labels)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
