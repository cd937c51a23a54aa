//! The compiled rules of one workload and the verdicts on its callers. Built by `compile` on every change of configuration
//! (off the data path), read by the sidecar for every connection and by `signet rules explain`.
//!
//! ```text
//! facts of the port ── no rule at all ──────────────────────────────────> posture
//!        │
//!        └─ identity: {exact ID} and {its namespace}, one hash look-up each, and "any authenticated"
//!           plaintext: networks of all ports and of this port, one binary search each
//!              ├─ a rule matched ───────────────────────────────────────> allow, smallest rule name
//!              └─ none did ── an Enforce rule is there ─────────────────> deny, and `closest` says what differed
//!                          └─ only Audit rules are there ───────────────> posture, with a shadow verdict
//! ```
//!
//! Rules are numbered in the order of their names, so "the smallest number" is a choice that no input order can change.
mod build;
mod closest;
#[cfg(test)]
mod tests;

use crate::compile::{Posture, RuleKey, WorkloadRule};
use crate::name::Name;
use crate::networks::Networks;
use crate::ports::{Merge, PerPort};
use crate::verdict::{Caller, Decision, Reason, RuleRef, Verdict};
use closest::Nearest;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

/// The compiled rules and posture of one workload. The default is [`Table::unconfigured`].
#[derive(Debug, Clone, Default)]
pub struct Table(Option<Arc<Compiled>>);

#[derive(Debug)]
struct Compiled {
    posture: Posture,
    /// Sorted by name; a rule's number is its place here.
    rules: Arc<[RuleKey]>,
    /// Why a rule admits nobody, by number.
    unusable: HashMap<u32, String>,
    ports: PerPort<Facts>,
    identities: HashMap<Box<str>, PerPort<Rank>>,
    /// By `<trust domain>/ns/<namespace>`.
    namespaces: HashMap<Box<str>, PerPort<Rank>>,
    everywhere: Networks<Rank>,
    networks: HashMap<u16, Networks<Rank>>,
    nearest: Nearest,
}

/// The smallest numbers of the rules in force and of the rules on trial that share a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rank {
    enforce: u32,
    audit: u32,
}

const NO_RULE: u32 = u32::MAX;

impl Default for Rank {
    fn default() -> Self {
        Self { enforce: NO_RULE, audit: NO_RULE }
    }
}

impl Merge for Rank {
    fn merge(&mut self, other: &Self) {
        self.enforce = self.enforce.min(other.enforce);
        self.audit = self.audit.min(other.audit);
    }
}

/// As it is, or as it would be if `Audit` rules were in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Real,
    Shadow,
}

impl Rank {
    fn of(self, world: World) -> Option<u32> {
        let number = match world {
            World::Real => self.enforce,
            World::Shadow => self.enforce.min(self.audit),
        };
        (number != NO_RULE).then_some(number)
    }
}

/// What holds on a port whoever calls.
#[derive(Debug, Clone, Copy, Default)]
struct Facts {
    /// Rules that cover the port.
    guard: Rank,
    /// Those of them that admit nobody because they were refused or need a missing feature.
    unusable: Rank,
    /// Those that admit any identity.
    any: Rank,
    /// Those that admit some identity.
    identities: Rank,
    /// Those that admit some plaintext.
    plaintext: Rank,
}

impl Merge for Facts {
    fn merge(&mut self, other: &Self) {
        self.guard.merge(&other.guard);
        self.unusable.merge(&other.unusable);
        self.any.merge(&other.any);
        self.identities.merge(&other.identities);
        self.plaintext.merge(&other.plaintext);
    }
}

impl Table {
    /// Compiles. Total: whatever the rules hold, the table never admits more than they say. The order of the rules does not
    /// matter. A rule that needs a feature outside [`crate::FEATURES`], or holds a network with host bits set, guards its
    /// ports and admits nobody.
    pub fn compile(posture: Posture, rules: &[WorkloadRule]) -> Self {
        Self(Some(Arc::new(build::compile(posture, rules))))
    }

    /// The table before the first configuration: everything is denied with `Reason::NoConfiguration`.
    pub fn unconfigured() -> Self {
        Self(None)
    }

