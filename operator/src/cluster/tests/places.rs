//! Nodes: their addresses, the ports of theirs that lead into the mesh, their zones, and load balancers that stand on them.
use super::*;

fn base() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.pod("shop", "a", "10.244.0.2", true, json!({})).pod("shop", "orders", "10.244.0.3", true, json!({}));
    cluster.service("shop", "orders", "10.96.0.10", json!({})).slice("shop", "orders", json!([ready("10.244.0.3")]));
    cluster
}

fn node_port(port: u16) -> Value {
    json!({"spec": {"type": "NodePort", "ports": [{"name": "web", "port": 80, "nodePort": port}]}})
}

fn balanced(port: u16, address: &str) -> Value {
    json!({
        "spec": {"ports": [{"name": "web", "port": port}]},
        "status": {"loadBalancer": {"ingress": [{"ip": address}]}},
    })
}

#[test]
fn the_port_of_a_node_leads_into_the_mesh_at_each_of_its_addresses_and_its_others_to_the_node() {
    let mut cluster = base();
    cluster.node("node-1", &["192.168.0.1", "198.51.100.1"], json!({})).service(
        "shop",
        "orders",
        "10.96.0.10",
        node_port(30080),
    );
    let snapshot = cluster.bare_snapshot();
    for address in ["192.168.0.1", "198.51.100.1"] {
        let found = destination(&snapshot, A, address);
        assert_eq!((found.kind(), found.other_ports_unmeshed), (Kind::Meshed, true));
        assert_eq!(endpoints(&found, 30080), ["10.244.0.3:8080 uid-orders"]);
        assert!(ranges(&snapshot).contains(&format!("{address}/32")), "sidecars ask about every node");
    }
}

#[test]
fn the_port_of_a_node_that_leads_past_the_mesh_is_named_so_that_one_not_known_yet_can_be_told_from_it() {
    let mut cluster = base();
    cluster.pod("shop", "plain", "10.244.0.4", false, json!({})).service(
        "shop",
        "plain",
        "10.96.0.11",
        node_port(30081),
    );
    cluster.slice("shop", "plain", json!([ready("10.244.0.4")]));
    let found = destination(&cluster.snapshot(), A, "192.168.0.1");
    assert_eq!(endpoints(&found, 30081), ["192.168.0.1:30081 "]);
    assert_eq!(found.ports.len(), 1);
}

#[test]
fn a_host_port_leads_to_the_pod_that_has_it_when_that_is_meshed() {
    let port = |ip: &str| json!({"spec": {"containers": [{"ports": [{"containerPort": 8080, "hostPort": 8000, "hostIP": ip}]}]}});
    let mut cluster = base();
    cluster.node("node-1", &["192.168.0.1", "198.51.100.1"], json!({})).node("node-2", &["192.168.0.2"], json!({}));
    for (ip, at) in [
        ("", &["192.168.0.1", "198.51.100.1"][..]),
        ("0.0.0.0", &["192.168.0.1", "198.51.100.1"]),
        ("198.51.100.1", &["198.51.100.1"]),
        ("127.0.0.1", &[]),
    ] {
        let snapshot = cluster.pod("shop", "orders", "10.244.0.3", true, port(ip)).bare_snapshot();
        for address in ["192.168.0.1", "198.51.100.1", "192.168.0.2"] {
            let found = destination(&snapshot, A, address);
            assert!(found.other_ports_unmeshed);
            let wanted: &[&str] = if at.contains(&address) { &["10.244.0.3:8080 uid-orders"] } else { &[] };
            assert_eq!(endpoints(&found, 8000), wanted, "hostIP {ip:?} at {address}");
        }
    }
    // No address yet: refused rather than called at the node.
    let bare = json!({"status": {"podIP": null, "podIPs": null}});
    let mut more = port("");
    merge(&mut more, &bare);
    let found = destination(&cluster.pod("shop", "orders", "", true, more).snapshot(), A, "192.168.0.1");
    assert_eq!((found.ports[0].port, found.ports[0].endpoints.len()), (8000, 0));
    let found = destination(&cluster.pod("shop", "orders", "10.244.0.3", false, port("")).snapshot(), A, "192.168.0.1");
    assert!(found.ports.is_empty(), "without a sidecar the node's port is as any other");
}

