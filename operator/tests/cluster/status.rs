//! Status on a real API server: who writes it, and what it says.
use crate::live::{key, meshed, sidecar};
use crate::world::{create, operator_of, shared, until};
use k8s_openapi::api::coordination::v1::Lease;
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use signet_apiserver::{ApiServer, PodOptions, make_pod, make_service_account, set_status};
use signet_identity::testing::Authority;
use signet_operator::cluster::watch;
use signet_proto::control::{Edge, Edges, ReplicaReport, Up, up};
use std::sync::Arc;

async fn status(client: &Client, namespace: &str, name: &str) -> Value {
    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &watch::resource());
    rules.get(name).await.unwrap().data["status"].clone()
}

fn words(status: &Value) -> Vec<String> {
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    let word = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions.iter().map(|c| format!("{} {}", word(c, "type"), word(c, "status"))).collect()
}

pub(crate) fn kubectl(server: &ApiServer, arguments: &[&str]) -> String {
    let program = signet_apiserver::programs().unwrap().join("kubectl");
    let output =
        std::process::Command::new(program).arg("--kubeconfig").arg(server.kubeconfig()).args(arguments).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A pod of an operator that serves.
async fn replica(client: &Client, namespace: &str, name: &str) {
    let options = PodOptions { service_account: "signet-operator", ..PodOptions::default() };
    make_pod(client, namespace, name, &options).await;
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    set_status(client, namespace, name, ready).await;
}

const IN_FORCE: [&str; 3] = ["Accepted True", "Programmed True", "Effective True"];

#[tokio::test]
async fn the_status_says_who_enforces_a_rule_and_when_it_last_matched() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let (control, namespace) = (server.namespace("control").await, server.namespace("status").await);
    let mut operator = operator_of(&client, Authority::new("mesh.example"), &control).await;
    operator.write_status("one");
    let uid = meshed(&client, &namespace, "orders", "10.1.4.2").await;
    let spec = json!({"target": {"all": true, "ports": [8080]}, "from": [{"serviceAccount": "default"}]});
    create(&client, &namespace, "r", &spec, false).await.unwrap();
    until("nobody has acknowledged it", || async {
        let status = status(&client, &namespace, "r").await;
        (words(&status) == ["Accepted True", "Programmed False", "Effective True"] && status["workloads"] == 1)
            .then_some(())
    })
    .await;

    operator.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
    let mut sidecar = operator.attach(&namespace, "default", &uid).await;
    sidecar.until("the rule", |config| config.rules.len() == 1).await;
    let said = until("it is in force", || async {
        let status = status(&client, &namespace, "r").await;
        (words(&status) == IN_FORCE).then_some(status)
    })
    .await;
    assert_eq!(
        (&said["acknowledged"], &said["target"], &said["mode"]),
        (&json!(1), &json!("all: 8080"), &json!("Enforce"))
    );
    assert_eq!(said["observedGeneration"], 1);
    assert!(said["lastMatched"].is_null());
    let columns = kubectl(server, &["get", "arule", "-n", &namespace]);
    let line: Vec<&str> = columns.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    assert_eq!(line.get(..7), Some(&["r", "all:", "8080", "Enforce", "True", "True", "True"][..]), "{columns}");
    let described = kubectl(server, &["events", "-n", &namespace, "--for", "allowrule/r"]);
    assert!(described.contains("RuleAccepted"), "{described}");
    let category = kubectl(server, &["get", "signet", "-n", &namespace, "-o", "name"]);
    assert_eq!(category.trim(), "allowrule.signet.dev/r");

    let edge = Edge {
        peer: format!("spiffe://mesh.example/ns/{namespace}/sa/default"),
        port: 8080,
        reason: "rule_matched".into(),
        connections: 1,
        ..Edge::default()
    };
    sidecar.say.send(Up { kind: Some(up::Kind::Edges(Edges { edges: vec![edge] })) }).await.unwrap();
    until("it matched", || async { status(&client, &namespace, "r").await["lastMatched"].as_str().map(str::to_owned) })
        .await;
}

