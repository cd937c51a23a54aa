//! Verdicts: allow or deny, with a reason code, the rule that decided or came closest, and what differed; and the words for
//! them, which logs, `Proxy-Status` and `signet rules explain` share.
use serde::Serialize;
use std::fmt;
use std::net::IpAddr;

mod explain;
mod rule_ref;

pub use rule_ref::RuleRef;

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caller<'a> {
    /// A verified SPIFFE ID.
    Identity(&'a str),
    /// A plaintext peer, by address (canonical: never v4-mapped).
    Plaintext(IpAddr),
}

/// Allow or deny.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
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
    /// The port is guarded, no rule matched, and one of its rules cannot be enforced by this program or was refused.
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
        match self {
            Self::RuleMatched => "rule_matched",
            Self::NoRuleMatched => "no_rule_matched",
            Self::GuardedByUnusableRule => "guarded_by_unusable_rule",
            Self::PostureAllow => "posture_allow",
            Self::PostureAudit => "posture_audit",
            Self::PostureAuthenticated => "posture_authenticated",
            Self::PosturePlaintext => "posture_plaintext",
            Self::PostureDeny => "posture_deny",
            Self::NoConfiguration => "no_configuration",
        }
    }

    /// Every reason there is, so that metrics can register each code before it happens.
    pub const fn all() -> &'static [Self] {
        &[
            Self::RuleMatched,
            Self::NoRuleMatched,
            Self::GuardedByUnusableRule,
            Self::PostureAllow,
            Self::PostureAudit,
            Self::PostureAuthenticated,
            Self::PosturePlaintext,
            Self::PostureDeny,
            Self::NoConfiguration,
        ]
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.code())
    }
}

/// What kept the closest rule from matching.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "want", rename_all = "camelCase")]
pub enum Difference {
    /// Same namespace, other service account: wanted this one.
    ServiceAccount(String),
    /// Other namespace: wanted this one.
    Namespace(String),
    /// Other trust domain: wanted this one.
    TrustDomain(String),
    /// Same trust domain, but the rule names an identity without namespace and service account: wanted this one.
    Identity(String),
    /// The rule admits identities and the caller has none.
    Plaintext,
    /// The rule admits plaintext from other networks, or plaintext alone.
    Address,
    /// The rule's `from` is empty: it guards and admits nobody.
    Nobody,
    /// The rule was refused or needs a feature that is missing: why.
    Unusable(String),
}

/// What would have been, had `Audit` rules (or the `audit` posture's `deny`) been in force: decision, reason, and the rule that
/// would have admitted or come closest.
pub type Shadow = (Decision, Reason, Option<RuleRef>);

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Allow or deny.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// The rule that admitted, or for a denial the closest.
    pub rule: Option<RuleRef>,
    /// For a denial: what differed from the closest rule.
    pub difference: Option<Difference>,
    /// What the decision would be if `Audit` rules (and the `audit` posture's `deny`) were in force, when it differs.
    pub shadow: Option<Shadow>,
}

impl Verdict {
    /// A verdict that no rule had a part in.
    pub(crate) fn plain(decision: Decision, reason: Reason) -> Self {
        Self { decision, reason, rule: None, difference: None, shadow: None }
    }

    /// Whether the caller is admitted.
    pub fn allows(&self) -> bool {
        self.decision == Decision::Allow
    }
}

/// `{"decision":"deny","reason":"no_rule_matched","rule":"shop/a","difference":{"kind":"serviceAccount","want":"b"},"shadow":null}`;
/// a shadow is `{"decision":..,"reason":..,"rule":..}`.
impl Serialize for Verdict {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Shadow {
            decision: Decision,
            reason: Reason,
            rule: Option<String>,
        }
        #[derive(Serialize)]
        struct Flat<'a> {
            decision: Decision,
            reason: Reason,
            rule: Option<String>,
            difference: Option<&'a Difference>,
            shadow: Option<Shadow>,
        }
        let named = |rule: &Option<RuleRef>| rule.as_ref().map(ToString::to_string);
        Flat {
            decision: self.decision,
            reason: self.reason,
            rule: named(&self.rule),
            difference: self.difference.as_ref(),
            shadow: self.shadow.as_ref().map(|(decision, reason, rule)| Shadow {
                decision: *decision,
                reason: *reason,
                rule: named(rule),
            }),
        }
        .serialize(serializer)
    }
}

/// Foreign text made fit for a log line: control characters and what is not ASCII escaped, and cut after 200 bytes.
pub(crate) fn shown(text: &str) -> String {
    const LIMIT: usize = 200;
    let mut out = String::with_capacity(text.len().min(LIMIT));
    for c in text.chars() {
        let before = out.len();
        if c.is_ascii_graphic() || c == ' ' {
            out.push(c);
        } else {
            out.extend(c.escape_default());
        }
        if out.len() > LIMIT {
            out.truncate(before);
            out.push_str("...");
            break;
        }
    }
    out
}

#[cfg(test)]
mod tests;
