//! A connection in a tunnel of its own (framing `alone`), with our sidecars at both ends: what applications get is what they get
//! in a pool, and it is refused, proved again and cut like any other.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Mesh, Workload},
    process::wait_for,
};
use signet_tests::{
    FAMILIES, SOON,
    apps::{End, Server, call, echoed, end_of, is_reset, reaches},
    carried, mesh_with, pair,
};
use std::{collections::BTreeMap, time::Duration};

const MB: usize = 1_000_000;
const LEAF: Duration = Duration::from_secs(4);

/// The usual pair in a mesh in which a destination that has moved anything is called alone, and one pooled call to each address
/// that makes it so.
fn stage(leaf: Option<Duration>) -> (Mesh, Workload, Workload) {
    let mut mesh = mesh_with(|options| {
        options.leaf_lifetime = leaf;
        options.sidecar = "[tunnel]\nalone_above = \"0B\"\n".into();
    });
    let (checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    for family in FAMILIES {
        reaches(&checkout.machine, orders.address(family), 8080).unwrap();
    }
    let ended = || (outbound(&checkout).len() == FAMILIES.len()).then_some(());
    wait_for("the first calls are remembered", SOON, ended).unwrap();
    assert!(outbound(&checkout).iter().all(|line| line.contains(" framing=pooled")), "nothing was known of it before");
    (mesh, checkout, orders)
}

/// The caller's records.
fn outbound(workload: &Workload) -> Vec<String> {
    let log = workload.log();
    log.lines()
        .filter(|line| line.contains(" outbound carried ") || line.contains(" outbound refused "))
        .map(str::to_owned)
        .collect()
}

/// Waits until the caller's sidecar has recorded so many connections since the first, all alone.
fn all_alone(checkout: &Workload, count: usize) {
    let since = || outbound(checkout).split_off(FAMILIES.len());
    wait_for("the calls are recorded", SOON, || (since().len() >= count).then_some(())).unwrap();
    for line in since() {
        assert!(line.contains(" framing=alone"), "{line}");
    }
}

#[test]
fn bulk_each_way_at_once_arrives_unchanged_in_a_tunnel_of_its_own() {
    let (_mesh, checkout, orders) = stage(None);
    carried::bulk_both_ways_at_once(&checkout, &orders, 50 * MB);
    all_alone(&checkout, 2);
}

#[test]
fn half_close_and_reset_arrive_as_such_in_a_tunnel_of_its_own() {
    let (_mesh, checkout, orders) = stage(None);
    carried::half_close_in_both_directions(&checkout, &orders);
    carried::a_reset_by_the_client(&checkout, &orders);
    carried::a_reset_by_the_server(&checkout, &orders);
    all_alone(&checkout, 8);
}

#[test]
fn a_caller_that_no_rule_admits_any_more_is_refused_in_a_tunnel_of_its_own() {
    let (mesh, checkout, orders) = stage(None);
    let server = Server::echo(&orders.machine, 8080);
    mesh.allow("shop", "orders", &[8080], &["somebody-else"]).unwrap();
    wait_for("the rule is in force", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).err()).unwrap();
    // One whose count begins now: the last call may have been cut rather than refused.
    drop(server);
    let server = Server::echo(&orders.machine, 8080);
    for family in FAMILIES {
        let (here, there) = (checkout.log().len(), orders.log().len());
        match call(&checkout.machine, orders.address(family), 8080) {
            Ok(mut stream) => assert_eq!(end_of(&mut stream, SOON), End::Reset, "{family:?}"),
            Err(e) => assert!(is_reset(&e), "{family:?}: {e}"),
        }
        for (workload, from, direction) in [(&checkout, here, "outbound"), (&orders, there, "inbound")] {
            let words = format!(" {direction} refused reason=no_rule_matched ");
            let says = || {
                let log = workload.log();
                let line = log.get(from..)?.lines().find(|line| line.contains(&words))?;
                line.contains(" framing=alone").then_some(())
            };
            wait_for(&format!("{family:?}: {words}"), SOON, says).unwrap();
        }
    }
    assert_eq!(server.accepted(), 0, "nothing reached the application");
}

#[test]
fn a_tunnel_of_its_own_is_proved_again_by_new_certificates_and_cut_when_its_rule_goes() {
    let (mesh, checkout, orders) = stage(Some(LEAF));
    let _server = Server::echo(&orders.machine, 8080);
    let mut open = FAMILIES.map(|family| call(&checkout.machine, orders.address(family), 8080).unwrap());
    for stream in &mut open {
        echoed(stream, b"before").unwrap();
    }
    for workload in [&checkout, &orders] {
        let first = wait_for("they alone are open", SOON, || proved_until(workload)).unwrap();
        let again = || {
            let now = proved_until(workload)?;
            let moved = |number: &u64| Some(now.get(number)? >= &(first.get(number)? + LEAF.as_secs()));
            first.keys().all(|number| moved(number) == Some(true)).then_some(())
        };
        wait_for("both are proved again", LEAF * 6, again).unwrap();
    }
    for stream in &mut open {
        assert_eq!(echoed(stream, b"after").unwrap(), b"after");
    }

    mesh.allow("shop", "orders", &[8080], &["somebody-else"]).unwrap();
    for stream in &mut open {
        assert_eq!(end_of(stream, Duration::from_secs(5)), End::Reset);
    }
    let cut = || {
        let log = orders.log();
        let cut =
            |line: &&str| line.contains(" inbound carried reason=cut_rule_gone ") && line.contains(" framing=alone");
        (log.lines().filter(cut).count() == FAMILIES.len()).then_some(())
    };
    wait_for("the called side says why", SOON, cut).unwrap();
    all_alone(&checkout, FAMILIES.len());
}

/// Until when each open connection is proved, by its number; `None` unless one in each family is open.
fn proved_until(workload: &Workload) -> Option<BTreeMap<u64, u64>> {
    let page: serde_json::Value = serde_json::from_str(&workload.admin("/connections").ok()?).ok()?;
    let connections = page["connections"].as_array()?.iter();
    let open: BTreeMap<u64, u64> =
        connections.map(|c| Some((c["number"].as_u64()?, c["proved_until"].as_u64()?))).collect::<Option<_>>()?;
    (open.len() == FAMILIES.len()).then_some(open)
}
