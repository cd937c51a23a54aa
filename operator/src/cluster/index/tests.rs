//! What is built for which news.
use super::*;
use crate::cluster::read;
use crate::cluster::store::News;
use crate::documents::Key;
use serde_json::{Value, json};
use signet_apiserver::object;
use signet_policy::{Decision, Egress, Posture};

fn key() -> Key {
    Key { namespace: "shop".into(), name: "r".into() }
}

fn rule(from: &str, status: &Value) -> Change {
    let rule = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": "r", "namespace": "shop", "uid": "x", "generation": 3},
        "spec": {"target": {"service": "orders"}, "from": [{"serviceAccount": from}]}, "status": status,
    });
    Change::Rule(News::Set(key(), Box::new(read::rule(&object(rule)))))
}

fn index() -> (Index, Published, cell::Receiver<Arc<crate::cluster::status::View>>) {
    let settings = Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let (mut index, mut published, views) = Index::new(settings, "signet-system");
    let effect = index.take(rule("a", &json!({})));
    assert!(index.must_build(effect), "a rule that was not known");
    index.build(1);
    published.snapshot.mark_unchanged();
    (index, published, views)
}

#[test]
fn a_status_that_was_written_is_read_and_nothing_is_built_for_it() {
    let (mut index, published, views) = index();
    let effect = index.take(rule("a", &json!({"acknowledged": 7})));
    assert!(!index.must_build(effect));
    assert_eq!(views.borrow().rules[&key()].rule.status.acknowledged, 7);
    let effect = index.take(rule("a", &json!({"acknowledged": 7})));
    assert_eq!((effect, index.must_build(effect)), (Effect::Nothing, false), "the same again");
    assert!(!published.snapshot.has_changed().unwrap(), "every stream would look at it");
}

#[test]
fn a_rule_that_changed_together_with_its_status_is_built() {
    let (mut index, ..) = index();
    let effect = index.take(rule("b", &json!({"acknowledged": 7})));
    assert!(index.must_build(effect));
}

#[test]
fn a_status_that_tells_of_a_service_that_went_is_built_once() {
    let (mut index, ..) = index();
    let last = |acknowledged: u32| json!({"acknowledged": acknowledged, "service": {"name": "orders", "selector": {"app": "orders"}}});
    let effect = index.take(rule("a", &last(1)));
    assert!(index.must_build(effect), "the guard of a Service that is missing selects by it");
    index.build(2);
    let effect = index.take(rule("a", &last(2)));
    assert!(!index.must_build(effect), "it is known by now");
}
