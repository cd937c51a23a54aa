//! Who stands behind the ports of a Service, and which of them one asker should call. In a cluster the sidecar takes
//! kube-proxy's place, and this is kube-proxy's choice (`CategorizeEndpoints`): ready endpoints before those that end, the
//! caller's own node when the Service says so, hints about nodes and zones, and one endpoint for a caller with session affinity.
use super::Member;
use crate::documents::{ClusterService, Listed, Locality, Service};
use aws_lc_rs::digest::{SHA256, digest};
use std::collections::HashMap;
use std::net::IpAddr;

/// One port of a Service, and where it leads.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// The Service's own.
    pub(super) port: u16,
    /// Everybody behind it.
    pub(super) to: Vec<Reach>,
}

/// One endpoint.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    pub(super) who: Who,
    /// The endpoint's own port.
    pub(super) port: u16,
    ending: bool,
    node: String,
    for_nodes: Vec<String>,
    for_zones: Vec<String>,
}

/// Whose an endpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// A workload of the index, at whichever of its addresses fits.
    Member(usize),
    /// A workload of the index at one address.
    MemberAt(usize, IpAddr),
    /// Nobody of the mesh.
    Plain(IpAddr),
}

/// The endpoints for one asker.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    /// Whom to call. With session affinity one: that of an asker which has not called yet.
    pub(super) endpoints: Vec<&'a Reach>,
    /// With session affinity: those that an asker keeps which called them before, in a fixed order.
    pub(super) others: Vec<&'a Reach>,
    /// How long after its last call; 0: no affinity.
    pub(super) affinity_seconds: u32,
}

impl<'a> Chosen<'a> {
    fn any(endpoints: Vec<&'a Reach>) -> Self {
        Self { endpoints, others: Vec::new(), affinity_seconds: 0 }
    }
}

impl Who {
    pub(super) fn member(self) -> Option<usize> {
        match self {
            Self::Member(at) | Self::MemberAt(at, _) => Some(at),
            Self::Plain(_) => None,
        }
    }
    fn address(self) -> Option<IpAddr> {
        match self {
            Self::Member(_) => None,
            Self::MemberAt(_, address) | Self::Plain(address) => Some(address),
        }
    }
}

impl Reach {
    /// It is meant for callers of some nodes or zones.
    pub(super) fn is_hinted(&self) -> bool {
        !self.for_nodes.is_empty() || !self.for_zones.is_empty()
    }
    /// A workload that a document's selector selects: always as good as any other.
    pub(super) fn member(at: usize, port: u16) -> Self {
        let (node, for_nodes, for_zones) = (String::new(), Vec::new(), Vec::new());
        Self { who: Who::Member(at), port, ending: false, node, for_nodes, for_zones }
    }
}

/// The ports of a cluster's Service. `whose` decides by the address and the port at it: nothing for one that the index should
/// know and does not, which is no endpoint for anybody (unknown is not unmeshed). Says also whether there was such a one.
pub(super) fn listed(
    ports: impl Iterator<Item = u16>,
    service: &ClusterService,
    whose: impl Fn(&Listed, u16) -> Option<Who>,
) -> (Vec<Endpoints>, bool) {
    let mut unknown = false;
    let mut by_port: HashMap<u16, Vec<Reach>> = HashMap::new();
    for listed in &service.endpoints {
        for (port, target) in &listed.ports {
            let Some(who) = whose(listed, *target) else {
                unknown = true;
                continue;
            };
            by_port.entry(*port).or_default().push(Reach {
                who,
                port: *target,
                ending: listed.ending,
                node: listed.node.clone(),
                for_nodes: listed.for_nodes.clone(),
                for_zones: listed.for_zones.clone(),
            });
        }
    }
    let ports = ports.map(|port| Endpoints { port, to: by_port.get(&port).cloned().unwrap_or_default() });
    (ports.collect(), unknown)
}

/// The endpoints that `asker` should call when it calls this address of a Service, in a fixed order: those of its family.
/// `internalTrafficPolicy` is about the Service's own addresses alone: what a pod calls at a port of a node or at a load
/// balancer's address goes wherever there is an endpoint, whatever `externalTrafficPolicy` says to callers from outside.
pub(super) fn for_asker<'a>(all: &'a [Reach], service: &Service, asker: &Member, address: IpAddr) -> Chosen<'a> {
    let v4 = address.is_ipv4();
    let of_family = all.iter().filter(|reach| reach.who.address().is_none_or(|address| address.is_ipv4() == v4));
    let Some(cluster) = &service.cluster else { return Chosen::any(of_family.collect()) };
    let local = cluster.local && service.addresses.contains(&address);
    let place = &asker.workload.place;
    let near: Vec<&Reach> = of_family.filter(|reach| !local || reach.node == place.node).collect();
    let ready: Vec<&Reach> = near.iter().copied().filter(|reach| !reach.ending).collect();
    let chosen = match (ready.is_empty(), local) {
        (true, _) => near,
        (false, true) => ready,
        (false, false) => hinted(ready, place),
    };
    let Some(seconds) = cluster.sticky else { return Chosen::any(chosen) };
    // The same answer on every replica, and another only for the callers of an endpoint that comes or goes.
    let caller = asker.workload.uid.as_ref().map_or_else(|| asker.workload.key.to_string(), ToString::to_string);
    let best = chosen.iter().copied().max_by_key(|reach| weight(&caller, reach));
    let others = chosen.into_iter().filter(|reach| best.is_none_or(|best| !std::ptr::eq(best, *reach))).collect();
    Chosen { endpoints: best.into_iter().collect(), others, affinity_seconds: seconds }
}

/// `trafficDistribution`: hints count only when every endpoint has them and one is meant for the caller.
fn hinted<'a>(ready: Vec<&'a Reach>, place: &Locality) -> Vec<&'a Reach> {
    let by = |hints: fn(&Reach) -> &Vec<String>, own: &String| -> Option<Vec<&'a Reach>> {
        if own.is_empty() || ready.iter().any(|reach| hints(reach).is_empty()) {
            return None;
        }
        let meant: Vec<&Reach> = ready.iter().copied().filter(|reach| hints(reach).contains(own)).collect();
        (!meant.is_empty()).then_some(meant)
    };
    by(|reach| &reach.for_nodes, &place.node).or_else(|| by(|reach| &reach.for_zones, &place.zone)).unwrap_or(ready)
}

/// Highest random weight (rendezvous hashing).
fn weight(caller: &str, reach: &Reach) -> Vec<u8> {
    let endpoint = format!("{caller} {:?} {}", reach.who.address(), reach.port);
    digest(&SHA256, endpoint.as_bytes()).as_ref().to_vec()
}
