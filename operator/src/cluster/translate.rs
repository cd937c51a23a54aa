//! From the cluster's objects to what the index takes. Pure: the same objects give the same documents on every replica.
use super::objects::{Namespace, Node, Pod, PodRef, Rule, Service, ServiceRange, Slice};
use super::store::{Kind, News, Store};
use crate::documents::{
    self, ClusterService, Documents, HostPort, Key, Listed, Locality, Place, ServicePort, Sourced, Who, Workload,
};
use crate::index::Memory;
use ipnet::IpNet;
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
    /// Nodes, each with its own name as the namespace of its key.
    pub nodes: Store<Node>,
    /// Where Services get their addresses; keys as of Nodes.
    pub service_ranges: Store<ServiceRange>,
    /// Namespaces, keys as of Nodes.
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
    /// Of a Node.
    Node(News<Node>),
    /// Of a `ServiceCIDR`.
    ServiceRange(News<ServiceRange>),
    /// Of a Namespace.
    Namespace(News<Namespace>),
    /// Of an AllowRule.
    Rule(News<Box<Rule>>),
}

/// What follows from news.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Nothing: it was known.
    Nothing,
    /// What was written about a rule is to be read, and nothing else: most of that this operator has written itself.
    Status,
    /// The same, and it tells of another Service than before.
    Service,
    /// The index has to be built anew.
    Index,
}

impl Objects {
    /// Takes news of this version.
    pub fn take(&mut self, change: Change, version: u64) -> Effect {
        let changed = match change {
            Change::Pod(news) => self.pods.take(news, version),
            Change::Service(news) => self.services.take(news, version),
            Change::Slice(news) => self.slices.take(news, version),
            Change::Node(news) => self.nodes.take(news, version),
            Change::ServiceRange(news) => self.service_ranges.take(news, version),
            Change::Namespace(news) => self.namespaces.take(news, version),
            Change::Rule(News::Set(key, rule)) => {
                let held = self.rules.get(&key).filter(|held| held.differs_in_status(&rule));
                let same = held.map(|held| held.status.service == rule.status.service);
                let changed = self.rules.take(News::Set(key, rule), version);
                match same {
                    Some(true) => return Effect::Status,
                    Some(false) => return Effect::Service,
                    None => changed,
                }
            }
            Change::Rule(news) => self.rules.take(news, version),
        };
        if changed { Effect::Index } else { Effect::Nothing }
    }

