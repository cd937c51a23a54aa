//! What is said of each rule in its status. Plain and synchronous: a view of what is in force and what sidecars have
//! acknowledged go in, statuses come out. `writer` decides when one is written.
use super::objects::Rule;
use super::translate::{Objects, targeted};
use crate::crd::{Condition, LastService, RuleStatus};
use crate::documents::Key;
use crate::index::{Memory, Note, Snapshot};
use signet_policy::model::{PortRef, Target};
use signet_policy::{Mode, Reading};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// Bounds of the schema, in characters.
const MAX_MESSAGE: usize = 4096;
const MAX_TARGET: usize = 512;
/// `lastMatched` is written anew only when it has moved this much, in seconds: it would be written all the time otherwise.
const MATCHED_STEP: i64 = 60;

/// Everything about rules that follows from what is in force.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// By namespace and name.
    pub rules: BTreeMap<Key, RuleView>,
    /// What is in force.
    pub snapshot: Arc<Snapshot>,
    /// The operators that serve: their pods, and UIDs.
    pub replicas: BTreeMap<Key, String>,
}

/// One rule.
#[derive(Debug, Clone)]
pub struct RuleView {
    /// As the API server has it.
    pub rule: Rule,
    /// What the index knows of it; absent for one that was refused whole.
    pub note: Option<Note>,
    /// The meshed workloads that have it in their configuration: UID, and digest of that configuration.
    pub workloads: Arc<[(String, String)]>,
    /// The Service it targets, as it is or was.
    pub service: Option<LastService>,
}

/// What sidecars have in force: digest of the configuration, by UID; and when rules last matched, in seconds since 1970.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// By UID.
    pub digests: HashMap<String, String>,
    /// By rule.
    pub matched: HashMap<Key, i64>,
}

impl Acknowledged {
    /// Adds what another replica knows.
    pub fn merge(&mut self, other: &Self) {
        self.digests.extend(other.digests.iter().map(|(uid, digest)| (uid.clone(), digest.clone())));
        for (rule, at) in &other.matched {
            let known = self.matched.entry(rule.clone()).or_insert(*at);
            *known = (*known).max(*at);
        }
    }
}

impl View {
    /// What follows from the objects and the snapshot that was built of them.
    pub fn new(objects: &Objects, memory: &Memory, snapshot: Arc<Snapshot>, control_namespace: &str) -> Self {
        let notes: HashMap<&str, &Note> = snapshot.notes().iter().map(|note| (note.rule.as_str(), note)).collect();
        let mut workloads: HashMap<Key, Vec<(String, String)>> = HashMap::new();
        for member in snapshot.members().filter(|member| member.workload.meshed) {
            let uid = member.workload.uid.as_ref().map(ToString::to_string).unwrap_or_default();
            for rule in &member.rules {
                let key = Key { namespace: rule.key.namespace.clone(), name: rule.key.name.clone() };
                workloads.entry(key).or_default().push((uid.clone(), snapshot.digest(member).to_owned()));
            }
        }
        let view = |key: &Key, rule: &Rule| {
            let service = targeted(&rule.reading).and_then(|name| {
                let service = Key { namespace: key.namespace.clone(), name: name.to_owned() };
                let selector = memory.selectors.get(&service.to_string())?.clone();
                Some(LastService { name: name.to_owned(), selector })
            });
            let note = notes.get(key.to_string().as_str()).map(|note| (*note).clone());
            let workloads = workloads.remove(key).unwrap_or_default().into();
            RuleView { rule: rule.clone(), note, workloads, service }
        };
        let mut view = view;
        let rules = objects.rules.iter().map(|(key, rule)| (key.clone(), view(key, rule))).collect();
        let operators =
            objects.pods.iter().filter(|(key, pod)| key.namespace == control_namespace && pod.account == OPERATOR);
        let replicas = operators.filter(|(_, pod)| pod.ready);
        let replicas = replicas.map(|(key, pod)| (key.clone(), pod.uid.clone())).collect();
        Self { rules, snapshot, replicas }
    }

    /// Reads again what was written about the rules, which themselves are the same.
    pub fn read_statuses(&mut self, objects: &Objects) {
        for (key, view) in &mut self.rules {
            if let Some(rule) = objects.rules.get(key).filter(|rule| rule.status != view.rule.status) {
                view.rule.status.clone_from(&rule.status);
            }
        }
    }
}

/// The service account of operators in the control namespace.
pub const OPERATOR: &str = "signet-operator";

