//! What others got wrong in clusters, each under the id that it has in the list of such findings.
use super::*;
use anyhow::ensure;
use signet_tests::cluster::{SYSTEM, orders_from, pod, pod_of, service};

#[test]
fn f27_no_private_key_is_anywhere_in_the_cluster_but_in_secrets_of_the_control_plane() {
    let Some(cluster) = mesh("f27_no_private_key_is_anywhere_in_the_cluster_but_in_secrets_of_the_control_plane")
    else {
        return;
    };
    let space = cluster.space("keys", &["signet.dev/inject=enabled"]);
    space.apply(&pod("orders", 1, &["http", "8080"]));
    space.ready("pod/orders");
    // Three ways to write it in base64, by where it begins.
    let holds = |text: &str| {
        ["PRIVATE KEY", "UFJJVkFURSBLRV", "BSSVZBVEUgS0VZ", "QUklWQVRFIEtFW"].iter().any(|key| text.contains(key))
    };
    let kinds = cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"]).unwrap();
    let mut looked = 0;
    for kind in kinds.lines().filter(|kind| *kind != "secrets") {
        let text = cluster.kubectl(&["get", kind, "-A", "-o", "json", "--ignore-not-found"]).unwrap();
        assert!(!holds(&text), "a {kind} holds a private key");
        looked += 1;
    }
    assert!(looked > 30, "{looked} kinds");
    let path = "jsonpath={range .items[*]}{.metadata.namespace}/{.metadata.name} {.data}\n{end}";
    let secrets = cluster.kubectl(&["get", "secrets", "-A", "-o", path]).unwrap();
    let with_keys: Vec<&str> =
        secrets.lines().filter(|line| holds(line)).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(with_keys, [format!("{SYSTEM}/signet-root"), format!("{SYSTEM}/signet-webhook-ca")]);
    let said = cluster.system().kubectl(&["logs", "-l", "app.kubernetes.io/name=signet", "--tail=-1"]).unwrap();
    assert!(!said.is_empty() && !holds(&said), "a log holds a private key");
}

#[test]
fn f10_a_rule_of_another_namespace_opens_and_guards_nothing() {
    let Some(cluster) = mesh("f10_a_rule_of_another_namespace_opens_and_guards_nothing") else { return };
    let space = cluster.space("victim", &["signet.dev/inject=enabled"]);
    let other = cluster.space("other", &["signet.dev/inject=enabled"]);
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&(pod_of("open", "open", 1, &["http", "8080", "open"]) + &service("open", 8080, false)));
    space.apply(&(orders_from("checkout") + &pod_of("checkout", "checkout", 2, &["pause"])));
    other.apply(&(pod_of("checkout", "checkout", 2, &["pause"]) + &service("open", 8080, false)));
    for pod in ["orders", "open", "checkout"] {
        space.ready(&format!("pod/{pod}"));
    }
    other.ready("pod/checkout");
    let (orders, open) = (format!("http://orders.{}:8080/", space.name), format!("http://open.{}:8080/", space.name));
    refused(&other, "checkout", &orders);
    admitted(&other, "checkout", &open, "open");
    // The same account's name, all workloads, the same Service's name.
    let rule = orders_from("checkout");
    let guard = rule.replace("orders-from-checkout", "guards").replace("service: orders", "service: open");
    let all = rule.replace("orders-from-checkout", "all").replace("service: orders", "all: true");
    other.apply(&(rule + &guard.replace("checkout}]", "nobody}]") + &all));
    other.wait("the operator has judged all three", || {
        let said = other.kubectl(&["get", "allowrules", "-o", "jsonpath={.items[*].status.observedGeneration}"])?;
        ensure!(said == "1 1 1", "{said}");
        Ok(())
    });
    assert!(other.call("checkout", &orders).is_err(), "another namespace's rule opened a port");
    admitted(&other, "checkout", &open, "open");
    admitted(&space, "checkout", &orders, "hello");
}

#[test]
fn f22_a_pod_of_the_mesh_is_not_reached_around_its_sidecar_from_a_node_or_a_pod() {
    let Some(cluster) = mesh("f22_a_pod_of_the_mesh_is_not_reached_around_its_sidecar") else { return };
    let space = cluster.space("around", &["signet.dev/inject=enabled"]);
    space.apply(
        &(pod_of("orders", "orders", 1, &["http", "8080"])
            + &service("orders", 8080, false)
            + &orders_from("checkout")),
    );
    space.ready("pod/orders");
    let address = space.field("pod/orders", ".status.podIP");
    space.apply(&pod("caller", 1, &["pause"]));
    space.ready("pod/caller");
    // From both nodes themselves, as a neighbour that shares the node's network.
    for node in [1, 2] {
        let outside = format!("outside-{node}");
        let host = pod(&outside, node, &["pause"]).replacen("spec:\n", "spec:\n  hostNetwork: true\n", 1);
        space.apply(&host);
        space.ready(&format!("pod/{outside}"));
        for port in [8080, 15001, 15006, 15020] {
            let answer = space.run(&outside, "app", &["call", &format!("http://{address}:{port}/"), "--limit", "3000"]);
            assert!(answer.is_err(), "node {node} was answered on port {port}: {answer:?}");
        }
        let health = space.run(&outside, "app", &["call", &format!("http://{address}:15021/healthz")]);
        health.unwrap_or_else(|error| panic!("health is for everybody: {error:#}"));
    }
    assert!(space.call("caller", &format!("http://{address}:8080/")).is_err(), "a caller without a rule was answered");
}

#[test]
fn f8_the_control_plane_shows_health_in_plaintext_and_nothing_else() {
    let Some(cluster) = mesh("f8_the_control_plane_shows_health_in_plaintext_and_nothing_else") else { return };
    let space = cluster.space("doors", &[]);
    space.apply(&pod("outsider", 2, &["pause"]));
    space.ready("pod/outsider");
    let system = cluster.system();
    for (component, ports) in [("ca", [15012, 15022]), ("operator", [15010, 15023])] {
        let label = format!("app.kubernetes.io/component={component}");
        let path = "jsonpath={.items[0].status.podIP}";
        let address = system.kubectl(&["get", "pods", "-l", &label, "-o", path]).unwrap();
        let url = |port: u16, page: &str| format!("http://{address}:{port}/{page}");
        assert!(space.call("outsider", &url(ports[0], "")).is_err(), "{component} speaks plaintext on {}", ports[0]);
        space.call("outsider", &url(ports[1], "healthz")).unwrap();
        for page in ["debug/pprof/", "status", "edges", "config", "connections", "quitquitquit", "certificates"] {
            let answer = space.call("outsider", &url(ports[1], page));
            assert!(answer.is_err(), "{component} answers {page}: {answer:?}");
        }
    }
}
