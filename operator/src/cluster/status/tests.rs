//! What a status says.
use super::*;
use crate::cluster::objects::Pod;
use crate::cluster::read;
use crate::cluster::store::News;
use crate::cluster::translate::Change;
use crate::documents::NamedPort;
use crate::index::Settings;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use signet_policy::{Decision, Egress, Posture};
use tokio::time::Instant;

fn key(name: &str) -> Key {
    Key { namespace: "shop".into(), name: name.into() }
}

fn pod(name: &str, meshed: bool) -> Pod {
    Pod {
        uid: format!("uid-{name}"),
        labels: [("app".to_owned(), name.to_owned())].into(),
        account: name.into(),
        node: String::new(),
        addresses: Vec::new(),
        host_addresses: Vec::new(),
        host_network: false,
        meshed,
        ports: vec![NamedPort { name: "web".into(), port: 8080 }],
        host_ports: Vec::new(),
        ready: true,
        created: 0,
    }
}

fn view(pods: &[(&str, bool)], spec: &Value, status: &Value) -> View {
    let mut objects = Objects::default();
    for (name, meshed) in pods {
        objects.take(Change::Pod(News::Set(key(name), pod(name, *meshed))), 0);
    }
    let rule = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": "r", "namespace": "shop", "uid": "x", "generation": 3}, "spec": spec, "status": status,
    });
    let rule = read::rule(&serde_json::from_value::<DynamicObject>(rule).unwrap());
    objects.take(Change::Rule(News::Set(key("r"), Box::new(rule))), 0);
    let settings = Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let (snapshot, memory) = Snapshot::build(&settings, &objects.documents(), &Memory::default(), 1);
    View::new(&objects, &memory, Arc::new(snapshot), "signet-system")
}

fn all() -> Value {
    json!({"target": {"all": true, "ports": [8080, "web"]}, "from": [{"serviceAccount": "a"}]})
}

fn status(view: &View, known: &Acknowledged, complete: bool) -> RuleStatus {
    view.rules[&key("r")].status(&key("r"), known, complete, "2026-11-21T10:00:00Z")
}

fn words(status: &RuleStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{} {} {}", c.kind, c.status, c.reason)).collect()
}

fn held(view: &View, names: &[&str]) -> Acknowledged {
    let digest = |name: &str| view.snapshot.digest(view.snapshot.find(&key(name)).unwrap()).to_owned();
    Acknowledged {
        digests: names.iter().map(|name| (format!("uid-{name}"), digest(name))).collect(),
        ..Acknowledged::default()
    }
}

#[test]
fn programmed_means_that_every_meshed_workload_has_this_generation_in_force() {
    let view = view(&[("a", true), ("b", true), ("c", false)], &all(), &json!(null));
    let none = status(&view, &Acknowledged::default(), true);
    assert_eq!((none.workloads, none.acknowledged, none.observed_generation), (2, 0, 3));
    assert_eq!(words(&none), ["Accepted True Valid", "Programmed False Pending", "Effective True Guards"]);
    let one = status(&view, &held(&view, &["a"]), false);
    assert_eq!((one.acknowledged, words(&one)[1].as_str()), (1, "Programmed Unknown ReplicasPending"));
    let both = status(&view, &held(&view, &["a", "b"]), true);
    assert_eq!((both.acknowledged, words(&both)[1].as_str()), (2, "Programmed True InForce"));
    assert!(both.conditions[2].message.contains("1 of 3 selected workloads have no sidecar"), "{both:?}");
    assert_eq!((both.target.as_str(), both.mode.as_str()), ("all: 8080,web", "Enforce"));
    let mut old = held(&view, &["a", "b"]);
    old.digests.insert("uid-b".into(), "another".into());
    assert_eq!(status(&view, &old, true).acknowledged, 1);
}

