//! Reads documents of every kind. `AllowRule`s are read by `policy`, so that the operator, the sidecar and the command line
//! agree about them; the other kinds here.
use super::fields::{Object, Sink, escape, is_name, port, show};
use super::kinds::{Documents, Key, NamedPort, Posture, Rule, Service, ServicePort, Sourced, Who, Workload, is_plain};
use super::yaml::{self, Located};
use super::{Finding, Place};
use ipnet::IpNet;
use serde_json::Value;
use signet_policy::model::{API_VERSION, PortRef};
use signet_policy::{Decision, Egress, EgressException, Problem};
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

const KINDS: &str = "Workload, Service, Posture or AllowRule";

/// What came of reading: the documents that are usable, and everything that is wrong.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// What could be read. Complete only when there are no findings that do not guard.
    pub documents: Documents,
    /// Everything that is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// How many documents were met, good or bad.
    pub count: usize,
}

impl Reading {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// Nothing is wrong but rules that can still guard their ports: there is a safe reading of the whole.
    pub fn is_safe(&self) -> bool {
        self.findings.iter().all(|finding| finding.guards)
    }

    /// Notes that something is wrong with a whole file.
    pub fn refuse_file(&mut self, file: &Arc<str>, found: impl Into<String>, want: impl Into<String>) {
        let place = Place { file: file.clone(), line: 0 };
        let (found, want) = (found.into(), want.into());
        self.findings.push(Finding { place, document: None, field: String::new(), found, want, guards: false });
    }

    /// Reads every document of a text.
    pub fn add(&mut self, file: &Arc<str>, text: &str) {
        for document in yaml::split(text) {
            self.count += 1;
            match document {
                Ok(located) => self.document(file, &located),
                Err(broken) => self.findings.push(Finding {
                    place: Place { file: file.clone(), line: broken.line },
                    document: None,
                    field: String::new(),
                    found: escape(&broken.message),
                    want: "a YAML document".into(),
                    guards: false,
                }),
            }
        }
    }

    fn document(&mut self, file: &Arc<str>, located: &Located) {
        let kind = located.value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let sink = Sink::default();
        let place = Place { file: file.clone(), line: located.line("") };
        match kind.as_str() {
            "AllowRule" => return self.rule(located, place),
            "Workload" => keep(&mut self.documents.workloads, workload(&located.value, &sink), &sink, place),
            "Service" => keep(&mut self.documents.services, service(&located.value, &sink), &sink, place),
            "Posture" => keep(&mut self.documents.postures, posture(&located.value, &sink), &sink, place),
            _ => sink.report("kind", located.value.get("kind").map_or_else(|| "nothing".into(), show), KINDS),
        }
        self.problems(file, located, &kind, sink.into_problems(), false);
    }

    fn rule(&mut self, located: &Located, place: Place) {
        let file = place.file.clone();
        let reading = signet_policy::validate::read(&located.value);
        let (mut problems, guards) = match &reading {
            signet_policy::Reading::Rule(_) => (Vec::new(), false),
            signet_policy::Reading::GuardOnly { problems, .. } => (problems.clone(), true),
            signet_policy::Reading::Refused { problems } => (problems.clone(), false),
        };
        let rule = Rule::new(reading);
        if rule.is_none() && problems.is_empty() {
            // A refusal without a reason would be a mistake of ours; it still refuses.
            let (found, want) = ("a rule that was refused".into(), "a valid AllowRule".into());
            problems.push(Problem { path: String::new(), found, want });
        }
        self.documents.rules.extend(rule.map(|item| Sourced { item, place }));
        self.problems(&file, located, "AllowRule", problems, guards);
    }

    fn problems(&mut self, file: &Arc<str>, located: &Located, kind: &str, problems: Vec<Problem>, guards: bool) {
        let text = |field: &str| located.value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
        let document =
            text("name").filter(|_| KINDS.contains(kind) && !kind.is_empty()).map(|name| match text("namespace") {
                Some(namespace) => escape(&format!("{kind} {namespace}/{name}")),
                None => escape(&format!("{kind} {name}")),
            });
        for Problem { path, found, want } in problems {
            let place = Place { file: file.clone(), line: located.line(&path) };
            self.findings.push(Finding { place, document: document.clone(), field: path, found, want, guards });
        }
    }

    /// Looks for what is wrong between documents: two that claim the same name, UID or address. Call once, at the end.
    pub fn finish(&mut self) {
        let mut names = Taken::new("a name");
        let documents = &self.documents;
        for w in &documents.workloads {
            names.claim("Workload", &w.item.key, "metadata.name", w.item.key.to_string(), &w.place);
        }
        for s in &documents.services {
            names.claim("Service", &s.item.key, "metadata.name", s.item.key.to_string(), &s.place);
        }
        for r in &documents.rules {
            names.claim("AllowRule", &r.item.key(), "metadata.name", r.item.key().to_string(), &r.place);
        }
        let mut namespaces = Taken::new("one Posture for a namespace");
        for p in &documents.postures {
            namespaces.claim("Posture", &p.item.key, "metadata.namespace", p.item.key.namespace.clone(), &p.place);
        }
        let mut uids = Taken::new("a UID");
        let mut addresses = Taken::new("an address");
        for w in &documents.workloads {
            if let Some(uid) = &w.item.uid {
                uids.claim("Workload", &w.item.key, "spec.uid", uid.to_string(), &w.place);
            }
            for address in &w.item.addresses {
                addresses.claim("Workload", &w.item.key, "spec.addresses", address.to_string(), &w.place);
            }
        }
        for s in &documents.services {
            for address in &s.item.addresses {
                addresses.claim("Service", &s.item.key, "spec.addresses", address.to_string(), &s.place);
            }
        }
        for taken in [names, namespaces, uids, addresses] {
            self.findings.extend(taken.findings);
        }
    }
}

