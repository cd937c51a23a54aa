//! Services and their slices: addresses, ports, endpoints, and what kube-proxy would have done.
use super::*;

fn base() -> Cluster {
    let mut cluster = Cluster::default();
    cluster.pod("shop", "a", "10.244.0.2", true, json!({})).pod("shop", "orders", "10.244.0.3", true, json!({}));
    cluster.service("shop", "orders", "10.96.0.10", json!({}));
    cluster
}

#[test]
fn a_cluster_address_leads_to_the_pods_that_the_slices_list() {
    let snapshot = base().slice("shop", "orders", json!([ready("10.244.0.3")])).snapshot();
    let found = destination(&snapshot, A, "10.96.0.10");
    assert_eq!(found.kind(), Kind::Meshed);
    assert_eq!(endpoints(&found, 80), ["10.244.0.3:8080 uid-orders"]);
}

#[test]
fn ports_meet_by_name_and_udp_is_not_there() {
    let ports = json!([
        {"name": "web", "port": 8080, "protocol": "TCP"},
        {"name": "dns", "port": 5353, "protocol": "UDP"},
        {"name": "metrics", "port": 9090},
    ]);
    let more = json!({"spec": {"ports": [
        {"name": "metrics", "port": 90}, {"name": "web", "port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"},
    ]}});
    let mut cluster = base();
    cluster.service("shop", "orders", "10.96.0.10", more);
    let found = cluster.slice_of("shop", "orders", "a", ports, json!([ready("10.244.0.3")])).snapshot();
    let found = destination(&found, A, "10.96.0.10");
    assert_eq!(found.ports.iter().map(|p| p.port).collect::<Vec<_>>(), [80, 90]);
    assert_eq!(endpoints(&found, 90), ["10.244.0.3:9090 uid-orders"]);
}

#[test]
fn pods_with_other_numbers_for_a_named_port_are_called_at_their_own() {
    let snapshot = base()
        .pod("shop", "other", "10.244.0.4", true, json!({}))
        .slice("shop", "orders", json!([ready("10.244.0.3")]))
        .slice_of("shop", "orders", "b", json!([{"name": "web", "port": 9999}]), json!([ready("10.244.0.4")]))
        .snapshot();
    let found = destination(&snapshot, A, "10.96.0.10");
    assert_eq!(endpoints(&found, 80), ["10.244.0.3:8080 uid-orders", "10.244.0.4:9999 uid-other"]);
}