#[test]
fn a_rule_that_protects_nothing_says_why() {
    let ports = |ports: Value| json!({"target": {"all": true, "ports": ports}, "from": []});
    let audit = json!({"target": {"all": true}, "from": [], "mode": "Audit"});
    let cases = [
        (vec![], all(), "SelectsNothing"),
        (vec![("a", false)], all(), "NoSidecar"),
        (vec![("a", true)], ports(json!(["grpc"])), "NoSuchPort"),
        (vec![("a", true)], ports(json!([8080, "grpc"])), "NoSuchPort"),
        (vec![("a", true)], ports(json!([80])), "NoSuchPort"),
        (vec![("a", true)], audit, "Audit"),
    ];
    for (pods, spec, reason) in cases {
        let view = view(&pods, &spec, &json!(null));
        assert_eq!(words(&status(&view, &Acknowledged::default(), true))[2], format!("Effective False {reason}"));
    }
}

#[test]
fn f37_a_refused_rule_says_whether_it_guards_and_what_is_wrong() {
    let guards = json!({"target": {"all": true}, "from": [{"unauthenticated": {"cidrs": ["10.0.0.1/8"]}}]});
    let view_of = |spec: &Value| view(&[("a", true)], spec, &json!(null));
    let view = view_of(&guards);
    let said = status(&view, &held(&view, &["a"]), true);
    assert_eq!(words(&said), ["Accepted False GuardsOnly", "Programmed True InForce", "Effective True Guards"]);
    assert!(said.conditions[0].message.contains("spec.from[0].unauthenticated.cidrs[0]"), "{said:?}");
    let view = view_of(&json!({"target": {"deployment": "a"}, "from": []}));
    let said = status(&view, &Acknowledged::default(), true);
    assert_eq!(words(&said)[0], "Accepted False NotUnderstood");
    assert_eq!((said.target.as_str(), words(&said)[2].as_str()), ("not understood", "Effective False NotUnderstood"));
}

#[test]
fn nothing_is_written_anew_that_has_not_changed() {
    let view_of = |status: &Value| view(&[("a", true)], &all(), status);
    let first = view_of(&json!(null));
    let known = held(&first, &["a"]);
    let written = status(&first, &known, true);
    let again = view_of(&serde_json::to_value(&written).unwrap());
    let later = again.rules[&key("r")].status(&key("r"), &known, true, "2026-11-21T11:00:00Z");
    assert_eq!(later, written);
}

#[test]
fn last_matched_is_written_at_once_and_then_in_steps() {
    let view_of = |status: &Value| view(&[("a", true)], &all(), status);
    let at = |second: i64| Acknowledged { matched: [(key("r"), second)].into(), ..Acknowledged::default() };
    let first = status(&view_of(&json!(null)), &at(1_000_000_000), true);
    assert_eq!(first.last_matched.as_deref(), Some("2001-09-09T01:46:40Z"));
    let next = view_of(&serde_json::to_value(&first).unwrap());
    assert_eq!(status(&next, &at(1_000_000_059), true).last_matched, first.last_matched);
    assert_eq!(status(&next, &at(1_000_000_060), true).last_matched.as_deref(), Some("2001-09-09T01:47:40Z"));
    assert_eq!(
        status(&next, &Acknowledged::default(), true).last_matched,
        first.last_matched,
        "a new holder knows less"
    );
}

#[test]
fn the_selector_of_a_missing_service_stays_in_the_status() {
    let spec = json!({"target": {"service": "orders"}, "from": []});
    let before = json!({"service": {"name": "orders", "selector": {"app": "a"}}});
    let mut objects = Objects::default();
    let rule = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": "r", "namespace": "shop"}, "spec": spec, "status": before,
    });
    let rule = read::rule(&serde_json::from_value::<DynamicObject>(rule).unwrap());
    objects.take(Change::Rule(News::Set(key("r"), Box::new(rule))), 0);
    let mut memory = Memory::default();
    objects.remember(&mut memory);
    let view = View::new(&objects, &memory, Arc::default(), "signet-system");
    let kept = status(&view, &Acknowledged::default(), true).service.unwrap();
    assert_eq!((kept.name.as_str(), kept.selector["app"].as_str()), ("orders", "a"));
}

