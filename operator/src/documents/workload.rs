//! Reads `Workload` and `Service`, and the head that every document has. Called by `read`.
use super::fields::{Object, Sink, escape, is_name, port, show};
use super::kinds::{Key, Labels, Locality, NamedPort, Service, ServicePort, Who, Workload};
use serde_json::Value;
use signet_identity::WorkloadUid;
use signet_policy::model::{API_VERSION, PortRef};
use std::collections::BTreeSet;
use std::net::IpAddr;

/// What every document has: checks `apiVersion`, reads name, namespace and labels.
pub(super) fn head(root: &Object<'_>) -> Option<(Key, Labels)> {
    let version = root.required("apiVersion", API_VERSION);
    if let Some(other) = version.filter(|v| v.as_str() != Some(API_VERSION)) {
        root.report("apiVersion", show(other), API_VERSION);
    }
    let _kind_was_read_already = root.optional("kind");
    let metadata = root.object("metadata", "name and namespace")?;
    let name = name(&metadata, "name", 253, true);
    let namespace = name_space(&metadata);
    let labels = metadata.labels("labels");
    let _free_text_for_people = metadata.optional("annotations");
    metadata.close();
    Some((Key { namespace: namespace?, name: name? }, labels?))
}

fn name_space(metadata: &Object<'_>) -> Option<String> {
    name(metadata, "namespace", 63, false)
}

fn name(object: &Object<'_>, field: &'static str, longest: usize, dots: bool) -> Option<String> {
    let want = "lower-case letters, digits and -, such as orders-1";
    let value = object.required(field, want)?;
    let text = value.as_str().filter(|text| is_name(text, longest, dots));
    if text.is_none() {
        object.report(field, show(value), want);
    }
    text.map(str::to_owned)
}

pub(super) fn workload(value: &Value, sink: &Sink) -> Option<Workload> {
    let root = Object::open(value, "", sink)?;
    let head = head(&root);
    let spec = root.object("spec", "serviceAccount, uid and addresses");
    root.close();
    let spec = spec?;
    // A flag that cannot be read is reported; the rest is read on, so that all problems come at once.
    let hbone = spec.flag("hbone", false).unwrap_or(false);
    let meshed = spec.flag("meshed", true).unwrap_or(true);
    if hbone && !meshed {
        spec.report("hbone", "true beside meshed: false", "one of the two");
    }
    let who = who(&spec, hbone, meshed);
    let uid = uid(&spec, hbone, meshed);
    let addresses = addresses(&spec, sink);
    if addresses.as_ref().is_some_and(Vec::is_empty) {
        spec.report("addresses", "nothing", "at least one address of the workload, such as [10.77.0.2]");
    }
    let ports = ports(&spec, sink);
    let tunnel_port = spec.optional("tunnelPort").and_then(|value| port(value, &spec.path("tunnelPort"), sink));
    spec.close();
    let (key, labels) = head?;
    let (who, uid, addresses, ports) = (who?, uid?, addresses?, ports?);
    Some(Workload { key, labels, who, uid, addresses, ports, tunnel_port, hbone, meshed, place: Locality::default() })
}

fn who(spec: &Object<'_>, hbone: bool, meshed: bool) -> Option<Who> {
    let account = spec.optional("serviceAccount");
    let identity = spec.optional("identity");
    match (account, identity) {
        (Some(_), Some(_)) => {
            spec.report("identity", "an identity beside a serviceAccount", "one of the two");
            None
        }
        (Some(_), None) => name(spec, "serviceAccount", 253, true).map(Who::ServiceAccount),
        (None, Some(value)) if hbone => {
            spec.parse("identity", value, "a SPIFFE ID, such as spiffe://example.org/ns/a/sa/b").map(Who::Identity)
        }
        (None, Some(_)) => {
            spec.report("identity", "an identity without hbone: true", "serviceAccount");
            None
        }
        (None, None) if !meshed => Some(Who::Nobody),
        (None, None) => {
            let want = if hbone { "a service account, or an identity" } else { "a service account, such as orders" };
            spec.report("serviceAccount", "nothing", want);
            None
        }
    }
}

#[allow(clippy::option_option, reason = "outer: could it be read; inner: is it there")]
fn uid(spec: &Object<'_>, hbone: bool, meshed: bool) -> Option<Option<WorkloadUid>> {
    match spec.optional("uid") {
        Some(value) if hbone => {
            spec.report("uid", show(value), "no uid: the certificate of a peer that speaks HBONE alone has none");
            None
        }
        Some(value) => spec.parse("uid", value, "1 to 64 characters of A-Z a-z 0-9 . _ -").map(Some),
        None if hbone || !meshed => Some(None),
        None => {
            spec.report("uid", "nothing", "the UID that was given to `signet token create --uid`");
            None
        }
    }
}

