//! The composition root: what the CA is built from, in the order in which it must come to life, and how it ends.
//!
//! ```text
//! state directory ─ store ─ trust state ─ root ─ issuing CA ─ own certificate      (nothing is open yet)
//!   └▶ gRPC over TLS, health on loopback, admin socket
//! ```
use crate::{
    admin::server as admin,
    attest::{Reserved, nonces::Nonces},
    clock::Clock,
    config::Config,
    http,
    issuance::Issuance,
    issuing::Issuing,
    limits::{Bench, Buckets},
    metrics::Metrics,
    own::Own,
    root::LocalRoot,
    service::{MAX_MESSAGE, Parts, Routes, Service},
    state_dir::StateDir,
    store::{Closed, Store},
    trust::Publisher,
};
use anyhow::Context;
use rustls_pki_types::CertificateDer;
use signet_enroll::serve_tls;
use signet_identity::{Bundle, ClientAuth, Credentials, TrustDomain};
use signet_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use std::{fs::OpenOptions, net::SocketAddr, os::unix::fs::OpenOptionsExt, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// The bundle for operators to copy to those who join, PEM, mode 0644.
pub const BUNDLE: &str = "bundle.pem";
/// How long open requests may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Keys of buckets that are busy at the same time; a flood of addresses beyond it is refused, not remembered (F26).
const BUSY_KEYS: usize = 100_000;

/// A CA that serves.
#[derive(Debug)]
pub struct Running {
    /// Where gRPC listens.
    pub listen: SocketAddr,
    /// Where health and metrics listen.
    pub health: SocketAddr,
    stop: watch::Sender<bool>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    tasks: JoinSet<()>,
    store_closed: Closed,
    // Held as long as anything runs.
    _state: Arc<StateDir>,
}

/// Brings a CA to life; returns once it serves.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Running> {
    let metrics = Metrics::default();
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let (store, store_closed) = open_store(&state, &config.trust_domain, &metrics)?;
    let store = Arc::new(store);
    let publisher = Arc::new(Publisher::open(store.clone(), clock.clone(), metrics.clone())?);
    let root = open_root(&state, &publisher, &config, &clock)?;
    metrics.root_not_after.set(i64::try_from(root.not_after()).unwrap_or(i64::MAX));
    if root.not_after().saturating_sub(clock.seconds()) < config.lifetimes.root.as_secs() / 6 {
        tracing::warn!(not_after = root.not_after(), "the root ends soon, and everything below it with it");
    }
    publish_root(&publisher, &config.trust_domain, root.certificate()).await?;
    write_bundle(&state, &publisher, &config.trust_domain)?;

    store.fence_issuers().await?;
    let issuing = Arc::new(Issuing::new(Box::new(root), store.clone(), clock.clone(), metrics.clone()));
    issuing.replace().await?;
    let lifetime = config.lifetimes.leaf;
    let issuance = Arc::new(Issuance::new(issuing.clone(), store.clone(), clock.clone(), metrics.clone(), lifetime)?);
    let reserved = Reserved::new(&config.trust_domain, &config.control_namespace)?;
    let own = Own {
        credentials: Credentials::new(publisher.newest().state.clone())?,
        reserved: reserved.clone(),
        issuance: issuance.clone(),
        publisher: publisher.clone(),
        clock: clock.clone(),
        metrics: metrics.clone(),
    };
    let own_life = own.renew().await?;

    let bind = |address: SocketAddr| async move {
        TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
    };
    let (listener, health) = (bind(config.listen).await?, bind(config.health).await?);
    let admin_listener = admin::listen(&config.admin_socket)?;
    let (listen, health_address) = (listener.local_addr()?, health.local_addr()?);
    let (stop, stopping) = watch::channel(false);
    let incoming = serve_tls(listener, &own.credentials, ClientAuth::None);
    metrics.watch_listener(incoming.counters());
    let limits = config.limits;
    let service = Service::new(Parts {
        store: store.clone(),
        issuance: issuance.clone(),
        publisher: publisher.clone(),
        bench: Bench::new(limits.signing, limits.waiting),
        nonces: Nonces::new().context("the operating system gave no randomness")?,
        clock: clock.clone(),
        metrics: metrics.clone(),
        by_address: Buckets::new(limits.address, BUSY_KEYS),
        failures: Buckets::new(limits.failures, BUSY_KEYS),
        by_workload: Buckets::new(limits.workload, BUSY_KEYS),
        watches: Arc::new(tokio::sync::Semaphore::new(limits.watches)),
        answer_time: limits.answer_time,
        stopping: stopping.clone(),
    });
    let server = tokio::spawn(serve_grpc(incoming, service, stopping));

    let mut tasks = JoinSet::new();
    let admin = admin::Admin {
        store: store.clone(),
        publisher: publisher.clone(),
        reserved,
        trust_domain: config.trust_domain.clone(),
        token_lifetime: config.lifetimes.join_token,
        clock: clock.clone(),
    };
    tasks.spawn(admin::serve(admin_listener, Arc::new(admin)));
    tasks.spawn(http::serve(health, metrics, readiness(store.clone(), issuance)));
    let credentials = own.credentials.clone();
    tasks.spawn(async move { issuing.keep().await });
    tasks.spawn(async move { own.keep(own_life).await });
    tasks.spawn(tidy(store, clock, config.lifetimes.journal));
    tasks.spawn(follow_trust(state.clone(), publisher, credentials, config.trust_domain.clone()));
    tracing::info!(%listen, health = %health_address, trust_domain = %config.trust_domain, "signet-ca serves");
    Ok(Running { listen, health: health_address, stop, server, tasks, store_closed, _state: state })
}

