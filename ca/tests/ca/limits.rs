//! Rates and bounds, over the wire.
use crate::support::{CHECKOUT, ORDERS, TestCa, nonce};
use crate::surface::get;
use signet_proto::ca::{ChallengeRequest, WatchTrustRequest};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::time::Instant;
use tonic::Code;
use tracing::{Event, Level, Metadata, Subscriber, span};

async fn metrics(ca: &TestCa) -> String {
    let health = ca.running.health;
    tokio::task::spawn_blocking(move || get(health, "/metrics")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_workload_that_asks_a_thousand_times_does_not_starve_another() {
    let ca = TestCa::start_with("[limits]\nper_address = 100000\nper_address_burst = 100000\n").await;
    let greedy = Arc::new(ca.joined(ORDERS, "orders-1").await);
    let modest = ca.joined(CHECKOUT, "checkout-1").await;
    let client = ca.client();
    let asking: Vec<_> = (0..1000)
        .map(|_| {
            let (mut client, greedy) = (client.clone(), greedy.clone());
            tokio::spawn(async move { greedy.issue(&mut client).await })
        })
        .collect();
    let began = Instant::now();
    let mut other = ca.client();
    for _ in 0..3 {
        modest.issue(&mut other).await.expect("the other workload is served meanwhile");
    }
    let took = began.elapsed();
    let (mut served, mut refused) = (0, 0);
    for one in asking {
        match one.await.unwrap() {
            Ok(_) => served += 1,
            Err(status) => {
                assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
                let wait = status.metadata().get("retry-after-ms").expect("says when to come back");
                assert!(wait.to_str().unwrap().parse::<u64>().unwrap() > 0);
                refused += 1;
            }
        }
    }
    assert!(served >= 50 && refused >= 800, "burst of 50 and 5/s: served {served}, refused {refused}");
    assert!(took < Duration::from_secs(10), "the other workload waited {took:?}");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_who_fails_to_prove_himself_is_slowed_and_empties_nobodys_bucket() {
    let ca = TestCa::start_with("[limits]\nper_workload_burst = 3\nfailures = 1\nfailures_burst = 20\n").await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let mut codes = Vec::new();
    for _ in 0..30 {
        let fresh = nonce(&mut client).await.unwrap();
        // The right key id, and a signature over something else.
        let mut request = host.issue_request(&fresh, crate::support::csr());
        request.csr = crate::support::csr();
        codes.push(client.issue(request).await.unwrap_err().code());
    }
    assert!(codes.iter().filter(|code| **code == Code::Unauthenticated).count() >= 20, "{codes:?}");
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    // The failures are the address', not the workload's: once the address may ask again, its bucket is full.
    let mut issued = 0;
    let end = Instant::now() + Duration::from_secs(60);
    while issued < 3 && Instant::now() < end {
        match host.issue(&mut client).await {
            Ok(_) => issued += 1,
            Err(status) => {
                let wait = status.metadata().get("retry-after-ms").and_then(|wait| wait.to_str().ok()?.parse().ok());
                tokio::time::sleep(Duration::from_millis(wait.unwrap_or(50))).await;
            }
        }
    }
    assert_eq!(issued, 3);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_calls_without_attestation_are_limited_by_address() {
    let ca = TestCa::start_with("[limits]\nper_address = 1\nper_address_burst = 5\n").await;
    let mut client = ca.client();
    let mut refused = 0;
    let began = Instant::now();
    for _ in 0..20 {
        if let Err(status) = client.challenge(ChallengeRequest {}).await {
            assert_eq!(status.code(), Code::ResourceExhausted);
            refused += 1;
        }
    }
    // A burst of five, and one for every second that began meanwhile.
    let allowed = 5 + began.elapsed().as_secs() + 1;
    assert!(refused + allowed >= 20, "{refused} of 20 were refused, at most {allowed} may be served");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_strangers_of_the_same_address_keep_nobody_waiting_who_shows_his_certificate() {
    let limits = "per_address = 1\nper_address_burst = 30\nfailures = 1\nfailures_burst = 2\nper_workload = 1\n\
                  per_workload_burst = 10\nconnections_per_address = 3\nwatches_per_address = 1\n";
    let ca = TestCa::start_with(&format!("[limits]\n{limits}")).await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let known = host.credentials(&ca).await;
    let address = ca.running.listen.to_string();

    // All that the address may have is taken: the trust stream, the connections, the calls, the proofs that fail.
    let mut strangers = vec![ca.client()];
    let watch = WatchTrustRequest { sequence_held: 0 };
    let _stream = strangers[0].watch_trust(watch).await.unwrap();
    let mut next = ca.client();
    while next.challenge(ChallengeRequest {}).await.is_ok() {
        strangers.push(next);
        assert!(strangers.len() <= 3, "connections are bounded");
        next = ca.client();
    }
    let fresh = nonce(&mut strangers[0]).await.unwrap();
    let wrong = || {
        let mut request = host.issue_request(&fresh, crate::support::csr());
        request.csr = crate::support::csr();
        request
    };
    while strangers[0].issue(wrong()).await.unwrap_err().code() != Code::ResourceExhausted {}
    while strangers[0].challenge(ChallengeRequest {}).await.is_ok() {}

    // Who shows his certificate is let in, renews, and follows the trust state.
    let mut client = crate::support::connect_as(&known, &address);
    host.issue(&mut client).await.expect("a renewal");
    client.watch_trust(watch).await.expect("a trust stream");
    // And takes no more than his own share.
    let mut served = 0;
    let status = loop {
        match client.challenge(ChallengeRequest {}).await {
            Ok(_) => served += 1,
            Err(status) => break status,
        }
        assert!(served < 1000, "one workload is bounded too");
    };
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_ended_keeps_nobody_from_the_ca() {
    // The CA's own certificate lives as long: it must have time to be renewed.
    let ca = TestCa::start_with("[lifetimes]\nleaf = \"10s\"\n").await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let ended = host.credentials(&ca).await;
    let not_after = ended.svid().unwrap().not_after();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while now() <= not_after + 1 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let mut client = crate::support::connect_as(&ended, &ca.running.listen.to_string());
    host.issue(&mut client).await.expect("a new certificate");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trust_streams_begin_with_the_newest_state_and_are_bounded() {
    let ca = TestCa::start_with("[limits]\nwatches = 2\n").await;
    let mut client = ca.client();
    let watch = |held| WatchTrustRequest { sequence_held: held };
    let mut first = client.watch_trust(watch(0)).await.unwrap().into_inner();
    let state = first.message().await.unwrap().expect("the newest state at once");
    assert_eq!(state.bundles[0].trust_domain, "example.org");
    let second = client.watch_trust(watch(state.sequence)).await.unwrap();
    assert_eq!(client.watch_trust(watch(0)).await.unwrap_err().code(), Code::ResourceExhausted);
    drop(second);
    let end = Instant::now() + Duration::from_secs(5);
    while client.watch_trust(watch(0)).await.is_err() {
        assert!(Instant::now() < end, "a stream that its reader dropped frees its place");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ca.stop().await;
}

/// What the CA's composition root warns of on the thread that listens.
#[derive(Clone, Default)]
struct Warnings(Arc<Mutex<Vec<&'static str>>>);

impl Subscriber for Warnings {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::WARN && metadata.target() == "signet_ca::program"
    }
    fn event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(event.metadata().name());
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn open_trust_streams_do_not_hold_up_a_stop() {
    let ca = TestCa::start().await;
    let mut stream = ca.client().watch_trust(WatchTrustRequest { sequence_held: 0 }).await.unwrap().into_inner();
    stream.message().await.unwrap();
    // A stop that had to use up its grace says so. How long it took shows that only where nobody else wants the
    // processor.
    let warnings = Warnings::default();
    let listening = tracing::subscriber::set_default(warnings.clone());
    ca.stop().await;
    drop(listening);
    let warned = warnings.0.lock().unwrap().clone();
    assert!(warned.is_empty(), "the grace was used up: {warned:?}");
    assert!(stream.message().await.is_err() || stream.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_message_beyond_the_limit_is_refused() {
    let ca = TestCa::start().await;
    let mut client = ca.client();
    let request =
        signet_proto::ca::RegisterRequest { join_token: "t".repeat(40 * 1024), host_public_key: vec![], proof: vec![] };
    assert_eq!(client.register(request).await.unwrap_err().code(), Code::OutOfRange);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_its_own_few_trust_streams_and_connections() {
    let ca = TestCa::start_with("[limits]\nwatches_per_address = 2\nconnections_per_address = 3\n").await;
    let mut client = ca.client();
    let watch = WatchTrustRequest { sequence_held: 0 };
    let mut held = vec![client.watch_trust(watch).await.unwrap(), client.watch_trust(watch).await.unwrap()];
    let status = client.watch_trust(watch).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    assert!(status.metadata().contains_key("retry-after-ms"));
    let mut others: Vec<_> = (0..2).map(|_| ca.client()).collect();
    for other in &mut others {
        other.challenge(ChallengeRequest {}).await.unwrap();
    }
    assert!(ca.client().challenge(ChallengeRequest {}).await.is_err(), "a fourth connection");
    client.challenge(ChallengeRequest {}).await.expect("who is in stays in");
    let shown = metrics(&ca).await;
    for (name, least) in [("signet_ca_trust_watches_crowded_total", 1), ("signet_ca_connections_refused_total", 1)] {
        let line = shown.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}: {shown}"));
        let count: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(count >= least, "{line}");
    }
    assert!(shown.contains("signet_ca_connections_open 3\n"), "{shown}");
    held.clear();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_old_takes_no_new_calls_and_nobody_notices() {
    let rates: String = ["per_workload", "per_workload_burst", "per_address", "per_address_burst"]
        .map(|key| format!("{key} = 1000000\n"))
        .concat();
    let ca = TestCa::start_with(&format!("[limits]\nconnection_age = \"1s\"\n{rates}")).await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let accepted = async || {
        let shown = metrics(&ca).await;
        let line =
            shown.lines().find(|line| line.starts_with("signet_ca_handshakes_accepted_total ")).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let before = accepted().await;
    // Until it has had to connect again twice, without one call that failed.
    while accepted().await < before + 3 {
        host.issue(&mut client).await.expect("a renewal at any moment");
    }
    // A stream is not cut with its connection's age; it ends by itself, later.
    let mut stream = client.watch_trust(WatchTrustRequest { sequence_held: 0 }).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("the newest state");
    assert!(stream.message().await.expect("an end, and no error").is_none());
    ca.stop().await;
}
