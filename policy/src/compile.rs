//! Rules resolved for one workload: what the operator sends to a sidecar and what [`Table::compile`] takes. The names of callers
//! are whole here (trust domain and namespace filled in), so that nothing is left to guess for who judges.
use crate::model::{AllowRule, From, Selector};
use crate::verdict::shown;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

pub use crate::model::Mode;
pub use crate::table::Table;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Admits {
    /// Any of these.
    Sources(Vec<Source>),
    /// Nobody: the rule was refused, and only guards. Says why.
    Nobody(String),
}

/// A rule as it concerns one workload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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

impl fmt::Display for RuleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Posture {
    /// The word for it in files, labels and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Audit => "audit",
            Self::Authenticated => "authenticated",
            Self::Deny => "deny",
        }
    }
}

impl fmt::Display for Posture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no posture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPosture(String);

impl fmt::Display for UnknownPosture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "posture {} is not one of allow, audit, authenticated, deny", self.0)
    }
}

impl std::error::Error for UnknownPosture {}

impl FromStr for Posture {
    type Err = UnknownPosture;

    /// Exact. Who cannot report the error takes `Deny`, which is the default.
    fn from_str(word: &str) -> Result<Self, UnknownPosture> {
        [Self::Allow, Self::Audit, Self::Authenticated, Self::Deny]
            .into_iter()
            .find(|posture| posture.as_str() == word)
            .ok_or_else(|| UnknownPosture(shown(word)))
    }
}

/// The sources of a valid rule, resolved with the mesh's own trust domain and the rule's own namespace, and the features they
/// need, sorted. A form that validation would have refused gives no source: it admits nobody.
pub fn sources(rule: &AllowRule, trust_domain: &str) -> (Vec<Source>, Vec<String>) {
    let sources: Vec<Source> =
        rule.spec.from.iter().filter_map(|from| source(from, &rule.metadata.namespace, trust_domain)).collect();
    let mut features: BTreeSet<&str> = sources.iter().map(Source::feature).collect();
    if rule.spec.http.is_some() {
        features.insert("http");
    }
    (sources, features.into_iter().map(str::to_owned).collect())
}

fn source(from: &From, own_namespace: &str, trust_domain: &str) -> Option<Source> {
    match from {
        From {
            namespace,
            service_account: Some(account),
            identity: None,
            any_authenticated: None,
            unauthenticated: None,
        } => {
            let namespace = namespace.as_deref().unwrap_or(own_namespace);
            Some(Source::Identity(format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")))
        }
        From {
            namespace: Some(namespace),
            service_account: None,
            identity: None,
            any_authenticated: None,
            unauthenticated: None,
        } => Some(Source::Namespace { trust_domain: trust_domain.to_owned(), namespace: namespace.clone() }),
        From {
            namespace: None,
            service_account: None,
            identity: Some(identity),
            any_authenticated: None,
            unauthenticated: None,
        } => Some(Source::Identity(identity.clone())),
        From {
            namespace: None,
            service_account: None,
            identity: None,
            any_authenticated: Some(true),
            unauthenticated: None,
        } => Some(Source::AnyAuthenticated),
        From {
            namespace: None,
            service_account: None,
            identity: None,
            any_authenticated: None,
            unauthenticated: Some(plaintext),
        } => {
            // One network that does not parse, and the whole clause admits nobody (F37).
            let networks: Result<Vec<IpNet>, _> = plaintext.cidrs.iter().map(|cidr| cidr.parse()).collect();
            networks.ok().map(Source::Plaintext)
        }
        _ => None,
    }
}

impl Source {
    /// The feature that enforcing it takes, one of [`FEATURES`].
    pub fn feature(&self) -> &'static str {
        match self {
            Self::Identity(_) => "identity",
            Self::Namespace { .. } => "namespace",
            Self::AnyAuthenticated => "any-authenticated",
            Self::Plaintext(_) => "plaintext-cidr",
        }
    }
}

impl Selector {
    /// Whether labels match (Kubernetes' semantics; an empty selector matches everything). An operator that Kubernetes does not
    /// know matches nothing.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = labels.get(&requirement.key);
                let listed = value.is_some_and(|value| requirement.values.contains(value));
                match requirement.operator.as_str() {
                    "In" => listed,
                    // As in Kubernetes: also when the label is missing.
                    "NotIn" => !listed,
                    "Exists" => value.is_some(),
                    "DoesNotExist" => value.is_none(),
                    _ => false,
                }
            })
    }
}
