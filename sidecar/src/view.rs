//! What the data path knows of the mesh: this workload's rules and posture, and the destinations it asked about. The control
//! stream writes it (`control`), the data path reads it without locks (`path`), and both meet nowhere else.
use arc_swap::{ArcSwap, ArcSwapOption};
use ipnet::IpNet;
use signet_identity::{IdError, SpiffeId, UidError, WorkloadUid};
use signet_policy::{
    Admits, Decision, Egress, EgressException, Mode, Ports, Posture, RuleKey, Source, Table, WorkloadRule,
};
use signet_proto::control as wire;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// This workload's configuration, compiled. Replaced whole.
#[derive(Debug)]
pub struct State {
    /// Never goes back.
    pub version: wire::Version,
    /// `namespace/name`, for logs.
    pub workload: String,
    /// This workload's own addresses, canonical.
    pub addresses: HashSet<IpAddr>,
    /// Who may call.
    pub table: Table,
    /// What `table` was compiled of, for people.
    pub rules: Vec<WorkloadRule>,
    /// The same: what unguarded ports admit.
    pub inbound: Posture,
    /// Whom it may call that is not meshed.
    pub egress: Egress,
    /// Where meshed workloads can be: unknown is not unmeshed here.
    pub mesh_ranges: Vec<IpNet>,
}

/// One address the workload called, as the operator describes it.
#[derive(Debug, Clone, PartialEq)]
pub enum Destination {
    /// The operator's index lacks it.
    Unknown,
    /// Known, and known to have no sidecar.
    Unmeshed,
    /// A Service: its own ports, each with endpoints.
    Service(HashMap<u16, Behind>),
    /// A node of a cluster: these of its ports lead into the mesh, all others to the node itself, which has no sidecar.
    Node(HashMap<u16, Behind>),
    /// A workload's own address: every port goes there unchanged.
    Workload(Endpoint),
}

/// What a port of a Service or of a node leads to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Behind {
    /// Whom to call: each as good as any other.
    pub endpoints: Vec<Endpoint>,
    /// Present when a caller keeps the endpoint it has called.
    pub sticky: Option<Arc<Sticky>>,
}

/// Session affinity of a port.
#[derive(Debug, PartialEq)]
pub struct Sticky {
    /// Endpoints for those alone who have called them before.
    pub others: Vec<Endpoint>,
    /// How long after a call the caller is still sent to the same endpoint.
    pub timeout: Duration,
}

impl From<Vec<Endpoint>> for Behind {
    fn from(endpoints: Vec<Endpoint>) -> Self {
        Self { endpoints, sticky: None }
    }
}

impl Behind {
    /// Everybody behind it.
    pub fn all(&self) -> impl Iterator<Item = &Endpoint> {
        self.endpoints.iter().chain(self.sticky.iter().flat_map(|sticky| &sticky.others))
    }

    fn read(from: &wire::PortEndpoints) -> Result<Self, ViewError> {
        let read = |all: &[wire::Endpoint]| all.iter().map(Endpoint::read).collect::<Result<Vec<_>, _>>();
        let sticky = if from.affinity_seconds == 0 {
            None
        } else {
            let timeout = Duration::from_secs(from.affinity_seconds.into());
            Some(Arc::new(Sticky { others: read(&from.others)?, timeout }))
        };
        Ok(Self { endpoints: read(&from.endpoints)?, sticky })
    }
}

/// One workload behind a destination.
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// The workload's address.
    pub address: IpAddr,
    /// The workload's own port; 0 for a workload's own address: the port that was called.
    pub port: u16,
    /// Who must answer; `None`: not meshed, plain TCP.
    pub peer: Option<Named>,
}

/// The identity that an endpoint must prove.
#[derive(Debug, Clone, PartialEq)]
pub struct Named {
    /// Its SPIFFE ID.
    pub id: SpiffeId,
    /// Its workload UID; `None` only for peers that speak HBONE alone.
    pub uid: Option<WorkloadUid>,
    /// Where its tunnel listens.
    pub tunnel_port: u16,
    /// Whether it speaks the pooled framing.
    pub h2: bool,
    /// Whether it speaks the framing that carries one connection alone.
    pub http1: bool,
}

