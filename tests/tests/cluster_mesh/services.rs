//! Kinds of Services: called where kube-proxy would have answered, carried to whom it would have chosen, and judged by identity
//! all the same.
use super::*;
use signet_tests::cluster::{orders_from, pod_of};

/// A Service for the pods labelled `app: orders`.
fn service(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n\
         spec: {{selector: {{app: orders}}, ports: [{{port: 8080}}], {spec}}}\n---\n"
    )
}

/// `orders` and one more pod of it, each with an answer of its own on a node of its own; `checkout` may call, on both nodes, and
/// `stranger` may not.
fn shop<'c>(cluster: &'c Cluster, purpose: &str) -> Space<'c> {
    let space = cluster.space(purpose, &["signet.dev/inject=enabled", "signet.dev/posture=deny"]);
    space.apply(&(service("orders", "type: NodePort") + &orders_from("checkout")));
    for node in [1, 2] {
        let name = format!("orders-{node}");
        let pod = pod_of("orders", &name, node, &["http", "8080", &name]);
        space.apply(&pod.replacen(&format!("app: {name}"), "app: orders", 1));
        space.apply(&pod_of("checkout", &format!("checkout-{node}"), node, &["pause"]));
    }
    space.apply(&pod_of("stranger", "stranger", 2, &["pause"]));
    for name in ["orders-1", "orders-2", "checkout-1", "checkout-2", "stranger"] {
        space.ready(&format!("pod/{name}"));
    }
    space
}

#[test]
fn a_port_of_every_node_and_an_external_name_lead_into_the_mesh() {
    let Some(cluster) = mesh("a_port_of_every_node_and_an_external_name_lead_into_the_mesh") else { return };
    let space = shop(cluster, "doors");
    let port = space.field("service/orders", ".spec.ports[0].nodePort");
    space.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: alias}}\n\
         spec: {{type: ExternalName, externalName: orders.{}.svc.cluster.local}}\n---\n",
        space.name
    ));
    let node = |name: &str| space.field(&format!("node/{name}"), ".status.addresses[?(@.type=='InternalIP')].address");
    let urls = [node("node1"), node("node2"), "alias".to_owned()].map(|host| match host.as_str() {
        "alias" => "http://alias:8080/".to_owned(),
        address => format!("http://{address}:{port}/"),
    });
    for url in &urls {
        space.wait(&format!("checkout is answered by {url}"), || space.call("checkout-2", url));
        assert!(space.call("stranger", url).is_err(), "a stranger was answered by {url}");
    }
    let log = space.logs("checkout-2", "signet-sidecar").unwrap();
    assert!(!log.contains("reason=not_meshed"), "something went out in plaintext:\n{log}");
}

#[test]
fn a_service_that_stays_on_its_node_and_one_that_stays_with_its_callers_do() {
    let Some(cluster) = mesh("a_service_that_stays_on_its_node_and_one_that_stays_with_its_callers_do") else { return };
    let space = shop(cluster, "choices");
    space.apply(&(service("near", "internalTrafficPolicy: Local") + &service("sticky", "sessionAffinity: ClientIP")));
    for node in ["1", "2"] {
        let caller = format!("checkout-{node}");
        admitted(&space, &caller, "http://near:8080/", &format!("orders-{node}"));
        let first = space.wait("sticky answers", || space.call(&caller, "http://sticky:8080/"));
        for _ in 0..10 {
            assert_eq!(space.call(&caller, "http://near:8080/").unwrap(), format!("200 orders-{node}"));
            assert_eq!(space.call(&caller, "http://sticky:8080/").unwrap(), first);
        }
    }
    // Who has nobody on his node is refused, not sent elsewhere.
    space.kubectl(&["delete", "pod", "orders-2"]).unwrap();
    refused(&space, "checkout-2", "http://near:8080/");
    admitted(&space, "checkout-2", "http://sticky:8080/", "orders-1");
}

#[test]
fn what_a_pod_s_annotations_say_takes_effect() {
    let Some(cluster) = mesh("what_a_pod_s_annotations_say_takes_effect") else { return };
    let space = cluster.space("annotated", &["signet.dev/inject=enabled", "signet.dev/posture=deny"]);
    let plain = cluster.space("plain", &[]);
    let annotated = |name: &str, annotations: &str| {
        let pod = pod_of("orders", name, 1, &["http", "8080"]);
        space.apply(&pod.replacen("  labels:", &format!("  annotations: {{{annotations}}}\n  labels:"), 1));
        space.ready(&format!("pod/{name}"));
        format!("http://{}:8080/", space.field(&format!("pod/{name}"), ".status.podIP"))
    };
    let open = annotated("open", "signet.dev/exclude-inbound-ports: '8080', signet.dev/log-level: debug");
    let closed = annotated("closed", "signet.dev/cpu-request: 20m, signet.dev/memory-limit: 96Mi");
    plain.apply(&signet_tests::cluster::pod("outsider", 2, &["pause"]));
    plain.ready("pod/outsider");
    admitted(&plain, "outsider", &open, "hello");
    assert!(plain.call("outsider", &closed).is_err(), "an outsider was answered");
    assert!(space.logs("open", "signet-sidecar").unwrap().contains("DEBUG"), "its log is as asked for");
    assert!(!space.logs("closed", "signet-sidecar").unwrap().contains("DEBUG"), "and only its");
    let of_sidecar = |what: &str| {
        space.field("pod/closed", &format!(".spec.initContainers[?(@.name=='signet-sidecar')].resources.{what}"))
    };
    assert_eq!((of_sidecar("requests.cpu"), of_sidecar("limits.memory")), ("20m".into(), "96Mi".into()));
    // What is not captured on the way out passes the sidecar by, as it is.
    let away = annotated("away", "signet.dev/exclude-outbound-ports: '8080'");
    admitted(&space, "away", &open, "hello");
    assert!(!space.logs("away", "signet-sidecar").unwrap().contains("outbound"), "the sidecar saw it");
    assert!(space.call("away", &closed).is_err(), "plaintext reached a pod of the mesh: {away}");
}
