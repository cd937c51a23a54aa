//! All control streams of this operator: their places, what they acknowledged, and what they report.
use super::edges::Edges;
use crate::cluster::reports::Reports;
use crate::cluster::status::Acknowledged;
use crate::documents::Key;
use crate::index::{Member, Snapshot};
use crate::metrics::Metrics;
use crate::state::Published;
use rand::RngExt as _;
use signet_identity::{Credentials, DenyList, Peer, SpiffeId, WorkloadUid};
use signet_policy::{Caller, Reason};
use signet_proto::control::{Edge, EdgeTotals};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep};

/// How long a workload that says that it holds a newer revision is not asked about again.
const AGAIN: Duration = Duration::from_secs(10);

/// Bounds of the control service.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Streams at once.
    pub streams: usize,
    /// A stream ends after this long, up to a fifth more or less, so that replicas balance and certificates are seen anew.
    pub max_age: Duration,
    /// A connection takes no new stream after this long: a stream that comes again comes over a new handshake, with the
    /// certificate and the trust of that moment. The stream it has goes on to its own end.
    pub takes_streams: Duration,
    /// A peer whose UID is in no document waits for so long for the document to come, before it is refused.
    pub document: Duration,
    /// The first message must have come by then.
    pub hello: Duration,
    /// A message that the peer does not take for so long ends its stream.
    pub send: Duration,
    /// Connections and handshakes, before anybody has a stream.
    pub door: signet_enroll::Limits,
    /// Messages a second from one sidecar; a burst may hold ten times as many. Faster peers are read slower.
    pub messages: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            streams: 16_384,
            max_age: seconds(30 * 60),
            takes_streams: seconds(30),
            document: seconds(1),
            hello: seconds(10),
            send: seconds(30),
            door: signet_enroll::Limits::default(),
            messages: 50,
        }
    }
}

impl Limits {
    /// A jittered age for one stream.
    pub(super) fn age(&self) -> Duration {
        self.max_age.mul_f64(rand::rng().random_range(0.8..1.2))
    }
}

/// A sidecar that is attached, for `/status`.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Presence {
    /// `namespace/name`.
    pub workload: String,
    /// What it says it is, bounded.
    pub program_version: String,
    /// What it cannot enforce: rules that need it guard and admit nobody there.
    pub lacking: Vec<&'static str>,
    /// The revision it was sent or holds.
    pub sent: u64,
    /// The last revision that it applied.
    pub applied: u64,
    /// The digest of what it applied.
    pub digest: String,
    /// Why it refused one, in its words, bounded.
    pub refused: Option<String>,
    /// It came with another configuration, and it is not known that this operator's is newer: it keeps what it holds.
    pub behind: bool,
    /// How many destinations it follows.
    pub wants: usize,
}

/// All streams.
#[derive(Debug)]
pub struct Hub {
    pub(super) published: Published,
    pub(super) limits: Limits,
    pub(super) metrics: Arc<Metrics>,
    places: Mutex<Places>,
    edges: Mutex<Edges>,
    /// When rules last matched, in seconds since 1970.
    matched: Mutex<HashMap<Key, i64>>,
    /// What the API server last said; absent where no other replica can be ahead.
    pub(super) confirmed: watch::Sender<Option<Confirmed>>,
    /// How many questions the API server was asked.
    questions: AtomicU64,
    /// Whom it was asked for last, and when.
    asked: Mutex<HashMap<WorkloadUid, Instant>>,
    /// Where other replicas' reports go, and the identity that they have; absent outside a cluster.
    pub(super) reports: OnceLock<(Arc<Reports>, SpiffeId)>,
}

/// Everything that there was when a question was asked is in force here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// The number of the question.
    pub question: u64,
    /// The newest revision that anybody could have given out then.
    pub revision: u64,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    taken: HashMap<WorkloadUid, Place>,
}

#[derive(Debug)]
struct Place {
    number: u64,
    /// Whom the stream was opened for.
    peer: Peer,
    /// Dropped to make room for a newer stream; sent to, to end the stream because its peer is denied.
    end: Option<oneshot::Sender<Denied>>,
    presence: Presence,
}

/// The trust state denies the peer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Denied;

