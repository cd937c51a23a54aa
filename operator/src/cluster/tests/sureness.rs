//! Unknown is not unmeshed, also where nobody has said where pods are: what the cluster says of pods' addresses before the pods
//! themselves are known, and what two claim.
use super::*;

fn base() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.pod("shop", "a", "10.244.0.2", true, json!({}));
    cluster.service("shop", "orders", "10.96.0.10", json!({}));
    cluster
}

fn of_pod(address: &str, name: &str) -> Value {
    let pod = json!({"kind": "Pod", "namespace": "shop", "name": name, "uid": format!("uid-{name}")});
    json!({"addresses": [address], "conditions": {"ready": true}, "targetRef": pod})
}

/// Whether a sidecar asks before it calls there, and what it hears.
fn asked(snapshot: &Snapshot, address: &str) -> (bool, Kind) {
    let ranges = ranges(snapshot);
    let address: IpAddr = address.parse().unwrap();
    let inside = ranges.iter().any(|range| range.parse::<ipnet::IpNet>().is_ok_and(|range| range.contains(&address)));
    (inside, destination(snapshot, A, &address.to_string()).kind())
}

#[test]
fn an_address_that_nodes_give_to_pods_or_the_cluster_to_services_is_unknown_until_it_is_known() {
    let mut cluster = base();
    assert_eq!(
        asked(&cluster.bare_snapshot(), "10.7.1.9"),
        (false, Kind::Unknown),
        "nobody says that it is the mesh's"
    );
    cluster.node("node-1", &["192.168.0.1"], json!({"spec": {"podCIDR": "10.7.0.0/24", "podCIDRs": ["10.7.0.0/24"]}}));
    cluster.node("node-2", &["192.168.0.2"], json!({"spec": {"podCIDRs": ["10.7.1.0/24", "fd07::/64"]}}));
    cluster.service_range("10.96.0.0/16");
    let snapshot = cluster.bare_snapshot();
    for address in ["10.7.1.9", "10.96.3.4"] {
        assert_eq!(asked(&snapshot, address), (true, Kind::Unknown), "{address}");
    }
    // Each once and sorted, neighbours as one.
    assert_eq!(ranges(&snapshot)[..4], ["10.7.0.0/23", "10.96.0.0/16", "10.244.0.2/32", "192.168.0.1/32"]);
}

#[test]
fn what_the_user_says_is_added_and_a_node_that_claims_every_address_is_not_believed() {
    let mut cluster = base();
    cluster.node("node-1", &[], json!({"spec": {"podCIDRs": ["10.7.0.0/24", "0.0.0.0/0", "nonsense"]}}));
    let snapshot = cluster.snapshot();
    assert_eq!(ranges(&snapshot), ["10.7.0.0/24", "10.96.0.0/12", "10.244.0.0/16", "192.168.0.1/32"]);
}

#[test]
fn pods_of_the_mesh_where_nobody_expects_pods_are_counted() {
    let mut cluster = base();
    cluster.node("node-1", &["192.168.0.1"], json!({"spec": {"podCIDRs": ["10.244.0.0/24"]}}));
    cluster.pod("shop", "b", "10.8.0.3", false, json!({}));
    assert_eq!(cluster.bare_snapshot().unranged(), 0, "who is not in the mesh is called in plaintext anyway");
    cluster.pod("shop", "c", "10.8.0.4", true, json!({}));
    assert_eq!(cluster.bare_snapshot().unranged(), 1);
}

#[test]
fn pods_that_come_and_go_where_the_nodes_have_them_change_nothing_for_others() {
    let mut cluster = base();
    cluster.node("node-1", &["192.168.0.1"], json!({"spec": {"podCIDRs": ["10.244.0.0/24"]}}));
    cluster.service_range("10.96.0.0/16");
    let digest = |snapshot: &Snapshot| snapshot.digest(snapshot.find(&key("shop", "a")).unwrap()).to_owned();
    let before = digest(&cluster.bare_snapshot());
    cluster.pod("shop", "b", "10.244.0.77", true, json!({})).service("shop", "b", "10.96.0.99", json!({}));
    assert_eq!(digest(&cluster.bare_snapshot()), before);
    cluster.pod("shop", "c", "10.99.0.1", true, json!({}));
    assert_ne!(digest(&cluster.bare_snapshot()), before, "an address that no range has is news to everybody");
}

