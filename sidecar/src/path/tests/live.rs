//! F38, and proofs of open tunnels, between two sidecars.
use super::*;
use crate::clock::Moment;
use crate::keeper::{self, Ages};
use crate::live::CutReason;
use crate::proof;
use crate::refusal::Broken;
use signet_identity::Svid;
use signet_identity::testing::{leaf_params, now};
use std::sync::Mutex;

const AGES: Ages = Ages { grace: Duration::from_secs(10), foreign: None };
/// Seconds that a certificate lives which does not end by the machine's clock while a test runs.
const LIFE: u64 = 600;

fn short(authority: &Authority, name: &str, uid: &str, seconds: u64) -> Svid {
    let params = leaf_params(&authority.id("shop", name), Some(uid), &(now() - 1..now() + seconds));
    let (chain, key) = authority.issue(&params);
    Svid::new(chain, &key).unwrap()
}

/// A clock that stands still until its hand is moved.
fn by_hand() -> (Arc<Mutex<Moment>>, Clock) {
    let start = Moment { wall: Duration::from_secs(now()), boot: Duration::from_secs(1000) };
    let hand = Arc::new(Mutex::new(start));
    let shown = hand.clone();
    (hand, Clock::from_fn(move || *shown.lock().unwrap()))
}

/// Moves the hand ahead to this Unix second.
fn ahead(hand: &Mutex<Moment>, to: u64) {
    let mut hand = hand.lock().unwrap();
    let by = Duration::from_secs(to).saturating_sub(hand.wall);
    *hand = Moment { wall: hand.wall + by, boot: hand.boot + by };
}

#[test]
fn f38_an_open_connection_is_cut_when_its_rule_goes_and_its_neighbour_is_not() {
    local(async {
        let mesh = Mesh::start().await;
        let web = mesh.authority.id("shop", "web");
        mesh.orders.shared.view.apply(&config(2, "deny", vec![rule(&[&web])])).unwrap();
        let _keeper = spawn_local(keeper::keep(mesh.orders.shared.clone(), AGES));
        let mut opened = mesh.call(&mesh.orders.named()).await.unwrap();
        opened.stream.write_all(b"x").await.unwrap();
        assert_eq!(opened.stream.read_u8().await.unwrap(), b'x');
        mesh.orders.shared.view.apply(&config(3, "deny", vec![rule(&[&mesh.authority.id("shop", "other")])])).unwrap();
        let error = timeout(SOON, opened.stream.read_u8()).await.expect("not cut within 5 s").unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        // The caller's side can say why.
        let broken = Broken::Read("peer", error);
        assert_eq!(broken.cut(), Some(CutReason::RuleGone), "{broken}");
        let refused = mesh.call(&mesh.orders.named()).await.err().unwrap();
        assert_eq!(refused.code(), "no_rule_matched");
    });
}

#[test]
fn only_codes_of_ours_are_taken_for_a_reason() {
    for code in [0, 8, 13, 0x5349_4700, 0x5349_4709, 0x5349_47ff, u32::MAX] {
        assert_eq!(CutReason::heard(code), None, "{code:#x}");
    }
    assert_eq!(CutReason::heard(CutReason::Drained.said()), Some(CutReason::Drained));
}

#[test]
fn f38_an_open_tunnel_is_cut_when_its_root_goes() {
    local(async {
        let mesh = Mesh::start().await;
        let _keeper = spawn_local(keeper::keep(mesh.orders.shared.clone(), AGES));
        let mut opened = mesh.call(&mesh.orders.named()).await.unwrap();
        let mut alone = mesh.foreign(Framing::Alone).await;
        alone.write_all(format!("CONNECT {} HTTP/1.1\r\n\r\n", mesh.application).as_bytes()).await.unwrap();
        alone.read_exact(&mut vec![0; head::OPEN.len()]).await.unwrap();
        let next = Authority::new("example.org");
        mesh.orders.shared.credentials.adopt_trust(next.trust_state(2)).unwrap();
        timeout(SOON, opened.stream.read_u8()).await.expect("not cut within 5 s").unwrap_err();
        timeout(SOON, alone.read_u8()).await.expect("not cut within 5 s").unwrap_err();
    });
}

#[test]
fn a_tunnel_stays_open_through_renewals_because_both_ends_prove_it_again() {
    local(async {
        let (hand, clock) = by_hand();
        let mesh = Mesh::with_clock(settings(), clock).await;
        let renew = |seconds| {
            mesh.web.shared.credentials.set_svid(short(&mesh.authority, "web", "web-1", seconds));
            mesh.orders.shared.credentials.set_svid(short(&mesh.authority, "orders", "orders-1", seconds));
        };
        renew(LIFE);
        let ages = Ages { grace: Duration::ZERO, ..AGES };
        let _keepers = [&mesh.web, &mesh.orders].map(|sidecar| spawn_local(keeper::keep(sidecar.shared.clone(), ages)));
        let mut opened = mesh.call(&mesh.orders.named()).await.unwrap();
        let first = opened.slot.tunnel.deadline();
        let theirs = mesh.orders.shared.live.tunnel(&opened.slot.tunnel.exporter).unwrap();
        for round in 1..=8 {
            let before = opened.slot.tunnel.deadline();
            renew((round + 1) * LIFE);
            // A proof is due, and until it has come the time that is left does not pass.
            ahead(&hand, before - 4);
            let both = || theirs.deadline().min(opened.slot.tunnel.deadline()) > before;
            until("both ends were proved again", both).await;
            opened.stream.write_all(b"x").await.unwrap();
            assert_eq!(opened.stream.read_u8().await.unwrap(), b'x');
        }
        assert!(opened.slot.tunnel.deadline() > first + 4);
        assert!(theirs.deadline().abs_diff(opened.slot.tunnel.deadline()) <= 1);
    });
}

