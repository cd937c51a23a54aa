//! The foundation outside a cluster: a directory that is ours alone, with the root's key and SQLite, and the admin socket.
use super::{Foundation, publish_root};
use crate::{
    admin::server as admin,
    attest::Reserved,
    clock::Clock,
    config::Config,
    metrics::Metrics,
    root::LocalRoot,
    service::Callers,
    state_dir::StateDir,
    store::{Closed, Store},
    trust::Publisher,
};
use anyhow::Context;
use signet_identity::{Bundle, Credentials, TrustDomain};
use std::{fs::OpenOptions, os::unix::fs::OpenOptionsExt, sync::Arc};

/// The bundle for operators to copy to those who join, PEM, mode 0644.
const BUNDLE: &str = "bundle.pem";

/// Opens what lies in the state directory, or makes it.
pub(super) async fn lay(config: &Config, clock: &Clock, metrics: &Metrics) -> anyhow::Result<Foundation> {
    let state = Arc::new(StateDir::open(&config.state_dir)?);
    let (store, closed) = open_store(&state, &config.trust_domain, metrics)?;
    let store = Arc::new(store);
    let publisher = Arc::new(Publisher::open(store.clone(), clock.clone(), metrics.clone()).await?);
    let root = open_root(&state, &publisher, config, clock)?;
    publish_root(&publisher, &config.trust_domain, root.certificate()).await?;
    write_bundle(&state, &publisher, &config.trust_domain)?;
    let admin_listener = admin::listen(&config.admin_socket)?;
    let admin = admin::Admin {
        store: store.clone(),
        publisher: publisher.clone(),
        reserved: Reserved::new(&config.trust_domain, &config.control_namespace)?,
        trust_domain: config.trust_domain.clone(),
        token_lifetime: config.lifetimes.join_token,
        clock: clock.clone(),
    };
    Ok(Foundation {
        ledger: store.clone().into(),
        root,
        callers: Callers::Hosts(store),
        credentials: Credentials::new(publisher.newest().state.clone())?,
        chores: vec![
            Box::pin(admin::serve(admin_listener, Arc::new(admin))),
            Box::pin(keep_bundle(state, publisher.clone(), config.trust_domain.clone())),
        ],
        publisher,
        closed: Some(closed),
    })
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

fn write_bundle(state: &StateDir, publisher: &Publisher, trust_domain: &TrustDomain) -> anyhow::Result<()> {
    let newest = publisher.newest();
    if let Some(bundle) = newest.state.bundles.get(trust_domain) {
        state.write(BUNDLE, bundle.to_pem().as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Writes each newer bundle; holds the state directory, and with it its lock, as long as the CA runs.
async fn keep_bundle(state: Arc<StateDir>, publisher: Arc<Publisher>, trust_domain: TrustDomain) {
    let mut newest = publisher.watch();
    while newest.changed().await.is_ok() {
        newest.mark_unchanged();
        if let Err(error) = write_bundle(&state, &publisher, &trust_domain) {
            tracing::error!(%error, "the bundle file was not written");
        }
    }
}
