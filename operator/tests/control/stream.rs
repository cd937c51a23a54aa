//! The control stream over real TLS.
use crate::world::*;
use signet_enroll::channel;
use signet_identity::testing::{Authority, leaf_params, now};
use signet_identity::{Credentials, Svid};
use signet_operator::control::{Hub, Limits};
use signet_operator::state::Outcome;
use signet_proto::control::control_client::ControlClient;
use signet_proto::control::{Ack, Up, Version, up};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

#[tokio::test]
async fn a_sidecar_gets_its_own_configuration_and_the_destinations_that_it_asks_for() {
    let mut world = world(Limits::default(), Some(MESH)).await;
    let mut a = world.attach("a", Some("uid-a"), hello(None)).await.unwrap();
    let config = a.config().await;
    assert_eq!((config.workload_namespace.as_str(), config.workload_name.as_str()), ("shop", "a"));
    a.say(want([10, 77, 0, 3])).await;
    let destinations = a.destinations().await;
    assert_eq!(destinations[0].any_port.as_ref().map(|e| e.workload_uid.as_str()), Some("uid-b"));

    assert_eq!(world.apply(&format!("{MESH}{RULE}")), Outcome::Applied);
    let changed = a.config().await;
    assert_eq!(changed.rules.len(), 1);
    assert!(changed.version.as_ref().unwrap().revision > config.version.unwrap().revision);

    a.say(up::Kind::Ack(Ack { version: changed.version.clone(), error: String::new() })).await;
    let applied = changed.version.unwrap().revision;
    timeout(SOON, async {
        while world.hub.presences().get("shop/a").is_none_or(|presence| presence.applied != applied) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the acknowledgement was not noted");
}

#[tokio::test]
async fn a_reconnect_that_holds_the_version_hears_nothing_until_something_changes() {
    let mut world = world(Limits::default(), Some(MESH)).await;
    let held = world.attach("a", Some("uid-a"), hello(None)).await.unwrap().config().await.version;
    let mut again = world.attach("a", Some("uid-a"), hello(held)).await.unwrap();
    // What comes first is the change, not the configuration that is held.
    assert_eq!(world.apply(&format!("{MESH}{RULE}")), Outcome::Applied);
    assert_eq!(again.config().await.rules.len(), 1);
}

#[tokio::test]
async fn f12_a_sidecar_that_claims_a_newer_version_moves_nobody_but_itself() {
    let world = world(Limits::default(), Some(MESH)).await;
    world.hub.ask_first();
    let revision = world.published.snapshot.borrow().as_ref().unwrap().revision();
    let claimed = Version { revision: revision + 5, digest: "other".into() };
    let now = Instant::now();
    let behind = |hub: Arc<Hub>, at| async move {
        let seen = timeout(SOON, async {
            while !hub.presences().get("shop/a").is_some_and(|presence| presence.behind) {
                tokio::task::yield_now().await;
            }
        });
        seen.await.expect("it is not noticed");
        hub.is_behind(at)
    };
    let mut liar = world.attach("a", Some("uid-a"), hello(Some(claimed.clone()))).await.unwrap();
    assert!(behind(world.hub.clone(), now).await);
    // It asks and asks, and comes again and again: nothing is looked up for it within ten seconds.
    for _ in 0..3 {
        liar = world.attach("a", Some("uid-a"), hello(Some(claimed.clone()))).await.unwrap();
        liar.say(want([10, 77, 0, 3])).await;
        assert!(!behind(world.hub.clone(), now + Duration::from_secs(9)).await);
    }
    assert!(behind(world.hub.clone(), now + Duration::from_secs(11)).await);
    assert_eq!(liar.destinations().await.len(), 1, "what it asks about it hears");

    // Nothing is built anew; it alone goes on from a number of its own.
    let question = world.hub.next_question();
    world.hub.confirm(question, revision + 5);
    assert_eq!(liar.config().await.version.unwrap().revision, revision + 6);
    assert_eq!(world.published.snapshot.borrow().as_ref().unwrap().revision(), revision);
    let mut other = world.attach("b", Some("uid-b"), hello(None)).await.unwrap();
    assert_eq!(other.config().await.version.unwrap().revision, revision);
}

#[tokio::test]
async fn a_sidecar_that_comes_a_moment_before_its_document_is_let_in() {
    let mut world =
        world(Limits { document: SOON, ..Limits::default() }, Some(MESH.split("---").next().unwrap())).await;
    let credentials = world.authority.credentials("shop", "b", Some("uid-b"));
    let channel = channel(&credentials, world.operator_id(), &world.address.to_string()).unwrap();
    let (say, said) = mpsc::channel(1);
    say.send(hello(None)).await.unwrap();
    let attach = tokio::spawn(async move { ControlClient::new(channel).attach(ReceiverStream::new(said)).await });
    let waits = "signet_operator_streams_opened_total{kind=\"waiting\"} 1";
    timeout(SOON, async {
        while !world.metrics.text(&world.published, &world.operator).contains(waits) {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the peer never came");
    assert_eq!(world.apply(MESH), Outcome::Applied);
    let hear = attach.await.unwrap().unwrap().into_inner();
    assert_eq!(Attached { say, hear }.config().await.workload_name, "b");
}

#[tokio::test]
async fn another_workloads_configuration_cannot_be_had() {
    let world = world(Limits::default(), Some(MESH)).await;
    for (account, uid) in
        [("a", Some("uid-b")), ("b", Some("uid-a")), ("a", None), ("a", Some("uid-c")), ("c", Some("uid-a"))]
    {
        let refused = world.attach(account, uid, hello(None)).await;
        let status = refused.err().unwrap_or_else(|| panic!("{account} with {uid:?} was let in"));
        assert_eq!(status.code(), Code::PermissionDenied, "{account} with {uid:?}: {status}");
    }
}

#[tokio::test]
async fn a_peer_of_another_trust_domain_or_without_a_certificate_does_not_reach_the_service() {
    let world = world(Limits::default(), Some(MESH)).await;
    let stranger = Authority::new("mesh.example");
    let forged = stranger.credentials("shop", "a", Some("uid-a"));
    // It trusts the operator, but its own certificate is of another root.
    forged.adopt_trust(world.authority.trust_state(2)).unwrap();
    let naked = Credentials::new(world.authority.trust_state(1)).unwrap();
    for credentials in [forged, naked] {
        assert!(world.attach_with(&credentials, hello(None)).await.is_err());
    }
    assert!(world.hub.presences().is_empty());
}

#[tokio::test]
async fn f34_before_documents_can_be_read_there_is_no_configuration() {
    let mut world = world(Limits::default(), None).await;
    let status = world.attach("a", Some("uid-a"), hello(None)).await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(world.apply(MESH), Outcome::Applied);
    world.attach("a", Some("uid-a"), hello(None)).await.unwrap().config().await;
}

#[tokio::test]
async fn a_workload_whose_document_goes_loses_its_stream() {
    let mut world = world(Limits::default(), Some(MESH)).await;
    let mut b = world.attach("b", Some("uid-b"), hello(None)).await.unwrap();
    b.config().await;
    assert_eq!(world.apply(MESH.split("---").next().unwrap()), Outcome::Applied);
    assert_eq!(b.end().await, Code::PermissionDenied);
    assert!(world.published.snapshot.borrow().is_some());
}

#[tokio::test]
async fn f38_a_denied_identity_loses_its_stream_at_once() {
    let world = world(Limits::default(), Some(MESH)).await;
    let mut a = world.attach("a", Some("uid-a"), hello(None)).await.unwrap();
    a.config().await;
    let mut trust = world.authority.trust_state(9);
    trust.deny.identities.insert(world.authority.id("shop", "a"));
    world.operator.adopt_trust(trust).unwrap();
    assert_eq!(a.end().await, Code::PermissionDenied);
}

#[tokio::test]
async fn a_newer_stream_of_the_same_workload_takes_the_place_of_the_older() {
    let world = world(Limits { streams: 1, ..Limits::default() }, Some(MESH)).await;
    let mut first = world.attach("a", Some("uid-a"), hello(None)).await.unwrap();
    first.config().await;
    let mut second = world.attach("a", Some("uid-a"), hello(None)).await.unwrap();
    assert_eq!(first.end().await, Code::Aborted);
    second.config().await;
    let full = world.attach("b", Some("uid-b"), hello(None)).await.err().unwrap();
    assert_eq!(full.code(), Code::ResourceExhausted);
}

#[tokio::test]
async fn a_stream_ends_with_its_certificate() {
    let world = world(Limits::default(), Some(MESH)).await;
    let credentials = Credentials::new(world.authority.trust_state(1)).unwrap();
    let (chain, key) =
        world.authority.issue(&leaf_params(&world.authority.id("shop", "a"), Some("uid-a"), &(now() - 60..now() + 15)));
    credentials.set_svid(Svid::new(chain, &key).unwrap());
    let mut a = world.attach_with(&credentials, hello(None)).await.unwrap();
    a.config().await;
    assert_eq!(a.end().await, Code::Ok);
}

#[tokio::test]
async fn a_stream_has_a_longest_age_and_the_next_comes_over_a_new_handshake() {
    // The connection must be through with new streams long before its stream ends: 8 s at the earliest.
    let (max_age, takes_streams) = (Duration::from_secs(10), Duration::from_secs(2));
    let world = world(Limits { max_age, takes_streams, ..Limits::default() }, Some(MESH)).await;
    let credentials = world.authority.credentials("shop", "a", Some("uid-a"));
    let channel = channel(&credentials, world.operator_id(), &world.address.to_string()).unwrap();
    let mut client = ControlClient::new(channel);
    let (say, said) = mpsc::channel(1);
    say.send(hello(None)).await.unwrap();
    let mut hear = client.attach(ReceiverStream::new(said)).await.unwrap().into_inner();
    assert!(hear.message().await.unwrap().is_some());
    let end = timeout(SOON, hear.message()).await.expect("the stream has no longest age");
    assert!(end.unwrap().is_none());
    // Whoever comes again is who he is now, not who he was: over the old connection this would pass.
    credentials.set_svid(world.authority.svid(&world.authority.id("shop", "a"), Some("uid-b")));
    let (say, said) = mpsc::channel(1);
    say.send(hello(None)).await.unwrap();
    let again = client.attach(ReceiverStream::new(said)).await.expect_err("no new handshake was made");
    assert_eq!(again.code(), Code::PermissionDenied, "{again}");
}

#[tokio::test]
async fn a_peer_that_says_nonsense_is_sent_away() {
    let world = world(Limits::default(), Some(MESH)).await;
    let mut first = world.attach("a", Some("uid-a"), Up { kind: Some(want([1, 2, 3, 4])) }).await.unwrap();
    assert_eq!(first.end().await, Code::InvalidArgument);
    assert!(world.hub.presences().is_empty(), "its place was not given back");
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_sent_away() {
    let world = world(Limits { hello: Duration::from_millis(200), ..Limits::default() }, Some(MESH)).await;
    let credentials = world.authority.credentials("shop", "a", Some("uid-a"));
    let channel = channel(&credentials, world.operator_id(), &world.address.to_string()).unwrap();
    let (say, said) = mpsc::channel::<Up>(1);
    let hear = ControlClient::new(channel).attach(ReceiverStream::new(said)).await.unwrap().into_inner();
    let mut silent = Attached { say, hear };
    assert_eq!(silent.end().await, Code::DeadlineExceeded);
    assert!(world.hub.presences().is_empty(), "its place was not given back");
}

#[tokio::test]
async fn f12_a_peer_that_talks_without_end_is_read_slowly_and_starves_nobody() {
    let world = world(Limits { messages: 10, ..Limits::default() }, Some(MESH)).await;
    let mut loud = world.attach("a", Some("uid-a"), hello(None)).await.unwrap();
    loud.config().await;
    let say = loud.say.clone();
    let talk = tokio::spawn(async move { while say.send(Up { kind: Some(want([10, 77, 0, 3])) }).await.is_ok() {} });
    let began = Instant::now();
    let mut answers = 0_u64;
    // A busy machine needs longer for the burst; what may come beside it grows with the time.
    while answers < 95 || began.elapsed() < Duration::from_secs(2) {
        assert!(began.elapsed() < SOON, "{answers} answers in {:?}", began.elapsed());
        match timeout(Duration::from_millis(200), loud.hear.message()).await {
            Ok(Ok(Some(_))) => answers += 1,
            Ok(end) => panic!("the stream ended after {answers} answers: {end:?}"),
            Err(_) => {}
        }
    }
    let elapsed = began.elapsed();
    talk.abort();
    world.attach("b", Some("uid-b"), hello(None)).await.unwrap().config().await;
    // A burst of 100 passes, then 10 a second; unlimited it would be thousands.
    let bound = 100 + 10 * elapsed.as_secs() + 20;
    assert!(answers <= bound, "{answers} answers in {elapsed:?}, at most {bound}");
}
