//! The injection webhook: what the API server asks before a pod that opted in is created.
//!
//! ```text
//! API server ──HTTPS──▶ server ─▶ review ─▶ inject::inject (pure)
//!                         ▲          ├─▶ trust: ConfigMap `signet-trust` is in the pod's namespace before the answer is
//!                         │          └─▶ events: what happened, on the pod
//!                    certificate: from the webhook's own small CA (`authority`), in a Secret that all replicas share;
//!                                 writes `caBundle` and the secret `path`, makes our Namespace the owner of webhooks,
//!                                 policies and bindings
//! ```
//!
//! Every replica serves alike. Nothing here depends on the mesh's root: a mesh whose CA is away still injects. [`start`] is
//! called by `program`, in a cluster only.

mod authority;
mod bodies;
mod certificate;
mod events;
mod json;
mod metrics;
mod path;
mod review;
mod server;
mod trust;

pub use metrics::Metrics;

use crate::inject::Settings;
use anyhow::Context as _;
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{Api, Client, ResourceExt as _};
use signet_enroll::rates::{Buckets, Rate};
use signet_identity::Credentials;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Who writes, for server-side apply.
const MANAGER: &str = "signet-operator";
/// The webhook's Service.
const SERVICE: &str = "signet-webhook";
/// Namespaces that are busy at the same time.
const NAMESPACES: usize = 4096;

/// A webhook that serves.
#[derive(Debug)]
pub struct Webhook {
    /// Where.
    pub listen: SocketAddr,
    /// Whether it has a certificate that the API server trusts; for readiness.
    pub ready: watch::Receiver<bool>,
}

/// Opens the webhook's socket, and adds its tasks to `tasks`; none of them ever ends.
pub async fn start(
    client: Client,
    credentials: Arc<Credentials>,
    settings: Settings,
    metrics: Metrics,
    tasks: &mut JoinSet<&'static str>,
) -> anyhow::Result<Webhook> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("cannot listen on {} (setting `inject.listen`)", settings.listen))?;
    let listen = listener.local_addr()?;
    let settings = Arc::new(settings);
    let (keeper, resolver, answered, ready) = certificate::Keeper::new(client.clone(), &settings);
    let trust = Arc::new(trust::Copies::new(client.clone(), credentials, &settings));
    let (events, recorder) = events::channel(client.clone());
    let reviewer = review::Reviewer { client, settings, trust: trust.clone(), events };
    let tls = server::tls(resolver)?;
    tasks.spawn(async move {
        keeper.keep().await;
        "webhook certificate"
    });
    tasks.spawn(async move {
        trust.keep().await;
        "trust copies"
    });
    tasks.spawn(async move {
        recorder.run().await;
        "events"
    });
    tasks.spawn(async move {
        server::serve(listener, tls, answered, reviewer, metrics).await;
        "webhook"
    });
    tracing::info!(%listen, "the injection webhook serves");
    Ok(Webhook { listen, ready })
}

/// Our Namespace as an owner: what it owns is gone soon after it.
async fn owner(client: &Client, namespace: &str) -> Result<OwnerReference, kube::Error> {
    let namespace = Api::<Namespace>::all(client.clone()).get(namespace).await?;
    Ok(OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Namespace".to_owned(),
        name: namespace.name_any(),
        uid: namespace.uid().unwrap_or_default(),
        ..OwnerReference::default()
    })
}

/// Whether the API server said this.
fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}

/// A call that is not answered by then is given up; the webhook itself is given 5 s.
async fn in_time<T>(call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, CallError> {
    Ok(tokio::time::timeout(Duration::from_secs(3), call).await.map_err(|_| CallError::Late)??)
}

/// Why the API server could not be asked.
#[derive(Debug, thiserror::Error)]
enum CallError {
    #[error("the API server did not answer within 3 s")]
    Late,
    #[error("too many pods of namespaces without the label signet.dev/inject opt in for the first time at once")]
    TooOften,
    #[error("the CA's bundle is not known yet")]
    NoBundle,
    #[error(transparent)]
    Refused(#[from] kube::Error),
}

/// So many in all, and so many in one namespace.
struct Limit {
    all: Buckets<()>,
    by_namespace: Buckets<String>,
    begun: Instant,
}

impl Limit {
    fn new(all: Rate, of_namespace: Rate) -> Self {
        let by_namespace = Buckets::new(of_namespace, NAMESPACES);
        Self { all: Buckets::new(all, 1), by_namespace, begun: Instant::now() }
    }

    fn allows(&self, namespace: &str) -> bool {
        let now = self.begun.elapsed();
        self.by_namespace.take(&namespace.to_owned(), now).is_ok() && self.all.take(&(), now).is_ok()
    }
}

#[cfg(test)]
mod tests;
