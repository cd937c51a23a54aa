//! The index and the control stream follow a real API server.
use crate::status::kubectl;
use crate::world::{SIDECAR, create, install, operator, operator_of, operator_told, shared, until};
use k8s_openapi::api::core::v1::Node;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use serde_json::{Value, json};
use signet_apiserver::{ApiServer, PodOptions, make_pod, remove_pod};
use signet_identity::testing::Authority;
use signet_operator::cluster::status::Acknowledged;
use signet_operator::cluster::translate::Change;
use signet_operator::cluster::watch;
use signet_operator::documents::Key;
use signet_operator::index::Snapshot;
use signet_policy::{Caller, Reason};
use signet_proto::control::Config;
use std::sync::Arc;
use tokio::sync::mpsc;

pub(crate) fn key(namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.into(), name: name.into() }
}

/// What makes a pod meshed.
pub(crate) fn sidecar() -> Value {
    json!({"spec": {"initContainers": [
        {"name": "signet-sidecar", "image": format!("{SIDECAR}:0.1.0"), "restartPolicy": "Always"},
    ]}})
}

/// A running pod with our sidecar; gives its UID.
pub(crate) async fn meshed(client: &Client, namespace: &str, name: &str, address: &str) -> String {
    let options = PodOptions { addresses: &[address], more: sidecar(), ..PodOptions::default() };
    make_pod(client, namespace, name, &options).await.metadata.uid.unwrap()
}

#[tokio::test]
async fn a_sidecar_gets_its_configuration_and_every_rule_that_concerns_it() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("live").await;
    let operator = operator(&client).await;
    let uid = meshed(&client, &namespace, "orders", "10.1.0.2").await;
    operator.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;

    let mut sidecar = operator.attach(&namespace, "default", &uid).await;
    sidecar.until("its address", |config| config.addresses == [vec![10, 1, 0, 2]]).await;

    let spec = json!({"target": {"all": true, "ports": [8080]}, "from": [{"serviceAccount": "checkout"}]});
    create(&client, &namespace, "r", &spec, false).await.unwrap();
    let config = sidecar.until("the rule", |config| !config.rules.is_empty()).await;
    assert_eq!((config.rules[0].name.as_str(), config.rules[0].generation), ("r", 1));

    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &watch::resource());
    let patch = Patch::Merge(json!({"spec": {"from": [{"serviceAccount": "other"}]}}));
    rules.patch("r", &PatchParams::default(), &patch).await.unwrap();
    sidecar.until("the change", |config| config.rules.first().is_some_and(|rule| rule.generation == 2)).await;

    rules.delete("r", &DeleteParams::default()).await.unwrap();
    sidecar.until("its end", |config| config.rules.is_empty()).await;
}

#[tokio::test]
async fn where_nodes_have_their_pods_and_the_cluster_its_services_is_told_to_every_sidecar() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("ranges").await;
    let operator = operator(&client).await;
    let uid = meshed(&client, &namespace, "orders", "10.1.6.2").await;
    operator.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
    let mut sidecar = operator.attach(&namespace, "default", &uid).await;
    let has = |config: &Config, range: &str| {
        let range: ipnet::IpNet = range.parse().unwrap();
        let bytes = match range.network() {
            std::net::IpAddr::V4(a) => a.octets().to_vec(),
            std::net::IpAddr::V6(a) => a.octets().to_vec(),
        };
        config.mesh_ranges.iter().any(|p| p.address == bytes && p.length == u32::from(range.prefix_len()))
    };
    sidecar.until("the cluster's own range of Services", |config| has(config, "fd00:10:96::/112")).await;

    let nodes: Api<Node> = Api::all(client.clone());
    let node = json!({
        "metadata": {"name": "ranges"}, "spec": {"podCIDR": "172.30.7.0/24", "podCIDRs": ["172.30.7.0/24"]},
    });
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    sidecar.until("the node's pods", |config| has(config, "172.30.7.0/24")).await;
    let addresses = json!({"status": {"addresses": [{"type": "ExternalIP", "address": "198.51.100.77"}]}});
    nodes.patch_status("ranges", &PatchParams::default(), &Patch::Merge(addresses)).await.unwrap();
    sidecar.until("the node itself", |config| has(config, "198.51.100.77/32")).await;
    nodes.delete("ranges", &DeleteParams::default()).await.unwrap();
    sidecar.until("its end", |config| !has(config, "172.30.7.0/24")).await;
}

