//! The sidecar's end of the control stream: keeps it open, applies what comes whole or not at all, asks what the data path asks,
//! and stores the last configuration so that a restarted sidecar serves without the operator. Started by `run`.
use crate::view::{self, View};
use prost::Message;
use signet_enroll::Status;
use signet_identity::{Credentials, SpiffeId};
use signet_policy::FEATURES;
use signet_proto::control::{self as wire, control_client::ControlClient, down, up};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Between two attempts, doubling: 0.5 s to 30 s with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Edge counters are reported this often.
const REPORT: Duration = Duration::from_secs(10);
/// Destinations that are followed at once: half of what the operator follows for one sidecar. A workload that scans the mesh's
/// ranges takes no more memory than this; what was used least is forgotten for what is asked now.
const FOLLOWED: usize = 2048;
/// How many make room at once, so that each of many new ones does not cost a sort.
const ROOM: usize = FOLLOWED / 8;
/// Nobody there: asked again soon enough when somebody calls again.
const FORGET_UNKNOWN: Duration = Duration::from_mins(1);
/// A destination that is called once a day is still known when the operator is away.
const FORGET: Duration = Duration::from_hours(36);
/// Destinations that came are stored at once, and at most this often; a configuration always at once.
const SAVE: Duration = Duration::from_secs(1);
/// What the operator hears who may send the ranges alone.
const RANGES: &str = "ranges";
/// Largest message taken from the operator. A configuration of 100,000 rules is about 12 MB.
const LARGEST_MESSAGE: usize = 32 << 20;

/// The last configuration and destinations, in a directory that is memory-backed where the platform gives one.
pub struct Store {
    file: PathBuf,
}

/// What is stored: who it was for, and both messages as they came.
#[derive(Clone, PartialEq, prost::Message)]
struct Stored {
    #[prost(string, tag = "1")]
    workload_uid: String,
    #[prost(message, optional, tag = "2")]
    config: Option<wire::Config>,
    #[prost(message, optional, tag = "3")]
    destinations: Option<wire::Destinations>,
}

impl Store {
    /// In this directory.
    pub fn new(directory: &Path) -> Self {
        Self { file: directory.join("configuration.pb") }
    }

    /// What was stored for this workload. Another workload's is not taken, nor what others could have written: it says who may
    /// call.
    fn load(&self, uid: &str) -> io::Result<Option<Stored>> {
        let mut file = match File::open(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => opened?,
        };
        let about = file.metadata()?;
        if about.mode() & 0o077 != 0 || about.uid() != rustix::process::geteuid().as_raw() {
            return Err(io::Error::other("others than this user may read or write it"));
        }
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        let stored = Stored::decode(&*bytes).map_err(io::Error::other)?;
        Ok((stored.workload_uid == uid).then_some(stored))
    }

    /// Replaces what is stored; a crash leaves the old or the new, never half.
    fn save(&self, stored: &Stored) -> io::Result<()> {
        let new = self.file.with_extension("new");
        match std::fs::remove_file(&new) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&stored.encode_to_vec())?;
        std::fs::rename(&new, &self.file)
    }
}

/// The control stream's client.
pub struct Control {
    /// `host:port` of the operator.
    pub address: String,
    /// The identity that the operator must prove.
    pub operator: SpiffeId,
    /// Ours.
    pub credentials: Arc<Credentials>,
    /// Written by us, read by the data path.
    pub view: Arc<View>,
    /// Where the last configuration lies.
    pub store: Store,
    /// Whether the stream stands, for admin.
    pub connected: Arc<AtomicBool>,
    /// Counters for the operator.
    pub edges: crate::report::Edges,
}

/// What is held between two connections.
#[derive(Default)]
struct Held {
    config: Option<wire::Config>,
    destinations: BTreeMap<Vec<u8>, wire::Destination>,
    wanted: BTreeSet<IpAddr>,
    unsaved: bool,
}

impl Held {
    /// Follows an address from now on; `None`: it is followed already, or there is no room. Gives what was forgotten for it.
    /// While the operator is away nothing that is known is given up for a question that nobody answers.
    fn follow(&mut self, address: IpAddr, view: &View, attached: bool) -> Option<Vec<IpAddr>> {
        if self.wanted.contains(&address) {
            return None;
        }
        let mut forgotten = Vec::new();
        if self.wanted.len() >= FOLLOWED {
            // First what was never answered, then where nobody is, then what was called least recently.
            let rank = |address: IpAddr| view.unused(address).map(|(unused, known)| (known, Reverse(unused)));
            let mut all: Vec<_> = self.wanted.iter().map(|address| (rank(*address), *address)).collect();
            all.sort_unstable();
            let may_go = |rank: &Option<(bool, _)>| attached || !rank.as_ref().is_some_and(|(known, _)| *known);
            forgotten = all.into_iter().filter(|(rank, _)| may_go(rank)).take(ROOM).map(|(_, a)| a).collect();
            if forgotten.is_empty() {
                return None;
            }
            self.forget(&forgotten, view);
        }
        self.wanted.insert(address);
        Some(forgotten)
    }

