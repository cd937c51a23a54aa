use super::*;
use crate::compile::{Mode, Posture, Source, Table};
use crate::validate::read;
use crate::verdict::{Caller, Reason};
use rstest::rstest;
use serde_json::{Value, json};

#[allow(clippy::needless_pass_by_value, reason = "called with json!")]
fn reading(namespace: &str, spec: Value) -> Reading {
    let document = json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": "rule", "namespace": namespace, "generation": 7}, "spec": spec,
    });
    let reading = read(&document);
    assert!(!matches!(reading, Reading::Refused { .. }), "{:#?}", reading.problems());
    reading
}

/// The rule for the workload `orders` of the namespace `shop`, which the Service `orders` selects.
fn for_orders(reading: &Reading) -> Option<WorkloadRule> {
    let labels = BTreeMap::from([("app".to_owned(), "orders".to_owned()), ("tier".to_owned(), "web".to_owned())]);
    let ports = [("http".to_owned(), 8080), ("metrics".to_owned(), 9090), ("http".to_owned(), 8081)];
    let workload = Workload { namespace: "shop", labels: &labels, ports: &ports };
    for_workload(reading, &workload, |service| service == "orders", "mesh.example")
}

#[rstest]
#[case::service(json!({"service": "orders"}), true)]
#[case::other_service(json!({"service": "cart"}), false)]
#[case::all(json!({"all": true}), true)]
#[case::labels(json!({"podSelector": {"matchLabels": {"app": "orders"}}}), true)]
#[case::two_labels(json!({"podSelector": {"matchLabels": {"app": "orders", "tier": "db"}}}), false)]
#[case::everything(json!({"podSelector": {}}), true)]
#[case::listed(json!({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["web"]}]}}), true)]
#[case::not_listed(json!({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "In", "values": ["db"]}]}}), false)]
#[case::not_in(json!({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["web"]}]}}), false)]
#[case::not_in_and_missing(json!({"podSelector": {"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["web"]}]}}), true)]
#[case::there(json!({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}}), true)]
#[case::missing(json!({"podSelector": {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]}}), false)]
fn a_target_selects_as_kubernetes_would(#[case] target: Value, #[case] selected: bool) {
    let rule = for_orders(&reading("shop", json!({"target": target, "from": []})));
    assert_eq!(rule.is_some(), selected);
}

#[rstest]
#[case(json!({"all": true}))]
#[case(json!({"service": "orders"}))]
#[case(json!({"podSelector": {}}))]
fn f10_a_rule_of_another_namespace_never_concerns_a_workload(#[case] target: Value) {
    let spec = json!({"target": target, "from": [{"anyAuthenticated": true}]});
    assert!(for_orders(&reading("shop", spec.clone())).is_some(), "the same rule in the workload's namespace does");
    for namespace in ["edge", "shop-2", "sho"] {
        assert_eq!(for_orders(&reading(namespace, spec.clone())), None, "{namespace}");
    }
}

#[test]
fn f10_a_service_account_alone_is_one_of_the_rules_own_namespace() {
    let rule =
        for_orders(&reading("shop", json!({"target": {"all": true}, "from": [{"serviceAccount": "cart"}]}))).unwrap();
    let table = Table::compile(Posture::Deny, &[rule]);
    assert!(table.judge(&Caller::Identity("spiffe://mesh.example/ns/shop/sa/cart"), 80).allows());
    assert!(!table.judge(&Caller::Identity("spiffe://mesh.example/ns/edge/sa/cart"), 80).allows());
    assert!(!table.judge(&Caller::Identity("spiffe://partner.example/ns/shop/sa/cart"), 80).allows());
}

