//! What a peer may say on its stream, and what it hears. The stream over real TLS is in `tests/control.rs`.
use super::edges::Edges;
use super::hub::Confirmed;
use super::session::{Effect, Fault, MAX_WANTS, Session};
use crate::documents::Key;
use crate::index::tests::{documents, rule, workload};
use crate::index::{Memory, Refusal, Settings, Snapshot};
use crate::metrics::Metrics;
use proptest::prelude::*;
use prost::Message as _;
use signet_policy::{Decision, Egress, Posture};
use signet_proto::control::{self, Ack, Destination, Down, Edge, EdgeTotals, Hello, Kind, Up, Version, Want, down, up};

fn snapshot_at(text: &str, revision: u64) -> Snapshot {
    let settings = Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    Snapshot::build(&settings, &documents(text), &Memory::default(), revision).0
}

fn mesh() -> String {
    workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a")
        + &workload("shop", "b", "10.77.0.3", "serviceAccount: b, uid: b")
}

fn session_of(account: &str, uid: &str) -> Session {
    Session::new(format!("spiffe://mesh.example/ns/shop/sa/{account}").parse().unwrap(), Some(uid.parse().unwrap()))
}

fn hello(held: Option<Version>, wanted: &[[u8; 4]]) -> Up {
    let wanted = wanted.iter().map(|a| a.to_vec()).collect();
    let hello = Hello { program_version: "1".into(), features: Vec::new(), held, wanted };
    Up { kind: Some(up::Kind::Hello(hello)) }
}

fn want(addresses: impl IntoIterator<Item = Vec<u8>>) -> Up {
    Up { kind: Some(up::Kind::Want(Want { addresses: addresses.into_iter().collect(), forget: Vec::new() })) }
}

/// The configurations and destinations of some messages.
fn sort(messages: Vec<Down>) -> (Vec<control::Config>, Vec<Destination>) {
    let (mut configs, mut destinations) = (Vec::new(), Vec::new());
    for message in messages {
        match message.kind {
            Some(down::Kind::Config(config)) => configs.push(*config),
            Some(down::Kind::Destinations(more)) => destinations.extend(more.destinations),
            Some(down::Kind::Ranges(_)) => panic!("ranges for who does not say that it takes them"),
            None => panic!("an empty message was sent"),
        }
    }
    (configs, destinations)
}

#[test]
fn f34_nothing_is_sent_before_hello_and_everything_after_it() {
    let snapshot = snapshot_at(&mesh(), 1);
    let mut session = session_of("a", "a");
    assert!(session.update(&snapshot, None).unwrap().is_empty());
    assert_eq!(session.take(hello(None, &[[10, 77, 0, 3]])), Ok(Effect::Update));
    let (configs, destinations) = sort(session.update(&snapshot, None).unwrap());
    assert_eq!((configs.len(), configs[0].workload_name.as_str()), (1, "a"));
    assert_eq!((destinations.len(), destinations[0].kind()), (1, Kind::Meshed));
    assert!(session.update(&snapshot, None).unwrap().is_empty(), "the same was sent twice");
}

#[test]
fn a_reconnect_that_holds_the_configuration_is_not_sent_it_again() {
    let snapshot = snapshot_at(&mesh(), 7);
    let mut first = session_of("a", "a");
    first.take(hello(None, &[])).unwrap();
    let held = sort(first.update(&snapshot, None).unwrap()).0[0].version.clone();
    let mut second = session_of("a", "a");
    second.take(hello(held, &[])).unwrap();
    assert!(second.update(&snapshot, None).unwrap().is_empty());
}

#[test]
fn a_sidecar_is_never_sent_an_older_revision_than_it_holds() {
    let snapshot = snapshot_at(&mesh(), 7);
    for (held, sent, behind) in [(6, 1, false), (7, 0, true), (8, 0, true), (u64::MAX, 0, true)] {
        let mut session = session_of("a", "a");
        session.take(hello(Some(Version { revision: held, digest: "other".into() }), &[])).unwrap();
        let (configs, _) = sort(session.update(&snapshot, None).unwrap());
        assert_eq!((configs.len(), session.behind), (sent, behind), "held {held}");
    }
}

