//! What the documents mean, once they have been read: plain types that no later code can hold wrong.
use super::Place;
use ipnet::IpNet;
use signet_identity::{SpiffeId, WorkloadUid};
use signet_policy::model::{Metadata, PortRef, Target};
use signet_policy::{Egress, Mode, Reading};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Labels of a workload, or what a Service's selector asks of them.
pub type Labels = BTreeMap<String, String>;

/// Everything that was read, in the order of the files.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    /// Meshed or known not to be.
    pub workloads: Vec<Sourced<Workload>>,
    /// Names and addresses for several workloads.
    pub services: Vec<Sourced<Service>>,
    /// At most one in a namespace.
    pub postures: Vec<Sourced<Posture>>,
    /// Good ones, and refused ones that still guard.
    pub rules: Vec<Sourced<Rule>>,
    /// Addresses of a cluster's nodes, each with the ports that lead to workloads: whatever else has one of them has no sidecar.
    pub nodes: BTreeMap<IpAddr, Vec<HostPort>>,
    /// Where a cluster gives workloads and Services their addresses.
    pub ranges: Vec<IpNet>,
    /// Addresses that a cluster says a pod has which is not among the workloads: whose they are is not known.
    pub unsure: BTreeSet<IpAddr>,
}

/// A port of a node that leads to one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// The node's.
    pub port: u16,
    /// The workload.
    pub workload: Key,
    /// The workload's.
    pub target: u16,
}

/// Something, and where it was read.
#[derive(Debug, Clone)]
pub struct Sourced<T> {
    /// The thing.
    pub item: T,
    /// The first line of its document.
    pub place: Place,
}

/// `namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The namespace.
    pub namespace: String,
    /// The name, unique for its kind in the namespace.
    pub name: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Which identity a workload has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Who {
    /// `spiffe://<the mesh's trust domain>/ns/<namespace>/sa/<this>`.
    ServiceAccount(String),
    /// Written out, of any trust domain: peers that speak HBONE alone.
    Identity(SpiffeId),
    /// None: not meshed.
    Nobody,
}

/// One pod or host process.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Its name.
    pub key: Key,
    /// What selectors look at.
    pub labels: Labels,
    /// Its identity.
    pub who: Who,
    /// What its SVID carries; absent only for peers that speak HBONE alone, and without a sidecar.
    pub uid: Option<WorkloadUid>,
    /// At least one; canonical, no two workloads share one.
    pub addresses: Vec<IpAddr>,
    /// The ports that have a name, or that are worth naming; others may be open too.
    pub ports: Vec<NamedPort>,
    /// Where its sidecar listens for tunnels; absent: 15008.
    pub tunnel_port: Option<u16>,
    /// Speaks HBONE alone: HTTP/2, no UID in its certificate, no control stream.
    pub hbone: bool,
    /// Has a sidecar, or speaks HBONE.
    pub meshed: bool,
    /// Where it runs.
    pub place: Locality,
}

/// Where a workload runs in a cluster; empty elsewhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Locality {
    /// Its node's name.
    pub node: String,
    /// Its node's zone.
    pub zone: String,
}

/// A port with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedPort {
    /// Unique in its workload; may be empty.
    pub name: String,
    /// Unique in its workload.
    pub port: u16,
}

/// One or more addresses behind which selected workloads stand.
#[derive(Debug, Clone)]
pub struct Service {
    /// Its name.
    pub key: Key,
    /// May be empty: a Service that only names workloads, for rules.
    pub addresses: Vec<IpAddr>,
    /// Workloads of its namespace with all of these labels. Never empty in a document; a cluster has Services without one.
    pub selector: Labels,
    /// Unique ports. Where they lead a cluster says in `cluster`.
    pub ports: Vec<ServicePort>,
    /// What a cluster knows besides; absent in a document.
    pub cluster: Option<ClusterService>,
}

