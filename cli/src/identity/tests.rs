//! What is said of pods that have no identity to show, and of those that have one.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use super::*;
use serde_json::json;
use signet_identity::testing::Authority;

fn pod(more: &Value) -> Pod {
    let mut pod = json!({
        "metadata": {"name": "orders-1", "namespace": "shop"},
        "spec": {"containers": [], "initContainers": [{"name": "signet-sidecar"}]},
        "status": {"phase": "Running", "initContainerStatuses": [{
            "name": "signet-sidecar", "state": {"running": {}}, "ready": true,
            "image": "x", "imageID": "x", "restartCount": 0,
        }]},
    });
    signet_apiserver::merge(&mut pod, more);
    serde_json::from_value(pod).unwrap()
}

#[test]
fn a_pod_that_cannot_be_asked_is_told_apart_from_one_that_can() {
    assert_eq!(without(&pod(&json!({}))), None);
    for (more, words) in [
        (
            json!({"spec": {"initContainers": []}}),
            "shop/orders-1 is not in the mesh: it has no sidecar. Opt in with kubectl label namespace shop",
        ),
        (json!({"spec": {"initContainers": [], "hostNetwork": true}}), "not in the mesh: it has the node's network"),
        (json!({"status": {"phase": "Succeeded"}}), "has ended (Succeeded)"),
        (json!({"status": {"initContainerStatuses": []}}), "does not run: kubectl -n shop describe pod orders-1"),
        (
            json!({"status": {"initContainerStatuses": [{
                "name": "signet-sidecar", "state": {"waiting": {"reason": "ImagePullBackOff"}},
                "ready": false, "image": "x", "imageID": "x", "restartCount": 0,
            }]}}),
            "does not run (ImagePullBackOff)",
        ),
    ] {
        let why = without(&pod(&more)).unwrap_or_default();
        assert!(why.contains(words), "{more}: {why}");
    }
}

#[test]
fn who_was_meant_is_a_controller_s_pod_or_a_near_name() {
    let known = ["orders-6d5f7-x2x9k".to_owned(), "checkout".to_owned()];
    assert_eq!(meant("orders", &known), "; did you mean orders-6d5f7-x2x9k?");
    assert_eq!(meant("chekout", &known), "; did you mean checkout?");
    assert_eq!(meant("nothing-like-it", &known), "");
    assert_eq!(place("pod/orders-1", "shop"), ("shop".into(), "orders-1".into()));
    assert_eq!(place("edge/orders-1", "shop"), ("edge".into(), "orders-1".into()));
}

#[test]
fn the_certificate_the_posture_and_the_rules_are_shown_and_what_others_wrote_is_escaped() {
    let authority = Authority::new("mesh.example");
    let id = "spiffe://mesh.example/ns/shop/sa/orders";
    let svid = authority.svid(&authority.id("shop", "orders"), Some("uid-1"));
    let chain = signet_identity::Bundle { roots: svid.chain().to_vec() }.to_pem();
    let certificates = json!({
        "svid": {"chain_pem": chain},
        "trust": {"sequence": 17, "bundles": [{"trust_domain": "mesh.example"}]},
    });
    let config = json!({"operator_connected": true, "configuration": {"revision": 3, "inbound": "audit", "rules": [
        {"rule": "shop/r", "mode": "Enforce", "ports": [8080], "admits": [{"identity": "spiffe://mesh.example/ns/shop/sa/checkout"}], "refused": null},
        {"rule": "shop/bad", "mode": "Enforce", "ports": "all", "admits": [], "refused": "no\u{1b}[31m such"},
    ]}});
    let Answer::Shown(identity) = read("shop/orders-1", &certificates, &config, Timestamp::now()) else {
        panic!("it has a certificate")
    };
    assert_eq!((identity.identity.as_str(), identity.uid.as_deref(), identity.trust_sequence), (id, Some("uid-1"), 17));
    let text = text(&identity);
    for words in [
        "posture   audit (ports without a rule)",
        "rule      shop/r (Enforce): port 8080, admits spiffe://mesh.example/ns/shop/sa/checkout",
        "rule      shop/bad (Enforce): every port, admits nobody, because it was refused: no\\u{1b}[31m such",
        "problems  none",
    ] {
        assert!(text.contains(words), "{words} is missing in\n{text}");
    }
    assert!(matches!(read("shop/orders-1", &json!({"svid": null}), &config, Timestamp::now()), Answer::Without(_)));
}
