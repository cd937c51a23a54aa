//! What the operator keeps of each object of the cluster: plain, small, and free of Kubernetes' types. Made by `read`, held by
//! `store`, put together by `translate`.
use crate::crd::RuleStatus;
use crate::documents::{Labels, NamedPort};
use ipnet::IpNet;
use signet_policy::{Posture, Reading};
use std::net::IpAddr;

/// A pod that has not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its UID: what its SVID carries.
    pub uid: String,
    /// What selectors look at.
    pub labels: Labels,
    /// Its service account.
    pub account: String,
    /// Its node's name, or empty.
    pub node: String,
    /// Its own addresses, canonical; none for a pod on its node's network.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its node.
    pub host_addresses: Vec<IpAddr>,
    /// It uses its node's network.
    pub host_network: bool,
    /// A container of its spec is our sidecar.
    pub meshed: bool,
    /// Its TCP ports that have a name, or that are worth naming.
    pub ports: Vec<NamedPort>,
    /// TCP ports of its node that lead to it.
    pub host_ports: Vec<HostPort>,
    /// It says that it is ready, and is not ending.
    pub ready: bool,
    /// When it was made, in microseconds since 1970: of two that claim an address, the newer has it.
    pub created: i64,
}

/// A `hostPort` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostPort {
    /// The one address of the node at which it is; absent: at all of them.
    pub at: Option<IpAddr>,
    /// The node's.
    pub port: u16,
    /// The pod's.
    pub target: u16,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its cluster addresses: the API server gives each to one Service.
    pub addresses: Vec<IpAddr>,
    /// Those that a load balancer has given it. Others may have them too.
    pub balancer: Vec<IpAddr>,
    /// May be empty.
    pub selector: Labels,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
    /// `sessionAffinity: ClientIP`: its timeout in seconds, never 0.
    pub sticky: Option<u32>,
}

/// A TCP port of a Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty when it has none.
    pub name: String,
    /// Its number.
    pub port: u16,
    /// The port of every node that leads here.
    pub node_port: Option<u16>,
}

/// An EndpointSlice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slice {
    /// The Service of the same namespace that it is for.
    pub service: String,
    /// Name and number of each TCP port.
    pub ports: Vec<(String, u16)>,
    /// Everybody in it who is ready or still serving.
    pub endpoints: Vec<Endpoint>,
    /// The pods in it, ready or not, each with the address that it is said to have.
    pub pods: Vec<(PodRef, IpAddr)>,
    /// The cluster's own controller says that it made it.
    pub managed: bool,
}

/// The pod that a slice means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    /// Its namespace; empty: the slice's.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, or empty.
    pub uid: String,
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses: the others mean the same (and have been out of use for long).
    pub address: IpAddr,
    /// The pod that is meant, if it is one. Never whose the address is.
    pub pod: Option<PodRef>,
    /// Serving, but about to end.
    pub ending: bool,
    /// Its node's name, or empty.
    pub node: String,
    /// Hints, see `documents::Listed`; none in a slice that a user made.
    pub for_nodes: Vec<String>,
    /// Hints.
    pub for_zones: Vec<String>,
}

/// A Node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Node {
    /// Its own, inside and outside.
    pub addresses: Vec<IpAddr>,
    /// Where its pods get their addresses, if the cluster gives them out by node.
    pub ranges: Vec<IpNet>,
    /// Its zone, or empty.
    pub zone: String,
}

/// A `ServiceCIDR`: where Services get their addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServiceRange {
    /// One of each family.
    pub ranges: Vec<IpNet>,
}

/// A Namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Namespace {
    /// What its label says; an unknown word denies (F35).
    pub posture: Option<Posture>,
}

/// An AllowRule.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// What `policy` says of it.
    pub reading: Reading,
    /// Tells a rule that was deleted and made again from the one before.
    pub uid: String,
    /// Grows with each change of the spec.
    pub generation: i64,
    /// What was last written about it.
    pub status: RuleStatus,
}

impl Rule {
    /// Whether another reading of it says the same, but that something else was written about it since.
    pub fn differs_in_status(&self, other: &Self) -> bool {
        let Self { reading, uid, generation, status } = self;
        (reading, uid, generation) == (&other.reading, &other.uid, &other.generation) && *status != other.status
    }
}
