//! What is contradictory or wrong is refused, named, and left out alone.
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
