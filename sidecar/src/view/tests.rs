//! Messages of the operator: taken whole or not at all, never back, and what is not understood admits nobody.
use super::*;
use proptest::prelude::*;
use prost::Message as _;
use signet_policy::Caller;

fn config(revision: u64, posture: wire::Posture) -> wire::Config {
    wire::Config {
        version: Some(wire::Version { revision, digest: revision.to_string() }),
        addresses: vec![vec![10, 0, 0, 1]],
        posture: Some(posture),
        ..wire::Config::default()
    }
}

fn posture(inbound: &str, egress: &str) -> wire::Posture {
    let prefix = Some(wire::Prefix { address: vec![192, 0, 2, 0], length: 24 });
    let egress_exceptions = vec![wire::EgressException { prefix, ports: vec![] }];
    wire::Posture { inbound: inbound.into(), egress: egress.into(), egress_exceptions }
}

fn admits(view: &View, id: &str) -> bool {
    let state = view.state().expect("a configuration");
    state.table.judge(&Caller::Identity(id), 80).decision == Decision::Allow
}

const WEB: &str = "spiffe://example.org/ns/shop/sa/web";

fn rule() -> wire::Rule {
    wire::Rule {
        namespace: "shop".into(),
        name: "web".into(),
        all_ports: true,
        mode: "Enforce".into(),
        sources: vec![wire::Source { kind: Some(wire::source::Kind::Identity(WEB.into())) }],
        ..wire::Rule::default()
    }
}

#[test]
fn f7_what_a_newer_operator_says_and_this_sidecar_does_not_know_admits_nobody() {
    let with = |change: fn(&mut wire::Rule)| {
        let mut rule = rule();
        change(&mut rule);
        let (view, _) = View::new();
        view.apply(&wire::Config { rules: vec![rule], ..config(1, posture("allow", "allow")) }).unwrap();
        admits(&view, WEB)
    };
    assert!(with(|_| ()), "the rule by itself");
    assert!(!with(|rule| rule.mode = "Canary".into()));
    assert!(!with(|rule| rule.mode = "audit".into()));
    assert!(!with(|rule| rule.mode = String::new()));
    assert!(!with(|rule| rule.features = vec!["http".into()]));
    assert!(!with(|rule| rule.refused = "no".into()));
    assert!(!with(|rule| rule.sources.push(wire::Source { kind: None })));
    assert!(!with(|rule| rule.sources[0].kind = Some(wire::source::Kind::AnyAuthenticated(false))));
    for word in ["", "Allow", "permissive", "allow "] {
        let (view, _) = View::new();
        view.apply(&config(1, posture(word, "allow"))).unwrap();
        assert!(!admits(&view, WEB), "posture {word:?}");
    }
}

#[test]
fn f7_an_egress_posture_that_is_not_known_lets_nothing_out_not_even_by_exception() {
    let judge = |word: &str, to: &str| {
        let (view, _) = View::new();
        view.apply(&config(1, posture("deny", word))).unwrap();
        view.state().unwrap().egress.judge(to.parse().unwrap())
    };
    assert_eq!(judge("deny", "192.0.2.1:80"), Decision::Allow);
    assert_eq!(judge("allow", "192.0.2.1:80"), Decision::Deny);
    for word in ["", "audit", "Allow", "deny-all"] {
        assert_eq!(judge(word, "192.0.2.1:80"), Decision::Deny, "egress {word:?}");
        assert_eq!(judge(word, "198.51.100.1:80"), Decision::Deny, "egress {word:?}");
    }
}

#[test]
fn an_older_configuration_and_other_content_under_the_same_revision_are_refused() {
    let (view, _) = View::new();
    view.apply(&config(5, posture("deny", "deny"))).unwrap();
    assert!(matches!(view.apply(&config(4, posture("allow", "allow"))), Err(ViewError::Older { offered: 4, held: 5 })));
    let mut other = config(5, posture("allow", "allow"));
    other.version.as_mut().unwrap().digest = "other".into();
    assert!(matches!(view.apply(&other), Err(ViewError::Conflict(5))));
    assert!(!admits(&view, WEB));
}