#[tokio::test]
async fn f10_a_certificate_for_another_pod_is_not_answered() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("who").await;
    let operator = operator(&client).await;
    let uid = meshed(&client, &namespace, "orders", "10.1.1.2").await;
    let snapshot = operator.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
    let uid = uid.parse().unwrap();
    let right = operator.authority.id(&namespace, "default");
    assert!(snapshot.authorize(&right, Some(&uid)).is_ok());
    assert!(snapshot.authorize(&operator.authority.id(&namespace, "other"), Some(&uid)).is_err());
    assert!(snapshot.authorize(&right, Some(&"another".parse().unwrap())).is_err());
}

#[tokio::test]
async fn revisions_of_replicas_agree_and_grow_with_deletions_too() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("revisions").await;
    let one = operator(&client).await;
    meshed(&client, &namespace, "a", "10.1.2.2").await;
    meshed(&client, &namespace, "b", "10.1.2.3").await;
    let before =
        one.until("both", |s| s.find(&key(&namespace, "a")).is_some() && s.find(&key(&namespace, "b")).is_some()).await;
    remove_pod(&client, &namespace, "b").await;
    let after = one.until("the deletion", |snapshot| snapshot.find(&key(&namespace, "b")).is_none()).await;
    assert!(after.revision() > before.revision());
    assert!(!one.hub.is_behind(tokio::time::Instant::now()));
    // Another replica that never saw the pod is not behind.
    let two = operator(&client).await;
    let other = two.until("the same", |snapshot| snapshot.find(&key(&namespace, "a")).is_some()).await;
    let digest = |s: &Snapshot| s.digest(s.find(&key(&namespace, "a")).unwrap()).to_owned();
    assert!(other.revision() >= after.revision());
    assert!(digest(&other) == digest(&after) || other.revision() > after.revision());
}

/// Two watches are two connections: one may be late while the other is not.
#[tokio::test]
async fn a_replica_whose_watch_of_rules_is_late_takes_no_newer_rules_from_who_comes_to_it() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("late").await;
    let authority: Arc<Authority> = Authority::new("mesh.example").into();
    let one = operator_of(&client, authority.clone(), "signet-system").await;
    let (hold, mut held) = tokio::sync::watch::channel(false);
    let two = operator_told(&client, authority, "signet-system", |mut changes| {
        let (tell, told) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut rules = Vec::new();
            loop {
                tokio::select! {
                    Some(change) = changes.recv() => match change.0 {
                        Change::Rule(_) if *held.borrow() => rules.push(change),
                        _ => tell.send(change).await.unwrap(),
                    },
                    Ok(()) = held.changed() => if !*held.borrow() {
                        for change in rules.drain(..) {
                            tell.send(change).await.unwrap();
                        }
                    },
                }
            }
        });
        told
    })
    .await;
    let uid = meshed(&client, &namespace, "orders", "10.1.7.2").await;
    let spec = json!({"target": {"all": true, "ports": [8080]}, "from": [{"serviceAccount": "checkout"}]});
    create(&client, &namespace, "r", &spec, false).await.unwrap();
    let admits = |snapshot: &Snapshot, account: &str| {
        let caller = format!("spiffe://mesh.example/ns/{namespace}/sa/{account}");
        let member = snapshot.find(&key(&namespace, "orders"));
        member.is_some_and(|m| m.table().judge(&Caller::Identity(&caller), 8080).reason == Reason::RuleMatched)
    };
    one.until("the rule", |snapshot| admits(snapshot, "checkout")).await;
    two.until("the rule", |snapshot| admits(snapshot, "checkout")).await;
    let mut sidecar = one.attach(&namespace, "default", &uid).await;
    sidecar.until("the rule", |config| !config.rules.is_empty()).await;

    hold.send_replace(true);
    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &watch::resource());
    let patch = Patch::Merge(json!({"spec": {"from": [{"serviceAccount": "other"}]}}));
    rules.patch("r", &PatchParams::default(), &patch).await.unwrap();
    let changed = sidecar.until("the change", |config| config.rules[0].generation == 2).await.version.unwrap();
    meshed(&client, &namespace, "more", "10.1.7.3").await;
    let late = two.until("another pod", |snapshot| snapshot.find(&key(&namespace, "more")).is_some()).await;
    assert!(admits(&late, "checkout") && late.revision() > changed.revision, "it is late, and its revision is greater");

    let mut moved = two.attach_holding(&namespace, "default", &uid, Some(changed)).await;
    // The first question has been answered, and said that something is missing.
    until("the API server is asked again", || async { (two.hub.questions() >= 2).then_some(()) }).await;
    assert!(moved.hears_nothing_but([10, 1, 7, 3]).await);
    hold.send_replace(false);
    // The same rules, under a number of this replica or none at all; then the next change comes from here.
    two.until("the change", |snapshot| admits(snapshot, "other")).await;
    let patch = Patch::Merge(json!({"spec": {"from": [{"serviceAccount": "third"}]}}));
    rules.patch("r", &PatchParams::default(), &patch).await.unwrap();
    moved
        .until("the next change", |config| {
            assert!(config.rules[0].generation >= 2);
            config.rules[0].generation == 3
        })
        .await;
}

