//! A control namespace of a test's own, CAs in it, and pods that call them.
use crate::support::{Client, csr, nonce, sha256, shifted_clock};
use k8s_openapi::{
    api::{
        authorization::v1::SelfSubjectAccessReview,
        core::v1::{ConfigMap, Pod},
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
    },
    serde::de::DeserializeOwned,
};
use kube::{Api, Resource, api::PostParams, core::NamespaceResourceScope};
use serde_json::{Value, json};
use signet_apiserver::{ApiServer, PodOptions, client, make_pod, make_service_account, object, pod_token, token};
use signet_ca::{
    config::{Config, Kubernetes, PeerAddress},
    kube::{AUDIENCE, Cluster, journal::Journal, state::ClusterState},
    metrics::Metrics,
    program::{self, Running},
};
use signet_identity::{Bundle, Credentials, PrivateKey, SpiffeId, Svid, TrustState};
use signet_proto::ca::{
    IssueRequest, IssueResponse, KubernetesProof, RenewalProof,
    certificate_authority_client::CertificateAuthorityClient, issue_request::Attestation,
};
use std::{
    io::{self, Write},
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};
use tokio::time::timeout;
use tonic::Status;

pub(crate) const TRUST_DOMAIN: &str = "example.org";

/// One control namespace.
pub(crate) struct World<'a> {
    pub(crate) server: &'a ApiServer,
    /// May do everything.
    pub(crate) client: kube::Client,
    /// The control namespace.
    pub(crate) namespace: String,
    /// Where the workloads are.
    pub(crate) shop: String,
    /// What the CA is given.
    pub(crate) kubeconfig: PathBuf,
}

/// What must become true soon.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let until = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), until).await.unwrap_or_else(|_| panic!("never came: {what}"));
}

async fn create<T>(api: Api<T>, value: Value)
where
    T: Clone + std::fmt::Debug + DeserializeOwned + k8s_openapi::serde::Serialize,
{
    api.create(&PostParams::default(), &object(value)).await.unwrap();
}

/// A namespaced API.
pub(crate) fn within<T: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(
    client: &kube::Client,
    namespace: &str,
) -> Api<T> {
    Api::namespaced(client.clone(), namespace)
}

impl<'a> World<'a> {
    pub(crate) async fn new(server: &'a ApiServer) -> Self {
        let client = server.client().await;
        let (namespace, shop) = (server.namespace("signet-system").await, server.namespace("shop").await);
        make_service_account(&client, &namespace, "signet-ca").await;
        make_service_account(&client, &shop, "orders").await;
        let token = token(&client, &namespace, "signet-ca", json!({"audiences": [], "expirationSeconds": 86400})).await;
        let kubeconfig = server.kubeconfig_for(&namespace, &token);
        let world = Self { server, client, namespace, shop, kubeconfig };
        world.permit().await;
        world
    }

