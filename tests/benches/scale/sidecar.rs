//! A sidecar's end of the control stream, and nothing else of it: it takes what it is told, acknowledges, and remembers which
//! generation of its rule it has in force since when.
use crate::objects::Workload;
use signet_identity::{Credentials, SpiffeId};
use signet_proto::control::{Ack, Down, Hello, Up, Version, control_client::ControlClient, down, up};
use std::{
    collections::HashSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Between two tries to attach, doubled each time, as the sidecar does it.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// What a stream has brought so far.
#[derive(Debug, Clone, Default)]
struct Held {
    version: Option<Version>,
    /// The generation of the newest rule, and since when.
    rule: Option<(u64, Instant)>,
    /// Destinations that this stream has told.
    told: HashSet<Vec<u8>>,
}

/// A sidecar.
pub struct Sidecar {
    credentials: Arc<Credentials>,
    operator: SpiffeId,
    address: Ipv4Addr,
    peers: Vec<Ipv4Addr>,
    held: watch::Sender<Held>,
    stream: Option<JoinHandle<()>>,
}

impl Sidecar {
    /// Attached to nobody.
    pub fn new(credentials: Arc<Credentials>, operator: SpiffeId, workload: &Workload) -> Self {
        let (address, peers) = (workload.address, workload.peers.clone());
        Self { credentials, operator, address, peers, held: watch::Sender::default(), stream: None }
    }

    /// Begins to attach, with what it holds. The operator is at every address of this machine, and the kernel calls an address of
    /// its own from that address: each stream comes from its pod's.
    pub fn attach(&mut self, port: u16) {
        let address = SocketAddr::from((self.address, port)).to_string();
        let channel = signet_enroll::channel(&self.credentials, self.operator.clone(), &address);
        let channel = channel.expect("a channel");
        self.held.send_modify(|held| held.told.clear());
        let hello = Hello {
            program_version: "bench".into(),
            features: signet_policy::FEATURES.iter().map(ToString::to_string).collect(),
            held: self.held.borrow().version.clone(),
            wanted: self.peers.iter().map(|address| address.octets().to_vec()).collect(),
        };
        let held = self.held.clone();
        self.stream = Some(tokio::spawn(async move {
            let mut client = ControlClient::new(channel);
            let mut pause = FIRST_PAUSE;
            loop {
                let (say, said) = mpsc::channel(4);
                say.send(Up { kind: Some(up::Kind::Hello(hello.clone())) }).await.expect("there is room");
                if let Ok(attached) = client.attach(ReceiverStream::new(said)).await {
                    return listen(attached.into_inner(), &say, &held).await;
                }
                sleep(pause.mul_f64(rand::random_range(0.5..1.0))).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }));
    }

    /// Cuts the connection without a word.
    pub fn drop_connection(&mut self) {
        if let Some(stream) = self.stream.take() {
            stream.abort();
        }
    }

    /// Resolves when it has a configuration, and this stream has told it every destination.
    pub async fn served(&self) {
        let mut held = self.held.subscribe();
        let all = held.wait_for(|held| held.version.is_some() && held.told.len() == self.peers.len());
        all.await.expect("the sender is ours");
    }

    /// When this generation of its rule, or a newer one, was in force.
    pub async fn has_rule(&self, generation: u64) -> Instant {
        let mut held = self.held.subscribe();
        let there = held.wait_for(|held| held.rule.is_some_and(|(newest, _)| newest >= generation));
        there.await.expect("the sender is ours").rule.expect("just seen").1
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        self.drop_connection();
    }
}

async fn listen(mut hear: Streaming<Down>, say: &mpsc::Sender<Up>, held: &watch::Sender<Held>) {
    while let Ok(Some(message)) = hear.message().await {
        match message.kind {
            Some(down::Kind::Config(config)) => {
                let version = config.version.clone();
                let ack = Ack { version: version.clone(), error: String::new() };
                if say.send(Up { kind: Some(up::Kind::Ack(ack)) }).await.is_err() {
                    return;
                }
                let rule = config.rules.first().map(|rule| (rule.generation, Instant::now()));
                held.send_modify(|held| (held.version, held.rule) = (version, rule));
            }
            Some(down::Kind::Destinations(told)) => {
                let addresses = told.destinations.into_iter().map(|destination| destination.address);
                held.send_modify(|held| held.told.extend(addresses));
            }
            // Nobody says that it takes these alone.
            Some(down::Kind::Ranges(_)) | None => {}
        }
    }
}
