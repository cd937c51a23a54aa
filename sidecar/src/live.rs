//! What is open right now, and the means to judge it again. A live tunnel does not outlive trust, and is not cut by the clock
//! while it can prove itself (design section 3). The data path registers tunnels and connections here; `keeper` (outside this
//! folder) walks them when rules, trust or time change; admin lists them.
mod registry;

pub use registry::{Opening, Registered, Registry};

use crate::clock::{Booted, Moment};
use crate::path::canonical;
use arc_swap::ArcSwap;
use futures::task::AtomicWaker;
use rustls_pki_types::CertificateDer;
use signet_identity::{Peer, Rejection, SpiffeId, Trust, verify};
use signet_policy::Caller;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Context;
use std::time::{Duration, Instant};

/// Why something open was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum CutReason {
    /// No rule or posture admits it any more.
    RuleGone = 1,
    /// The peer's chain no longer passes: root, issuer, serial or identity withdrawn.
    TrustGone = 2,
    /// Not proved again before the certificates ended.
    NotProvedAgain = 3,
    /// The egress posture no longer allows it.
    EgressGone = 4,
    /// The grace after SIGTERM is over.
    Drained = 5,
    /// A peer that cannot prove itself again reached the age that is set for such peers.
    TooOld = 6,
    /// The connection below broke.
    TunnelGone = 7,
    /// It went out in plaintext, and now a sidecar is known to be there.
    MeshedNow = 8,
}

/// What a called sidecar says when it resets a pooled stream because it cut the connection: an error code of HTTP/2 that is
/// ours, "SIG" and the number of the reason. Peers that do not know it take it for any other error (RFC 9113 section 7).
const SAID: u32 = 0x5349_4700;

impl CutReason {
    /// Every reason, by its number.
    const ALL: [Self; 8] = [
        Self::RuleGone,
        Self::TrustGone,
        Self::NotProvedAgain,
        Self::EgressGone,
        Self::Drained,
        Self::TooOld,
        Self::TunnelGone,
        Self::MeshedNow,
    ];

    /// As an error code of HTTP/2.
    pub fn said(self) -> u32 {
        SAID | self as u32
    }

    /// The reason that a peer gave with an error code; `None`: it gave none of ours.
    pub fn heard(code: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.said() == code)
    }

    /// Stable, lower case.
    pub fn code(self) -> &'static str {
        match self {
            Self::RuleGone => "cut_rule_gone",
            Self::TrustGone => "cut_trust_gone",
            Self::NotProvedAgain => "cut_not_proved_again",
            Self::EgressGone => "cut_egress_gone",
            Self::Drained => "cut_drained",
            Self::TooOld => "cut_too_old",
            Self::TunnelGone => "cut_tunnel_gone",
            Self::MeshedNow => "cut_meshed_now",
        }
    }
}

impl std::fmt::Display for CutReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::RuleGone => "no rule or posture admits the caller any more",
            Self::TrustGone => "the peer's certificate is no longer trusted",
            Self::NotProvedAgain => "the peers did not prove themselves again before their certificates ended",
            Self::EgressGone => "the egress posture no longer allows the destination",
            Self::Drained => "the sidecar stopped and the grace is over",
            Self::TooOld => "the peer cannot prove itself again and the tunnel reached its greatest age",
            Self::TunnelGone => "the tunnel below it broke",
            Self::MeshedNow => "the destination is in the mesh now, and is not called in plaintext",
        })
    }
}

/// A one-way switch that wakes the task which watches it.
#[derive(Debug, Default)]
pub struct Cut {
    reason: AtomicU8,
    waker: AtomicWaker,
}

impl Cut {
    /// Throws the switch; the first reason stays.
    pub fn throw(&self, reason: CutReason) {
        // Only the first thrower's reason is kept; a lost race changes nothing.
        let _ = self.reason.compare_exchange(0, reason as u8, Relaxed, Relaxed);
        self.waker.wake();
    }

    /// The reason, once thrown; until then the task is woken by it.
    pub fn poll(&self, cx: &mut Context<'_>) -> Option<CutReason> {
        self.waker.register(cx.waker());
        self.thrown()
    }

    /// The reason, once thrown.
    pub fn thrown(&self) -> Option<CutReason> {
        let number = self.reason.load(Relaxed);
        CutReason::ALL.into_iter().find(|reason| *reason as u8 == number)
    }

