//! From Kubernetes' objects to answers of the index, without a server.
#![allow(clippy::needless_pass_by_value, reason = "called with json!")]
use super::read;
use super::store::News;
use super::translate::{Change, Objects};
use crate::documents::Key;
use crate::index::tests::told;
use crate::index::{Memory, Settings, Snapshot};
use kube::core::DynamicObject;
use serde_json::{Value, json};
use signet_apiserver::{merge, object};
use signet_policy::{Caller, Decision, Egress, Posture, Reason};
use signet_proto::control::{Destination, Kind};
use std::net::IpAddr;

mod places;
mod sureness;

const SIDECARS: &str = "signet/signet-sidecar";

fn settings() -> Settings {
    Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: vec!["10.244.0.0/16".parse().unwrap(), "10.96.0.0/12".parse().unwrap()],
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    }
}

fn key(namespace: &str, name: &str) -> Key {
    Key { namespace: namespace.into(), name: name.into() }
}

/// A cluster as a table of objects.
#[derive(Default)]
struct Cluster {
    objects: Objects,
    memory: Memory,
}

impl Cluster {
    fn pod(&mut self, namespace: &str, name: &str, ip: &str, meshed: bool, more: Value) -> &mut Self {
        let sidecar =
            json!([{"name": "signet-sidecar", "image": "signet/signet-sidecar:0.1.0", "restartPolicy": "Always"}]);
        let mut pod = json!({
            "metadata": {"name": name, "namespace": namespace, "uid": format!("uid-{name}"), "labels": {"app": name}},
            "spec": {
                "serviceAccountName": name,
                "nodeName": "node-1",
                "containers": [{"name": "app", "image": "app", "ports": [{"name": "http", "containerPort": 8080}]}],
                "initContainers": if meshed { sidecar } else { json!([]) },
            },
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIPs": [{"ip": "192.168.0.1"}]},
        });
        merge(&mut pod, &more);
        let news = read::pod(&object(pod), &[SIDECARS.into()]);
        let key = key(namespace, name);
        let news = news.map_or_else(|| News::Gone(key.clone()), |pod| News::Set(key.clone(), pod));
        self.objects.take(Change::Pod(news));
        self
    }

