//! Builds a [`Snapshot`] from documents. Pure: the same documents, settings and memory give the same snapshot on every replica.
use super::reach::Who as Whose;
use super::{Backend, Host, HostEntry, Member, Memory, Owner, Settings, Snapshot, resolve, wire};
use crate::documents::{Documents, Key, Listed, Posture, Sourced, Who, Workload};
use ipnet::IpNet;
use signet_identity::SpiffeId;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What is wrong with one of the documents although each could be read. What it concerns is left out so that nobody is admitted
/// and nobody called in plaintext because of it; everything else is in force. Readers who call `Reading::finish` meet none but
/// `Identity`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Namespace and service account make no SPIFFE ID.
    #[error("Workload {workload}: {error}")]
    Identity {
        /// `namespace/name`.
        workload: String,
        /// What is wrong with its identity.
        error: signet_identity::IdError,
    },
    /// Two documents claim a UID or an address: it is nobody's.
    #[error("{0} belongs to two documents")]
    Twice(String),
}

impl Snapshot {
    /// Builds the snapshot that follows `memory`, and what to remember with it. `newest` is when the documents changed last
    /// (microseconds since 1970): it makes revisions comparable between replicas and after a loss of memory. What is wrong with
    /// single documents stands in [`Snapshot::faults`].
    pub fn build(settings: &Settings, documents: &Documents, memory: &Memory, newest: u64) -> (Self, Memory) {
        let workloads = sorted(documents);
        let mut namespaces: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, workload) in workloads.iter().enumerate() {
            namespaces.entry(&workload.item.key.namespace).or_default().push(at);
        }
        let trust_domain = settings.trust_domain.as_str();
        let resolved = resolve::rules(documents, &workloads, &namespaces, trust_domain, memory);
        let postures: HashMap<&str, &Posture> =
            documents.postures.iter().map(|p| (p.item.key.namespace.as_str(), &p.item)).collect();

        let mut snapshot = Self { ranges: ranges(settings, documents), notes: resolved.notes, ..Self::default() };
        let mut members = Vec::with_capacity(workloads.len());
        for (workload, rules) in workloads.iter().zip(resolved.rules) {
            let workload = workload.item.clone();
            let posture = postures.get(workload.key.namespace.as_str());
            members.push(Member {
                identity: snapshot.identity(settings, &workload),
                inbound: posture.and_then(|p| p.inbound).unwrap_or(settings.inbound),
                egress: posture.and_then(|p| p.egress.clone()).unwrap_or_else(|| settings.egress.clone()),
                rules,
                workload,
                config: signet_proto::control::Config::default(),
            });
        }
        snapshot.take_members(&mut members);

        let hosts = snapshot.hosts(documents, &members);
        let node_ports: HashSet<u16> =
            documents.services.iter().flat_map(|s| node_ports(s.item.cluster.as_ref())).collect();
        let in_mesh = |address: &IpAddr| {
            settings.mesh_ranges.iter().chain(&documents.ranges).any(|range| range.contains(address))
        };
        let whose = |listed: &Listed, port: u16| {
            let address = listed.address;
            match (snapshot.by_address.get(&address), hosts.get(&address)) {
                (Some(Owner::Member(at)), _) => {
                    let meshed = members.get(*at).is_some_and(|member| member.workload.meshed);
                    (meshed || !listed.unsure).then_some(Whose::MemberAt(*at, address))
                }
                (Some(_), _) => None,
                // A port of a node may lead into the mesh: that way is only known to who calls the node itself.
                (None, Some(ports)) => {
                    let leads_on = node_ports.contains(&port) || ports.iter().any(|entry| entry.port == port);
                    (!leads_on).then_some(Whose::Plain(address))
                }
                (None, None) => (!listed.unsure && !in_mesh(&address)).then_some(Whose::Plain(address)),
            }
        };
        let mut services: Vec<Backend> = Vec::with_capacity(documents.services.len());
        for service in &documents.services {
            let of_namespace = namespaces.get(service.item.key.namespace.as_str()).map_or(&[][..], Vec::as_slice);
            services.push(resolve::backend(&service.item, &members, of_namespace, whose));
        }
        services.sort_by(|a, b| a.service.key.cmp(&b.service.key));

