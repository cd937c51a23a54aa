//! Which of a workload's ports a rule concerns. Called by the operator for every workload and rule, and by the command line's
//! `explain`, so that both mean the same by a target.
use crate::compile::{Admits, Ports, RuleKey, WorkloadRule, sources};
use crate::model::{Metadata, PortRef, Target};
use crate::validate::Reading;
use std::collections::BTreeMap;

/// What a target can ask about a workload.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its own ports by name; several may share a number, and a name given twice means each of them.
    pub ports: &'a [(String, u16)],
}

/// The rule as it concerns this workload; `None` when it does not, and always when the namespaces differ (F10).
/// `in_service` says whether a Service of the workload's namespace selects the workload.
pub fn for_workload(
    reading: &Reading,
    workload: &Workload<'_>,
    in_service: impl FnOnce(&str) -> bool,
    trust_domain: &str,
) -> Option<WorkloadRule> {
    let (metadata, target, mode) = match reading {
        Reading::Rule(rule) => (&rule.metadata, &rule.spec.target, rule.spec.mode),
        Reading::GuardOnly { metadata, target, mode, .. } => (metadata, target, *mode),
        Reading::Refused { .. } => return None,
    };
    if !concerns(metadata, target, workload, in_service) {
        return None;
    }
    let (admits, features) = match reading {
        Reading::Rule(rule) => {
            let (sources, features) = sources(rule, trust_domain);
            (Admits::Sources(sources), features)
        }
        Reading::GuardOnly { problems, .. } | Reading::Refused { problems } => {
            let first = problems.first().map_or_else(|| "refused".to_owned(), ToString::to_string);
            (Admits::Nobody(first), Vec::new())
        }
    };
    Some(WorkloadRule {
        key: RuleKey { namespace: metadata.namespace.clone(), name: metadata.name.clone() },
        generation: u64::try_from(metadata.generation).unwrap_or(0),
        ports: target.ports_of(workload.ports),
        mode,
        admits,
        features,
    })
}

fn concerns(
    metadata: &Metadata,
    target: &Target,
    workload: &Workload<'_>,
    in_service: impl FnOnce(&str) -> bool,
) -> bool {
    if metadata.namespace != workload.namespace {
        return false;
    }
    match (&target.service, &target.pod_selector, target.all) {
        (Some(service), None, None) => in_service(service),
        (None, Some(selector), None) => selector.matches(workload.labels),
        (None, None, Some(all)) => all,
        _ => false,
    }
}

impl Target {
    /// The ports it names among a workload's own (name, number): numbers as they are, whether the workload declares them or not;
    /// names that the workload lacks are left out. Sorted.
    pub fn ports_of(&self, named: &[(String, u16)]) -> Ports {
        let Some(wanted) = &self.ports else { return Ports::All };
        let mut ports: Vec<u16> = wanted
            .iter()
            .flat_map(|port| {
                let number = if let PortRef::Number(number) = port { Some(*number) } else { None };
                let by_name = named.iter().filter(move |(name, _)| matches!(port, PortRef::Name(want) if want == name));
                number.into_iter().chain(by_name.map(|(_, number)| *number))
            })
            .collect();
        ports.sort_unstable();
        ports.dedup();
        Ports::These(ports)
    }
}

impl Target {
    /// The ports it names that none of the selected workloads has, given the ports (name, number) that each declares. A port need
    /// not be declared to be served: a workload that declares none may have every number. Where others are declared it is most
    /// likely a mistake, such as the Service's port in place of the workload's own.
    pub fn ports_of_nobody(&self, selected: &[&[(String, u16)]]) -> Vec<&PortRef> {
        let has = |port: &PortRef, declared: &[(String, u16)]| match port {
            PortRef::Name(wanted) => declared.iter().any(|(name, _)| name == wanted),
            PortRef::Number(wanted) => declared.is_empty() || declared.iter().any(|(_, number)| number == wanted),
        };
        let named = self.ports.iter().flatten();
        named.filter(|port| !selected.iter().any(|declared| has(port, declared))).collect()
    }
}

#[cfg(test)]
mod tests;
