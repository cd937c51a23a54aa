//! The index as a table of requirements: documents in, answers out, no I/O.
use super::{Member, Memory, Refusal, Settings, Snapshot};
use crate::documents::{Documents, Key, Reading};
use signet_identity::{SpiffeId, WorkloadUid};
use signet_policy::{Caller, Decision, Egress, FEATURES, Posture, Reason};
use signet_proto::control::{self, Kind};
use std::net::IpAddr;
use std::sync::Arc;

fn settings() -> Settings {
    Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: vec!["10.77.0.0/16".parse().unwrap()],
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    }
}

pub(crate) fn documents(text: &str) -> Documents {
    let mut reading = Reading::default();
    reading.add(&Arc::from("mesh.yaml"), text);
    reading.finish();
    assert!(reading.is_safe(), "{:?}", reading.findings);
    reading.documents
}

pub(crate) fn workload(namespace: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Workload\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {name}}}}}\n\
         spec: {{addresses: ['{address}'], {more}}}\n"
    )
}

fn meshed(namespace: &str, name: &str, address: &str) -> String {
    let more = format!("serviceAccount: {name}, uid: {namespace}-{name}, ports: [{{name: http, port: 8080}}]");
    workload(namespace, name, address, &more)
}

fn service(namespace: &str, name: &str, address: &str, app: &str, target: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{addresses: ['{address}'], selector: {{app: {app}}}, ports: [{{port: 80, targetPort: {target}}}]}}\n"
    )
}

pub(crate) fn rule(namespace: &str, name: &str, target: &str, from: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{target: {target}, from: [{from}]}}\n"
    )
}