    /// Resolves when thrown.
    pub async fn wait(&self) -> CutReason {
        std::future::poll_fn(|cx| self.poll(cx).map_or(std::task::Poll::Pending, std::task::Poll::Ready)).await
    }
}

/// The value that names a tunnel on both of its ends and that nobody else knows (`records`: the connection's binding).
pub type Exporter = [u8; 32];

/// What a handshake proved of the peer, to be checked again against later trust.
#[derive(Debug)]
pub struct Evidence {
    /// The peer.
    pub peer: Peer,
    /// What it presented.
    pub chain: Vec<CertificateDer<'static>>,
    /// The trust sequence that it was checked against last.
    checked: AtomicU64,
}

impl Evidence {
    /// Of a handshake that was verified against this trust sequence, or a later one.
    pub fn new(peer: Peer, chain: Vec<CertificateDer<'static>>, trust: u64) -> Self {
        Self { peer, chain, checked: trust.into() }
    }

    /// Whether the peer would still be trusted. Costs a path validation when trust has changed since the last check.
    pub fn stands(&self, trust: &Trust) -> Result<(), Rejection> {
        let sequence = trust.state().sequence;
        if self.checked.load(Relaxed) < sequence {
            verify::still_trusted(&self.chain, &self.peer, trust)?;
            self.checked.store(sequence, Relaxed);
        }
        Ok(())
    }
}

/// One mTLS connection to or from a peer's sidecar.
#[derive(Debug)]
pub struct Tunnel {
    /// Who is at the other end, by the handshake that opened it. Identity and UID stay with every later proof.
    pub peer: Peer,
    /// By the newest handshake.
    evidence: ArcSwap<Evidence>,
    /// Our own identity in its handshake.
    pub own: SpiffeId,
    /// Names it in a re-proof.
    pub exporter: Exporter,
    /// The peer's end, as a socket address.
    pub remote: SocketAddr,
    /// We opened it, so we prove it again.
    pub outbound: bool,
    /// The key exchange group of its handshake, for logs.
    pub group: &'static str,
    /// Unix seconds: the earlier end of the two SVIDs that proved it last.
    deadline: AtomicU64,
    /// Unix seconds of the moment when it should be proved again.
    prove_at: AtomicU64,
    /// When the machine had booted by the wall clock of the newest proof.
    booted: AtomicU64,
    opened: Instant,
    /// When the keeper first saw it past its deadline.
    overdue: Mutex<Option<tokio::time::Instant>>,
    /// Cuts it.
    pub cut: Cut,
}

impl Tunnel {
    /// A tunnel that was proved by SVIDs of which the earlier is valid from and to these Unix seconds.
    pub fn new(
        evidence: Evidence,
        own: SpiffeId,
        exporter: Exporter,
        remote: SocketAddr,
        outbound: bool,
        validity: Validity,
    ) -> Self {
        Self {
            peer: evidence.peer.clone(),
            evidence: ArcSwap::from_pointee(evidence),
            own,
            exporter,
            remote: canonical(remote),
            outbound,
            group: "none",
            deadline: AtomicU64::new(validity.end),
            prove_at: AtomicU64::new(validity.prove_at()),
            booted: AtomicU64::new(validity.booted.to_bits()),
            opened: Instant::now(),
            overdue: Mutex::default(),
            cut: Cut::default(),
        }
    }

    /// Unix seconds.
    pub fn deadline(&self) -> u64 {
        self.deadline.load(Relaxed)
    }

    /// Unix seconds.
    pub fn prove_at(&self) -> u64 {
        self.prove_at.load(Relaxed)
    }

    /// Unix seconds for this tunnel's deadlines: a wall clock that is set back makes none of them later.
    pub fn now(&self, moment: Moment) -> u64 {
        moment.seconds(Booted::from_bits(self.booted.load(Relaxed)))
    }

    /// What is known of the peer by the newest handshake.
    pub fn evidence(&self) -> Arc<Evidence> {
        self.evidence.load_full()
    }

    /// Moves the deadline after a proof; never back. From here on trust is asked about what the peer presented in it.
    pub fn proved(&self, validity: Validity, evidence: Arc<Evidence>) {
        self.evidence.store(evidence);
        if validity.end > self.deadline.fetch_max(validity.end, Relaxed) {
            self.prove_at.store(validity.prove_at(), Relaxed);
            self.booted.store(validity.booted.to_bits(), Relaxed);
        }
    }

