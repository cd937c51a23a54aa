//! The index: documents in; for a workload its configuration, for an address its destination. Plain and synchronous: no I/O, no
//! clock, no tasks, so that its tests build documents, apply them and read the answer in milliseconds.
//!
//! ```text
//! Documents + Settings + Memory --Snapshot::build--> Snapshot (immutable, shared by every stream) + Memory (to be stored)
//! ```
//!
//! `state` calls [`Snapshot::build`] at every change and publishes the result; `control` and the command line ask it.
mod build;
mod memory;
mod reach;
mod resolve;
mod told;
mod wire;

pub use build::IndexError;
pub use memory::Memory;
pub use resolve::Note;
pub use told::{Told, fingerprint};

use crate::documents::{Key, Service, Workload};
use ipnet::IpNet;
use reach::Endpoints;
use signet_identity::{SpiffeId, TrustDomain, WorkloadUid};
use signet_policy::{Egress, Posture, Table, WorkloadRule};
use signet_proto::control;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

/// What the index takes from the operator's own configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of service accounts without a trust domain.
    pub trust_domain: TrustDomain,
    /// Where meshed workloads can be, beside the addresses of the documents.
    pub mesh_ranges: Vec<IpNet>,
    /// For namespaces whose `Posture` does not say.
    pub inbound: Posture,
    /// For namespaces whose `Posture` does not say.
    pub egress: Egress,
}

/// Everything that follows from the documents at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    revision: u64,
    ranges: Vec<control::Prefix>,
    members: Vec<Member>,
    services: Vec<Backend>,
    by_uid: HashMap<WorkloadUid, usize>,
    by_key: BTreeMap<Key, usize>,
    by_address: HashMap<IpAddr, Owner>,
    identities: HashSet<String>,
    notes: Vec<Note>,
    faults: Vec<IndexError>,
    unranged: usize,
    shared: told::Shared,
}

/// A workload with everything that concerns it.
#[derive(Debug)]
pub struct Member {
    /// The document.
    pub workload: Workload,
    /// Its identity; absent: not meshed.
    pub identity: Option<SpiffeId>,
    /// What its unguarded ports admit.
    pub inbound: Posture,
    /// What it may call outside the mesh.
    pub egress: Egress,
    /// The rules of its namespace that concern it.
    pub rules: Vec<WorkloadRule>,
    config: control::Config,
}

#[derive(Debug)]
struct Backend {
    service: Service,
    ports: Vec<Endpoints>,
    /// Members that it selects or that stand behind it, whatever its ports.
    selected: Vec<usize>,
    /// Nobody behind it is meshed, and nobody could be.
    unmeshed: bool,
}

#[derive(Debug, Clone)]
enum Owner {
    Member(usize),
    Service(usize),
    /// Services that a load balancer has given the same address: each has ports of its own.
    Balanced(Vec<usize>),
    /// A node of the cluster.
    Node(Host),
    /// Two claim it, or it is not sure whose it is: unknown to everybody.
    Nobody,
}

/// What lies behind the ports of a node.
#[derive(Debug, Clone)]
struct Host {
    /// Workloads with a port of this node.
    ports: Vec<HostEntry>,
    /// Services with a port of every node.
    behind: Arc<[usize]>,
    /// Services to which a load balancer has given this node's address.
    balanced: Vec<usize>,
}

/// A port of a node that leads to a meshed workload.
#[derive(Debug, Clone, Copy)]
struct HostEntry {
    port: u16,
    member: usize,
    target: u16,
}

/// Why the index does not answer for a workload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The certificate has no UID.
    #[error("the certificate of {0} carries no workload UID")]
    NoUid(SpiffeId),
    /// No document has this UID.
    #[error("no workload has the uid {0}")]
    UnknownUid(WorkloadUid),
    /// The document with this UID gives another identity.
    #[error("the workload with uid {uid} has another identity than {presented}")]
    OtherIdentity {
        /// The UID of the certificate.
        uid: WorkloadUid,
        /// The identity of the certificate.
        presented: SpiffeId,
    },
    /// The document says that it has no sidecar.
    #[error("the workload with uid {0} has no sidecar: its document says meshed: false, or its pod was not injected")]
    NotMeshed(WorkloadUid),
}