#[rstest]
#[case::absent(None, Ports::All)]
#[case::numbers(Some(json!([1, 9090])), Ports::These(vec![1, 9090]))]
#[case::name(Some(json!(["metrics"])), Ports::These(vec![9090]))]
#[case::name_given_twice(Some(json!(["http", 80])), Ports::These(vec![80, 8080, 8081]))]
#[case::name_that_the_workload_lacks(Some(json!(["grpc"])), Ports::These(vec![]))]
fn ports_are_the_workloads_own(#[case] ports: Option<Value>, #[case] expected: Ports) {
    let mut target = json!({"all": true});
    if let Some(ports) = ports {
        target["ports"] = ports;
    }
    assert_eq!(for_orders(&reading("shop", json!({"target": target, "from": []}))).unwrap().ports, expected);
}

#[test]
fn every_form_of_caller_becomes_a_source_and_names_its_feature() {
    let rule = for_orders(&reading(
        "shop",
        json!({
            "target": {"all": true},
            "from": [
                {"serviceAccount": "cart"},
                {"namespace": "edge", "serviceAccount": "gateway"},
                {"namespace": "monitoring"},
                {"identity": "spiffe://partner.example/ns/a/sa/b"},
                {"anyAuthenticated": true},
                {"unauthenticated": {"cidrs": ["10.20.0.0/16"]}},
            ],
            "mode": "Audit",
        }),
    ))
    .unwrap();
    assert_eq!((rule.generation, rule.mode), (7, Mode::Audit));
    assert_eq!(rule.features, ["any-authenticated", "identity", "namespace", "plaintext-cidr"]);
    assert_eq!(
        rule.admits,
        Admits::Sources(vec![
            Source::Identity("spiffe://mesh.example/ns/shop/sa/cart".to_owned()),
            Source::Identity("spiffe://mesh.example/ns/edge/sa/gateway".to_owned()),
            Source::Namespace { trust_domain: "mesh.example".to_owned(), namespace: "monitoring".to_owned() },
            Source::Identity("spiffe://partner.example/ns/a/sa/b".to_owned()),
            Source::AnyAuthenticated,
            Source::Plaintext(vec!["10.20.0.0/16".parse().unwrap()]),
        ])
    );
}

#[test]
fn f7_f37_a_refused_rule_guards_its_ports_and_admits_nobody() {
    let spec = json!({
        "target": {"service": "orders", "ports": ["metrics"]},
        "from": [{"serviceAccount": "cart"}, {"unauthenticated": {"cidrs": ["10.0.0.1/8"]}}],
    });
    let table = Table::compile(Posture::Allow, &[for_orders(&reading("shop", spec)).unwrap()]);
    let cart = Caller::Identity("spiffe://mesh.example/ns/shop/sa/cart");
    for caller in [cart, Caller::Plaintext([10, 0, 0, 1].into())] {
        let verdict = table.judge(&caller, 9090);
        assert_eq!(verdict.reason, Reason::GuardedByUnusableRule);
        let text = verdict.explain(&caller, 9090);
        assert!(text.contains("rule shop/rule") && text.contains("10.0.0.0/8 if the network is meant"), "{text}");
        assert!(table.judge(&caller, 8080).allows(), "other ports are left as they were");
    }
}

#[test]
fn a_port_that_no_selected_workload_has_is_found_by_name_and_by_number() {
    let (web, metrics) = ([("http".to_owned(), 8080)], [(String::new(), 9090)]);
    let nobodys = |ports: Value, selected: &[&[(String, u16)]]| {
        let target: Target = serde_json::from_value(json!({"all": true, "ports": ports})).unwrap();
        target.ports_of_nobody(selected).into_iter().cloned().collect::<Vec<_>>()
    };
    let name = |name: &str| PortRef::Name(name.into());
    assert_eq!(nobodys(json!(["http", 8080, 9090]), &[&web, &metrics]), []);
    assert_eq!(nobodys(json!([8080, "htpp", 80]), &[&web, &metrics]), [name("htpp"), PortRef::Number(80)]);
    assert_eq!(nobodys(json!([80, "http"]), &[&[]]), [name("http")], "it may listen where it declares nothing");
}