#[test]
fn one_bad_part_refuses_the_whole_message() {
    let (view, _) = View::new();
    view.apply(&config(1, posture("deny", "deny"))).unwrap();
    let bad: [fn(&mut wire::Config); 6] = [
        |c| c.version = None,
        |c| c.posture = None,
        |c| c.addresses.push(vec![1]),
        |c| c.rules.push(wire::Rule { ports: vec![65_536], all_ports: false, ..rule() }),
        |c| c.rules.push(wire::Rule { ports: vec![0], all_ports: false, ..rule() }),
        |c| c.mesh_ranges.push(wire::Prefix { address: vec![10, 0, 0, 0], length: 33 }),
    ];
    for (number, spoil) in bad.into_iter().enumerate() {
        let mut config = config(2, posture("allow", "allow"));
        spoil(&mut config);
        view.apply(&config).unwrap_err();
        assert!(!admits(&view, WEB), "number {number}");
    }
    let good =
        wire::Destination { address: vec![10, 0, 0, 9], kind: wire::Kind::Unmeshed.into(), ..Default::default() };
    let spoiled =
        wire::Endpoint { address: vec![10, 0, 0, 8], spiffe_id: "spiffe://Example.org/a".into(), ..Default::default() };
    let bad = wire::Destination {
        address: vec![10, 0, 0, 8],
        kind: wire::Kind::Meshed.into(),
        any_port: Some(spoiled),
        ..Default::default()
    };
    view.learn(&wire::Destinations { destinations: vec![good, bad] }).unwrap_err();
    assert!(view.destinations().is_empty());
}

#[test]
fn a_node_of_a_cluster_is_told_from_a_service() {
    let endpoint = wire::Endpoint { address: vec![10, 0, 0, 2], port: 80, spiffe_id: WEB.into(), ..Default::default() };
    let ports = vec![wire::PortEndpoints { port: 30080, endpoints: vec![endpoint], ..Default::default() }];
    let service =
        wire::Destination { address: vec![10, 0, 0, 9], kind: wire::Kind::Meshed.into(), ports, ..Default::default() };
    let node = wire::Destination { other_ports_unmeshed: true, ..service.clone() };
    assert!(matches!(Destination::read(&service).unwrap(), Destination::Service(ports) if ports.contains_key(&30080)));
    assert!(matches!(Destination::read(&node).unwrap(), Destination::Node(ports) if ports.contains_key(&30080)));
}

#[test]
fn with_session_affinity_the_others_are_known_and_called_by_those_alone_who_called_them_before() {
    let endpoint = |last: u8, id: &str| wire::Endpoint {
        address: vec![10, 0, 0, last],
        port: 80,
        spiffe_id: id.into(),
        ..Default::default()
    };
    let port = |affinity_seconds| wire::PortEndpoints {
        port: 80,
        endpoints: vec![endpoint(1, "")],
        others: vec![endpoint(2, WEB)],
        affinity_seconds,
    };
    let read = |affinity_seconds| {
        let ports = vec![port(affinity_seconds)];
        Destination::read(&wire::Destination { kind: wire::Kind::Meshed.into(), ports, ..Default::default() }).unwrap()
    };
    let to = SocketAddr::from(([10, 96, 0, 1], 80));
    let Way::To(behind) = read(30).way(to) else { panic!("it leads nowhere") };
    assert_eq!((behind.endpoints.len(), behind.all().count()), (1, 2));
    assert_eq!(behind.sticky.unwrap().timeout, Duration::from_secs(30));
    assert!(read(30).is_meshed(80), "one of the others is meshed");
    assert!(matches!(read(0).way(to), Way::To(Behind { sticky: None, .. })));
}

#[test]
fn a_port_of_a_node_that_may_lead_into_the_mesh_is_unknown_until_the_operator_lists_it() {
    let named = Named { id: WEB.parse().unwrap(), uid: None, tunnel_port: 15008, h2: true, http1: true };
    let pod = Endpoint { address: "10.0.0.2".parse().unwrap(), port: 80, peer: Some(named) };
    let plain = |port| Endpoint { address: "192.0.2.1".parse().unwrap(), port, peer: None };
    let to = |endpoint: Endpoint| Behind::from(vec![endpoint]);
    let ports = HashMap::from([(30080, to(pod.clone())), (30081, to(plain(30081))), (8000, to(pod.clone()))]);
    let (node, service) = (Destination::Node(ports.clone()), Destination::Service(ports));
    let way = |destination: &Destination, port| destination.way(SocketAddr::new("192.0.2.1".parse().unwrap(), port));
    for (port, wanted) in [
        (30080, Way::To(to(pod.clone()))),
        (8000, Way::To(to(pod))),
        (30081, Way::To(to(plain(30081)))),
        (30082, Way::Unknown),
        (32767, Way::Unknown),
        (32768, Way::To(to(plain(32768)))),
        (443, Way::To(to(plain(443)))),
    ] {
        assert_eq!(way(&node, port), wanted, "{port}");
    }
    assert_eq!(way(&service, 443), Way::NoSuchPort);
    assert!(node.is_meshed(8000) && !node.is_meshed(30081) && !node.is_meshed(443));
}

