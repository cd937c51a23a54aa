//! F38: what is open stands only while trust, proof and rules stand. Verdicts on tunnels, and which are proved again when.
use super::*;
use crate::clock::Moment;
use crate::live::{Evidence, Validity};
use signet_identity::testing::{Authority, leaf_params, now};
use signet_identity::{Bundle, Peer, TrustState, tls};

const AGES: Ages = Ages { grace: Duration::from_secs(10), foreign: Some(Duration::from_secs(3600)) };

fn id(authority: &Authority) -> SpiffeId {
    authority.id("shop", "orders")
}

fn evidence(authority: &Authority, uid: Option<&str>, trust: u64) -> Evidence {
    let (chain, _key) = authority.issue(&leaf_params(&id(authority), uid, &(now() - 60..now() + 3600)));
    let peer: Peer = tls::peer(Some(&chain)).unwrap();
    Evidence::new(peer, chain, trust)
}

fn span(start: u64, end: u64) -> Validity {
    Validity::of((start, end), (start, end))
}

fn tunnel(evidence: Evidence, number: u8, validity: Validity) -> Arc<Tunnel> {
    let own = "spiffe://example.org/ns/shop/sa/web".parse().unwrap();
    Arc::new(Tunnel::new(evidence, own, [number; 32], "192.0.2.1:15008".parse().unwrap(), true, validity))
}

fn trust(sequence: u64, bundles: &[&Authority]) -> Trust {
    let roots = bundles.iter().flat_map(|a| a.bundle().roots).collect();
    let bundles = bundles.first().map(|a| (a.trust_domain.clone(), Bundle { roots })).into_iter().collect();
    Trust::new(TrustState { sequence, bundles, ..TrustState::default() }).unwrap()
}

#[test]
fn f38_a_tunnel_that_was_verified_against_older_trust_is_checked_whenever_it_is_registered() {
    let (old, new) = (Authority::new("example.org"), Authority::new("example.org"));
    let open = tunnel(evidence(&old, Some("a"), 1), 1, span(now(), now() + 3600));
    assert_eq!(tunnel_verdict(&open, AGES, now(), Instant::now(), &trust(1, &[&old])), None);
    assert_eq!(tunnel_verdict(&open, AGES, now(), Instant::now(), &trust(2, &[&old, &new])), None);
    assert_eq!(tunnel_verdict(&open, AGES, now(), Instant::now(), &trust(3, &[&new])), Some(CutReason::TrustGone));
    // Its handshake was under way while the trust changed: no look has seen the change and the tunnel together.
    let late = tunnel(evidence(&old, Some("a"), 1), 2, span(now(), now() + 3600));
    assert_eq!(tunnel_verdict(&late, AGES, now(), Instant::now(), &trust(3, &[&new])), Some(CutReason::TrustGone));
}

#[test]
fn a_tunnel_is_trusted_by_what_its_peer_presented_last() {
    let (old, new) = (Authority::new("example.org"), Authority::new("example.org"));
    let open = tunnel(evidence(&old, Some("a"), 1), 1, span(now(), now() + 3600));
    open.proved(span(now(), now() + 7200), Arc::new(evidence(&new, Some("a"), 2)));
    assert_eq!(
        tunnel_verdict(&open, AGES, now(), Instant::now(), &trust(3, &[&new])),
        None,
        "the retired root stands for nothing any more"
    );
    assert_eq!(tunnel_verdict(&open, AGES, now(), Instant::now(), &trust(4, &[&old])), Some(CutReason::TrustGone));
}

/// Both clocks at once: unix seconds and the one that does not jump.
fn look(open: &Tunnel, now: u64, start: u64, trust: &Trust) -> Option<CutReason> {
    static BEGUN: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    tunnel_verdict(open, AGES, now, *BEGUN + Duration::from_secs(now - start), trust)
}

