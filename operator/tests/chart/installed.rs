//! The life of an installation, by a real helm on a real API server. No node runs its pods here; that is the cluster's tests.
use crate::world::World;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};

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

    // What the operator writes stays, whatever helm does and however it does it.
    world.webhook_writes().await;
    let configs = async || world.hooks().await.into_iter().map(|hook| hook.client_config).collect::<Vec<_>>();
    let written = configs().await;
    for config in &written {
        assert!(config.ca_bundle.as_ref().is_some_and(|bundle| !bundle.0.is_empty()), "{config:?}");
        let path = config.service.as_ref().and_then(|service| service.path.as_deref()).unwrap_or_default();
        assert!(path.strip_prefix("/inject/").is_some_and(|secret| secret.len() == 64), "{config:?}");
    }
    for apply in ["true", "false"] {
        let level = format!("operator.logLevel={}", if apply == "true" { "debug" } else { "warn" });
        world.helm(&format!("upgrade --server-side={apply}"), &[&level]).expect("upgraded");
        assert_eq!(configs().await, written, "after an upgrade with --server-side={apply}");
        world.helm(&format!("rollback --server-side={apply}"), &[]).expect("rolled back");
        assert_eq!(configs().await, written, "after a rollback with --server-side={apply}");
    }
    assert_eq!(stored(&world).await, Some(format!("signet-{id}.mesh")));

    // Forced: hooks want nodes.
    world.helm("uninstall", &[]).expect("uninstalled");
    let all = ListParams::default();
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
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
