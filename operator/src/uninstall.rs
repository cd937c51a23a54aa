//! What `helm uninstall` asks of this program: before, whether pods are still in the mesh; afterwards, to take away what was
//! made while it ran. The chart's hooks call both.
use crate::inject::SIDECAR;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// How many pods a page of the list holds.
const PAGE: u32 = 500;
/// How many are named before the rest is counted.
const NAMED: usize = 20;

/// Pods that still have a sidecar and have not ended, as `namespace/name`, sorted.
pub async fn injected(client: &Client) -> Result<Vec<String>, kube::Error> {
    let api = Api::<Pod>::all(client.clone());
    let mut found = Vec::new();
    let mut page = ListParams::default().limit(PAGE);
    loop {
        let pods = api.list(&page).await?;
        found.extend(
            pods.items
                .iter()
                .filter(|pod| is_injected(pod))
                .map(|pod| format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())),
        );
        match pods.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    found.sort();
    Ok(found)
}

fn is_injected(pod: &Pod) -> bool {
    let ended = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let containers = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    !matches!(ended, Some("Succeeded" | "Failed"))
        && containers.into_iter().any(|c| c.name == SIDECAR && c.restart_policy.as_deref() == Some("Always"))
}

/// Why uninstalling is refused, naming the pods and both ways on.
pub fn refusal(pods: &[String]) -> String {
    let named = pods.iter().take(NAMED).map(String::as_str).collect::<Vec<_>>().join("\n  ");
    let more = pods.len().saturating_sub(NAMED);
    let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
    format!(
        "{} pods still have a sidecar; without CA and operator their connections last until their certificates end:\n  \
         {named}{more}\n\
         Take them out of the mesh first (remove the label or annotation signet.dev/inject, then restart them), \
         or uninstall all the same with `helm uninstall --no-hooks`. Helm has the release down as being uninstalled now: \
         `helm rollback` to its last revision (`helm history`) makes it a release again, and \
         `helm upgrade --reuse-values --set uninstall.force=true` lets the next `helm uninstall` go.",
        pods.len()
    )
}

/// Deletes what this program and its webhook made while they ran: copies of the bundle, the webhook's CA, the lease. With
/// `purge` also root, trust state and bundle, all together: one without the others is of no use, or harm.
pub async fn clean(client: &Client, control_namespace: &str, purge: bool) -> Result<(), kube::Error> {
    let copies = ListParams::default().fields("metadata.name=signet-trust");
    for copy in Api::<ConfigMap>::all(client.clone()).list(&copies).await? {
        let namespace = copy.namespace().unwrap_or_default();
        if namespace != control_namespace {
            delete(&Api::<ConfigMap>::namespaced(client.clone(), &namespace), "signet-trust").await?;
        }
    }
    delete(&Api::<Secret>::namespaced(client.clone(), control_namespace), "signet-webhook-ca").await?;
    delete(&Api::<Lease>::namespaced(client.clone(), control_namespace), "signet-operator").await?;
    if purge {
        delete(&Api::<Secret>::namespaced(client.clone(), control_namespace), "signet-root").await?;
        let maps = Api::<ConfigMap>::namespaced(client.clone(), control_namespace);
        for name in ["signet-trust-state", "signet-issuers", "signet-trust", "signet-mesh"] {
            delete(&maps, name).await?;
        }
    }
    Ok(())
}

/// Fine when it is not there.
async fn delete<K>(api: &Api<K>, name: &str) -> Result<(), kube::Error>
where
    K: Resource + Clone + DeserializeOwned + Debug,
{
    match api.delete(name, &DeleteParams::default()).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