#[test]
fn a_clock_that_jumps_ahead_leaves_time_to_renew_and_prove() {
    let authority = Authority::new("example.org");
    let (at, trust) = (now(), trust(1, &[&authority]));
    let open = tunnel(evidence(&authority, Some("a"), 1), 1, span(at, at + 3600));
    let begun = Instant::now();
    let seen = |wall, seconds| tunnel_verdict(&open, AGES, wall, begun + Duration::from_secs(seconds), &trust);
    assert_eq!(seen(at, 0), None);
    assert_eq!(seen(at + 90_000, 1), None, "asleep for a day");
    assert_eq!(seen(at + 90_005, 6), None);
    assert_eq!(seen(at + 90_010, 11), Some(CutReason::NotProvedAgain));
    open.proved(span(at + 89_000, at + 93_000), Arc::new(evidence(&authority, Some("a"), 1)));
    assert_eq!(seen(at + 90_011, 12), None);
    assert_eq!(seen(at + 93_011, 13), None, "counted anew");
}

#[test]
fn a_clock_that_is_set_back_lengthens_no_deadline() {
    let authority = Authority::new("example.org");
    let (at, trust) = (now(), trust(1, &[&authority]));
    let moment = |wall, boot| Moment { wall: Duration::from_secs(wall), boot: Duration::from_secs(boot) };
    let open = tunnel(evidence(&authority, Some("a"), 1), 1, span(at, at + 3600).from(moment(at, 100)));
    let begun = Instant::now();
    // Two hours back, ten minutes after it was proved.
    let seen = |boot: u64| {
        let now = open.now(moment(at - 7200 + boot, boot));
        tunnel_verdict(&open, AGES, now, begun + Duration::from_secs(boot), &trust)
    };
    assert_eq!(seen(700), None);
    assert!(due(vec![open.clone()], |t| t.now(moment(at - 7200 + 2700, 2700)), at + 9000).is_empty(), "not due before");
    assert_eq!(due(vec![open.clone()], |t| t.now(moment(at - 7200 + 2800, 2800)), at + 9000).len(), 1, "due in time");
    assert_eq!(seen(3705), None, "the grace");
    assert_eq!(seen(3716), Some(CutReason::NotProvedAgain));
    // A proof afterwards counts from the clocks as they are now.
    open.proved(span(at, at + 7200).from(moment(at + 60, 3720)), Arc::new(evidence(&authority, Some("a"), 1)));
    assert_eq!(open.now(moment(at + 70, 3730)), at + 70);
}

#[test]
fn a_tunnel_is_cut_when_it_was_not_proved_by_its_deadline_and_grace_and_not_before() {
    let authority = Authority::new("example.org");
    let (at, trust) = (now(), trust(1, &[&authority]));
    let open = tunnel(evidence(&authority, Some("a"), 1), 1, span(at, at + 4));
    assert_eq!(look(&open, at + 5, at, &trust), None);
    assert_eq!(look(&open, at + 14, at, &trust), None);
    assert_eq!(look(&open, at + 15, at, &trust), Some(CutReason::NotProvedAgain));
    open.proved(span(at + 2, at + 8), Arc::new(evidence(&authority, Some("a"), 1)));
    assert_eq!(look(&open, at + 15, at, &trust), None);
    assert_eq!(look(&open, at + 18, at, &trust), None);
    assert_eq!(look(&open, at + 19, at, &trust), Some(CutReason::NotProvedAgain));
    // A proof by certificates that end earlier takes nothing away.
    open.proved(span(at, at + 5), Arc::new(evidence(&authority, Some("a"), 1)));
    assert_eq!((open.deadline(), open.prove_at()), (at + 8, at + 6));
}

#[test]
fn a_peer_without_a_uid_is_not_cut_by_the_clock_before_its_greatest_age() {
    let authority = Authority::new("example.org");
    let open = tunnel(evidence(&authority, None, 1), 1, span(now(), now() + 4));
    assert_eq!(tunnel_verdict(&open, AGES, now() + 100_000, Instant::now(), &trust(1, &[&authority])), None);
}