    /// Whether the peer can prove itself again. Only Signet's own leaves carry a workload UID, and a peer cannot take it out of
    /// its certificate: so that what has a UID must prove itself, whatever it says it can.
    pub fn must_prove(&self) -> bool {
        self.peer.leaf.uid.is_some()
    }

    /// How long it has been seen past its deadline, by a clock that does not jump; for the keeper, which looks once a second.
    pub fn overdue(&self, now: u64, instant: tokio::time::Instant) -> Option<Duration> {
        let mut since = lock(&self.overdue);
        *since = if now > self.deadline() { since.or(Some(instant)) } else { None };
        since.map(|since| instant - since)
    }

    /// When it was opened.
    pub fn opened(&self) -> Instant {
        self.opened
    }
}

/// A span of Unix seconds in which both ends' SVIDs are valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// The later notBefore.
    pub start: u64,
    /// The earlier notAfter.
    pub end: u64,
    /// The earlier moment at which two thirds of a leaf's life are over: a pooled tunnel takes no new streams from here on.
    pub no_new_streams_at: u64,
    /// What the deadlines count by besides the wall clock; nothing until `from`.
    pub booted: Booted,
}

impl Validity {
    /// Of two leaves together.
    pub fn of(a: (u64, u64), b: (u64, u64)) -> Self {
        let two_thirds = |(from, to): (u64, u64)| from + to.saturating_sub(from) * 2 / 3;
        Self {
            start: a.0.max(b.0),
            end: a.1.min(b.1),
            no_new_streams_at: two_thirds(a).min(two_thirds(b)),
            booted: Booted::default(),
        }
    }

    /// The same, known from this moment on.
    pub fn from(self, moment: Moment) -> Self {
        Self { booted: moment.booted(), ..self }
    }

    /// When a pooled tunnel that is opened at `opened` takes no new streams any more. One that is opened after two thirds of a
    /// leaf's life, because an end has not renewed yet or cannot, serves two thirds of what is left: refusing it would dial
    /// anew for every connection although both certificates are good.
    pub fn no_new_streams_from(self, opened: u64) -> u64 {
        if opened < self.no_new_streams_at {
            return self.no_new_streams_at;
        }
        opened + (self.end.saturating_sub(opened) * 2 / 3).max(1)
    }

    /// Both ends renew by two thirds of their leaves' lives; at three quarters both should hold new ones.
    pub fn prove_at(self) -> u64 {
        self.start + self.end.saturating_sub(self.start) * 3 / 4
    }
}

/// Which way a connection goes, seen from this workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Another workload calls this one.
    Inbound,
    /// This workload calls.
    Outbound,
}

/// One application connection that is being carried.
#[derive(Debug)]
pub struct Live {
    /// Number in the registry.
    pub number: u64,
    /// Which way.
    pub direction: Direction,
    /// The caller's address.
    pub source: SocketAddr,
    /// Inbound: this workload's own address and port. Outbound: what the application called.
    pub destination: SocketAddr,
    /// Outbound in plaintext: the endpoint behind what was called, which the posture must allow too.
    pub endpoint: Option<SocketAddr>,
    /// What carries it; `None`: plain TCP.
    pub tunnel: Option<Arc<Tunnel>>,
    /// The workload calls itself: no rule and no posture is asked.
    pub own: bool,
    /// Bytes towards the destination.
    pub sent: AtomicU64,
    /// Bytes towards the caller.
    pub received: AtomicU64,
    /// The reason code by which it was admitted, once it is carried.
    pub admitted: OnceLock<&'static str>,
    /// What of `sent` and `received` the metrics have.
    counted: [AtomicU64; 2],
    /// Cuts it.
    pub cut: Cut,
}

impl Live {
    /// Bytes sent and received since the last call. Whoever asks must count them: nobody else will hear of them.
    pub fn uncounted(&self) -> (u64, u64) {
        let [sent, received] = &self.counted;
        let since = |all: &AtomicU64, counted: &AtomicU64| {
            let all = all.load(Relaxed);
            all.saturating_sub(counted.fetch_max(all, Relaxed))
        };
        (since(&self.sent, sent), since(&self.received, received))
    }

    /// Who calls, as the policy sees it.
    pub fn caller(&self) -> Caller<'_> {
        match &self.tunnel {
            Some(tunnel) => Caller::Identity(tunnel.peer.leaf.id.as_str()),
            None => Caller::Plaintext(self.source.ip()),
        }
    }
}

/// A thread that panicked while it held the lock left a whole map behind: every operation under it is one call.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