impl Snapshot {
    /// Grows whenever the configuration of any workload changes.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// What is worth knowing about rules: those that select nothing, that guard alone, whose Service is missing.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// What is wrong with single documents: what they concern is unknown to everybody.
    pub fn faults(&self) -> &[IndexError] {
        &self.faults
    }

    /// Every workload, by `namespace/name`.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.by_key.values().filter_map(|at| self.members.get(*at))
    }
    /// How many meshed workloads have an address outside of the ranges that settings and nodes name. The next one there is
    /// unmeshed to callers until the index knows it.
    pub fn unranged(&self) -> usize {
        self.unranged
    }

    /// How many Services there are.
    pub fn services(&self) -> usize {
        self.services.len()
    }

    /// Whether a workload has this identity.
    pub fn knows(&self, identity: &str) -> bool {
        self.identities.contains(identity)
    }

    /// A workload by name.
    pub fn find(&self, key: &Key) -> Option<&Member> {
        self.members.get(*self.by_key.get(key)?)
    }

    /// The workload that may hear what concerns this UID: only the one that proves UID and identity together.
    pub fn authorize(&self, identity: &SpiffeId, uid: Option<&WorkloadUid>) -> Result<&Member, Refusal> {
        let uid = uid.ok_or_else(|| Refusal::NoUid(identity.clone()))?;
        let member = self.by_uid.get(uid).and_then(|at| self.members.get(*at));
        let member = member.ok_or_else(|| Refusal::UnknownUid(uid.clone()))?;
        match &member.identity {
            _ if !member.workload.meshed => Err(Refusal::NotMeshed(uid.clone())),
            Some(expected) if expected == identity => Ok(member),
            _ => Err(Refusal::OtherIdentity { uid: uid.clone(), presented: identity.clone() }),
        }
    }

    /// The digest of a workload's configuration: lower-case hex SHA-256.
    pub fn digest<'a>(&self, member: &'a Member) -> &'a str {
        member.config.version.as_ref().map_or("", |version| &version.digest)
    }

    /// The configuration of one workload, complete.
    pub fn config(&self, member: &Member) -> control::Config {
        let mut config = member.config.clone();
        config.mesh_ranges.clone_from(&self.ranges);
        config.version = Some(control::Version { revision: self.revision, digest: self.digest(member).to_owned() });
        config
    }

    /// The destination at an address (canonical), as `asker` should see it. Always an answer: what is not in the documents is
    /// unknown.
    pub fn destination(&self, asker: &Member, address: IpAddr) -> control::Destination {
        let services =
            |all: &[usize]| -> Vec<&Backend> { all.iter().filter_map(|at| self.services.get(*at)).collect() };
        match self.by_address.get(&address) {
            Some(Owner::Member(at)) => self.members.get(*at).map(|member| wire::workload(member, asker, address)),
            Some(Owner::Service(at)) => Some(wire::services(&services(&[*at]), &self.members, asker, address)),
            Some(Owner::Balanced(all)) => Some(wire::services(&services(all), &self.members, asker, address)),
            Some(Owner::Node(host)) => {
                let (behind, balanced) = (services(&host.behind), services(&host.balanced));
                Some(wire::node(&host.ports, &behind, &balanced, &self.members, asker, address))
            }
            Some(Owner::Nobody) | None => None,
        }
        .unwrap_or_else(|| wire::unknown(address))
    }
}

impl Member {
    /// The table that its sidecar compiles: the same function, so that `signet rules explain` answers what the sidecar would.
    pub fn table(&self) -> Table {
        Table::compile(self.inbound, &self.rules)
    }
}

#[cfg(test)]
pub(crate) mod tests;