    /// What nobody has called for long enough.
    fn stale(&self, view: &View) -> Vec<IpAddr> {
        let is_stale = |address: &IpAddr| {
            let stale = |(unused, known)| unused >= if known { FORGET } else { FORGET_UNKNOWN };
            view.unused(*address).is_some_and(stale)
        };
        self.wanted.iter().copied().filter(is_stale).collect()
    }

    fn forget(&mut self, addresses: &[IpAddr], view: &View) {
        for address in addresses {
            self.wanted.remove(address);
            self.destinations.remove(&view::octets(*address));
        }
        view.forget(addresses);
        self.unsaved = true;
    }

    /// The configuration that is held, with other ranges; the version of what was offered when it is for another one.
    fn with_ranges(&self, ranges: wire::Ranges) -> Result<wire::Config, Option<wire::Version>> {
        let held = self.config.as_ref();
        let base = held.filter(|held| held.version.as_ref().is_some_and(|version| version.digest == ranges.base));
        let Some(base) = base else { return Err(ranges.version) };
        Ok(wire::Config { version: ranges.version, mesh_ranges: ranges.mesh_ranges, ..base.clone() })
    }

    /// Takes news of what is still followed, all or none of it.
    fn learn(&mut self, mut news: wire::Destinations, view: &View) -> Result<(), view::ViewError> {
        for destination in &news.destinations {
            view::address(&destination.address)?;
        }
        news.destinations.retain(|d| view::address(&d.address).is_ok_and(|a| self.wanted.contains(&a)));
        view.learn(&news)?;
        self.destinations.extend(news.destinations.into_iter().map(|d| (d.address.clone(), d)));
        self.unsaved = true;
        Ok(())
    }
}

