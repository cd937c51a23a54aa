//! Who reaches whom, by which name, and what is seen on the wire.
use super::*;
use anyhow::ensure;
use signet::demo::wire;
use signet_tests::cluster::{Cluster, SYSTEM, orders_from, pod, pod_of, service};

#[test]
fn only_the_caller_that_a_rule_names_is_answered_by_service_headless_name_and_address_on_both_nodes_and_no_words_pass_in_plaintext()
 {
    let Some(cluster) = mesh("only_the_caller_that_a_rule_names_is_answered") else { return };
    let space = cluster.space("shop", &["signet.dev/inject=enabled"]);
    let plain = cluster.space("plain", &[]);
    space.apply(&pod_of("orders", "orders", 1, &["http", "8080", "swordfish"]));
    space.apply(&(service("orders", 8080, false)));
    space.apply(&service("orders", 8080, true).replacen("name: orders", "name: orders-each", 1));
    for (account, name, node) in [
        ("checkout", "checkout-near", 1),
        ("checkout", "checkout-far", 2),
        ("stranger", "stranger-near", 1),
        ("stranger", "stranger-far", 2),
    ] {
        space.apply(&pod_of(account, name, node, &["pause"]));
    }
    plain.apply(&pod("outsider", 2, &["pause"]));
    space.apply(&orders_from("checkout"));
    for name in ["orders", "checkout-near", "checkout-far", "stranger-near", "stranger-far"] {
        space.ready(&format!("pod/{name}"));
        let containers = space.field(&format!("pod/{name}"), ".spec.initContainers[*].name");
        assert!(containers.contains("signet-sidecar"), "{name} was injected: {containers}");
    }
    plain.ready("pod/outsider");
    assert_eq!(
        plain.field("pod/outsider", ".spec.initContainers"),
        "",
        "a namespace that did not opt in is left alone"
    );

    let address = space.field("pod/orders", ".status.podIP");
    let hosts = [format!("orders.{}", space.name), format!("orders-each.{}", space.name), address];
    let urls: Vec<String> = hosts.iter().map(|host| format!("http://{host}:8080/")).collect();
    // From here on the rule is in force for everybody.
    refused(&space, "stranger-near", &urls[0]);
    let capture = cluster.capture().unwrap();
    for url in &urls {
        for caller in ["checkout-near", "checkout-far"] {
            admitted(&space, caller, url, "swordfish");
        }
        for stranger in ["stranger-near", "stranger-far"] {
            assert!(space.call(stranger, url).is_err(), "{stranger} was answered by {url}");
        }
        assert!(plain.call("outsider", url).is_err(), "a pod outside the mesh was answered by {url}");
    }
    // A workload may always call itself.
    admitted(&space, "orders", &urls[0], "swordfish");
    let segments = Cluster::captured(capture).unwrap();
    assert_eq!(wire::occurrences(&segments, "swordfish"), 0, "what orders answers passes between the nodes");
    let tunnelled = segments.iter().filter(|s| s.to.port() == 15008).count();
    assert!(tunnelled > 0, "the capture saw no tunnel at all");
}

#[test]
fn a_rule_that_goes_and_comes_back_is_felt_by_pods_that_run() {
    let Some(cluster) = mesh("a_rule_that_goes_and_comes_back_is_felt_by_pods_that_run") else { return };
    let space = cluster.space("live", &["signet.dev/inject=enabled"]);
    let rule = orders_from("checkout");
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&(pod_of("stranger", "stranger", 2, &["pause"]) + &pod_of("checkout", "checkout", 2, &["pause"])));
    for name in ["orders", "checkout", "stranger"] {
        space.ready(&format!("pod/{name}"));
    }
    // Unguarded, under the posture `audit`.
    admitted(&space, "stranger", "http://orders:8080/", "hello");
    space.apply(&rule);
    refused(&space, "stranger", "http://orders:8080/");
    admitted(&space, "checkout", "http://orders:8080/", "hello");
    space.apply(&rule.replace("checkout}]", "stranger}]"));
    admitted(&space, "stranger", "http://orders:8080/", "hello");
    refused(&space, "checkout", "http://orders:8080/");
    space.kubectl(&["delete", "allowrule", "orders-from-checkout"]).unwrap();
    admitted(&space, "checkout", "http://orders:8080/", "hello");
}

#[test]
fn helm_s_own_test_passes() {
    let Some(cluster) = mesh("helm_s_own_test_passes") else { return };
    let said = cluster.helm(&["test", "signet", "-n", SYSTEM, "--timeout", "180s"]).unwrap();
    assert!(said.contains("Succeeded") && !said.contains("Failed"), "{said}");
}

#[test]
fn a_server_that_speaks_first_is_heard_without_a_word_from_the_caller() {
    let Some(cluster) = mesh("a_server_that_speaks_first_is_heard_without_a_word_from_the_caller") else { return };
    let space = cluster.space("first", &["signet.dev/inject=enabled"]);
    space.apply(&pod_of("mail", "mail", 1, &["first", "2525", "220-ready"]));
    space.apply(&(service("mail", 2525, false) + &pod_of("client", "client", 2, &["pause"])));
    space.ready("pod/mail");
    space.ready("pod/client");
    let greeting = space.wait("mail greets", || space.call("client", "tcp://mail:2525"));
    assert_eq!(greeting, "220-ready");
}

#[test]
fn a_job_that_is_done_ends_with_its_sidecar() {
    let Some(cluster) = mesh("a_job_that_is_done_ends_with_its_sidecar") else { return };
    let space = cluster.space("jobs", &["signet.dev/inject=enabled"]);
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.ready("pod/orders");
    space.apply(
        "apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  backoffLimit: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: app
        image: docker.io/signet/signet-workload:test
        imagePullPolicy: Never
        args: [call, 'http://orders:8080/']",
    );
    space.wait("the job ends", || {
        let done = space.kubectl(&["get", "job", "once", "-o", "jsonpath={.status.succeeded}"])?;
        ensure!(done == "1", "succeeded: {done:?}");
        Ok(())
    });
}
