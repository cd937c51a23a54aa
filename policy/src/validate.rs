//! Reading a rule from a YAML or JSON value: every problem at once, each with the path of the field, what was found and what
//! would be right. A rule whose target parses guards its ports even if the rest is refused (design section 5, point 6).
//!
//! The document is walked by hand, because serde stops at the first error and does not say what would be right. Every list is
//! bounded (F11), see [`MAX_FROM`] and its neighbours; beyond a bound nothing is looked at but the length.
mod grammar;
mod similar;
mod spec;
#[cfg(test)]
mod tests;
mod walk;

pub use similar::similar;

use crate::model::{API_VERSION, AllowRule, KIND, Metadata, Mode, Spec, Target};
use serde_json::Value;
use std::fmt;
use walk::{At, Object, Walk};

/// Most entries of `spec.from`.
pub const MAX_FROM: usize = 256;
/// Most entries of `spec.target.ports`.
pub const MAX_PORTS: usize = 256;
/// Most entries of `cidrs`.
pub const MAX_CIDRS: usize = 256;
/// Most labels, requirements, and values of a requirement in a selector.
pub const MAX_SELECTOR: usize = 64;
/// Most entries of `spec.http`, and most methods in one.
pub const MAX_HTTP: usize = 64;
/// Most problems that are listed for one document; how many more there are is said in the last.
pub const MAX_PROBLEMS: usize = 1000;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The field, as `spec.from[0].identity`; "document" for the whole.
    pub path: String,
    /// What stands there, bounded and escaped.
    pub found: String,
    /// What would be right.
    pub want: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: found {}, want {}", self.path, self.found, self.want)
    }
}

/// What became of a document that claims to be an AllowRule.
#[derive(Debug, Clone, PartialEq)]
pub enum Reading {
    /// Good.
    Rule(AllowRule),
    /// Refused, but it is known whose workloads it is about: it guards their ports and admits nobody.
    GuardOnly {
        /// Who it is.
        metadata: Metadata,
        /// What it guards: never less than was meant. Fields of the target that are not understood are left out, and if any
        /// of `ports` is wrong, every port is guarded.
        target: Target,
        /// `Audit` only when the mode itself was readable as such; then it guards nothing.
        mode: Mode,
        /// Why it was refused.
        problems: Vec<Problem>,
    },
    /// Refused whole.
    Refused {
        /// Why.
        problems: Vec<Problem>,
    },
}

impl Reading {
    /// What is wrong; empty for a good rule.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Rule(_) => &[],
            Self::GuardOnly { problems, .. } | Self::Refused { problems } => problems,
        }
    }
}

/// Reads one document. Never panics; unknown fields, unknown enum values and wrong types are problems.
pub fn read(document: &Value) -> Reading {
    let mut walk = Walk::default();
    let root = At { path: String::new(), value: document };
    let known = ["apiVersion", "kind", "metadata", "spec", "status"];
    let Some(top) = walk.object(&root, "an AllowRule with apiVersion, kind, metadata and spec", &known) else {
        return Reading::Refused { problems: walk.finish() };
    };
    exactly(&mut walk, &top, "apiVersion", API_VERSION);
    exactly(&mut walk, &top, "kind", KIND);
    let metadata = metadata(&mut walk, &top);
    let read = spec::read(&mut walk, &top);
    let problems = walk.finish();
    match (metadata, read.target, read.from) {
        (Some(metadata), Some(target), Some(from)) if problems.is_empty() => Reading::Rule(AllowRule {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            metadata,
            spec: Spec { target, from, http: None, mode: read.mode },
        }),
        (Some(metadata), Some(target), _) => Reading::GuardOnly { metadata, target, mode: read.mode, problems },
        _ => Reading::Refused { problems },
    }
}

fn exactly(walk: &mut Walk, top: &Object<'_>, field: &str, wanted: &str) {
    if let Some(at) = walk.required(top, field, wanted)
        && at.value.as_str() != Some(wanted)
    {
        walk.wrong(&at, wanted);
    }
}

/// What Kubernetes itself keeps in metadata; none of it concerns the rule.
const KUBERNETES_METADATA: [&str; 10] = [
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "managedFields",
    "ownerReferences",
    "resourceVersion",
    "uid",
];

/// `Some` as soon as name and namespace are right: then it is known who the rule is.
fn metadata(walk: &mut Walk, top: &Object<'_>) -> Option<Metadata> {
    let want = "the name and namespace of the rule, such as {name: orders-from-checkout, namespace: shop}";
    let at = walk.required(top, "metadata", want)?;
    let known: Vec<&str> =
        ["name", "namespace", "generation", "labels", "selfLink"].into_iter().chain(KUBERNETES_METADATA).collect();
    let object = walk.object(&at, want, &known)?;
    let name = walk.required_text(&object, "name", grammar::name);
    let namespace = walk.required_text(&object, "namespace", grammar::namespace);
    let generation = object.get("generation").and_then(|at| {
        let number = at.value.as_i64().filter(|number| *number >= 0);
        if number.is_none() {
            walk.wrong(&at, "a whole number that is not negative, or no such field");
        }
        number
    });
    let labels = object.get("labels").and_then(|at| walk.labels(&at, usize::MAX));
    Some(Metadata {
        name: name?,
        namespace: namespace?,
        generation: generation.unwrap_or(0),
        labels: labels.unwrap_or_default(),
    })
}