/// A sidecar that was away while a rule changed gets it from whomever it comes to.
#[tokio::test]
async fn a_sidecar_that_comes_with_an_older_configuration_is_sent_what_is_in_force() {
    let Some(server) = shared().await else { return };
    let client = server.client().await;
    let namespace = server.namespace("away").await;
    let authority: Arc<Authority> = Authority::new("mesh.example").into();
    let one = operator_of(&client, authority.clone(), "signet-system").await;
    let uid = meshed(&client, &namespace, "orders", "10.1.8.2").await;
    one.until("the pod", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
    let mut sidecar = one.attach(&namespace, "default", &uid).await;
    let before = sidecar.until("its address", |config| !config.addresses.is_empty()).await.version;
    drop(sidecar);
    let spec = json!({"target": {"all": true, "ports": [8080]}, "from": [{"serviceAccount": "checkout"}]});
    create(&client, &namespace, "r", &spec, false).await.unwrap();
    one.until("the rule", |s| s.find(&key(&namespace, "orders")).is_some_and(|m| !m.rules.is_empty())).await;
    let mut back = one.attach_holding(&namespace, "default", &uid, before.clone()).await;
    back.until("the rule", |config| !config.rules.is_empty()).await;
    // And from a replica that has just started.
    let two = operator_of(&client, authority, "signet-system").await;
    two.until("the rule", |s| s.find(&key(&namespace, "orders")).is_some_and(|m| !m.rules.is_empty())).await;
    let mut back = two.attach_holding(&namespace, "default", &uid, before).await;
    back.until("the rule", |config| !config.rules.is_empty()).await;
}

/// What was heard of while the API server did not say its newest version is built once it does, though nothing more is heard.
#[tokio::test]
async fn an_api_server_that_goes_away_at_the_start_is_asked_again() {
    let Some(server) = ApiServer::start().await else { return };
    let client = server.client().await;
    install(&client, false).await;
    let namespace = server.namespace("early").await;
    meshed(&client, &namespace, "orders", "10.1.9.2").await;
    let (listed, all) = tokio::sync::oneshot::channel();
    let (go, gone) = tokio::sync::oneshot::channel::<()>();
    let operator = operator_told(&client, Authority::new("mesh.example"), "signet-system", |mut changes| {
        let (tell, told) = mpsc::channel(16);
        tokio::spawn(async move {
            let (mut heard, mut kinds) = (Vec::new(), 0);
            while kinds < 7 {
                let change = changes.recv().await.unwrap();
                kinds += usize::from(format!("{:?}", change.0).ends_with("(Done)"));
                heard.push(change);
            }
            listed.send(()).unwrap();
            gone.await.unwrap();
            for change in heard {
                tell.send(change).await.unwrap();
            }
            tell.closed().await;
        });
        told
    })
    .await;
    all.await.unwrap();
    server.stop();
    go.send(()).unwrap();
    until("it has asked, and said that there was no answer", || async {
        let error = operator.published.report.borrow().error.clone();
        error.filter(|error| error.contains("does not say its newest version"))
    })
    .await;
    assert!(operator.published.snapshot.borrow().is_none(), "nothing is in force without a revision that counts");
    server.resume().await;
    operator.until("what was heard of", |snapshot| snapshot.find(&key(&namespace, "orders")).is_some()).await;
}

/// A cluster whose admission policy is not there: what came in all the same guards.
#[tokio::test]
async fn a_raw_rule_guards_and_an_outage_loses_nothing() {
    let Some(server) = ApiServer::start().await else { return };
    let client = server.client().await;
    install(&client, false).await;
    let namespace = server.namespace("raw").await;
    let control = server.namespace("control").await;
    let mut operator = operator_of(&client, Authority::new("mesh.example"), &control).await;
    operator.write_status("one");
    meshed(&client, &namespace, "orders", "10.1.3.2").await;
    let spec = json!({"target": {"all": true}, "from": [{"serviceAccount": "checkout", "onTuesdays": true}], "unless": {"a": 1}});
    create(&client, &namespace, "newer", &spec, false).await.unwrap();

    // Unknown fields are kept as they were sent.
    let rules: Api<DynamicObject> = Api::namespaced_with(client.clone(), &namespace, &watch::resource());
    let stored = rules.get("newer").await.unwrap();
    assert_eq!(stored.data["spec"], spec);
    let caller = format!("spiffe://mesh.example/ns/{namespace}/sa/checkout");
    let reason = |snapshot: &Snapshot| {
        let member = snapshot.find(&key(&namespace, "orders"))?;
        Some(member.table().judge(&Caller::Identity(&caller), 8080).reason)
    };
    operator.until("the guard", |snapshot| reason(snapshot) == Some(Reason::GuardedByUnusableRule)).await;

    let view = operator.views.borrow().clone();
    let own = key(&namespace, "newer");
    let status = view.rules[&own].status(&own, &Acknowledged::default(), true, "2026-11-21T00:00:00Z");
    let accepted = &status.conditions[0];
    assert_eq!(
        (accepted.kind.as_str(), accepted.status.as_str(), accepted.reason.as_str()),
        ("Accepted", "False", "GuardsOnly")
    );
    assert!(
        accepted.message.contains("spec.unless") && accepted.message.contains("onTuesdays"),
        "{}",
        accepted.message
    );

    until("the rule's own Event says what is wrong", || async {
        let events = kubectl(&server, &["events", "-n", &namespace, "--for", "allowrule/newer"]);
        (events.contains("RuleRejected") && events.contains("spec.unless")).then_some(())
    })
    .await;

    // The API server goes away and comes back; what changed while nobody watched is found out.
    server.stop();
    server.resume().await;
    remove_pod(&client, &namespace, "orders").await;
    meshed(&client, &namespace, "orders", "10.1.3.3").await;
    meshed(&client, &namespace, "new", "10.1.3.4").await;
    rules.delete("newer", &DeleteParams::default()).await.unwrap();
    operator
        .until("what came after the outage", |snapshot| {
            let at = |name: &str| snapshot.find(&key(&namespace, name)).map(|m| m.workload.addresses.clone());
            at("orders") == Some(vec!["10.1.3.3".parse().unwrap()])
                && at("new") == Some(vec!["10.1.3.4".parse().unwrap()])
                && reason(snapshot) == Some(Reason::PostureAudit)
        })
        .await;
    until("nothing is lost", || async { operator.published.report.borrow().good.then_some(()) }).await;
}
