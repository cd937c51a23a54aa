//! The sidecar's end of the control stream: keeps it open, applies what comes whole or not at all, asks what the data path asks,
//! and stores the last configuration so that a restarted sidecar serves without the operator. Started by `run`.
use crate::view::{self, View};
use prost::Message;
use signet_identity::{Credentials, SpiffeId};
use signet_policy::FEATURES;
use signet_proto::control::{self as wire, control_client::ControlClient, down, up};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Between two attempts, doubling: 0.5 s to 30 s with jitter.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Edge counters are reported this often.
const REPORT: Duration = Duration::from_secs(10);
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

    /// What was stored for this workload. Another workload's is not taken.
    fn load(&self, uid: &str) -> io::Result<Option<Stored>> {
        let bytes = match std::fs::read(&self.file) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read?,
        };
        let stored = Stored::decode(&*bytes).map_err(io::Error::other)?;
        Ok((stored.workload_uid == uid).then_some(stored))
    }

    /// Replaces what is stored; a crash leaves the old or the new, never half.
    fn save(&self, stored: &Stored) -> io::Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, stored.encode_to_vec())?;
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
}

impl Control {
    /// Takes the stored configuration, then follows the operator for ever.
    pub async fn run(self, mut questions: mpsc::Receiver<IpAddr>) {
        let uid = self.own_uid().await;
        let mut held = Held::default();
        match self.store.load(&uid) {
            Ok(Some(stored)) => self.restore(stored, &mut held),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, "the stored configuration could not be read; waiting for the operator")
            }
        }
        let mut pause = FIRST_PAUSE;
        loop {
            match self.attach(&uid, &mut held, &mut questions, &mut pause).await {
                Ok(()) => tracing::debug!("the operator ended the control stream; attaching again"),
                Err(error) => {
                    tracing::warn!(operator = %self.address, error = %error, "control stream lost; the last configuration stays in force")
                }
            }
            let wait = pause.mul_f64(rand::random_range(0.5..1.0));
            pause = (pause * 2).min(LONGEST_PAUSE);
            // Questions that come while there is nobody to ask are remembered for the next stream.
            let until = tokio::time::Instant::now() + wait;
            while let Ok(Some(address)) = tokio::time::timeout_at(until, questions.recv()).await {
                held.wanted.insert(address);
            }
        }
    }

    /// The control stream and the store are this workload's alone, so both wait for the first SVID.
    async fn own_uid(&self) -> String {
        loop {
            if let Some(svid) = self.credentials.svid() {
                return svid.uid().map_or_else(String::new, ToString::to_string);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn restore(&self, stored: Stored, held: &mut Held) {
        let Some(config) = stored.config else { return };
        if let Err(error) = self.view.apply(&config) {
            return tracing::warn!(%error, "the stored configuration is not usable; waiting for the operator");
        }
        held.config = Some(config);
        let destinations = stored.destinations.unwrap_or_default();
        if let Err(error) = self.view.learn(&destinations) {
            return tracing::warn!(%error, "the stored destinations are not usable; asking anew");
        }
        for destination in destinations.destinations {
            if let Ok(address) = view::address(&destination.address) {
                held.wanted.insert(address);
            }
            held.destinations.insert(destination.address.clone(), destination);
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
            features: FEATURES.iter().map(ToString::to_string).collect(),
            held: held.config.as_ref().and_then(|c| c.version.clone()),
            wanted: held.wanted.iter().map(|a| view::octets(*a)).collect(),
        };
        say(&up, up::Kind::Hello(hello)).await?;
        let mut news = client.attach(ReceiverStream::new(outgoing)).await?.into_inner();
        let _connected = Connected::new(&self.connected);
        let mut report = tokio::time::interval(REPORT);
        loop {
            tokio::select! {
                message = news.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    *pause = FIRST_PAUSE;
                    self.take(message, held, &up).await?;
                    self.save(uid, held);
                }
                question = questions.recv() => {
                    let Some(address) = question else { return Ok(()) };
                    // Asked already: the answer, or its change, comes by itself.
                    if held.wanted.insert(address) {
                        say(&up, up::Kind::Want(wire::Want { addresses: vec![view::octets(address)], forget: vec![] })).await?;
                    }
                }
                _ = report.tick() => {
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
            Some(down::Kind::Config(config)) => {
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
                }
                say(up, up::Kind::Ack(wire::Ack { version, error })).await
            }
            Some(down::Kind::Destinations(news)) => {
                match self.view.learn(&news) {
                    Ok(()) => held.destinations.extend(news.destinations.into_iter().map(|d| (d.address.clone(), d))),
                    Err(error) => tracing::error!(%error, "the operator's destinations were refused whole"),
                }
                Ok(())
            }
            // A message that a newer operator may send and that this sidecar does not know changes nothing.
            None => Ok(()),
        }
    }

    fn save(&self, uid: &str, held: &Held) {
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

async fn say(up: &mpsc::Sender<wire::Up>, kind: up::Kind) -> Result<(), ControlError> {
    up.send(wire::Up { kind: Some(kind) }).await.map_err(|_| ControlError::Closed)
}