    fn service(&mut self, namespace: &str, name: &str, ip: &str, more: Value) -> &mut Self {
        let mut service = json!({
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "clusterIP": ip, "clusterIPs": [ip], "selector": {"app": name},
                "ports": [{"name": "web", "port": 80, "targetPort": "http"}],
            },
        });
        merge(&mut service, &more);
        if let Some(service) = read::service(&object(service)) {
            self.objects.take(Change::Service(News::Set(key(namespace, name), service)));
        }
        self
    }

    fn slice(&mut self, namespace: &str, service: &str, endpoints: Value) -> &mut Self {
        self.slice_of(namespace, service, "a", json!([{"name": "web", "port": 8080, "protocol": "TCP"}]), endpoints)
    }

    fn slice_of(&mut self, namespace: &str, service: &str, name: &str, ports: Value, endpoints: Value) -> &mut Self {
        self.slice_by(CONTROLLER, namespace, service, name, ports, endpoints)
    }

    fn slice_by(
        &mut self,
        by: &str,
        namespace: &str,
        service: &str,
        name: &str,
        ports: Value,
        endpoints: Value,
    ) -> &mut Self {
        let v6 = endpoints[0]["addresses"][0].as_str().is_some_and(|a| a.contains(':'));
        let labels = json!({"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": by});
        let slice = json!({
            "metadata": {"name": format!("{service}-{name}"), "namespace": namespace, "labels": labels},
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "endpoints": endpoints,
            "ports": ports,
        });
        let slice = read::slice(&object(slice)).unwrap();
        self.objects.take(Change::Slice(News::Set(key(namespace, &format!("{service}-{name}")), slice)));
        self
    }

    fn node(&mut self, name: &str, addresses: &[&str], fields: Value) -> &mut Self {
        let kind = |n: usize| if n == 0 { "InternalIP" } else { "ExternalIP" };
        let all = addresses.iter().enumerate().map(|(n, address)| json!({"type": kind(n), "address": address}));
        let all: Vec<Value> = all.chain([json!({"type": "Hostname", "address": "10.244.0.9"})]).collect();
        let mut node = json!({"metadata": {"name": name}, "spec": {}, "status": {"addresses": all}});
        merge(&mut node, &fields);
        self.objects.take(Change::Node(News::Set(key(name, name), read::node(&object(node)))));
        self
    }

    fn service_range(&mut self, cidr: &str) -> &mut Self {
        let range = object(json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [cidr]}}));
        let key = key("kubernetes", "kubernetes");
        self.objects.take(Change::ServiceRange(News::Set(key, read::service_range(&range))));
        self
    }

    fn namespace(&mut self, name: &str, labels: Value) -> &mut Self {
        let namespace = read::namespace(&object(json!({"metadata": {"name": name, "labels": labels}})));
        self.objects.take(Change::Namespace(News::Set(key(name, name), namespace)));
        self
    }

    fn rule(&mut self, namespace: &str, name: &str, spec: Value) -> &mut Self {
        self.rule_with(namespace, name, json!({"spec": spec}))
    }

    fn rule_with(&mut self, namespace: &str, name: &str, fields: Value) -> &mut Self {
        let mut document = json!({
            "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
            "metadata": {
                "name": name, "namespace": namespace, "uid": "x", "generation": 3,
                "managedFields": [{"manager": "kubectl"}],
            },
        });
        merge(&mut document, &fields);
        let rule = read::rule(&object::<DynamicObject>(document));
        self.objects.take(Change::Rule(News::Set(key(namespace, name), Box::new(rule))));
        self
    }

    fn gone(&mut self, change: fn(News<super::objects::Service>) -> Change, namespace: &str, name: &str) -> &mut Self {
        self.objects.take(change(News::Gone(key(namespace, name))));
        self
    }

    fn snapshot(&mut self) -> Snapshot {
        self.snapshot_of(&settings())
    }

    /// Where the user has not said where pods are.
    fn bare_snapshot(&mut self) -> Snapshot {
        self.snapshot_of(&Settings { mesh_ranges: Vec::new(), ..settings() })
    }

    fn snapshot_of(&mut self, settings: &Settings) -> Snapshot {
        self.objects.remember(&mut self.memory);
        let built = Snapshot::build(settings, &self.objects.documents(), &self.memory, 1);
        self.memory = built.1;
        built.0
    }
}

fn destination(snapshot: &Snapshot, asker: (&str, &str), address: &str) -> Destination {
    told(snapshot, snapshot.find(&key(asker.0, asker.1)).unwrap(), address.parse().unwrap())
}

fn endpoints(destination: &Destination, port: u32) -> Vec<String> {
    let found = destination.ports.iter().find(|p| p.port == port).map_or(&[][..], |p| &p.endpoints);
    let text = |bytes: &[u8]| match bytes {
        [a, b, c, d] => IpAddr::from([*a, *b, *c, *d]).to_string(),
        six => IpAddr::from(<[u8; 16]>::try_from(six).unwrap()).to_string(),
    };
    found.iter().map(|e| format!("{}:{} {}", text(&e.address), e.port, e.workload_uid)).collect()
}

fn reason(snapshot: &Snapshot, who: (&str, &str), caller: &str, port: u16) -> Reason {
    let id = format!("spiffe://mesh.example/ns/{}", caller.replacen('/', "/sa/", 1));
    snapshot.find(&key(who.0, who.1)).unwrap().table().judge(&Caller::Identity(&id), port).reason
}

fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}, "nodeName": "node-1"})
}

/// The mesh's ranges, as they are sent.
fn ranges(snapshot: &Snapshot) -> Vec<String> {
    let config = snapshot.config(snapshot.find(&key("shop", "a")).unwrap());
    let text = |prefix: &signet_proto::control::Prefix| match *prefix.address {
        [a, b, c, d] => format!("{}/{}", IpAddr::from([a, b, c, d]), prefix.length),
        _ => format!("{:?}/{}", prefix.address, prefix.length),
    };
    config.mesh_ranges.iter().map(text).collect()
}

