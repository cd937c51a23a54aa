//! Builds a [`Snapshot`] from documents. Pure: the same documents, settings and memory give the same snapshot on every replica.
use super::reach::Who as Whose;
use super::{Backend, Member, Memory, Owner, Settings, Snapshot, resolve, wire};
use crate::documents::{Documents, Key, Posture, Sourced, Who, Workload};
use ipnet::IpNet;
use signet_identity::SpiffeId;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

/// Why no snapshot can be built from documents that were read without findings.
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
    /// Two workloads share a UID or an address; readers must call `Reading::finish`.
    #[error("{0} belongs to two documents")]
    Twice(String),
}

impl Snapshot {
    /// Builds the snapshot that follows `memory`, and what to remember with it. `newest` is when the documents changed last
    /// (microseconds since 1970): it makes revisions comparable between replicas and after a loss of memory.
    pub fn build(
        settings: &Settings,
        documents: &Documents,
        memory: &Memory,
        newest: u64,
    ) -> Result<(Self, Memory), IndexError> {
        let workloads = sorted(documents);
        let mut namespaces: HashMap<&str, Vec<usize>> = HashMap::new();
        for (at, workload) in workloads.iter().enumerate() {
            namespaces.entry(&workload.item.key.namespace).or_default().push(at);
        }
        let trust_domain = settings.trust_domain.as_str();
        let resolved = resolve::rules(documents, &workloads, &namespaces, trust_domain, memory);
        let postures: HashMap<&str, &Posture> =
            documents.postures.iter().map(|p| (p.item.key.namespace.as_str(), &p.item)).collect();

        let mut members = Vec::with_capacity(workloads.len());
        for (workload, rules) in workloads.iter().zip(resolved.rules) {
            let workload = workload.item.clone();
            let posture = postures.get(workload.key.namespace.as_str());
            members.push(Member {
                identity: identity(settings, &workload)?,
                inbound: posture.and_then(|p| p.inbound).unwrap_or(settings.inbound),
                egress: posture.and_then(|p| p.egress.clone()).unwrap_or_else(|| settings.egress.clone()),
                rules,
                workload,
                config: signet_proto::control::Config::default(),
            });
        }
        let owners = owners(&members);
        let in_mesh = |address: IpAddr| settings.mesh_ranges.iter().any(|range| range.contains(&address));
        let whose = |address: IpAddr| match owners.get(&address) {
            Some(at) => Some(Whose::MemberAt(*at, address)),
            None if documents.nodes.binary_search(&address).is_err() && in_mesh(address) => None,
            None => Some(Whose::Plain(address)),
        };
        let mut services: Vec<Backend> = Vec::with_capacity(documents.services.len());
        for service in &documents.services {
            let of_namespace = namespaces.get(service.item.key.namespace.as_str()).map_or(&[][..], Vec::as_slice);
            services.push(resolve::backend(&service.item, &members, of_namespace, whose));
        }
        services.sort_by(|a, b| a.service.key.cmp(&b.service.key));

        // Only when a port of a node leads into the mesh does anybody have to ask about nodes.
        let by_node = services.iter().any(|backend| !backend.unmeshed && has_node_ports(backend));
        let nodes: &[IpAddr] = if by_node { &documents.nodes } else { &[] };
        let mut snapshot =
            Self { ranges: ranges(settings, documents, nodes), notes: resolved.notes, ..Self::default() };
        snapshot.take_names(members, services, &documents.nodes)?;
        let content = snapshot.encode();
        snapshot.revision = if memory.revision != 0 && memory.content == content {
            memory.revision
        } else {
            newest.max(memory.revision.saturating_add(1))
        };
        let memory = Memory { revision: snapshot.revision, content, selectors: resolved.selectors };
        Ok((snapshot, memory))
    }

