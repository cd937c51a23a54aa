//! What NetworkPolicies let through, as Kubernetes defines it: a pod that no policy of a direction selects is open that way;
//! otherwise it admits what at least one rule of all policies that select it admits.
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt as _;
use signet_policy::model::{Expression, Selector};
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

type Labels = BTreeMap<String, String>;

/// Into a pod, or out of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    In,
    Out,
}

/// One end of a connection.
#[derive(Debug, Clone, Default)]
pub(super) struct Peer {
    namespace: String,
    name: String,
    labels: Labels,
    of_namespace: Labels,
    addresses: Vec<IpAddr>,
    ports: Vec<(String, u16)>,
    /// Not a pod: only an `ipBlock`, or no `from` at all, can admit it.
    outside: bool,
}

impl Peer {
    /// A pod, with the labels of all namespaces.
    pub(super) fn of(pod: &Pod, namespaces: &BTreeMap<String, Labels>) -> Self {
        let namespace = pod.namespace().unwrap_or_default();
        let ips = pod.status.as_ref().and_then(|status| status.pod_ips.as_deref()).unwrap_or_default();
        Self {
            name: pod.name_any(),
            labels: pod.labels().clone(),
            of_namespace: namespaces.get(&namespace).cloned().unwrap_or_default(),
            addresses: ips.iter().filter_map(|ip| ip.ip.parse().ok()).collect(),
            ports: super::rules::ports(pod),
            namespace,
            outside: false,
        }
    }

    /// Somebody who is no pod, at an address that nobody knows.
    pub(super) fn outside() -> Self {
        Self { outside: true, ..Self::default() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What the policies of one direction say.
#[derive(Debug)]
pub(super) struct Admits<'a> {
    /// This port is let through.
    pub(super) this_port: bool,
    /// Some TCP port is, so that the two are meant to speak.
    pub(super) some_port: bool,
    /// The policies that select the pod: those that could let it through.
    pub(super) isolating: Vec<&'a NetworkPolicy>,
}

/// Whether `own` admits the other end at a TCP port. Into a pod the port is `own`'s, out of it the other's.
pub(super) fn admits<'a>(policies: &'a [NetworkPolicy], way: Way, own: &Peer, other: &Peer, port: u16) -> Admits<'a> {
    let isolating: Vec<&NetworkPolicy> = policies.iter().filter(|policy| isolates(policy, way, own)).collect();
    if isolating.is_empty() {
        return Admits { this_port: true, some_port: true, isolating };
    }
    let served = if way == Way::In { own } else { other };
    let (mut this_port, mut some_port) = (false, false);
    for policy in &isolating {
        for (ports, peers) in entries(policy, way) {
            if !peers.is_empty() && !peers.iter().any(|peer| is(peer, other, &own.namespace)) {
                continue;
            }
            this_port |= ports.is_empty() || ports.iter().any(|entry| covers(entry, port, served));
            let tcp = |entry: &NetworkPolicyPort| entry.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
            some_port |= ports.is_empty() || ports.iter().any(|entry| tcp(entry) && !is_control(entry));
        }
    }
    Admits { this_port, some_port, isolating }
}

/// Ports of the mesh's own and of DNS say nothing about whether two pods are meant to speak.
fn is_control(entry: &NetworkPolicyPort) -> bool {
    matches!(entry.port, Some(IntOrString::Int(53 | 15008 | 15010 | 15012))) && entry.end_port.is_none()
}

fn isolates(policy: &NetworkPolicy, way: Way, pod: &Peer) -> bool {
    let Some(spec) = &policy.spec else { return false };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let of_way = match way {
        // As the API server fills it in where it is not given.
        Way::In => types.is_empty() || types.iter().any(|kind| kind == "Ingress"),
        Way::Out => types.iter().any(|kind| kind == "Egress") || (types.is_empty() && spec.egress.is_some()),
    };
    of_way
        && policy.namespace().as_deref() == Some(&pod.namespace)
        && spec.pod_selector.as_ref().is_none_or(|selector| matches(selector, &pod.labels))
}

/// Every entry: its ports and its peers.
fn entries(policy: &NetworkPolicy, way: Way) -> Vec<(&[NetworkPolicyPort], &[NetworkPolicyPeer])> {
    let Some(spec) = &policy.spec else { return Vec::new() };
    match way {
        Way::In => {
            let entries = spec.ingress.iter().flatten();
            entries.map(|e| (e.ports.as_deref().unwrap_or_default(), e.from.as_deref().unwrap_or_default())).collect()
        }
        Way::Out => {
            let entries = spec.egress.iter().flatten();
            entries.map(|e| (e.ports.as_deref().unwrap_or_default(), e.to.as_deref().unwrap_or_default())).collect()
        }
    }
}

fn is(peer: &NetworkPolicyPeer, other: &Peer, own_namespace: &str) -> bool {
    if let Some(block) = &peer.ip_block {
        if other.outside {
            return true;
        }
        let within = |text: &String, address: &IpAddr| {
            text.parse::<ipnet::IpNet>().is_ok_and(|network| network.contains(address))
        };
        return other.addresses.iter().any(|address| {
            within(&block.cidr, address) && !block.except.iter().flatten().any(|except| within(except, address))
        });
    }
    if other.outside {
        return false;
    }
    let namespace = match &peer.namespace_selector {
        Some(selector) => matches(selector, &other.of_namespace),
        None => other.namespace == own_namespace,
    };
    namespace && peer.pod_selector.as_ref().is_none_or(|selector| matches(selector, &other.labels))
}

fn covers(entry: &NetworkPolicyPort, port: u16, served: &Peer) -> bool {
    let tcp = entry.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
    tcp && match (&entry.port, entry.end_port) {
        (None, _) => true,
        (Some(IntOrString::Int(first)), Some(last)) => (*first..=last).contains(&i32::from(port)),
        (Some(IntOrString::Int(number)), None) => *number == i32::from(port),
        (Some(IntOrString::String(name)), _) => {
            served.ports.iter().any(|(known, number)| known == name && *number == port)
        }
    }
}

/// Kubernetes' own label selector, judged as a rule's.
fn matches(selector: &LabelSelector, labels: &Labels) -> bool {
    let expressions = selector.match_expressions.iter().flatten().map(|requirement| Expression {
        key: requirement.key.clone(),
        operator: requirement.operator.clone(),
        values: requirement.values.clone().unwrap_or_default(),
    });
    let selector = Selector {
        match_labels: selector.match_labels.clone().unwrap_or_default(),
        match_expressions: expressions.collect(),
    };
    selector.matches(labels)
}