fn addresses(spec: &Object<'_>, sink: &Sink) -> Option<Vec<IpAddr>> {
    let mut good = true;
    let mut addresses = Vec::new();
    for (path, value) in spec.list("addresses")? {
        match value.as_str().and_then(|text| text.parse::<IpAddr>().ok()) {
            Some(address) if usable(address) => addresses.push(address),
            _ => {
                good = false;
                sink.report(
                    path,
                    show(value),
                    "an address such as 10.77.0.2 or fd77::2; not loopback, multicast, unspecified or IPv4 inside IPv6",
                );
            }
        }
    }
    good.then_some(addresses)
}

/// Addresses at which something can be called over a network, in their only spelling.
fn usable(address: IpAddr) -> bool {
    let mapped = matches!(address, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    let broadcast = address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST);
    !(mapped || broadcast || address.is_loopback() || address.is_multicast() || address.is_unspecified())
}

fn ports(spec: &Object<'_>, sink: &Sink) -> Option<Vec<NamedPort>> {
    let mut good = true;
    let mut ports: Vec<NamedPort> = Vec::new();
    for (path, value) in spec.list("ports")? {
        let read = Object::open(value, &path, sink).and_then(|object| {
            let name = optional_port_name(&object);
            let number =
                object.required("port", "a port, 1 to 65535").and_then(|v| port(v, &object.path("port"), sink));
            object.close();
            Some(NamedPort { name: name?, port: number? })
        });
        match read {
            Some(read) if ports.iter().any(|p| p.name == read.name && (!p.name.is_empty() || p.port == read.port)) => {
                good = false;
                sink.report(path, format!("{} {}", read.name, read.port), "each name, and each port without one, once");
            }
            Some(read) => ports.push(read),
            None => good = false,
        }
    }
    good.then_some(ports)
}

fn optional_port_name(object: &Object<'_>) -> Option<String> {
    let Some(value) = object.optional("name") else { return Some(String::new()) };
    let text = value.as_str().filter(|text| is_port_name(text));
    if text.is_none() {
        object.report("name", show(value), PORT_NAME);
    }
    text.map(str::to_owned)
}

const PORT_NAME: &str = "1 to 15 lower-case letters, digits and -, with a letter among them";

fn is_port_name(text: &str) -> bool {
    is_name(text, 15, false) && text.bytes().any(|b| b.is_ascii_lowercase())
}

pub(super) fn service(value: &Value, sink: &Sink) -> Option<Service> {
    let root = Object::open(value, "", sink)?;
    let head = head(&root);
    let spec = root.object("spec", "addresses, selector and ports");
    root.close();
    let spec = spec?;
    let addresses = addresses(&spec, sink);
    let selector = spec.labels("selector");
    if selector.as_ref().is_some_and(Labels::is_empty) {
        spec.report("selector", "nothing", "the labels of the workloads behind it, such as {app: orders}");
    }
    let ports = service_ports(&spec, sink);
    spec.close();
    let (key, _labels_of_a_service_select_nothing) = head?;
    Some(Service { key, addresses: addresses?, selector: selector?, ports: ports?, cluster: None })
}

fn service_ports(spec: &Object<'_>, sink: &Sink) -> Option<Vec<ServicePort>> {
    let mut good = true;
    let mut seen = BTreeSet::new();
    let mut ports = Vec::new();
    for (path, value) in spec.list("ports")? {
        let read = Object::open(value, &path, sink).and_then(|object| {
            let _for_people = optional_port_name(&object);
            let number =
                object.required("port", "a port, 1 to 65535").and_then(|v| port(v, &object.path("port"), sink));
            let target = match object.optional("targetPort") {
                None => number.map(PortRef::Number),
                Some(Value::String(name)) if is_port_name(name) => Some(PortRef::Name(name.clone())),
                Some(Value::String(name)) => {
                    object.report("targetPort", escape(name), format!("a port, or the name of one: {PORT_NAME}"));
                    None
                }
                Some(value) => port(value, &object.path("targetPort"), sink).map(PortRef::Number),
            };
            object.close();
            Some(ServicePort { port: number?, target: target? })
        });
        match read {
            Some(read) if seen.insert(read.port) => ports.push(read),
            Some(read) => {
                good = false;
                sink.report(path, read.port.to_string(), "each port once");
            }
            None => good = false,
        }
    }
    good.then_some(ports)
}