#[test]
fn both_ends_see_the_same_deadline_and_no_new_streams_after_two_thirds_of_either_leaf() {
    let (a, b) = ((1_000, 4_600), (3_000, 6_600));
    assert_eq!(Validity::of(a, b), Validity::of(b, a));
    let both = Validity::of(a, b);
    assert_eq!((both.start, both.end, both.no_new_streams_at, both.prove_at()), (3_000, 4_600, 3_400, 4_200));
}

#[test]
fn what_is_due_is_proved_by_peer_and_only_with_a_certificate_that_can_move_it() {
    let authority = Authority::new("example.org");
    let of = |uid: &str, number, end| tunnel(evidence(&authority, Some(uid), 1), number, span(1_000, end));
    let tunnels = || vec![of("gone", 1, 1_030), of("new", 2, 1_050), of("new", 3, 1_040), of("new", 4, 9_000)];
    let numbers = |now, own_end| {
        let mut batches: Vec<Vec<u8>> =
            due(tunnels(), |_| now, own_end).iter().map(|b| b.iter().map(|t| t.exporter[0]).collect()).collect();
        batches.sort();
        batches
    };
    assert_eq!(numbers(1_010, 20_000), Vec::<Vec<u8>>::new(), "nothing is due");
    // The workload that is gone from the address does not stand in the way of the one that took it over.
    assert_eq!(numbers(1_030, 20_000), vec![vec![1], vec![3, 2, 4]]);
    assert_eq!(numbers(1_030, 1_040), vec![vec![1]], "a certificate that ends at 1040 moves no deadline of 1040");
}

#[test]
fn proofs_are_tried_again_by_the_time_that_is_left() {
    let seconds = |s: f32| Duration::from_secs_f32(s);
    for (left, want) in [(900, 30.0), (100, 12.5), (8, 1.0), (3, 0.5), (0, 0.5)] {
        assert_eq!(pause(1_000, 1_000 + left), seconds(want), "{left} s left");
    }
    assert_eq!(pause(2_000, 1_000), SOONEST);
}

#[test]
fn f38_a_plain_connection_is_cut_when_the_posture_denies_what_was_called_or_the_endpoint_behind_it() {
    use signet_proto::control as wire;
    let (service, endpoint) = ("192.0.2.10:80".parse().unwrap(), "198.51.100.1:8080".parse().unwrap());
    let registry = Arc::new(crate::live::Registry::default());
    let live = registry.open(Direction::Outbound, "127.0.0.1:1".parse().unwrap(), service, Some(endpoint), None, false);
    let verdict = |denied: &[u8]| {
        let (view, _) = crate::view::View::new();
        let prefix = |address: &[u8]| wire::Prefix { address: address.to_vec(), length: 32 };
        let exception = wire::EgressException { prefix: Some(prefix(denied)), ports: vec![] };
        let posture =
            wire::Posture { inbound: "deny".into(), egress: "allow".into(), egress_exceptions: vec![exception] };
        let version = Some(wire::Version { revision: 1, digest: "1".into() });
        view.apply(&wire::Config { version, posture: Some(posture), ..wire::Config::default() }).unwrap();
        connection_verdict(&live, &view.state().unwrap(), &view)
    };
    assert_eq!(verdict(&[203, 0, 113, 1]), None);
    assert_eq!(verdict(&[192, 0, 2, 10]), Some(CutReason::EgressGone));
    assert_eq!(verdict(&[198, 51, 100, 1]), Some(CutReason::EgressGone));
}

/// An open connection in plaintext to an address; what is asked about, and what becomes of it once this is known there.
struct Plain {
    view: Arc<View>,
    questions: tokio::sync::mpsc::Receiver<std::net::IpAddr>,
    live: crate::live::Registered<Live>,
}

