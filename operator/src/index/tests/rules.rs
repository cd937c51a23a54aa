//! Rules: which ports they guard, whom they admit, and in whose namespace.
use super::*;

#[test]
fn f10_a_rule_never_changes_a_verdict_in_another_namespace() {
    let alone = meshed("shop", "orders", "10.77.0.2") + &meshed("bank", "orders", "10.77.0.3");
    for target in ["{all: true}", "{podSelector: {matchLabels: {app: orders}}}", "{service: orders}"] {
        let text = alone.clone() + &service("bank", "orders", "10.96.0.1", "orders", "8080");
        let before = build(&text);
        let after = build(&(text + &rule("shop", "r", target, "{namespace: shop}")));
        assert_eq!(before.digest(member(&before, "bank/orders")), after.digest(member(&after, "bank/orders")));
        assert!(member(&after, "bank/orders").rules.is_empty(), "{target} reached another namespace");
    }
}

#[test]
fn a_service_target_guards_the_workloads_behind_the_service() {
    let snapshot = build(
        &[
            meshed("shop", "orders", "10.77.0.2"),
            meshed("shop", "other", "10.77.0.3"),
            service("shop", "orders", "10.96.0.1", "orders", "http"),
            rule("shop", "r", "{service: orders, ports: [8080]}", "{serviceAccount: checkout}"),
        ]
        .concat(),
    );
    assert_eq!(reason(&snapshot, "shop/orders", CHECKOUT, 8080), Reason::RuleMatched);
    assert_eq!(reason(&snapshot, "shop/orders", CART, 8080), Reason::NoRuleMatched);
    assert_eq!(reason(&snapshot, "shop/orders", CART, 8081), Reason::PostureAudit);
    assert_eq!(reason(&snapshot, "shop/other", CART, 8080), Reason::PostureAudit);
}

#[test]
fn a_port_name_means_each_workloads_own_port_and_nothing_where_it_is_missing() {
    let snapshot = build(
        &[
            workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a, ports: [{name: web, port: 8080}]"),
            workload("shop", "b", "10.77.0.3", "serviceAccount: b, uid: b, ports: [{name: web, port: 9090}]"),
            workload("shop", "c", "10.77.0.4", "serviceAccount: c, uid: c"),
            rule("shop", "r", "{all: true, ports: [web]}", "{serviceAccount: checkout}"),
        ]
        .concat(),
    );
    assert_eq!(reason(&snapshot, "shop/a", CART, 8080), Reason::NoRuleMatched);
    assert_eq!(reason(&snapshot, "shop/b", CART, 9090), Reason::NoRuleMatched);
    assert_eq!(reason(&snapshot, "shop/b", CART, 8080), Reason::PostureAudit);
    assert!(member(&snapshot, "shop/c").rules.is_empty());
}

#[test]
fn a_numbered_port_is_guarded_whether_the_workload_names_it_or_not() {
    let snapshot = build(
        &(meshed("shop", "orders", "10.77.0.2")
            + &rule("shop", "r", "{all: true, ports: [22]}", "{serviceAccount: checkout}")),
    );
    assert_eq!(reason(&snapshot, "shop/orders", CART, 22), Reason::NoRuleMatched);
}

#[test]
fn a_service_that_is_deleted_and_made_again_keeps_its_guard_throughout() {
    let rest =
        meshed("shop", "orders", "10.77.0.2") + &rule("shop", "r", "{service: orders}", "{serviceAccount: checkout}");
    let whole = rest.clone() + &service("shop", "orders", "10.96.0.1", "orders", "8080");

    let (with, memory) = after(&whole, &Memory::default());
    assert_eq!(reason(&with, "shop/orders", CART, 8080), Reason::NoRuleMatched);

    let (without, memory) = after(&rest, &memory);
    assert_eq!(reason(&without, "shop/orders", CART, 8080), Reason::NoRuleMatched, "the guard went with its Service");
    assert!(without.notes()[0].remarks.iter().any(|r| r.contains("its last selector stays in force")));

    // Over a restart: the memory is all that is left of it.
    let stored = serde_json::to_vec(&memory).unwrap();
    let (again, memory) = after(&rest, &serde_json::from_slice(&stored).unwrap());
    assert_eq!(reason(&again, "shop/orders", CART, 8080), Reason::NoRuleMatched);

    let (back, _) = after(&whole, &memory);
    assert_eq!(reason(&back, "shop/orders", CART, 8080), Reason::NoRuleMatched);
    assert_eq!(reason(&back, "shop/orders", CHECKOUT, 8080), Reason::RuleMatched);
}

