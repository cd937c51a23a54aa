//! Which of a name's addresses is tried first.
use super::*;
use std::collections::BTreeSet;

#[test]
fn a_new_connection_goes_to_another_replica_first_and_callers_are_spread() {
    let addresses: Vec<SocketAddr> = (1..=4).map(|n| SocketAddr::from(([10, 0, 0, n], 15012))).collect();
    let mut first = BTreeSet::new();
    for _ in 0..200 {
        let order = in_order(addresses.clone(), Some(addresses[0]));
        assert_eq!(order.last(), Some(&addresses[0]), "where the last connection went comes last");
        first.insert(order[0]);
    }
    assert_eq!(first.len(), 3, "the others are tried in any order");
    assert_eq!(in_order(vec![addresses[0]], Some(addresses[0])), vec![addresses[0]], "there may be no other");
}
