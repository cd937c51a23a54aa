//! From Kubernetes' types to `objects`. Everything that a user can write goes through here: what makes no sense is left out,
//! nothing panics, and nothing gets wider than it was written.
use super::objects::{
    Endpoint, HostPort, Namespace, Node, Pod, PodRef, Rule, Service, ServicePort, ServiceRange, Slice,
};
use crate::documents::{Labels, NamedPort};
use ipnet::IpNet;
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as networking;
use kube::core::DynamicObject;
use serde_json::{Value, json};
use signet_policy::Posture;
use std::net::IpAddr;

/// The init container that is our sidecar.
pub const SIDECAR: &str = "signet-sidecar";
/// What a namespace admits on unguarded ports.
pub const POSTURE: &str = "signet.dev/posture";
const ZONE: &str = "topology.kubernetes.io/zone";
/// Which Service an EndpointSlice is for.
const SERVICE: &str = "kubernetes.io/service-name";
/// Who made an EndpointSlice, and whom we believe what is said of nodes and zones.
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// `timeoutSeconds` of session affinity when nobody says one: `DefaultClientIPServiceAffinitySeconds` of Kubernetes.
const AFFINITY_SECONDS: u32 = 10_800;
const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// A pod; none when it has finished: its address may be another's by now.
pub(super) fn pod(pod: &core::Pod, sidecar_images: &[String]) -> Option<Pod> {
    let (spec, status) = (pod.spec.as_ref()?, pod.status.as_ref());
    if status.and_then(|s| s.phase.as_deref()).is_some_and(|phase| matches!(phase, "Succeeded" | "Failed")) {
        return None;
    }
    let labels: Labels = pod.metadata.labels.clone().unwrap_or_default();
    let host_network = spec.host_network.unwrap_or(false);
    let own = status.and_then(|s| s.pod_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let hosts = status.and_then(|s| s.host_ips.as_ref()).into_iter().flatten().map(|ip| ip.ip.as_str());
    let mut host_addresses = addresses(hosts);
    let mut own = addresses(own);
    if host_network {
        host_addresses.append(&mut own);
    }
    let conditions = status.and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    Some(Pod {
        uid: pod.metadata.uid.clone()?,
        account: spec.service_account_name.clone().filter(|name| !name.is_empty()).unwrap_or_else(|| "default".into()),
        node: spec.node_name.clone().unwrap_or_default(),
        labels,
        addresses: own,
        host_addresses,
        host_network,
        meshed: is_meshed(spec, sidecar_images),
        ports: ports(spec),
        host_ports: if host_network { Vec::new() } else { host_ports(spec) },
        ready: ready && pod.metadata.deletion_timestamp.is_none(),
        created: pod.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_microsecond()),
    })
}

/// Judged from the live pod's spec alone: a label says nothing.
fn is_meshed(spec: &core::PodSpec, sidecar_images: &[String]) -> bool {
    !spec.host_network.unwrap_or(false)
        && spec.init_containers.iter().flatten().any(|container| {
            container.name == SIDECAR
                && container.restart_policy.as_deref() == Some("Always")
                && container
                    .image
                    .as_deref()
                    .is_some_and(|image| sidecar_images.iter().any(|ours| repository(image) == repository(ours)))
        })
}

/// An image's repository: without tag and digest, and without the registry that is meant when none is named.
fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(name, _)| name);
    let tag = image.rfind(':').filter(|at| !image.get(*at..).is_some_and(|rest| rest.contains('/')));
    let name = tag.and_then(|at| image.get(..at)).unwrap_or(image);
    let name = name.strip_prefix("docker.io/").unwrap_or(name);
    name.strip_prefix("library/").unwrap_or(name)
}

/// The TCP ports that its containers declare; those of sidecars too.
fn declared(spec: &core::PodSpec) -> impl Iterator<Item = &core::ContainerPort> {
    let sidecars = spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let containers = spec.containers.iter().chain(sidecars.filter(|container| container.name != SIDECAR));
    let declared = containers.flat_map(|container| container.ports.iter().flatten());
    declared.filter(|port| is_tcp(port.protocol.as_ref()))
}

