//! From the cluster's objects to what the index takes. Pure: the same objects give the same documents on every replica.
use super::objects::{Namespace, Pod, Rule, Service, Slice};
use super::store::{News, Store};
use crate::documents::{
    self, ClusterService, Documents, Key, Listed, Locality, Place, ServicePort, Sourced, Who, Workload,
};
use crate::index::Memory;
use signet_policy::Reading;
use signet_policy::model::PortRef;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

/// Everything that is watched.
#[derive(Debug, Default)]
pub struct Objects {
    /// Pods that have not finished.
    pub pods: Store<Pod>,
    /// Services.
    pub services: Store<Service>,
    /// EndpointSlices.
    pub slices: Store<Slice>,
    /// Namespaces, each with its own name as the namespace of its key.
    pub namespaces: Store<Namespace>,
    /// AllowRules.
    pub rules: Store<Box<Rule>>,
}

/// News of any kind.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Of a Pod.
    Pod(News<Pod>),
    /// Of a Service.
    Service(News<Service>),
    /// Of an EndpointSlice.
    Slice(News<Slice>),
    /// Of a Namespace.
    Namespace(News<Namespace>),
    /// Of an AllowRule.
    Rule(News<Box<Rule>>),
}

impl Objects {
    /// Takes news; whether the index has to be built anew.
    pub fn take(&mut self, change: Change) -> bool {
        match change {
            Change::Pod(news) => self.pods.take(news),
            Change::Service(news) => self.services.take(news),
            Change::Slice(news) => self.slices.take(news),
            Change::Namespace(news) => self.namespaces.take(news),
            Change::Rule(news) => self.rules.take(news),
        }
    }

