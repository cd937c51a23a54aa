//! What the data path says about connections: into the metrics, the access log and the edge counters that go to the operator.
//! Called from the data path threads; never blocks them.
use crate::live::Direction;
use crate::record::Facts;
use signet_policy::Decision;
use signet_proto::control::Edge;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Edges between two reports at most (F26: a peer cannot make it grow); what is above is counted under no name.
const EDGES: usize = 4096;

#[derive(Debug, PartialEq, Eq, Hash)]
struct EdgeKey {
    peer: String,
    port: u16,
    outbound: bool,
    reason: &'static str,
}

/// Who called whom since the last report. Identities here are proved ones.
#[derive(Debug, Clone, Default)]
pub struct Edges {
    counters: Arc<Mutex<HashMap<EdgeKey, Edge>>>,
}

impl Edges {
    /// Everything since the last call.
    pub fn take(&self) -> Vec<Edge> {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *counters).into_values().collect()
    }

    fn count(&self, facts: &Facts) {
        let mut counters = self.counters.lock().unwrap_or_else(PoisonError::into_inner);
        let full = counters.len() >= EDGES;
        let peer = if full {
            String::new()
        } else {
            facts.peer.as_ref().map_or_else(String::new, |id| id.as_str().to_owned())
        };
        let port = if full { 0 } else { facts.destination.map_or(0, |d| d.port()) };
        let outbound = facts.direction == Direction::Outbound;
        let key = EdgeKey { peer: peer.clone(), port, outbound, reason: facts.reason };
        let edge = counters.entry(key).or_insert_with(|| Edge {
            peer,
            port: port.into(),
            outbound,
            reason: facts.reason.into(),
            ..Edge::default()
        });
        edge.connections += 1;
        edge.bytes_sent += facts.sent;
        edge.bytes_received += facts.received;
    }
}

/// Takes what the data path reports.
#[derive(Debug, Clone, Default)]
pub struct Reporter {
    /// For the control stream.
    pub edges: Edges,
}

impl Reporter {
    /// A connection is being carried.
    pub fn opened(&self, _facts: &Facts) {}

    /// A connection has ended, or was refused.
    pub fn ended(&self, facts: &Facts) {
        self.edges.count(facts);
        tracing::info!(
            target: "access",
            direction = ?facts.direction, source = %facts.source, destination = ?facts.destination, endpoint = ?facts.endpoint,
            own = ?facts.own, peer = ?facts.peer, admitted = facts.admitted, reason = facts.reason, text = facts.text,
            rule = ?facts.verdict.as_ref().and_then(|v| v.rule.as_ref()),
            decision = ?facts.verdict.as_ref().map(|v| v.decision == Decision::Allow),
            sent = facts.sent, received = facts.received, duration = ?facts.duration, group = facts.group, framing = ?facts.framing,
        );
    }

    /// A peer's handshake succeeded.
    pub fn handshake(&self) {}

    /// accept(2) failed.
    pub fn accept_failed(&self, _error: &io::Error) {}

    /// A limit refused something.
    pub fn limit(&self, _what: &'static str) {}
}
