//! The same verdicts, worked out slowly: every rule, every source, in plain words of design section 5.
use crate::compile::{Admits, FEATURES, Mode, Ports, Posture, RuleKey, Source, WorkloadRule};
use crate::verdict::{Caller, Decision, Difference, Reason, RuleRef, Verdict};

pub(super) struct Oracle<'a> {
    pub(super) posture: Posture,
    pub(super) rules: &'a [WorkloadRule],
}

impl Oracle<'_> {
    pub(super) fn judge(&self, caller: &Caller<'_>, port: u16) -> Verdict {
        let covering = || self.rules.iter().filter(move |rule| covers(rule, port));
        let in_force: Vec<_> = covering().filter(|rule| rule.mode == Mode::Enforce).collect();
        let mut verdict = self.decide(&in_force, caller);
        // The other world: audit rules in force, and `deny` in place of `audit`.
        let all: Vec<_> = covering().collect();
        let posture = if self.posture == Posture::Audit { Posture::Deny } else { self.posture };
        let other = Oracle { posture, rules: self.rules }.decide(&all, caller);
        if other.decision != verdict.decision {
            verdict.shadow = Some((other.decision, other.reason, other.rule));
        }
        verdict
    }

    fn decide(&self, rules: &[&WorkloadRule], caller: &Caller<'_>) -> Verdict {
        if rules.is_empty() {
            let identity = matches!(caller, Caller::Identity(_));
            let (decision, reason) = match self.posture {
                Posture::Allow => (Decision::Allow, Reason::PostureAllow),
                Posture::Audit => (Decision::Allow, Reason::PostureAudit),
                Posture::Authenticated if identity => (Decision::Allow, Reason::PostureAuthenticated),
                Posture::Authenticated => (Decision::Deny, Reason::PosturePlaintext),
                Posture::Deny => (Decision::Deny, Reason::PostureDeny),
            };
            return Verdict { decision, reason, rule: None, difference: None, shadow: None };
        }
        let key = |rule: &WorkloadRule| Some(RuleRef::from(rule.key.clone()));
        let admitting = rules.iter().filter(|rule| admits(rule, caller)).min_by_key(|rule| &rule.key);
        if let Some(rule) = admitting {
            let (decision, reason) = (Decision::Allow, Reason::RuleMatched);
            return Verdict { decision, reason, rule: key(rule), difference: None, shadow: None };
        }
        let unusable = rules.iter().any(|rule| !usable(rule));
        // (how far, rule, which difference): the least of all is the closest.
        let mut near: Vec<(u8, &RuleKey, String, Difference)> = Vec::new();
        for rule in rules {
            if !usable(rule) {
                near.push((0, &rule.key, String::new(), Difference::Unusable(String::new())));
                continue;
            }
            near.push((9, &rule.key, String::new(), Difference::Nobody));
            for source in sources(rule) {
                if let Some((far, difference)) = far(source, caller) {
                    near.push((far, &rule.key, order(&difference), difference));
                }
            }
        }
        near.sort_by(|a, b| (a.0, a.1, &a.2).cmp(&(b.0, b.1, &b.2)));
        let (_, rule, _, mut difference) = near.remove(0);
        if let Difference::Unusable(_) = difference {
            difference = Difference::Unusable(why(rules.iter().find(|r| r.key == *rule).unwrap()));
        }
        Verdict {
            decision: Decision::Deny,
            reason: if unusable { Reason::GuardedByUnusableRule } else { Reason::NoRuleMatched },
            rule: Some(rule.clone().into()),
            difference: Some(difference),
            shadow: None,
        }
    }
}

fn covers(rule: &WorkloadRule, port: u16) -> bool {
    match &rule.ports {
        Ports::All => true,
        Ports::These(ports) => ports.contains(&port),
    }
}

fn sources(rule: &WorkloadRule) -> &[Source] {
    match &rule.admits {
        Admits::Sources(sources) => sources,
        Admits::Nobody(_) => &[],
    }
}

fn usable(rule: &WorkloadRule) -> bool {
    let whole = |source: &Source| match source {
        Source::Plaintext(networks) => networks.iter().all(|network| network.addr() == network.network()),
        _ => true,
    };
    matches!(rule.admits, Admits::Sources(_))
        && rule.features.iter().all(|feature| FEATURES.contains(&feature.as_str()))
        && sources(rule).iter().all(whole)
}

