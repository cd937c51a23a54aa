//! What the data path says about connections: into the metrics, the access log and the edge counters that go to the operator.
//! Called from the data path threads; never blocks them.
use crate::live::{Direction, Live};
use crate::observe::{AccessLog, Metrics};
use crate::record::Facts;
use crate::tls::Framing;
use signet_proto::control::Edge;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Edges between two reports at most (F26: a peer cannot make it grow); what is above is counted under no name.
const EDGES: usize = 4096;

#[derive(Debug, PartialEq, Eq, Hash)]
struct EdgeKey {
    peer: String,
    port: u16,
    outbound: bool,
    reason: &'static str,
    framing: &'static str,
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
        let framing = facts.framing.map_or("", Framing::name);
        let key = EdgeKey { peer: peer.clone(), port, outbound, reason: facts.reason, framing };
        let edge = counters.entry(key).or_insert_with(|| Edge {
            peer,
            port: port.into(),
            outbound,
            reason: facts.reason.into(),
            framing: framing.into(),
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
    /// For Prometheus and admin.
    pub metrics: Arc<Metrics>,
    /// `None`: switched off.
    pub access_log: Option<AccessLog>,
}

impl Reporter {
    /// A connection is being carried.
    pub fn opened(&self, facts: &Facts) {
        self.metrics.opened(facts);
    }

    /// Counts what a connection has moved since the last time.
    pub fn moved(&self, live: &Live, admitted: &'static str) {
        self.metrics.moved(live, admitted);
    }

    /// A connection has ended, or was refused.
    pub fn ended(&self, facts: &Facts) {
        self.edges.count(facts);
        self.metrics.ended(facts);
        if let Some(log) = &self.access_log {
            log.write(SystemTime::now(), facts);
        }
    }

    /// A peer's handshake succeeded.
    pub fn handshake(&self) {
        self.metrics.handshake();
    }

    /// A peer's handshake failed, for the reason of this code.
    pub fn handshake_failed(&self, code: &'static str) {
        self.metrics.handshake_failed(code);
    }

    /// accept(2) failed.
    pub fn accept_failed(&self, error: &io::Error) {
        self.metrics.accept_failed(error);
    }

    /// A limit refused something.
    pub fn limit(&self, what: &'static str) {
        self.metrics.limit(what);
    }
}
