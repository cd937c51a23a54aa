//! From rules to a table. Every rule is looked at once, in the order of names.
use super::closest::{Near, Nearest, Want};
use super::{Compiled, Facts, Merge, NO_RULE, Rank};
use crate::compile::{Admits, FEATURES, Mode, Ports, Posture, Source, WorkloadRule};
use crate::name::Name;
use crate::networks::Networks;
use crate::ports::{PerPort, Scoped};
use crate::verdict::shown;
use ipnet::IpNet;
use std::collections::HashMap;

/// Compiles; see `Table::compile`.
pub(super) fn compile(posture: Posture, rules: &[WorkloadRule]) -> Compiled {
    let mut ordered: Vec<&WorkloadRule> = rules.iter().collect();
    ordered.sort_unstable();
    let mut building = Building::default();
    // The last number means "no rule"; four billion rules fit into no message.
    for (number, rule) in (0..NO_RULE).zip(&ordered) {
        building.add(number, rule);
    }
    let mut networks = building.networks;
    let built = |entries| Networks::build(entries, |kept: &mut Rank, more: Rank| kept.merge(&more));
    Compiled {
        posture,
        rules: ordered.iter().map(|rule| rule.key.clone()).collect(),
        unusable: building.unusable,
        ports: building.facts.finish(),
        identities: finish(building.identities, |rank| rank),
        namespaces: finish(building.namespaces, |rank| rank),
        everywhere: built(networks.remove(&None).unwrap_or_default()),
        networks: networks.into_iter().filter_map(|(port, entries)| Some((port?, built(entries)))).collect(),
        nearest: Nearest {
            in_namespace: finish(building.in_namespace, Near::owned),
            in_trust_domain: finish(building.in_trust_domain, Near::owned),
            anywhere: building.anywhere.finish().map(Near::owned),
        },
    }
}

fn finish<K: Into<Box<str>>, T: Merge + Default + Clone, U>(
    map: HashMap<K, Scoped<T>>,
    each: impl Fn(T) -> U + Copy,
) -> HashMap<Box<str>, PerPort<U>> {
    map.into_iter().map(|(key, scoped)| (key.into(), scoped.finish().map(each))).collect()
}

/// A table in the making; `None` as a port is every port.
#[derive(Default)]
struct Building<'a> {
    unusable: HashMap<u32, String>,
    facts: Scoped<Facts>,
    identities: HashMap<&'a str, Scoped<Rank>>,
    namespaces: HashMap<String, Scoped<Rank>>,
    networks: HashMap<Option<u16>, Vec<(IpNet, Rank)>>,
    in_namespace: HashMap<&'a str, Scoped<Near<&'a str>>>,
    in_trust_domain: HashMap<&'a str, Scoped<Near<&'a str>>>,
    anywhere: Scoped<Near<&'a str>>,
}

impl<'a> Building<'a> {
    fn add(&mut self, number: u32, rule: &'a WorkloadRule) {
        let audit = rule.mode == Mode::Audit;
        let rank =
            if audit { Rank { enforce: NO_RULE, audit: number } } else { Rank { enforce: number, audit: NO_RULE } };
        let mut facts = Facts { guard: rank, ..Facts::default() };
        let sources: &'a [Source] = match usable(rule) {
            Ok(sources) => sources,
            Err(why) => {
                self.unusable.insert(number, why);
                facts.unusable = rank;
                &[]
            }
        };
        for source in sources {
            match source {
                Source::AnyAuthenticated => (facts.any, facts.identities) = (rank, rank),
                Source::Identity(_) | Source::Namespace { .. } => facts.identities = rank,
                Source::Plaintext(networks) if networks.is_empty() => {}
                Source::Plaintext(_) => facts.plaintext = rank,
            }
        }
        let mut cover = |port: Option<u16>| {
            self.facts.add(port, facts);
            for source in sources {
                self.admit(source, port, rank, |want| Near::new(number, audit, want));
            }
        };
        match &rule.ports {
            Ports::All => cover(None),
            Ports::These(ports) => ports.iter().for_each(|port| cover(Some(*port))),
        }
    }

    fn admit(
        &mut self,
        source: &'a Source,
        port: Option<u16>,
        rank: Rank,
        near: impl Fn(Want<&'a str>) -> Near<&'a str>,
    ) {
        match source {
            Source::Identity(id) => {
                self.identities.entry(id).or_default().add(port, rank);
                let Some(name) = Name::parse(id) else {
                    // Nobody can have such an identity; it is named, so that the mistake is seen.
                    return self.anywhere.add(port, near(Want::Identity(id)));
                };
                if let (Some(key), Some(service_account)) = (name.namespace_key, name.service_account) {
                    self.in_namespace.entry(key).or_default().add(port, near(Want::ServiceAccount(service_account)));
                }
                let want = name.namespace.map_or(Want::Identity(id.as_str()), Want::Namespace);
                self.want_in_trust_domain(
                    name.trust_domain,
                    port,
                    near(want),
                    near(Want::TrustDomain(name.trust_domain)),
                );
            }
            Source::Namespace { trust_domain, namespace } => {
                self.namespaces.entry(format!("{trust_domain}/ns/{namespace}")).or_default().add(port, rank);
                let (near, far) = (near(Want::Namespace(namespace)), near(Want::TrustDomain(trust_domain)));
                self.want_in_trust_domain(trust_domain, port, near, far);
            }
            // No identity is refused where any is admitted, so there is nothing to come close to.
            Source::AnyAuthenticated => {}
            Source::Plaintext(networks) => {
                let all = networks.iter().map(|network| (*network, rank));
                self.networks.entry(port).or_default().extend(all);
            }
        }
    }

    fn want_in_trust_domain(&mut self, name: &'a str, port: Option<u16>, near: Near<&'a str>, far: Near<&'a str>) {
        self.in_trust_domain.entry(name).or_default().add(port, near);
        self.anywhere.add(port, far);
    }
}

/// What the rule admits, or why it admits nobody.
fn usable(rule: &WorkloadRule) -> Result<&[Source], String> {
    let sources = match &rule.admits {
        Admits::Sources(sources) => sources,
        Admits::Nobody(why) => return Err(shown(why)),
    };
    if let Some(missing) = rule.features.iter().filter(|feature| !FEATURES.contains(&feature.as_str())).min() {
        return Err(format!("it needs the feature {}, which this program lacks", shown(missing)));
    }
    let networks = sources.iter().filter_map(|source| match source {
        Source::Plaintext(networks) => Some(networks),
        _ => None,
    });
    // A network that is not what it says is not guessed at: the rule is refused whole (F37).
    match networks.flatten().filter(|network| **network != network.trunc()).min() {
        Some(bad) => Err(format!("the network {bad} has bits set beyond its prefix; {} may be meant", bad.trunc())),
        None => Ok(sources),
    }
}