    /// The verdict on a caller of one of the workload's own ports.
    pub fn judge(&self, caller: &Caller<'_>, port: u16) -> Verdict {
        match &self.0 {
            Some(compiled) => compiled.judge(caller, port),
            None => Verdict::plain(Decision::Deny, Reason::NoConfiguration),
        }
    }

    /// Whether an `Enforce` rule makes refusal the default on this port. Without a configuration every port is.
    pub fn guards(&self, port: u16) -> bool {
        self.0.as_ref().is_none_or(|compiled| compiled.ports.at(port).guard.of(World::Real).is_some())
    }

    /// The rules that guard and admit nobody because they were refused or need a feature that this program lacks, and why;
    /// in the order of their names.
    pub fn unusable(&self) -> Vec<(RuleRef, String)> {
        let Some(compiled) = &self.0 else { return Vec::new() };
        let mut found: Vec<_> = compiled.unusable.iter().collect();
        found.sort();
        found.into_iter().filter_map(|(number, why)| Some((compiled.key(*number)?, why.clone()))).collect()
    }
}

impl Compiled {
    fn key(&self, number: u32) -> Option<RuleRef> {
        RuleRef::new(&self.rules, number)
    }

    fn judge(&self, caller: &Caller<'_>, port: u16) -> Verdict {
        let facts = self.ports.at(port);
        if facts.guard == Rank::default() {
            return self.by_posture(caller);
        }
        let admits = match caller {
            Caller::Identity(id) => self.admits_identity(id, port, facts),
            Caller::Plaintext(ip) => self.admits_plaintext(ip.to_canonical(), port),
        };
        if let Some(number) = admits.of(World::Real) {
            // What is admitted by a rule in force is admitted by it in any other world too.
            return Verdict { rule: self.key(number), ..Verdict::plain(Decision::Allow, Reason::RuleMatched) };
        }
        let mut verdict = match facts.guard.of(World::Real) {
            Some(_) => self.refuse(caller, port, facts, World::Real),
            None => self.by_posture(caller),
        };
        // Rules on trial can admit whom those in force refuse, and refuse whom the posture admits; nothing else differs.
        if facts.guard.audit != NO_RULE {
            verdict.shadow = match (verdict.decision, admits.of(World::Shadow)) {
                (Decision::Deny, Some(number)) => Some((Decision::Allow, Reason::RuleMatched, self.key(number))),
                (Decision::Allow, None) => {
                    let refusal = self.refuse(caller, port, facts, World::Shadow);
                    Some((refusal.decision, refusal.reason, refusal.rule))
                }
                (Decision::Allow, Some(_)) | (Decision::Deny, None) => None,
            };
        }
        verdict
    }

    fn admits_identity(&self, id: &str, port: u16, facts: &Facts) -> Rank {
        let mut rank = facts.any;
        if let Some(exact) = self.identities.get(id) {
            rank.merge(exact.at(port));
        }
        if !self.namespaces.is_empty()
            && let Some(namespace) = Name::parse(id).and_then(|name| name.namespace_key)
            && let Some(whole) = self.namespaces.get(namespace)
        {
            rank.merge(whole.at(port));
        }
        rank
    }

    fn admits_plaintext(&self, ip: IpAddr, port: u16) -> Rank {
        let here = self.networks.get(&port).into_iter().flat_map(|networks| networks.holding(ip));
        self.everywhere.holding(ip).chain(here).fold(Rank::default(), |mut rank, more| {
            rank.merge(more);
            rank
        })
    }

    fn by_posture(&self, caller: &Caller<'_>) -> Verdict {
        match (self.posture, caller) {
            (Posture::Allow, _) => Verdict::plain(Decision::Allow, Reason::PostureAllow),
            (Posture::Audit, _) => Verdict {
                shadow: Some((Decision::Deny, Reason::PostureDeny, None)),
                ..Verdict::plain(Decision::Allow, Reason::PostureAudit)
            },
            (Posture::Authenticated, Caller::Identity(_)) => {
                Verdict::plain(Decision::Allow, Reason::PostureAuthenticated)
            }
            (Posture::Authenticated, Caller::Plaintext(_)) => Verdict::plain(Decision::Deny, Reason::PosturePlaintext),
            (Posture::Deny, _) => Verdict::plain(Decision::Deny, Reason::PostureDeny),
        }
    }
}
