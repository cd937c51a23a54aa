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
use signet_proto::control::{Destination, Kind, PortEndpoints};
use std::net::IpAddr;

mod places;
mod pods;
mod rules;
mod services;
mod sureness;
mod watches;

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
        self.objects.take(Change::Pod(news), 0);
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
            self.objects.take(Change::Service(News::Set(key(namespace, name), service)), 0);
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
        self.objects.take(Change::Slice(News::Set(key(namespace, &format!("{service}-{name}")), slice)), 0);
        self
    }

    fn node(&mut self, name: &str, addresses: &[&str], fields: Value) -> &mut Self {
        let kind = |n: usize| if n == 0 { "InternalIP" } else { "ExternalIP" };
        let all = addresses.iter().enumerate().map(|(n, address)| json!({"type": kind(n), "address": address}));
        let all: Vec<Value> = all.chain([json!({"type": "Hostname", "address": "10.244.0.9"})]).collect();
        let mut node = json!({"metadata": {"name": name}, "spec": {}, "status": {"addresses": all}});
        merge(&mut node, &fields);
        self.objects.take(Change::Node(News::Set(key(name, name), read::node(&object(node)))), 0);
        self
    }

    fn service_range(&mut self, cidr: &str) -> &mut Self {
        let range = object(json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": [cidr]}}));
        let key = key("kubernetes", "kubernetes");
        self.objects.take(Change::ServiceRange(News::Set(key, read::service_range(&range))), 0);
        self
    }

    fn namespace(&mut self, name: &str, labels: Value) -> &mut Self {
        let namespace = read::namespace(&object(json!({"metadata": {"name": name, "labels": labels}})));
        self.objects.take(Change::Namespace(News::Set(key(name, name), namespace)), 0);
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
        self.objects.take(Change::Rule(News::Set(key(namespace, name), Box::new(rule))), 0);
        self
    }

    fn gone(&mut self, change: fn(News<super::objects::Service>) -> Change, namespace: &str, name: &str) -> &mut Self {
        self.objects.take(change(News::Gone(key(namespace, name))), 0);
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