    /// Kinds that have not been listed yet.
    pub fn missing(&self) -> Vec<&'static str> {
        let all = [
            ("pods", self.pods.complete()),
            ("services", self.services.complete()),
            ("endpointslices", self.slices.complete()),
            ("namespaces", self.namespaces.complete()),
            ("allowrules", self.rules.complete()),
        ];
        all.into_iter().filter(|(_, complete)| !complete).map(|(kind, _)| kind).collect()
    }

    /// What the index takes.
    pub fn documents(&self) -> Documents {
        let zones = self.zones();
        let nodes: BTreeSet<IpAddr> =
            self.pods.iter().flat_map(|(_, pod)| pod.host_addresses.iter().copied()).collect();
        Documents {
            workloads: self.workloads(&zones, &nodes).into_iter().map(sourced).collect(),
            services: self.services().into_iter().map(sourced).collect(),
            postures: self.postures().map(sourced).collect(),
            rules: self
                .rules
                .iter()
                .filter_map(|(_, rule)| documents::Rule::new(rule.reading.clone()))
                .map(sourced)
                .collect(),
            nodes: nodes.into_iter().collect(),
        }
    }

    /// Adds to what is remembered the selectors that only the rules' status still knows: of Services that went while no operator
    /// watched, or before this one started.
    pub fn remember(&self, memory: &mut Memory) {
        for (key, rule) in self.rules.iter() {
            let (Some(last), Some(target)) = (&rule.status.service, targeted(&rule.reading)) else { continue };
            if last.name == target {
                let service = Key { namespace: key.namespace.clone(), name: last.name.clone() };
                memory.selectors.entry(service.to_string()).or_insert_with(|| last.selector.clone());
            }
        }
    }

    /// The zone of each node, as slices tell it.
    fn zones(&self) -> HashMap<&str, &str> {
        let endpoints = self.slices.iter().flat_map(|(_, slice)| &slice.endpoints);
        let known = endpoints.filter(|endpoint| !endpoint.node.is_empty() && !endpoint.zone.is_empty());
        known.map(|endpoint| (endpoint.node.as_str(), endpoint.zone.as_str())).collect()
    }

    /// Pods with a network of their own. An address that two claim is the newer one's: the other has left it, or is about to be
    /// noticed gone.
    fn workloads(&self, zones: &HashMap<&str, &str>, nodes: &BTreeSet<IpAddr>) -> Vec<Workload> {
        let mut pods: Vec<(&Key, &Pod)> = self.pods.iter().filter(|(_, pod)| !pod.host_network).collect();
        pods.sort_by_key(|(key, pod)| (Reverse(pod.created), *key));
        let (mut taken, mut uids) = (BTreeSet::new(), BTreeSet::new());
        let mut workloads: Vec<Workload> = Vec::with_capacity(pods.len());
        for (key, pod) in pods {
            let Ok(uid) = pod.uid.parse() else { continue };
            if !uids.insert(pod.uid.as_str()) {
                continue;
            }
            let free = |address: &&IpAddr| !nodes.contains(*address) && taken.insert(**address);
            let addresses = pod.addresses.iter().filter(free).copied().collect();
            let zone =
                if pod.zone.is_empty() { zones.get(pod.node.as_str()).copied().unwrap_or("") } else { &pod.zone };
            workloads.push(Workload {
                key: key.clone(),
                labels: pod.labels.clone(),
                who: if pod.meshed { Who::ServiceAccount(pod.account.clone()) } else { Who::Nobody },
                uid: Some(uid),
                addresses,
                ports: pod.ports.clone(),
                tunnel_port: None,
                hbone: false,
                meshed: pod.meshed,
                place: Locality { node: pod.node.clone(), zone: zone.to_owned() },
            });
        }
        workloads
    }

    fn services(&self) -> Vec<documents::Service> {
        let mut slices: HashMap<(&str, &str), Vec<&Slice>> = HashMap::new();
        for (key, slice) in self.slices.iter() {
            slices.entry((&key.namespace, &slice.service)).or_default().push(slice);
        }
        let services = self.services.iter().map(|(key, service)| {
            let of_service = slices.get(&(key.namespace.as_str(), key.name.as_str())).map_or(&[][..], Vec::as_slice);
            let numbers = service.ports.iter();
            documents::Service {
                key: key.clone(),
                addresses: service.addresses.clone(),
                selector: service.selector.clone(),
                ports: numbers.map(|p| ServicePort { port: p.port, target: PortRef::Number(p.port) }).collect(),
                cluster: Some(ClusterService {
                    endpoints: listed(service, of_service),
                    node_ports: service.ports.iter().filter_map(|p| Some((p.node_port?, p.port))).collect(),
                    local: service.local,
                    sticky: service.sticky,
                }),
            }
        });
        services.collect()
    }

    fn postures(&self) -> impl Iterator<Item = documents::Posture> {
        self.namespaces.iter().filter_map(|(key, namespace)| {
            let inbound = Some(namespace.posture?);
            let key = Key { namespace: key.name.clone(), name: "label".into() };
            Some(documents::Posture { key, inbound, egress: None })
        })
    }
}

/// The Service that a rule targets.
pub(super) fn targeted(reading: &Reading) -> Option<&str> {
    match reading {
        Reading::Rule(rule) => rule.spec.target.service.as_deref(),
        Reading::GuardOnly { target, .. } => target.service.as_deref(),
        Reading::Refused { .. } => None,
    }
}

/// The endpoints of all slices of a Service; one that stands in two of them counts once. Ports meet by name.
fn listed(service: &Service, slices: &[&Slice]) -> Vec<Listed> {
    let mut found: BTreeMap<(IpAddr, Vec<(u16, u16)>), Listed> = BTreeMap::new();
    for slice in slices {
        let ports: Vec<(u16, u16)> = service
            .ports
            .iter()
            .filter_map(|port| Some((port.port, slice.ports.iter().find(|(name, _)| *name == port.name)?.1)))
            .collect();
        for endpoint in &slice.endpoints {
            let next = Listed {
                address: endpoint.address,
                ports: ports.clone(),
                ending: endpoint.ending,
                node: endpoint.node.clone(),
                for_nodes: endpoint.for_nodes.clone(),
                for_zones: endpoint.for_zones.clone(),
            };
            // While it moves from slice to slice it may stand in both: ready comes before ending.
            let held = found.entry((endpoint.address, ports.clone())).or_insert_with(|| next.clone());
            if held.ending && !next.ending {
                *held = next;
            }
        }
    }
    found.into_values().collect()
}

fn sourced<T>(item: T) -> Sourced<T> {
    Sourced { item, place: Place { file: "the cluster".into(), line: 0 } }
}