#[tokio::test]
async fn a_rule_that_names_a_port_that_nobody_has_says_which_in_its_status() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let (control, namespace) = (server.namespace("control").await, server.namespace("ports").await);
    let mut operator = operator_of(&client, Authority::new("mesh.example"), &control).await;
    operator.write_status("one");
    let mut more = sidecar();
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    more["spec"]["containers"] = json!([{"name": "app", "image": "app", "ports": ports}]);
    let options = PodOptions { addresses: &["10.1.7.2"], more, ..PodOptions::default() };
    make_pod(&client, &namespace, "orders", &options).await;
    for (name, ports, wanted) in [
        ("good", json!([8080, "http"]), None),
        ("the-services", json!([80]), Some("port 80")),
        ("typo", json!([8080, "htpp"]), Some("name htpp")),
    ] {
        let spec = json!({"target": {"all": true, "ports": ports}, "from": [{"serviceAccount": "default"}]});
        create(&client, &namespace, name, &spec, false).await.unwrap();
        until(name, || async {
            let status = status(&client, &namespace, name).await;
            let effective = status["conditions"].as_array()?.iter().find(|c| c["type"] == "Effective")?.clone();
            let said = effective["message"].as_str()?;
            let good = (effective["status"] == "True" && effective["reason"] == "Guards") && wanted.is_none();
            let named = (effective["status"] == "False" && effective["reason"] == "NoSuchPort")
                && wanted.is_some_and(|wanted| said.contains(wanted));
            (good || named).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_holder_of_the_lease_hears_of_the_others_and_another_takes_over() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let (control, namespace) = (server.namespace("control").await, server.namespace("two").await);
    make_service_account(&client, &control, "signet-operator").await;
    let authority = Arc::new(Authority::new("mesh.example"));
    let mut one = operator_of(&client, authority.clone(), &control).await;
    one.write_status("one");
    replica(&client, &control, "one").await;
    replica(&client, &control, "two").await;
    let uid = meshed(&client, &namespace, "orders", "10.1.5.2").await;
    let spec = json!({"target": {"all": true}, "from": []});
    create(&client, &namespace, "r", &spec, false).await.unwrap();
    let words_of = |what: &'static str, wanted: [&'static str; 3]| {
        let (client, namespace) = (client.clone(), namespace.clone());
        async move {
            until(what, || async { (words(&status(&client, &namespace, "r").await) == wanted).then_some(()) }).await;
        }
    };
    words_of("the other has said nothing yet", ["Accepted True", "Programmed Unknown", "Effective True"]).await;

    let mut two = operator_of(&client, authority, &control).await;
    two.write_status("two");
    two.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
    let mut sidecar = two.attach(&namespace, "default", &uid).await;
    sidecar.until("the rule", |config| config.rules.len() == 1).await;
    words_of("the other's sidecar counts", IN_FORCE).await;
    let edge = Edge { port: 8080, reason: "rule_matched".into(), connections: 3, ..Edge::default() };
    sidecar.say.send(Up { kind: Some(up::Kind::Edges(Edges { edges: vec![edge] })) }).await.unwrap();
    let leases: Api<Lease> = Api::namespaced(client.clone(), &control);
    let (first, second) = (format!("{control}/one"), format!("{control}/two"));
    // Who got no turn in time has lost the lease to the other: the holder is read, not remembered.
    let (edges, other) = until("the holder shows who called the other's workload", || async {
        let holder = leases.get("signet-operator").await.ok()?.spec?.holder_identity?;
        let (hub, other) = if holder == first { (&one.hub, &second) } else { (&two.hub, &first) };
        let shown = hub.edges_json();
        let heard = shown["edges"][0]["connections"] == 3 && shown["other_replicas"] != json!([]);
        heard.then(|| (shown, other.clone()))
    })
    .await;
    assert_eq!(edges["other_replicas"], json!([other]));
    assert_eq!(edges["edges"][0]["workload"], format!("{namespace}/orders"));

    // The holder goes; the other does what it did.
    drop(one);
    signet_apiserver::remove_pod(&client, &control, "one").await;
    create(&client, &namespace, "s", &spec, false).await.unwrap();
    sidecar.until("the second rule", |config| config.rules.len() == 2).await;
    until("the other writes", || async { (words(&status(&client, &namespace, "s").await) == IN_FORCE).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_holder_that_stops_gives_the_lease_back_and_another_s_it_leaves_alone() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let control = server.namespace("control").await;
    let leases: Api<Lease> = Api::namespaced(client.clone(), &control);
    let spec = || async { leases.get("signet-operator").await.ok()?.spec };
    let holder = |name: String| async move { (spec().await?.holder_identity? == name).then_some(()) };
    let authority = Arc::new(Authority::new("mesh.example"));
    let mut one = operator_of(&client, authority.clone(), &control).await;
    one.write_status("one");
    until("one holds it", || holder(format!("{control}/one"))).await;
    let renewed = spec().await.unwrap().renew_time;
    one.stop().await;
    let after = spec().await.unwrap();
    assert_eq!(after.holder_identity.as_deref(), Some(""), "it is nobody's at once");
    assert!(after.renew_time >= renewed);

    let mut two = operator_of(&client, authority.clone(), &control).await;
    two.write_status("two");
    until("two holds it", || holder(format!("{control}/two"))).await;
    let mut three = operator_of(&client, authority, &control).await;
    three.write_status("three");
    three.stop().await;
    assert_eq!(spec().await.unwrap().holder_identity, Some(format!("{control}/two")));
}

#[tokio::test]
async fn f10_only_an_operator_reports_to_operators() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let control = server.namespace("control").await;
    let mut operator = operator_of(&client, Authority::new("mesh.example"), &control).await;
    operator.write_status("one");
    let report = |account: &'static str| {
        let credentials = operator.authority.credentials("signet-system", account, Some("uid"));
        let channel = signet_enroll::channel(&credentials, operator.identity(), &operator.address.to_string()).unwrap();
        let mut control = signet_proto::control::control_client::ControlClient::new(channel);
        async move { control.report(ReplicaReport { last: true, ..ReplicaReport::default() }).await.map(drop) }
    };
    assert_eq!(report("orders").await.unwrap_err().code(), tonic::Code::PermissionDenied);
    report("signet-operator").await.unwrap();
}