    /// Kinds that have not been listed yet.
    pub fn missing(&self) -> Vec<&'static str> {
        self.kinds().into_iter().filter(|(_, kind)| !kind.complete()).map(|(name, _)| name).collect()
    }

    /// Every kind, by its name in the API.
    pub fn kinds(&self) -> [(&'static str, &dyn Kind); 7] {
        [
            ("pods", &self.pods),
            ("services", &self.services),
            ("endpointslices", &self.slices),
            ("nodes", &self.nodes),
            ("servicecidrs", &self.service_ranges),
            ("namespaces", &self.namespaces),
            ("allowrules", &self.rules),
        ]
    }

    /// The newest version of anything that has arrived.
    pub fn newest(&self) -> u64 {
        self.kinds().iter().map(|(_, kind)| kind.seen()).max().unwrap_or(0)
    }

    /// What the index takes.
    pub fn documents(&self) -> Documents {
        let nodes = self.nodes();
        let unsure = self.unsure(&nodes);
        let of_nodes = self.nodes.iter().flat_map(|(_, node)| &node.ranges);
        let of_services = self.service_ranges.iter().flat_map(|(_, range)| &range.ranges);
        let ranges: BTreeSet<IpNet> = of_nodes.chain(of_services).copied().collect();
        Documents {
            workloads: self.workloads(&nodes, &unsure).into_iter().map(sourced).collect(),
            services: self.services().into_iter().map(sourced).collect(),
            postures: self.postures().map(sourced).collect(),
            rules: self
                .rules
                .iter()
                .filter_map(|(_, rule)| documents::Rule::new(rule.reading.clone()))
                .map(sourced)
                .collect(),
            nodes,
            ranges: ranges.into_iter().collect(),
            unsure,
        }
    }

    /// Every address of a node, by the Nodes and by what pods say of theirs, with the ports that lead from it to pods.
    fn nodes(&self) -> BTreeMap<IpAddr, Vec<HostPort>> {
        let mut nodes: BTreeMap<IpAddr, Vec<HostPort>> =
            self.nodes.iter().flat_map(|(_, node)| &node.addresses).map(|address| (*address, Vec::new())).collect();
        for (key, pod) in self.pods.iter() {
            for address in &pod.host_addresses {
                nodes.entry(*address).or_default();
            }
            if pod.host_ports.is_empty() {
                continue;
            }
            let node = Key { namespace: pod.node.clone(), name: pod.node.clone() };
            let own = self.nodes.get(&node).into_iter().flat_map(|node| &node.addresses);
            let at: BTreeSet<IpAddr> = own.chain(&pod.host_addresses).copied().collect();
            for (address, port) in at.iter().flat_map(|address| pod.host_ports.iter().map(move |port| (address, port)))
            {
                if port.at.is_none_or(|only| only == *address) {
                    let port = HostPort { port: port.port, workload: key.clone(), target: port.target };
                    nodes.entry(*address).or_default().push(port);
                }
            }
        }
        nodes
    }

    /// Addresses that a slice of the cluster's own controller gives to a pod which is not known to have it: another's by now,
    /// or of a pod that will be heard of in a moment. Only slices of Services with a selector: those the controller keeps true.
    fn unsure(&self, nodes: &BTreeMap<IpAddr, Vec<HostPort>>) -> BTreeSet<IpAddr> {
        let kept = |key: &Key, slice: &Slice| {
            let service = Key { namespace: key.namespace.clone(), name: slice.service.clone() };
            slice.managed && self.services.get(&service).is_some_and(|service| !service.selector.is_empty())
        };
        let slices = self.slices.iter().filter(|(key, slice)| kept(key, slice));
        let said = slices.flat_map(|(key, slice)| slice.pods.iter().map(move |(pod, address)| (key, pod, *address)));
        said.filter(|(key, pod, address)| !nodes.contains_key(address) && !self.has(key, pod, *address))
            .map(|(_, _, address)| address)
            .collect()
    }

    /// Whether the pod that a slice means is known, and has this address.
    fn has(&self, slice: &Key, meant: &PodRef, address: IpAddr) -> bool {
        let namespace = if meant.namespace.is_empty() { &slice.namespace } else { &meant.namespace };
        let key = Key { namespace: namespace.clone(), name: meant.name.clone() };
        self.pods.get(&key).is_some_and(|pod| {
            let own = if pod.host_network { &pod.host_addresses } else { &pod.addresses };
            (meant.uid.is_empty() || meant.uid == pod.uid) && own.contains(&address)
        })
    }

    /// Adds to what is remembered the selectors that only the rules' status still knows: of Services that went while no operator
    /// watched, or before this one started. Whether there was one.
    pub fn remember(&self, memory: &mut Memory) -> bool {
        let before = memory.selectors.len();
        for (key, rule) in self.rules.iter() {
            let (Some(last), Some(target)) = (&rule.status.service, targeted(&rule.reading)) else { continue };
            if last.name == target {
                let service = Key { namespace: key.namespace.clone(), name: last.name.clone() };
                memory.selectors.entry(service.to_string()).or_insert_with(|| last.selector.clone());
            }
        }
        memory.selectors.len() > before
    }

    /// Pods with a network of their own. An address that two claim is the meshed one's, so that nobody calls it in plaintext,
    /// and of two alike the newer one's: the other has left it, or is about to be noticed gone. Nor does a pod without a
    /// sidecar have an address that is a node's, or of which it is not sure whose it is.
    fn workloads(&self, nodes: &BTreeMap<IpAddr, Vec<HostPort>>, unsure: &BTreeSet<IpAddr>) -> Vec<Workload> {
        let mut pods: Vec<(&Key, &Pod)> = self.pods.iter().filter(|(_, pod)| !pod.host_network).collect();
        pods.sort_by_key(|(key, pod)| (Reverse(pod.meshed), Reverse(pod.created), *key));
        let (mut taken, mut uids) = (BTreeSet::new(), BTreeSet::new());
        let mut workloads: Vec<Workload> = Vec::with_capacity(pods.len());
        for (key, pod) in pods {
            let Ok(uid) = pod.uid.parse() else { continue };
            if !uids.insert(pod.uid.as_str()) {
                continue;
            }
            let others = |address: &IpAddr| nodes.contains_key(address) || unsure.contains(address);
            let free = |address: &&IpAddr| (pod.meshed || !others(address)) && taken.insert(**address);
            let addresses = pod.addresses.iter().filter(free).copied().collect();
            let node = Key { namespace: pod.node.clone(), name: pod.node.clone() };
            let zone = self.nodes.get(&node).map(|node| node.zone.clone()).unwrap_or_default();
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
                place: Locality { node: pod.node.clone(), zone },
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
                    endpoints: self.listed(key, service, of_service),
                    balancer: service.balancer.clone(),
                    node_ports: service.ports.iter().filter_map(|p| Some((p.node_port?, p.port))).collect(),
                    local: service.local,
                    sticky: service.sticky,
                }),
            }
        });
        services.collect()
    }

    /// The endpoints of all slices of a Service; one that stands in two of them counts once. Ports meet by name.
    fn listed(&self, of: &Key, service: &Service, slices: &[&Slice]) -> Vec<Listed> {
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
                    unsure: endpoint.pod.as_ref().is_some_and(|pod| !self.has(of, pod, endpoint.address)),
                    ports: ports.clone(),
                    ending: endpoint.ending,
                    node: endpoint.node.clone(),
                    for_nodes: endpoint.for_nodes.clone(),
                    for_zones: endpoint.for_zones.clone(),
                };
                // While it moves from slice to slice it may stand in both: ready comes before ending.
                let held = found.entry((endpoint.address, ports.clone())).or_insert_with(|| next.clone());
                let unsure = held.unsure || next.unsure;
                if held.ending && !next.ending {
                    *held = next;
                }
                held.unsure = unsure;
            }
        }
        found.into_values().collect()
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

fn sourced<T>(item: T) -> Sourced<T> {
    Sourced { item, place: Place { file: "the cluster".into(), line: 0 } }
}
