//! The composition root: what the CA is built from, in the order in which it must come to life, and how it ends.
//!
//! ```text
//! files:   state directory ─ store ─┐
//! cluster: API server ─ its objects ┴▶ ledger ─ trust state ─ root ─ issuing CA ─ own certificate   (nothing is open yet)
//!   └▶ gRPC over TLS, health (and, with files, the admin socket)
//! ```
mod cluster;
mod files;

use crate::{
    attest::{Reserved, nonces::Nonces},
    clock::Clock,
    config::Config,
    http,
    issuance::Issuance,
    issuing::Issuing,
    ledger::Ledger,
    limits::{Bench, Buckets},
    metrics::Metrics,
    own::Own,
    root::LocalRoot,
    service::{Callers, MAX_MESSAGE, Parts, Routes, Service},
    store::Closed,
    trust::Publisher,
};
use anyhow::Context;
use rand::RngExt as _;
use rustls_pki_types::CertificateDer;
use signet_enroll::{places::Counts, serve_tls};
use signet_identity::{Bundle, ClientAuth, Credentials, TrustDomain};
use signet_proto::ca::certificate_authority_server::CertificateAuthorityServer;
use std::{io::Write, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::timeout,
};

/// How long open requests may take after the signal to stop.
const GRACE: Duration = Duration::from_secs(5);
/// Keys of buckets that are busy at the same time; a flood of addresses beyond it is refused, not remembered (F26).
const BUSY_KEYS: usize = 100_000;
/// Trust streams of one workload that has shown its certificate: the one it has, and those that it has left and nobody noticed.
const WATCHES_PER_PEER: usize = 8;

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
    store_closed: Option<Closed>,
}

/// What lies below everything else, and differs between files and a cluster.
struct Foundation {
    ledger: Ledger,
    publisher: Arc<Publisher>,
    root: LocalRoot,
    callers: Callers,
    /// What the listener serves with, once there is a certificate.
    credentials: Arc<Credentials>,
    /// Work that goes on for ever.
    chores: Vec<Chore>,
    /// Resolves when the store has ended, where there is one.
    closed: Option<Closed>,
}

/// Ends only when something is wrong.
type Chore = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Brings a CA to life; returns once it serves. In a cluster its journal goes to standard output.
pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Running> {
    start_with(config, clock, Box::new(std::io::stdout())).await
}