        let beyond = |member: &&Member| member.workload.meshed && !member.workload.addresses.iter().all(in_mesh);
        snapshot.unranged = members.iter().filter(beyond).count();
        snapshot.take_services(&services, hosts, &documents.unsure);
        (snapshot.members, snapshot.services) = (members, services);
        let content = snapshot.encode();
        snapshot.revision = if memory.revision != 0 && memory.content == content {
            memory.revision
        } else {
            newest.max(memory.revision.saturating_add(1))
        };
        let memory = Memory { revision: snapshot.revision, content, selectors: resolved.selectors };
        (snapshot, memory)
    }

    /// Who is who. A UID or an address that two claim is nobody's, and who has no sure UID has no identity.
    fn take_members(&mut self, members: &mut [Member]) {
        let mut twice = Vec::new();
        for (at, member) in members.iter().enumerate() {
            let workload = &member.workload;
            self.by_key.insert(workload.key.clone(), at);
            if let Some(uid) = &workload.uid
                && let Some(other) = self.by_uid.insert(uid.clone(), at)
            {
                self.faults.push(IndexError::Twice(format!("uid {uid}")));
                twice.extend([at, other]);
            }
            for address in &workload.addresses {
                if self.by_address.insert(*address, Owner::Member(at)).is_some() {
                    self.refuse(*address);
                }
            }
        }
        for at in twice {
            if let Some(member) = members.get_mut(at) {
                member.identity = None;
                member.workload.uid.take().and_then(|uid| self.by_uid.remove(&uid));
            }
        }
        self.identities.extend(members.iter().filter_map(|member| Some(member.identity.as_ref()?.to_string())));
    }

    /// The nodes' addresses, with the ports that lead to meshed workloads.
    fn hosts(&self, documents: &Documents, members: &[Member]) -> HashMap<IpAddr, Vec<HostEntry>> {
        let meshed = |at: &usize| members.get(*at).is_some_and(|member| member.workload.meshed);
        let entries = |ports: &[crate::documents::HostPort]| {
            let known = ports.iter().filter_map(|port| {
                let member = *self.by_key.get(&port.workload).filter(|at| meshed(at))?;
                Some(HostEntry { port: port.port, member, target: port.target })
            });
            known.collect()
        };
        documents.nodes.iter().map(|(address, ports)| (*address, entries(ports))).collect()
    }

    /// Who has an address first keeps it: workloads, then Services that the cluster or a document gave it, then nodes, then what
    /// is not sure. What a load balancer has given comes last: several Services may share it, and at a node's own address it
    /// adds ports to the node's.
    fn take_services(
        &mut self,
        services: &[Backend],
        hosts: HashMap<IpAddr, Vec<HostEntry>>,
        unsure: &BTreeSet<IpAddr>,
    ) {
        for (at, backend) in services.iter().enumerate() {
            for address in &backend.service.addresses {
                match self.by_address.get(address) {
                    None => drop(self.by_address.insert(*address, Owner::Service(at))),
                    Some(Owner::Member(_)) if backend.service.cluster.is_some() => {}
                    Some(_) => self.refuse(*address),
                }
            }
        }
        // Services have been sorted: of two that claim a port of a node, the first has it on every replica.
        let all = services.iter().enumerate();
        let behind: Arc<[usize]> = all
            .filter(|(_, backend)| node_ports(backend.service.cluster.as_ref()).next().is_some())
            .map(|(at, _)| at)
            .collect();
        for (address, ports) in hosts {
            let host = || Owner::Node(Host { ports, behind: behind.clone(), balanced: Vec::new() });
            self.by_address.entry(address).or_insert_with(host);
        }
        for address in unsure {
            self.by_address.entry(*address).or_insert(Owner::Nobody);
        }
        for (at, backend) in services.iter().enumerate() {
            for address in backend.service.cluster.iter().flat_map(|cluster| &cluster.balancer) {
                match self.by_address.entry(*address).or_insert_with(|| Owner::Balanced(Vec::new())) {
                    Owner::Balanced(all) => all.push(at),
                    Owner::Node(host) => host.balanced.push(at),
                    Owner::Member(_) | Owner::Service(_) | Owner::Nobody => {}
                }
            }
        }
    }

    /// From here on nobody has the address.
    fn refuse(&mut self, address: IpAddr) {
        self.by_address.insert(address, Owner::Nobody);
        self.faults.push(IndexError::Twice(format!("address {address}")));
    }

    /// A workload's identity; none for who has no sidecar, and for who cannot have one.
    fn identity(&mut self, settings: &Settings, workload: &Workload) -> Option<SpiffeId> {
        match &workload.who {
            _ if !workload.meshed => None,
            Who::Nobody => None,
            Who::Identity(identity) => Some(identity.clone()),
            Who::ServiceAccount(account) => {
                let made = SpiffeId::workload(&settings.trust_domain, &workload.key.namespace, account);
                let fault = |error| IndexError::Identity { workload: workload.key.to_string(), error };
                made.map_err(|error| self.faults.push(fault(error))).ok()
            }
        }
    }

    /// Makes every member's configuration and its digest; returns the digest of all.
    fn encode(&mut self) -> String {
        let ranges = wire::digest_of_ranges(&self.ranges);
        let mut own_services: Vec<Vec<IpAddr>> = vec![Vec::new(); self.members.len()];
        for backend in &self.services {
            for at in &backend.selected {
                if let Some(own) = own_services.get_mut(*at) {
                    let balancer = backend.service.cluster.iter().flat_map(|cluster| &cluster.balancer);
                    let shared = |a: &&IpAddr| matches!(self.by_address.get(*a), Some(Owner::Balanced(_)));
                    own.extend(backend.service.addresses.iter().chain(balancer.filter(shared)));
                }
            }
        }
        let mut all = wire::Digest::new();
        for (member, own) in self.members.iter_mut().zip(own_services) {
            let mut config = wire::config(member, &own);
            let digest = wire::digest_of_config(&config, &ranges);
            all.add(member.workload.key.to_string().as_bytes());
            all.add(digest.as_bytes());
            config.version = Some(signet_proto::control::Version { revision: 0, digest });
            member.config = config;
        }
        all.hex()
    }
}