#[test]
fn each_family_of_a_dual_stack_service_leads_to_its_own() {
    let both = json!({"spec": {"clusterIPs": ["10.96.0.10", "fd00::10"]}});
    let six = json!({"status": {"podIPs": [{"ip": "10.244.0.3"}, {"ip": "fd44::3"}]}});
    let mut cluster = base();
    cluster.pod("shop", "orders", "10.244.0.3", true, six).service("shop", "orders", "10.96.0.10", both);
    cluster.slice("shop", "orders", json!([ready("10.244.0.3")]));
    let six = json!([{"name": "web", "port": 8080}]);
    let snapshot = cluster.slice_of("shop", "orders", "six", six, json!([ready("fd44::3")])).snapshot();
    assert_eq!(endpoints(&destination(&snapshot, A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    assert_eq!(endpoints(&destination(&snapshot, A, "fd00::10"), 80), ["fd44::3:8080 uid-orders"]);
}

#[test]
fn who_is_not_ready_is_not_called_and_who_ends_only_when_nobody_else_is_there() {
    let state = |address: &str, ready: bool, serving: bool, terminating: bool| json!({"addresses": [address], "conditions": {"ready": ready, "serving": serving, "terminating": terminating}});
    let mut cluster = base();
    cluster.pod("shop", "b", "10.244.0.4", true, json!({})).pod("shop", "c", "10.244.0.5", true, json!({}));
    let ending = state("10.244.0.4", false, true, true);
    let dead = state("10.244.0.5", false, false, true);
    let unready = state("10.244.0.5", false, false, false);
    cluster.slice("shop", "orders", json!([ready("10.244.0.3"), ending, dead]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    cluster.slice("shop", "orders", json!([ending, unready]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.4:8080 uid-b"]);
    // publishNotReadyAddresses: the controller says ready.
    cluster.slice("shop", "orders", json!([ready("10.244.0.5")]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.5:8080 uid-c"]);
}

#[test]
fn a_service_without_a_meshed_endpoint_is_dialled_at_its_own_address() {
    let mut cluster = base();
    cluster.pod("shop", "orders", "10.244.0.3", false, json!({})).slice("shop", "orders", json!([ready("10.244.0.3")]));
    assert_eq!(destination(&cluster.snapshot(), A, "10.96.0.10").kind(), Kind::Unmeshed);
}

#[test]
fn a_service_is_meshed_while_its_only_meshed_pod_is_not_ready() {
    let found = destination(&base().snapshot(), A, "10.96.0.10");
    assert_eq!((found.kind(), endpoints(&found, 80).len()), (Kind::Meshed, 0));
}

#[test]
fn a_service_without_selector_leads_where_its_slices_say() {
    let free = json!({"spec": {"selector": null, "ports": [{"name": "web", "port": 80}]}});
    let mut cluster = base();
    cluster.service("shop", "db", "10.96.0.20", free.clone()).slice("shop", "db", json!([ready("203.0.113.9")]));
    assert_eq!(destination(&cluster.snapshot(), A, "10.96.0.20").kind(), Kind::Unmeshed);
    // Somebody in the mesh stands behind it: then everybody is called one by one.
    cluster.slice("shop", "db", json!([ready("203.0.113.9"), ready("10.244.0.3")]));
    let found = destination(&cluster.snapshot(), A, "10.96.0.20");
    assert_eq!(found.kind(), Kind::Meshed);
    assert_eq!(endpoints(&found, 80), ["10.244.0.3:8080 uid-orders", "203.0.113.9:8080 "]);
}

#[test]
fn an_endpoint_inside_the_mesh_that_the_index_lacks_is_unknown_and_not_unmeshed() {
    let free = json!({"spec": {"selector": null, "ports": [{"name": "web", "port": 80}]}});
    let mut cluster = base();
    cluster.service("shop", "db", "10.96.0.20", free).slice("shop", "db", json!([ready("10.244.9.9")]));
    let found = destination(&cluster.snapshot(), A, "10.96.0.20");
    assert_eq!((found.kind(), endpoints(&found, 80).len()), (Kind::Meshed, 0), "nobody calls it in plaintext");
    assert_eq!(destination(&cluster.snapshot(), A, "10.244.9.9").kind(), Kind::Unknown);
}

#[test]
fn f10_a_slice_that_lists_anothers_pod_does_not_change_whom_the_caller_expects() {
    let free = json!({"spec": {"selector": null, "ports": [{"name": "web", "port": 80}]}});
    let mut cluster = base();
    cluster.pod("evil", "e", "10.244.0.66", true, json!({})).service("shop", "x", "10.96.0.30", free);
    let lie = json!([{
        "addresses": ["10.244.0.66"], "conditions": {"ready": true},
        "targetRef": {"kind": "Pod", "namespace": "shop", "name": "orders", "uid": "uid-orders"},
    }]);
    cluster.slice_by("me", "shop", "x", "a", json!([{"name": "web", "port": 8080}]), lie);
    let found = destination(&cluster.snapshot(), A, "10.96.0.30");
    assert_eq!(found.ports[0].endpoints[0].spiffe_id, "spiffe://mesh.example/ns/evil/sa/e");
}

#[test]
fn f10_external_addresses_that_a_user_claims_are_ignored_and_a_load_balancers_are_not() {
    let claims = json!({
        "spec": {"externalIPs": ["198.51.100.7", "10.244.0.2"]},
        "status": {"loadBalancer": {"ingress": [
            {"ip": "198.51.100.8"}, {"ip": "198.51.100.9", "ipMode": "Proxy"}, {"hostname": "lb.example"}, {"ip": "10.244.0.2"},
        ]}},
    });
    let mut cluster = base();
    cluster.service("shop", "orders", "10.96.0.10", claims).slice("shop", "orders", json!([ready("10.244.0.3")]));
    let snapshot = cluster.snapshot();
    let kind = |address: &str| destination(&snapshot, A, address).kind();
    assert_eq!((kind("198.51.100.7"), kind("198.51.100.9")), (Kind::Unknown, Kind::Unknown));
    assert_eq!(endpoints(&destination(&snapshot, A, "198.51.100.8"), 80), ["10.244.0.3:8080 uid-orders"]);
    assert!(destination(&snapshot, A, "10.244.0.2").any_port.is_some(), "a workload's own address stays its own");
}

#[test]
fn services_may_share_the_address_of_a_load_balancer() {
    let shared = |port: u16| {
        json!({
            "spec": {"ports": [{"name": "web", "port": port}]},
            "status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.8"}]}},
        })
    };
    let mut cluster = base();
    cluster.service("shop", "orders", "10.96.0.10", shared(80)).slice("shop", "orders", json!([ready("10.244.0.3")]));
    cluster.service("shop", "a", "10.96.0.11", shared(81)).slice("shop", "a", json!([ready("10.244.0.2")]));
    let found = destination(&cluster.snapshot(), A, "198.51.100.8");
    assert_eq!((endpoints(&found, 80).len(), endpoints(&found, 81).len()), (1, 1));
}

#[test]
fn a_service_that_only_names_another_has_nothing_of_its_own() {
    let named =
        json!({"spec": {"type": "ExternalName", "externalName": "db.example", "clusterIP": "", "clusterIPs": null}});
    let mut cluster = base();
    cluster.service("shop", "db", "", named);
    assert_eq!(cluster.snapshot().services(), 1);
}

#[test]
fn a_headless_service_has_no_address_and_its_pods_have_theirs() {
    let mut cluster = base();
    cluster.service("shop", "orders", "None", json!({})).slice("shop", "orders", json!([ready("10.244.0.3")]));
    let snapshot = cluster.snapshot();
    assert_eq!(destination(&snapshot, A, "10.244.0.3").any_port.unwrap().workload_uid, "uid-orders");
}

#[test]
fn local_traffic_stays_on_the_callers_node() {
    let mut cluster = base();
    cluster.pod("shop", "far", "10.244.1.3", true, json!({"spec": {"nodeName": "node-2"}}));
    cluster.service("shop", "orders", "10.96.0.10", json!({"spec": {"internalTrafficPolicy": "Local"}}));
    let far = json!({"addresses": ["10.244.1.3"], "nodeName": "node-2"});
    cluster.slice("shop", "orders", json!([ready("10.244.0.3"), far]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    cluster.slice("shop", "orders", json!([far]));
    assert!(
        endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80).is_empty(),
        "nobody, rather than far away"
    );
}

#[test]
fn hints_keep_traffic_in_the_zone_when_every_endpoint_has_them() {
    let mut cluster = base();
    cluster.pod("shop", "far", "10.244.1.3", true, json!({"spec": {"nodeName": "node-2"}}));
    let at = |address: &str, node: &str, zone: &str, hint: Value| json!({"addresses": [address], "nodeName": node, "zone": zone, "hints": hint});
    let zones = |zone: &str| json!({"forZones": [{"name": zone}]});
    let labels = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z1"}}});
    cluster.node("node-1", &["192.168.0.1"], labels);
    let near = at("10.244.0.3", "node-1", "z1", zones("z1"));
    cluster.slice("shop", "orders", json!([near, at("10.244.1.3", "node-2", "z2", zones("z2"))]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.0.3:8080 uid-orders"]);
    cluster.slice("shop", "orders", json!([near, at("10.244.1.3", "node-2", "z2", json!(null))]));
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80).len(), 2, "one has none: nobody has");
    let nodes = |node: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": "z1"}]});
    let both =
        json!([at("10.244.0.3", "node-1", "z1", nodes("node-2")), at("10.244.1.3", "node-2", "z1", nodes("node-1"))]);
    cluster.slice("shop", "orders", both);
    assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), ["10.244.1.3:8080 uid-far"]);
}

#[test]
fn with_session_affinity_a_caller_keeps_its_endpoint_when_others_come_and_go() {
    let mut cluster = base();
    let all: Vec<String> = (10..30).map(|n| format!("10.244.0.{n}")).collect();
    for (n, address) in all.iter().enumerate() {
        cluster.pod("shop", &format!("o{n}"), address, true, json!({}));
    }
    cluster.service("shop", "orders", "10.96.0.10", json!({"spec": {"sessionAffinity": "ClientIP"}}));
    let list = |keep: &dyn Fn(&str) -> bool| all.iter().filter(|a| keep(a)).map(|a| ready(a)).collect::<Value>();
    // For a caller without a past, and everybody whom one with a past may keep.
    let mut called = |listed: Value| {
        cluster.slice("shop", "orders", listed);
        let found = destination(&cluster.snapshot(), A, "10.96.0.10");
        let port = found.ports[0].clone();
        let kept = port.endpoints.iter().chain(&port.others).cloned().collect();
        let everybody = Destination { ports: vec![PortEndpoints { endpoints: kept, ..port.clone() }], ..found.clone() };
        assert_eq!(port.affinity_seconds, 10_800, "as long as Kubernetes has it when nobody says otherwise");
        (endpoints(&found, 80), endpoints(&everybody, 80))
    };
    let (mine, everybody) = called(list(&|_| true));
    assert_eq!((mine.len(), everybody.len()), (1, 20));
    let own = mine[0].split(':').next().unwrap().to_owned();
    for gone in all.iter().filter(|a| **a != own) {
        assert_eq!(called(list(&|a| a != gone)).0, mine, "without {gone}");
    }
    let (next, everybody) = called(list(&|a| a != own));
    assert!(next.len() == 1 && !everybody.contains(&mine[0]), "it has gone");
    // Who called the next one keeps it when the first comes back, although another would now be sent there.
    let (back, everybody) = called(list(&|_| true));
    assert_eq!(back, mine);
    assert!(everybody.contains(&next[0]), "{next:?} is still there for those who have called it");
}

#[test]
fn session_affinity_lasts_as_long_as_the_service_says() {
    let mut cluster = base();
    cluster.slice("shop", "orders", json!([ready("10.244.0.3")]));
    for (affinity, seconds) in [
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 90}}}), 90),
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {}}}), 10_800),
        (json!({"sessionAffinity": "None"}), 0),
    ] {
        cluster.service("shop", "orders", "10.96.0.10", json!({"spec": affinity}));
        let found = destination(&cluster.snapshot(), A, "10.96.0.10");
        assert_eq!(found.ports[0].affinity_seconds, seconds, "{affinity}");
    }
}
