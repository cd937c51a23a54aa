//! Rules resolved for one workload, and the table that answers for it. A verdict on an identity costs a constant number of hash
//! look-ups, whatever the number of rules; address ranges a trie (or sorted prefix search).
use crate::verdict::{Caller, Verdict};
use ipnet::IpNet;

pub use crate::model::Mode;

/// What this build can enforce. A compiled rule that needs another feature guards and admits nobody.
pub const FEATURES: &[&str] = &["identity", "namespace", "any-authenticated", "plaintext-cidr"];

/// `namespace/name` of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct RuleKey {
    /// The rule's namespace.
    pub namespace: String,
    /// The rule's name.
    pub name: String,
}

/// Which of the workload's own ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Every port.
    All,
    /// These; possibly none.
    These(Vec<u16>),
}

/// What an unguarded port admits (design section 5, point 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Posture {
    /// Everything.
    Allow,
    /// Everything, and what `Deny` would have refused is recorded.
    Audit,
    /// Any identity of the bundle, no plaintext.
    Authenticated,
    /// Nothing: also what a sidecar without configuration does, and what an unknown word means.
    #[default]
    Deny,
}

/// One kind of caller, resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Exactly this SPIFFE ID, byte for byte.
    Identity(String),
    /// Any service account of a namespace of a trust domain.
    Namespace {
        /// The trust domain.
        trust_domain: String,
        /// The namespace.
        namespace: String,
    },
    /// Any verified identity.
    AnyAuthenticated,
    /// Plaintext from these networks.
    Plaintext(Vec<IpNet>),
}

/// Whom a rule admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admits {
    /// Any of these.
    Sources(Vec<Source>),
    /// Nobody: the rule was refused, and only guards. Says why.
    Nobody(String),
}

/// A rule as it concerns one workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkloadRule {
    /// Who it is.
    pub key: RuleKey,
    /// Its generation.
    pub generation: u64,
    /// Which ports of this workload.
    pub ports: Ports,
    /// In force or not.
    pub mode: Mode,
    /// Whom it admits.
    pub admits: Admits,
    /// What a sidecar must be able to do to enforce it.
    pub features: Vec<String>,
}

/// The compiled rules and posture of one workload.
#[derive(Debug, Clone, Default)]
pub struct Table {}

impl Table {
    /// Compiles. Total: whatever the rules hold, the table never admits more than they say.
    pub fn compile(_posture: Posture, _rules: &[WorkloadRule]) -> Self {
        todo!()
    }
    /// The table before the first configuration: everything is denied with `Reason::NoConfiguration`.
    pub fn unconfigured() -> Self {
        todo!()
    }
    /// The verdict on a caller of one of the workload's own ports.
    pub fn judge(&self, _caller: &Caller<'_>, _port: u16) -> Verdict {
        todo!()
    }
}

/// The sources of a valid rule, resolved with the mesh's own trust domain, and the features they need.
pub fn sources(_rule: &crate::model::AllowRule, _trust_domain: &str) -> (Vec<Source>, Vec<String>) {
    todo!()
}

impl crate::model::Selector {
    /// Whether labels match (Kubernetes' semantics; an empty selector matches everything).
    pub fn matches(&self, _labels: &std::collections::BTreeMap<String, String>) -> bool {
        todo!()
    }
}