/// A session whose sidecar came with another configuration, when this operator had asked so many questions.
fn with_other(revision: u64, questions: u64) -> Session {
    let mut session = session_of("a", "a");
    session.take(hello(Some(Version { revision, digest: "other".into() }), &[])).unwrap();
    session.questions = questions;
    session
}

/// A replica whose watch of rules is late, and whose watch of pods is not, has a greater revision and older rules.
#[test]
fn a_greater_revision_alone_does_not_make_a_replica_newer_than_the_one_that_a_sidecar_comes_from() {
    let snapshot = snapshot_at(&mesh(), 7);
    let nothing = Confirmed { question: 0, revision: 0 };
    let mut session = with_other(6, 2);
    let mut sent = |question, revision| {
        let confirmed = Some(Confirmed { question, revision });
        (sort(session.update(&snapshot, confirmed).unwrap()).0.len(), session.behind)
    };
    assert_eq!(sent(nothing.question, nothing.revision), (0, true));
    assert_eq!(sent(2, 5), (0, true), "asked before it came");
    assert_eq!(sent(3, 5), (1, false), "asked after it came, and everything has arrived");
    // One that is known to hold nothing that is missing here needs no question.
    let mut session = with_other(6, 2);
    assert_eq!(sort(session.update(&snapshot, Some(Confirmed { question: 1, revision: 6 })).unwrap()).0.len(), 1);
    // Nor who came with nothing, and who holds what is in force here.
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    let held = sort(session.update(&snapshot, Some(nothing)).unwrap()).0[0].version.clone();
    let mut session = session_of("a", "a");
    session.take(hello(held, &[])).unwrap();
    assert!(session.update(&snapshot, Some(nothing)).unwrap().is_empty() && !session.behind);
    let changed = snapshot_at(&(mesh() + &rule("shop", "r", "{all: true}", "{namespace: shop}")), 8);
    assert_eq!(sort(session.update(&changed, Some(nothing)).unwrap()).0.len(), 1);
}

#[test]
fn a_sidecar_that_another_replica_told_more_goes_on_from_here_once_that_is_confirmed() {
    let snapshot = snapshot_at(&mesh(), 7);
    let confirmed = Some(Confirmed { question: 3, revision: 9 });
    let mut session = with_other(9, 2);
    assert!(session.update(&snapshot, Some(Confirmed { question: 2, revision: 8 })).unwrap().is_empty());
    assert!(session.behind);
    let version = sort(session.update(&snapshot, confirmed).unwrap()).0[0].version.clone().unwrap();
    assert_eq!((version.revision, session.behind), (10, false));
    // What follows is newer than what was sent here, whatever its number.
    let changed = mesh() + &rule("shop", "r", "{all: true}", "{namespace: shop}");
    let version = sort(session.update(&snapshot_at(&changed, 8), confirmed).unwrap()).0[0].version.clone().unwrap();
    assert_eq!(version.revision, 11);
}

