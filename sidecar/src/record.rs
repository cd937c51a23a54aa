//! What is said about one connection when it ends: collected on the way, written once. A connection that is dropped without
//! a word (a panic, the end of the process) is still written, as unfinished.
use crate::live::{CutReason, Direction, Live, Opening, Tunnel};
use crate::refusal::Broken;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::tls::Framing;
use signet_identity::SpiffeId;
use signet_policy::{Caller, Verdict};
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// One connection's record.
pub struct Record {
    shared: Arc<Shared>,
    started: Instant,
    /// In a place of their own: a record is moved from task to task, and they are long.
    facts: Box<Facts>,
    /// Until it is carried.
    opening: Option<Opening>,
    written: bool,
}

/// What a record says.
#[derive(Debug, Clone)]
pub struct Facts {
    /// Which way.
    pub direction: Direction,
    /// The caller's address.
    pub source: SocketAddr,
    /// What was called.
    pub destination: Option<SocketAddr>,
    /// Outbound: the endpoint that was chosen.
    pub endpoint: Option<SocketAddr>,
    /// Our own identity.
    pub own: Option<SpiffeId>,
    /// The peer's proved (inbound) or required (outbound) identity.
    pub peer: Option<SpiffeId>,
    /// Inbound: the policy's answer.
    pub verdict: Option<Verdict>,
    /// The reason code of the outcome.
    pub reason: &'static str,
    /// A sentence for people, when there is more to say than the code.
    pub text: Option<String>,
    /// Whether it was carried at all.
    pub admitted: bool,
    /// Towards the destination.
    pub sent: u64,
    /// Towards the caller.
    pub received: u64,
    /// How long it lived.
    pub duration: Duration,
    /// TLS key exchange group; `None`: plain TCP.
    pub group: Option<&'static str>,
    /// Framing; `None`: plain TCP.
    pub framing: Option<Framing>,
}

impl Facts {
    /// Nothing is known yet but who we are.
    pub fn new(direction: Direction, shared: &Shared) -> Self {
        Self {
            direction,
            source: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
            destination: None,
            endpoint: None,
            own: shared.credentials.svid().map(|svid| svid.id().clone()),
            peer: None,
            verdict: None,
            reason: "unfinished",
            text: None,
            admitted: false,
            sent: 0,
            received: 0,
            duration: Duration::ZERO,
            group: None,
            framing: None,
        }
    }
}

impl Record {
    /// For a connection that was just accepted.
    pub fn new(shared: &Arc<Shared>, direction: Direction, source: SocketAddr) -> Self {
        let facts = Box::new(Facts { source: crate::path::canonical(source), ..Facts::new(direction, shared) });
        let opening = Some(shared.live.opening());
        Self { shared: shared.clone(), started: Instant::now(), facts, opening, written: false }
    }

    pub fn to(&mut self, destination: SocketAddr) {
        self.facts.destination = Some(destination);
    }
    pub fn endpoint(&mut self, endpoint: SocketAddr) {
        self.facts.endpoint = Some(endpoint);
    }
    pub fn peer(&mut self, peer: &SpiffeId) {
        self.facts.peer = Some(peer.clone());
    }
    pub fn framing(&mut self, framing: Framing) {
        self.facts.framing = Some(framing);
    }
    pub fn tunnel(&mut self, tunnel: &Tunnel, framing: Framing) {
        self.facts.peer = Some(tunnel.peer.leaf.id.clone());
        self.facts.group = Some(tunnel.group);
        self.facts.framing = Some(framing);
    }
    pub fn verdict(&mut self, verdict: Verdict) {
        self.facts.verdict = Some(verdict);
    }
    /// Outbound, to what is not meshed.
    pub fn plain(&mut self) {
        self.facts.reason = "not_meshed";
    }
    pub fn source(&self) -> SocketAddr {
        self.facts.source
    }
    pub fn destination(&self) -> SocketAddr {
        self.facts.destination.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0))
    }
    pub fn endpoint_or_destination(&self) -> SocketAddr {
        self.facts.endpoint.unwrap_or_else(|| self.destination())
    }
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Writes a connection that was not carried.
    pub fn refused(mut self, refusal: &Refusal) {
        self.facts.reason = refusal.code();
        self.facts.text = match (&self.facts.verdict, refusal) {
            (Some(verdict), Refusal::Denied(_)) => {
                let caller = self
                    .facts
                    .peer
                    .as_ref()
                    .map_or(Caller::Plaintext(self.facts.source.ip()), |id| Caller::Identity(id.as_str()));
                Some(verdict.explain(&caller, self.facts.destination.map_or(0, |to| to.port())))
            }
            _ => Some(refusal.to_string()),
        };
        self.write();
    }

    /// Runs a connection that is carried, and writes it when it ends. Returns the bytes that it moved.
    pub async fn carry(mut self, live: &Live, carried: impl Future<Output = Result<(), Broken>>) -> u64 {
        self.opening = None;
        self.facts.admitted = true;
        if self.facts.reason == "unfinished" {
            self.facts.reason = self.facts.verdict.as_ref().map_or("meshed", |verdict| verdict.reason.code());
        }
        // Set once: nobody else carries it.
        let admitted = *live.admitted.get_or_init(|| self.facts.reason);
        self.shared.observe.opened(&self.facts);
        let result = carried.await;
        self.shared.observe.moved(live, admitted);
        (self.facts.sent, self.facts.received) = (live.sent.load(Relaxed), live.received.load(Relaxed));
        match &result {
            Ok(()) => {}
            Err(Broken::Cut(reason)) => {
                self.facts.reason = reason.code();
                self.facts.text = Some(reason.to_string());
            }
            Err(broken) => {
                self.facts.reason = broken.cut().map_or(self.facts.reason, CutReason::code);
                self.facts.text = Some(broken.to_string());
            }
        }
        let bytes = self.facts.sent + self.facts.received;
        self.write();
        bytes
    }

    fn write(&mut self) {
        self.written = true;
        self.facts.duration = Instant::now().duration_since(self.started);
        self.shared.observe.ended(&self.facts);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.written {
            self.write();
        }
    }
}