    /// Word by word what the documentation of `signet_ca::kube` asks for.
    async fn permit(&self) {
        let subject = json!([{"kind": "ServiceAccount", "name": "signet-ca", "namespace": self.namespace}]);
        let reference =
            |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
        let wide = format!("signet-ca-{}", self.namespace);
        let rules = json!([
            {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
        ]);
        create(Api::<ClusterRole>::all(self.client.clone()), json!({"metadata": {"name": wide}, "rules": rules})).await;
        let binding =
            json!({"metadata": {"name": wide}, "subjects": subject, "roleRef": reference("ClusterRole", &wide)});
        create(Api::<ClusterRoleBinding>::all(self.client.clone()), binding).await;
        let names = ["signet-trust-state", "signet-issuers", "signet-trust"];
        let rules = json!([
            {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["signet-root"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
            {"apiGroups": [""], "resources": ["configmaps"], "resourceNames": names, "verbs": ["get", "list", "watch", "update", "patch"]},
            {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["create"]},
        ]);
        create(
            within::<Role>(&self.client, &self.namespace),
            json!({"metadata": {"name": "signet-ca"}, "rules": rules}),
        )
        .await;
        let binding =
            json!({"metadata": {"name": "signet-ca"}, "subjects": subject, "roleRef": reference("Role", "signet-ca")});
        create(within::<RoleBinding>(&self.client, &self.namespace), binding).await;
        // The API server learns of roles by a watch of its own.
        let ca = client(&self.kubeconfig).await;
        for attributes in [
            json!({"verb": "get", "resource": "pods"}),
            json!({"verb": "create", "resource": "configmaps", "namespace": self.namespace}),
        ] {
            let review: SelfSubjectAccessReview = object(json!({"spec": {"resourceAttributes": attributes}}));
            eventually("the CA's permissions", || async {
                let answer = Api::all(ca.clone()).create(&PostParams::default(), &review).await;
                answer
                    .ok()
                    .and_then(|review: SelfSubjectAccessReview| review.status)
                    .is_some_and(|status| status.allowed)
            })
            .await;
        }
    }

    /// A running pod of `shop/orders` at the loopback address, from where the tests call.
    pub(crate) async fn pod(&self, name: &str) -> Pod {
        self.pod_at(name, &["127.0.0.1"]).await
    }

    pub(crate) async fn pod_at(&self, name: &str, addresses: &[&str]) -> Pod {
        let options = PodOptions { service_account: "orders", addresses, ..PodOptions::default() };
        make_pod(&self.client, &self.shop, name, &options).await
    }

    /// The token that the kubelet would project into it.
    pub(crate) async fn token(&self, pod: &Pod) -> String {
        pod_token(&self.client, pod, AUDIENCE).await
    }

    pub(crate) fn orders(&self) -> String {
        format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/orders", self.shop)
    }

    /// A replica of this name with these lines more in its configuration, before `[kubernetes]` and in it.
    pub(crate) async fn ca_with(&self, instance: &str, top: &str, kubernetes: &str) -> anyhow::Result<Ca> {
        self.ca_writing(instance, top, kubernetes, Lines::default(), 0).await
    }

    pub(crate) async fn ca(&self, instance: &str) -> Ca {
        self.ca_with(instance, "", "").await.unwrap()
    }

    /// A replica whose journal is this.
    pub(crate) async fn ca_journaling(&self, instance: &str, journal: Box<dyn Write + Send>) -> Ca {
        self.start(instance, "", "", journal, Lines::default(), 0).await.unwrap()
    }

    pub(crate) async fn ca_writing(
        &self,
        instance: &str,
        top: &str,
        kubernetes: &str,
        lines: Lines,
        shifted: i64,
    ) -> anyhow::Result<Ca> {
        self.start(instance, top, kubernetes, Box::new(lines.clone()), lines, shifted).await
    }

    async fn start(
        &self,
        instance: &str,
        top: &str,
        kubernetes: &str,
        journal: Box<dyn Write + Send>,
        lines: Lines,
        shifted: i64,
    ) -> anyhow::Result<Ca> {
        let shift = Arc::new(AtomicI64::new(shifted));
        let clock = shifted_clock(shift.clone());
        let text = format!(
            "trust_domain = \"{TRUST_DOMAIN}\"\ncontrol_namespace = \"{}\"\nlisten = \"[::]:0\"\nhealth = \"[::]:0\"\n{top}\n\
             [kubernetes]\nkubeconfig = \"{}\"\ninstance = \"{instance}\"\n{kubernetes}\n",
            self.namespace,
            self.kubeconfig.display()
        );
        let path = self.server.directory().join(format!("{}-{instance}.toml", self.namespace));
        std::fs::write(&path, text).unwrap();
        let config = Config::read(&path).unwrap_or_else(|problems| panic!("{problems}"));
        let running = program::start_with(config, clock, journal).await?;
        let bundle = Bundle::from_pem(&self.bundle().await.unwrap()).unwrap();
        Ok(Ca { running, lines, shift, bundle, namespace: self.namespace.clone() })
    }

    /// The bundle that a new pod finds.
    pub(crate) async fn bundle(&self) -> Option<String> {
        let found = within::<ConfigMap>(&self.client, &self.namespace).get_opt("signet-trust").await.unwrap();
        found.and_then(|object| object.data.unwrap_or_default().remove("bundle.pem"))
    }

    /// A replica's state without the rest of the CA.
    pub(crate) async fn state(&self, instance: &str) -> Arc<ClusterState> {
        let settings = Kubernetes {
            kubeconfig: Some(self.kubeconfig.clone()),
            peer_address: PeerAddress::Require,
            instance: instance.into(),
        };
        let cluster = Cluster::connect(&settings, &self.namespace).await.unwrap();
        let journal = Journal::new(Box::new(Lines::default()));
        Arc::new(ClusterState::new(cluster, instance.into(), journal, Metrics::default()))
    }
}

/// A replica that serves.
pub(crate) struct Ca {
    pub(crate) running: Running,
    /// Its journal.
    pub(crate) lines: Lines,
    pub(crate) bundle: Bundle,
    pub(crate) namespace: String,
    shift: Arc<AtomicI64>,
}

impl Ca {
    /// Dials over this loopback address and pins the reserved identity.
    pub(crate) fn client_over(&self, host: &str) -> Client {
        let ca: SpiffeId = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/signet-ca", self.namespace).parse().unwrap();
        let address = format!("{host}:{}", self.running.listen.port());
        CertificateAuthorityClient::new(signet_enroll::channel(&self.trusting(), ca, &address).unwrap())
    }

    pub(crate) fn client(&self) -> Client {
        self.client_over("127.0.0.1")
    }

    /// Credentials that trust what a new pod finds.
    pub(crate) fn trusting(&self) -> Arc<Credentials> {
        let bundles = [(TRUST_DOMAIN.parse().unwrap(), self.bundle.clone())].into();
        Credentials::new(TrustState { bundles, ..TrustState::default() }).unwrap()
    }

    /// Sets its clock this many seconds beside the machine's.
    pub(crate) fn shift_clock(&self, seconds: i64) {
        self.shift.store(seconds, Ordering::Relaxed);
    }

    pub(crate) async fn stop(self) {
        self.running.stop().await;
    }
}

/// What a workload holds.
pub(crate) struct Held {
    pub(crate) svid: Svid,
    pub(crate) receipt: Vec<u8>,
}

/// A request with this token and nothing else.
pub(crate) fn request(token: &str, csr: Vec<u8>) -> IssueRequest {
    let attestation = Some(Attestation::Kubernetes(KubernetesProof { token: token.into() }));
    IssueRequest { csr, trust_sequence_held: 0, attestation, renewal: None }
}

/// Asks with this token; the answer's SVID has a key that nobody kept.
pub(crate) async fn ask(client: &mut Client, token: &str) -> Result<IssueResponse, Status> {
    client.issue(request(token, csr())).await.map(tonic::Response::into_inner)
}

/// Asks with this token and keeps what comes.
pub(crate) async fn obtain(client: &mut Client, token: &str) -> Result<Held, Status> {
    let key = PrivateKey::generate().unwrap();
    let answer = client.issue(request(token, request_for(&key))).await?.into_inner();
    Ok(held(answer, &key))
}

/// Renews with a proof of what is held.
pub(crate) async fn renew(client: &mut Client, token: &str, proof_of: &Held) -> Result<Held, Status> {
    let key = PrivateKey::generate().unwrap();
    let csr = request_for(&key);
    let fresh = nonce(client).await?;
    let renewal = proof(proof_of, &proof_of.receipt, &fresh, &csr);
    let answer = client.issue(IssueRequest { renewal: Some(renewal), ..request(token, csr) }).await?.into_inner();
    Ok(held(answer, &key))
}

/// A proof with a receipt of the test's choice.
pub(crate) fn proof(held: &Held, receipt: &[u8], nonce: &[u8], csr: &[u8]) -> RenewalProof {
    let message = [b"signet renew v1\0".as_slice(), nonce, &sha256(csr)].concat();
    RenewalProof {
        chain: held.svid.chain().iter().map(|certificate| certificate.to_vec()).collect(),
        receipt: receipt.to_vec(),
        nonce: nonce.to_vec(),
        signature: held.svid.sign(&message).unwrap(),
    }
}

fn held(answer: IssueResponse, key: &PrivateKey) -> Held {
    let chain = answer.chain.into_iter().map(Into::into).collect();
    Held { svid: Svid::new(chain, key).unwrap(), receipt: answer.receipt }
}

pub(crate) fn request_for(key: &PrivateKey) -> Vec<u8> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let pair = rcgen::KeyPair::try_from(key.to_pkcs8_der().as_slice()).unwrap();
    params.serialize_request(&pair).unwrap().der().to_vec()
}

/// A journal that a test reads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn parsed(&self) -> Vec<Value> {
        let text = self.0.lock().unwrap().clone();
        String::from_utf8(text).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
