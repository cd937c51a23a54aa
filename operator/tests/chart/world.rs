//! An API server with the chart's webhooks, guard and policies in it.
use crate::helm;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhook, MutatingWebhookConfiguration};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};
use signet_apiserver::{ApiServer, object};
use signet_enroll::settings::File;
use signet_identity::Credentials;
use signet_identity::testing::Authority;
use signet_operator::inject::{self, Outcome, ProbeKey, Settings};
use signet_operator::metrics::Metrics;
use signet_operator::webhook;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

pub(crate) const INJECT: &str = "signet.dev/inject";

pub(crate) struct World {
    pub(crate) server: ApiServer,
    pub(crate) client: Client,
    pub(crate) control: String,
    helm: PathBuf,
}

/// A webhook that the API server of a [`World`] calls, with the permissions that the chart gives and no others.
pub(crate) struct Served {
    pub(crate) authority: Authority,
    pub(crate) port: u16,
    /// Where it is asked, as only the API server is told.
    pub(crate) path: String,
    pub(crate) operator: Client,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) settings: Settings,
    pub(crate) metrics: Metrics,
    pub(crate) tasks: JoinSet<&'static str>,
}

impl World {
    /// A fresh API server, and a control namespace in it. Nothing of the chart yet.
    pub(crate) async fn start() -> Option<Self> {
        let helm = helm::program()?;
        let server = ApiServer::start().await?;
        let client = server.client().await;
        let control = server.namespace("signet-system").await;
        Some(Self { server, client, control, helm })
    }

    /// Applies what the chart renders of these kinds, after `change`.
    pub(crate) async fn apply(&self, kinds: &[&str], change: impl Fn(&mut Value)) {
        let text = helm::template(&self.helm, &self.control, &["trustDomain=example.org"]).unwrap();
        let hook = |object: &Value| object["metadata"]["annotations"].get("helm.sh/hook").is_some();
        let wanted = |object: &Value| kinds.iter().any(|kind| object["kind"] == *kind) && !hook(object);
        for mut object in helm::objects(&text).into_iter().filter(wanted) {
            change(&mut object);
            let text = |key: &str| object[key].as_str().unwrap().to_owned();
            let (version, kind) = (text("apiVersion"), text("kind"));
            let (group, version) = version.split_once('/').unwrap();
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let api = Api::<DynamicObject>::all_with(self.client.clone(), &resource);
            let applied = api.patch(&name, &PatchParams::apply("helm").force(), &Patch::Apply(object)).await;
            applied.unwrap_or_else(|error| panic!("{kind} {name}: {error}"));
        }
    }

    /// Installs the chart and serves its webhook. No kube-proxy leads to the Service here: the API server calls the same webhook
    /// by URL, whose path is the operator's to write.
    pub(crate) async fn webhook_by_url(&self) -> Served {
        let (held, port) = held_port();
        self.helm("install", &["trustDomain=example.org"]).unwrap();
        let by_url = |object: &mut Value| {
            for webhook in object.get_mut("webhooks").and_then(Value::as_array_mut).into_iter().flatten() {
                webhook["clientConfig"] = json!({"url": format!("https://localhost:{port}")});
            }
        };
        self.apply(&["MutatingWebhookConfiguration"], by_url).await;
        let served = self.serve(port).await;
        // The webhook listens there now.
        drop(held);
        let url = self.hooks().await[0].client_config.url.clone().unwrap();
        let path = url.strip_prefix(&format!("https://localhost:{port}")).unwrap().to_owned();
        Served { path, ..served }
    }

    /// Lets the operator write into the webhooks what it does, and ends it.
    pub(crate) async fn webhook_writes(&self) {
        self.serve(0).await.tasks.shutdown().await;
    }

    async fn serve(&self, port: u16) -> Served {
        let operator = self.client_of("signet-operator").await;
        let authority = Authority::new("example.org");
        let credentials = authority.credentials(&self.control, "signet-operator", None);
        let settings = self.settings(&format!("listen = \"127.0.0.1:{port}\"\nnames = [\"localhost\"]\n"));
        let metrics = Metrics::default();
        let mut tasks = JoinSet::new();
        let counted = metrics.webhook.clone();
        let started =
            webhook::start(operator.clone(), credentials.clone(), settings.clone(), counted, &mut tasks).await.unwrap();
        started.ready.clone().wait_for(|ready| *ready).await.unwrap();
        Served { authority, port, path: String::new(), operator, credentials, settings, metrics, tasks }
    }

    /// The webhooks as they are now.
    pub(crate) async fn hooks(&self) -> Vec<MutatingWebhook> {
        let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        api.get("signet-injector").await.unwrap().webhooks.unwrap_or_default()
    }

