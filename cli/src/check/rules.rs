//! Rules: what their status says, and by own look with the mesh's own reading those that select nothing or name ports that
//! nobody has.
use super::facts::Facts;
use super::pods;
use super::report::{Finding, counted, some};
use crate::cluster::{Lack, Read};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use serde_json::Value;
use signet_policy::Reading;
use signet_policy::model::PortRef;
use std::collections::BTreeMap;

/// A rule's name for people.
fn named(rule: &Value) -> String {
    let part = |name: &str| rule.pointer(&format!("/metadata/{name}")).and_then(Value::as_str).unwrap_or("?");
    format!("{}/{}", part("namespace"), part("name"))
}

/// One condition of a rule's status, if it is about the present generation.
fn condition<'a>(rule: &'a Value, kind: &str) -> Option<(&'a str, &'a str, &'a str)> {
    let generation = rule.pointer("/metadata/generation").and_then(Value::as_i64);
    let conditions = rule.pointer("/status/conditions").and_then(Value::as_array)?;
    let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
    if condition["observedGeneration"].as_i64() != generation {
        return None;
    }
    Some((condition["status"].as_str()?, condition["reason"].as_str()?, condition["message"].as_str()?))
}

/// What the operator says.
pub(super) fn status(facts: &Facts) -> Finding {
    const ID: &str = "rules.status";
    let rules = match &facts.rules {
        Ok(rules) => rules,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let mut refused = Vec::new();
    let mut pending = Vec::new();
    for rule in rules {
        let name = named(rule);
        match condition(rule, "Accepted") {
            None => pending.push(format!("{name} (the operator has not judged its present form)")),
            Some(("False", _, message)) => refused.push(format!("{name} ({message})")),
            Some(_) => {}
        }
        if let Some((state @ ("False" | "Unknown"), reason, message)) = condition(rule, "Programmed")
            && reason != "NotUnderstood"
        {
            pending.push(format!("{name} (Programmed is {state}: {message})"));
        }
    }
    let describe = |about: &str| {
        let name = about.split(' ').next().unwrap_or_default();
        let (namespace, name) = name.split_once('/').unwrap_or(("", name));
        format!("kubectl -n {namespace} describe allowrule {name}")
    };
    let objects = |about: &[String]| {
        about.iter().map(|about| about.split(' ').next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    if let Some(first) = refused.first() {
        let found = format!("refused: {}", some(refused.iter().map(String::as_str)));
        return Finding::fail(ID, found, describe(first)).about(objects(&refused));
    }
    if let Some(first) = pending.first() {
        let found = format!("not in force everywhere yet: {}", some(pending.iter().map(String::as_str)));
        return Finding::warn(
            ID,
            found,
            format!("{}; see operator.health and pods.ready if it stays so", describe(first)),
        )
        .about(objects(&pending));
    }
    let sum = if rules.is_empty() {
        "there are no rules".to_owned()
    } else {
        format!("{} accepted and in force", counted(rules.len(), "rule"))
    };
    Finding::ok(ID, sum)
}

/// Own look: whom a rule selects, and whether they have its ports.
pub(super) fn targets(facts: &Facts) -> Finding {
    const ID: &str = "rules.targets";
    let (rules, selected) = match (&facts.rules, Meshed::new(facts)) {
        (Ok(rules), Ok(meshed)) => (rules, meshed),
        (Err(lack), _) => return Finding::lacking(ID, lack),
        (_, Err(lack)) => return Finding::lacking(ID, &lack),
    };
    let mut idle = Vec::new();
    for rule in rules {
        let name = named(rule);
        for why in selected.idle(&signet_policy::validate::read(rule), &name) {
            idle.push((name.clone(), why));
        }
    }
    let Some((first, _)) = idle.first() else {
        return Finding::ok(
            ID,
            format!("{}: each selects pods with a sidecar that have its ports", counted(rules.len(), "rule")),
        );
    };
    let (namespace, rule) = first.split_once('/').unwrap_or(("", first));
    let said: Vec<String> = idle.iter().map(|(name, why)| format!("{name} {why}")).collect();
    let hint =
        format!("kubectl -n {namespace} get pods --show-labels; then kubectl -n {namespace} edit allowrule {rule}");
    let objects: Vec<String> = idle.iter().map(|(name, _)| name.clone()).collect();
    Finding::warn(ID, some(said.iter().map(String::as_str)), hint).about(objects)
}

/// A pod as a target sees it.
struct Seen {
    namespace: String,
    labels: BTreeMap<String, String>,
    ports: Vec<(String, u16)>,
    meshed: bool,
}

struct Meshed {
    pods: Vec<Seen>,
    /// Selectors by `namespace/name`.
    services: BTreeMap<String, BTreeMap<String, String>>,
}

impl Meshed {
    fn new(facts: &Facts) -> Read<Self> {
        let pods = facts.pods.as_ref().map_err(Lack::clone)?;
        let services = facts.services.as_ref().map_err(Lack::clone)?;
        let seen = |pod: &Pod| Seen {
            namespace: pod.namespace().unwrap_or_default(),
            labels: pod.labels().clone(),
            ports: ports(pod),
            meshed: pods::has_sidecar(pod),
        };
        let selector = |service: &k8s_openapi::api::core::v1::Service| {
            let name = format!("{}/{}", service.namespace().unwrap_or_default(), service.name_any());
            (name, service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default())
        };
        Ok(Self {
            pods: pods.iter().filter(|pod| pods::is_alive(pod)).map(seen).collect(),
            services: services.iter().map(selector).collect(),
        })
    }

    /// Why a rule, or one of its ports, does nothing.
    fn idle(&self, reading: &Reading, name: &str) -> Vec<String> {
        let (metadata, target) = match reading {
            Reading::Rule(rule) => (&rule.metadata, &rule.spec.target),
            Reading::GuardOnly { metadata, target, .. } => (metadata, target),
            // Said by its status.
            Reading::Refused { .. } => return Vec::new(),
        };
        let namespace = name.split('/').next().unwrap_or_default();
        if let Some(service) = &target.service
            && !self.services.contains_key(&format!("{namespace}/{service}"))
        {
            return vec![format!("targets the Service {service}, which does not exist")];
        }
        let selects = |pod: &&Seen| {
            let asked = signet_policy::Workload { namespace: &pod.namespace, labels: &pod.labels, ports: &pod.ports };
            let in_service = |service: &str| {
                let selector = self.services.get(&format!("{}/{service}", pod.namespace));
                selector
                    .is_some_and(|s| !s.is_empty() && s.iter().all(|(key, value)| pod.labels.get(key) == Some(value)))
            };
            // The trust domain decides about callers, and here nobody calls.
            metadata.namespace == pod.namespace
                && signet_policy::for_workload(reading, &asked, in_service, "mesh.invalid").is_some()
        };
        let all: Vec<&Seen> = self.pods.iter().filter(selects).collect();
        let meshed: Vec<&Seen> = all.iter().copied().filter(|pod| pod.meshed).collect();
        if all.is_empty() {
            return vec!["selects no pod".to_owned()];
        }
        if meshed.is_empty() {
            return vec![format!("selects {} and none of them has a sidecar", counted(all.len(), "pod"))];
        }
        let declared: Vec<&[(String, u16)]> = meshed.iter().map(|pod| pod.ports.as_slice()).collect();
        let why = |port: &PortRef| {
            let port = match port {
                PortRef::Name(name) => name.clone(),
                PortRef::Number(number) => number.to_string(),
            };
            format!(
                "names the port {port}, which none of its pods declares (ports are the pod's own, not the Service's)"
            )
        };
        target.ports_of_nobody(&declared).into_iter().map(why).collect()
    }
}

/// The TCP ports that a pod's containers declare, but the sidecar's.
pub(super) fn ports(pod: &Pod) -> Vec<(String, u16)> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(|container| {
        container.restart_policy.as_deref() == Some("Always") && container.name != crate::cluster::SIDECAR
    }));
    let declared = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = declared.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| Some((port.name.clone().unwrap_or_default(), u16::try_from(port.container_port).ok()?)))
        .collect()
}