/// Names that may be claimed once.
struct Taken {
    what: &'static str,
    by: HashMap<(String, String), (String, Place)>,
    findings: Vec<Finding>,
}

impl Taken {
    fn new(what: &'static str) -> Self {
        Self { what, by: HashMap::new(), findings: Vec::new() }
    }

    fn claim(&mut self, kind: &str, key: &Key, field: &str, value: String, place: &Place) {
        let document = format!("{kind} {key}");
        // Names are unique within their kind; addresses and UIDs across kinds.
        let scope = if field == "metadata.name" { kind.to_owned() } else { String::new() };
        if let Some((other, at)) = self.by.get(&(scope.clone(), value.clone())) {
            self.findings.push(Finding {
                place: place.clone(),
                document: Some(document),
                field: field.into(),
                found: format!("{value}, which {other} at {at} has too"),
                want: format!("{} that no other document has", self.what),
                guards: false,
            });
        } else {
            self.by.insert((scope, value), (document, place.clone()));
        }
    }
}

/// Keeps an item only when nothing at all was wrong with its document: readers may return one in spite of a problem.
fn keep<T>(list: &mut Vec<Sourced<T>>, item: Option<T>, sink: &Sink, place: Place) {
    if sink.is_empty() {
        list.extend(item.map(|item| Sourced { item, place }));
    }
}

/// What every document has: checks `apiVersion`, reads name, namespace and labels.
fn head(root: &Object<'_>) -> Option<(Key, super::kinds::Labels)> {
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

fn workload(value: &Value, sink: &Sink) -> Option<Workload> {
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
    Some(Workload { key, labels, who, uid, addresses, ports, tunnel_port, hbone, meshed })
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
fn uid(spec: &Object<'_>, hbone: bool, meshed: bool) -> Option<Option<signet_identity::WorkloadUid>> {
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

fn service(value: &Value, sink: &Sink) -> Option<Service> {
    let root = Object::open(value, "", sink)?;
    let head = head(&root);
    let spec = root.object("spec", "addresses, selector and ports");
    root.close();
    let spec = spec?;
    let addresses = addresses(&spec, sink);
    let selector = spec.labels("selector");
    if selector.as_ref().is_some_and(super::kinds::Labels::is_empty) {
        spec.report("selector", "nothing", "the labels of the workloads behind it, such as {app: orders}");
    }
    let ports = service_ports(&spec, sink);
    spec.close();
    let (key, _labels_of_a_service_select_nothing) = head?;
    Some(Service { key, addresses: addresses?, selector: selector?, ports: ports? })
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

fn posture(value: &Value, sink: &Sink) -> Option<Posture> {
    let root = Object::open(value, "", sink)?;
    let head = head(&root);
    let spec = root.object("spec", "inbound, egress or both");
    root.close();
    let spec = spec?;
    let inbound = spec.optional("inbound").and_then(|value| {
        let word = value.as_str().and_then(|word| word.parse::<signet_policy::Posture>().ok());
        if word.is_none() {
            spec.report("inbound", show(value), "allow, audit, authenticated or deny");
        }
        word
    });
    let egress = spec.optional("egress").and_then(|value| egress(value, &spec.path("egress"), sink));
    spec.close();
    let (key, _labels_of_a_posture_select_nothing) = head?;
    Some(Posture { key, inbound, egress })
}

/// `allow` or `deny`.
pub(crate) fn egress_word(word: &str) -> Option<Decision> {
    match word {
        "allow" => Some(Decision::Allow),
        "deny" => Some(Decision::Deny),
        _ => None,
    }
}

fn egress(value: &Value, path: &str, sink: &Sink) -> Option<Egress> {
    let object = Object::open(value, path, sink)?;
    let default = object.required("default", "allow or deny").and_then(|value| {
        let word = value.as_str().and_then(egress_word);
        if word.is_none() {
            object.report("default", show(value), "allow or deny");
        }
        word
    });
    let mut good = true;
    let mut exceptions = Vec::new();
    for (path, value) in object.list("exceptions")? {
        match exception(value, &path, sink) {
            Some(exception) => exceptions.push(exception),
            None => good = false,
        }
    }
    object.close();
    Some(Egress { default: default?, exceptions: good.then_some(exceptions)? })
}

fn exception(value: &Value, path: &str, sink: &Sink) -> Option<EgressException> {
    let object = Object::open(value, path, sink)?;
    let network = object.required("cidr", "a network such as 10.0.0.0/8").and_then(|value| {
        let network = value.as_str().and_then(|text| text.parse::<IpNet>().ok()).filter(is_plain);
        if network.is_none() {
            object.report("cidr", show(value), "a network such as 10.0.0.0/8, without address bits beyond its length");
        }
        network
    });
    let mut good = true;
    let mut ports = Vec::new();
    if object.optional("ports").is_some_and(|v| v.as_array().is_some_and(Vec::is_empty)) {
        good = false;
        object.report("ports", "an empty list", "at least one port; leave `ports` out to mean every port");
    }
    for (path, value) in object.list("ports")? {
        match port(value, &path, sink) {
            Some(port) => ports.push(port),
            None => good = false,
        }
    }
    object.close();
    Some(EgressException { network: network?, ports: good.then_some(ports)? })
}