impl Control {
    /// Takes the stored configuration, then follows the operator for ever.
    pub async fn run(self, mut questions: mpsc::Receiver<IpAddr>, enrolled: watch::Receiver<Status>) {
        let uid = self.own_uid(enrolled).await;
        let mut held = Held::default();
        match self.store.load(&uid) {
            Ok(Some(stored)) => self.restore(stored, &mut held),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the stored configuration could not be read; waiting for the operator");
            }
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attach(&uid, &mut held, &mut questions, &mut pause).await {
                Ok(()) => tracing::debug!("the operator ended the control stream; attaching again"),
                Err(error) => {
                    tracing::warn!(operator = %self.address, error = %error, "control stream lost; the last configuration stays in force");
                }
            }
            self.save_if_changed(&uid, &mut held);
            let wait = pause.mul_f64(rand::random_range(0.5..1.0));
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Questions that come while there is nobody to ask are remembered for the next stream.
            let until = Instant::now() + wait;
            while let Ok(Some(address)) = tokio::time::timeout_at(until, questions.recv()).await {
                // Without room it is asked again by whoever waits for it.
                let _ = held.follow(address, &self.view, false);
            }
        }
    }

    /// The control stream and the store are this workload's alone, so both wait for the first SVID.
    async fn own_uid(&self, mut enrolled: watch::Receiver<Status>) -> String {
        // An ended sender means that the process is ending.
        drop(enrolled.wait_for(|status| status.serial.is_some()).await);
        let svid = self.credentials.svid();
        svid.as_ref().and_then(|svid| svid.uid()).map_or_else(String::new, ToString::to_string)
    }

    fn restore(&self, stored: Stored, held: &mut Held) {
        let Some(config) = stored.config else { return };
        if let Err(error) = self.view.apply(&config) {
            return tracing::warn!(%error, "the stored configuration is not usable; waiting for the operator");
        }
        held.config = Some(config);
        let mut destinations = stored.destinations.unwrap_or_default();
        destinations.destinations.truncate(FOLLOWED);
        held.wanted = destinations.destinations.iter().filter_map(|d| view::address(&d.address).ok()).collect();
        if let Err(error) = held.learn(destinations, &self.view) {
            return tracing::warn!(%error, "the stored destinations are not usable; asking anew");
        }
        tracing::info!("serving with the stored configuration");
    }

    async fn attach(
        &self,
        uid: &str,
        held: &mut Held,
        questions: &mut mpsc::Receiver<IpAddr>,
        pause: &mut Duration,
    ) -> Result<(), ControlError> {
        let channel = signet_enroll::channel(&self.credentials, self.operator.clone(), &self.address)?;
        let mut client = ControlClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE);
        let (up, outgoing) = mpsc::channel(64);
        let hello = wire::Hello {
            program_version: env!("CARGO_PKG_VERSION").into(),
            features: FEATURES.iter().chain(&[RANGES]).map(ToString::to_string).collect(),
            held: held.config.as_ref().and_then(|c| c.version.clone()),
            wanted: held.wanted.iter().map(|a| view::octets(*a)).collect(),
        };
        say(&up, up::Kind::Hello(hello)).await?;
        let mut news = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let _connected = Connected::new(&self.connected);
        // The operator took us. A stream that ends later, by age or by its certificate, is no failure, even if it had no news.
        *pause = FIRST_PAUSE;
        let (mut report, mut save) = (tokio::time::interval(REPORT), tokio::time::interval(SAVE));
        let mut saved = None;
        loop {
            tokio::select! {
                message = news.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    *pause = FIRST_PAUSE;
                    let is_config = matches!(message.kind, Some(down::Kind::Config(_) | down::Kind::Ranges(_)));
                    self.take(message, held, &up).await?;
                    if is_config {
                        self.save_if_changed(uid, held);
                    } else if saved.is_none_or(|saved: Instant| saved.elapsed() >= SAVE) {
                        self.save_if_changed(uid, held);
                        saved = Some(Instant::now());
                    }
                }
                _ = save.tick() => self.save_if_changed(uid, held),
                question = questions.recv() => {
                    let Some(address) = question else { return Ok(()) };
                    // Asked already: the answer, or its change, comes by itself.
                    if let Some(forgotten) = held.follow(address, &self.view, true) {
                        say(&up, want(&[address], &forgotten)).await?;
                    }
                }
                _ = report.tick() => {
                    let stale = held.stale(&self.view);
                    if !stale.is_empty() {
                        held.forget(&stale, &self.view);
                        say(&up, want(&[], &stale)).await?;
                    }
                    let edges = self.edges.take();
                    if !edges.is_empty() {
                        say(&up, up::Kind::Edges(wire::Edges { edges })).await?;
                    }
                }
            }
        }
    }

    async fn take(
        &self,
        message: wire::Down,
        held: &mut Held,
        up: &mpsc::Sender<wire::Up>,
    ) -> Result<(), ControlError> {
        match message.kind {
            Some(down::Kind::Config(config)) => self.put_in_force(*config, held, up).await,
            Some(down::Kind::Ranges(ranges)) => match held.with_ranges(ranges) {
                Ok(config) => self.put_in_force(config, held, up).await,
                Err(version) => {
                    tracing::error!("the operator's ranges are for another configuration than the one in force");
                    let error = "they are for another configuration than the one in force".into();
                    say(up, up::Kind::Ack(wire::Ack { version, error })).await
                }
            },
            Some(down::Kind::Destinations(news)) => {
                if let Err(error) = held.learn(news, &self.view) {
                    tracing::error!(%error, "the operator's destinations were refused whole");
                }
                Ok(())
            }
            // A message that a newer operator may send and that this sidecar does not know changes nothing.
            None => Ok(()),
        }
    }

    async fn put_in_force(
        &self,
        config: wire::Config,
        held: &mut Held,
        up: &mpsc::Sender<wire::Up>,
    ) -> Result<(), ControlError> {
        let error = match self.view.apply(&config) {
            Ok(()) => {
                tracing::info!(
                    revision = config.version.as_ref().map_or(0, |v| v.revision),
                    rules = config.rules.len(),
                    "configuration applied"
                );
                String::new()
            }
            Err(error) => {
                tracing::error!(%error, "the operator's configuration was refused whole; the last one stays in force");
                error.to_string()
            }
        };
        let version = config.version.clone();
        if error.is_empty() {
            held.config = Some(config);
            held.unsaved = true;
        }
        say(up, up::Kind::Ack(wire::Ack { version, error })).await
    }

    fn save_if_changed(&self, uid: &str, held: &mut Held) {
        if !std::mem::take(&mut held.unsaved) {
            return;
        }
        let destinations = wire::Destinations { destinations: held.destinations.values().cloned().collect() };
        let stored = Stored { workload_uid: uid.into(), config: held.config.clone(), destinations: Some(destinations) };
        if let Err(error) = self.store.save(&stored) {
            tracing::warn!(%error, file = %self.store.file.display(), "the configuration could not be stored; a restart will need the operator");
        }
    }
}

/// Says that the stream stands until dropped.
struct Connected(Arc<AtomicBool>);

impl Connected {
    fn new(flag: &Arc<AtomicBool>) -> Self {
        flag.store(true, Relaxed);
        Self(flag.clone())
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Why a control stream ended.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The operator refused, or could not be reached.
    #[error("{}: {}", .0.code(), .0.message())]
    Refused(#[from] tonic::Status),
    /// The address is not `host:port`.
    #[error(transparent)]
    Address(#[from] signet_enroll::ConnectError),
    /// The stream is gone.
    #[error("the control stream is closed")]
    Closed,
}

fn want(addresses: &[IpAddr], forget: &[IpAddr]) -> up::Kind {
    let octets = |addresses: &[IpAddr]| addresses.iter().map(|a| view::octets(*a)).collect();
    up::Kind::Want(wire::Want { addresses: octets(addresses), forget: octets(forget) })
}

async fn say(up: &mpsc::Sender<wire::Up>, kind: up::Kind) -> Result<(), ControlError> {
    up.send(wire::Up { kind: Some(kind) }).await.map_err(|_| ControlError::Closed)
}

#[cfg(test)]
mod tests;
