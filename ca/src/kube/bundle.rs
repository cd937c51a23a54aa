//! The ConfigMap with the bundle that a new pod finds: it authenticates first contact and nothing else. Every replica keeps it
//! at the newest trust state, and puts it back when somebody changes or deletes it.
use super::{Cluster, ClusterError, FIRST_PAUSE, LONGEST_PAUSE, MANAGER, TRUST, within};
use crate::{store::StoreError, trust::Publisher};
use futures::StreamExt;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    api::{Patch, PatchParams},
    runtime::{WatchStreamExt, watcher::watch_object},
};
use serde_json::json;
use signet_identity::{Bundle, TrustDomain};
use std::pin::pin;

/// The key with the roots, PEM.
pub const BUNDLE: &str = "bundle.pem";

/// Writes the newest bundle, whatever is there.
pub async fn apply(cluster: &Cluster, publisher: &Publisher, trust_domain: &TrustDomain) -> Result<(), ClusterError> {
    let Some(pem) = newest(publisher, trust_domain) else { return Ok(()) };
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {
            "name": TRUST,
            "labels": {"app.kubernetes.io/part-of": "signet", "app.kubernetes.io/managed-by": "signet-ca"},
        },
        "data": {BUNDLE: pem},
    });
    let params = PatchParams::apply(MANAGER).force();
    within("publishing the bundle", cluster.config_maps().patch(TRUST, &params, &Patch::Apply(object))).await?;
    Ok(())
}

/// Keeps it at that, for ever.
pub async fn keep(cluster: &Cluster, publisher: &Publisher, trust_domain: &TrustDomain) {
    let mut newest_state = publisher.watch();
    let mut events = pin!(watch_object(cluster.config_maps(), TRUST).default_backoff());
    let mut there: Option<ConfigMap> = None;
    loop {
        tokio::select! {
            changed = newest_state.changed() => if changed.is_err() { return },
            event = events.next() => match event {
                Some(Ok(object)) => there = object,
                Some(Err(error)) => {
                    tracing::warn!(%error, "the bundle in the cluster is not watched; trying again");
                    continue;
                }
                None => return,
            },
        }
        let found = there.as_ref().and_then(|object| object.data.as_ref()?.get(BUNDLE).cloned());
        let mut pause = FIRST_PAUSE;
        while found != newest(publisher, trust_domain) {
            match put_right(cluster, publisher, trust_domain, found.as_ref()).await {
                Ok(()) => break,
                Err(error) => {
                    tracing::error!(%error, "the bundle in the cluster is not the newest; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }
}

/// Another replica may have published a trust state of which its bundle tells first: then that bundle is the newest.
async fn put_right(
    cluster: &Cluster,
    publisher: &Publisher,
    trust_domain: &TrustDomain,
    found: Option<&String>,
) -> Result<(), StoreError> {
    publisher.reload().await?;
    if found != newest(publisher, trust_domain).as_ref() {
        apply(cluster, publisher, trust_domain).await?;
    }
    Ok(())
}

fn newest(publisher: &Publisher, trust_domain: &TrustDomain) -> Option<String> {
    publisher.newest().state.bundles.get(trust_domain).map(Bundle::to_pem)
}
