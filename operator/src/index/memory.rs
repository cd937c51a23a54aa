//! What the index must remember from one set of documents to the next, and over a restart. `state` stores it before it
//! publishes what was built with it.
use crate::documents::{Key, Labels};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Small: grows with the Services that rules name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// The last revision that was published; the next differs only by being greater.
    pub revision: u64,
    /// Digest of all configurations under that revision: the same content keeps its revision over a restart.
    pub content: String,
    /// The last selector of each Service that a rule names, by `namespace/name`: a guard does not vanish because its Service
    /// does (design section 5, point 6).
    pub selectors: BTreeMap<String, Labels>,
}

impl Memory {
    pub(super) fn selector(&self, service: &Key) -> Option<&Labels> {
        self.selectors.get(&service.to_string())
    }
}