#[test]
fn f10_an_endpoint_at_a_nodes_port_that_leads_into_the_mesh_is_not_called_in_plaintext() {
    let free = json!({"spec": {"selector": null, "ports": [{"name": "web", "port": 80}]}});
    let mut cluster = base();
    cluster.service("shop", "orders", "10.96.0.10", node_port(30080)).service("shop", "x", "10.96.0.30", free);
    for (port, kind) in [(30080, Kind::Meshed), (9100, Kind::Unmeshed)] {
        cluster.slice_by("me", "shop", "x", "a", json!([{"name": "web", "port": port}]), json!([ready("192.168.0.1")]));
        let found = destination(&cluster.snapshot(), A, "10.96.0.30");
        assert_eq!((found.kind(), endpoints(&found, 80).len()), (kind, 0), "{port}");
    }
}

#[test]
fn a_load_balancer_at_a_nodes_own_address_adds_its_ports_to_the_nodes() {
    let mut cluster = base();
    cluster.service("shop", "a", "10.96.0.11", node_port(30080)).slice("shop", "a", json!([ready("10.244.0.2")]));
    cluster.service("shop", "orders", "10.96.0.10", balanced(80, "192.168.0.1"));
    let found = destination(&cluster.snapshot(), A, "192.168.0.1");
    assert!(found.other_ports_unmeshed, "the node is no longer there");
    assert_eq!(endpoints(&found, 80), ["10.244.0.3:8080 uid-orders"]);
    assert_eq!(endpoints(&found, 30080), ["10.244.0.2:8080 uid-a"]);
}

#[test]
fn local_traffic_is_local_at_the_services_own_address_and_not_at_its_outer_ones() {
    let more = json!({
        "spec": {
            "type": "LoadBalancer", "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local",
            "ports": [{"name": "web", "port": 80, "nodePort": 30080}],
        },
        "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}, {"ip": "192.168.0.1"}]}},
    });
    let mut cluster = base();
    cluster.node("node-1", &["192.168.0.1"], json!({})).node("node-2", &["192.168.0.2"], json!({}));
    cluster.pod("shop", "far", "10.244.1.3", true, json!({"spec": {"nodeName": "node-2"}}));
    let far = json!({"addresses": ["10.244.1.3"], "nodeName": "node-2"});
    cluster.service("shop", "orders", "10.96.0.10", more).slice("shop", "orders", json!([far]));
    let snapshot = cluster.snapshot();
    assert!(endpoints(&destination(&snapshot, A, "10.96.0.10"), 80).is_empty(), "nobody, rather than far away");
    for (address, port) in [("192.168.0.1", 30080), ("192.168.0.2", 30080), ("198.51.100.8", 80), ("192.168.0.1", 80)] {
        let found = endpoints(&destination(&snapshot, A, address), port);
        assert_eq!(found, ["10.244.1.3:8080 uid-far"], "{address}:{port}");
    }
}

#[test]
fn f10_a_load_balancer_does_not_take_the_cluster_address_of_another_service() {
    let mut cluster = base();
    cluster.service("shop", "a", "10.96.0.11", balanced(80, "10.96.0.10")).slice(
        "shop",
        "a",
        json!([ready("10.244.0.2")]),
    );
    let snapshot = cluster.snapshot();
    assert_eq!(endpoints(&destination(&snapshot, A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    assert!(snapshot.faults().is_empty());
}

#[test]
fn the_zone_of_a_caller_is_its_nodes_and_hints_are_the_controllers() {
    let labels = |zone: &str| json!({"metadata": {"labels": {"topology.kubernetes.io/zone": zone}}});
    let mut cluster = base();
    cluster.pod("shop", "far", "10.244.1.3", true, json!({"spec": {"nodeName": "node-2"}}));
    cluster.node("node-1", &["192.168.0.1"], labels("z1")).node("node-2", &["192.168.0.2"], labels("z2"));
    let at = |address: &str, zone: &str| json!({"addresses": [address], "zone": "z9", "hints": {"forZones": [{"name": zone}]}});
    let both = json!([at("10.244.0.3", "z1"), at("10.244.1.3", "z2")]);
    cluster.slice("shop", "orders", both.clone());
    // Another namespace's slice says that this node is in another zone.
    let lie = json!([{"addresses": ["203.0.113.9"], "nodeName": "node-1", "zone": "z2"}]);
    cluster.slice_by("me", "evil", "x", "a", json!([]), lie);
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    cluster.slice_by("me", "shop", "orders", "a", json!([{"name": "web", "port": 8080}]), both);
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80).len(), 2);
}
