//! What replicas tell each other: every one sends what its own sidecars have in force to the holder of the lease, who writes
//! status. After a change of holder nothing is known of the others, until each of them has reported. With it go the rows of who
//! called whom that have changed, so that one replica can show all of them.
use super::lease::Known;
use super::status::{Acknowledged, View};
use crate::control::{Edges, Hub};
use crate::documents::Key;
use crate::index::Snapshot;
use prost::Message as _;
use signet_enroll::channel;
use signet_identity::{Credentials, SpiffeId};
use signet_proto::control::control_client::ControlClient;
use signet_proto::control::{EdgeTotals, Held, Matched, ReplicaReport};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How often a replica reports.
const EVERY: Duration = Duration::from_secs(1);
/// A report is known no longer than this: a replica that is gone says nothing more.
const KEPT: Duration = Duration::from_secs(10);
/// How long a report may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Lines in one message: some 110 bytes each, so that it fits what the control service takes from anybody.
const LINES: usize = 1000;
/// Bytes of edges in one message: half of what the control service takes, since each may be as long as an identity.
const EDGE_BYTES: usize = 128 * 1024;
/// Lines of one replica: more than it has places for streams, and rules.
const MAX_LINES: usize = 2_000_000;
/// More replicas than anybody has.
const MAX_REPLICAS: usize = 64;

/// What the other replicas have said.
#[derive(Debug, Default)]
pub struct Reports {
    by_replica: Mutex<BTreeMap<String, Said>>,
}

#[derive(Debug)]
struct Said {
    /// When the last report was complete, and what it said.
    whole: Option<(Instant, Acknowledged)>,
    /// What has come of the next, and its number.
    part: (u64, Acknowledged),
    heard: Instant,
    /// Who called whom there; absent until it has said every row once.
    edges: Option<Edges>,
}

impl Said {
    fn fresh(&self, now: Instant) -> Option<&Acknowledged> {
        self.whole.as_ref().filter(|(at, _)| *at + KEPT > now).map(|(_, said)| said)
    }
}

impl Reports {
    /// A new term: what was said before was said to another.
    pub fn begin(&self) {
        self.held().clear();
    }

    /// Takes one message of a replica's report; whether there was room.
    pub fn take(&self, report: &ReplicaReport, now: Instant) -> bool {
        let mut held = self.held();
        held.retain(|_, said| said.heard + KEPT > now);
        if held.len() >= MAX_REPLICAS && !held.contains_key(&report.replica) {
            return false;
        }
        let (number, last) = (report.number, report.last);
        let empty = || Said { whole: None, part: (number, Acknowledged::default()), heard: now, edges: None };
        let said = held.entry(report.replica.clone()).or_insert_with(empty);
        said.heard = now;
        if report.edges_anew {
            said.edges = Some(Edges::default());
        }
        if let Some(edges) = &mut said.edges {
            report.edges.iter().for_each(|edge| edges.hold(edge));
        }
        if said.part.0 != number {
            said.part = (number, Acknowledged::default());
        }
        let part = &mut said.part.1;
        if part.digests.len() + part.matched.len() + report.held.len() + report.matched.len() > MAX_LINES {
            return false;
        }
        part.merge(&read(report));
        if last {
            said.whole = Some((now, std::mem::take(part)));
        }
        true
    }

    /// Whether every replica that serves has reported to `holder`, who need not tell itself.
    pub fn complete(&self, view: &View, holder: &str, now: Instant) -> bool {
        let held = self.held();
        let fresh = |name: &str| held.get(name).is_some_and(|said| said.fresh(now).is_some());
        view.replicas.keys().map(ToString::to_string).all(|name| name == holder || fresh(&name))
    }

    /// Adds everything that was said.
    pub fn merge_into(&self, all: &mut Acknowledged, now: Instant) {
        for said in self.held().values().filter_map(|said| said.fresh(now)) {
            all.merge(said);
        }
    }

    /// Whether the edges of a replica are not known, and it must say them anew.
    pub fn wants_edges(&self, replica: &str) -> bool {
        self.held().get(replica).is_none_or(|said| said.edges.is_none())
    }

    /// Forgets what was said of workloads that are gone.
    pub fn retain_edges(&self, snapshot: &Snapshot) {
        self.held().values_mut().filter_map(|said| said.edges.as_mut()).for_each(|edges| edges.retain(snapshot));
    }

