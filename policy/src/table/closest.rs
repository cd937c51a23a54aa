//! For a denial: the rule that came closest and what differed. A handful of look-ups, whatever the number of rules, so that a
//! flood of refused callers costs no more than it should.
//!
//! An identity is compared from near to far: same namespace with another service account, another namespace, another trust
//! domain, plaintext alone. A rule that was refused comes before all of them: it might have admitted the caller.
use super::{Compiled, Facts, Merge, PerPort, World};
use crate::name::Name;
use crate::verdict::{Caller, Decision, Difference, Reason, Verdict};
use std::collections::HashMap;

/// What each port's rules want of an identity.
#[derive(Debug, Default)]
pub(super) struct Nearest {
    /// By `<trust domain>/ns/<namespace>`: service accounts wanted there.
    pub(super) in_namespace: HashMap<Box<str>, PerPort<Near<Box<str>>>>,
    /// By trust domain: namespaces (or identities of another form) wanted there.
    pub(super) in_trust_domain: HashMap<Box<str>, PerPort<Near<Box<str>>>>,
    /// Trust domains wanted.
    pub(super) anywhere: PerPort<Near<Box<str>>>,
}

/// The first rule in force and the first on trial, each with what it wants. Names are borrowed while a table is built.
#[derive(Debug, Clone)]
pub(super) struct Near<S> {
    enforce: Option<(u32, Want<S>)>,
    audit: Option<(u32, Want<S>)>,
}

impl<S> Default for Near<S> {
    fn default() -> Self {
        Self { enforce: None, audit: None }
    }
}

/// What a rule wants where the caller differs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Want<S> {
    ServiceAccount(S),
    Namespace(S),
    TrustDomain(S),
    Identity(S),
}

impl Want<&str> {
    fn owned(self) -> Want<Box<str>> {
        match self {
            Self::ServiceAccount(name) => Want::ServiceAccount(name.into()),
            Self::Namespace(name) => Want::Namespace(name.into()),
            Self::TrustDomain(name) => Want::TrustDomain(name.into()),
            Self::Identity(id) => Want::Identity(id.into()),
        }
    }
}

impl From<&Want<Box<str>>> for Difference {
    fn from(want: &Want<Box<str>>) -> Self {
        match want {
            Want::ServiceAccount(name) => Self::ServiceAccount(name.to_string()),
            Want::Namespace(name) => Self::Namespace(name.to_string()),
            Want::TrustDomain(name) => Self::TrustDomain(name.to_string()),
            Want::Identity(id) => Self::Identity(id.to_string()),
        }
    }
}

impl<S: Ord> Near<S> {
    pub(super) fn new(number: u32, audit: bool, want: Want<S>) -> Self {
        let found = Some((number, want));
        if audit { Self { enforce: None, audit: found } } else { Self { enforce: found, audit: None } }
    }

    fn of(&self, world: World) -> Option<&(u32, Want<S>)> {
        let trial = self.audit.as_ref().filter(|_| world == World::Shadow);
        self.enforce.iter().chain(trial).min()
    }
}

impl Near<&str> {
    pub(super) fn owned(self) -> Near<Box<str>> {
        let owned = |(number, want): (u32, Want<&str>)| (number, want.owned());
        Near { enforce: self.enforce.map(owned), audit: self.audit.map(owned) }
    }
}

impl<S: Ord + Clone> Merge for Near<S> {
    fn merge(&mut self, other: &Self) {
        merge_first(&mut self.enforce, other.enforce.as_ref());
        merge_first(&mut self.audit, other.audit.as_ref());
    }
}

fn merge_first<T: Ord + Clone>(kept: &mut Option<T>, other: Option<&T>) {
    if let Some(other) = other
        && kept.as_ref().is_none_or(|kept| other < kept)
    {
        *kept = Some(other.clone());
    }
}

impl Nearest {
    /// The nearest rule for an identity that no rule admits on this port.
    fn to_identity(&self, id: &str, port: u16, world: World) -> Option<&(u32, Want<Box<str>>)> {
        let name = Name::parse(id);
        let in_namespace = || self.in_namespace.get(name?.namespace_key?)?.at(port).of(world);
        let in_trust_domain = || self.in_trust_domain.get(name?.trust_domain)?.at(port).of(world);
        in_namespace().or_else(in_trust_domain).or_else(|| self.anywhere.at(port).of(world))
    }
}

impl Compiled {
    /// The denial of a caller whom no rule of a guarded port admits.
    pub(super) fn refuse(&self, caller: &Caller<'_>, port: u16, facts: &Facts, world: World) -> Verdict {
        let unusable = facts.unusable.of(world);
        let reason = if unusable.is_some() { Reason::GuardedByUnusableRule } else { Reason::NoRuleMatched };
        let closest = unusable
            .map(|number| (number, Difference::Unusable(self.unusable.get(&number).cloned().unwrap_or_default())))
            .or_else(|| match caller {
                Caller::Identity(id) => self
                    .nearest
                    .to_identity(id, port, world)
                    .map(|(number, want)| (*number, want.into()))
                    .or_else(|| Some((facts.plaintext.of(world)?, Difference::Address))),
                Caller::Plaintext(_) => facts
                    .plaintext
                    .of(world)
                    .map(|number| (number, Difference::Address))
                    .or_else(|| Some((facts.identities.of(world)?, Difference::Plaintext))),
            })
            .or_else(|| Some((facts.guard.of(world)?, Difference::Nobody)));
        let (rule, difference) = closest.map_or((None, None), |(number, what)| (self.key(number), Some(what)));
        Verdict { rule, difference, ..Verdict::plain(Decision::Deny, reason) }
    }
}