impl Running {
    /// Waits until something that must run for ever ends; that is always an error.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = &mut self.server => anyhow::anyhow!("the gRPC server ended: {ended:?}"),
            _ = &mut self.store_closed => anyhow::anyhow!("the store's writer ended"),
            ended = self.tasks.join_next() => anyhow::anyhow!("a task that must not end has ended: {ended:?}"),
        }
    }

    /// Stops: no new requests, open ones get a grace.
    pub async fn stop(mut self) {
        // Without receivers there is nobody left to tell.
        let _ = self.stop.send(true);
        if timeout(GRACE, &mut self.server).await.is_err() {
            tracing::warn!("some connections were still open after {} s", GRACE.as_secs());
            self.server.abort();
        }
        self.tasks.shutdown().await;
        if timeout(GRACE, self.store_closed).await.is_err() {
            tracing::warn!("the store was still in use when the program ended; SQLite recovers from that");
        }
    }
}

fn open_store(state: &StateDir, trust_domain: &TrustDomain, metrics: &Metrics) -> anyhow::Result<(Store, Closed)> {
    let path = state.file("state.db");
    // Made here so that its mode does not hang on the umask; SQLite gives its other files the same.
    OpenOptions::new().create(true).append(true).mode(0o600).open(&path).with_context(|| path.display().to_string())?;
    Store::open(&path, trust_domain, metrics.clone()).with_context(|| path.display().to_string())
}

fn open_root(state: &StateDir, publisher: &Publisher, config: &Config, clock: &Clock) -> anyhow::Result<LocalRoot> {
    let newest = publisher.newest();
    let mut published = newest.state.bundles.get(&config.trust_domain).map(|b| b.roots.clone()).unwrap_or_default();
    if published.is_empty()
        && let Some(pem) = state.read(BUNDLE)?
    {
        // The store is gone but the bundle was published: that too is no moment for a new root.
        let path = state.file(BUNDLE);
        let bundle = Bundle::from_pem(&pem).with_context(|| {
            format!("{} is not a bundle; move it away if no workload was ever given it", path.display())
        })?;
        published = bundle.roots;
    }
    let authorities = config.lifetimes.authorities();
    Ok(LocalRoot::open(state, &config.trust_domain, &published, clock.seconds(), authorities)?)
}

async fn publish_root(
    publisher: &Publisher,
    trust_domain: &TrustDomain,
    root: &CertificateDer<'static>,
) -> anyhow::Result<()> {
    let add = |state: &mut signet_identity::TrustState| {
        let bundle = state.bundles.entry(trust_domain.clone()).or_insert_with(|| Bundle { roots: Vec::new() });
        if !bundle.roots.contains(root) {
            bundle.roots.push(root.clone());
        }
    };
    publisher.publish(add).await?;
    Ok(())
}

fn write_bundle(state: &StateDir, publisher: &Publisher, trust_domain: &TrustDomain) -> anyhow::Result<()> {
    let newest = publisher.newest();
    if let Some(bundle) = newest.state.bundles.get(trust_domain) {
        state.write(BUNDLE, bundle.to_pem().as_bytes(), 0o644)?;
    }
    Ok(())
}

async fn serve_grpc(
    incoming: signet_enroll::Incoming,
    service: Service,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CertificateAuthorityServer<Service>>().await;
    let ca = CertificateAuthorityServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .timeout(Duration::from_secs(10))
        .max_concurrent_streams(256)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .http2_max_header_list_size(16 * 1024)
        // Streams opened and reset at once (rapid reset, F29): the connection is closed beyond this.
        .http2_max_pending_accept_reset_streams(Some(32))
        .serve_with_incoming_shutdown(Routes { ca, health }, incoming, async move {
            // A sender that is gone means stop as well.
            let _ = stopping.wait_for(|stopping| *stopping).await;
        })
        .await
}

/// Ready: the store answers, the clock is not behind, and an issuing CA is in force.
fn readiness(store: Arc<Store>, issuance: Arc<Issuance>) -> http::Readiness {
    Arc::new(move || {
        let (store, issuance) = (store.clone(), issuance.clone());
        Box::pin(async move {
            store.check().await.map_err(|error| error.to_string())?;
            issuance.prepare().await.map(|_| ()).map_err(|error| error.to_string())
        })
    })
}

async fn tidy(store: Arc<Store>, clock: Clock, keep: Duration) {
    loop {
        tokio::time::sleep(Duration::from_mins(1)).await;
        let now = clock.seconds();
        if let Err(error) = store.tidy(now, now.saturating_sub(keep.as_secs())).await {
            tracing::warn!(%error, "housekeeping in the store failed; trying again in a minute");
        }
    }
}

/// Takes each newer trust state into the listener's credentials and the bundle file.
async fn follow_trust(
    state: Arc<StateDir>,
    publisher: Arc<Publisher>,
    credentials: Arc<Credentials>,
    trust_domain: TrustDomain,
) {
    let mut newest = publisher.watch();
    while newest.changed().await.is_ok() {
        let published = newest.borrow_and_update().clone();
        if let Err(error) = credentials.adopt_trust(published.state.clone()) {
            tracing::error!(%error, "the CA did not take its own trust state");
        }
        if let Err(error) = write_bundle(&state, &publisher, &trust_domain) {
            tracing::error!(%error, "the bundle file was not written");
        }
    }
}
