//! From the index's types to the messages of `signet.control.v1`, and their digests. Deterministic: lists are sorted, messages
//! hold no maps.
use super::reach::{Endpoints, Reach, Who, for_asker};
use super::{Backend, HostEntry, Member};
use ipnet::IpNet;
use prost::Message as _;
use signet_policy::{Admits, Decision, Mode, Ports, Source};
use signet_proto::control;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// ALPN names of the two framings (design section 4).
const H2: &str = "h2";
const HTTP1: &str = "http/1.1";

pub(super) fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

pub(super) fn prefix(network: &IpNet) -> control::Prefix {
    control::Prefix { address: bytes(network.network()), length: network.prefix_len().into() }
}

/// A member's configuration without version and ranges, which are added when it is sent.
pub(super) fn config(member: &Member, services_of_self: &[IpAddr]) -> control::Config {
    let workload = &member.workload;
    let mut own = services_of_self.to_vec();
    own.sort_unstable();
    control::Config {
        version: None,
        workload_name: workload.key.name.clone(),
        workload_namespace: workload.key.namespace.clone(),
        addresses: workload.addresses.iter().copied().map(bytes).collect(),
        ports: workload
            .ports
            .iter()
            .map(|p| control::NamedPort { name: p.name.clone(), port: p.port.into() })
            .collect(),
        posture: Some(posture(member)),
        rules: member.rules.iter().map(rule).collect(),
        mesh_ranges: Vec::new(),
        service_addresses_of_self: own.into_iter().map(bytes).collect(),
    }
}

fn posture(member: &Member) -> control::Posture {
    let egress = &member.egress;
    control::Posture {
        inbound: member.inbound.as_str().into(),
        egress: match egress.default {
            Decision::Allow => "allow".into(),
            Decision::Deny => "deny".into(),
        },
        egress_exceptions: egress
            .exceptions
            .iter()
            .map(|e| control::EgressException {
                prefix: Some(prefix(&e.network)),
                ports: e.ports.iter().copied().map(u32::from).collect(),
            })
            .collect(),
    }
}

fn rule(rule: &signet_policy::WorkloadRule) -> control::Rule {
    let (all_ports, ports) = match &rule.ports {
        Ports::All => (true, Vec::new()),
        Ports::These(ports) => (false, ports.iter().copied().map(u32::from).collect()),
    };
    let (sources, refused) = match &rule.admits {
        Admits::Sources(sources) => (sources.iter().map(source).collect(), String::new()),
        Admits::Nobody(why) => (Vec::new(), why.clone()),
    };
    control::Rule {
        namespace: rule.key.namespace.clone(),
        name: rule.key.name.clone(),
        generation: rule.generation,
        all_ports,
        ports,
        mode: match rule.mode {
            Mode::Enforce => "Enforce".into(),
            Mode::Audit => "Audit".into(),
        },
        sources,
        features: rule.features.clone(),
        refused,
    }
}

fn source(source: &Source) -> control::Source {
    use control::source::Kind;
    let kind = match source {
        Source::Identity(identity) => Kind::Identity(identity.clone()),
        Source::Namespace { trust_domain, namespace } => Kind::Namespace(control::NamespaceSource {
            trust_domain: trust_domain.clone(),
            namespace: namespace.clone(),
        }),
        Source::AnyAuthenticated => Kind::AnyAuthenticated(true),
        Source::Plaintext(networks) => {
            Kind::Plaintext(control::Plaintext { prefixes: networks.iter().map(prefix).collect() })
        }
    };
    control::Source { kind: Some(kind) }
}

pub(super) fn unknown(address: IpAddr) -> control::Destination {
    destination(address, control::Kind::Unknown)
}

fn destination(address: IpAddr, kind: control::Kind) -> control::Destination {
    control::Destination {
        address: bytes(address),
        kind: kind.into(),
        ports: Vec::new(),
        any_port: None,
        selects_self: false,
        other_ports_unmeshed: false,
    }
}

/// A workload's own address: every port goes there unchanged.
pub(super) fn workload(member: &Member, asker: &Member, address: IpAddr) -> control::Destination {
    let kind = if member.workload.meshed { control::Kind::Meshed } else { control::Kind::Unmeshed };
    control::Destination {
        any_port: endpoint(member, address, 0),
        selects_self: member.workload.key == asker.workload.key,
        ..destination(address, kind)
    }
}

/// The address of one or more Services: their ports, each with the endpoints that this asker should call. Unmeshed only when
/// everybody behind all of them is; one with nobody behind it is meshed, so that nobody calls it in plaintext.
pub(super) fn services(
    backends: &[&Backend],
    members: &[Member],
    asker: &Member,
    address: IpAddr,
) -> control::Destination {
    let selects_self = selects(backends, asker, members);
    if backends.iter().all(|backend| backend.unmeshed) {
        return control::Destination { selects_self, ..destination(address, control::Kind::Unmeshed) };
    }
    let ports = backends.iter().flat_map(|backend| backend.ports.iter().map(|port| (*backend, port)));
    let ports = ports.map(|(backend, port)| (port.port, endpoints(backend, port, members, asker, address)));
    control::Destination { ports: by_port(ports), selects_self, ..destination(address, control::Kind::Meshed) }
}