mod replicas {
    use super::*;
    use crate::cluster::reports::{Reports, written};

    fn tell(reports: &Reports, replica: &str, said: Acknowledged, now: Instant) {
        for message in written(replica, 1, said) {
            assert!(reports.take(&message, now));
        }
    }

    #[test]
    fn a_new_holder_knows_everything_when_every_replica_has_reported() {
        let mut view = view(&[], &all(), &json!(null));
        for name in ["one", "two", "three"] {
            view.replicas.insert(key(name), format!("uid-{name}"));
        }
        let (reports, now) = (Reports::default(), Instant::now());
        reports.begin();
        assert!(!reports.complete(&view, "shop/one", now));
        tell(&reports, "shop/two", Acknowledged::default(), now);
        assert!(!reports.complete(&view, "shop/one", now));
        tell(&reports, "shop/three", held(&view, &[]), now);
        assert!(reports.complete(&view, "shop/one", now));
        reports.begin();
        assert!(!reports.complete(&view, "shop/one", now), "another term, and nothing is known");
    }

    #[test]
    fn edges_are_asked_for_anew_by_a_new_holder_and_then_follow_by_difference() {
        use crate::cluster::reports::edges;
        use crate::control::Edges;
        use signet_proto::control::{Edge, EdgeTotals};
        let said = |port: u32| EdgeTotals {
            namespace: "shop".into(),
            name: "orders".into(),
            edge: Some(Edge { port, reason: "rule_matched".into(), connections: 1, ..Edge::default() }),
            last_seen: 1,
        };
        let (reports, now) = (Reports::default(), Instant::now());
        let tell = |number: u64, anew: bool, rows: Vec<EdgeTotals>| {
            for message in edges("shop/two", number, anew, rows) {
                assert!(prost::Message::encoded_len(&message) < 256 * 1024);
                assert!(reports.take(&message, now));
            }
        };
        let known = || {
            let mut all = Edges::default();
            (reports.edges_into(&mut all, now), all.changes(true).len())
        };
        reports.begin();
        tell(1, false, vec![said(1)]);
        assert!(reports.wants_edges("shop/two"), "a difference to what was said to another");
        assert_eq!(known(), (vec![], 0));
        tell(2, true, (0..1000).map(said).collect());
        tell(3, false, vec![said(1), said(5000)]);
        assert!(!reports.wants_edges("shop/two"));
        assert_eq!(known(), (vec!["shop/two".to_owned()], 1001));
        tell(4, true, vec![said(1)]);
        assert_eq!(known().1, 1, "what was said before is forgotten");
        reports.begin();
        assert!(reports.wants_edges("shop/two"));
    }

    #[test]
    fn a_replica_that_is_silent_is_no_longer_believed() {
        let (reports, now) = (Reports::default(), Instant::now());
        let mut said = Acknowledged::default();
        said.digests.insert("uid".into(), "digest".into());
        tell(&reports, "shop/two", said, now);
        let now = now + std::time::Duration::from_secs(11);
        let mut all = Acknowledged::default();
        reports.merge_into(&mut all, now);
        assert_eq!(all, Acknowledged::default());
    }
}

#[test]
fn a_report_in_many_messages_counts_when_the_last_is_there() {
    use crate::cluster::reports::{Reports, written};
    let mut said = Acknowledged::default();
    said.digests.extend((0..2500).map(|n| (format!("uid-{n}"), "digest".to_owned())));
    said.matched.insert(key("r"), 7);
    let mut messages = written("shop/two", 5, said.clone());
    let last = messages.pop().unwrap();
    assert!(messages.len() > 2 && last.last);
    let (reports, mut all, now) = (Reports::default(), Acknowledged::default(), Instant::now());
    for message in messages {
        assert!(prost::Message::encoded_len(&message) < 256 * 1024);
        reports.take(&message, now);
    }
    reports.merge_into(&mut all, now);
    assert_eq!(all, Acknowledged::default());
    reports.take(&last, now);
    reports.merge_into(&mut all, now);
    assert_eq!(all, said);
}
