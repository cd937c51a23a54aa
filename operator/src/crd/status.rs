//! What the operator says of a rule in the cluster: `status` of `AllowRule`. Written by `cluster::status`, read back for the
//! selector of a Service that is missing.
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What became of the rule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RuleStatus {
    /// The generation of the spec that this status is about.
    pub observed_generation: i64,
    /// What the rule protects, in one line.
    pub target: String,
    /// Whether it is in force: Enforce or Audit.
    pub mode: String,
    /// How many meshed workloads it selects.
    pub workloads: i64,
    /// How many of those have this generation in force.
    pub acknowledged: i64,
    /// When a connection last matched this rule; absent: never seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_matched: Option<String>,
    /// The Service that the rule targets, as it was when it last existed: its guard stays while the Service is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<LastService>,
    /// Accepted: the rule could be read. Programmed: every workload it selects has it in force. Effective: it decides about
    /// every port that it names.
    pub conditions: Vec<Condition>,
}

/// A Service as it was when it last existed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct LastService {
    /// Its name.
    pub name: String,
    /// Its selector.
    pub selector: BTreeMap<String, String>,
}

/// One condition, as everywhere in Kubernetes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// Accepted, Programmed or Effective.
    #[serde(rename = "type")]
    pub kind: String,
    /// True, False or Unknown.
    pub status: String,
    /// The generation of the spec that this condition is about.
    pub observed_generation: i64,
    /// When the status last changed.
    pub last_transition_time: String,
    /// One word for programs.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}
