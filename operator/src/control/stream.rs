//! The task of one control stream: waits for the peer, for changes and for its end, and sends what the session says.
use super::hub::{Denied, Hub, Seat};
use super::session::{Effect, Session};
use crate::documents::Key;
use crate::index::Snapshot;
use signet_identity::Peer;
use signet_proto::control::{Down, Up, down};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tonic::{Status, Streaming};

/// Why a stream ended: a word for the metric, and what the peer is told, if anything.
struct End(&'static str, Option<Status>);

impl End {
    fn told(kind: &'static str, status: Status) -> Self {
        Self(kind, Some(status))
    }
}

/// A stream with all that it needs.
pub(super) struct Stream {
    pub(super) hub: Arc<Hub>,
    pub(super) seat: Seat,
    pub(super) workload: Key,
    pub(super) session: Session,
    pub(super) snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(super) incoming: Streaming<Up>,
    pub(super) outgoing: mpsc::Sender<Result<Down, Status>>,
}

/// How much a peer may still send before it is read slower.
struct Allowance {
    left: f64,
    rate: f64,
    at: Instant,
}

impl Allowance {
    fn new(rate: u32) -> Self {
        Self { left: f64::from(rate) * 10.0, rate: f64::from(rate), at: Instant::now() }
    }
    /// Takes one; the moment until which the peer is not to be read.
    fn take(&mut self) -> Instant {
        let now = Instant::now();
        let refill = now.duration_since(self.at).as_secs_f64() * self.rate;
        self.left = (self.left + refill).min(self.rate * 10.0) - 1.0;
        self.at = now;
        let wait = if self.left < 0.0 { -self.left / self.rate } else { 0.0 };
        now + Duration::from_secs_f64(wait)
    }
}

impl Stream {
    /// Runs until the stream ends, and tells the peer why. No longer than the peer's certificate lives.
    pub(super) async fn run(mut self, certificate: Duration) {
        let deadline = Instant::now() + self.hub.limits.age().min(certificate);
        let End(kind, status) = self.serve(deadline).await;
        self.hub.metrics.closed(kind);
        tracing::info!(workload = %self.workload, reason = kind, status = ?status.as_ref().map(Status::message), "control stream ended");
        if let Some(status) = status {
            // The peer may be gone, or may not read: then it will not hear it, and need not.
            let _ = timeout(self.hub.limits.send, self.outgoing.send(Err(status))).await;
        }
    }

    async fn serve(&mut self, deadline: Instant) -> End {
        let hello = deadline.min(Instant::now() + self.hub.limits.hello);
        let mut greeted = false;
        let mut allowance = Allowance::new(self.hub.limits.messages);
        let mut readable = Instant::now();
        let (mut confirmed, mut warned) = (self.hub.confirmed.subscribe(), false);
        loop {
            tokio::select! {
                biased;
                () = sleep_until(if greeted { deadline } else { hello }) => {
                    return if greeted {
                        End("age", None)
                    } else {
                        End::told("no_hello", Status::deadline_exceeded("no hello came in time"))
                    };
                }
                ended = &mut self.seat.ended => {
                    return match ended {
                        Ok(Denied) => End::told("denied", Status::permission_denied("the trust state denies this peer")),
                        Err(_) => {
                            End::told("replaced", Status::aborted("a newer stream of this workload took its place"))
                        }
                    };
                }
                () = self.outgoing.closed() => return End("gone", None),
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return End::told("stopping", Status::unavailable("the operator is stopping"));
                    }
                    if let Err(end) = self.update().await {
                        return end;
                    }
                }
                // The hub has the sender, and this stream the hub.
                Ok(()) = confirmed.changed() => {
                    if self.session.behind {
                        if let Err(end) = self.update().await {
                            return end;
                        }
                        self.ahead(&mut warned);
                    }
                }
                message = next(&mut self.incoming, readable) => {
                    let up = match message {
                        Ok(Some(up)) => up,
                        Ok(None) => return End("closed", None),
                        Err(status) => return End::told("broken", status),
                    };
                    readable = allowance.take();
                    greeted = true;
                    if let Err(end) = self.take(up).await {
                        return end;
                    }
                }
            }
        }
    }

    async fn take(&mut self, up: Up) -> Result<(), End> {
        let effect = self.session.take(up);
        match effect.map_err(|fault| End::told("fault", Status::invalid_argument(fault.to_string())))? {
            Effect::Update => {
                // What it holds it has applied, here or with another replica.
                if let Some(held) = self.session.held.take() {
                    // Before the first update: a question that is asked from now on is asked after the sidecar came.
                    self.session.questions = self.hub.questions();
                    self.seat.show(|presence| (presence.applied, presence.digest) = (held.revision, held.digest));
                }
                self.update().await?;
            }
            Effect::Applied(revision, digest) => {
                self.hub.metrics.acknowledged("applied");
                self.seat.show(|presence| {
                    (presence.applied, presence.digest) = (revision, digest);
                    presence.refused = None;
                });
            }
            Effect::Unsent => self.hub.metrics.acknowledged("unsent"),
            Effect::Refused(revision, error) => {
                self.hub.metrics.acknowledged("refused");
                tracing::warn!(workload = %self.workload, revision, error, "the sidecar refused its configuration");
                self.seat.show(|presence| presence.refused = Some(error));
            }
            Effect::Edges(edges) => {
                let snapshot = self.snapshots.borrow().clone();
                if let Some(snapshot) = snapshot {
                    self.hub.report(&self.workload, &edges, &snapshot);
                }
            }
        }
        Ok(())
    }

    async fn update(&mut self) -> Result<(), End> {
        // In this order: what was confirmed is in the snapshot.
        let confirmed = *self.hub.confirmed.borrow();
        let Some(snapshot) = self.snapshots.borrow_and_update().clone() else { return Ok(()) };
        let behind = self.session.behind;
        let messages = self.session.update(&snapshot, confirmed).map_err(|refusal| {
            tracing::warn!(workload = %self.workload, %refusal, "control stream refused");
            End::told("refused", Status::permission_denied(refusal.to_string()))
        })?;
        if self.session.behind && !behind {
            if confirmed.is_none() {
                self.warn();
            } else {
                tracing::info!(
                    workload = %self.workload,
                    held = self.session.told(),
                    revision = snapshot.revision(),
                    "the sidecar came with another configuration; it keeps that until the API server has said what there is, \
                     and all of it is in force here"
                );
            }
        }
        for message in messages {
            self.send(message).await?;
        }
        let (sent, wants, behind) = (self.session.told(), self.session.wants(), self.session.behind);
        let (version, lacking) = (self.session.program_version.clone(), self.session.lacking.clone());
        self.seat.show(|presence| {
            (presence.sent, presence.wants, presence.behind) = (sent, wants, behind);
            (presence.program_version, presence.lacking) = (version, lacking);
        });
        Ok(())
    }

    /// Says so, once, when the sidecar holds more than there can be.
    fn ahead(&self, warned: &mut bool) {
        let asked = self.hub.confirmed.borrow().is_some_and(|confirmed| confirmed.question > self.session.questions);
        if self.session.behind && asked && !std::mem::replace(warned, true) {
            self.warn();
        }
    }

    fn warn(&self) {
        tracing::error!(
            workload = %self.workload,
            held = self.session.told(),
            "the sidecar holds a newer configuration than there is, and keeps it. In a cluster the API server's data went back: \
             restart the pod. With files the state directory was lost, or the clock went back; once the clock is right, touch a \
             file of the directory"
        );
    }

    async fn send(&self, message: Down) -> Result<(), End> {
        self.hub.metrics.sent(match message.kind {
            Some(down::Kind::Config(_)) => "config",
            Some(down::Kind::Ranges(_)) => "ranges",
            Some(down::Kind::Destinations(_)) | None => "destinations",
        });
        match timeout(self.hub.limits.send, self.outgoing.send(Ok(message))).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End("gone", None)),
            Err(_) => Err(End("slow", None)),
        }
    }
}

/// The next message, but none before the peer may be read again.
async fn next(incoming: &mut Streaming<Up>, readable: Instant) -> Result<Option<Up>, Status> {
    sleep_until(readable).await;
    incoming.message().await
}

/// How long the peer's certificate is still valid.
pub(super) fn remaining(peer: &Peer) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(peer.leaf.not_after).saturating_sub(now)
}
