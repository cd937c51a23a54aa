//! One stream's state: what the sidecar holds, what it asked for, and what it was last told. Synchronous: messages and
//! snapshots in, messages out. Everything that a peer can send goes through here, and through its fuzz test.
use super::hub::Confirmed;
use crate::index::{Refusal, Snapshot, fingerprint};
use signet_identity::{SpiffeId, WorkloadUid};
use signet_proto::control::{
    Config, Destination, Destinations, Down, Edge, Hello, Ranges, Up, Version, Want, down, up,
};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A sidecar may ask for so many destinations at once; what goes beyond is answered as unknown, which denies inside the mesh.
/// A busy gateway talks to some hundreds.
pub(super) const MAX_WANTS: usize = 4096;
/// Destinations in one message; a Service with 1,000 endpoints takes about 150 KB.
const CHUNK: usize = 64;
/// What a sidecar says that takes [`Ranges`].
const RANGES: &str = "ranges";
/// How many revisions replicas may have made without the API server's help.
const STEPS: u64 = 1000;
/// Texts of a peer that are kept for `/status` are cut here.
const MAX_TEXT: usize = 200;

/// What a peer did that ends its stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Something else came first.
    #[error("the first message must be hello")]
    NoHello,
    /// A second one.
    #[error("hello must come once")]
    SecondHello,
    /// A message of a kind that this operator does not know.
    #[error("a message of an unknown kind")]
    UnknownMessage,
    /// Neither 4 nor 16 bytes, or IPv4 inside IPv6.
    #[error("an address must be 4 or 16 bytes, and not IPv4 inside IPv6")]
    Address,
}

/// What a message asks of the stream beyond an [`Session::update`].
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// The sidecar has asked or forgotten: call `update`.
    Update,
    /// A configuration was applied whole: its revision and digest.
    Applied(u64, String),
    /// A configuration was refused: nothing of it is in force there. The sidecar's words, bounded and escaped.
    Refused(u64, String),
    /// It speaks of a configuration newer than any that it held or was sent: nothing is believed of it.
    Unsent,
    /// Counters.
    Edges(Vec<Edge>),
}

/// The state of one stream.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own, and none follows from another")]
pub struct Session {
    identity: SpiffeId,
    uid: Option<WorkloadUid>,
    greeted: bool,
    /// What the sidecar holds, or was sent last.
    told: Option<Version>,
    /// That was in force here during this stream, so that what is in force here now is newer.
    ours: bool,
    /// How many questions this operator had asked the API server when the stream's hello had come.
    pub questions: u64,
    /// Digest of the configuration that was sent last on this stream, without version and ranges; none when it was refused.
    body: Option<[u8; 32]>,
    /// The sidecar takes the ranges alone.
    takes_ranges: bool,
    /// What it held when it came.
    pub held: Option<Version>,
    /// What it asked for, with the digest of what it was told of it.
    wants: BTreeMap<IpAddr, Option<[u8; 32]>>,
    /// Asked for beyond the limit since the last update.
    beyond: Vec<IpAddr>,
    /// The sidecar came with another configuration, and it is not known that this operator's is newer: it must not go back.
    pub behind: bool,
    /// From the hello, bounded and escaped.
    pub program_version: String,
    /// Features that this operator's rules may need and that the sidecar lacks.
    pub lacking: Vec<&'static str>,
}

impl Session {
    /// A stream of the peer that proved this.
    pub fn new(identity: SpiffeId, uid: Option<WorkloadUid>) -> Self {
        Self {
            identity,
            uid,
            greeted: false,
            told: None,
            ours: false,
            questions: u64::MAX,
            body: None,
            takes_ranges: false,
            held: None,
            wants: BTreeMap::new(),
            beyond: Vec::new(),
            behind: false,
            program_version: String::new(),
            lacking: Vec::new(),
        }
    }

    /// Takes one message.
    pub fn take(&mut self, up: Up) -> Result<Effect, Fault> {
        match up.kind {
            Some(up::Kind::Hello(hello)) => self.hello(hello).map(|()| Effect::Update),
            _ if !self.greeted => Err(Fault::NoHello),
            Some(up::Kind::Want(want)) => self.want(&want).map(|()| Effect::Update),
            Some(up::Kind::Ack(ack)) => {
                let Version { revision, digest } = ack.version.unwrap_or_default();
                Ok(if revision > self.told() {
                    Effect::Unsent
                } else if ack.error.is_empty() {
                    Effect::Applied(revision, plain(&digest))
                } else {
                    self.body = None;
                    Effect::Refused(revision, plain(&ack.error))
                })
            }
            Some(up::Kind::Edges(edges)) => Ok(Effect::Edges(edges.edges)),
            None => Err(Fault::UnknownMessage),
        }
    }

