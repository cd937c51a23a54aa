//! The life of an installation, by a real helm on a real API server. No node runs its pods here; that is the cluster's tests.
use crate::world::World;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;

async fn stored(world: &World) -> Option<String> {
    let map = Api::<ConfigMap>::namespaced(world.client.clone(), &world.control).get_opt("signet-mesh").await.unwrap();
    map.and_then(|map| map.data?.get("trust-domain").cloned())
}

#[tokio::test]
async fn an_installation_keeps_its_trust_domain_and_its_ca_bundle_and_leaves_nothing_that_blocks() {
    let Some(world) = World::start().await else { return };
    world.helm("install", &[]).expect("installed");

    // From the cluster's own id, and immutable.
    let cluster = Api::<Namespace>::all(world.client.clone()).get("kube-system").await.unwrap().uid().unwrap();
    let id: String = cluster.chars().filter(|c| *c != '-').take(12).collect();
    assert_eq!(stored(&world).await, Some(format!("signet-{id}.mesh")));
    let refused = world.helm("upgrade", &["trustDomain=other.example"]).expect_err("another mesh");
    assert!(refused.contains("every identity begins with it"), "{refused}");

    // What the operator writes stays, whatever helm does.
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    let names = ["namespace.injector.signet.dev", "pod.injector.signet.dev"];
    let written = names.map(|name| json!({"name": name, "clientConfig": {"caBundle": "TEFTVA=="}}));
    let patch = Patch::Strategic(json!({"webhooks": written}));
    webhooks.patch("signet-injector", &PatchParams::default(), &patch).await.unwrap();
    let bundles = async || {
        let all = webhooks.get("signet-injector").await.unwrap().webhooks.unwrap_or_default();
        all.into_iter().filter(|webhook| webhook.client_config.ca_bundle.is_some()).count()
    };
    world.helm("upgrade", &["operator.logLevel=debug"]).expect("upgraded");
    assert_eq!(bundles().await, 2, "after an upgrade");
    world.helm("rollback", &[]).expect("rolled back");
    assert_eq!(bundles().await, 2, "after a rollback");
    assert_eq!(stored(&world).await, Some(format!("signet-{id}.mesh")));

    // Forced: hooks want nodes.
    world.helm("uninstall", &[]).expect("uninstalled");
    let all = ListParams::default();
    assert!(webhooks.list(&all).await.unwrap().items.is_empty());
    assert!(Api::<ValidatingAdmissionPolicy>::all(world.client.clone()).list(&all).await.unwrap().items.is_empty());
    let bindings = Api::<ValidatingAdmissionPolicyBinding>::all(world.client.clone());
    assert!(bindings.list(&all).await.unwrap().items.is_empty());
    // Kept: the rules of users, and who the mesh is.
    let definitions = Api::<CustomResourceDefinition>::all(world.client.clone());
    assert!(definitions.get_opt("allowrules.signet.dev").await.unwrap().is_some());
    assert_eq!(stored(&world).await, Some(format!("signet-{id}.mesh")));
    world.helm("install", &[]).expect("installed again, as the same mesh");
}