    /// Runs helm against this API server, on the release `signet` of the control namespace; flags may follow the verb.
    pub(crate) fn helm(&self, verb: &str, set: &[&str]) -> Result<(), String> {
        let (chart, kubeconfig) = (helm::chart(), self.server.kubeconfig());
        let (verb, flags) = verb.split_once(' ').unwrap_or((verb, ""));
        let mut arguments = vec![verb, "signet"];
        arguments.extend(flags.split_whitespace());
        match verb {
            "install" | "upgrade" => arguments.push(chart.to_str().unwrap()),
            "uninstall" => arguments.push("--no-hooks"),
            _ => {}
        }
        arguments.extend(["--namespace", &self.control, "--kubeconfig", kubeconfig.to_str().unwrap()]);
        for setting in set {
            arguments.extend(["--set", setting]);
        }
        let output = helm::run(&self.helm, &arguments);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// A client that may do what the chart allows this service account.
    pub(crate) async fn client_of(&self, account: &str) -> Client {
        let token = signet_apiserver::token(&self.client, &self.control, account, json!({"audiences": []})).await;
        signet_apiserver::client(&self.server.kubeconfig_for(account, &token)).await
    }

    /// A namespace with these labels, as a user makes it.
    pub(crate) async fn namespace(&self, labels: &Value) -> String {
        self.server.namespace_with("shop", labels).await
    }

    pub(crate) async fn label(&self, namespace: &str, labels: &Value) -> Result<(), String> {
        let api = Api::<Namespace>::all(self.client.clone());
        let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
        api.patch(namespace, &PatchParams::default(), &patch).await.map(drop).map_err(|error| error.to_string())
    }

    /// Creates a pod; `dry`: only asks whether it would be.
    pub(crate) async fn create(&self, namespace: &str, pod: &Value, dry: bool) -> Result<Pod, String> {
        let api = Api::<Pod>::namespaced(self.client.clone(), namespace);
        let options = PostParams { dry_run: dry, ..PostParams::default() };
        api.create(&options, &object(pod.clone())).await.map_err(|error| match error {
            kube::Error::Api(status) => status.message,
            other => other.to_string(),
        })
    }

    /// Waits until a pod and a namespace with a typo are refused: then the guard and the policy for labels are in force.
    pub(crate) async fn guarded(&self) {
        let namespace = self.server.namespace("waiting").await;
        let typo = pod(&json!({INJECT: "enabeld"}));
        until("the guard is in force", async || {
            self.create(&namespace, &typo, true).await.is_err_and(|told| told.contains("want enabled or disabled"))
        })
        .await;
        let typo: Namespace = object(json!({"metadata": {"name": "waiting-typo", "labels": {INJECT: "enabeld"}}}));
        let api = Api::<Namespace>::all(self.client.clone());
        let options = PostParams { dry_run: true, ..PostParams::default() };
        until("the policy for labels is in force", async || {
            api.create(&options, &typo).await.is_err_and(|error| error.to_string().contains("found enabeld"))
        })
        .await;
    }

    /// Waits until a pod of this namespace would get its sidecar: then the API server knows the namespace's label and the
    /// webhook. That a pod is admitted says nothing, as long as it knows neither.
    pub(crate) async fn injects(&self, namespace: &str) {
        let plain = pod(&json!({}));
        until("pods are injected", async || {
            let made = self.create(namespace, &plain, true).await.ok().and_then(|made| made.spec).unwrap_or_default();
            made.init_containers.iter().flatten().any(|container| container.name == "signet-sidecar")
        })
        .await;
    }

    /// What injection makes of a pod, without a webhook.
    pub(crate) fn injected(&self, pod: &Value) -> Value {
        let labels = BTreeMap::from([(INJECT.to_owned(), "enabled".to_owned())]);
        match inject::inject(pod, "shop", &labels, &self.settings(""), &ProbeKey::random()) {
            Outcome::Injected(pod) => *pod,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn settings(&self, more: &str) -> Settings {
        let text = format!("[inject]\nimage = \"signet/signet-sidecar:0.1.0\"\n{more}");
        let mut file = File::parse(Path::new("operator.toml"), &text).unwrap();
        let domain = "example.org".parse().unwrap();
        let read = Settings::read(&mut file.root().table("inject"), &domain, &self.control);
        file.finish(|| read).unwrap()
    }
}

/// A port that nobody else is given while the socket is held. It does not listen, so that the webhook can: both have
/// `SO_REUSEADDR`, which tokio sets on every listener.
fn held_port() -> (Socket, u16) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let port = socket.local_addr().unwrap().as_socket().unwrap().port();
    (socket, port)
}

/// A pod with these annotations, as a user writes it.
pub(crate) fn pod(annotations: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "orders-", "labels": {"app": "orders"}, "annotations": annotations},
        "spec": {"containers": [{"name": "app", "image": "orders:1"}]},
    })
}

/// Waits for a condition; a minute is for busy machines.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("within a minute: {what}");
}
