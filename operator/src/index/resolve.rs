//! Which rules concern which workloads, and which workloads stand behind a Service. Called by `build`.
use super::reach::{self, Endpoints, Reach, Who};
use super::{Backend, Member, Memory};
use crate::documents::{Documents, Key, Labels, Listed, Rule, Service, ServicePort, Sourced, Workload, selects};
use signet_policy::model::PortRef;
use signet_policy::{Mode, Ports, WorkloadRule};
use std::collections::{BTreeMap, HashMap};

/// Something about a rule that its author should know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// `namespace/name`.
    pub rule: String,
    /// How many workloads it selects, with and without a sidecar.
    pub workloads: usize,
    /// How many of these have a sidecar.
    pub meshed: usize,
    /// Whether it changes verdicts, and of every port that it names: one that no selected workload has is most likely a mistake.
    pub effective: bool,
    /// What there is to know; empty when all is well.
    pub remarks: Vec<String>,
}

/// Who stands behind a Service: workloads of its own namespace with all labels of its selector, or in a cluster whoever is
/// listed. `whose` tells whose a listed address is, at a port.
pub(super) fn backend(
    service: &Service,
    members: &[Member],
    of_namespace: &[usize],
    whose: impl Fn(&Listed, u16) -> Option<Who>,
) -> Backend {
    let chosen = of_namespace.iter().copied();
    let mut selected: Vec<usize> =
        chosen.filter(|at| members.get(*at).is_some_and(|m| selects(&service.selector, &m.workload.labels))).collect();
    let mut nobody = selected.is_empty();
    let ports = if let Some(cluster) = &service.cluster {
        let (ports, unknown) = reach::listed(service.ports.iter().map(|port| port.port), cluster, whose);
        selected.extend(ports.iter().flat_map(|port| &port.to).filter_map(|reach| reach.who.member()));
        selected.sort_unstable();
        selected.dedup();
        // Without a selector nobody in the mesh is meant; with one, its workloads may be about to come.
        nobody = unknown || (cluster.endpoints.is_empty() && selected.is_empty() && !service.selector.is_empty());
        ports
    } else {
        let port = |port: &ServicePort| {
            let to = selected
                .iter()
                .filter_map(|at| Some(Reach::member(*at, number(&port.target, &members.get(*at)?.workload)?)));
            Endpoints { port: port.port, to: to.collect() }
        };
        service.ports.iter().map(port).collect()
    };
    let meshed = selected.iter().any(|at| members.get(*at).is_some_and(|member| member.workload.meshed));
    Backend { service: service.clone(), ports, selected, unmeshed: !meshed && !nobody }
}

/// A Service's target port as a number of one workload: names are the workload's own; one that it lacks leads nowhere.
fn number(reference: &PortRef, workload: &Workload) -> Option<u16> {
    match reference {
        PortRef::Number(port) => Some(*port),
        PortRef::Name(name) => workload.ports.iter().find(|port| &port.name == name).map(|port| port.port),
    }
}

/// The rules of every workload, by its place in `workloads`, with what is worth knowing about each rule, and the selectors
/// to remember.
pub(super) struct Resolved {
    pub(super) rules: Vec<Vec<WorkloadRule>>,
    pub(super) notes: Vec<Note>,
    pub(super) selectors: BTreeMap<String, Labels>,
}

