//! The `AllowRule` as users write it and as Kubernetes will hold it (design section 5). Plain types; reading a document is the
//! work of `validate`, and deserializing an `AllowRule` calls it, so that there is no way around the checks.
use crate::validate::{Reading, read};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// `signet.dev/v1alpha1`.
pub const API_VERSION: &str = "signet.dev/v1alpha1";

/// `AllowRule`.
pub const KIND: &str = "AllowRule";

/// One rule. Rules only allow; a port with at least one `Enforce` rule admits exactly what its rules match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", try_from = "serde_json::Value")]
pub struct AllowRule {
    /// `signet.dev/v1alpha1`
    pub api_version: String,
    /// `AllowRule`
    pub kind: String,
    /// Name, namespace and generation.
    pub metadata: Metadata,
    /// The rule.
    pub spec: Spec,
}

impl TryFrom<serde_json::Value> for AllowRule {
    type Error = String;

    /// Every problem of the document in one line.
    fn try_from(document: serde_json::Value) -> Result<Self, String> {
        match read(&document) {
            Reading::Rule(rule) => Ok(rule),
            Reading::GuardOnly { problems, .. } | Reading::Refused { problems } => {
                Err(problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
            }
        }
    }
}

/// The parts of Kubernetes' metadata that matter here.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Unique among the rules of its namespace.
    pub name: String,
    /// Which workloads the rule can protect: those of its own namespace alone.
    pub namespace: String,
    /// Grows with every change of the spec; 0 outside Kubernetes.
    #[serde(default)]
    pub generation: i64,
    /// Free.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a rule protects, whom it admits, and whether it is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What is protected.
    pub target: Target,
    /// Whom it admits: any of these. Empty: guards and admits nobody.
    pub from: Vec<From>,
    /// Which requests: any of these; absent: all traffic of the port. Not enforced yet: refused, and the port stays guarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<Vec<Http>>,
    /// `Enforce` (default) or `Audit`.
    #[serde(default)]
    pub mode: Mode,
}

/// Exactly one of `service`, `podSelector` and `all`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Target {
    /// The workloads that this Service of the same namespace selects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The workloads with these labels (Kubernetes' `matchLabels` and `matchExpressions`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_selector: Option<Selector>,
    /// `true`: every workload of the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
    /// The workload's own ports, by number or by name; absent: every port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ports: Option<Vec<PortRef>>,
}

/// A port by number or by name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum PortRef {
    /// 1 to 65535.
    Number(u16),
    /// As the workload names it.
    Name(String),
}

/// Kubernetes' label selector.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Selector {
    /// All of these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub match_labels: BTreeMap<String, String>,
    /// And all of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Expression>,
}

/// One requirement of a selector.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// For `In` and `NotIn`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

/// One kind of caller. Exactly one form: `serviceAccount` (with or without `namespace`), `namespace` alone, `identity`,
/// `anyAuthenticated`, `unauthenticated`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct From {
    /// The caller's namespace; absent with `serviceAccount`: the rule's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The caller's service account.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_account: Option<String>,
    /// A whole SPIFFE ID, of any trust domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// `true`: any identity of the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub any_authenticated: Option<bool>,
    /// Plaintext, on purpose and visible.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unauthenticated: Option<Unauthenticated>,
}

/// Plaintext callers by address.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Unauthenticated {
    /// At least one network in CIDR form.
    pub cidrs: Vec<String>,
}

/// Which requests of HTTP: reserved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Any of these; absent: every method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
    /// Which paths; absent: every path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
}

/// A path: exactly one of the two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Path {
    /// Whole segments from the front.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prefix: Option<String>,
    /// The whole path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exact: Option<String>,
}

/// Whether a rule is in force.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Mode {
    /// Guards its ports and admits what it matches.
    #[default]
    Enforce,
    /// Changes no verdict; its own is recorded beside it.
    Audit,
}