/// The address of a node: `host` leads to meshed workloads, `behind` are the Services with a port of every node, `balanced`
/// those whose load balancer has this address; all other ports lead to the node itself. Every port that Services have on nodes
/// is listed, so that the sidecar can tell one that is not known yet.
pub(super) fn node(
    host: &[HostEntry],
    behind: &[&Backend],
    balanced: &[&Backend],
    members: &[Member],
    asker: &Member,
    address: IpAddr,
) -> control::Destination {
    let to_pods = host.iter().filter_map(|entry| {
        let member = members.get(entry.member)?;
        let own = nearest(member, address).and_then(|own| endpoint(member, own, entry.target));
        Some((entry.port, to_any(own.into_iter().collect())))
    });
    let node_ports = behind.iter().flat_map(|backend| {
        let ports = backend.service.cluster.iter().flat_map(|cluster| &cluster.node_ports);
        ports.map(|(node_port, port)| (*backend, *node_port, *port))
    });
    let balancer_ports =
        balanced.iter().flat_map(|backend| backend.ports.iter().map(|port| (*backend, port.port, port.port)));
    let to_services = node_ports.chain(balancer_ports).filter_map(|(backend, own, port)| {
        if backend.unmeshed {
            return Some((own, to_any(vec![plain(address, own)])));
        }
        let port = backend.ports.iter().find(|each| each.port == port)?;
        Some((own, endpoints(backend, port, members, asker, address)))
    });
    control::Destination {
        ports: by_port(to_pods.chain(to_services)),
        other_ports_unmeshed: true,
        ..destination(address, control::Kind::Meshed)
    }
}

/// Of two that claim a port of one address, the first has it.
fn by_port(ports: impl Iterator<Item = (u16, control::PortEndpoints)>) -> Vec<control::PortEndpoints> {
    let mut by_port: BTreeMap<u16, control::PortEndpoints> = BTreeMap::new();
    for (port, endpoints) in ports {
        by_port.entry(port).or_insert_with(|| control::PortEndpoints { port: port.into(), ..endpoints });
    }
    by_port.into_values().collect()
}

/// A port, its number still to be said, with endpoints of which each is as good as any other.
fn to_any(endpoints: Vec<control::Endpoint>) -> control::PortEndpoints {
    control::PortEndpoints { endpoints, ..control::PortEndpoints::default() }
}

/// The endpoints of a Service's port that this asker should call for an address, the number of the port still to be said.
fn endpoints(
    backend: &Backend,
    port: &Endpoints,
    members: &[Member],
    asker: &Member,
    address: IpAddr,
) -> control::PortEndpoints {
    let chosen = for_asker(&port.to, &backend.service, asker, address);
    let written = |reach: &Reach| match reach.who {
        Who::Member(at) => {
            let member = members.get(at)?;
            endpoint(member, nearest(member, address)?, reach.port)
        }
        Who::MemberAt(at, own) => endpoint(members.get(at)?, own, reach.port),
        Who::Plain(own) => Some(plain(own, reach.port)),
    };
    control::PortEndpoints {
        port: 0,
        endpoints: chosen.endpoints.into_iter().filter_map(written).collect(),
        others: chosen.others.into_iter().filter_map(written).collect(),
        affinity_seconds: chosen.affinity_seconds,
    }
}

fn selects(backends: &[&Backend], asker: &Member, members: &[Member]) -> bool {
    let mut behind = backends.iter().flat_map(|backend| &backend.selected).filter_map(|at| members.get(*at));
    behind.any(|member| member.workload.key == asker.workload.key)
}

/// An endpoint that is no workload of the index, and outside the mesh's ranges.
fn plain(address: IpAddr, port: u16) -> control::Endpoint {
    control::Endpoint { address: bytes(address), port: port.into(), ..control::Endpoint::default() }
}

/// A workload's address of the same family as the Service's, or the first it has.
fn nearest(member: &Member, address: IpAddr) -> Option<IpAddr> {
    let addresses = &member.workload.addresses;
    addresses.iter().find(|a| a.is_ipv4() == address.is_ipv4()).or_else(|| addresses.first()).copied()
}

/// None for a meshed workload without an identity: an endpoint that names none is called in plaintext.
fn endpoint(member: &Member, address: IpAddr, port: u16) -> Option<control::Endpoint> {
    let workload = &member.workload;
    if workload.meshed && member.identity.is_none() {
        return None;
    }
    let framings: &[&str] = match (workload.meshed, workload.hbone) {
        (false, _) => &[],
        (true, true) => &[H2],
        (true, false) => &[H2, HTTP1],
    };
    Some(control::Endpoint {
        address: bytes(address),
        port: port.into(),
        workload_uid: workload.uid.as_ref().filter(|_| workload.meshed).map(ToString::to_string).unwrap_or_default(),
        spiffe_id: member.identity.as_ref().map(ToString::to_string).unwrap_or_default(),
        tunnel_port: workload.tunnel_port.unwrap_or(0).into(),
        framings: framings.iter().map(ToString::to_string).collect(),
        workload_name: workload.key.to_string(),
    })
}

/// SHA-256 over parts, each with its length, so that no two lists of parts give the same bytes.
pub(super) struct Digest(aws_lc_rs::digest::Context);

impl Digest {
    pub(super) fn new() -> Self {
        Self(aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256))
    }
    pub(super) fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_be_bytes());
        self.0.update(part);
    }
    pub(super) fn hex(self) -> String {
        use std::fmt::Write as _;
        self.0.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
            let _writing_to_a_string_cannot_fail = write!(text, "{byte:02x}");
            text
        })
    }
}

/// The ranges are the same for every workload: hashed once.
pub(super) fn digest_of_ranges(ranges: &[control::Prefix]) -> String {
    let mut digest = Digest::new();
    for range in ranges {
        digest.add(&range.encode_to_vec());
    }
    digest.hex()
}

/// The digest of a configuration without version, with the digest of its ranges.
pub(super) fn digest_of_config(config: &control::Config, ranges: &str) -> String {
    let mut digest = Digest::new();
    digest.add(&config.encode_to_vec());
    digest.add(ranges.as_bytes());
    digest.hex()
}
