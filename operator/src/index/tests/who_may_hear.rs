//! Who may attach, and as whom.
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
