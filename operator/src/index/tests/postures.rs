//! Postures: what a namespace admits where no rule speaks.
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
