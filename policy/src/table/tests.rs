//! Verdicts against an oracle that looks at every rule and every source, one after the other.
mod oracle;

use super::*;
use crate::compile::{Admits, Mode, Ports, Source};
use crate::verdict::Difference;
use ipnet::IpNet;
use oracle::Oracle;
use proptest::prelude::*;
use proptest::sample::select;

const TRUST_DOMAINS: [&str; 2] = ["mesh.example", "partner.example"];
const NAMESPACES: [&str; 4] = ["shop", "shop-2", "edge", "s"];
const ACCOUNTS: [&str; 5] = ["cart", "cart-2", "c.rt", "checkout", "*"];
/// What a verified identity, or a rule, can hold besides the usual form; some of it nobody can have.
const ODD: [&str; 9] = [
    "spiffe://mesh.example",
    "spiffe://mesh.example/cart",
    "spiffe://mesh.example/ns/shop",
    "spiffe://mesh.example/ns/shop/sa/",
    "spiffe://mesh.example/ns/shop/sa/cart/more",
    "spiffe://mesh.example/ns//sa/cart",
    "spiffe://mesh.example/x/ns/shop/sa/cart",
    "SPIFFE://mesh.example/ns/shop/sa/cart",
    "",
];
const PORTS: [u16; 4] = [1, 80, 8080, 65535];

fn identity() -> impl Strategy<Value = String> {
    let usual = (select(&TRUST_DOMAINS[..]), select(&NAMESPACES[..]), select(&ACCOUNTS[..]))
        .prop_map(|(td, ns, sa)| format!("spiffe://{td}/ns/{ns}/sa/{sa}"));
    prop_oneof![8 => usual, 1 => select(&ODD[..]).prop_map(str::to_owned)]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        (0u32..8).prop_map(|low| IpAddr::V4((0x0a00_0000 + low).into())),
        (0u128..8).prop_map(|low| IpAddr::V6(((0x2001_0db8u128 << 96) + low).into())),
    ]
}

fn network() -> impl Strategy<Value = IpNet> {
    // Now and then with host bits set: then the whole rule admits nobody (F37).
    (address(), prop_oneof![Just(0u8), 28u8..=32], 0..20).prop_map(|(ip, length, dice)| {
        let length = if ip.is_ipv6() && length > 0 { length + 96 } else { length };
        let network = IpNet::new(ip, length).unwrap();
        if dice == 0 { network } else { network.trunc() }
    })
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        5 => identity().prop_map(Source::Identity),
        3 => (select(&TRUST_DOMAINS[..]), select(&NAMESPACES[..]))
            .prop_map(|(td, ns)| Source::Namespace { trust_domain: td.to_owned(), namespace: ns.to_owned() }),
        1 => Just(Source::AnyAuthenticated),
        3 => prop::collection::vec(network(), 0..3).prop_map(Source::Plaintext),
    ]
}

fn rule() -> impl Strategy<Value = WorkloadRule> {
    let admits = prop_oneof![
        9 => prop::collection::vec(source(), 0..4).prop_map(Admits::Sources),
        1 => Just(Admits::Nobody("spec.from: found nothing, want callers".to_owned())),
    ];
    let ports = prop_oneof![
        1 => Just(Ports::All),
        3 => prop::collection::vec(select(&PORTS[..]), 0..3).prop_map(Ports::These),
    ];
    let features = prop_oneof![9 => Just(vec!["identity".to_owned()]), 1 => Just(vec!["http".to_owned()])];
    let mode = prop_oneof![2 => Just(Mode::Enforce), 1 => Just(Mode::Audit)];
    (0..20u8, admits, ports, features, mode).prop_map(|(name, admits, ports, features, mode)| WorkloadRule {
        key: RuleKey { namespace: "shop".to_owned(), name: format!("rule-{name}") },
        generation: 1,
        ports,
        mode,
        admits,
        features,
    })
}

/// Rules with names of their own, as the operator sends them.
fn rules() -> impl Strategy<Value = Vec<WorkloadRule>> {
    prop::collection::vec(rule(), 0..6).prop_map(|mut rules| {
        rules.sort_by(|a, b| a.key.cmp(&b.key));
        rules.dedup_by(|a, b| a.key == b.key);
        rules
    })
}

fn posture() -> impl Strategy<Value = Posture> {
    select(&[Posture::Allow, Posture::Audit, Posture::Authenticated, Posture::Deny][..])
}

#[derive(Debug, Clone)]
enum Who {
    Identity(String),
    Plaintext(IpAddr),
}

impl Who {
    fn caller(&self) -> Caller<'_> {
        match self {
            Self::Identity(id) => Caller::Identity(id),
            Self::Plaintext(ip) => Caller::Plaintext(*ip),
        }
    }
}

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![2 => identity().prop_map(Who::Identity), 1 => address().prop_map(Who::Plaintext)]
}