const CONTROLLER: &str = "endpointslice-controller.k8s.io";
const A: (&str, &str) = ("shop", "a");

mod pods {
    use super::*;

    #[test]
    fn identity_is_namespace_and_service_account_and_the_uid_is_the_pods() {
        let snapshot = Cluster::default()
            .pod("shop", "a", "10.244.0.2", true, json!({}))
            .pod("shop", "b", "10.244.0.3", true, json!({"spec": {"serviceAccountName": ""}}))
            .snapshot();
        let endpoint = destination(&snapshot, A, "10.244.0.3").any_port.unwrap();
        assert_eq!(endpoint.spiffe_id, "spiffe://mesh.example/ns/shop/sa/default");
        assert_eq!(endpoint.workload_uid, "uid-b");
    }

    #[test]
    fn who_is_meshed_is_read_in_the_spec_and_never_in_a_label() {
        let cases = [
            (
                json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "docker.io/signet/signet-sidecar@sha256:00", "restartPolicy": "Always"}]}}),
                true,
            ),
            (
                json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "evil/signet-sidecar:0.1.0", "restartPolicy": "Always"}]}}),
                false,
            ),
            (
                json!({"spec": {"initContainers": [{"name": "signet-sidecar", "image": "signet/signet-sidecar:0.1.0"}]}}),
                false,
            ),
            (
                json!({"spec": {"initContainers": [{"name": "sidecar", "image": "signet/signet-sidecar:0.1.0", "restartPolicy": "Always"}]}}),
                false,
            ),
            (
                json!({"metadata": {"labels": {"signet.dev/inject": "enabled"}, "annotations": {"signet.dev/injected": "0.1.0"}}}),
                false,
            ),
        ];
        for (more, meshed) in cases {
            let snapshot = Cluster::default()
                .pod("shop", "a", "10.244.0.2", true, json!({}))
                .pod("shop", "b", "10.244.0.3", false, more.clone())
                .snapshot();
            let kind = if meshed { Kind::Meshed } else { Kind::Unmeshed };
            assert_eq!(destination(&snapshot, A, "10.244.0.3").kind(), kind, "{more}");
        }
    }

    #[test]
    fn a_pod_that_has_finished_leaves_its_address_to_others() {
        let mut cluster = Cluster::default();
        cluster.pod("shop", "a", "10.244.0.2", true, json!({}));
        cluster.pod("shop", "b", "10.244.0.3", true, json!({}));
        cluster.pod("shop", "b", "10.244.0.3", true, json!({"status": {"phase": "Succeeded"}}));
        assert_eq!(destination(&cluster.snapshot(), A, "10.244.0.3").kind(), Kind::Unknown);
    }

    #[test]
    fn of_two_pods_with_one_address_the_newer_has_it() {
        let made = |at: &str| json!({"metadata": {"creationTimestamp": at}, "spec": {"serviceAccountName": "same"}});
        let snapshot = Cluster::default()
            .pod("shop", "a", "10.244.0.2", true, json!({}))
            .pod("shop", "new", "10.244.0.3", true, made("2026-11-21T10:00:01Z"))
            .pod("shop", "old", "10.244.0.3", true, made("2026-11-21T10:00:00Z"))
            .snapshot();
        assert_eq!(destination(&snapshot, A, "10.244.0.3").any_port.unwrap().workload_uid, "uid-new");
    }

    #[test]
    fn a_pod_on_its_nodes_network_has_no_sidecar_and_takes_nobodys_address() {
        let host = json!({"spec": {"hostNetwork": true}});
        let snapshot = Cluster::default()
            .pod("shop", "a", "10.244.0.2", true, json!({}))
            .pod("kube-system", "proxy", "192.168.0.1", true, host.clone())
            .pod("kube-system", "etcd", "192.168.0.1", false, host)
            .snapshot();
        let found = destination(&snapshot, A, "192.168.0.1");
        assert!(found.other_ports_unmeshed && found.ports.is_empty(), "{found:?}");
    }

    #[test]
    fn a_pod_without_an_address_has_its_configuration_already() {
        let bare = json!({"status": {"podIP": null, "podIPs": null}});
        let snapshot = Cluster::default().pod("shop", "a", "", true, bare).snapshot();
        let member = snapshot.find(&key("shop", "a")).unwrap();
        assert!(snapshot.config(member).addresses.is_empty());
    }
}