/// Ports of the node that lead to the pod, but for those that only the node itself reaches.
fn host_ports(spec: &core::PodSpec) -> Vec<HostPort> {
    let ports = declared(spec).filter_map(|port| {
        let (host, target) = (number(port.host_port?)?, number(port.container_port)?);
        let at = port.host_ip.as_deref().filter(|at| !at.is_empty()).map(str::parse::<IpAddr>);
        match at {
            // What cannot be read is taken for every address.
            None | Some(Err(_)) => Some(HostPort { at: None, port: host, target }),
            Some(Ok(at)) if at.is_unspecified() => Some(HostPort { at: None, port: host, target }),
            Some(Ok(at)) if at.is_loopback() => None,
            Some(Ok(at)) => Some(HostPort { at: Some(at.to_canonical()), port: host, target }),
        }
    });
    ports.collect()
}

fn ports(spec: &core::PodSpec) -> Vec<NamedPort> {
    let mut ports: Vec<NamedPort> = Vec::new();
    for port in declared(spec) {
        let Some(number) = number(port.container_port) else { continue };
        let port = NamedPort { name: port.name.clone().unwrap_or_default(), port: number };
        if !ports.contains(&port) {
            ports.push(port);
        }
    }
    ports
}

fn is_tcp(protocol: Option<&String>) -> bool {
    protocol.is_none_or(|protocol| protocol == "TCP")
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

/// Addresses at which something can be called, canonical, each once.
fn addresses<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpAddr> {
    let mut found = Vec::new();
    for address in texts.filter_map(address) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

fn address(text: &str) -> Option<IpAddr> {
    let address = text.parse::<IpAddr>().ok()?.to_canonical();
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    (!(broadcast || address.is_loopback() || address.is_multicast() || address.is_unspecified())).then_some(address)
}

/// A Service. One that only names another (`ExternalName`) has nothing of its own.
pub(super) fn service(service: &core::Service) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let one = spec.cluster_ip.iter().map(String::as_str);
    let all = spec.cluster_ips.iter().flatten().map(String::as_str);
    // Only what the load balancer's controller has published, and only where the node answers for it; `externalIPs` is what a
    // user claims, and would take another's traffic (F10).
    let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|b| b.ingress.as_ref());
    let balancer = balancer.into_iter().flatten().filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let balancer = addresses(balancer.filter_map(|ingress| ingress.ip.as_deref()));
    let ports = spec.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_ref()));
    Some(Service {
        addresses: addresses(one.chain(all)),
        balancer,
        selector: spec.selector.clone().unwrap_or_default(),
        ports: ports
            .filter_map(|port| {
                Some(ServicePort {
                    name: port.name.clone().unwrap_or_default(),
                    port: number(port.port)?,
                    node_port: port.node_port.and_then(number),
                })
            })
            .collect(),
        local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        sticky: (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| affinity_seconds(spec)),
    })
}

/// How long after its last call a caller keeps its endpoint. The API server writes the default down, and lets nothing but 1 to
/// 86400 through.
fn affinity_seconds(spec: &core::ServiceSpec) -> u32 {
    let client_ip = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client_ip.and_then(|client_ip| client_ip.timeout_seconds);
    seconds.and_then(|seconds| u32::try_from(seconds).ok()).filter(|seconds| *seconds > 0).unwrap_or(AFFINITY_SECONDS)
}