    /// Adds who called whom at the other replicas; their names.
    pub fn edges_into(&self, all: &mut Edges, now: Instant) -> Vec<String> {
        let held = self.held();
        let fresh = held.iter().filter(|(_, said)| said.heard + KEPT > now);
        let known = fresh.filter_map(|(name, said)| Some((name, said.edges.as_ref()?)));
        known
            .map(|(name, edges)| {
                edges.merge_into(all);
                name.clone()
            })
            .collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<String, Said>> {
        // A poisoned lock holds nothing half-written that matters more than going on.
        self.by_replica.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(report: &ReplicaReport) -> Acknowledged {
    let digests = report.held.iter().map(|held| (held.workload_uid.clone(), held.digest.clone()));
    let matched = report
        .matched
        .iter()
        .map(|matched| (Key { namespace: matched.namespace.clone(), name: matched.name.clone() }, matched.seconds));
    Acknowledged { digests: digests.collect(), matched: matched.collect::<HashMap<_, _>>() }
}

/// A report in as many messages as it takes, at least one.
pub(super) fn written(replica: &str, number: u64, known: Acknowledged) -> Vec<ReplicaReport> {
    let held: Vec<Held> =
        known.digests.into_iter().map(|(workload_uid, digest)| Held { workload_uid, digest }).collect();
    let matched = known.matched.into_iter();
    let matched: Vec<Matched> =
        matched.map(|(rule, seconds)| Matched { namespace: rule.namespace, name: rule.name, seconds }).collect();
    let empty = || ReplicaReport { replica: replica.into(), number, ..ReplicaReport::default() };
    let mut messages: Vec<ReplicaReport> =
        held.chunks(LINES).map(|held| ReplicaReport { held: held.to_vec(), ..empty() }).collect();
    // A rule's names may be long.
    messages.extend(matched.chunks(LINES / 4).map(|matched| ReplicaReport { matched: matched.to_vec(), ..empty() }));
    if messages.is_empty() {
        messages.push(empty());
    }
    if let Some(last) = messages.last_mut() {
        last.last = true;
    }
    messages
}

/// Edges in as many messages as it takes, before those of the report. Anew: at least one, which says so.
pub(super) fn edges(replica: &str, number: u64, anew: bool, edges: Vec<EdgeTotals>) -> Vec<ReplicaReport> {
    let empty =
        |edges_anew: bool| ReplicaReport { replica: replica.into(), number, edges_anew, ..ReplicaReport::default() };
    let mut messages: Vec<ReplicaReport> = if anew { vec![empty(true)] } else { Vec::new() };
    let mut room = 0;
    for edge in edges {
        let size = edge.encoded_len();
        if let Some(message) = messages.last_mut().filter(|_| size <= room) {
            message.edges.push(edge);
        } else {
            room = EDGE_BYTES;
            messages.push(ReplicaReport { edges: vec![edge], ..empty(false) });
        }
        room = room.saturating_sub(size);
    }
    messages
}

/// Tells the holder of the lease, for ever.
#[derive(Debug)]
pub struct Reporter {
    /// This replica's own name.
    pub name: String,
    /// Who holds the lease.
    pub lease: watch::Receiver<Known>,
    /// What there is to tell.
    pub hub: Arc<Hub>,
    /// This replica's certificate.
    pub credentials: Arc<Credentials>,
    /// The identity that the holder must prove.
    pub own: SpiffeId,
}

impl Reporter {
    /// Runs for ever.
    pub async fn run(self) -> &'static str {
        let mut open: Option<(String, ControlClient<_>)> = None;
        let mut number = 0;
        // Whether the holder has to hear every edge, not only what has changed.
        let mut anew = true;
        loop {
            sleep(EVERY).await;
            let known = self.lease.borrow().clone();
            if known.address.is_empty() || known.holder == self.name {
                (open, anew) = (None, true);
                continue;
            }
            if open.as_ref().is_none_or(|(address, _)| *address != known.address) {
                anew = true;
                open = match channel(&self.credentials, self.own.clone(), &known.address) {
                    Ok(channel) => Some((known.address.clone(), ControlClient::new(channel))),
                    Err(error) => {
                        tracing::warn!(address = known.address, %error, "the holder of the lease has no usable address");
                        None
                    }
                };
            }
            let Some((_, client)) = &mut open else { continue };
            number += 1;
            let mut messages = edges(&self.name, number, anew, self.hub.edge_changes(anew));
            messages.extend(written(&self.name, number, self.hub.acknowledged()));
            // What is not taken is lost: then all is said again.
            anew = true;
            for message in messages {
                match timeout(ANSWER, client.report(message)).await {
                    Ok(Ok(taken)) => {
                        anew = taken.into_inner().edges_wanted;
                        continue;
                    }
                    Ok(Err(status)) => {
                        tracing::debug!(status = status.message(), "the holder of the lease took no report");
                    }
                    Err(_) => tracing::debug!("the holder of the lease does not answer"),
                }
                anew = true;
                break;
            }
        }
    }
}