/// A Service as a cluster has it: who stands behind it is listed, and how traffic is distributed is said.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterService {
    /// Everybody behind it, ready or still serving, of both address families.
    pub endpoints: Vec<Listed>,
    /// Addresses that a load balancer has given it: never somebody else's own.
    pub balancer: Vec<IpAddr>,
    /// Ports of the nodes, each with the Service's own that it stands for.
    pub node_ports: Vec<(u16, u16)>,
    /// `internalTrafficPolicy: Local`: who calls one of the Service's own addresses reaches endpoints on its own node alone.
    pub local: bool,
    /// `sessionAffinity: ClientIP`: one caller, one endpoint, until it has not called for so many seconds.
    pub sticky: Option<u32>,
}

/// One address behind a Service of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listed {
    /// Whose it is, the index decides by the address alone.
    pub address: IpAddr,
    /// It is said to be a pod's which the index does not know at this address: unknown, unless somebody meshed has it.
    pub unsure: bool,
    /// The Service's port, and the port at this address.
    pub ports: Vec<(u16, u16)>,
    /// Not ready, but still serving while it ends: taken only when nobody is ready.
    pub ending: bool,
    /// Its node's name, or empty.
    pub node: String,
    /// Nodes and zones whose callers it is meant for; both empty: for everybody (`trafficDistribution`).
    pub for_nodes: Vec<String>,
    /// See `for_nodes`.
    pub for_zones: Vec<String>,
}

/// A port of a Service, and where it leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// The Service's own.
    pub port: u16,
    /// The workload's, by number or by name.
    pub target: PortRef,
}

/// What the unguarded ports of a namespace admit, and what its workloads may call outside the mesh.
#[derive(Debug, Clone)]
pub struct Posture {
    /// Its name; one is enough for a namespace.
    pub key: Key,
    /// Inbound; absent: the operator's default.
    pub inbound: Option<signet_policy::Posture>,
    /// Outbound; absent: the operator's default.
    pub egress: Option<Egress>,
}

/// An `AllowRule` document: good, or refused with a target that parses, so that it guards its ports and admits nobody.
#[derive(Debug, Clone)]
pub struct Rule {
    reading: Reading,
    metadata: Metadata,
    target: Target,
    mode: Mode,
}

impl Rule {
    /// Keeps what `policy` has read; a rule that was refused whole is none.
    pub fn new(reading: Reading) -> Option<Self> {
        let (metadata, target, mode) = match &reading {
            Reading::Rule(rule) => (rule.metadata.clone(), rule.spec.target.clone(), rule.spec.mode),
            Reading::GuardOnly { metadata, target, mode, .. } => (metadata.clone(), target.clone(), *mode),
            Reading::Refused { .. } => return None,
        };
        Some(Self { reading, metadata, target, mode })
    }
    /// For `policy`.
    pub fn reading(&self) -> &Reading {
        &self.reading
    }
    /// What it protects.
    pub fn target(&self) -> &Target {
        &self.target
    }
    /// Whether it is in force.
    pub fn mode(&self) -> Mode {
        self.mode
    }
    /// Why it was refused.
    pub fn refused(&self) -> Option<String> {
        match &self.reading {
            Reading::GuardOnly { problems, .. } => {
                Some(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
            Reading::Rule(_) | Reading::Refused { .. } => None,
        }
    }
    /// Whether it admits any caller by a whole identity: such a caller may be of any trust domain.
    pub fn names_identities(&self) -> bool {
        matches!(&self.reading, Reading::Rule(rule) if rule.spec.from.iter().any(|from| from.identity.is_some()))
    }
    /// `namespace/name`.
    pub fn key(&self) -> Key {
        Key { namespace: self.metadata.namespace.clone(), name: self.metadata.name.clone() }
    }
}

/// Whether labels have everything that a Service's selector asks for. An empty selector selects nothing, as in Kubernetes.
pub(crate) fn selects(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// Whether a network is written as itself: no address bits beyond its length.
pub(super) fn is_plain(network: &IpNet) -> bool {
    network.addr() == network.network()
}