mod services {
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
        cluster.pod("shop", "orders", "10.244.0.3", false, json!({})).slice(
            "shop",
            "orders",
            json!([ready("10.244.0.3")]),
        );
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
        cluster.service("shop", "orders", "10.96.0.10", shared(80)).slice(
            "shop",
            "orders",
            json!([ready("10.244.0.3")]),
        );
        cluster.service("shop", "a", "10.96.0.11", shared(81)).slice("shop", "a", json!([ready("10.244.0.2")]));
        let found = destination(&cluster.snapshot(), A, "198.51.100.8");
        assert_eq!((endpoints(&found, 80).len(), endpoints(&found, 81).len()), (1, 1));
    }

    #[test]
    fn a_service_that_only_names_another_has_nothing_of_its_own() {
        let named = json!({"spec": {"type": "ExternalName", "externalName": "db.example", "clusterIP": "", "clusterIPs": null}});
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
        assert_eq!(
            endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80).len(),
            2,
            "one has none: nobody has"
        );
        let nodes = |node: &str| json!({"forNodes": [{"name": node}], "forZones": [{"name": "z1"}]});
        let both = json!([
            at("10.244.0.3", "node-1", "z1", nodes("node-2")),
            at("10.244.1.3", "node-2", "z1", nodes("node-1"))
        ]);
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
        cluster.slice("shop", "orders", list(&|_| true));
        let mine = endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80);
        assert_eq!(mine.len(), 1);
        let own = mine[0].split(':').next().unwrap().to_owned();
        let others: Vec<&String> = all.iter().filter(|a| **a != own).collect();
        for gone in others {
            cluster.slice("shop", "orders", list(&|a| a != gone));
            assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80), mine, "without {gone}");
        }
        cluster.slice("shop", "orders", list(&|a| a != own));
        assert_eq!(endpoints(&destination(&cluster.snapshot(), A, "10.96.0.10"), 80).len(), 1);
    }
}

mod rules {
    use super::*;

    fn base() -> Cluster {
        let mut cluster = Cluster::default();
        cluster.pod("shop", "orders", "10.244.0.3", true, json!({})).pod(
            "bank",
            "orders",
            "10.244.0.4",
            true,
            json!({
                "metadata": {"uid": "uid-bank"},
            }),
        );
        cluster
    }
    const ORDERS: (&str, &str) = ("shop", "orders");

