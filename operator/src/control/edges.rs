//! Who called whom, as the sidecars report it. Bounded whatever they say (F26): a peer that is no workload of the index counts
//! as "other", a reason that is none of ours too, and a workload has so many rows and no more.
//!
//! Each replica has the rows of its own sidecars, and tells the holder of the lease which of them have changed; the holder keeps
//! one such table for each other replica, and shows the sum of all.
use crate::documents::Key;
use crate::index::Snapshot;
use crate::metrics::Metrics;
use signet_policy::Reason;
use signet_proto::control::{Edge, EdgeTotals};
use std::collections::{BTreeMap, BTreeSet};

/// Rows of one workload.
const MAX_ROWS: usize = 1024;
/// Rows in all: about 20 MB.
const MAX_ROWS_IN_ALL: usize = 65_536;
/// Bytes of an identity: what SPIFFE allows.
const MAX_PEER: usize = 2048;
const OTHER: &str = "other";

/// One row.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Row {
    peer: String,
    port: u16,
    outbound: bool,
    reason: &'static str,
    framing: &'static str,
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
    /// When a sidecar last reported one, in seconds since 1970.
    pub last_seen: i64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.connections = self.connections.saturating_add(other.connections);
        self.bytes_received = self.bytes_received.saturating_add(other.bytes_received);
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.last_seen = self.last_seen.max(other.last_seen);
    }
}

/// A row as `/edges` shows it.
#[derive(Debug, Clone, serde::Serialize)]
pub(super) struct Line<'a> {
    workload: String,
    /// Absent: gone since, or not meshed.
    identity: Option<&'a str>,
    #[serde(flatten)]
    row: &'a Row,
    #[serde(flatten)]
    totals: Totals,
}

/// All rows of one operator since it started.
#[derive(Debug, Default)]
pub struct Edges {
    by_workload: BTreeMap<Key, BTreeMap<Row, Totals>>,
    rows: usize,
    /// What has changed since the last [`Edges::changes`].
    changed: BTreeSet<(Key, Row)>,
}

impl Edges {
    /// Adds what one workload reports at `now` (seconds since 1970).
    pub(super) fn add(
        &mut self,
        workload: &Key,
        edges: &[Edge],
        known: impl Fn(&str) -> bool,
        metrics: &Metrics,
        now: i64,
    ) {
        for edge in edges {
            let reason = reason(&edge.reason);
            metrics.edge(edge.outbound, reason, edge.connections);
            let peer = match edge.peer.as_str() {
                "" => "plaintext",
                peer if known(peer) => peer,
                _ => OTHER,
            };
            let totals = totals(edge, now);
            let row = self.entry(workload, row(edge, peer));
            if let Some(sum) = self.by_workload.get_mut(workload).and_then(|rows| rows.get_mut(&row)) {
                sum.add(&totals);
            }
            self.changed.insert((workload.clone(), row));
        }
    }

    /// Takes what another replica says of one row: its totals there, whatever they were.
    pub fn hold(&mut self, said: &EdgeTotals) {
        let Some(edge) = &said.edge else { return };
        let workload = Key { namespace: said.namespace.clone(), name: said.name.clone() };
        // The other has judged whom it knows; what nobody could be named is left out.
        let peer = if edge.peer.len() > MAX_PEER { OTHER } else { &edge.peer };
        let wanted = row(edge, peer);
        let row = self.entry(&workload, wanted.clone());
        let fits = row == wanted;
        if let Some(sum) = self.by_workload.get_mut(&workload).and_then(|rows| rows.get_mut(&row)).filter(|_| fits) {
            *sum = totals(edge, said.last_seen);
        }
    }

    /// Makes sure that there is such a row, or the one that stands for all that have no room: one for each direction.
    fn entry(&mut self, workload: &Key, row: Row) -> Row {
        let rows = self.by_workload.entry(workload.clone()).or_default();
        let room = rows.len() < MAX_ROWS && self.rows < MAX_ROWS_IN_ALL;
        let row = if rows.contains_key(&row) || room {
            row
        } else {
            Row { peer: OTHER.into(), port: 0, reason: OTHER, framing: "", outbound: row.outbound }
        };
        let before = rows.len();
        rows.entry(row.clone()).or_default();
        self.rows += rows.len() - before;
        row
    }

    /// Rows that have changed since the last call, or every row.
    pub fn changes(&mut self, anew: bool) -> Vec<EdgeTotals> {
        let changed = std::mem::take(&mut self.changed);
        if anew {
            return self.each().map(|(key, row, totals)| wire(key, row, totals)).collect();
        }
        let changed = changed.iter().filter_map(|(key, row)| {
            let totals = self.by_workload.get(key)?.get(row)?;
            Some(wire(key, row, totals))
        });
        changed.collect()
    }