#[test]
fn a_change_of_the_ranges_alone_is_sent_alone_to_who_takes_it() {
    let more = |name: &str| {
        workload("bank", &format!("w{name}"), &format!("10.78.0.{name}"), &format!("serviceAccount: s, uid: u{name}"))
    };
    let hello = |features: &[&str]| {
        let features = features.iter().map(ToString::to_string).collect();
        Up { kind: Some(up::Kind::Hello(Hello { features, ..Hello::default() })) }
    };
    let mut old = session_of("a", "a");
    old.take(hello(&["identity"])).unwrap();
    let mut session = session_of("a", "a");
    session.take(hello(&["identity", "ranges"])).unwrap();
    let mut ranges_of = |text: String, revision| {
        let snapshot = snapshot_at(&text, revision);
        assert_eq!(sort(old.update(&snapshot, None).unwrap()).0.len(), 1);
        let messages = session.update(&snapshot, None).unwrap();
        assert_eq!(messages.len(), 1);
        match messages[0].kind.clone().unwrap() {
            down::Kind::Ranges(ranges) => {
                let whole = snapshot.config(snapshot.find(&"shop/a".parse().unwrap()).unwrap());
                assert_eq!((&ranges.mesh_ranges, &ranges.version), (&whole.mesh_ranges, &whole.version));
                Some(ranges.base)
            }
            _ => None,
        }
    };
    let digest = |text: &str| {
        let snapshot = snapshot_at(text, 1);
        snapshot.digest(snapshot.find(&"shop/a".parse().unwrap()).unwrap()).to_owned()
    };
    assert_eq!(ranges_of(mesh(), 1), None, "the first is whole");
    assert_eq!(ranges_of(mesh() + &more("1"), 2), Some(digest(&mesh())));
    let ruled = mesh() + &rule("shop", "r", "{all: true}", "{namespace: shop}");
    assert_eq!(ranges_of(ruled.clone(), 3), None, "more than the ranges has changed");
    assert_eq!(ranges_of(ruled.clone() + &more("2"), 4), Some(digest(&ruled)));

    // One that was refused is no base.
    let ack = Ack { version: None, error: "no".into() };
    session.take(Up { kind: Some(up::Kind::Ack(ack)) }).unwrap();
    let messages = session.update(&snapshot_at(&ruled, 5), None).unwrap();
    assert!(matches!(messages[0].kind, Some(down::Kind::Config(_))));
}