fn posture(namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: signet.dev/v1alpha1\nkind: Posture\nmetadata: {{name: default, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn build(text: &str) -> Snapshot {
    Snapshot::build(&settings(), &documents(text), &Memory::default(), 1).0
}

fn after(text: &str, memory: &Memory) -> (Snapshot, Memory) {
    Snapshot::build(&settings(), &documents(text), memory, 1)
}

fn member<'a>(snapshot: &'a Snapshot, key: &str) -> &'a Member {
    snapshot.find(&key.parse::<Key>().unwrap()).unwrap()
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn uid(text: &str) -> WorkloadUid {
    text.parse().unwrap()
}

fn reason(snapshot: &Snapshot, key: &str, caller: &str, port: u16) -> Reason {
    member(snapshot, key).table().judge(&Caller::Identity(caller), port).reason
}

fn destination(snapshot: &Snapshot, asker: &str, address: &str) -> control::Destination {
    told(snapshot, member(snapshot, asker), address.parse().unwrap())
}

/// What `asker` hears, after everybody else has asked for it, too: what is kept for others must not change its answer.
pub(crate) fn told(snapshot: &Snapshot, asker: &Member, address: IpAddr) -> control::Destination {
    for member in snapshot.members().chain([asker]) {
        let own = snapshot.destination(member, address);
        assert_eq!(snapshot.told(member, address).destination, own, "to {}", member.workload.key);
    }
    snapshot.destination(asker, address)
}

#[test]
fn what_does_not_depend_on_the_asker_is_made_once() {
    let mut text = service("shop", "orders", "10.96.0.1", "orders", "8080");
    for (name, address) in [("orders", "10.77.0.2"), ("cart", "10.77.0.3"), ("checkout", "10.77.0.4")] {
        text += &meshed("shop", name, address);
    }
    let snapshot = build(&text);
    let told = |asker: &str, address: &str| snapshot.told(member(&snapshot, asker), address.parse().unwrap());
    for address in ["10.96.0.1", "10.77.0.2"] {
        assert!(Arc::ptr_eq(&told("shop/cart", address), &told("shop/checkout", address)), "{address}");
        assert!(told("shop/orders", address).destination.selects_self, "{address}");
        assert!(!told("shop/cart", address).destination.selects_self, "{address}");
    }
    // Strangers' addresses can be asked for without end: nothing is kept of them.
    assert!(!Arc::ptr_eq(&told("shop/cart", "10.99.0.1"), &told("shop/checkout", "10.99.0.1")));
}

const CHECKOUT: &str = "spiffe://mesh.example/ns/shop/sa/checkout";
const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";

mod rules {
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
        let rest = meshed("shop", "orders", "10.77.0.2")
            + &rule("shop", "r", "{service: orders}", "{serviceAccount: checkout}");
        let whole = rest.clone() + &service("shop", "orders", "10.96.0.1", "orders", "8080");

        let (with, memory) = after(&whole, &Memory::default());
        assert_eq!(reason(&with, "shop/orders", CART, 8080), Reason::NoRuleMatched);

        let (without, memory) = after(&rest, &memory);
        assert_eq!(
            reason(&without, "shop/orders", CART, 8080),
            Reason::NoRuleMatched,
            "the guard went with its Service"
        );
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
        assert_eq!(snapshot.notes()[1].remarks[0], "no selected workload has a port of this name");
    }
}

mod postures {
    use super::*;

    #[test]
    fn a_namespace_without_a_posture_takes_the_operators_default() {
        let snapshot = build(
            &(meshed("shop", "a", "10.77.0.2")
                + &meshed("bank", "a", "10.77.0.3")
                + &posture("bank", "{inbound: deny, egress: {default: deny}}")),
        );
        let words = |key: &str| snapshot.config(member(&snapshot, key)).posture.map(|p| (p.inbound, p.egress)).unwrap();
        assert_eq!(words("shop/a"), ("audit".into(), "allow".into()));
        assert_eq!(words("bank/a"), ("deny".into(), "deny".into()));
    }

    #[test]
    fn a_posture_may_say_half() {
        let snapshot = build(&(meshed("shop", "a", "10.77.0.2") + &posture("shop", "{inbound: authenticated}")));
        assert_eq!(reason(&snapshot, "shop/a", CART, 1), Reason::PostureAuthenticated);
        assert_eq!(member(&snapshot, "shop/a").egress.default, Decision::Allow);
    }
}

mod destinations {
    use super::*;

    #[test]
    fn a_meshed_workload_is_named_with_identity_and_uid() {
        let snapshot = build(&(meshed("shop", "a", "10.77.0.2") + &meshed("shop", "b", "10.77.0.3")));
        let found = destination(&snapshot, "shop/a", "10.77.0.3");
        assert_eq!(found.kind(), Kind::Meshed);
        assert!(!found.selects_self);
        let endpoint = found.any_port.unwrap();
        assert_eq!(endpoint.spiffe_id, "spiffe://mesh.example/ns/shop/sa/b");
        assert_eq!(endpoint.workload_uid, "shop-b");
        assert_eq!(endpoint.framings, ["h2", "http/1.1"]);
        assert!(destination(&snapshot, "shop/a", "10.77.0.2").selects_self);
    }

    #[test]
    fn an_unmeshed_workload_is_known_to_be_unmeshed() {
        let snapshot =
            build(&(meshed("shop", "a", "10.77.0.2") + &workload("shop", "db", "10.77.0.9", "meshed: false")));
        let found = destination(&snapshot, "shop/a", "10.77.0.9");
        assert_eq!((found.kind(), found.any_port.unwrap().spiffe_id), (Kind::Unmeshed, String::new()));
    }

    #[test]
    fn what_is_in_no_document_is_unknown() {
        let snapshot = build(&meshed("shop", "a", "10.77.0.2"));
        let found = destination(&snapshot, "shop/a", "10.77.99.99");
        assert_eq!((found.kind(), found.any_port, found.ports.len()), (Kind::Unknown, None, 0));
    }

    #[test]
    fn a_peer_that_speaks_hbone_alone_has_one_framing_and_no_uid() {
        let hbone = workload("z", "zt", "10.77.0.9", "identity: 'spiffe://mesh.example/ns/z/sa/zt', hbone: true");
        let snapshot = build(&(meshed("shop", "a", "10.77.0.2") + &hbone));
        let endpoint = destination(&snapshot, "shop/a", "10.77.0.9").any_port.unwrap();
        assert_eq!(endpoint.framings, ["h2"]);
        assert_eq!(
            (endpoint.workload_uid.as_str(), endpoint.spiffe_id.as_str()),
            ("", "spiffe://mesh.example/ns/z/sa/zt")
        );
    }

    #[test]
    fn a_service_leads_to_the_workloads_of_its_own_namespace_by_their_own_ports() {
        let snapshot = build(
            &[
                meshed("shop", "a", "10.77.0.2"),
                workload("shop", "o1", "10.77.0.11", "serviceAccount: o, uid: o1, ports: [{name: http, port: 1111}]")
                    .replace("app: o1", "app: o"),
                workload("shop", "o2", "10.77.0.12", "serviceAccount: o, uid: o2, ports: [{name: http, port: 2222}]")
                    .replace("app: o2", "app: o"),
                workload("shop", "o3", "10.77.0.13", "serviceAccount: o, uid: o3").replace("app: o3", "app: o"),
                workload("bank", "o4", "10.77.0.14", "serviceAccount: o, uid: o4, ports: [{name: http, port: 4}]")
                    .replace("app: o4", "app: o"),
                service("shop", "o", "10.96.0.1", "o", "http"),
            ]
            .concat(),
        );
        let found = destination(&snapshot, "shop/a", "10.96.0.1");
        assert_eq!((found.kind(), found.ports.len(), found.ports[0].port), (Kind::Meshed, 1, 80));
        let to: Vec<(u8, u32, &str)> =
            found.ports[0].endpoints.iter().map(|e| (e.address[3], e.port, e.workload_uid.as_str())).collect();
        assert_eq!(to, [(11, 1111, "o1"), (12, 2222, "o2")]);
        assert!(!found.selects_self);
        assert!(destination(&snapshot, "shop/o3", "10.96.0.1").selects_self);
    }

    #[test]
    fn a_service_with_nobody_behind_it_is_meshed_so_that_nobody_calls_it_in_plaintext() {
        let snapshot = build(&(meshed("shop", "a", "10.77.0.2") + &service("shop", "o", "10.96.0.1", "o", "1")));
        assert_eq!(destination(&snapshot, "shop/a", "10.96.0.1").kind(), Kind::Meshed);
    }

    #[test]
    fn a_service_is_unmeshed_only_when_everybody_behind_it_is() {
        let plain = workload("shop", "p", "10.77.0.5", "meshed: false").replace("app: p", "app: o");
        let one = meshed("shop", "a", "10.77.0.2") + &plain + &service("shop", "o", "10.96.0.1", "o", "1");
        assert_eq!(destination(&build(&one), "shop/a", "10.96.0.1").kind(), Kind::Unmeshed);
        let both = one + &meshed("shop", "m", "10.77.0.6").replace("app: m", "app: o");
        assert_eq!(destination(&build(&both), "shop/a", "10.96.0.1").kind(), Kind::Meshed);
    }

    #[test]
    fn a_workload_knows_the_service_addresses_that_lead_to_itself() {
        let snapshot = build(
            &(meshed("shop", "a", "10.77.0.2")
                + &service("shop", "a", "10.96.0.1", "a", "1")
                + &service("shop", "b", "10.96.0.2", "b", "1")),
        );
        assert_eq!(snapshot.config(member(&snapshot, "shop/a")).service_addresses_of_self, [vec![10, 96, 0, 1]]);
    }

    #[test]
    fn the_meshs_ranges_hold_every_address_of_a_document_and_not_one_more() {
        let snapshot = build(
            &[
                meshed("shop", "a", "10.77.0.2"),
                meshed("shop", "b", "192.168.1.4"),
                meshed("shop", "c", "192.168.1.5"),
                meshed("shop", "d", "fd77::2"),
                service("shop", "s", "10.96.0.1", "a", "1"),
            ]
            .concat(),
        );
        let ranges: Vec<(Vec<u8>, u32)> = snapshot
            .config(member(&snapshot, "shop/a"))
            .mesh_ranges
            .into_iter()
            .map(|p| (p.address, p.length))
            .collect();
        let six = vec![0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        let expected = [(vec![10, 77, 0, 0], 16), (vec![10, 96, 0, 1], 32), (vec![192, 168, 1, 4], 31), (six, 128)];
        assert_eq!(ranges, expected);
    }
}

mod faults {
    use super::*;
    use crate::documents::Who;
    use crate::index::IndexError;

    fn built(documents: &Documents) -> Snapshot {
        Snapshot::build(&settings(), documents, &Memory::default(), 1).0
    }

    fn text() -> String {
        [
            meshed("shop", "a", "10.77.0.2"),
            meshed("shop", "bad", "10.77.0.3"),
            meshed("shop", "good", "10.77.0.4"),
            service("shop", "bad", "10.96.0.1", "bad", "8080"),
            service("shop", "good", "10.96.0.2", "good", "8080"),
            rule("shop", "r", "{all: true}", "{namespace: shop}"),
        ]
        .concat()
    }

    /// Nobody is called in plaintext, and nobody is admitted, because of the one; everything else is as it was.
    fn only_the_bad_one_is_left_out(snapshot: &Snapshot) {
        let bad = destination(snapshot, "shop/a", "10.77.0.3");
        assert!(bad.kind() != Kind::Unmeshed && bad.any_port.is_none(), "{bad:?}");
        let behind = destination(snapshot, "shop/a", "10.96.0.1");
        assert_eq!(behind.kind(), Kind::Meshed);
        assert!(behind.ports.iter().all(|port| port.endpoints.is_empty()), "{behind:?}");
        let good = destination(snapshot, "shop/a", "10.96.0.2");
        assert_eq!(good.ports[0].endpoints[0].workload_uid, "shop-good");
        assert_eq!(reason(snapshot, "shop/good", CART, 8080), Reason::RuleMatched);
        assert!(
            snapshot.config(member(snapshot, "shop/a")).mesh_ranges.iter().any(|range| range.address == [10, 77, 0, 0])
        );
    }

    #[test]
    fn a_workload_that_can_have_no_identity_is_left_out_and_the_rest_is_in_force() {
        let mut documents = documents(&text());
        documents.workloads[1].item.who = Who::ServiceAccount("not/one".into());
        let snapshot = built(&documents);
        assert!(matches!(snapshot.faults(), [IndexError::Identity { workload, .. }] if workload == "shop/bad"));
        only_the_bad_one_is_left_out(&snapshot);
        let own = id("spiffe://mesh.example/ns/shop/sa/bad");
        assert!(snapshot.authorize(&own, Some(&uid("shop-bad"))).is_err(), "it hears nothing");
        assert_eq!(reason(&snapshot, "shop/bad", "spiffe://mesh.example/ns/x/sa/y", 1), Reason::NoRuleMatched);
    }

    #[test]
    fn an_address_that_two_claim_is_nobodys() {
        for claim in [
            documents(&meshed("bank", "thief", "10.77.0.3")),
            documents(&workload("bank", "thief", "10.77.0.3", "meshed: false")),
            documents(&service("bank", "thief", "10.77.0.3", "thief", "80")),
        ] {
            let mut documents = super::documents(&text());
            documents.workloads.extend(claim.workloads);
            documents.services.extend(claim.services);
            let snapshot = built(&documents);
            assert_eq!(snapshot.faults(), [IndexError::Twice("address 10.77.0.3".into())]);
            assert_eq!(destination(&snapshot, "shop/a", "10.77.0.3").kind(), Kind::Unknown);
            let good = destination(&snapshot, "shop/a", "10.96.0.2");
            assert_eq!(good.ports[0].endpoints[0].workload_uid, "shop-good");
        }
    }

    #[test]
    fn a_uid_that_two_claim_is_nobodys() {
        let thief = meshed("bank", "thief", "10.77.0.9").replace("uid: bank-thief", "uid: shop-bad");
        let mut documents = documents(&text());
        documents.workloads.extend(super::documents(&thief).workloads);
        let snapshot = built(&documents);
        assert_eq!(snapshot.faults(), [IndexError::Twice("uid shop-bad".into())]);
        only_the_bad_one_is_left_out(&snapshot);
        for name in ["ns/shop/sa/bad", "ns/bank/sa/thief"] {
            assert!(snapshot.authorize(&id(&format!("spiffe://mesh.example/{name}")), Some(&uid("shop-bad"))).is_err());
        }
    }
}

mod versions {
    use super::*;

    #[test]
    fn the_same_documents_keep_revision_and_digest_in_any_order_and_over_a_restart() {
        let (a, b) = (meshed("shop", "a", "10.77.0.2"), meshed("shop", "b", "10.77.0.3"));
        let (first, memory) = after(&(a.clone() + &b), &Memory::default());
        let (second, _) = after(&(b + &a), &memory);
        assert_eq!(first.revision(), second.revision());
        assert_eq!(first.digest(member(&first, "shop/a")), second.digest(member(&second, "shop/a")));
    }

    #[test]
    fn a_change_raises_the_revision_even_when_the_clock_went_back() {
        let text = meshed("shop", "a", "10.77.0.2");
        let (first, memory) = Snapshot::build(&settings(), &documents(&text), &Memory::default(), 5_000);
        assert_eq!(first.revision(), 5_000);
        let changed = text + &rule("shop", "r", "{all: true}", "{namespace: a}");
        let (second, _) = Snapshot::build(&settings(), &documents(&changed), &memory, 7);
        assert_eq!(second.revision(), 5_001);
    }

    #[test]
    fn a_change_that_does_not_concern_a_workload_leaves_its_digest() {
        let text = meshed("shop", "a", "10.77.0.2") + &meshed("shop", "b", "10.77.0.3");
        let before = build(&text);
        let after = build(&(text + &rule("shop", "r", "{podSelector: {matchLabels: {app: b}}}", "{namespace: a}")));
        assert_eq!(before.digest(member(&before, "shop/a")), after.digest(member(&after, "shop/a")));
        assert_ne!(before.digest(member(&before, "shop/b")), after.digest(member(&after, "shop/b")));
    }

    #[test]
    fn the_digest_covers_the_ranges() {
        let mut other = settings();
        other.mesh_ranges.clear();
        let text = meshed("shop", "a", "10.77.0.2");
        let one = build(&text);
        let two = Snapshot::build(&other, &documents(&text), &Memory::default(), 1).0;
        assert_ne!(one.digest(member(&one, "shop/a")), two.digest(member(&two, "shop/a")));
    }
}

mod who_may_hear {
    use super::*;

    #[test]
    fn only_the_workload_that_proves_uid_and_identity_together() {
        let snapshot = build(
            &(meshed("shop", "a", "10.77.0.2")
                + &workload("shop", "p", "10.77.0.3", "serviceAccount: p, uid: shop-p, meshed: false")),
        );
        let a = id("spiffe://mesh.example/ns/shop/sa/a");
        let b = id("spiffe://mesh.example/ns/shop/sa/b");
        let p = id("spiffe://mesh.example/ns/shop/sa/p");
        let foreign = id("spiffe://other.example/ns/shop/sa/a");
        let ask = |identity: &SpiffeId, uid: Option<&WorkloadUid>| {
            snapshot.authorize(identity, uid).map(|m| m.workload.key.to_string())
        };
        assert_eq!(ask(&a, Some(&uid("shop-a"))), Ok("shop/a".into()));
        assert!(matches!(ask(&a, None), Err(Refusal::NoUid(_))));
        assert!(matches!(ask(&a, Some(&uid("other"))), Err(Refusal::UnknownUid(_))));
        assert!(matches!(ask(&b, Some(&uid("shop-a"))), Err(Refusal::OtherIdentity { .. })));
        assert!(matches!(ask(&foreign, Some(&uid("shop-a"))), Err(Refusal::OtherIdentity { .. })));
        assert!(matches!(ask(&p, Some(&uid("shop-p"))), Err(Refusal::NotMeshed(_))));
    }
}