    /// Forgets workloads that are gone.
    pub fn retain(&mut self, snapshot: &Snapshot) {
        self.by_workload.retain(|key, _| snapshot.find(key).is_some());
        self.changed.retain(|(key, _)| snapshot.find(key).is_some());
        self.rows = self.by_workload.values().map(BTreeMap::len).sum();
    }

    /// Adds the rows of another replica. Whom this one does not know it has no room for either.
    pub fn merge_into(&self, all: &mut Self) {
        for (key, row, totals) in self.each() {
            let row = all.entry(key, row.clone());
            if let Some(sum) = all.by_workload.get_mut(key).and_then(|rows| rows.get_mut(&row)) {
                sum.add(totals);
            }
        }
    }

    /// A table of its own with the same rows.
    pub(super) fn copy(&self) -> Self {
        Self { by_workload: self.by_workload.clone(), rows: self.rows, changed: BTreeSet::new() }
    }

    fn each(&self) -> impl Iterator<Item = (&Key, &Row, &Totals)> {
        self.by_workload.iter().flat_map(|(key, rows)| rows.iter().map(move |(row, totals)| (key, row, totals)))
    }

    /// Every row; `snapshot` tells what workloads are.
    pub(super) fn lines<'a>(&'a self, snapshot: &'a Snapshot) -> Vec<Line<'a>> {
        let identity = |key: &Key| snapshot.find(key)?.identity.as_ref().map(signet_identity::SpiffeId::as_str);
        let line = |(key, row, totals): (&'a Key, &'a Row, &Totals)| Line {
            workload: key.to_string(),
            identity: identity(key),
            row,
            totals: *totals,
        };
        self.each().map(line).collect()
    }

    /// How many rows there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.rows
    }
}

fn row(edge: &Edge, peer: &str) -> Row {
    Row {
        peer: peer.into(),
        port: u16::try_from(edge.port).unwrap_or(0),
        outbound: edge.outbound,
        reason: reason(&edge.reason),
        framing: FRAMINGS.into_iter().find(|known| *known == edge.framing).unwrap_or_default(),
    }
}

fn totals(edge: &Edge, last_seen: i64) -> Totals {
    Totals {
        connections: edge.connections,
        bytes_received: edge.bytes_received,
        bytes_sent: edge.bytes_sent,
        last_seen,
    }
}

fn wire(key: &Key, row: &Row, totals: &Totals) -> EdgeTotals {
    let edge = Edge {
        peer: row.peer.clone(),
        port: row.port.into(),
        outbound: row.outbound,
        reason: row.reason.into(),
        framing: row.framing.into(),
        connections: totals.connections,
        bytes_received: totals.bytes_received,
        bytes_sent: totals.bytes_sent,
    };
    let (namespace, name) = (key.namespace.clone(), key.name.clone());
    EdgeTotals { namespace, name, edge: Some(edge), last_seen: totals.last_seen }
}

/// What a sidecar says of connections about which no rule was asked.
const CARRIED: [&str; 2] = ["meshed", "not_meshed"];
/// How a tunnel carries connections.
const FRAMINGS: [&str; 2] = ["pooled", "alone"];

/// Why a sidecar carried nothing before a verdict was reached, or after it: `sidecar/src/refusal.rs`.
const FAILED: [&str; 29] = [
    "no_original_destination",
    "own_port",
    "no_configuration",
    "unknown_destination",
    "no_service_port",
    "no_endpoint",
    "egress_denied",
    "no_svid",
    "svid_expired",
    "connect_failed",
    "connect_timeout",
    "handshake_timeout",
    "handshake_failed",
    "refused_by_peer",
    "no_framing",
    "peer_answered",
    "tunnel_broke",
    "not_connect",
    "head_malformed",
    "head_too_large",
    "head_timeout",
    "bad_target",
    "foreign_target",
    "application_unreachable",
    "source_address",
    "limit",
    "limit_identity",
    "draining",
    "contradiction",
];
/// What was wrong with a peer's certificate, of which there are fifty codes, stands in the sidecar's own log.
const CERTIFICATE: &str = "peer_certificate";

/// A reason code of ours, or "other".
pub(super) fn reason(code: &str) -> &'static str {
    let verdicts = Reason::all().iter().map(|reason| reason.code());
    let known = verdicts.chain(CARRIED).chain(FAILED).chain([CERTIFICATE]);
    known
        .into_iter()
        .find(|known| *known == code)
        .unwrap_or_else(|| if code.starts_with("peer_") { CERTIFICATE } else { OTHER })
}
