//! The ground that the Kubernetes tests stand on, without Signet: two nodes that run pods, names, Services, and an end that
//! leaves nothing.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::wire;
use signet_tests::cluster::{Cluster, cluster, pod, service};

#[test]
fn both_nodes_are_ready() {
    let Some(cluster) = cluster("both_nodes_are_ready") else { return };
    let ready = "jsonpath={.items[*].status.conditions[?(@.type=='Ready')].status}";
    assert_eq!(cluster.kubectl(&["get", "nodes", "-o", ready]).unwrap(), "True True");
}

#[test]
fn a_pod_with_a_native_sidecar_is_ready_only_with_it_and_ends_before_it() {
    let Some(cluster) = cluster("a_pod_with_a_native_sidecar_is_ready_only_with_it_and_ends_before_it") else { return };
    let space = cluster.space("native", &[]);
    space.apply(
        "apiVersion: v1
kind: Pod
metadata: {name: both}
spec:
  restartPolicy: Never
  initContainers:
  - name: beside
    image: docker.io/signet/signet-workload:test
    imagePullPolicy: Never
    restartPolicy: Always
    args: [http, '9000', beside]
    startupProbe: {httpGet: {port: 9000, path: /}, periodSeconds: 1}
  containers:
  - name: app
    image: docker.io/signet/signet-workload:test
    imagePullPolicy: Never
    args: [call, 'http://127.0.0.1:9000/']",
    );
    space.wait("the pod ends", || {
        let phase = space.field("pod/both", ".status.phase");
        anyhow::ensure!(phase == "Succeeded", "it is {phase}");
        Ok(())
    });
    assert_eq!(space.logs("both", "app").unwrap(), "ok 200 beside\n");
}

#[test]
fn services_names_and_addresses_answer_on_the_same_node_and_across_nodes_and_the_bridge_sees_what_crosses() {
    let name = "services_names_and_addresses_answer_on_the_same_node_and_across_nodes";
    let Some(cluster) = cluster(name) else { return };
    let space = cluster.space("ground", &[]);
    space.apply(&pod("orders", 1, &["http", "8080", "swordfish"]));
    space.apply(&(service("orders", 8080, false) + &pod("near", 1, &["pause"]) + &pod("far", 2, &["pause"])));
    space.apply(&service("orders", 8080, true).replacen("name: orders", "name: orders-each", 1));
    for pod in ["orders", "near", "far"] {
        space.ready(&format!("pod/{pod}"));
    }
    let address = space.field("pod/orders", ".status.podIP");
    let service = space.field("service/orders", ".spec.clusterIP");
    for from in ["near", "far", "orders"] {
        let capture = cluster.capture().unwrap();
        for host in [address.as_str(), service.as_str(), "orders", "orders-each"] {
            // The node learns of a Service a moment after the API does.
            let answer =
                space.wait(&format!("{from} reaches {host}"), || space.call(from, &format!("http://{host}:8080/")));
            assert_eq!(answer, "200 swordfish", "{from} calls {host}");
        }
        let seen = wire::occurrences(&Cluster::captured(capture).unwrap(), "swordfish");
        assert_eq!(seen > 0, from == "far", "a capture between the nodes sees what {from} is answered: {seen}");
    }
}

#[test]
fn a_caller_s_own_address_is_what_a_pod_on_another_node_sees() {
    let Some(cluster) = cluster("a_caller_s_own_address_is_what_a_pod_on_another_node_sees") else { return };
    let space = cluster.space("source", &[]);
    space.apply(&(pod("orders", 1, &["http", "8080"]) + &pod("far", 2, &["pause"])));
    space.ready("pod/orders");
    space.ready("pod/far");
    let (orders, far) = (space.field("pod/orders", ".status.podIP"), space.field("pod/far", ".status.podIP"));
    let capture = wire::Capture::start(&cluster.node(1)).unwrap();
    space.call("far", &format!("http://{orders}:8080/")).unwrap();
    let segments = capture.finish().unwrap();
    let request =
        segments.iter().find(|s| s.payload.starts_with(b"GET / ") && s.to.ip().to_string() == orders).unwrap();
    assert_eq!(request.from.ip().to_string(), far, "certificates are given to the address that asks");
}
