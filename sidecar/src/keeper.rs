//! Keeps what is open true: when rules, trust or time change, every open tunnel and connection is judged again, and what no
//! longer stands is cut, with a reason (design section 3; F38). Also proves open tunnels again before their certificates end.
//! Runs on the control thread; started by `run`.
use crate::live::{CutReason, Direction, Live, Tunnel};
use crate::path::Target;
use crate::proof;
use crate::shared::Shared;
use crate::view::{Named, State, View};
use signet_identity::{SpiffeId, Trust, WorkloadUid};
use signet_policy::Decision;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Between two looks when nothing changed: well below the 5 s within which a change must take effect.
const LOOK: Duration = Duration::from_secs(1);

/// How the keeper judges age.
#[derive(Debug, Clone, Copy)]
pub struct Ages {
    /// How long after its deadline a tunnel that was not proved again is cut.
    pub grace: Duration,
    /// Greatest age of a tunnel whose peer cannot prove itself again; `None`: no limit.
    pub foreign: Option<Duration>,
}

/// Looks until dropped.
pub async fn keep(shared: Arc<Shared>, ages: Ages) {
    let mut changes = shared.view.changes();
    let mut proving = Proving::default();
    loop {
        let judged = shared.view.state();
        judge_tunnels(&shared, ages);
        judge_connections(&shared);
        proving.look(&shared);
        // New rules wake at once, otherwise the clock does: destinations that were learned change no verdict, and a workload
        // that scans for them must not keep this thread busy.
        let again = Instant::now() + LOOK;
        while let Ok(changed) = tokio::time::timeout_at(again, changes.changed()).await {
            if changed.is_err() {
                // The view is gone: the process is ending.
                return;
            }
            let now = shared.view.state();
            let same = match (&judged, &now) {
                (Some(judged), Some(now)) => Arc::ptr_eq(judged, now),
                (judged, now) => judged.is_none() == now.is_none(),
            };
            if !same {
                break;
            }
        }
    }
}

fn judge_tunnels(shared: &Shared, ages: Ages) {
    let (now, instant, trust) = (shared.clock.now(), Instant::now(), shared.credentials.trust());
    for tunnel in shared.live.tunnels() {
        if let Some(reason) = tunnel_verdict(&tunnel, ages, tunnel.now(now), instant, &trust) {
            tracing::info!(peer = %tunnel.peer.leaf.id, remote = %tunnel.remote, %reason, "tunnel cut");
            tunnel.cut.throw(reason);
        }
    }
}

fn tunnel_verdict(tunnel: &Tunnel, ages: Ages, now: u64, instant: Instant, trust: &Trust) -> Option<CutReason> {
    if let Err(rejection) = tunnel.evidence().stands(trust) {
        tracing::info!(peer = %tunnel.peer.leaf.id, %rejection, "an open tunnel's peer is no longer trusted");
        return Some(CutReason::TrustGone);
    }
    if tunnel.must_prove() {
        // The grace is counted by both clocks: when the wall clock jumps, a machine that woke up has time to renew and to prove.
        let overdue = tunnel.overdue(now, instant)?;
        let is_late = now > tunnel.deadline() + ages.grace.as_secs() && overdue >= ages.grace;
        return is_late.then_some(CutReason::NotProvedAgain);
    }
    let too_old = ages.foreign.is_some_and(|greatest| tunnel.opened() + greatest < std::time::Instant::now());
    too_old.then_some(CutReason::TooOld)
}

fn judge_connections(shared: &Shared) {
    let state = shared.view.state();
    for live in shared.live.connections() {
        let below = live.tunnel.as_ref().and_then(|tunnel| tunnel.cut.thrown());
        let reason = below.or_else(|| state.as_ref().and_then(|state| connection_verdict(&live, state, &shared.view)));
        if let Some(reason) = reason {
            live.cut.throw(reason);
        }
    }
}

fn connection_verdict(live: &Live, state: &State, view: &View) -> Option<CutReason> {
    match live.direction {
        Direction::Inbound => {
            let verdict = state.table.judge(&live.caller(), live.destination.port());
            (verdict.decision == Decision::Deny).then_some(CutReason::RuleGone)
        }
        // A connection to itself never asks the posture.
        Direction::Outbound if live.tunnel.is_some() || live.own => None,
        Direction::Outbound => {
            let denied = |to| state.egress.judge(to) == Decision::Deny;
            let gone = denied(live.destination) || live.endpoint.is_some_and(denied);
            let meshed = || is_meshed_now(live.endpoint.unwrap_or(live.destination), state, view);
            gone.then_some(CutReason::EgressGone).or_else(|| meshed().then_some(CutReason::MeshedNow))
        }
    }
}

