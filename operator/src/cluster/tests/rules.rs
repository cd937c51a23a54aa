//! AllowRules and postures as objects of the cluster: what a bad one costs, and whom.
use super::*;

fn base() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.pod("shop", "orders", "10.244.0.3", true, json!({})).pod(
        "bank",
        "orders",
        "10.244.0.4",
        true,
        json!({
            "metadata": {"uid": "uid-bank"},
        }),
    );
    cluster
}
const ORDERS: (&str, &str) = ("shop", "orders");

#[test]
fn f7_a_rule_with_an_unknown_field_guards_and_admits_nobody() {
    let target = json!({"all": true, "ports": [8080]});
    for fields in [
        json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout"}], "unless": 1}}),
        json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout", "unless": 1}]}}),
        json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout"}]}, "http": [{"methods": ["GET"]}]}),
    ] {
        let snapshot = base().rule_with("shop", "r", fields.clone()).snapshot();
        assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::GuardedByUnusableRule, "{fields}");
    }
}

#[test]
fn f37_a_rule_with_one_bad_network_guards_and_admits_nobody() {
    let from = json!([{"serviceAccount": "checkout"}, {"unauthenticated": {"cidrs": ["10.0.0.1/8"]}}]);
    let snapshot = base().rule("shop", "r", json!({"target": {"all": true}, "from": from})).snapshot();
    assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::GuardedByUnusableRule);
}

#[test]
fn f10_a_rule_changes_no_verdict_in_another_namespace() {
    let mut cluster = base();
    let before = reason(&cluster.snapshot(), ("bank", "orders"), "shop/checkout", 8080);
    cluster.rule("shop", "r", json!({"target": {"all": true}, "from": []}));
    let snapshot = cluster.snapshot();
    assert_eq!(reason(&snapshot, ("bank", "orders"), "shop/checkout", 8080), before);
    assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::NoRuleMatched);
}

#[test]
fn f35_an_unknown_posture_denies() {
    let mut cluster = base();
    let posture = |cluster: &mut Cluster| cluster.snapshot().find(&key("shop", "orders")).unwrap().inbound;
    cluster.namespace("shop", json!({}));
    assert_eq!(posture(&mut cluster), Posture::Audit);
    for (word, meant) in
        [("deny", Posture::Deny), ("allow", Posture::Allow), ("Allow", Posture::Deny), ("", Posture::Deny)]
    {
        cluster.namespace("shop", json!({"signet.dev/posture": word}));
        assert_eq!(posture(&mut cluster), meant, "{word:?}");
    }
}

#[test]
fn a_rule_keeps_guarding_while_its_service_is_missing_over_a_restart_of_the_operator_too() {
    let spec = json!({"target": {"service": "orders"}, "from": [{"serviceAccount": "checkout"}]});
    let mut cluster = base();
    cluster.rule("shop", "r", spec.clone()).service("shop", "orders", "10.96.0.1", json!({}));
    assert_eq!(reason(&cluster.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);
    cluster.gone(Change::Service, "shop", "orders");
    assert_eq!(reason(&cluster.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);

    let mut again = base();
    let status = json!({"service": {"name": "orders", "selector": {"app": "orders"}}});
    again.rule_with("shop", "r", json!({"spec": spec, "status": status}));
    assert_eq!(reason(&again.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);
    // Of another Service than the one that it now targets, the status says nothing.
    let mut other = base();
    let status = json!({"service": {"name": "older", "selector": {"app": "orders"}}});
    other.rule_with("shop", "r", json!({"spec": spec, "status": status}));
    assert_eq!(reason(&other.snapshot(), ORDERS, "shop/other", 8080), Reason::PostureAudit);
}