/// Why a message of the operator was refused whole.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// Something that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// An address of neither 4 nor 16 bytes.
    #[error("address has {0} bytes, want 4 or 16")]
    Address(usize),
    /// A prefix longer than its address.
    #[error("prefix length {0} is longer than its address")]
    Prefix(u32),
    /// A port outside 1 to 65535.
    #[error("port {0} is not in 1 to 65535")]
    Port(u32),
    /// An identity outside the grammar.
    #[error("identity {0:?}: {1}")]
    Id(String, IdError),
    /// A UID outside the grammar.
    #[error(transparent)]
    Uid(#[from] UidError),
    /// Older than the configuration in force.
    #[error("configuration {offered} is older than {held}, which is in force")]
    Older {
        /// Its revision.
        offered: u64,
        /// The one in force.
        held: u64,
    },
    /// The same revision with other content.
    #[error("configuration {0} was offered with other content than the one in force under the same revision")]
    Conflict(u64),
}

/// A destination, and when the workload last called it.
#[derive(Debug)]
struct Known {
    destination: Arc<Destination>,
    /// Seconds since the view was made.
    used: AtomicU64,
}

/// Shared by the control stream and every data path thread.
#[derive(Debug)]
pub struct View {
    since: Instant,
    state: ArcSwapOption<State>,
    destinations: ArcSwap<HashMap<IpAddr, Arc<Known>>>,
    changed: watch::Sender<u64>,
    wanted: mpsc::Sender<IpAddr>,
}

impl View {
    /// An empty view, and the addresses that the data path asks about (for the control stream).
    pub fn new() -> (Arc<Self>, mpsc::Receiver<IpAddr>) {
        // A full queue drops the question; the caller asks again every 250 ms while it waits.
        let (wanted, questions) = mpsc::channel(1024);
        let view = Self {
            since: Instant::now(),
            state: ArcSwapOption::empty(),
            destinations: ArcSwap::default(),
            changed: watch::Sender::new(0),
            wanted,
        };
        (Arc::new(view), questions)
    }

    /// The configuration in force.
    pub fn state(&self) -> Option<Arc<State>> {
        self.state.load_full()
    }

    /// What is known of an address; `None`: never heard of.
    pub fn destination(&self, address: IpAddr) -> Option<Arc<Destination>> {
        let all = self.destinations.load();
        let known = all.get(&address)?;
        known.used.store(self.second(), Relaxed);
        Some(known.destination.clone())
    }

    fn second(&self) -> u64 {
        self.since.elapsed().as_secs()
    }

    /// How long nobody has called an address, and whether anything is known of it; `None`: never heard of.
    pub fn unused(&self, address: IpAddr) -> Option<(Duration, bool)> {
        let all = self.destinations.load();
        let known = all.get(&address)?;
        let unused = self.second().saturating_sub(known.used.load(Relaxed));
        Some((Duration::from_secs(unused), *known.destination != Destination::Unknown))
    }

    /// Every destination known, for admin.
    pub fn destinations(&self) -> Vec<(IpAddr, Arc<Destination>)> {
        self.destinations.load().iter().map(|(address, known)| (*address, known.destination.clone())).collect()
    }

    /// Wakes at every change of configuration or destinations.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Asks the operator about an address. Does not wait.
    pub fn ask(&self, address: IpAddr) {
        // A full queue means that the operator is behind; the asker repeats until its own deadline.
        let _ = self.wanted.try_send(address);
    }