    fn take_names(&mut self, members: Vec<Member>, services: Vec<Backend>, nodes: &[IpAddr]) -> Result<(), IndexError> {
        for (at, member) in members.iter().enumerate() {
            let workload = &member.workload;
            self.by_key.insert(workload.key.clone(), at);
            self.identities.extend(member.identity.as_ref().map(ToString::to_string));
            if let Some(uid) = &workload.uid
                && self.by_uid.insert(uid.clone(), at).is_some()
            {
                return Err(IndexError::Twice(format!("uid {uid}")));
            }
            for address in &workload.addresses {
                if self.by_address.insert(*address, Owner::Member(at)).is_some() {
                    return Err(IndexError::Twice(format!("address {address}")));
                }
            }
        }
        for (at, backend) in services.iter().enumerate() {
            for address in &backend.service.addresses {
                self.take_service(*address, at, backend)?;
            }
        }
        // Services have been sorted: of two that claim a port of a node, the first has it on every replica.
        let behind: Vec<usize> =
            services.iter().enumerate().filter(|(_, backend)| has_node_ports(backend)).map(|(at, _)| at).collect();
        for address in nodes {
            self.by_address.entry(*address).or_insert_with(|| Owner::Node(behind.clone()));
        }
        (self.members, self.services) = (members, services);
        Ok(())
    }

    /// Documents give an address once. In a cluster a load balancer may give one address to several Services, and a workload's
    /// own comes before whatever a Service claims.
    fn take_service(&mut self, address: IpAddr, at: usize, backend: &Backend) -> Result<(), IndexError> {
        match self.by_address.entry(address).or_insert_with(|| Owner::Services(Vec::new())) {
            Owner::Services(all) if all.is_empty() || backend.service.cluster.is_some() => all.push(at),
            Owner::Member(_) if backend.service.cluster.is_some() => {}
            _ => return Err(IndexError::Twice(format!("address {address}"))),
        }
        Ok(())
    }

    /// Makes every member's configuration and its digest; returns the digest of all.
    fn encode(&mut self) -> String {
        let ranges = wire::digest_of_ranges(&self.ranges);
        let mut own_services: Vec<Vec<IpAddr>> = vec![Vec::new(); self.members.len()];
        for backend in &self.services {
            for at in &backend.selected {
                if let Some(own) = own_services.get_mut(*at) {
                    own.extend(&backend.service.addresses);
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

fn has_node_ports(backend: &Backend) -> bool {
    backend.service.cluster.as_ref().is_some_and(|cluster| !cluster.node_ports.is_empty())
}

/// Whose each workload address is.
fn owners(members: &[Member]) -> HashMap<IpAddr, usize> {
    let all = members.iter().enumerate();
    all.flat_map(|(at, member)| member.workload.addresses.iter().map(move |address| (*address, at))).collect()
}

fn sorted(documents: &Documents) -> Vec<&Sourced<Workload>> {
    let mut workloads: Vec<&Sourced<Workload>> = documents.workloads.iter().collect();
    workloads.sort_by(|a, b| a.item.key.cmp(&b.item.key));
    workloads
}

fn identity(settings: &Settings, workload: &Workload) -> Result<Option<SpiffeId>, IndexError> {
    match &workload.who {
        _ if !workload.meshed => Ok(None),
        Who::Nobody => Ok(None),
        Who::Identity(identity) => Ok(Some(identity.clone())),
        Who::ServiceAccount(account) => SpiffeId::workload(&settings.trust_domain, &workload.key.namespace, account)
            .map(Some)
            .map_err(|error| IndexError::Identity { workload: workload.key.to_string(), error }),
    }
}

/// The mesh's ranges: what the settings say, and every address of a document, merged without covering one address more.
/// Unmeshed workloads are in it too: their sidecar-less state is an answer of the index, not a guess.
fn ranges(settings: &Settings, documents: &Documents, nodes: &[IpAddr]) -> Vec<signet_proto::control::Prefix> {
    let workloads = documents.workloads.iter().flat_map(|w| &w.item.addresses);
    let services = documents.services.iter().flat_map(|s| &s.item.addresses);
    let mut all: Vec<IpNet> = settings.mesh_ranges.iter().map(IpNet::trunc).collect();
    all.extend(workloads.chain(services).chain(nodes).map(|address| IpNet::from(*address)));
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
