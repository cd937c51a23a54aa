//! The guard and the policy for labels, on a real API server, while no webhook answers.
use crate::world::{INJECT, World, pod, until};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use signet_apiserver::object;

const POLICIES: [&str; 3] =
    ["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "MutatingWebhookConfiguration"];

#[tokio::test]
async fn f35_the_guard_refuses_what_opted_in_without_a_sidecar_and_nothing_else() {
    let Some(world) = World::start().await else { return };
    // Labelled before Signet came.
    let old = world.namespace(&json!({INJECT: "enabeld"})).await;
    world.apply(&POLICIES, |_| {}).await;
    world.guarded().await;
    table(&world, &old).await;
    taken(&world).await;
    debugging(&world).await;
    labels(&world, &old).await;
}

/// Every cell of label and annotation.
async fn table(world: &World, old: &str) {
    const ADMITTED: &str = "";
    const BARE: &str = "has no Signet sidecar";
    const WRONG: &str = "want enabled or disabled";
    for (label, none, enabled, disabled, typo) in [
        (None, ADMITTED, BARE, ADMITTED, WRONG),
        (Some("enabled"), BARE, BARE, ADMITTED, WRONG),
        (Some("disabled"), ADMITTED, BARE, ADMITTED, WRONG),
        (Some("enabeld"), ADMITTED, BARE, ADMITTED, WRONG),
    ] {
        let namespace = match label {
            Some("enabeld") => old.to_owned(),
            Some(label) => world.namespace(&json!({INJECT: label})).await,
            None => world.namespace(&json!({})).await,
        };
        for (annotation, expected) in [
            (None, none),
            (Some("enabled"), enabled),
            (Some("disabled"), disabled),
            (Some("enabeld"), typo),
            (Some(""), typo),
            (Some("Enabled"), typo),
        ] {
            let annotations = annotation.map_or(json!({}), |value| json!({INJECT: value}));
            let told = world.create(&namespace, &pod(&annotations), true).await.err().unwrap_or_default();
            let cell = format!("label {label:?}, annotation {annotation:?}");
            assert_eq!(told.is_empty(), expected.is_empty(), "{cell}: {told}");
            assert!(told.contains(expected), "{cell}: {told}");
            if expected == BARE {
                let injected = world.injected(&pod(&json!({INJECT: "enabled"})));
                world.create(&namespace, &injected, true).await.unwrap_or_else(|error| panic!("{cell}: {error}"));
            }
        }
    }
    // A pod without annotations at all, and the namespaces that nobody looks into.
    let namespace = world.namespace(&json!({INJECT: "enabled"})).await;
    let bare = json!({"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "app", "image": "x"}]}});
    assert!(world.create(&namespace, &bare, true).await.is_err());
    world.create(&world.control, &pod(&json!({INJECT: "enabeld"})), true).await.expect("not ours to refuse");
}

/// Names, ports, images, the user, the host's network.
async fn taken(world: &World) {
    let namespace = world.namespace(&json!({INJECT: "enabled"})).await;
    let other = world.namespace(&json!({})).await;
    let refused = async |change: &dyn Fn(&mut Value), words: &str| {
        let mut changed = world.injected(&pod(&json!({})));
        change(&mut changed);
        let told = world.create(&namespace, &changed, true).await.expect_err(words);
        assert!(told.contains(words), "{words}: {told}");
    };
    refused(&|pod| pod["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 2137}), "2137").await;
    refused(&|pod| pod["spec"]["securityContext"] = json!({"runAsUser": 2137}), "2137").await;
    let init = json!({"name": "first", "image": "x", "securityContext": {"runAsUser": 2137}});
    refused(&|pod| pod["spec"]["initContainers"].as_array_mut().unwrap().insert(0, init.clone()), "2137").await;
    for port in inject_ports() {
        let ports = json!([{"containerPort": port}]);
        refused(&|pod| pod["spec"]["containers"][0]["ports"] = ports.clone(), "want another port").await;
    }
    for image in
        ["evil/signet-sidecar:0.1.0", "signet/signet-sidecar-x:1", "signet-sidecar", "x/signet/signet-sidecar:1"]
    {
        refused(&|pod| pod["spec"]["initContainers"][1]["image"] = json!(image), "no Signet sidecar").await;
    }
    refused(&|pod| drop(pod["spec"]["initContainers"][1].as_object_mut().unwrap().remove("restartPolicy")), "").await;
    refused(&|pod| drop(pod["spec"]["initContainers"].as_array_mut().unwrap().remove(0)), "no Signet sidecar").await;

    // Other injectors may put themselves ahead, and another version of ours is ours.
    let mut ahead = world.injected(&pod(&json!({})));
    ahead["spec"]["initContainers"].as_array_mut().unwrap().insert(0, json!({"name": "first", "image": "x"}));
    for container in [1, 2] {
        ahead["spec"]["initContainers"][container]["image"] =
            json!("signet/signet-sidecar@sha256:".to_owned() + &"0".repeat(64));
    }
    world.create(&namespace, &ahead, true).await.expect("the guard ignores the position");

    // Pods that are no business of ours may have all of it.
    let mut foreign = pod(&json!({}));
    foreign["spec"]["securityContext"] = json!({"runAsUser": 2137});
    foreign["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006}]);
    foreign["spec"]["containers"][0]["name"] = json!("signet-sidecar");
    world.create(&other, &foreign, true).await.expect("not opted in");

    let mut host = pod(&json!({}));
    host["spec"]["hostNetwork"] = json!(true);
    world.create(&namespace, &host, true).await.expect("left out of an opted-in namespace");
    host["metadata"]["annotations"] = json!({INJECT: "enabled"});
    let told = world.create(&other, &host, true).await.expect_err("asked for what cannot be");
    assert!(told.contains("hostNetwork"), "{told}");
}

fn inject_ports() -> [u16; 5] {
    signet_operator::inject::PORTS
}

/// `kubectl debug`: ephemeral containers, and copies of live pods.
async fn debugging(world: &World) {
    let namespace = world.namespace(&json!({INJECT: "enabled"})).await;
    let live = world.create(&namespace, &world.injected(&pod(&json!({}))), false).await.unwrap();
    let api = Api::<Pod>::namespaced(world.client.clone(), &namespace);
    let add = async |user: i64| {
        let container =
            json!({"name": format!("debugger-{user}"), "image": "x", "securityContext": {"runAsUser": user}});
        let patch = Patch::Strategic(json!({"spec": {"ephemeralContainers": [container]}}));
        api.patch_ephemeral_containers(&live.name_any(), &PatchParams::default(), &patch).await
    };
    let told = add(2137).await.expect_err("as the sidecar's user").to_string();
    assert!(told.contains("2137"), "{told}");
    add(1000).await.expect("as anybody else");
    let image = async |image: &str| {
        let containers = json!([{"name": "signet-sidecar", "image": image}]);
        let patch = Patch::Strategic(json!({"spec": {"initContainers": containers}}));
        api.patch(&live.name_any(), &PatchParams::default(), &patch).await
    };
    let told = image("evil/signet-sidecar:1").await.expect_err("out of the mesh while it runs").to_string();
    assert!(told.contains("the image of signet-sidecar"), "{told}");
    image("signet/signet-sidecar:0.1.1").await.expect("another version of ours");
    // A pod that ran before its namespace opted in can still be changed, whatever it has.
    let late = world.namespace(&json!({})).await;
    let mut early = pod(&json!({}));
    early["spec"]["containers"][0]["ports"] = json!([{"containerPort": 15006}]);
    let early = world.create(&late, &early, false).await.unwrap();
    world.label(&late, &json!({INJECT: "enabled"})).await.unwrap();
    until("the namespace has opted in", async || {
        world.create(&late, &pod(&json!({})), true).await.is_err_and(|told| told.contains("has no Signet sidecar"))
    })
    .await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {"seen": "yes"}}}));
    let pods = Api::<Pod>::namespaced(world.client.clone(), &late);
    pods.patch(&early.name_any(), &PatchParams::default(), &patch).await.expect("not in the mesh");
    let mut copy = serde_json::to_value(&live).unwrap();
    copy["metadata"] = json!({"generateName": "copy-", "annotations": copy["metadata"]["annotations"]});
    copy["spec"]["containers"].as_array_mut().unwrap().push(json!({"name": "debugger", "image": "x"}));
    copy.as_object_mut().unwrap().remove("status");
    world.create(&namespace, &copy, true).await.expect("a copy of a live pod");
}

/// Labels of namespaces: typos are refused when they are written, and never before.
async fn labels(world: &World, old: &str) {
    let namespace = world.namespace(&json!({})).await;
    for (label, wrong, words) in [
        (INJECT, "enabeld", "label signet.dev/inject: found enabeld; want enabled or disabled"),
        (INJECT, "", "want enabled or disabled"),
        (
            "signet.dev/posture",
            "denny",
            "label signet.dev/posture: found denny; want allow, audit, authenticated or deny",
        ),
    ] {
        let told = world.label(&namespace, &json!({label: wrong})).await.expect_err(wrong);
        assert!(told.contains(words), "{told}");
        let made: Namespace = object(json!({"metadata": {"name": "made-wrong", "labels": {label: wrong}}}));
        let api = Api::<Namespace>::all(world.client.clone());
        assert!(api.create(&PostParams::default(), &made).await.is_err(), "{label}={wrong}");
    }
    for posture in ["allow", "audit", "authenticated", "deny"] {
        world.label(&namespace, &json!({"signet.dev/posture": posture})).await.unwrap();
    }
    world.label(&namespace, &json!({"signet.dev/posture": null, INJECT: null})).await.unwrap();
    world.label(old, &json!({"team": "a"})).await.expect("what was there before may stay");
    assert!(world.label(old, &json!({INJECT: "enabel"})).await.is_err(), "but not change into another typo");
}