/// An EndpointSlice that is for a Service.
pub(super) fn slice(slice: &discovery::EndpointSlice) -> Option<Slice> {
    if !matches!(slice.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let labels = slice.metadata.labels.as_ref()?;
    let managed = labels.get(MANAGED_BY).is_some_and(|by| by == CONTROLLER);
    let ports = slice.ports.iter().flatten().filter(|port| is_tcp(port.protocol.as_ref()));
    let pods = slice.endpoints.iter().filter_map(|one| Some((pod_ref(one)?, address(one.addresses.first()?)?)));
    Some(Slice {
        service: labels.get(SERVICE)?.clone(),
        ports: ports.filter_map(|port| Some((port.name.clone().unwrap_or_default(), number(port.port?)?))).collect(),
        endpoints: slice.endpoints.iter().filter_map(|one| endpoint(one, managed)).collect(),
        pods: pods.collect(),
        managed,
    })
}

/// As kube-proxy reads the conditions: absent means ready; one that ends counts while it serves.
fn endpoint(endpoint: &discovery::Endpoint, managed: bool) -> Option<Endpoint> {
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let serving = conditions.and_then(|c| c.serving).unwrap_or(ready);
    let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
    let ending = serving && terminating;
    if !(ready || ending) {
        return None;
    }
    let hints = endpoint.hints.as_ref().filter(|_| managed);
    let nodes = hints.and_then(|h| h.for_nodes.as_ref()).into_iter().flatten().map(|node| node.name.clone());
    let zones = hints.and_then(|h| h.for_zones.as_ref()).into_iter().flatten().map(|zone| zone.name.clone());
    Some(Endpoint {
        address: address(endpoint.addresses.first()?)?,
        pod: pod_ref(endpoint),
        ending: !ready,
        node: endpoint.node_name.clone().unwrap_or_default(),
        for_nodes: nodes.collect(),
        for_zones: zones.collect(),
    })
}

fn pod_ref(endpoint: &discovery::Endpoint) -> Option<PodRef> {
    let meant = endpoint.target_ref.as_ref().filter(|meant| meant.kind.as_deref() == Some("Pod"))?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Some(PodRef { namespace: text(&meant.namespace), name: text(&meant.name), uid: text(&meant.uid) })
}

/// A Node.
pub(super) fn node(node: &core::Node) -> Node {
    let all = node.status.as_ref().and_then(|s| s.addresses.as_ref()).into_iter().flatten();
    let own = all.filter(|a| matches!(a.type_.as_str(), "InternalIP" | "ExternalIP"));
    let spec = node.spec.as_ref();
    let one = spec.and_then(|s| s.pod_cidr.as_deref());
    let cidrs = spec.and_then(|s| s.pod_cidrs.as_ref()).into_iter().flatten().map(String::as_str);
    Node {
        addresses: addresses(own.map(|a| a.address.as_str())),
        ranges: ranges(one.into_iter().chain(cidrs)),
        zone: node.metadata.labels.as_ref().and_then(|labels| labels.get(ZONE)).cloned().unwrap_or_default(),
    }
}

/// Where Services get their addresses.
pub(super) fn service_range(range: &networking::ServiceCIDR) -> ServiceRange {
    let cidrs = range.spec.as_ref().and_then(|s| s.cidrs.as_ref()).into_iter().flatten();
    ServiceRange { ranges: ranges(cidrs.map(String::as_str)) }
}

/// Networks, each once. One that means every address means nothing: all that is unknown would be refused.
fn ranges<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<IpNet> {
    let read = texts.filter_map(|text| text.parse::<IpNet>().ok()).filter(|range| range.prefix_len() > 0);
    let mut all: Vec<IpNet> = read.map(|range| range.trunc()).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// A Namespace. A word that nobody knows denies: never the default, which may allow (F35).
pub(super) fn namespace(namespace: &core::Namespace) -> Namespace {
    let word = namespace.metadata.labels.as_ref().and_then(|labels| labels.get(POSTURE));
    Namespace { posture: word.map(|word| word.parse().unwrap_or(Posture::Deny)) }
}

/// An AllowRule, from what the API server holds and not from a type that would drop what it does not know.
pub(super) fn rule(rule: &DynamicObject) -> Rule {
    let metadata = &rule.metadata;
    let mut document = rule.data.clone();
    let status = document.as_object_mut().and_then(|fields| fields.remove("status")).unwrap_or(Value::Null);
    if let Some(fields) = document.as_object_mut() {
        // The API server has checked what concerns itself. A version it serves as this one is this one.
        fields.insert("apiVersion".into(), signet_policy::model::API_VERSION.into());
        fields.insert("kind".into(), signet_policy::model::KIND.into());
        let mut head = json!({"name": metadata.name, "namespace": metadata.namespace});
        if let (Some(head), Some(generation)) = (head.as_object_mut(), metadata.generation) {
            head.insert("generation".into(), generation.into());
        }
        fields.insert("metadata".into(), head);
    }
    Rule {
        reading: signet_policy::validate::read(&document),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or(0),
        // Written by us; what cannot be read is written anew.
        status: serde_json::from_value(status).unwrap_or_default(),
    }
}
