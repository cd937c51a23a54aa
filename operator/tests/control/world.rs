//! An operator's control service on loopback, with certificates from a CA made for the test.
use signet_enroll::channel;
use signet_identity::testing::Authority;
use signet_identity::{Credentials, SpiffeId};
use signet_operator::control::{Hub, Limits, serve};
use signet_operator::documents::{Directory, Reading};
use signet_operator::index::Settings;
use signet_operator::metrics::Metrics;
use signet_operator::state::{Outcome, Published, State};
use signet_operator::store::Store;
use signet_policy::{Decision, Egress, Posture};
use signet_proto::control::control_client::ControlClient;
use signet_proto::control::{Config, Destination, Down, Hello, Up, Version, Want, down, up};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

pub(crate) const SOON: Duration = Duration::from_secs(60);

pub(crate) struct World {
    pub(crate) authority: Authority,
    pub(crate) address: SocketAddr,
    pub(crate) hub: Arc<Hub>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) state: State,
    pub(crate) published: Published,
    pub(crate) operator: Arc<Credentials>,
    _directory: tempfile::TempDir,
}

pub(crate) struct Attached {
    pub(crate) say: mpsc::Sender<Up>,
    pub(crate) hear: Streaming<Down>,
}

pub(crate) const MESH: &str = "\
apiVersion: signet.dev/v1alpha1
kind: Workload
metadata: {name: a, namespace: shop}
spec: {serviceAccount: a, uid: uid-a, addresses: [10.77.0.2]}
---
apiVersion: signet.dev/v1alpha1
kind: Workload
metadata: {name: b, namespace: shop}
spec: {serviceAccount: b, uid: uid-b, addresses: [10.77.0.3]}
";
pub(crate) const RULE: &str = "\
---
apiVersion: signet.dev/v1alpha1
kind: AllowRule
metadata: {name: r, namespace: shop}
spec: {target: {all: true}, from: [{serviceAccount: a}]}
";

pub(crate) async fn world(limits: Limits, text: Option<&str>) -> World {
    let authority = Authority::new("mesh.example");
    let operator = authority.credentials("signet-system", "signet-operator", None);
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        trust_domain: authority.trust_domain.clone(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let (state, published) = State::new(settings, Store::open(directory.path()).unwrap());
    let metrics = Metrics::shared();
    let hub = Hub::new(published.clone(), limits, metrics.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (credentials, served) = (operator.clone(), hub.clone());
    tokio::spawn(async move { serve(listener, &credentials, served, std::future::pending()).await });
    tokio::spawn(hub.clone().supervise(operator.clone(), Duration::from_millis(50)));
    let mut world = World { authority, address, hub, metrics, state, published, operator, _directory: directory };
    if let Some(text) = text {
        assert_eq!(world.apply(text), Outcome::Applied);
    }
    world
}

impl World {
    pub(crate) fn apply(&mut self, text: &str) -> Outcome {
        let mut reading = Reading::default();
        reading.add(&Arc::from("mesh.yaml"), text);
        reading.finish();
        self.state.apply(Directory { reading, state: Vec::new(), newest: 1 })
    }

    pub(crate) fn operator_id(&self) -> SpiffeId {
        self.authority.id("signet-system", "signet-operator")
    }

    pub(crate) async fn attach_with(&self, credentials: &Arc<Credentials>, first: Up) -> Result<Attached, Status> {
        let channel = channel(credentials, self.operator_id(), &self.address.to_string()).unwrap();
        let (say, said) = mpsc::channel(16);
        say.send(first).await.unwrap();
        let hear = ControlClient::new(channel).attach(ReceiverStream::new(said)).await?.into_inner();
        Ok(Attached { say, hear })
    }

    pub(crate) async fn attach(&self, account: &str, uid: Option<&str>, first: Up) -> Result<Attached, Status> {
        self.attach_with(&self.authority.credentials("shop", account, uid), first).await
    }
}

impl Attached {
    pub(crate) async fn next(&mut self) -> Result<Option<down::Kind>, Status> {
        let message = timeout(SOON, self.hear.message()).await.expect("nothing came in time")?;
        Ok(message.map(|down| down.kind.expect("an empty message")))
    }
    pub(crate) async fn config(&mut self) -> Config {
        match self.next().await {
            Ok(Some(down::Kind::Config(config))) => *config,
            other => panic!("no configuration but {other:?}"),
        }
    }
    pub(crate) async fn destinations(&mut self) -> Vec<Destination> {
        match self.next().await {
            Ok(Some(down::Kind::Destinations(destinations))) => destinations.destinations,
            other => panic!("no destinations but {other:?}"),
        }
    }
    pub(crate) async fn end(&mut self) -> Code {
        match self.next().await {
            Ok(None) => Code::Ok,
            Ok(Some(other)) => panic!("no end but {other:?}"),
            Err(status) => status.code(),
        }
    }
    pub(crate) async fn say(&self, kind: up::Kind) {
        self.say.send(Up { kind: Some(kind) }).await.unwrap();
    }
}

pub(crate) fn hello(held: Option<Version>) -> Up {
    let features = signet_policy::FEATURES.iter().map(ToString::to_string).collect();
    let hello = Hello { program_version: "test".into(), features, held, wanted: Vec::new() };
    Up { kind: Some(up::Kind::Hello(hello)) }
}

pub(crate) fn want(address: [u8; 4]) -> up::Kind {
    up::Kind::Want(Want { addresses: vec![address.to_vec()], forget: Vec::new() })
}