/// Resolves every rule; what a target means is decided in `policy`. A rule never looks beyond its own namespace (F10).
pub(super) fn rules(
    documents: &Documents,
    workloads: &[&Sourced<Workload>],
    namespaces: &HashMap<&str, Vec<usize>>,
    trust_domain: &str,
    memory: &Memory,
) -> Resolved {
    let services: HashMap<&Key, &Service> = documents.services.iter().map(|s| (&s.item.key, &s.item)).collect();
    let ports: Vec<Vec<(String, u16)>> = workloads.iter().map(|w| named(&w.item)).collect();
    let mut resolved =
        Resolved { rules: vec![Vec::new(); workloads.len()], notes: Vec::new(), selectors: BTreeMap::new() };
    let mut sorted: Vec<&Rule> = documents.rules.iter().map(|rule| &rule.item).collect();
    sorted.sort_by_cached_key(|rule| rule.key());
    for rule in sorted {
        let key = rule.key();
        let mut remarks = Vec::new();
        let selector = service_selector(rule, &key, &services, memory, &mut remarks);
        let of_namespace = namespaces.get(key.namespace.as_str()).map_or(&[][..], Vec::as_slice);
        let (mut selected, mut touched, mut meshed) = (0, 0, Vec::new());
        for at in of_namespace {
            let (Some(workload), Some(ports)) = (workloads.get(*at).map(|w| &w.item), ports.get(*at)) else { continue };
            let asked = signet_policy::Workload { namespace: &workload.key.namespace, labels: &workload.labels, ports };
            // A rule's target names one Service: the one whose selector was looked up.
            let in_service = |_: &str| selector.as_ref().is_some_and(|(_, s)| selects(s, &workload.labels));
            let Some(compiled) = signet_policy::for_workload(rule.reading(), &asked, in_service, trust_domain) else {
                continue;
            };
            selected += 1;
            if workload.meshed {
                meshed.push(ports.as_slice());
            }
            if compiled.ports != Ports::These(Vec::new())
                && let Some(of_workload) = resolved.rules.get_mut(*at)
            {
                touched += usize::from(workload.meshed);
                of_workload.push(compiled);
            }
        }
        let found = Found { selected, touched, meshed: &meshed };
        resolved.notes.push(note(rule, &key, &found, remarks));
        resolved.selectors.extend(selector.map(|(service, selector)| (service.to_string(), selector)));
    }
    resolved
}

fn named(workload: &Workload) -> Vec<(String, u16)> {
    workload.ports.iter().map(|port| (port.name.clone(), port.port)).collect()
}

/// What a rule was found to concern.
struct Found<'a> {
    /// Workloads with and without a sidecar.
    selected: usize,
    /// Those with a sidecar: the ports of each.
    meshed: &'a [&'a [(String, u16)]],
    /// Those with a sidecar that have it in their configuration.
    touched: usize,
}

fn note(rule: &Rule, key: &Key, found: &Found<'_>, mut remarks: Vec<String>) -> Note {
    let Found { selected, touched, meshed: ports } = *found;
    let meshed = ports.len();
    if selected > meshed {
        remarks.push(format!(
            "{} of {selected} selected workloads have no sidecar and are not protected",
            selected - meshed
        ));
    }
    let mut nobodys = Vec::new();
    if selected == 0 {
        remarks.push("selects no workload of its namespace".into());
    } else if meshed > 0 {
        nobodys = rule.target().ports_of_nobody(ports);
    }
    remarks.extend(nobodys.iter().map(|port| match port {
        PortRef::Name(name) => format!("no selected workload has a port with the name {name}"),
        PortRef::Number(number) => format!(
            "no selected workload declares the port {number}, which is guarded all the same (a rule names the workload's own \
             ports, not the Service's)"
        ),
    }));
    if let Some(refused) = rule.refused() {
        remarks.push(format!("refused, guards its ports and admits nobody: {refused}"));
    }
    if rule.mode() == Mode::Audit {
        remarks.push("mode Audit: changes no verdict".into());
    }
    let effective = touched > 0 && nobodys.is_empty() && rule.mode() == Mode::Enforce;
    Note { rule: key.to_string(), workloads: selected, meshed, effective, remarks }
}

/// The selector of the Service that a rule targets: its present one, or while it is missing the last one, so that the guard
/// does not vanish because another object does.
fn service_selector(
    rule: &Rule,
    key: &Key,
    services: &HashMap<&Key, &Service>,
    memory: &Memory,
    remarks: &mut Vec<String>,
) -> Option<(Key, Labels)> {
    let name = rule.target().service.as_ref()?;
    let service = Key { namespace: key.namespace.clone(), name: name.clone() };
    let present = services.get(&service).map(|service| &service.selector);
    let selector = present.or_else(|| memory.selector(&service));
    if present.is_none() {
        let rest = if selector.is_some() { "; its last selector stays in force" } else { " and never did" };
        remarks.push(format!("Service {service} does not exist{rest}"));
    }
    selector.map(|selector| (service, selector.clone()))
}