/// Whether a sidecar has come to be known at what is open in plaintext. Asks about what has come into the mesh's ranges since;
/// the answer is found at the next look. An open connection keeps its address among those that are followed.
fn is_meshed_now(endpoint: SocketAddr, state: &State, view: &View) -> bool {
    let known = view.destination(endpoint.ip());
    if known.is_none() && state.may_be_meshed(endpoint.ip()) {
        view.ask(endpoint.ip());
    }
    known.is_some_and(|destination| destination.is_meshed(endpoint.port()))
}

/// Who proves: an address alone is not enough, a new workload may have taken it over.
type Whom = (SocketAddr, SpiffeId, Option<WorkloadUid>);

/// When each peer is asked again.
#[derive(Default)]
struct Proving {
    not_before: HashMap<Whom, Instant>,
}

/// A peer that did not answer a proof, or has no new certificate yet, is asked again after an eighth of the time that is left,
/// within these: certificates of seconds need it short, and those of an hour must not cost a handshake every half second.
const SOONEST: Duration = Duration::from_millis(500);
const LATEST: Duration = Duration::from_secs(30);

fn pause(now: u64, deadline: u64) -> Duration {
    (Duration::from_secs(deadline.saturating_sub(now)) / 8).clamp(SOONEST, LATEST)
}

impl Proving {
    /// Starts a proof for every peer that has a tunnel of ours which is due.
    fn look(&mut self, shared: &Arc<Shared>) {
        // Without a certificate, or with one that has ended, there is nothing to prove with.
        let Ok(own) = shared.usable_svid() else { return };
        let instant = Instant::now();
        self.not_before.retain(|_, at| *at > instant);
        let now = shared.clock.now();
        for batch in due(shared.live.tunnels(), |tunnel| tunnel.now(now), own.not_after()) {
            let Some(first) = batch.first() else { continue };
            let leaf = &first.peer.leaf;
            let whom = (first.remote, leaf.id.clone(), leaf.uid.clone());
            if let std::collections::hash_map::Entry::Vacant(place) = self.not_before.entry(whom) {
                place.insert(instant + pause(first.now(now), first.deadline()));
                tokio::spawn(prove(shared.clone(), batch));
            }
        }
    }
}

/// The tunnels to prove now, by peer, most urgent first; as many as one proof covers. A certificate that ends no later than a
/// tunnel's deadline cannot move it.
fn due(tunnels: Vec<Arc<Tunnel>>, now: impl Fn(&Tunnel) -> u64, own_end: u64) -> Vec<Vec<Arc<Tunnel>>> {
    let mut by_peer = HashMap::<_, Vec<_>>::new();
    for tunnel in tunnels {
        if tunnel.outbound && tunnel.must_prove() && tunnel.cut.thrown().is_none() && tunnel.deadline() < own_end {
            let leaf = &tunnel.peer.leaf;
            by_peer.entry((tunnel.remote, leaf.id.clone(), leaf.uid.clone())).or_default().push(tunnel);
        }
    }
    let is_due = |batch: &mut Vec<Arc<Tunnel>>| {
        batch.sort_by_key(|tunnel| tunnel.deadline());
        batch.truncate(proof::MOST);
        batch.iter().any(|tunnel| tunnel.prove_at() <= now(tunnel))
    };
    by_peer.into_values().filter_map(|mut batch| is_due(&mut batch).then_some(batch)).collect()
}

async fn prove(shared: Arc<Shared>, tunnels: Vec<Arc<Tunnel>>) {
    let Some(first) = tunnels.first() else { return };
    let leaf = &first.peer.leaf;
    let peer =
        Named { id: leaf.id.clone(), uid: leaf.uid.clone(), tunnel_port: first.remote.port(), h2: true, http1: true };
    let target = Target { peer: &peer, application: first.remote };
    match proof::prove(&shared, &target, &tunnels).await {
        Ok(moved) => tracing::debug!(peer = %peer.id, moved, of = tunnels.len(), "open tunnels proved again"),
        Err(refusal) => {
            tracing::warn!(peer = %peer.id, reason = refusal.code(), %refusal, "open tunnels could not be proved again yet");
        }
    }
}

#[cfg(test)]
mod tests;
