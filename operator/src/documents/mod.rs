//! The documents that users write for the mesh: `Workload`, `Service`, `Posture` and `AllowRule`, as YAML in the shape of
//! Kubernetes objects, many to a file.
//!
//! ```text
//! text --yaml::split--> values with places --read_*--> Documents + Findings --Reading::finish--> duplicates found too
//! ```
//!
//! Called by `files` (a directory, watched), by `signet rules check` and `signet rules explain`. Everything that is wrong is
//! reported at once; a [`Finding`] names file, line, field, what was found and what would be right.
mod directory;
mod fields;
mod kinds;
mod posture;
mod read;
mod workload;
mod yaml;

pub use directory::{Directory, Stamp, list, look, read_directory};
pub(crate) use kinds::selects;
pub use kinds::{
    ClusterService, Documents, HostPort, Key, Labels, Listed, Locality, NamedPort, Posture, Rule, Service, ServicePort,
    Sourced, Who, Workload,
};
pub(crate) use posture::egress_word;
pub use read::Reading;

use std::fmt;
use std::sync::Arc;

/// Where something stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Place {
    /// The file, as it was named.
    #[serde(serialize_with = "as_text")]
    pub file: Arc<str>,
    /// From 1; 0 when the whole file is meant.
    pub line: u64,
}

fn as_text<S: serde::Serializer>(text: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(text)
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 { write!(f, "{}", self.file) } else { write!(f, "{}:{}", self.file, self.line) }
    }
}

/// One thing that is wrong with a file or a document.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Where.
    #[serde(flatten)]
    pub place: Place,
    /// Kind and name of the document, as `AllowRule shop/orders`; absent when the file itself is wrong.
    pub document: Option<String>,
    /// The field, as `spec.from[0].identity`; empty when the whole document is meant.
    pub field: String,
    /// What stands there, bounded and escaped.
    pub found: String,
    /// What would be right.
    pub want: String,
    /// An `AllowRule` that is refused but whose target parses: it can still guard its ports (design section 5, point 6).
    /// Everything else leaves no safe reading of the whole.
    pub guards: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(document) = &self.document {
            write!(f, "{document}: ")?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        write!(f, "found {}, want {}", self.found, self.want)
    }
}

#[cfg(test)]
mod tests;