/// A stream's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    hub: Arc<Hub>,
    uid: WorkloadUid,
    number: u64,
    /// Ends when the place is given to a newer stream of the same workload, or with [`Denied`].
    pub(super) ended: oneshot::Receiver<Denied>,
}

impl Hub {
    /// Without any stream yet.
    pub fn new(published: Published, limits: Limits, metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self {
            published,
            limits,
            metrics,
            places: Mutex::default(),
            edges: Mutex::default(),
            matched: Mutex::default(),
            confirmed: watch::Sender::new(None),
            questions: AtomicU64::new(0),
            asked: Mutex::default(),
            reports: OnceLock::new(),
        })
    }

    /// A place for a workload's stream, or none when all are taken. A newer stream takes the place of an older one of the same
    /// workload: a sidecar that restarted must not wait until its dead connection is noticed.
    pub(super) fn take_place(self: &Arc<Self>, uid: &WorkloadUid, workload: &Key, peer: &Peer) -> Option<Seat> {
        let mut places = self.places();
        if places.taken.len() >= self.limits.streams && !places.taken.contains_key(uid) {
            return None;
        }
        places.next += 1;
        let (end, ended) = oneshot::channel();
        let presence = Presence { workload: workload.to_string(), ..Presence::default() };
        let number = places.next;
        places.taken.insert(uid.clone(), Place { number, peer: peer.clone(), end: Some(end), presence });
        self.metrics.streams(places.taken.len());
        Some(Seat { hub: self.clone(), uid: uid.clone(), number, ended })
    }

    /// Adds what a sidecar reports. `snapshot` tells which peers are known.
    pub(super) fn report(&self, workload: &Key, edges: &[Edge], snapshot: &Snapshot) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        self.edges().add(workload, edges, |peer| snapshot.knows(peer), &self.metrics, now);
        if let Some(member) = snapshot.find(workload) {
            let matched = matched(member, edges);
            self.matched().extend(matched.into_iter().map(|rule| (rule, now)));
        }
    }

    /// Takes reports of other replicas from now on, which must have this identity.
    pub fn take_reports(&self, reports: Arc<Reports>, own: SpiffeId) {
        // Once is all that a program does.
        let _ = self.reports.set((reports, own));
    }

    /// What the sidecars that are attached here have in force, and when rules last matched.
    pub fn acknowledged(&self) -> Acknowledged {
        let digests =
            self.places().taken.iter().map(|(uid, place)| (uid.to_string(), place.presence.digest.clone())).collect();
        Acknowledged { digests, matched: self.matched().clone() }
    }

    /// Looks after the streams for ever: forgets what workloads reported that are gone, and ends the streams of peers that the
    /// trust state denies, within `pause`, without waiting for their certificates to end (F38).
    pub async fn supervise(self: Arc<Self>, credentials: Arc<Credentials>, pause: Duration) {
        let mut snapshots = self.published.snapshot.clone();
        loop {
            sleep(pause).await;
            if snapshots.has_changed().unwrap_or(false)
                && let Some(snapshot) = snapshots.borrow_and_update().clone()
            {
                self.edges().retain(&snapshot);
                if let Some((reports, _)) = self.reports.get() {
                    reports.retain_edges(&snapshot);
                }
                let rules: HashSet<&str> = snapshot.notes().iter().map(|note| note.rule.as_str()).collect();
                self.matched().retain(|rule, _| rules.contains(rule.to_string().as_str()));
            }
            let trust = credentials.trust();
            let deny = &trust.state().deny;
            for place in self.places().taken.values_mut().filter(|place| denies(deny, &place.peer)) {
                // Gone already, or told already: both are what is wanted.
                let _ = place.end.take().map(|end| end.send(Denied));
            }
        }
    }

    /// From now on it is not enough that a sidecar came with a smaller revision: whether this operator's content is the newer
    /// one must be asked first. In a cluster, where other replicas follow the same objects.
    pub fn ask_first(&self) {
        self.confirmed.send_replace(Some(Confirmed { question: 0, revision: 0 }));
    }

    /// Whether a sidecar waits to hear whether this operator's content is newer than its own, and it was not asked for this
    /// workload a moment ago: what one says costs no more than one question in ten seconds.
    pub fn is_behind(&self, now: Instant) -> bool {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked.retain(|_, at| *at + AGAIN > now);
        let mut news = false;
        for (uid, _) in self.places().taken.iter().filter(|(_, place)| place.presence.behind) {
            if !asked.contains_key(uid) {
                asked.insert(uid.clone(), now);
                news = true;
            }
        }
        news
    }

    /// The number of a question that is asked now.
    pub fn next_question(&self) -> u64 {
        self.questions.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// How many questions were asked.
    pub fn questions(&self) -> u64 {
        self.questions.load(Ordering::SeqCst)
    }

    /// Everything that there was when this question was asked, this revision the newest, is in force here: streams that came
    /// before it go on from what is in force.
    pub fn confirm(&self, question: u64, revision: u64) {
        self.confirmed.send_replace(Some(Confirmed { question, revision }));
    }

    /// Who is attached, by `namespace/name`.
    pub fn presences(&self) -> BTreeMap<String, Presence> {
        let places = self.places();
        places.taken.values().map(|place| (place.presence.workload.clone(), place.presence.clone())).collect()
    }

    /// Rows of who called whom that have changed since the last call, or every row.
    pub fn edge_changes(&self, anew: bool) -> Vec<EdgeTotals> {
        self.edges().changes(anew)
    }

    /// Who called whom, as JSON: what the sidecars reported here, and on the holder of the lease to every other replica too.
    pub fn edges_json(&self) -> serde_json::Value {
        let mut all = self.edges().copy();
        let replicas = self.reports.get().map(|(reports, _)| reports.edges_into(&mut all, Instant::now()));
        let snapshot = self.published.snapshot.borrow().clone().unwrap_or_default();
        // Another replica may still remember whom this one has forgotten.
        all.retain(&snapshot);
        serde_json::json!({"version": 1, "other_replicas": replicas.unwrap_or_default(), "edges": all.lines(&snapshot)})
    }

    // A poisoned lock holds nothing half-written that matters more than going on.
    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn matched(&self) -> MutexGuard<'_, HashMap<Key, i64>> {
        self.matched.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn edges(&self) -> MutexGuard<'_, Edges> {
        self.edges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rules that connections matched which a workload reports, those in `Audit` too. The sidecar says who came to which port;
/// which rule that was, the same table says here as there. Callers without an identity are not told apart.
fn matched(member: &Member, edges: &[Edge]) -> Vec<Key> {
    let inbound: Vec<&Edge> =
        edges.iter().filter(|edge| !edge.outbound && edge.connections > 0 && !edge.peer.is_empty()).collect();
    if inbound.is_empty() {
        return Vec::new();
    }
    let table = member.table();
    let rules = inbound.into_iter().filter_map(|edge| {
        let verdict = table.judge(&Caller::Identity(&edge.peer), u16::try_from(edge.port).ok()?);
        let real = verdict.rule.filter(|_| verdict.reason == Reason::RuleMatched);
        let shadow =
            verdict.shadow.filter(|(_, reason, _)| *reason == Reason::RuleMatched).and_then(|(_, _, rule)| rule);
        Some(real.into_iter().chain(shadow))
    });
    rules.flatten().map(|rule| Key { namespace: rule.namespace.clone(), name: rule.name.clone() }).collect()
}

fn denies(deny: &DenyList, peer: &Peer) -> bool {
    deny.identities.contains(&peer.leaf.id)
        || deny.serials.contains(&peer.leaf.serial)
        || peer.issuers.iter().any(|issuer| deny.issuers.contains(issuer))
}

impl Seat {
    /// Changes what `/status` shows of this stream.
    pub(super) fn show(&self, change: impl FnOnce(&mut Presence)) {
        if let Some(place) = self.hub.places().taken.get_mut(&self.uid).filter(|place| place.number == self.number) {
            change(&mut place.presence);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut places = self.hub.places();
        if places.taken.get(&self.uid).is_some_and(|place| place.number == self.number) {
            places.taken.remove(&self.uid);
        }
        self.hub.metrics.streams(places.taken.len());
    }
}