impl RuleView {
    /// The status that the rule should have. `complete`: every replica has said what it knows. `now` in RFC 3339.
    pub fn status(&self, own: &Key, known: &Acknowledged, complete: bool, now: &str) -> RuleStatus {
        let held = |(uid, digest): &&(String, String)| known.digests.get(uid) == Some(digest);
        let acknowledged = self.workloads.iter().filter(held).count();
        let conditions = [self.accepted(), self.programmed(acknowledged, complete), self.effective()];
        let (target, mode) = described(&self.rule.reading);
        let before = &self.rule.status;
        RuleStatus {
            observed_generation: self.rule.generation,
            target,
            mode,
            workloads: count(self.workloads.len()),
            acknowledged: count(acknowledged),
            last_matched: matched(before.last_matched.as_deref(), known.matched.get(own).copied()),
            service: self.service.clone(),
            conditions: conditions
                .into_iter()
                .map(|(kind, status, reason, message)| {
                    let held = before.conditions.iter().find(|held| held.kind == kind && held.status == status);
                    Condition {
                        kind: kind.into(),
                        status: status.into(),
                        observed_generation: self.rule.generation,
                        last_transition_time: held.map_or_else(|| now.into(), |held| held.last_transition_time.clone()),
                        reason: reason.into(),
                        message: message.chars().take(MAX_MESSAGE).collect(),
                    }
                })
                .collect(),
        }
    }

    fn accepted(&self) -> (&'static str, &'static str, &'static str, String) {
        let problems = self.rule.reading.problems();
        if problems.is_empty() {
            return ("Accepted", "True", "Valid", "the rule could be read".into());
        }
        let said: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let (reason, then) = match self.rule.reading {
            Reading::GuardOnly { .. } => ("GuardsOnly", "its ports stay guarded, and it admits nobody"),
            _ => ("NotUnderstood", "it is not known what it protects, so it does nothing"),
        };
        ("Accepted", "False", reason, format!("{then}: {}", said.join("; ")))
    }

    fn programmed(&self, acknowledged: usize, complete: bool) -> (&'static str, &'static str, &'static str, String) {
        let all = self.workloads.len();
        let message = format!("{acknowledged} of {all} workloads have this generation in force");
        if matches!(self.rule.reading, Reading::Refused { .. }) {
            ("Programmed", "False", "NotUnderstood", "there is nothing to enforce".into())
        } else if acknowledged == all {
            ("Programmed", "True", if all == 0 { "NothingSelected" } else { "InForce" }, message)
        } else if complete {
            ("Programmed", "False", "Pending", message)
        } else {
            ("Programmed", "Unknown", "ReplicasPending", format!("{message}; not every operator has reported"))
        }
    }

    fn effective(&self) -> (&'static str, &'static str, &'static str, String) {
        let Some(note) = &self.note else {
            return ("Effective", "False", "NotUnderstood", "it is not known what it protects".into());
        };
        let (_, mode) = described(&self.rule.reading);
        let (status, reason) = match note {
            Note { effective: true, .. } => ("True", "Guards"),
            Note { workloads: 0, .. } => ("False", "SelectsNothing"),
            Note { meshed: 0, .. } => ("False", "NoSidecar"),
            _ if self.workloads.is_empty() => ("False", "NoSuchPort"),
            _ if mode == "Audit" => ("False", "Audit"),
            _ => ("False", "NoSuchPort"),
        };
        let message = if note.remarks.is_empty() {
            format!("decides about ports of {} workloads", note.meshed)
        } else {
            note.remarks.join("; ")
        };
        ("Effective", status, reason, message)
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// When it last matched: what is known, unless that says hardly more than what is written.
fn matched(before: Option<&str>, now: Option<i64>) -> Option<String> {
    let written = before.and_then(|text| text.parse::<jiff::Timestamp>().ok()).map(jiff::Timestamp::as_second);
    match (written, now) {
        (Some(written), Some(now)) if now - written < MATCHED_STEP => before.map(str::to_owned),
        (_, Some(now)) => jiff::Timestamp::from_second(now).ok().map(|time| time.to_string()),
        (_, None) => before.map(str::to_owned),
    }
}

/// Target and mode for people.
fn described(reading: &Reading) -> (String, String) {
    let (target, mode) = match reading {
        Reading::Rule(rule) => (&rule.spec.target, rule.spec.mode),
        Reading::GuardOnly { target, mode, .. } => (target, *mode),
        Reading::Refused { .. } => return ("not understood".into(), String::new()),
    };
    let mode = match mode {
        Mode::Enforce => "Enforce",
        Mode::Audit => "Audit",
    };
    (of(target).chars().take(MAX_TARGET).collect(), mode.into())
}

fn of(target: &Target) -> String {
    let who = match (&target.service, &target.pod_selector) {
        (Some(service), _) => format!("service {service}"),
        (None, Some(selector)) => {
            let labels = selector.match_labels.iter().map(|(key, value)| format!("{key}={value}"));
            let more = selector.match_expressions.iter().map(|e| format!("{} {}", e.key, e.operator));
            format!("pods {}", labels.chain(more).collect::<Vec<_>>().join(","))
        }
        (None, None) => "all".into(),
    };
    let ports = target.ports.iter().flatten().map(|port| match port {
        PortRef::Number(number) => number.to_string(),
        PortRef::Name(name) => name.clone(),
    });
    let ports: Vec<String> = ports.collect();
    if ports.is_empty() { who } else { format!("{who}: {}", ports.join(",")) }
}

#[cfg(test)]
mod tests;