    /// Takes a configuration whole, or refuses it whole. Equal revisions with equal digests change nothing.
    pub fn apply(&self, config: &wire::Config) -> Result<(), ViewError> {
        let state = State::read(config)?;
        if let Some(held) = self.state.load().as_deref() {
            let (offered, held) = (&state.version, &held.version);
            if offered.revision < held.revision {
                return Err(ViewError::Older { offered: offered.revision, held: held.revision });
            }
            if offered.revision == held.revision && offered.digest != held.digest {
                return Err(ViewError::Conflict(offered.revision));
            }
        }
        self.state.store(Some(Arc::new(state)));
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Takes the present state of some destinations, all or none.
    pub fn learn(&self, news: &wire::Destinations) -> Result<(), ViewError> {
        let mut read = Vec::with_capacity(news.destinations.len());
        for destination in &news.destinations {
            read.push((address(&destination.address)?, Arc::new(Destination::read(destination)?)));
        }
        // The map holds pointers, and no more of them than the control stream follows: copying it is cheap.
        let mut all = HashMap::clone(&self.destinations.load());
        for (address, destination) in read {
            let used = all.get(&address).map_or_else(|| self.second(), |known| known.used.load(Relaxed));
            all.insert(address, Arc::new(Known { destination, used: used.into() }));
        }
        self.destinations.store(Arc::new(all));
        self.changed.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Forgets destinations that nobody calls any more.
    pub fn forget(&self, addresses: &[IpAddr]) {
        let mut all = HashMap::clone(&self.destinations.load());
        for address in addresses {
            all.remove(address);
        }
        self.destinations.store(Arc::new(all));
    }
}

impl State {
    fn read(config: &wire::Config) -> Result<Self, ViewError> {
        let version = config.version.clone().ok_or(ViewError::Missing("version"))?;
        let posture = config.posture.as_ref().ok_or(ViewError::Missing("posture"))?;
        let rules = config.rules.iter().map(rule).collect::<Result<Vec<_>, _>>()?;
        // A word that this program does not know denies (design section 5, point 6).
        let inbound = match posture.inbound.as_str() {
            "allow" => Posture::Allow,
            "audit" => Posture::Audit,
            "authenticated" => Posture::Authenticated,
            _ => Posture::Deny,
        };
        let exceptions = posture.egress_exceptions.iter().map(egress_exception).collect::<Result<_, _>>()?;
        // Exceptions turn the default around: of a default that this program does not know they mean nothing it could know.
        let (default, exceptions) = match posture.egress.as_str() {
            "allow" => (Decision::Allow, exceptions),
            "deny" => (Decision::Deny, exceptions),
            _ => (Decision::Deny, Vec::new()),
        };
        Ok(Self {
            version,
            workload: format!("{}/{}", config.workload_namespace, config.workload_name),
            addresses: config.addresses.iter().map(|a| address(a)).collect::<Result<_, _>>()?,
            table: Table::compile(inbound, &rules),
            rules,
            inbound,
            egress: Egress { default, exceptions },
            mesh_ranges: config.mesh_ranges.iter().map(prefix).collect::<Result<_, _>>()?,
        })
    }

    /// Whether a meshed workload could be at this address.
    pub fn may_be_meshed(&self, address: IpAddr) -> bool {
        self.mesh_ranges.iter().any(|range| range.contains(&address))
    }
}

/// Where a port of a destination leads.
#[derive(Debug, Clone, PartialEq)]
pub enum Way {
    /// To one of these.
    To(Behind),
    /// It is a Service, and has no such port.
    NoSuchPort,
    /// Nobody knows yet: inside the mesh's ranges it is not called.
    Unknown,
}

/// The ports of nodes that a cluster gives to Services, unless its API server was told otherwise: the operator lists every one
/// that it knows, so that another of them may lead into the mesh.
const NODE_PORTS: RangeInclusive<u16> = 30_000..=32_767;

impl Destination {
    /// Where what was called leads, when its address is this destination.
    pub fn way(&self, to: SocketAddr) -> Way {
        let one = |address, peer| Way::To(vec![Endpoint { address, port: to.port(), peer }].into());
        match self {
            Self::Unknown => Way::Unknown,
            Self::Unmeshed => one(to.ip(), None),
            Self::Workload(endpoint) => one(endpoint.address, endpoint.peer.clone()),
            Self::Service(ports) => ports.get(&to.port()).cloned().map_or(Way::NoSuchPort, Way::To),
            Self::Node(ports) => match ports.get(&to.port()) {
                Some(behind) => Way::To(behind.clone()),
                None if NODE_PORTS.contains(&to.port()) => Way::Unknown,
                None => one(to.ip(), None),
            },
        }
    }

    /// Whether a sidecar is behind this port, so that it must not be called in plaintext.
    pub fn is_meshed(&self, port: u16) -> bool {
        match self {
            Self::Unknown | Self::Unmeshed => false,
            Self::Workload(endpoint) => endpoint.peer.is_some(),
            Self::Service(ports) | Self::Node(ports) => {
                ports.get(&port).is_some_and(|behind| behind.all().any(|endpoint| endpoint.peer.is_some()))
            }
        }
    }

    fn read(from: &wire::Destination) -> Result<Self, ViewError> {
        Ok(match from.kind() {
            wire::Kind::Unspecified | wire::Kind::Unknown => Self::Unknown,
            wire::Kind::Unmeshed => Self::Unmeshed,
            wire::Kind::Meshed => {
                if let Some(own) = &from.any_port {
                    Self::Workload(Endpoint::read(own)?)
                } else {
                    let mut ports = HashMap::with_capacity(from.ports.len());
                    for each in &from.ports {
                        ports.insert(port(each.port)?, Behind::read(each)?);
                    }
                    if from.other_ports_unmeshed { Self::Node(ports) } else { Self::Service(ports) }
                }
            }
        })
    }
}

impl Endpoint {
    fn read(from: &wire::Endpoint) -> Result<Self, ViewError> {
        let peer = if from.spiffe_id.is_empty() {
            None
        } else {
            let speaks = |name: &str| from.framings.iter().any(|f| f == name);
            Some(Named {
                id: identity(&from.spiffe_id)?,
                uid: if from.workload_uid.is_empty() { None } else { Some(from.workload_uid.parse()?) },
                tunnel_port: if from.tunnel_port == 0 { crate::ports::TUNNEL } else { port(from.tunnel_port)? },
                h2: speaks("h2"),
                http1: speaks("http/1.1"),
            })
        };
        let port = if from.port == 0 { 0 } else { port(from.port)? };
        Ok(Self { address: address(&from.address)?, port, peer })
    }
}

fn rule(from: &wire::Rule) -> Result<WorkloadRule, ViewError> {
    let ports = if from.all_ports {
        Ports::All
    } else {
        Ports::These(from.ports.iter().map(|p| port(*p)).collect::<Result<_, _>>()?)
    };
    // Only the exact word makes a rule harmless: an unknown mode guards and admits nobody.
    let (mode, known) = match from.mode.as_str() {
        "Audit" => (Mode::Audit, true),
        "Enforce" => (Mode::Enforce, true),
        _ => (Mode::Enforce, false),
    };
    let admits = if !from.refused.is_empty() {
        Admits::Nobody(from.refused.clone())
    } else if known {
        from.sources.iter().map(source).collect::<Result<Option<Vec<_>>, _>>()?.map_or_else(
            || Admits::Nobody("it names a kind of caller that this sidecar does not know".into()),
            Admits::Sources,
        )
    } else {
        Admits::Nobody("its mode is not known to this sidecar".into())
    };
    Ok(WorkloadRule {
        key: RuleKey { namespace: from.namespace.clone(), name: from.name.clone() },
        generation: from.generation,
        ports,
        mode,
        admits,
        features: from.features.clone(),
    })
}

/// `None`: a kind of source that this program does not know.
fn source(from: &wire::Source) -> Result<Option<Source>, ViewError> {
    use wire::source::Kind;
    Ok(match &from.kind {
        Some(Kind::Identity(id)) => Some(Source::Identity(identity(id)?.as_str().to_owned())),
        Some(Kind::Namespace(n)) => {
            Some(Source::Namespace { trust_domain: n.trust_domain.clone(), namespace: n.namespace.clone() })
        }
        Some(Kind::AnyAuthenticated(true)) => Some(Source::AnyAuthenticated),
        Some(Kind::Plaintext(p)) => Some(Source::Plaintext(p.prefixes.iter().map(prefix).collect::<Result<_, _>>()?)),
        Some(Kind::AnyAuthenticated(false)) | None => None,
    })
}

fn egress_exception(from: &wire::EgressException) -> Result<EgressException, ViewError> {
    Ok(EgressException {
        network: prefix(from.prefix.as_ref().ok_or(ViewError::Missing("egress exception's prefix"))?)?,
        ports: from.ports.iter().map(|p| port(*p)).collect::<Result<_, _>>()?,
    })
}

fn identity(text: &str) -> Result<SpiffeId, ViewError> {
    text.parse().map_err(|e| ViewError::Id(text.chars().take(120).collect(), e))
}

fn port(number: u32) -> Result<u16, ViewError> {
    u16::try_from(number).ok().filter(|p| *p != 0).ok_or(ViewError::Port(number))
}

/// Reads 4 or 16 bytes; v4-mapped becomes v4.
pub fn address(bytes: &[u8]) -> Result<IpAddr, ViewError> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        Ok(Ipv4Addr::from(four).into())
    } else if let Ok(sixteen) = <[u8; 16]>::try_from(bytes) {
        Ok(IpAddr::from(Ipv6Addr::from(sixteen)).to_canonical())
    } else {
        Err(ViewError::Address(bytes.len()))
    }
}

/// The bytes of an address for the wire.
pub fn octets(address: IpAddr) -> Vec<u8> {
    match address.to_canonical() {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

fn prefix(from: &wire::Prefix) -> Result<IpNet, ViewError> {
    let length = u8::try_from(from.length).map_err(|_| ViewError::Prefix(from.length))?;
    IpNet::new(address(&from.address)?, length).map_err(|_| ViewError::Prefix(from.length))
}

#[cfg(test)]
mod tests;
