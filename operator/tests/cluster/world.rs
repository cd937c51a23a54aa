//! An API server with our definitions, and an operator's index and control service that follow it.
use kube::api::{ApiResource, PostParams};
use kube::core::{DynamicObject, GroupVersionKind};
use kube::{Api, Client};
use serde_json::{Value, json};
use signet_apiserver::ApiServer;
use signet_enroll::channel;
use signet_identity::testing::Authority;
use signet_identity::{Credentials, SpiffeId};
use signet_operator::cluster::{self, watch};
use signet_operator::control::{Hub, Limits, serve};
use signet_operator::crd;
use signet_operator::index::{Settings, Snapshot};
use signet_operator::metrics::Metrics;
use signet_operator::state::Published;
use signet_policy::{Decision, Egress, Posture};
use signet_proto::control::control_client::ControlClient;
use signet_proto::control::{Config, Down, Hello, Up, Version, Want, down, up};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{OnceCell, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

pub(crate) const SOON: Duration = Duration::from_secs(60);

/// Looks again until something is so.
pub(crate) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let found = timeout(SOON, async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            sleep(Duration::from_millis(50)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// The server that most tests share, with the definition and the admission policy in force.
pub(crate) async fn shared() -> Option<&'static ApiServer> {
    static READY: OnceCell<()> = OnceCell::const_new();
    let server = signet_apiserver::shared().await?;
    READY
        .get_or_init(|| async {
            let client = server.client().await;
            install(&client, true).await;
        })
        .await;
    Some(server)
}

/// Makes the definition, and with `policy` the admission policy; waits until both are in force.
pub(crate) async fn install(client: &Client, policy: bool) {
    for (_, object) in crd::files().into_iter().take(if policy { 3 } else { 1 }) {
        let object: DynamicObject = serde_json::from_value(object).unwrap();
        let types = object.types.clone().unwrap();
        let (group, version) = types.api_version.split_once('/').unwrap();
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind));
        Api::all_with(client.clone(), &resource).create(&PostParams::default(), &object).await.unwrap();
    }
    let rules = watch::rules(client);
    until("the definition is served", || async { rules.list(&kube::api::ListParams::default()).await.ok() }).await;
    if policy {
        let spec = json!({"target": {"all": true}, "from": [], "nonsense": 1});
        until("the policy refuses", || async { create(client, "default", "probe", &spec, true).await.err() }).await;
    }
}

/// Makes a rule as it stands, unknown fields and all; the API server's words when it refuses.
pub(crate) async fn create(
    client: &Client,
    namespace: &str,
    name: &str,
    spec: &Value,
    dry: bool,
) -> Result<DynamicObject, String> {
    let document = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule", "metadata": {"name": name, "namespace": namespace}, "spec": spec,
    });
    create_document(client, namespace, &document, dry).await
}

pub(crate) async fn create_document(
    client: &Client,
    namespace: &str,
    document: &Value,
    dry: bool,
) -> Result<DynamicObject, String> {
    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &watch::resource());
    let parameters = PostParams { dry_run: dry, field_manager: None };
    let object: DynamicObject = serde_json::from_value(document.clone()).map_err(|error| error.to_string())?;
    rules.create(&parameters, &object).await.map_err(|error| error.to_string())
}

/// An operator without its own enrolment: index, control service, nothing written.
pub(crate) struct Operator {
    pub(crate) authority: Arc<Authority>,
    pub(crate) published: Published,
    pub(crate) hub: Arc<Hub>,
    pub(crate) views: tokio::sync::watch::Receiver<Arc<cluster::status::View>>,
    pub(crate) address: SocketAddr,
    credentials: Arc<Credentials>,
    client: Client,
    control_namespace: String,
    tasks: JoinSet<&'static str>,
    lease: Option<cluster::lease::Release>,
    _serving: JoinSet<()>,
}

/// Repository of the sidecar's image in these tests.
pub(crate) const SIDECAR: &str = "signet/signet-sidecar";

pub(crate) async fn operator(client: &Client) -> Operator {
    operator_of(client, Authority::new("mesh.example"), "signet-system").await
}

pub(crate) async fn operator_of(
    client: &Client,
    authority: impl Into<Arc<Authority>>,
    control_namespace: &str,
) -> Operator {
    operator_told(client, authority, control_namespace, |changes| changes).await
}

