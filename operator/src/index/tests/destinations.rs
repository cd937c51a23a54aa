//! Destinations: what an address is to a caller.
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
    let snapshot = build(&(meshed("shop", "a", "10.77.0.2") + &workload("shop", "db", "10.77.0.9", "meshed: false")));
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
    assert_eq!((endpoint.workload_uid.as_str(), endpoint.spiffe_id.as_str()), ("", "spiffe://mesh.example/ns/z/sa/zt"));
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
    let ranges: Vec<(Vec<u8>, u32)> =
        snapshot.config(member(&snapshot, "shop/a")).mesh_ranges.into_iter().map(|p| (p.address, p.length)).collect();
    let six = vec![0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    let expected = [(vec![10, 77, 0, 0], 16), (vec![10, 96, 0, 1], 32), (vec![192, 168, 1, 4], 31), (six, 128)];
    assert_eq!(ranges, expected);
}