/// The same with another place for the lines of a cluster's journal.
pub async fn start_with(config: Config, clock: Clock, journal: Box<dyn Write + Send>) -> anyhow::Result<Running> {
    let metrics = Metrics::default();
    let foundation = match &config.kubernetes {
        None => files::lay(&config, &clock, &metrics).await?,
        Some(settings) => cluster::lay(&config, settings, &clock, &metrics, journal).await?,
    };
    let Foundation { ledger, publisher, root, callers, credentials, chores, closed } = foundation;
    metrics.root_not_after.set(i64::try_from(root.not_after()).unwrap_or(i64::MAX));
    if root.not_after().saturating_sub(clock.seconds()) < config.lifetimes.root.as_secs() / 6 {
        tracing::warn!(not_after = root.not_after(), "the root ends soon, and everything below it with it");
    }

    ledger.fence_issuers().await?;
    let issuing = Arc::new(Issuing::new(Box::new(root), ledger.clone(), clock.clone(), metrics.clone()));
    issuing.replace().await?;
    let lifetime = config.lifetimes.leaf;
    let issuance = Arc::new(Issuance::new(issuing.clone(), ledger.clone(), clock.clone(), metrics.clone(), lifetime)?);
    let own = Own {
        credentials: credentials.clone(),
        reserved: Reserved::new(&config.trust_domain, &config.control_namespace)?,
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
    let (listen, health_address) = (listener.local_addr()?, health.local_addr()?);
    let (stop, stopping) = watch::channel(false);
    let limits = config.limits;
    let door = signet_enroll::Limits {
        connections: limits.connections,
        connections_per_address: limits.connections_per_address,
        whole_ipv6: config.kubernetes.is_some(),
        ..signet_enroll::Limits::default()
    };
    let incoming = serve_tls(listener, &credentials, ClientAuth::Optional, door);
    metrics.watch_listener(incoming.counters());
    let service = Service::new(Parts {
        callers,
        issuance: issuance.clone(),
        publisher: publisher.clone(),
        bench: Bench::new(limits.signing, limits.waiting),
        nonces: Nonces::new().context("the operating system gave no randomness")?,
        clock: clock.clone(),
        metrics: metrics.clone(),
        by_address: Buckets::new(limits.address, BUSY_KEYS),
        failures: Buckets::new(limits.failures, BUSY_KEYS),
        by_workload: Buckets::new(limits.workload, BUSY_KEYS),
        by_peer: Buckets::new(limits.workload, BUSY_KEYS),
        watches: Arc::new(tokio::sync::Semaphore::new(limits.watches)),
        watches_by_address: Counts::new(limits.watches_per_address),
        watches_by_peer: Counts::new(WATCHES_PER_PEER),
        connection_age: limits.connection_age,
        answer_time: limits.answer_time,
        stopping: stopping.clone(),
    });
    let server = tokio::spawn(serve_grpc(incoming, service, limits.connection_age, stopping));

    let mut tasks = JoinSet::new();
    for chore in chores {
        tasks.spawn(chore);
    }
    tasks.spawn(http::serve(health, metrics, readiness(ledger.clone(), issuance)));
    tasks.spawn(async move { issuing.keep().await });
    tasks.spawn(async move { own.keep(own_life).await });
    tasks.spawn(tidy(ledger, clock, config.lifetimes.journal));
    tasks.spawn(follow_trust(publisher, credentials));
    tracing::info!(%listen, health = %health_address, trust_domain = %config.trust_domain, "signet-ca serves");
    Ok(Running { listen, health: health_address, stop, server, tasks, store_closed: closed })
}

impl Running {
    /// Waits until something that must run for ever ends; that is always an error.
    pub async fn failed(&mut self) -> anyhow::Error {
        tokio::select! {
            ended = &mut self.server => anyhow::anyhow!("the gRPC server ended: {ended:?}"),
            () = ended(&mut self.store_closed) => anyhow::anyhow!("the store's writer ended"),
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
        if timeout(GRACE, ended(&mut self.store_closed)).await.is_err() && self.store_closed.is_some() {
            tracing::warn!("the store was still in use when the program ended; SQLite recovers from that");
        }
    }
}

/// Resolves when the store has ended; never where there is none.
async fn ended(closed: &mut Option<Closed>) {
    match closed {
        // That its thread is gone without a word is an end, too.
        Some(closed) => _ = closed.await,
        None => std::future::pending().await,
    }
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

async fn serve_grpc(
    incoming: signet_enroll::Incoming,
    service: Service,
    age: Duration,
    mut stopping: watch::Receiver<bool>,
) -> Result<(), tonic::transport::Error> {
    let age = age.mul_f64(rand::rng().random_range(0.8..1.2));
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<CertificateAuthorityServer<Service>>().await;
    let ca = CertificateAuthorityServer::new(service).max_decoding_message_size(MAX_MESSAGE);
    tonic::transport::Server::builder()
        .timeout(Duration::from_secs(10))
        // No `max_connection_age_grace`: with it tonic 0.14.9 never says goodbye, but waits for both times and then cuts. Calls
        // that are open go on to their end, trust streams to their own age. Replicas differ, and connections by their beginning.
        .max_connection_age(age)
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

/// Ready: the state can be reached, the clock is not behind, and an issuing CA is in force.
fn readiness(ledger: Ledger, issuance: Arc<Issuance>) -> http::Readiness {
    Arc::new(move || {
        let (ledger, issuance) = (ledger.clone(), issuance.clone());
        Box::pin(async move {
            ledger.check().await.map_err(|error| error.to_string())?;
            issuance.prepare().await.map(|_| ()).map_err(|error| error.to_string())
        })
    })
}

async fn tidy(ledger: Ledger, clock: Clock, keep: Duration) {
    loop {
        tokio::time::sleep(Duration::from_mins(1)).await;
        if let Err(error) = ledger.tidy(clock.seconds(), keep).await {
            tracing::warn!(%error, "housekeeping failed; trying again in a minute");
        }
    }
}

/// Takes each newer trust state into the listener's credentials.
async fn follow_trust(publisher: Arc<Publisher>, credentials: Arc<Credentials>) {
    let mut newest = publisher.watch();
    // One may have come between the making of the credentials and now.
    newest.mark_changed();
    while newest.changed().await.is_ok() {
        let published = newest.borrow_and_update().clone();
        if let Err(error) = credentials.adopt_trust(published.state.clone()) {
            tracing::error!(%error, "the CA did not take its own trust state");
        }
    }
}