fn version() -> impl Strategy<Value = Option<wire::Version>> {
    prop::option::weighted(0.9, (0..6_u64, "[ab]").prop_map(|(revision, digest)| wire::Version { revision, digest }))
}

fn prefix() -> impl Strategy<Value = wire::Prefix> {
    (bytes(), 0..140_u32).prop_map(|(address, length)| wire::Prefix { address, length })
}

/// Mostly an address.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => prop::collection::vec(any::<u8>(), 4), 8 => prop::collection::vec(any::<u8>(), 16), 1 => prop::collection::vec(any::<u8>(), 0..20)]
}

fn any_rule() -> impl Strategy<Value = wire::Rule> {
    use wire::source::Kind;
    let source = prop_oneof![
        Just(Some(Kind::Identity(WEB.into()))),
        ".{0,20}".prop_map(|id| Some(Kind::Identity(id))),
        any::<bool>().prop_map(|any| Some(Kind::AnyAuthenticated(any))),
        prop::collection::vec(prefix(), 0..3).prop_map(|prefixes| Some(Kind::Plaintext(wire::Plaintext { prefixes }))),
        Just(None),
    ]
    .prop_map(|kind| wire::Source { kind });
    let ports = prop::collection::vec(prop_oneof![8 => 1..65_536_u32, 1 => any::<u32>()], 0..4);
    (any::<bool>(), ports, "Enforce|Audit|.{0,5}", prop::collection::vec(source, 0..4))
        .prop_map(|(all_ports, ports, mode, sources)| wire::Rule { all_ports, ports, mode, sources, ..rule() })
}

fn any_config() -> impl Strategy<Value = wire::Config> {
    let rules = prop::collection::vec(any_rule(), 0..4);
    let addresses = prop::collection::vec(bytes(), 0..3);
    let mesh_ranges = prop::collection::vec(prefix(), 0..3);
    (version(), addresses, "allow|deny|.{0,4}", rules, mesh_ranges).prop_map(
        |(version, addresses, word, rules, mesh_ranges)| wire::Config {
            version,
            addresses,
            posture: Some(posture(&word, &word)),
            rules,
            mesh_ranges,
            ..wire::Config::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// F20: never a panic, all or nothing, never back; what is in force is what was taken last.
    #[test]
    fn f20_configurations_apply_whole_or_not_at_all_and_never_go_back(configs in prop::collection::vec(any_config(), 1..6)) {
        let (view, _) = View::new();
        let mut in_force: Option<wire::Version> = None;
        for config in &configs {
            let before = view.state();
            if let Ok(()) = view.apply(config) {
                let taken = config.version.clone().unwrap();
                if let Some(held) = &in_force {
                    prop_assert!(taken.revision > held.revision || taken == *held);
                }
                in_force = Some(taken);
            } else {
                let same = match (&before, &view.state()) {
                    (Some(before), Some(after)) => Arc::ptr_eq(before, after),
                    (before, after) => before.is_none() && after.is_none(),
                };
                prop_assert!(same, "a refused configuration changed something");
            }
            prop_assert_eq!(view.state().map(|state| state.version.clone()), in_force.clone());
        }
    }

    #[test]
    fn f20_any_bytes_as_destinations_are_learned_whole_or_not_at_all(bytes in prop::collection::vec(any::<u8>(), 0..200), changed in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4)) {
        let endpoint = wire::Endpoint { address: vec![10, 0, 0, 2], port: 80, spiffe_id: WEB.into(), workload_uid: "web-1".into(), ..Default::default() };
        let ports = vec![wire::PortEndpoints { port: 80, endpoints: vec![endpoint], ..Default::default() }];
        let service = wire::Destination { address: vec![10, 0, 0, 9], kind: wire::Kind::Meshed.into(), ports, ..Default::default() };
        let mut good = wire::Destinations { destinations: vec![service] }.encode_to_vec();
        for (place, byte) in &changed {
            let place = place.index(good.len());
            good[place] = *byte;
        }
        for bytes in [&bytes, &good] {
            if let Ok(news) = wire::Destinations::decode(&**bytes) {
                let (view, _) = View::new();
                let taken = view.learn(&news).is_ok();
                let named: HashSet<_> = news.destinations.iter().filter_map(|d| address(&d.address).ok()).collect();
                prop_assert_eq!(view.destinations().len(), if taken { named.len() } else { 0 });
            }
        }
    }
}
