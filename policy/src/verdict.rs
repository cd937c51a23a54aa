//! Verdicts: allow or deny, with a reason code, the rule that decided or came closest, and what differed.
use crate::compile::RuleKey;
use std::net::IpAddr;
use std::sync::Arc;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A verified SPIFFE ID.
    Identity(&'a str),
    /// A plaintext peer, by address (canonical: never v4-mapped).
    Plaintext(IpAddr),
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Admitted.
    Allow,
    /// Refused.
    Deny,
}

/// Why. The code is stable: it appears in logs, metrics and `Proxy-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Reason {
    /// A rule matched.
    RuleMatched,
    /// The port is guarded and no rule matched.
    NoRuleMatched,
    /// The port is guarded by a rule that this program cannot enforce or that was refused.
    GuardedByUnusableRule,
    /// Unguarded, posture `allow`.
    PostureAllow,
    /// Unguarded, posture `audit`; `deny` would have refused.
    PostureAudit,
    /// Unguarded, posture `authenticated`, and the caller has an identity.
    PostureAuthenticated,
    /// Unguarded, posture `authenticated`, and the caller is plaintext.
    PosturePlaintext,
    /// Unguarded, posture `deny`.
    PostureDeny,
    /// No configuration has arrived yet.
    NoConfiguration,
}

impl Reason {
    /// `rule_matched`, `no_rule_matched`, ...
    pub fn code(self) -> &'static str {
        todo!()
    }
}

/// What kept the closest rule from matching.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// Same namespace, other service account: wanted this one.
    ServiceAccount(String),
    /// Other namespace: wanted this one.
    Namespace(String),
    /// Other trust domain: wanted this one.
    TrustDomain(String),
    /// The rule admits identities and the caller has none.
    Plaintext,
    /// The rule admits plaintext from other networks, or plaintext alone.
    Address,
    /// The rule was refused or needs a feature that is missing: why.
    Unusable(String),
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Allow or deny.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// The rule that admitted, or for a denial the closest.
    pub rule: Option<Arc<RuleKey>>,
    /// For a denial: what differed from the closest rule.
    pub difference: Option<Difference>,
    /// What the verdict would be if `Audit` rules (and the `audit` posture's `deny`) were in force, when it differs.
    pub shadow: Option<(Decision, Reason, Option<Arc<RuleKey>>)>,
}