#[test]
fn a_revision_that_nobody_can_have_given_out_is_never_confirmed() {
    let snapshot = snapshot_at(&mesh(), 7);
    for claimed in [9_000, u64::MAX] {
        let mut session = with_other(claimed, 2);
        let confirmed = Some(Confirmed { question: 3, revision: 20 });
        assert!(session.update(&snapshot, confirmed).unwrap().is_empty() && session.behind, "{claimed}");
    }
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_not_believed() {
    let snapshot = snapshot_at(&mesh(), 7);
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    let sent = sort(session.update(&snapshot, None).unwrap()).0[0].version.clone().unwrap();
    let ack = |version: Version| Up { kind: Some(up::Kind::Ack(Ack { version: Some(version), error: String::new() })) };
    assert_eq!(session.take(ack(Version { revision: 8, ..sent.clone() })), Ok(Effect::Unsent));
    assert_eq!(session.take(ack(sent.clone())), Ok(Effect::Applied(7, sent.digest)));
}

#[test]
fn only_what_changed_is_sent_and_only_to_whom_it_concerns() {
    let before = snapshot_at(&mesh(), 1);
    let changed = mesh() + &rule("shop", "r", "{podSelector: {matchLabels: {app: b}}}", "{namespace: shop}");
    let after = snapshot_at(&changed, 2);
    let (mut a, mut b) = (session_of("a", "a"), session_of("b", "b"));
    for session in [&mut a, &mut b] {
        session.take(hello(None, &[[10, 77, 0, 2], [10, 77, 0, 3]])).unwrap();
        session.update(&before, None).unwrap();
    }
    assert!(a.update(&after, None).unwrap().is_empty());
    let (configs, destinations) = sort(b.update(&after, None).unwrap());
    assert_eq!((configs.len(), destinations.len()), (1, 0));
    assert_eq!(configs[0].rules.len(), 1);
}

#[test]
fn a_destination_that_vanished_comes_as_unknown_and_is_not_sent_when_forgotten() {
    let alone = workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a");
    let mut session = session_of("a", "a");
    session.take(hello(None, &[[10, 77, 0, 3]])).unwrap();
    session.update(&snapshot_at(&mesh(), 1), None).unwrap();
    let (_, destinations) = sort(session.update(&snapshot_at(&alone, 2), None).unwrap());
    assert_eq!((destinations.len(), destinations[0].kind()), (1, Kind::Unknown));
    let forget = Want { addresses: Vec::new(), forget: vec![vec![10, 77, 0, 3]] };
    session.take(Up { kind: Some(up::Kind::Want(forget)) }).unwrap();
    let (_, destinations) = sort(session.update(&snapshot_at(&mesh(), 3), None).unwrap());
    assert!(destinations.is_empty());
}

#[test]
fn a_workload_whose_document_went_or_changed_hands_hears_nothing_more() {
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    session.update(&snapshot_at(&mesh(), 1), None).unwrap();
    let taken = mesh().replace("serviceAccount: a", "serviceAccount: c");
    assert!(matches!(session.update(&snapshot_at(&taken, 2), None), Err(Refusal::OtherIdentity { .. })));
    assert!(matches!(session.update(&snapshot_at("# none\n", 3), None), Err(Refusal::UnknownUid(_))));
}

#[test]
fn wants_beyond_the_limit_are_answered_as_unknown_and_not_followed() {
    let snapshot = snapshot_at(&mesh(), 1);
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    let addresses = |from: u32, to: u32| (from..to).map(|n| n.to_be_bytes().to_vec());
    session.take(want(addresses(1, u32::try_from(MAX_WANTS).unwrap() + 1))).unwrap();
    session.update(&snapshot, None).unwrap();
    session.take(want([vec![10, 77, 0, 3]])).unwrap();
    let (_, destinations) = sort(session.update(&snapshot, None).unwrap());
    assert_eq!((destinations.len(), destinations[0].kind()), (1, Kind::Unknown));
    assert_eq!(session.wants(), MAX_WANTS);
}

#[test]
fn hello_comes_first_and_once() {
    let mut session = session_of("a", "a");
    assert_eq!(session.take(want([])), Err(Fault::NoHello));
    session.take(hello(None, &[])).unwrap();
    assert_eq!(session.take(hello(None, &[])), Err(Fault::SecondHello));
    assert_eq!(session.take(Up { kind: None }), Err(Fault::UnknownMessage));
}

#[test]
fn addresses_have_one_spelling() {
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    let mapped = "::ffff:10.1.2.3".parse::<std::net::Ipv6Addr>().unwrap().octets().to_vec();
    for wrong in [vec![], vec![1; 3], vec![1; 5], vec![1; 17], mapped] {
        assert_eq!(session.take(want([wrong.clone()])), Err(Fault::Address), "{wrong:?}");
        assert_eq!(session.wants(), 0);
    }
}

#[test]
fn a_refusal_is_kept_bounded_and_without_control_characters() {
    let mut session = session_of("a", "a");
    session.take(hello(None, &[])).unwrap();
    let ack = Ack { version: None, error: "\r\n\u{1b}[31m".repeat(1000) };
    let Ok(Effect::Refused(0, words)) = session.take(Up { kind: Some(up::Kind::Ack(ack)) }) else {
        panic!("not refused")
    };
    assert!(words.chars().count() <= 200 && words.chars().all(|c| !c.is_control()), "{words:?}");
}

#[test]
fn a_sidecar_of_an_older_version_says_what_it_lacks() {
    let mut session = session_of("a", "a");
    let features = vec!["identity".into(), "from-the-future".into()];
    let hello = Hello { program_version: String::new(), features, held: None, wanted: Vec::new() };
    session.take(Up { kind: Some(up::Kind::Hello(hello)) }).unwrap();
    assert_eq!(session.lacking, ["namespace", "any-authenticated", "plaintext-cidr"]);
}

mod edges {
    use super::*;

    fn key() -> Key {
        "shop/a".parse().unwrap()
    }
    fn edge(peer: &str, port: u32, reason: &str) -> Edge {
        Edge {
            peer: peer.into(),
            port,
            outbound: false,
            reason: reason.into(),
            connections: 1,
            bytes_received: 2,
            bytes_sent: 3,
            framing: "pooled".into(),
        }
    }

    #[test]
    fn f26_a_million_distinct_names_are_one_row() {
        let (mut edges, metrics) = (Edges::default(), Metrics::default());
        for number in 0..1_000_000 {
            edges.add(
                &key(),
                &[edge(&format!("spiffe://x/{number}"), 1, &format!("r{number}"))],
                |_| false,
                &metrics,
                7,
            );
        }
        assert_eq!(edges.len(), 1);
        let line = serde_json::to_value(edges.lines(&Snapshot::default())).unwrap();
        assert_eq!((&line[0]["peer"], &line[0]["connections"]), (&"other".into(), &1_000_000.into()));
    }

    #[test]
    fn f26_rows_are_bounded_when_every_port_is_named() {
        let (mut edges, metrics) = (Edges::default(), Metrics::default());
        for port in 0..100_000 {
            edges.add(&key(), &[edge("", port, "rule_matched")], |_| false, &metrics, 7);
        }
        assert!(edges.len() <= 1026, "{}", edges.len());
        let lines = serde_json::to_value(edges.lines(&Snapshot::default())).unwrap();
        let sum: u64 = lines.as_array().unwrap().iter().filter_map(|line| line["connections"].as_u64()).sum();
        assert_eq!(sum, 100_000, "what does not fit must be counted somewhere");
    }

    #[test]
    fn known_peers_have_rows_of_their_own_and_counters_never_wrap() {
        let (mut edges, metrics) = (Edges::default(), Metrics::default());
        let known = |peer: &str| peer == "spiffe://mesh.example/ns/shop/sa/b";
        let mut huge = edge("spiffe://mesh.example/ns/shop/sa/b", 8080, "rule_matched");
        huge.bytes_sent = u64::MAX;
        edges.add(&key(), &[huge.clone(), huge], known, &metrics, 7);
        let lines = serde_json::to_value(edges.lines(&Snapshot::default())).unwrap();
        assert_eq!(lines[0]["peer"], "spiffe://mesh.example/ns/shop/sa/b");
        assert_eq!(lines[0]["bytes_sent"], u64::MAX);
    }

    #[test]
    fn what_has_changed_is_said_once_and_everything_when_asked_anew() {
        let (mut edges, metrics) = (Edges::default(), Metrics::default());
        edges.add(&key(), &[edge("", 1, "rule_matched"), edge("", 2, "rule_matched")], |_| false, &metrics, 7);
        assert_eq!(edges.changes(false).len(), 2);
        assert!(edges.changes(false).is_empty(), "nothing has changed since");
        edges.add(&key(), &[edge("", 2, "rule_matched")], |_| false, &metrics, 9);
        let changed = edges.changes(false);
        let said: Vec<_> = changed.iter().map(|said| (said.edge.as_ref().unwrap().port, said.last_seen)).collect();
        assert_eq!(said, [(2, 9)]);
        assert_eq!(changed[0].edge.as_ref().unwrap().connections, 2, "totals, not what came since");
        assert_eq!(edges.changes(true).len(), 2);
    }

    #[test]
    fn the_holder_shows_the_sum_of_all_replicas_and_what_is_said_twice_counts_once() {
        let (mut here, mut there, metrics) = (Edges::default(), Edges::default(), Metrics::default());
        let mut held = Edges::default();
        here.add(&key(), &[edge("", 1, "rule_matched")], |_| false, &metrics, 7);
        there.add(&key(), &[edge("", 1, "rule_matched"), edge("", 2, "posture_deny")], |_| false, &metrics, 8);
        for said in there.changes(false).iter().chain(&there.changes(true)) {
            held.hold(said);
        }
        held.merge_into(&mut here);
        let lines = serde_json::to_value(here.lines(&Snapshot::default())).unwrap();
        let shown = |at: usize| {
            (lines[at]["port"].as_u64(), lines[at]["connections"].as_u64(), lines[at]["last_seen"].as_u64())
        };
        assert_eq!((here.len(), shown(0), shown(1)), (2, (Some(1), Some(2), Some(8)), (Some(2), Some(1), Some(8))));
    }

    /// The source, because the operator must not build on the sidecar.
    #[test]
    fn every_code_that_a_sidecar_refuses_with_is_known_and_those_of_certificates_are_one() {
        let source = include_str!("../../../sidecar/src/refusal.rs");
        let codes = source.split("pub fn code(").nth(1).unwrap().split("pub fn status(").next().unwrap();
        let codes = codes.split('"').skip(1).step_by(2);
        let codes: Vec<&str> = codes.filter(|code| code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')).collect();
        assert!(codes.len() > 25 && codes.contains(&"no_endpoint"), "{codes:?}");
        for code in codes {
            assert_eq!(crate::control::edges::reason(code), code);
        }
        assert_eq!(crate::control::edges::reason("peer_cert_expired"), "peer_certificate");
        assert_eq!(crate::control::edges::reason("peer's own words"), "other");
    }

    #[test]
    fn f26_what_another_replica_says_is_bounded_too() {
        let mut held = Edges::default();
        for number in 0..3000 {
            let edge = edge(&"x".repeat(3000), number, "no such reason");
            held.hold(&EdgeTotals { namespace: "shop".into(), name: "a".into(), edge: Some(edge), last_seen: 1 });
        }
        assert!(held.len() <= 1026, "{}", held.len());
        let lines = serde_json::to_value(held.lines(&Snapshot::default())).unwrap();
        assert!(lines.as_array().unwrap().iter().all(|line| line["peer"] == "other" && line["reason"] == "other"));
    }
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        any::<[u8; 4]>().prop_map(Vec::from),
        any::<[u8; 16]>().prop_map(Vec::from),
        (0_u8..5).prop_map(|n| vec![10, 77, 0, n]),
    ]
}

fn any_up() -> impl Strategy<Value = Up> {
    let version =
        prop::option::of((any::<u64>(), ".{0,5}").prop_map(|(revision, digest)| Version { revision, digest }));
    let hello =
        (".{0,5}", prop::collection::vec(".{0,5}", 0..3), version.clone(), prop::collection::vec(any_bytes(), 0..5))
            .prop_map(|(program_version, features, held, wanted)| {
                up::Kind::Hello(Hello { program_version, features, held, wanted })
            });
    let want = (prop::collection::vec(any_bytes(), 0..5), prop::collection::vec(any_bytes(), 0..5))
        .prop_map(|(addresses, forget)| up::Kind::Want(Want { addresses, forget }));
    let ack = (version, ".{0,5}").prop_map(|(version, error)| up::Kind::Ack(Ack { version, error }));
    let edge = (".{0,5}", any::<u32>(), any::<bool>(), any::<u64>())
        .prop_map(|(peer, port, outbound, connections)| Edge { peer, port, outbound, connections, ..Edge::default() });
    let edges = prop::collection::vec(edge, 0..3).prop_map(|edges| up::Kind::Edges(control::Edges { edges }));
    prop::option::of(prop_oneof![hello, want, ack, edges]).prop_map(|kind| Up { kind })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// F20: any bytes at all decode to a message or to an error, and whatever decodes is handled.
    #[test]
    fn f20_any_bytes_are_handled_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(up) = Up::decode(&*bytes) {
            let _ = session_of("a", "a").take(up);
        }
    }

    /// F20: a whole conversation of well-formed nonsense. Memory stays bounded, what is sent goes to the right workload, and
    /// revisions only grow.
    #[test]
    fn f20_any_conversation_keeps_the_promises(ups in prop::collection::vec(any_up(), 0..12)) {
        let snapshot = snapshot_at(&mesh(), 1000);
        let mut session = session_of("a", "a");
        let mut held = 0;
        for up in ups {
            if let Some(up::Kind::Hello(hello)) = &up.kind {
                held = hello.held.as_ref().map_or(0, |version| version.revision);
            }
            if session.take(up).is_err() {
                break;
            }
            let (configs, destinations) = sort(session.update(&snapshot, None).unwrap());
            for config in configs {
                let version = config.version.unwrap();
                prop_assert!(config.workload_name == "a" && version.revision > held);
                held = version.revision;
            }
            prop_assert!(destinations.iter().all(|d| d.address.len() == 4 || d.address.len() == 16));
            prop_assert!(session.wants() <= MAX_WANTS);
        }
    }
}