/// Every caller that the strategies can make, so that one set of rules is judged in full.
fn everybody() -> Vec<Who> {
    let mut all = Vec::new();
    for td in TRUST_DOMAINS {
        for ns in NAMESPACES {
            all.extend(ACCOUNTS.map(|sa| Who::Identity(format!("spiffe://{td}/ns/{ns}/sa/{sa}"))));
        }
    }
    all.extend(ODD.map(|id| Who::Identity(id.to_owned())));
    all.extend((0u32..9).map(|low| Who::Plaintext(IpAddr::V4((0x0a00_0000 + low).into()))));
    all.extend((0u128..9).map(|low| Who::Plaintext(IpAddr::V6(((0x2001_0db8u128 << 96) + low).into()))));
    all
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_table_judges_as_the_oracle_does(posture in posture(), rules in rules()) {
        let table = Table::compile(posture, &rules);
        let oracle = Oracle { posture, rules: &rules };
        for who in everybody() {
            for port in PORTS.into_iter().chain([2]) {
                let caller = who.caller();
                prop_assert_eq!(table.judge(&caller, port), oracle.judge(&caller, port), "{:?} on {}", who, port);
            }
        }
    }

    #[test]
    fn the_order_of_rules_changes_nothing(
        posture in posture(),
        (rules, shuffled) in rules().prop_flat_map(|rules| (Just(rules.clone()), Just(rules).prop_shuffle())),
        who in who(),
        port in select(&PORTS[..]),
    ) {
        let (one, other) = (Table::compile(posture, &rules), Table::compile(posture, &shuffled));
        prop_assert_eq!(one.judge(&who.caller(), port), other.judge(&who.caller(), port));
    }

    #[test]
    fn an_audit_rule_never_changes_a_decision(posture in posture(), rules in rules(), added in rule()) {
        let audit = WorkloadRule { mode: Mode::Audit, ..added };
        let before = Table::compile(posture, &rules);
        let after = Table::compile(posture, &[rules, vec![audit]].concat());
        for who in everybody() {
            for port in PORTS {
                let (before, after) = (before.judge(&who.caller(), port), after.judge(&who.caller(), port));
                prop_assert_eq!((before.decision, before.reason), (after.decision, after.reason), "{:?} on {}", who, port);
            }
        }
    }

    #[test]
    fn an_enforce_rule_admits_whom_it_matches_and_only_guards_its_own_ports(
        posture in posture(), rules in rules(), added in rule(),
    ) {
        let added = WorkloadRule { mode: Mode::Enforce, key: RuleKey { namespace: "shop".into(), name: "added".into() }, ..added };
        let alone = Table::compile(Posture::Deny, std::slice::from_ref(&added));
        let before = Table::compile(posture, &rules);
        let after = Table::compile(posture, &[rules.clone(), vec![added.clone()]].concat());
        for who in everybody() {
            for port in PORTS {
                let caller = who.caller();
                let (was, is) = (before.judge(&caller, port), after.judge(&caller, port));
                if !alone.guards(port) {
                    prop_assert_eq!(was, is, "{:?} on {}: the rule does not cover this port", who, port);
                } else if alone.judge(&caller, port).allows() || (before.guards(port) && was.allows()) {
                    prop_assert!(is.allows(), "{:?} on {}: rules only allow", who, port);
                } else {
                    prop_assert!(!is.allows(), "{:?} on {}: guarded, and nothing matches", who, port);
                }
            }
        }
    }

    #[test]
    fn f3_an_identity_matches_byte_for_byte_or_not_at_all(rule_id in identity(), caller in identity()) {
        let table = Table::compile(Posture::Allow, &[naming("exact", vec![Source::Identity(rule_id.clone())])]);
        prop_assert_eq!(table.judge(&Caller::Identity(&caller), 80).allows(), rule_id.as_bytes() == caller.as_bytes());
    }
}

fn naming(name: &str, sources: Vec<Source>) -> WorkloadRule {
    WorkloadRule {
        key: RuleKey { namespace: "shop".to_owned(), name: name.to_owned() },
        generation: 1,
        ports: Ports::All,
        mode: Mode::Enforce,
        admits: Admits::Sources(sources),
        features: Vec::new(),
    }
}

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";

#[test]
fn f3_a_dot_in_a_service_account_is_a_dot() {
    let table = Table::compile(Posture::Deny, &[naming("dot", vec![Source::Identity(CART.replace("cart", "c.rt"))])]);
    assert!(!table.judge(&Caller::Identity(CART), 80).allows(), "c.rt must not admit cart");
    assert!(table.judge(&Caller::Identity(&CART.replace("cart", "c.rt")), 80).allows());
}

