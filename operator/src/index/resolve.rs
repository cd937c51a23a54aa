//! Which rules concern which workloads, and which workloads stand behind a Service. Called by `build`.
use super::{Backend, Member, Memory};
use crate::documents::{Documents, Key, Labels, Rule, Service, Sourced, Workload, selects};
use signet_policy::model::PortRef;
use signet_policy::{Mode, Ports, WorkloadRule};
use std::collections::{BTreeMap, HashMap};

/// One port of a Service, and the workloads' ports it leads to.
#[derive(Debug)]
pub(super) struct Endpoints {
    /// The Service's own.
    pub(super) port: u16,
    /// Index of the member, and its own port.
    pub(super) to: Vec<(usize, u16)>,
}

/// Something about a rule that its author should know.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// `namespace/name`.
    pub rule: String,
    /// How many workloads it selects.
    pub workloads: usize,
    /// Whether it changes the verdict of any port.
    pub effective: bool,
    /// What there is to know; empty when all is well.
    pub remarks: Vec<String>,
}

/// The workloads that a Service selects: of its own namespace, with all labels of its selector.
pub(super) fn backend(service: &Service, members: &[Member], of_namespace: &[usize]) -> Backend {
    let chosen = of_namespace.iter().copied();
    let selected: Vec<usize> =
        chosen.filter(|at| members.get(*at).is_some_and(|m| selects(&service.selector, &m.workload.labels))).collect();
    let ports = service.ports.iter().map(|port| {
        let to = selected.iter().filter_map(|at| Some((*at, number(&port.target, &members.get(*at)?.workload)?)));
        Endpoints { port: port.port, to: to.collect() }
    });
    Backend { service: service.clone(), ports: ports.collect(), selected: selected.clone() }
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
        let (mut selected, mut touched) = (0, 0);
        for at in of_namespace {
            let (Some(workload), Some(ports)) = (workloads.get(*at).map(|w| &w.item), ports.get(*at)) else { continue };
            let asked = signet_policy::Workload { namespace: &workload.key.namespace, labels: &workload.labels, ports };
            // A rule's target names one Service: the one whose selector was looked up.
            let in_service = |_: &str| selector.as_ref().is_some_and(|(_, s)| selects(s, &workload.labels));
            let Some(compiled) = signet_policy::for_workload(rule.reading(), &asked, in_service, trust_domain) else {
                continue;
            };
            selected += 1;
            if compiled.ports != Ports::These(Vec::new())
                && let Some(of_workload) = resolved.rules.get_mut(*at)
            {
                touched += 1;
                of_workload.push(compiled);
            }
        }
        resolved.notes.push(note(rule, &key, selected, touched, remarks));
        resolved.selectors.extend(selector.map(|(service, selector)| (service.to_string(), selector)));
    }
    resolved
}

fn named(workload: &Workload) -> Vec<(String, u16)> {
    workload.ports.iter().map(|port| (port.name.clone(), port.port)).collect()
}

fn note(rule: &Rule, key: &Key, selected: usize, touched: usize, mut remarks: Vec<String>) -> Note {
    if selected == 0 {
        remarks.push("selects no workload of its namespace".into());
    } else if touched == 0 {
        remarks.push("no selected workload has a port of this name".into());
    }
    if let Some(refused) = rule.refused() {
        remarks.push(format!("refused, guards its ports and admits nobody: {refused}"));
    }
    if rule.mode() == Mode::Audit {
        remarks.push("mode Audit: changes no verdict".into());
    }
    let effective = touched > 0 && rule.mode() == Mode::Enforce;
    Note { rule: key.to_string(), workloads: selected, effective, remarks }
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