#[test]
fn a_proof_moves_the_deadlines_of_the_same_two_alone() {
    local(async {
        let mesh = Mesh::start().await;
        mesh.web.shared.credentials.set_svid(short(&mesh.authority, "web", "web-1", 60));
        let named = mesh.orders.named();
        let opened = mesh.call(&named).await.unwrap();
        let before = opened.slot.tunnel.deadline();
        let target = Target { peer: &named, application: mesh.application };
        // Somebody else of the same trust domain who came to know the value proves nothing with it.
        let thief = mesh.authority.credentials("shop", "web", Some("web-2"));
        let thief = Sidecar::start(&thief, settings()).await;
        let theirs = mesh.orders.shared.live.tunnel(&opened.slot.tunnel.exporter).unwrap();
        assert_eq!(
            proof::prove(&thief.shared, &target, std::slice::from_ref(&opened.slot.tunnel.item)).await.unwrap(),
            0
        );
        assert_eq!((theirs.deadline(), opened.slot.tunnel.deadline()), (before, before));
        // Nor does the workload itself over an identity that is not the tunnel's.
        mesh.web.shared.credentials.set_svid(mesh.authority.svid(&mesh.authority.id("shop", "admin"), Some("web-1")));
        assert_eq!(
            proof::prove(&mesh.web.shared, &target, std::slice::from_ref(&opened.slot.tunnel.item)).await.unwrap(),
            0
        );
        assert_eq!(theirs.deadline(), before);
        mesh.web.shared.credentials.set_svid(mesh.authority.svid(&mesh.authority.id("shop", "web"), Some("web-1")));
        assert_eq!(
            proof::prove(&mesh.web.shared, &target, std::slice::from_ref(&opened.slot.tunnel.item)).await.unwrap(),
            1
        );
        assert!(opened.slot.tunnel.deadline() > before);
        assert_eq!(theirs.deadline(), opened.slot.tunnel.deadline());
    });
}

#[test]
fn a_pooled_tunnel_says_goodbye_when_its_certificates_have_ended_and_nobody_proved_it_again() {
    local(async {
        let (hand, clock) = by_hand();
        let mesh = Mesh::with_clock(settings(), clock).await;
        mesh.web.shared.credentials.set_svid(short(&mesh.authority, "web", "web-1", LIFE));
        let mut opened = mesh.call(&mesh.orders.named()).await.unwrap();
        ahead(&hand, opened.slot.tunnel.deadline() + 1);
        let wait = async {
            while mesh.web.path.pool.takes_more() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(Duration::from_secs(12), wait).await.expect("it takes new connections for ever");
        // What is open is the keeper's to judge, not this clock's.
        opened.stream.write_all(b"x").await.unwrap();
        assert_eq!(opened.stream.read_u8().await.unwrap(), b'x');
    });
}

#[test]
fn proofs_that_say_too_much_too_little_or_nothing_are_answered_or_end_in_time() {
    local(async {
        for (bytes, answers) in [
            (vec![0, 0], Some(0)),
            ([vec![0, 2], vec![9; 64]].concat(), Some(2)),
            ([vec![0xff, 0xff], vec![9; 32 * 0xffff]].concat(), Some(proof::MOST)),
            (vec![0, 3, 1, 2, 3], None),
            (vec![], None),
        ] {
            // Waited for only where the rest never comes.
            let head_time = if answers.is_some() { settings().head_time } else { BRIEF };
            let mesh = Mesh::with(Settings { head_time, ..settings() }).await;
            let (mut read, mut write) = tokio::io::split(mesh.foreign(Framing::Proof).await);
            let writing = spawn_local(async move {
                drop(write.write_all(&bytes).await);
                drop(write.flush().await);
                std::future::pending::<()>().await;
            });
            let mut got = Vec::new();
            let ended = timeout(SOON, read.read_to_end(&mut got)).await.expect("no end");
            // What was said beyond the limit may turn the end into a reset.
            assert!(ended.is_err() || got == vec![0; answers.unwrap_or(0)], "{got:?}");
            assert!(got.iter().all(|answer| *answer == 0), "nothing of it was open");
            writing.abort();
        }
    });
}

#[test]
fn our_certificate_ends_though_the_wall_clock_was_set_back() {
    local(async {
        let authority = Authority::new("example.org");
        let credentials = authority.credentials("shop", "web", Some("web-1"));
        credentials.set_svid(short(&authority, "web", "web-1", 3600));
        let (hand, clock) = by_hand();
        let start = *hand.lock().unwrap();
        let (view, _) = View::new();
        let shared =
            Shared::with_clock(settings(), credentials, view, socket::Sources::default(), Reporter::default(), clock);
        assert!(shared.usable_svid().is_ok());
        let hour = Duration::from_secs(3600);
        *hand.lock().unwrap() =
            Moment { wall: start.wall.saturating_sub(hour), boot: start.boot + Duration::from_secs(60) };
        assert!(shared.usable_svid().is_ok(), "a minute old");
        *hand.lock().unwrap() = Moment { wall: start.wall, boot: start.boot + hour + Duration::from_secs(1) };
        assert_eq!(shared.usable_svid().err().unwrap().code(), "svid_expired");
        // The next one counts from the clock as it is then.
        shared.credentials.set_svid(short(&authority, "web", "web-1", 3600));
        assert!(shared.usable_svid().is_ok());
    });
}