fn node_ports(cluster: Option<&crate::documents::ClusterService>) -> impl Iterator<Item = u16> {
    cluster.into_iter().flat_map(|cluster| &cluster.node_ports).map(|(node_port, _)| *node_port)
}

fn sorted(documents: &Documents) -> Vec<&Sourced<Workload>> {
    let mut workloads: Vec<&Sourced<Workload>> = documents.workloads.iter().collect();
    workloads.sort_by(|a, b| a.item.key.cmp(&b.item.key));
    workloads
}

/// The mesh's ranges: what the settings and the cluster say, and every address of a document, merged without covering one
/// address more. Unmeshed workloads and nodes are in it too: that nobody there has a sidecar is an answer of the index, not a
/// guess.
fn ranges(settings: &Settings, documents: &Documents) -> Vec<signet_proto::control::Prefix> {
    let workloads = documents.workloads.iter().flat_map(|w| &w.item.addresses);
    let services = documents.services.iter().map(|s| &s.item);
    let services = services.flat_map(|s| s.addresses.iter().chain(s.cluster.iter().flat_map(|c| &c.balancer)));
    let single = workloads.chain(services).chain(documents.nodes.keys()).chain(&documents.unsure);
    let mut all: Vec<IpNet> = settings.mesh_ranges.iter().chain(&documents.ranges).map(IpNet::trunc).collect();
    all.extend(single.map(|address| IpNet::from(*address)));
    let merged: BTreeSet<IpNet> = IpNet::aggregate(&all).into_iter().collect();
    merged.iter().map(wire::prefix).collect()
}

/// The key of a document by its text, for the command line: `namespace/name`.
impl std::str::FromStr for Key {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self { namespace: namespace.into(), name: name.into() })
            }
            _ => Err(format!("{text:?} is not NAMESPACE/WORKLOAD")),
        }
    }
}