fn why(rule: &WorkloadRule) -> String {
    if let Admits::Nobody(why) = &rule.admits {
        return why.clone();
    }
    if rule.features.iter().any(|feature| feature == "http") {
        return "it needs the feature http, which this program lacks".to_owned();
    }
    let networks = sources(rule).iter().filter_map(|source| match source {
        Source::Plaintext(networks) => Some(networks),
        _ => None,
    });
    let bad = networks.flatten().filter(|network| network.addr() != network.network()).min().unwrap();
    format!("the network {bad} has bits set beyond its prefix; {} may be meant", bad.trunc())
}

fn admits(rule: &WorkloadRule, caller: &Caller<'_>) -> bool {
    usable(rule)
        && sources(rule).iter().any(|source| match (source, caller) {
            (Source::Identity(wanted), Caller::Identity(id)) => wanted == id,
            (Source::Namespace { trust_domain, namespace }, Caller::Identity(id)) => {
                parts(id).is_some_and(|(td, ns, _)| td == trust_domain && ns == namespace)
            }
            (Source::AnyAuthenticated, Caller::Identity(_)) => true,
            (Source::Plaintext(networks), Caller::Plaintext(ip)) => networks.iter().any(|net| net.contains(ip)),
            _ => false,
        })
}

/// Trust domain, namespace, service account, when the identity has exactly that form.
fn parts(id: &str) -> Option<(&str, &str, &str)> {
    match id.split('/').collect::<Vec<_>>()[..] {
        ["spiffe:", "", td, "ns", ns, "sa", sa] if !ns.is_empty() && !sa.is_empty() => Some((td, ns, sa)),
        _ => None,
    }
}

fn trust_domain(id: &str) -> Option<&str> {
    match id.split('/').collect::<Vec<_>>()[..] {
        ["spiffe:", "", td, ..] => Some(td),
        _ => None,
    }
}

/// How far a source that does not admit the caller is from doing so.
fn far(source: &Source, caller: &Caller<'_>) -> Option<(u8, Difference)> {
    let id = match (source, caller) {
        (Source::Plaintext(networks), _) if networks.is_empty() => return None,
        (Source::Plaintext(_), Caller::Plaintext(_)) => return Some((1, Difference::Address)),
        (Source::Plaintext(_), Caller::Identity(_)) => return Some((4, Difference::Address)),
        (_, Caller::Plaintext(_)) => return Some((2, Difference::Plaintext)),
        (_, Caller::Identity(id)) => id,
    };
    let (wanted_td, wanted_ns, wanted_sa, whole) = match source {
        Source::Identity(wanted) => {
            let Some(td) = trust_domain(wanted) else { return Some((3, Difference::Identity(wanted.clone()))) };
            let parts = parts(wanted);
            (td, parts.map(|p| p.1), parts.map(|p| p.2), Some(wanted))
        }
        Source::Namespace { trust_domain, namespace } => (trust_domain.as_str(), Some(namespace.as_str()), None, None),
        _ => return None,
    };
    if trust_domain(id) != Some(wanted_td) {
        return Some((3, Difference::TrustDomain(wanted_td.to_owned())));
    }
    if let (Some((_, ns, _)), Some(wanted), Some(sa)) = (parts(id), wanted_ns, wanted_sa)
        && ns == wanted
    {
        return Some((1, Difference::ServiceAccount(sa.to_owned())));
    }
    match (wanted_ns, whole) {
        (Some(wanted), _) => Some((2, Difference::Namespace(wanted.to_owned()))),
        (None, Some(whole)) => Some((2, Difference::Identity(whole.clone()))),
        (None, None) => None,
    }
}

/// Among equals: service account, namespace, trust domain, identity, each by name.
fn order(difference: &Difference) -> String {
    match difference {
        Difference::ServiceAccount(name) => format!("1 {name}"),
        Difference::Namespace(name) => format!("2 {name}"),
        Difference::TrustDomain(name) => format!("3 {name}"),
        Difference::Identity(id) => format!("4 {id}"),
        _ => String::new(),
    }
}