#[test]
fn memory_does_not_grow_with_services_that_no_rule_names() {
    let services: String =
        (0..12).map(|n| service("shop", &format!("s{n}"), &format!("10.96.0.{n}"), "x", "1")).collect();
    let (_, memory) =
        after(&(services.clone() + &rule("shop", "r", "{service: s11}", "{namespace: a}")), &Memory::default());
    assert_eq!(memory.selectors.keys().collect::<Vec<_>>(), ["shop/s11"]);
    assert!(after(&services, &memory).1.selectors.is_empty());
}

#[test]
fn f37_a_rule_with_one_bad_network_guards_its_port_and_admits_nobody() {
    let snapshot = build(
        &(meshed("shop", "orders", "10.77.0.2")
            + &rule(
                "shop",
                "r",
                "{all: true, ports: [8080]}",
                "{serviceAccount: checkout}, {unauthenticated: {cidrs: [10.0.0.0/99]}}",
            )),
    );
    assert_eq!(reason(&snapshot, "shop/orders", CHECKOUT, 8080), Reason::GuardedByUnusableRule);
    let config = snapshot.config(member(&snapshot, "shop/orders"));
    assert!(config.rules[0].sources.is_empty());
    assert!(config.rules[0].refused.contains("cidrs"), "{:?}", config.rules[0]);
}

#[test]
fn f7_a_field_of_a_newer_operator_guards_and_admits_nobody() {
    let snapshot = build(
        &(meshed("shop", "orders", "10.77.0.2")
            + &rule("shop", "r", "{all: true}", "{serviceAccount: checkout, onTuesdays: true}")),
    );
    assert_eq!(reason(&snapshot, "shop/orders", CHECKOUT, 8080), Reason::GuardedByUnusableRule);
}

#[test]
fn every_rule_names_the_features_that_it_needs() {
    let from =
        "{serviceAccount: a}, {namespace: b}, {anyAuthenticated: true}, {unauthenticated: {cidrs: [10.0.0.0/8]}}";
    let snapshot = build(&(meshed("shop", "orders", "10.77.0.2") + &rule("shop", "r", "{all: true}", from)));
    let mut features = snapshot.config(member(&snapshot, "shop/orders")).rules[0].features.clone();
    let mut all: Vec<&str> = FEATURES.to_vec();
    features.sort();
    all.sort_unstable();
    assert_eq!(features, all);
}

#[test]
fn a_rule_that_selects_nothing_says_so() {
    let snapshot = build(
        &(meshed("shop", "orders", "10.77.0.2")
            + &rule("shop", "a", "{service: nowhere}", "{namespace: a}")
            + &rule("shop", "b", "{all: true, ports: [grpc]}", "{namespace: a}")
            + &rule("shop", "c", "{all: true}", "{namespace: a}")),
    );
    let notes: Vec<(&str, bool)> = snapshot.notes().iter().map(|n| (n.rule.as_str(), n.effective)).collect();
    assert_eq!(notes, [("shop/a", false), ("shop/b", false), ("shop/c", true)]);
    assert_eq!(snapshot.notes()[0].remarks[0], "Service shop/nowhere does not exist and never did");
    assert_eq!(snapshot.notes()[1].remarks, ["no selected workload has a port with the name grpc"]);
}

#[test]
fn every_port_that_no_selected_workload_has_is_named_and_the_others_stay_guarded() {
    let orders = meshed("shop", "orders", "10.77.0.2");
    let cases = [
        ("[8080, http]", &[][..], 8080),
        ("[80]", &["the port 80"], 80),
        ("[8080, htpp]", &["the name htpp"], 8080),
        ("[htpp, 80, 8080]", &["the name htpp", "the port 80"], 8080),
    ];
    for (ports, wanted, guarded) in cases {
        let target = format!("{{all: true, ports: {ports}}}");
        let snapshot = build(&(orders.clone() + &rule("shop", "r", &target, "{serviceAccount: checkout}")));
        let note = &snapshot.notes()[0];
        assert_eq!((note.effective, note.remarks.len()), (wanted.is_empty(), wanted.len()), "{ports}: {note:?}");
        assert!(note.remarks.iter().zip(wanted).all(|(said, wanted)| said.contains(wanted)), "{ports}: {note:?}");
        assert_eq!(reason(&snapshot, "shop/orders", CART, guarded), Reason::NoRuleMatched, "{ports}");
    }
    // Who declares nothing may have every port.
    let silent = workload("shop", "orders", "10.77.0.2", "serviceAccount: orders, uid: x");
    let snapshot = build(&(silent + &rule("shop", "r", "{all: true, ports: [80]}", "{serviceAccount: checkout}")));
    assert!(snapshot.notes()[0].effective && snapshot.notes()[0].remarks.is_empty());
}
