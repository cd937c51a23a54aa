//! Reads documents of every kind. `AllowRule`s are read by `policy`, so that the operator, the sidecar and the command line
//! agree about them; the other kinds in `workload` and `posture`.
use super::fields::{Sink, escape, show};
use super::kinds::{Documents, Key, Rule, Sourced};
use super::posture::posture;
use super::workload::{service, workload};
use super::yaml::{self, Located};
use super::{Finding, Place};
use serde_json::Value;
use signet_policy::Problem;
use std::collections::HashMap;
use std::sync::Arc;

const KINDS: &str = "Workload, Service, Posture or AllowRule";

/// What came of reading: the documents that are usable, and everything that is wrong.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    /// What could be read. Complete only when there are no findings that do not guard.
    pub documents: Documents,
    /// Everything that is wrong, in the order of the files.
    pub findings: Vec<Finding>,
    /// How many documents were met, good or bad.
    pub count: usize,
    /// The namespace of documents that name none, as of `kubectl apply -n`; without it they are refused.
    pub namespace: Option<String>,
}

impl Reading {
    /// Nothing is wrong.
    pub fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// Nothing is wrong but rules that can still guard their ports: there is a safe reading of the whole.
    pub fn is_safe(&self) -> bool {
        self.findings.iter().all(|finding| finding.guards)
    }

    /// Notes that something is wrong with a whole file.
    pub fn refuse_file(&mut self, file: &Arc<str>, found: impl Into<String>, want: impl Into<String>) {
        let place = Place { file: file.clone(), line: 0 };
        let (found, want) = (found.into(), want.into());
        self.findings.push(Finding { place, document: None, field: String::new(), found, want, guards: false });
    }

    /// Reads every document of a text.
    pub fn add(&mut self, file: &Arc<str>, text: &str) {
        for document in yaml::split(text) {
            self.count += 1;
            match document {
                Ok(mut located) => {
                    self.place(&mut located.value);
                    self.document(file, &located);
                }
                Err(broken) => self.findings.push(Finding {
                    place: Place { file: file.clone(), line: broken.line },
                    document: None,
                    field: String::new(),
                    found: escape(&broken.message),
                    want: "a YAML document".into(),
                    guards: false,
                }),
            }
        }
    }

    /// Puts a document that names no namespace into the one that was given.
    fn place(&self, document: &mut Value) {
        let metadata = document.get_mut("metadata").and_then(Value::as_object_mut);
        if let (Some(metadata), Some(namespace)) = (metadata, &self.namespace)
            && !metadata.contains_key("namespace")
        {
            metadata.insert("namespace".into(), namespace.as_str().into());
        }
    }

    fn document(&mut self, file: &Arc<str>, located: &Located) {
        let kind = located.value.get("kind").and_then(Value::as_str).unwrap_or_default().to_owned();
        let sink = Sink::default();
        let place = Place { file: file.clone(), line: located.line("") };
        match kind.as_str() {
            "AllowRule" => return self.rule(located, place),
            "Workload" => keep(&mut self.documents.workloads, workload(&located.value, &sink), &sink, place),
            "Service" => keep(&mut self.documents.services, service(&located.value, &sink), &sink, place),
            "Posture" => keep(&mut self.documents.postures, posture(&located.value, &sink), &sink, place),
            _ => sink.report("kind", located.value.get("kind").map_or_else(|| "nothing".into(), show), KINDS),
        }
        self.problems(file, located, &kind, sink.into_problems(), false);
    }

    fn rule(&mut self, located: &Located, place: Place) {
        let file = place.file.clone();
        let reading = signet_policy::validate::read(&located.value);
        let (mut problems, guards) = match &reading {
            signet_policy::Reading::Rule(_) => (Vec::new(), false),
            signet_policy::Reading::GuardOnly { problems, .. } => (problems.clone(), true),
            signet_policy::Reading::Refused { problems } => (problems.clone(), false),
        };
        let rule = Rule::new(reading);
        if rule.is_none() && problems.is_empty() {
            // A refusal without a reason would be a mistake of ours; it still refuses.
            let (found, want) = ("a rule that was refused".into(), "a valid AllowRule".into());
            problems.push(Problem { path: String::new(), found, want });
        }
        self.documents.rules.extend(rule.map(|item| Sourced { item, place }));
        self.problems(&file, located, "AllowRule", problems, guards);
    }