#[test]
fn f3_a_namespace_is_a_whole_segment() {
    let namespace = Source::Namespace { trust_domain: "mesh.example".to_owned(), namespace: "shop".to_owned() };
    let table = Table::compile(Posture::Deny, &[naming("shop", vec![namespace])]);
    assert!(table.judge(&Caller::Identity(CART), 80).allows());
    for other in [
        "spiffe://mesh.example/ns/shop-2/sa/cart",
        "spiffe://mesh.example/ns/sho/sa/cart",
        "spiffe://mesh.example/ns/shop/sa/cart/more",
        "spiffe://mesh.example/ns/shop/sb/cart",
        "spiffe://mesh.example/x/ns/shop/sa/cart",
        "spiffe://partner.example/ns/shop/sa/cart",
        "spiffe://mesh.example.x/ns/shop/sa/cart",
    ] {
        assert!(!table.judge(&Caller::Identity(other), 80).allows(), "{other}");
    }
}

#[test]
fn f7_a_rule_that_needs_an_unknown_feature_guards_and_admits_nobody() {
    let newer = WorkloadRule {
        features: vec!["identity".to_owned(), "http".to_owned()],
        ..naming("newer", vec![Source::AnyAuthenticated])
    };
    let verdict = Table::compile(Posture::Allow, &[newer]).judge(&Caller::Identity(CART), 80);
    assert_eq!((verdict.decision, verdict.reason), (Decision::Deny, Reason::GuardedByUnusableRule));
    let Some(Difference::Unusable(why)) = verdict.difference else { panic!("{:?}", verdict.difference) };
    assert!(why.contains("feature http"), "{why}");
}

#[test]
fn a_usable_rule_beside_an_unusable_one_still_admits() {
    let broken = WorkloadRule { admits: Admits::Nobody("broken".to_owned()), ..naming("broken", Vec::new()) };
    let table = Table::compile(Posture::Deny, &[broken, naming("good", vec![Source::Identity(CART.to_owned())])]);
    assert!(table.judge(&Caller::Identity(CART), 80).allows());
    assert_eq!(table.unusable().len(), 1);
    assert_eq!(table.unusable()[0].0.name, "broken");
}

#[test]
fn f34_before_the_first_configuration_everything_is_denied() {
    for table in [Table::unconfigured(), Table::default()] {
        for caller in [Caller::Identity(CART), Caller::Plaintext([127, 0, 0, 1].into())] {
            let verdict = table.judge(&caller, 80);
            assert_eq!(verdict, Verdict::plain(Decision::Deny, Reason::NoConfiguration));
        }
        assert!(table.guards(80));
    }
}

#[test]
fn f37_a_network_with_host_bits_refuses_the_whole_rule() {
    let networks = Source::Plaintext(vec!["10.1.0.0/16".parse().unwrap(), "10.2.3.4/16".parse().unwrap()]);
    let table = Table::compile(Posture::Allow, &[naming("cidr", vec![networks, Source::AnyAuthenticated])]);
    for caller in [Caller::Plaintext([10, 1, 0, 1].into()), Caller::Identity(CART)] {
        let verdict = table.judge(&caller, 80);
        assert_eq!(verdict.reason, Reason::GuardedByUnusableRule, "{caller:?}");
        assert!(matches!(&verdict.difference, Some(Difference::Unusable(why)) if why.contains("10.2.0.0/16")));
    }
}

#[test]
fn a_plaintext_caller_is_never_taken_for_an_identity() {
    let table = Table::compile(Posture::Allow, &[naming("any", vec![Source::AnyAuthenticated])]);
    let verdict = table.judge(&Caller::Plaintext([10, 0, 0, 1].into()), 80);
    assert_eq!((verdict.decision, verdict.difference), (Decision::Deny, Some(Difference::Plaintext)));
}

#[test]
fn all_ipv6_is_not_ipv4_and_a_mapped_caller_is() {
    let v6 = naming("v6", vec![Source::Plaintext(vec!["::/0".parse().unwrap()])]);
    let v4 = naming("v4", vec![Source::Plaintext(vec!["10.0.0.0/8".parse().unwrap()])]);
    let mapped = Caller::Plaintext("::ffff:10.0.0.1".parse().unwrap());
    assert!(!Table::compile(Posture::Deny, &[v6]).judge(&mapped, 80).allows());
    assert!(Table::compile(Posture::Deny, &[v4]).judge(&mapped, 80).allows());
}

#[test]
fn many_rules_for_one_caller_and_port_are_one_entry() {
    let rules: Vec<_> =
        (0..5000).map(|n| naming(&format!("r-{n:05}"), vec![Source::Identity(CART.to_owned())])).collect();
    let verdict = Table::compile(Posture::Deny, &rules).judge(&Caller::Identity(CART), 80);
    assert_eq!(verdict.rule.unwrap().name, "r-00000");
}
