//! A verdict in words for people, with what would be right.
use super::{Caller, Decision, Difference, Reason, Verdict, shown};
use crate::compile::RuleKey;
use crate::name::Name;
use std::fmt;

impl Verdict {
    /// One sentence, without line breaks, for logs and the command line; what a caller chose is escaped and bounded.
    ///
    /// `denied: port 8080 is guarded, closest rule shop/orders-from-checkout wants service account checkout, caller is cart`
    pub fn explain(&self, caller: &Caller<'_>, port: u16) -> String {
        let who = who(caller);
        let head = match self.reason {
            Reason::RuleMatched => format!("allowed: {} admits {who} on port {port}", named(self.rule.as_deref())),
            Reason::NoRuleMatched | Reason::GuardedByUnusableRule => {
                format!("denied: port {port} is guarded, {}", self.closest(caller))
            }
            Reason::PostureAllow => format!("allowed: no rule guards port {port} and the posture is allow"),
            Reason::PostureAudit => format!("allowed: no rule guards port {port} and the posture is audit"),
            Reason::PostureAuthenticated => {
                format!("allowed: no rule guards port {port}, the posture is authenticated, and the caller is {who}")
            }
            Reason::PosturePlaintext => {
                format!("denied: no rule guards port {port}, the posture is authenticated, and the caller is {who}")
            }
            Reason::PostureDeny => format!("denied: no rule guards port {port} and the posture is deny"),
            Reason::NoConfiguration => "denied: no configuration has arrived yet".to_owned(),
        };
        head + &self.aside()
    }

    fn closest(&self, caller: &Caller<'_>) -> String {
        let Some(rule) = &self.rule else { return "and no rule admits the caller".to_owned() };
        let name = match caller {
            Caller::Identity(id) => Name::parse(id),
            Caller::Plaintext(_) => None,
        };
        let whole = who(caller);
        let wants = |what: &str, wanted: &str, own: Option<&str>| {
            let own = own.map_or_else(|| whole.clone(), shown);
            format!("closest rule {rule} wants {what} {}, caller is {own}", shown(wanted))
        };
        match &self.difference {
            Some(Difference::ServiceAccount(wanted)) => {
                wants("service account", wanted, name.and_then(|name| name.service_account))
            }
            Some(Difference::Namespace(wanted)) => wants("namespace", wanted, name.and_then(|name| name.namespace)),
            Some(Difference::TrustDomain(wanted)) => wants("trust domain", wanted, name.map(|name| name.trust_domain)),
            Some(Difference::Identity(wanted)) => wants("identity", wanted, None),
            Some(Difference::Plaintext) => format!("closest rule {rule} admits identities only, caller is {whole}"),
            Some(Difference::Address) => match caller {
                Caller::Plaintext(_) => {
                    format!("closest rule {rule} admits plaintext from other networks, caller is {whole}")
                }
                Caller::Identity(_) => format!("closest rule {rule} admits plaintext only, caller is {whole}"),
            },
            Some(Difference::Nobody) => format!("rule {rule} admits nobody: its `from` is empty"),
            Some(Difference::Unusable(why)) => format!("rule {rule} guards it and cannot be used: {}", shown(why)),
            None => format!("closest rule {rule} does not admit {whole}"),
        }
    }

    /// "; ..." when `Audit` rules or the audit posture would decide otherwise, else nothing.
    fn aside(&self) -> String {
        match &self.shadow {
            None => String::new(),
            Some((Decision::Allow, _, rule)) => {
                format!("; if Audit rules were in force, {} would admit it", named(rule.as_deref()))
            }
            Some((Decision::Deny, Reason::PostureDeny, _)) => "; the posture deny would refuse it".to_owned(),
            Some((Decision::Deny, _, rule)) => {
                format!("; if Audit rules were in force, it would be denied, closest {}", named(rule.as_deref()))
            }
        }
    }
}

/// Without a caller: decision, reason code, rule. `explain` says more.
impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decision = if self.allows() { "allow" } else { "deny" };
        write!(f, "{decision} ({})", self.reason)?;
        match &self.rule {
            Some(rule) => write!(f, " by {rule}"),
            None => Ok(()),
        }
    }
}

fn who(caller: &Caller<'_>) -> String {
    match caller {
        Caller::Identity(id) => shown(id),
        Caller::Plaintext(ip) => format!("plaintext from {ip}"),
    }
}

fn named(rule: Option<&RuleKey>) -> String {
    rule.map_or_else(|| "a rule".to_owned(), |rule| format!("rule {rule}"))
}
