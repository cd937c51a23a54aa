//! Which rules concern which workloads, and which workloads stand behind a Service. Called by `build`.
use super::{Backend, IndexError, Member, Memory};
use crate::documents::{Documents, Key, Labels, Rule, Service, Sourced, Workload, selects};
use signet_policy::model::{PortRef, Selector, Target};
use signet_policy::{Admits, Mode, Ports, RuleKey, WorkloadRule};
use std::collections::{BTreeMap, BTreeSet, HashMap};

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

/// A port reference as a number of one workload: names are its own; one that it lacks is nothing.
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

/// Resolves every rule. A rule never looks beyond its own namespace (F10).
pub(super) fn rules(
    documents: &Documents,
    workloads: &[&Sourced<Workload>],
    namespaces: &HashMap<&str, Vec<usize>>,
    trust_domain: &str,
    memory: &Memory,
) -> Result<Resolved, IndexError> {
    let services: HashMap<&Key, &Service> = documents.services.iter().map(|s| (&s.item.key, &s.item)).collect();
    let mut resolved =
        Resolved { rules: vec![Vec::new(); workloads.len()], notes: Vec::new(), selectors: BTreeMap::new() };
    let mut sorted: Vec<&Rule> = documents.rules.iter().map(|rule| &rule.item).collect();
    sorted.sort_by_key(|rule| rule.key());
    for rule in sorted {
        let key = rule.key();
        let mut remarks = Vec::new();
        let choice = choice(rule.target(), &key, &services, memory, &mut resolved.selectors, &mut remarks)?;
        let of_namespace = namespaces.get(key.namespace.as_str()).map_or(&[][..], Vec::as_slice);
        let mut selected = 0;
        let mut touched = 0;
        for at in of_namespace {
            let Some(workload) = workloads.get(*at).map(|w| &w.item) else { continue };
            if !choice.takes(&workload.labels) {
                continue;
            }
            selected += 1;
            let ports = ports(rule.target(), workload);
            if ports != Ports::These(Vec::new())
                && let Some(of_workload) = resolved.rules.get_mut(*at)
            {
                touched += 1;
                of_workload.push(compile(rule, &key, ports, trust_domain));
            }
        }
        resolved.notes.push(note(rule, &key, selected, touched, remarks));
    }
    Ok(resolved)
}

fn note(rule: &Rule, key: &Key, selected: usize, touched: usize, mut remarks: Vec<String>) -> Note {
    if selected == 0 {
        remarks.push("selects no workload of its namespace".into());
    } else if touched == 0 {
        remarks.push("no selected workload has a port of this name".into());
    }
    if let Rule::Guard { refused, .. } = rule {
        remarks.push(format!("refused, guards its ports and admits nobody: {refused}"));
    }
    if rule.mode() == Mode::Audit {
        remarks.push("mode Audit: changes no verdict".into());
    }
    let effective = touched > 0 && rule.mode() == Mode::Enforce;
    Note { rule: key.to_string(), workloads: selected, effective, remarks }
}

/// How a target chooses workloads.
enum Choice<'a> {
    All,
    Labels(&'a Selector),
    Service(Labels),
    Nothing,
}

impl Choice<'_> {
    fn takes(&self, labels: &Labels) -> bool {
        match self {
            Self::All => true,
            Self::Labels(selector) => selector.matches(labels),
            Self::Service(selector) => selects(selector, labels),
            Self::Nothing => false,
        }
    }
}

fn choice<'a>(
    target: &'a Target,
    rule: &Key,
    services: &HashMap<&Key, &Service>,
    memory: &Memory,
    remember: &mut BTreeMap<String, Labels>,
    remarks: &mut Vec<String>,
) -> Result<Choice<'a>, IndexError> {
    match (&target.service, &target.pod_selector, target.all) {
        (None, None, Some(true)) => Ok(Choice::All),
        (None, Some(selector), None) => Ok(Choice::Labels(selector)),
        (Some(name), None, None) => {
            let key = Key { namespace: rule.namespace.clone(), name: name.clone() };
            let present = services.get(&key).map(|service| &service.selector);
            let selector = present.or_else(|| memory.selector(&key));
            if present.is_none() {
                let rest = if selector.is_some() { "; its last selector stays in force" } else { " and never did" };
                remarks.push(format!("Service {key} does not exist{rest}"));
            }
            Ok(selector.map_or(Choice::Nothing, |selector| {
                remember.insert(key.to_string(), selector.clone());
                Choice::Service(selector.clone())
            }))
        }
        // `policy` refuses such targets; were one to come through, no reading of it would be safe.
        _ => Err(IndexError::Target(rule.to_string())),
    }
}

fn ports(target: &Target, workload: &Workload) -> Ports {
    target.ports.as_ref().map_or(Ports::All, |ports| {
        let numbers: BTreeSet<u16> = ports.iter().filter_map(|reference| number(reference, workload)).collect();
        Ports::These(numbers.into_iter().collect())
    })
}

fn compile(rule: &Rule, key: &Key, ports: Ports, trust_domain: &str) -> WorkloadRule {
    let (admits, features) = match rule {
        Rule::Good(rule) => {
            let (sources, features) = signet_policy::compile::sources(rule, trust_domain);
            (Admits::Sources(sources), features)
        }
        Rule::Guard { refused, .. } => (Admits::Nobody(refused.clone()), Vec::new()),
    };
    WorkloadRule {
        key: RuleKey { namespace: key.namespace.clone(), name: key.name.clone() },
        generation: u64::try_from(rule.metadata().generation).unwrap_or(0),
        ports,
        mode: rule.mode(),
        admits,
        features,
    }
}