#[test]
fn a_pod_that_only_a_slice_knows_is_not_called_in_plaintext() {
    let mut cluster = base();
    cluster.slice("shop", "orders", json!([of_pod("10.8.0.3", "orders")]));
    let snapshot = cluster.bare_snapshot();
    let found = destination(&snapshot, A, "10.96.0.10");
    assert_eq!((found.kind(), endpoints(&found, 80).len()), (Kind::Meshed, 0));
    assert_eq!(asked(&snapshot, "10.8.0.3"), (true, Kind::Unknown), "nor by its own address");

    // It is known, but not its address.
    let bare = json!({"status": {"podIP": null, "podIPs": null}});
    let snapshot = cluster.pod("shop", "orders", "", true, bare).bare_snapshot();
    assert_eq!(destination(&snapshot, A, "10.96.0.10").kind(), Kind::Meshed);
    assert_eq!(asked(&snapshot, "10.8.0.3"), (true, Kind::Unknown));

    let snapshot = cluster.pod("shop", "orders", "10.8.0.3", false, json!({})).bare_snapshot();
    assert_eq!(destination(&snapshot, A, "10.96.0.10").kind(), Kind::Unmeshed);
    assert_eq!(asked(&snapshot, "10.8.0.3"), (true, Kind::Unmeshed));
    // Made again under its name, and not yet heard of.
    let again =
        json!([{"addresses": ["10.8.0.3"], "targetRef": {"kind": "Pod", "name": "orders", "uid": "uid-later"}}]);
    let snapshot = cluster.slice("shop", "orders", again).bare_snapshot();
    assert_eq!(destination(&snapshot, A, "10.96.0.10").kind(), Kind::Meshed);
    assert_eq!(asked(&snapshot, "10.8.0.3"), (true, Kind::Unknown), "the stale pod without a sidecar hides nobody");
}

#[test]
fn who_is_listed_at_a_nodes_own_address_is_on_the_nodes_network() {
    let mut cluster = base();
    cluster.slice("shop", "orders", json!([of_pod("192.168.0.1", "exporter")]));
    let snapshot = cluster.bare_snapshot();
    assert_eq!(destination(&snapshot, A, "10.96.0.10").kind(), Kind::Unmeshed);
    cluster.pod("shop", "exporter", "192.168.0.1", false, json!({"spec": {"hostNetwork": true}}));
    assert_eq!(destination(&cluster.bare_snapshot(), A, "10.96.0.10").kind(), Kind::Unmeshed);
}

#[test]
fn f10_a_slice_that_a_user_made_does_not_make_an_address_unknown_to_others() {
    let free = json!({"spec": {"selector": null, "ports": [{"name": "web", "port": 80}]}});
    let ports = || json!([{"name": "web", "port": 8080}]);
    let mut cluster = base();
    cluster.pod("bank", "db", "10.8.0.5", false, json!({})).service("shop", "x", "10.96.0.30", free);
    for by in ["me", CONTROLLER] {
        cluster.slice_by(by, "shop", "x", "a", ports(), json!([of_pod("10.8.0.5", "no"), of_pod("203.0.113.9", "no")]));
        let snapshot = cluster.bare_snapshot();
        assert_eq!(asked(&snapshot, "10.8.0.5"), (true, Kind::Unmeshed));
        assert_eq!(asked(&snapshot, "203.0.113.9"), (false, Kind::Unknown));
        assert!(endpoints(&destination(&snapshot, A, "10.96.0.30"), 80).is_empty(), "its own Service it may spoil");
    }
}

#[test]
fn of_two_pods_with_one_address_the_meshed_one_has_it_however_old() {
    let made = |at: &str| json!({"metadata": {"creationTimestamp": at}});
    let snapshot = base()
        .pod("shop", "old", "10.244.0.3", true, made("2026-11-21T10:00:00Z"))
        .pod("shop", "new", "10.244.0.3", false, made("2026-11-21T10:00:01Z"))
        .snapshot();
    assert_eq!(destination(&snapshot, A, "10.244.0.3").any_port.unwrap().workload_uid, "uid-old");
}

#[test]
fn a_pod_that_has_finished_owns_no_address_whatever_it_says() {
    for phase in ["Succeeded", "Failed"] {
        let snapshot = base()
            .pod("shop", "b", "10.244.0.3", false, json!({}))
            .pod("shop", "done", "10.244.0.3", true, json!({"status": {"phase": phase}}))
            .snapshot();
        assert_eq!(destination(&snapshot, A, "10.244.0.3").kind(), Kind::Unmeshed, "{phase}");
    }
}

#[test]
fn f10_a_node_that_claims_a_meshed_pods_address_does_not_get_its_traffic() {
    let snapshot = base()
        .pod("shop", "b", "10.244.0.3", true, json!({}))
        .node("evil", &["192.168.0.66", "10.244.0.3", "10.96.0.10"], json!({}))
        .slice("shop", "orders", json!([ready("10.244.0.3")]))
        .snapshot();
    assert_eq!(destination(&snapshot, A, "10.244.0.3").any_port.unwrap().workload_uid, "uid-b");
    let service = destination(&snapshot, A, "10.96.0.10");
    assert!(!service.other_ports_unmeshed);
    assert_eq!(endpoints(&service, 80), ["10.244.0.3:8080 uid-b"]);
}
