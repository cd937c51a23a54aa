//! The composition root: what the operator is built from.
//!
//! ```text
//! files ──(a directory, watched)──> state ──(snapshot, report)──┬──> control (mTLS, sidecars)
//!    or cluster ──(objects, watched)──> its index ──────────────┤
//!    with a webhook that injects sidecars (webhook, HTTPS)       |
//! enroll ──(own SVID, trust)───────────────────────────────────-┼──> control
//!                                                               └──> http (loopback)
//! ```
use crate::cluster;
use crate::config::{Config, Source};
use crate::control::{Hub, serve};
use crate::files::Watch;
use crate::http::Pages;
use crate::metrics::Metrics;
use crate::state::State;
use crate::store::Store;
use crate::webhook;
use anyhow::Context as _;
use signet_enroll::Enroller;
use signet_identity::SpiffeId;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long streams may take to end after SIGTERM; sidecars attach elsewhere or wait, and lose nothing.
const GRACE: Duration = Duration::from_secs(2);
/// How soon a denied peer loses its stream (F38 asks for 5 s).
const LOOKS: Duration = Duration::from_secs(2);

/// An operator that serves.
#[derive(Debug)]
pub struct Program {
    watch: JoinSet<&'static str>,
    tasks: JoinSet<&'static str>,
    lease: Option<cluster::lease::Release>,
    stop: oneshot::Sender<()>,
    control: JoinSet<Result<(), tonic::transport::Error>>,
    /// Where sidecars attach.
    pub listen: SocketAddr,
    /// Health, metrics and status.
    pub health: SocketAddr,
}

/// What brings workloads and rules.
enum Feed {
    Files(Watch, State),
    Cluster(Box<cluster::Index>, kube::Client, cluster::Settings, Views),
}

type Views = tokio::sync::watch::Receiver<std::sync::Arc<cluster::status::View>>;

impl Program {
    /// Opens state and sockets and starts every task.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let own = SpiffeId::workload(&config.enroll.trust_domain, &config.enroll.control_namespace, "signet-operator")?;
        let (identity, namespace) = (own.clone(), config.enroll.control_namespace.clone());
        let state_dir = config.enroll.state_dir.clone();
        let enroller = Enroller::new(config.enroll)?;
        let credentials = enroller.credentials();

        let metrics = Metrics::shared();
        let (source, published) = match config.source {
            Source::Files(directory) => {
                let (state, published) = State::new(config.settings, Store::open(&state_dir)?);
                (Feed::Files(Watch::new(directory), state), published)
            }
            Source::Cluster(cluster) => {
                let client = cluster::connect(&cluster).await?;
                let (index, published, views) = cluster::Index::new(config.settings, &namespace);
                (Feed::Cluster(Box::new(index), client, cluster, views), published)
            }
        };
        let webhook_metrics = metrics.webhook.clone();
        let hub = Hub::new(published.clone(), config.limits, metrics.clone());
        let mut pages = Pages {
            own,
            published,
            hub: hub.clone(),
            metrics: metrics.clone(),
            credentials: credentials.clone(),
            enrolment: enroller.status(),
            webhook: None,
        };

        let health = bind(config.health, "health").await?;
        let control = bind(config.listen, "listen").await?;
        let (health_address, listen) = (health.local_addr()?, control.local_addr()?);

        let mut watch = JoinSet::new();
        let mut lease = None;
        match source {
            Feed::Files(files, state) => {
                watch.spawn(async move {
                    let error = files.run(state, metrics).await;
                    tracing::error!(%error, "watching the documents ended");
                    "files"
                });
            }
            Feed::Cluster(index, client, settings, views) => {
                if let Some(inject) = config.inject {
                    let webhook =
                        webhook::start(client.clone(), credentials.clone(), inject, webhook_metrics, &mut watch)
                            .await?;
                    pages.webhook = Some(webhook.ready);
                }
                cluster::index::spawn(*index, client.clone(), &settings.sidecar_images, hub.clone(), &mut watch);
                if let Some((pod, address)) = cluster::own_place() {
                    let address = SocketAddr::new(address, listen.port()).to_string();
                    let (times, hub, credentials) =
                        (cluster::lease::Times::default(), hub.clone(), credentials.clone());
                    let status = cluster::Status {
                        client,
                        namespace,
                        pod,
                        address,
                        times,
                        views,
                        hub,
                        credentials,
                        own: identity,
                    };
                    lease = Some(status.spawn(&mut watch));
                } else {
                    tracing::warn!("POD_NAME and POD_IP are not set: this replica writes no status");
                }
            }
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            enroller.run().await;
            "enrolment"
        });
        tasks.spawn(async move {
            std::sync::Arc::new(pages).serve(health).await;
            "health"
        });
        let (supervised, trusted) = (hub.clone(), credentials.clone());
        tasks.spawn(async move {
            supervised.supervise(trusted, LOOKS).await;
            "supervision"
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let mut serving = JoinSet::new();
        // A sender that is dropped stops as well.
        serving.spawn(async move { serve(control, &credentials, hub, async { drop(stopped.await) }).await });
        tracing::info!(%listen, health = %health_address, "serving");
        Ok(Self { watch, tasks, lease, stop, control: serving, listen, health: health_address })
    }

    /// Resolves when a task has ended that never should: the program must end then, and be started again.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            Some(ended) = self.watch.join_next() => anyhow::anyhow!("a task ended: {ended:?}"),
            Some(ended) = self.tasks.join_next() => anyhow::anyhow!("a task ended: {ended:?}"),
            Some(ended) = self.control.join_next() => anyhow::anyhow!("the control service ended: {ended:?}"),
        }
    }

    /// Tells the sidecars, and ends.
    pub async fn stop(mut self) {
        // Dropping what is in force ends the streams with a reason.
        self.watch.shutdown().await;
        let _ = self.stop.send(());
        if let Some(lease) = self.lease {
            match timeout(GRACE, lease.now()).await {
                Ok(Ok(())) => {}
                // It ends by itself.
                Ok(Err(error)) => tracing::warn!(%error, "the lease could not be given back"),
                Err(_) => tracing::warn!("the API server does not answer about the lease"),
            }
        }
        // Streams that do not end in time end with the process.
        let _ = timeout(GRACE, self.control.join_next()).await;
    }
}

async fn bind(address: SocketAddr, key: &str) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address} (setting `{key}`)"))
}