/// Its index hears what the watches bring by way of `relay`.
pub(crate) async fn operator_told(
    client: &Client,
    authority: impl Into<Arc<Authority>>,
    control_namespace: &str,
    relay: impl FnOnce(mpsc::Receiver<watch::Told>) -> mpsc::Receiver<watch::Told>,
) -> Operator {
    let authority: Arc<Authority> = authority.into();
    let settings = Settings {
        trust_domain: authority.trust_domain.clone(),
        mesh_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let credentials = authority.credentials("signet-system", "signet-operator", None);
    let (index, published, views) = cluster::Index::new(settings, control_namespace);
    let hub = Hub::new(published.clone(), Limits::default(), Metrics::shared());
    let mut tasks = JoinSet::new();
    let changes = relay(watch::start(client, &[SIDECAR.into()], &mut tasks));
    tasks.spawn(index.run(client.clone(), changes, hub.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut serving = JoinSet::new();
    let (served, own) = (hub.clone(), credentials.clone());
    serving.spawn(async move {
        let _ends_with_the_test = serve(listener, &own, served, std::future::pending()).await;
    });
    let (client, control_namespace) = (client.clone(), control_namespace.to_owned());
    Operator {
        authority,
        published,
        hub,
        views,
        address,
        credentials,
        client,
        control_namespace,
        tasks,
        lease: None,
        _serving: serving,
    }
}

/// A sidecar's end of the control stream.
pub(crate) struct Sidecar {
    pub(crate) say: mpsc::Sender<Up>,
    hear: Streaming<Down>,
}

impl Operator {
    /// Waits until the index says so.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut snapshots = self.published.snapshot.clone();
        let found = timeout(SOON, snapshots.wait_for(|snapshot| snapshot.as_ref().is_some_and(|s| holds(s))));
        let found = found.await.unwrap_or_else(|_| panic!("{what}: not in time")).unwrap();
        found.clone().unwrap()
    }

    /// Begins to try for the lease and to write status, as the replica in this pod.
    pub(crate) fn write_status(&mut self, pod: &str) {
        // A turn may take as long as `renew`: a busy machine must not make a holder lose the lease.
        let times = cluster::lease::Times { lasts: Duration::from_secs(15), renew: Duration::from_secs(2) };
        let status = cluster::Status {
            client: self.client.clone(),
            namespace: self.control_namespace.clone(),
            pod: pod.into(),
            address: self.address.to_string(),
            times,
            views: self.views.clone(),
            hub: self.hub.clone(),
            credentials: self.credentials.clone(),
            own: self.identity(),
        };
        self.lease = Some(status.spawn(&mut self.tasks));
    }

    /// Stops as the program stops: everything that writes ends, then the lease is given back.
    pub(crate) async fn stop(mut self) {
        self.tasks.shutdown().await;
        if let Some(lease) = self.lease {
            lease.now().await.unwrap();
        }
    }

    pub(crate) fn identity(&self) -> SpiffeId {
        self.authority.id("signet-system", "signet-operator")
    }

    /// Attaches the sidecar of a pod.
    pub(crate) async fn attach(&self, namespace: &str, account: &str, uid: &str) -> Sidecar {
        self.attach_holding(namespace, account, uid, None).await
    }

    /// Attaches the sidecar of a pod, which holds this already.
    pub(crate) async fn attach_holding(
        &self,
        namespace: &str,
        account: &str,
        uid: &str,
        held: Option<Version>,
    ) -> Sidecar {
        let credentials: Arc<Credentials> = self.authority.credentials(namespace, account, Some(uid));
        let channel = channel(&credentials, self.identity(), &self.address.to_string()).unwrap();
        let (say, said) = mpsc::channel(16);
        let features = signet_policy::FEATURES.iter().map(ToString::to_string).collect();
        let hello = Hello { program_version: "test".into(), features, held, wanted: Vec::new() };
        say.send(Up { kind: Some(up::Kind::Hello(hello)) }).await.unwrap();
        let hear = ControlClient::new(channel).attach(ReceiverStream::new(said)).await.unwrap().into_inner();
        Sidecar { say, hear }
    }
}

impl Sidecar {
    /// Asks for a destination; whether the answer is what comes next.
    pub(crate) async fn hears_nothing_but(&mut self, wanted: [u8; 4]) -> bool {
        let want = Want { addresses: vec![wanted.to_vec()], forget: Vec::new() };
        self.say.send(Up { kind: Some(up::Kind::Want(want)) }).await.unwrap();
        let next = timeout(SOON, self.hear.message()).await.expect("nothing came in time").unwrap();
        matches!(next.expect("the stream ended").kind, Some(down::Kind::Destinations(_)))
    }

    /// The next configuration.
    pub(crate) async fn config(&mut self) -> Config {
        loop {
            let message = timeout(SOON, self.hear.message()).await.expect("nothing came in time").unwrap();
            if let Some(down::Kind::Config(config)) = message.expect("the stream ended").kind {
                return *config;
            }
        }
    }

    /// The first configuration that is so; what comes before it is acknowledged too.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&Config) -> bool) -> Config {
        let found = timeout(SOON, async {
            loop {
                let config = self.config().await;
                let ack = signet_proto::control::Ack { version: config.version.clone(), error: String::new() };
                self.say.send(Up { kind: Some(up::Kind::Ack(ack)) }).await.unwrap();
                if holds(&config) {
                    return config;
                }
            }
        });
        found.await.unwrap_or_else(|_| panic!("{what}: not in time"))
    }
}