    fn hello(&mut self, hello: Hello) -> Result<(), Fault> {
        if self.greeted {
            return Err(Fault::SecondHello);
        }
        self.greeted = true;
        self.program_version = plain(&hello.program_version);
        let has = |feature: &&&str| !hello.features.iter().any(|f| f == **feature);
        self.lacking = signet_policy::FEATURES.iter().filter(has).copied().collect();
        self.takes_ranges = hello.features.iter().any(|feature| feature == RANGES);
        self.held = hello.held.clone().map(|held| Version { digest: plain(&held.digest), ..held });
        self.told = hello.held;
        self.want(&Want { addresses: hello.wanted, forget: Vec::new() })
    }

    /// Addresses are all read before any is taken: a message applies whole or ends the stream.
    fn want(&mut self, want: &Want) -> Result<(), Fault> {
        let addresses = want.addresses.iter().map(|bytes| address(bytes)).collect::<Result<Vec<_>, _>>()?;
        let forget = want.forget.iter().map(|bytes| address(bytes)).collect::<Result<Vec<_>, _>>()?;
        for address in forget {
            self.wants.remove(&address);
        }
        for address in addresses {
            if self.wants.len() < MAX_WANTS || self.wants.contains_key(&address) {
                // Asked again: told again.
                self.wants.insert(address, None);
            } else if self.beyond.len() < MAX_WANTS {
                self.beyond.push(address);
            }
        }
        Ok(())
    }

    /// Everything that this sidecar must hear now. Refused when the snapshot no longer gives it to this peer. `confirmed` must
    /// have been read before the snapshot.
    pub fn update(&mut self, snapshot: &Snapshot, confirmed: Option<Confirmed>) -> Result<Vec<Down>, Refusal> {
        let member = snapshot.authorize(&self.identity, self.uid.as_ref())?;
        if !self.greeted {
            return Ok(Vec::new());
        }
        let mut messages = Vec::new();
        let known = self.told.as_ref().is_some_and(|told| told.digest == snapshot.digest(member));
        let newer = self.told.as_ref().is_none_or(|told| match confirmed {
            None => told.revision < snapshot.revision(),
            Some(confirmed) => self.covered(told.revision, confirmed),
        });
        let newer = self.ours || newer;
        self.behind = !known && !newer;
        // From the same content one goes on.
        self.ours |= known;
        if !known && newer {
            let config = snapshot.config(member);
            messages.push(self.tell(config));
        }
        let mut changed: Vec<Destination> = Vec::new();
        for (address, told) in &mut self.wants {
            let now = snapshot.told(member, *address);
            if *told != Some(now.fingerprint) {
                *told = Some(now.fingerprint);
                changed.push(now.destination.clone());
            }
        }
        let unknown = Snapshot::default();
        changed.extend(self.beyond.drain(..).map(|address| unknown.destination(member, address)));
        let chunks = changed.chunks(CHUNK).map(|chunk| Destinations { destinations: chunk.to_vec() });
        messages.extend(chunks.map(|chunk| Down { kind: Some(down::Kind::Destinations(chunk)) }));
        Ok(messages)
    }

    /// What to send of a configuration: all of it, or what has changed when that is little.
    fn tell(&mut self, mut config: Config) -> Down {
        let (mut version, mesh_ranges) = (config.version.take(), std::mem::take(&mut config.mesh_ranges));
        // A sidecar takes nothing older. It alone hears of this number: the content is what counts, and is the same for all.
        if let (Some(version), Some(told)) = (&mut version, &self.told) {
            version.revision = version.revision.max(told.revision.saturating_add(1));
        }
        self.ours = true;
        let base = std::mem::replace(&mut self.told, version.clone()).unwrap_or_default().digest;
        let body = self.takes_ranges.then(|| fingerprint(&config));
        let alone = body.is_some() && self.body == body;
        self.body = body;
        let kind = if alone {
            down::Kind::Ranges(Ranges { version, base, mesh_ranges })
        } else {
            down::Kind::Config(Box::new(Config { version, mesh_ranges, ..config }))
        };
        Down { kind: Some(kind) }
    }

    /// Whether everything is in force here that the sidecar can have held when it came, at this revision. Either nothing newer
    /// than that is missing here, or all of it was there before the API server was asked: then the number only has to be one
    /// that somebody can have given out, with the steps that replicas make by themselves.
    fn covered(&self, revision: u64, confirmed: Confirmed) -> bool {
        let asked_later = self.questions < confirmed.question;
        revision <= confirmed.revision || (asked_later && revision <= confirmed.revision.saturating_add(STEPS))
    }

    /// How many destinations it follows.
    pub fn wants(&self) -> usize {
        self.wants.len()
    }

    /// The revision it was last sent, or holds.
    pub fn told(&self) -> u64 {
        self.told.as_ref().map_or(0, |version| version.revision)
    }
}

fn address(bytes: &[u8]) -> Result<IpAddr, Fault> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::V4(Ipv4Addr::from(four)));
    }
    let sixteen = <[u8; 16]>::try_from(bytes).map_err(|_| Fault::Address)?;
    let address = Ipv6Addr::from(sixteen);
    if address.to_ipv4_mapped().is_some() { Err(Fault::Address) } else { Ok(IpAddr::V6(address)) }
}

/// A peer's words for logs and `/status`: bounded, and without control characters.
fn plain(text: &str) -> String {
    text.chars().take(MAX_TEXT).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