    fn problems(&mut self, file: &Arc<str>, located: &Located, kind: &str, problems: Vec<Problem>, guards: bool) {
        let text = |field: &str| located.value.get("metadata").and_then(|m| m.get(field)).and_then(Value::as_str);
        let document =
            text("name").filter(|_| KINDS.contains(kind) && !kind.is_empty()).map(|name| match text("namespace") {
                Some(namespace) => escape(&format!("{kind} {namespace}/{name}")),
                None => escape(&format!("{kind} {name}")),
            });
        for Problem { path, found, want } in problems {
            let place = Place { file: file.clone(), line: located.line(&path) };
            self.findings.push(Finding { place, document: document.clone(), field: path, found, want, guards });
        }
    }

    /// Looks for what is wrong between documents: two that claim the same name, UID or address. Call once, at the end.
    pub fn finish(&mut self) {
        let mut names = Taken::new("a name");
        let documents = &self.documents;
        for w in &documents.workloads {
            names.claim("Workload", &w.item.key, "metadata.name", w.item.key.to_string(), &w.place);
        }
        for s in &documents.services {
            names.claim("Service", &s.item.key, "metadata.name", s.item.key.to_string(), &s.place);
        }
        for r in &documents.rules {
            names.claim("AllowRule", &r.item.key(), "metadata.name", r.item.key().to_string(), &r.place);
        }
        let mut namespaces = Taken::new("one Posture for a namespace");
        for p in &documents.postures {
            namespaces.claim("Posture", &p.item.key, "metadata.namespace", p.item.key.namespace.clone(), &p.place);
        }
        let mut uids = Taken::new("a UID");
        let mut addresses = Taken::new("an address");
        for w in &documents.workloads {
            if let Some(uid) = &w.item.uid {
                uids.claim("Workload", &w.item.key, "spec.uid", uid.to_string(), &w.place);
            }
            for address in &w.item.addresses {
                addresses.claim("Workload", &w.item.key, "spec.addresses", address.to_string(), &w.place);
            }
        }
        for s in &documents.services {
            for address in &s.item.addresses {
                addresses.claim("Service", &s.item.key, "spec.addresses", address.to_string(), &s.place);
            }
        }
        for taken in [names, namespaces, uids, addresses] {
            self.findings.extend(taken.findings);
        }
    }
}

/// Names that may be claimed once.
struct Taken {
    what: &'static str,
    by: HashMap<(String, String), (String, Place)>,
    findings: Vec<Finding>,
}

impl Taken {
    fn new(what: &'static str) -> Self {
        Self { what, by: HashMap::new(), findings: Vec::new() }
    }

    fn claim(&mut self, kind: &str, key: &Key, field: &str, value: String, place: &Place) {
        let document = format!("{kind} {key}");
        // Names are unique within their kind; addresses and UIDs across kinds.
        let scope = if field == "metadata.name" { kind.to_owned() } else { String::new() };
        if let Some((other, at)) = self.by.get(&(scope.clone(), value.clone())) {
            self.findings.push(Finding {
                place: place.clone(),
                document: Some(document),
                field: field.into(),
                found: format!("{value}, which {other} at {at} has too"),
                want: format!("{} that no other document has", self.what),
                guards: false,
            });
        } else {
            self.by.insert((scope, value), (document, place.clone()));
        }
    }
}

/// Keeps an item only when nothing at all was wrong with its document: readers may return one in spite of a problem.
fn keep<T>(list: &mut Vec<Sourced<T>>, item: Option<T>, sink: &Sink, place: Place) {
    if sink.is_empty() {
        list.extend(item.map(|item| Sourced { item, place }));
    }
}
