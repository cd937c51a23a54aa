//! Who called whom, as the sidecars report it. Bounded whatever they say (F26): a peer that is no workload of the index counts
//! as "other", a reason that is none of ours too, and a workload has so many rows and no more.
use crate::documents::Key;
use crate::index::Snapshot;
use crate::metrics::Metrics;
use signet_policy::Reason;
use signet_proto::control::Edge;
use std::collections::BTreeMap;

/// Rows of one workload.
const MAX_ROWS: usize = 1024;
/// Rows in all: about 20 MB.
const MAX_ROWS_IN_ALL: usize = 65_536;
const OTHER: &str = "other";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
struct Row {
    peer: String,
    port: u16,
    outbound: bool,
    reason: &'static str,
}

/// What a row counts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Totals {
    /// Connections that ended or were refused.
    pub connections: u64,
    /// Bytes from the peer.
    pub bytes_received: u64,
    /// Bytes to the peer.
    pub bytes_sent: u64,
}

/// A row as `/status` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Line<'a> {
    workload: String,
    #[serde(flatten)]
    row: &'a Row,
    #[serde(flatten)]
    totals: Totals,
}

/// All rows since the operator started.
#[derive(Debug, Default)]
pub(super) struct Edges {
    by_workload: BTreeMap<Key, BTreeMap<Row, Totals>>,
    rows: usize,
}

impl Edges {
    /// Adds what one workload reports.
    pub(super) fn add(&mut self, workload: &Key, edges: &[Edge], known: impl Fn(&str) -> bool, metrics: &Metrics) {
        for edge in edges {
            let reason = reason(&edge.reason);
            metrics.edge(edge.outbound, reason, edge.connections);
            let peer = match edge.peer.as_str() {
                "" => "plaintext",
                peer if known(peer) => peer,
                _ => OTHER,
            };
            let port = u16::try_from(edge.port).unwrap_or(0);
            let row = Row { peer: peer.into(), port, outbound: edge.outbound, reason };
            let rows = self.by_workload.entry(workload.clone()).or_default();
            let room = rows.len() < MAX_ROWS && self.rows < MAX_ROWS_IN_ALL;
            let row = if rows.contains_key(&row) || room {
                row
            } else {
                // Full: everything else goes into one row for each direction.
                Row { peer: OTHER.into(), port: 0, outbound: edge.outbound, reason: OTHER }
            };
            let before = rows.len();
            let totals = rows.entry(row).or_default();
            totals.connections = totals.connections.saturating_add(edge.connections);
            totals.bytes_received = totals.bytes_received.saturating_add(edge.bytes_received);
            totals.bytes_sent = totals.bytes_sent.saturating_add(edge.bytes_sent);
            self.rows += rows.len() - before;
        }
    }

    /// Forgets workloads that are gone.
    pub(super) fn retain(&mut self, snapshot: &Snapshot) {
        self.by_workload.retain(|key, _| snapshot.find(key).is_some());
        self.rows = self.by_workload.values().map(BTreeMap::len).sum();
    }

    /// Every row.
    pub(super) fn lines(&self) -> Vec<Line<'_>> {
        let rows = self.by_workload.iter().flat_map(|(key, rows)| rows.iter().map(move |(row, t)| (key, row, *t)));
        rows.map(|(key, row, totals)| Line { workload: key.to_string(), row, totals }).collect()
    }

    /// How many rows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows
    }
}

/// What a sidecar says of connections about which no rule was asked.
const CARRIED: [&str; 2] = ["meshed", "not_meshed"];

/// A reason code of ours, or "other".
fn reason(code: &str) -> &'static str {
    let verdicts = Reason::all().iter().map(|reason| reason.code());
    verdicts.chain(CARRIED).find(|known| *known == code).unwrap_or(OTHER)
}
