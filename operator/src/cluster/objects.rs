//! What the operator keeps of each object of the cluster: plain, small, and free of Kubernetes' types. Made by `read`, held by
//! `store`, put together by `translate`.
use crate::crd::RuleStatus;
use crate::documents::{Labels, NamedPort};
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
    /// Its node's zone, or empty.
    pub zone: String,
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
    /// It says that it is ready, and is not ending.
    pub ready: bool,
    /// When it was made, in microseconds since 1970: of two that claim an address, the newer has it.
    pub created: i64,
}

/// A Service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its cluster addresses, and those that a load balancer has given it.
    pub addresses: Vec<IpAddr>,
    /// May be empty.
    pub selector: Labels,
    /// Its TCP ports.
    pub ports: Vec<ServicePort>,
    /// `internalTrafficPolicy: Local`.
    pub local: bool,
    /// `sessionAffinity: ClientIP`.
    pub sticky: bool,
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
}

/// One endpoint of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// The first of its addresses: the others mean the same (and have been out of use for long).
    pub address: IpAddr,
    /// Serving, but about to end.
    pub ending: bool,
    /// Its node's name, or empty.
    pub node: String,
    /// Its node's zone, or empty.
    pub zone: String,
    /// Hints, see `documents::Listed`.
    pub for_nodes: Vec<String>,
    /// Hints.
    pub for_zones: Vec<String>,
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