impl Plain {
    fn to(destination: &str, endpoint: &str) -> Self {
        let (view, questions) = View::new();
        let [from, to, endpoint] = ["127.0.0.1:1", destination, endpoint].map(|text| text.parse().unwrap());
        let live =
            Arc::new(crate::live::Registry::default()).open(Direction::Outbound, from, to, Some(endpoint), None, false);
        Self { view, questions, live }
    }

    /// The mesh's ranges are this one address.
    fn ranges(&self, revision: u64, address: [u8; 4]) {
        use signet_proto::control as wire;
        let posture = wire::Posture { inbound: "deny".into(), egress: "allow".into(), egress_exceptions: vec![] };
        let config = wire::Config {
            version: Some(wire::Version { revision, digest: revision.to_string() }),
            posture: Some(posture),
            mesh_ranges: vec![wire::Prefix { address: address.to_vec(), length: 32 }],
            ..wire::Config::default()
        };
        self.view.apply(&config).unwrap();
    }

    /// Somebody is behind this address, at every port or at one.
    fn known(&self, address: [u8; 4], port: Option<u32>, identity: &str) {
        use signet_proto::control as wire;
        let endpoint = wire::Endpoint {
            address: vec![10, 9, 9, 9],
            port: port.map_or(0, |_| 8080),
            spiffe_id: identity.into(),
            ..wire::Endpoint::default()
        };
        let mut destination = wire::Destination {
            address: address.to_vec(),
            kind: wire::Kind::Meshed.into(),
            ..wire::Destination::default()
        };
        match port {
            None => destination.any_port = Some(endpoint),
            Some(port) => {
                destination.ports = vec![wire::PortEndpoints { port, endpoints: vec![endpoint], ..Default::default() }];
            }
        }
        self.view.learn(&wire::Destinations { destinations: vec![destination] }).unwrap();
    }

    fn verdict(&self) -> Option<CutReason> {
        connection_verdict(&self.live, &self.view.state().unwrap(), &self.view)
    }
}

const ORDERS: &str = "spiffe://example.org/ns/shop/sa/orders";

#[test]
fn a_plain_connection_is_cut_once_its_endpoint_is_known_to_be_meshed() {
    let mut plain = Plain::to("10.0.0.5:8080", "10.0.0.5:8080");
    plain.ranges(1, [10, 0, 0, 4]);
    assert_eq!((plain.verdict(), plain.questions.try_recv().ok()), (None, None), "outside the ranges nobody is asked");
    plain.ranges(2, [10, 0, 0, 5]);
    assert_eq!(plain.verdict(), None);
    assert_eq!(plain.questions.try_recv().unwrap(), "10.0.0.5".parse::<std::net::IpAddr>().unwrap());
    plain.known([10, 0, 0, 5], None, "");
    assert_eq!(plain.verdict(), None, "it has no sidecar");
    plain.known([10, 0, 0, 5], None, ORDERS);
    assert_eq!(plain.verdict(), Some(CutReason::MeshedNow));
}

#[test]
fn of_a_service_or_a_node_the_port_that_was_called_is_judged() {
    let plain = Plain::to("10.0.0.5:80", "10.0.0.5:80");
    plain.ranges(1, [10, 0, 0, 5]);
    plain.known([10, 0, 0, 5], Some(81), ORDERS);
    assert_eq!(plain.verdict(), None);
    plain.known([10, 0, 0, 5], Some(80), ORDERS);
    assert_eq!(plain.verdict(), Some(CutReason::MeshedNow));
}

#[test]
fn an_endpoint_that_was_chosen_is_judged_and_not_the_service_before_it() {
    let plain = Plain::to("10.0.0.5:80", "203.0.113.9:8080");
    plain.ranges(1, [10, 0, 0, 5]);
    plain.known([10, 0, 0, 5], Some(80), ORDERS);
    assert_eq!(plain.verdict(), None, "its other endpoints are meshed, this one is not");
}
