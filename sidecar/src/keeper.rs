//! Keeps what is open true: when rules, trust or time change, every open tunnel and connection is judged again, and what no
//! longer stands is cut, with a reason (design section 3; F38). Also proves open tunnels again before their certificates end.
//! Runs on the control thread; started by `run`.
use crate::live::{CutReason, Direction, Live, Tunnel};
use crate::path::Target;
use crate::proof;
use crate::shared::Shared;
use crate::view::Named;
use signet_identity::{Trust, verify};
use signet_policy::Decision;
use std::collections::{HashMap, HashSet};
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
    let mut trust = shared.credentials.trust().state().sequence;
    loop {
        // Every look judges what is open by today's rules; trust is checked only when it changed: it costs a path validation.
        let sequence = shared.credentials.trust().state().sequence;
        judge_tunnels(&shared, ages, sequence != trust);
        trust = sequence;
        judge_connections(&shared);
        proving.look(&shared);
        // A change wakes at once, otherwise the clock does; a view that is gone means that the process is ending.
        if let Ok(Err(_)) = tokio::time::timeout(LOOK, changes.changed()).await {
            return;
        }
    }
}

fn judge_tunnels(shared: &Shared, ages: Ages, trust_changed: bool) {
    let (now, trust) = (shared.now(), shared.credentials.trust());
    for tunnel in shared.live.tunnels() {
        if let Some(reason) = tunnel_verdict(&tunnel, ages, now, trust_changed.then_some(&*trust)) {
            tracing::info!(peer = %tunnel.peer.leaf.id, remote = %tunnel.remote, %reason, "tunnel cut");
            tunnel.cut.throw(reason);
        }
    }
}

fn tunnel_verdict(tunnel: &Tunnel, ages: Ages, now: u64, changed_trust: Option<&Trust>) -> Option<CutReason> {
    if let Some(trust) = changed_trust
        && let Err(rejection) = verify::still_trusted(&tunnel.chain, &tunnel.peer, trust)
    {
        tracing::info!(peer = %tunnel.peer.leaf.id, %rejection, "an open tunnel's peer is no longer trusted");
        return Some(CutReason::TrustGone);
    }
    if tunnel.must_prove() {
        return (now > tunnel.deadline() + ages.grace.as_secs()).then_some(CutReason::NotProvedAgain);
    }
    let too_old = ages.foreign.is_some_and(|greatest| tunnel.opened() + greatest < std::time::Instant::now());
    too_old.then_some(CutReason::TooOld)
}

fn judge_connections(shared: &Shared) {
    let state = shared.view.state();
    for live in shared.live.connections() {
        let below = live.tunnel.as_ref().and_then(|tunnel| tunnel.cut.thrown());
        let reason = below.or_else(|| state.as_ref().and_then(|state| connection_verdict(&live, state)));
        if let Some(reason) = reason {
            live.cut.throw(reason);
        }
    }
}

fn connection_verdict(live: &Live, state: &crate::view::State) -> Option<CutReason> {
    match live.direction {
        Direction::Inbound => {
            let verdict = state.table.judge(&live.caller(), live.destination.port());
            (verdict.decision == Decision::Deny).then_some(CutReason::RuleGone)
        }
        // A connection to itself never asks the posture.
        Direction::Outbound if live.tunnel.is_some() || live.own => None,
        Direction::Outbound => {
            (state.egress.judge(live.destination) == Decision::Deny).then_some(CutReason::EgressGone)
        }
    }
}

/// Proofs that are under way, and when a peer that failed is asked again.
#[derive(Default)]
struct Proving {
    not_before: HashMap<SocketAddr, Instant>,
}

/// A peer that did not answer a proof is asked again after this; certificates of seconds need it short.
const AGAIN: Duration = Duration::from_millis(500);

impl Proving {
    /// Starts a proof for every peer that has a tunnel of ours which is due.
    fn look(&mut self, shared: &Arc<Shared>) {
        let (now, instant) = (shared.now(), Instant::now());
        self.not_before.retain(|_, at| *at > instant);
        let ours = |t: &Arc<Tunnel>| t.outbound && t.must_prove() && t.cut.thrown().is_none();
        let tunnels: Vec<_> = shared.live.tunnels().into_iter().filter(ours).collect();
        let due: HashSet<_> = tunnels.iter().filter(|t| t.prove_at() <= now).map(|t| t.remote).collect();
        for remote in due {
            if self.not_before.contains_key(&remote) {
                continue;
            }
            self.not_before.insert(remote, instant + AGAIN);
            let mut batch: Vec<_> = tunnels.iter().filter(|t| t.remote == remote).cloned().collect();
            batch.sort_by_key(|t| t.deadline());
            batch.truncate(proof::MOST);
            tokio::spawn(prove(shared.clone(), batch));
        }
    }
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
            tracing::warn!(peer = %peer.id, reason = refusal.code(), %refusal, "open tunnels could not be proved again yet")
        }
    }
}
