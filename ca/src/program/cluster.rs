//! The foundation in a cluster: root, trust state and issuer records in objects that all replicas share, the journal on standard
//! output. Nothing is written to the file system.
use super::{BUSY_KEYS, Foundation, publish_root};
use crate::{
    attest::kubernetes::Attestor,
    clock::Clock,
    config::{Config, Kubernetes},
    kube::{Cluster, bundle, journal::Journal, root, state::ClusterState},
    limits::Buckets,
    metrics::Metrics,
    service::{Callers, Pods},
    trust::Publisher,
};
use anyhow::Context;
use signet_identity::Credentials;
use std::{io::Write, sync::Arc};

/// Reads what the replicas share, or makes it.
pub(super) async fn lay(
    config: &Config,
    settings: &Kubernetes,
    clock: &Clock,
    metrics: &Metrics,
    journal: Box<dyn Write + Send>,
) -> anyhow::Result<Foundation> {
    let trust_domain = &config.trust_domain;
    let cluster = Cluster::connect(settings, &config.control_namespace).await.context("no cluster to work in")?;
    let state =
        Arc::new(ClusterState::new(cluster.clone(), settings.instance.clone(), Journal::new(journal), metrics.clone()));
    let publisher = Arc::new(Publisher::open(state.clone(), clock.clone(), metrics.clone()).await?);
    // The trust state is read before the root: see `root::open`.
    let newest = publisher.newest();
    if newest.state.sequence > 0 && !newest.state.bundles.contains_key(trust_domain) {
        let published = newest.state.bundles.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        anyhow::bail!(
            "the trust state in the cluster is that of {published}, and the configuration says {trust_domain}: a trust domain cannot be changed"
        );
    }
    let published = newest.state.bundles.get(trust_domain).map(|bundle| bundle.roots.clone()).unwrap_or_default();
    let authorities = config.lifetimes.authorities();
    let shared = root::open(&cluster, trust_domain, &published, clock.seconds(), authorities).await?;
    publish_root(&publisher, trust_domain, shared.root.certificate()).await?;
    bundle::apply(&cluster, &publisher, trust_domain).await?;
    let credentials = Credentials::new(publisher.newest().state.clone())?;
    let pods = Pods {
        attestor: Attestor::new(cluster.clone(), settings.peer_address, config.limits.waiting),
        receipts: Arc::new(shared.receipts),
        credentials: credentials.clone(),
        trust_domain: trust_domain.clone(),
        by_token: Buckets::new(config.limits.workload, BUSY_KEYS),
    };
    let (following, followed, kept) = (state.clone(), publisher.clone(), publisher.clone());
    let trust_domain = trust_domain.clone();
    Ok(Foundation {
        ledger: state.into(),
        publisher,
        root: shared.root,
        callers: Callers::Pods(Box::new(pods)),
        credentials,
        chores: vec![
            Box::pin(async move { following.follow(&followed).await }),
            Box::pin(async move { bundle::keep(&cluster, &kept, &trust_domain).await }),
        ],
        closed: None,
    })
}