    #[test]
    fn f7_a_rule_with_an_unknown_field_guards_and_admits_nobody() {
        let target = json!({"all": true, "ports": [8080]});
        for fields in [
            json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout"}], "unless": 1}}),
            json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout", "unless": 1}]}}),
            json!({"spec": {"target": target, "from": [{"serviceAccount": "checkout"}]}, "http": [{"methods": ["GET"]}]}),
        ] {
            let snapshot = base().rule_with("shop", "r", fields.clone()).snapshot();
            assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::GuardedByUnusableRule, "{fields}");
        }
    }

    #[test]
    fn f37_a_rule_with_one_bad_network_guards_and_admits_nobody() {
        let from = json!([{"serviceAccount": "checkout"}, {"unauthenticated": {"cidrs": ["10.0.0.1/8"]}}]);
        let snapshot = base().rule("shop", "r", json!({"target": {"all": true}, "from": from})).snapshot();
        assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::GuardedByUnusableRule);
    }

    #[test]
    fn f10_a_rule_changes_no_verdict_in_another_namespace() {
        let mut cluster = base();
        let before = reason(&cluster.snapshot(), ("bank", "orders"), "shop/checkout", 8080);
        cluster.rule("shop", "r", json!({"target": {"all": true}, "from": []}));
        let snapshot = cluster.snapshot();
        assert_eq!(reason(&snapshot, ("bank", "orders"), "shop/checkout", 8080), before);
        assert_eq!(reason(&snapshot, ORDERS, "shop/checkout", 8080), Reason::NoRuleMatched);
    }

    #[test]
    fn f35_an_unknown_posture_denies() {
        let mut cluster = base();
        let posture = |cluster: &mut Cluster| cluster.snapshot().find(&key("shop", "orders")).unwrap().inbound;
        cluster.namespace("shop", json!({}));
        assert_eq!(posture(&mut cluster), Posture::Audit);
        for (word, meant) in
            [("deny", Posture::Deny), ("allow", Posture::Allow), ("Allow", Posture::Deny), ("", Posture::Deny)]
        {
            cluster.namespace("shop", json!({"signet.dev/posture": word}));
            assert_eq!(posture(&mut cluster), meant, "{word:?}");
        }
    }

    #[test]
    fn a_rule_keeps_guarding_while_its_service_is_missing_over_a_restart_of_the_operator_too() {
        let spec = json!({"target": {"service": "orders"}, "from": [{"serviceAccount": "checkout"}]});
        let mut cluster = base();
        cluster.rule("shop", "r", spec.clone()).service("shop", "orders", "10.96.0.1", json!({}));
        assert_eq!(reason(&cluster.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);
        cluster.gone(Change::Service, "shop", "orders");
        assert_eq!(reason(&cluster.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);

        let mut again = base();
        let status = json!({"service": {"name": "orders", "selector": {"app": "orders"}}});
        again.rule_with("shop", "r", json!({"spec": spec, "status": status}));
        assert_eq!(reason(&again.snapshot(), ORDERS, "shop/other", 8080), Reason::NoRuleMatched);
        // Of another Service than the one that it now targets, the status says nothing.
        let mut other = base();
        let status = json!({"service": {"name": "older", "selector": {"app": "orders"}}});
        other.rule_with("shop", "r", json!({"spec": spec, "status": status}));
        assert_eq!(reason(&other.snapshot(), ORDERS, "shop/other", 8080), Reason::PostureAudit);
    }
}

mod watches {
    use super::super::store::Store;
    use super::*;

    #[test]
    fn what_a_new_list_lacks_is_gone_and_until_it_is_complete_the_old_content_stays() {
        let mut store: Store<u8> = Store::default();
        for news in [News::Start, News::Listed(key("a", "1"), 1), News::Listed(key("a", "2"), 2)] {
            assert!(!store.take(news) && !store.complete());
        }
        assert!(store.take(News::Done) && store.complete());
        store.take(News::Start);
        store.take(News::Listed(key("a", "2"), 3));
        assert_eq!(store.iter().count(), 2);
        assert!(store.take(News::Done));
        assert_eq!(store.iter().map(|(key, n)| (key.name.as_str(), *n)).collect::<Vec<_>>(), [("2", 3)]);
    }

    #[test]
    fn what_changes_nothing_builds_nothing() {
        let mut store: Store<u8> = Store::default();
        store.take(News::Done);
        assert!(store.take(News::Set(key("a", "1"), 1)));
        assert!(!store.take(News::Set(key("a", "1"), 1)));
        assert!(!store.take(News::Gone(key("a", "2"))));
    }

    #[test]
    fn the_same_objects_give_the_same_digests_in_whatever_order_they_come() {
        let digest = |cluster: &mut Cluster| {
            let snapshot = cluster.snapshot();
            snapshot.digest(snapshot.find(&key("shop", "a")).unwrap()).to_owned()
        };
        let mut one = Cluster::default();
        one.pod("shop", "a", "10.244.0.2", true, json!({})).pod("shop", "b", "10.244.0.3", true, json!({}));
        let mut two = Cluster::default();
        two.pod("shop", "b", "10.244.0.3", true, json!({})).pod("shop", "a", "10.244.0.2", true, json!({}));
        assert_eq!(digest(&mut one), digest(&mut two));
    }
}
