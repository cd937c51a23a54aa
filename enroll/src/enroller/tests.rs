//! Enrolment against a CA on a real socket, with real time and short lifetimes where time must pass.
use super::*;
use crate::fake_ca::{FakeCa, TOKEN};
use prost::Message as _;
use signet_identity::testing::{Authority, leaf_params, now};
use signet_proto::ca::IssueResponse;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use tonic::Status as Refusal;
use zeroize::Zeroizing;

fn config(ca: &FakeCa, directory: &Path, token: Option<&str>) -> EnrollConfig {
    EnrollConfig {
        ca_address: ca.address.to_string(),
        trust_domain: ca.authority.trust_domain.clone(),
        control_namespace: "signet-system".into(),
        bundle_pem: ca.authority.bundle().to_pem(),
        state_dir: directory.join("state"),
        join_token: token.map(|token| Zeroizing::new(token.to_owned())),
        token_file: None,
    }
}

/// A running enroller; stops when dropped, as a killed program would.
struct Running {
    credentials: Arc<Credentials>,
    status: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn start(config: EnrollConfig) -> Running {
    // One that was just stopped lets go of the directory when its task is gone.
    let enroller = loop {
        match Enroller::new(config.clone()) {
            Err(EnrollError::State(StateError::InUse(_))) => tokio::task::yield_now().await,
            opened => break opened.unwrap(),
        }
    };
    let (credentials, status) = (enroller.credentials(), enroller.status());
    Running { credentials, status, task: tokio::spawn(enroller.run()) }
}

impl Running {
    /// Waits until the status says so.
    async fn until(&mut self, what: &str, holds: impl Fn(&Status) -> bool) -> Status {
        let found = tokio::time::timeout(Duration::from_secs(20), self.status.wait_for(|status| holds(status))).await;
        let found = found.ok().map(|status| status.unwrap().clone());
        found.unwrap_or_else(|| panic!("never came: {what}; last: {:?}", self.status.borrow()))
    }
}

#[tokio::test]
async fn a_host_joins_with_its_token_and_has_an_svid() {
    let ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    let status = host.until("an SVID", |s| s.issued == 1).await;
    let svid = host.credentials.svid().unwrap();
    assert_eq!(*svid.id(), ca.authority.id("shop", "orders"));
    assert_eq!(svid.uid().unwrap().as_str(), "orders-1");
    assert_eq!(status.registered, Some((ca.authority.id("shop", "orders"), "orders-1".parse().unwrap())));
    assert_eq!(status.not_after, Some(svid.not_after()));
    assert!(status.has_valid_svid(now()));
    assert_eq!((status.consecutive_failures, status.last_error), (0, None));
    assert_eq!(
        host.credentials.trust().state().sequence,
        1000,
        "the trust state came with the certificate or before it"
    );
    for (name, mode) in [("", 0o700), ("host.key", 0o600), ("trust.state", 0o600)] {
        host.until("the trust state in force", |s| s.trust_sequence == 1000).await;
        let path = directory.path().join("state").join(name);
        let stored = async {
            while !path.exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), stored).await.expect("the file is stored");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777, mode, "{}", path.display());
    }
    assert!(!directory.path().join("state/pending.key").exists(), "a key that is registered is pending no longer");
}

#[tokio::test]
async fn every_renewal_has_a_new_key_and_comes_before_the_end_of_the_old_certificate() {
    let ca = FakeCa::start().await;
    // Renewed after 5 to 7 seconds, with 3 to spare.
    ca.with_book(|book| book.lifetime = 10);
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    for round in 1..=3 {
        let before = host.status.borrow().not_after;
        let status = host.until("a renewal", |s| s.issued >= round).await;
        assert_eq!(status.failures, 0);
        assert!(
            before.is_none_or(|end| now() <= end),
            "renewal {round} came after the end of the certificate before it"
        );
    }
    ca.with_book(|book| {
        let mut keys = book.issued.clone();
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), book.issued.len(), "a key was certified twice");
        assert_eq!(book.registered.len(), 1, "the host joins once");
        assert!(
            book.held[1..].iter().all(|held| *held == 1000),
            "requests carry the trust sequence held: {:?}",
            book.held
        );
    });
}

#[tokio::test]
async fn a_restart_needs_no_token_and_keeps_the_newest_trust() {
    let ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    {
        let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
        ca.publish(&ca.authority.trust_state(2000));
        host.until("the newer trust state", |s| s.trust_sequence == 2000 && s.issued == 1).await;
        let stored = async {
            let file = directory.path().join("state/trust.state");
            let sequence = || Some(wire::TrustState::decode(std::fs::read(&file).ok()?.as_slice()).ok()?.sequence);
            while sequence() != Some(2000) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), stored).await.expect("the newer trust state is stored");
    }
    // A CA that has gone back must not take the host with it.
    ca.publish(&ca.authority.trust_state(1500));
    let mut host = start(config(&ca, directory.path(), None)).await;
    assert_eq!(host.credentials.trust().state().sequence, 2000, "before the CA was asked");
    host.until("an SVID", |s| s.issued == 1).await;
    assert_eq!(host.credentials.trust().state().sequence, 2000);
    assert_eq!(ca.with_book(|book| book.registered.len()), 1);
}

#[tokio::test]
async fn a_ca_that_is_away_for_longer_than_a_leaf_lives_locks_nobody_out() {
    let mut ca = FakeCa::start().await;
    ca.with_book(|book| book.lifetime = 2);
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    host.until("an SVID", |s| s.issued == 1).await;
    ca.crash();
    let status =
        host.until("the certificate's end", |s| s.not_after.unwrap() < now() && s.consecutive_failures > 1).await;
    assert!(status.last_error.is_some());
    assert!(host.credentials.svid().is_some(), "what is held stays until there is something better");
    // The next one is looked at while it is valid.
    ca.with_book(|book| book.lifetime = 3600);
    ca.resume().await;
    let issued = status.issued;
    let status = host.until("an SVID again", |s| s.issued > issued).await;
    assert!(status.has_valid_svid(now()));
    assert_eq!((status.consecutive_failures, status.last_error), (0, None));
}

#[tokio::test]
async fn a_host_started_before_its_ca_gets_its_svid_when_the_ca_comes() {
    let mut ca = FakeCa::start().await;
    ca.crash();
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    let status = host.until("a failure", |s| s.consecutive_failures > 0).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("cannot connect to 127.0.0.1"), "{error}");
    ca.resume().await;
    host.until("an SVID", |s| s.issued == 1).await;
}

#[tokio::test]
async fn no_token_goes_to_a_ca_with_another_identity() {
    let ca = FakeCa::start_as("orders").await;
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    let status = host.until("two failures", |s| s.consecutive_failures >= 2).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("/sa/orders is not the expected") && error.contains("/sa/signet-ca"), "{error}");
    assert_eq!(ca.with_book(|book| book.registered.len()), 0, "a token was sent");
}

#[tokio::test]
async fn no_token_goes_to_a_ca_below_another_root() {
    let (ca, other) = (FakeCa::start().await, Authority::new("prod.example"));
    let directory = tempfile::tempdir().unwrap();
    let bundle_pem = other.bundle().to_pem();
    let mut host = start(EnrollConfig { bundle_pem, ..config(&ca, directory.path(), Some(TOKEN)) }).await;
    let status = host.until("a failure", |s| s.consecutive_failures >= 1).await;
    let error = status.last_error.unwrap();
    assert!(error.contains("issuer is not trusted"), "{error}");
    assert_eq!(ca.with_book(|book| book.registered.len()), 0, "a token was sent");
}

#[tokio::test]
async fn f24_a_crash_after_the_cas_answer_asks_again_with_the_same_key() {
    let ca = FakeCa::start().await;
    ca.with_book(|book| book.refuse_register = vec![Refusal::unavailable("the answer was lost")]);
    let directory = tempfile::tempdir().unwrap();
    {
        let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
        host.until("the lost answer", |s| s.consecutive_failures == 1).await;
    }
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    host.until("an SVID", |s| s.issued == 1).await;
    ca.with_book(|book| {
        assert!(book.registered.len() >= 2);
        assert!(
            book.registered.iter().all(|key| *key == book.registered[0]),
            "another key was sent with the same token"
        );
    });
}

#[tokio::test]
async fn a_new_token_makes_a_new_host_key_and_a_refused_one_leaves_the_old() {
    let ca = FakeCa::start().await;
    let id = ca.authority.id("shop", "stock").to_string();
    ca.with_book(|book| book.tokens.insert("second".into(), (id, "stock-1".into())));
    let directory = tempfile::tempdir().unwrap();
    for (token, account, registrations) in [(TOKEN, "orders", 1), ("used-up", "orders", 2), ("second", "stock", 3)] {
        let mut host = start(config(&ca, directory.path(), Some(token))).await;
        host.until("an SVID", |s| s.issued == 1).await;
        assert_eq!(*host.credentials.svid().unwrap().id(), ca.authority.id("shop", account), "with token {token}");
        assert_eq!(ca.with_book(|book| book.registered.len()), registrations, "with token {token}");
    }
    ca.with_book(|book| assert_ne!(book.registered[0], book.registered[2], "the host key was used again"));
}

#[tokio::test]
async fn a_certificate_that_is_not_ours_is_not_used() {
    type Tamper = fn(&mut IssueResponse, &Authority);
    fn issue(answer: &mut IssueResponse, ca: &Authority, account: &str, uid: &str) {
        let der = answer.chain[0].clone().into();
        let spki = crate::fake_ca::spki(&der);
        let params = leaf_params(&ca.id("shop", account), Some(uid), &(now() - 10..now() + 100));
        answer.chain = ca.certify(&params, &spki).into_iter().map(|der| der.to_vec()).collect();
    }
    let table: [(&str, Tamper, &str); 6] = [
        (
            "another identity",
            |a, ca| issue(a, ca, "checkout", "orders-1"),
            "is spiffe://prod.example/ns/shop/sa/orders",
        ),
        ("another UID", |a, ca| issue(a, ca, "orders", "orders-2"), "with uid orders-2"),
        (
            "another key",
            |a, ca| a.chain = chain_of(&ca.svid(&ca.id("shop", "orders"), Some("orders-1"))),
            "not the leaf's",
        ),
        ("no certificate", |a, _| a.chain.clear(), "chain is empty"),
        ("no issuing CA", |a, _| a.chain.truncate(1), "issuer is not trusted"),
        ("garbage", |a, _| a.chain[0] = vec![1, 2, 3], "malformed"),
    ];
    for (what, tamper, wanted) in table {
        let ca = FakeCa::start().await;
        ca.with_book(|book| book.tamper = Some(tamper));
        let directory = tempfile::tempdir().unwrap();
        let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
        let status = host.until("a failure", |s| s.consecutive_failures >= 1).await;
        let error = status.last_error.unwrap();
        assert!(error.contains(wanted), "{what}: {error}");
        assert!(host.credentials.svid().is_none(), "{what} is used");
    }
}

fn chain_of(svid: &Svid) -> Vec<Vec<u8>> {
    svid.chain().iter().map(|der| der.to_vec()).collect()
}

#[tokio::test]
async fn a_delay_that_the_ca_asks_for_is_kept() {
    let ca = FakeCa::start().await;
    let mut refusal = Refusal::resource_exhausted("too many");
    refusal.metadata_mut().insert("retry-after-ms", "2500".parse().unwrap());
    ca.with_book(|book| book.refuse_issue = vec![refusal]);
    let directory = tempfile::tempdir().unwrap();
    // Before the refusal and after it was noticed: what was waited lies between the two.
    let started = tokio::time::Instant::now();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    host.until("the refusal", |s| s.consecutive_failures == 1).await;
    let refused = tokio::time::Instant::now();
    host.until("an SVID", |s| s.issued == 1).await;
    let (most, least) = (started.elapsed(), refused.elapsed());
    assert!(most.as_millis() >= 2400 && least.as_millis() < 6000, "waited between {least:?} and {most:?}");
}

#[tokio::test]
async fn other_content_under_the_same_sequence_is_counted_and_not_taken() {
    let ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    host.until("the trust stream", |s| s.trust_sequence == 1000 && s.trust_stream_open && s.issued == 1).await;
    ca.publish(&TrustState { sequence: 1000, ..TrustState::default() });
    let status = host.until("the alarm", |s| s.trust_conflicts == 1).await;
    assert_eq!(status.trust_sequence, 1000);
    assert_eq!(*host.credentials.trust().state(), ca.authority.trust_state(1000));
    ca.publish(&ca.authority.trust_state(1001));
    host.until("the next state, over the same stream", |s| s.trust_sequence == 1001).await;
}

#[tokio::test]
async fn the_trust_stream_comes_back_after_the_ca() {
    let mut ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(config(&ca, directory.path(), Some(TOKEN))).await;
    host.until("the trust stream", |s| s.trust_stream_open && s.issued == 1).await;
    ca.crash();
    host.until("its end", |s| !s.trust_stream_open).await;
    ca.publish(&ca.authority.trust_state(3000));
    ca.resume().await;
    host.until("the newer state", |s| s.trust_sequence == 3000).await;
}

#[tokio::test]
async fn without_registration_and_token_there_is_nothing_to_start() {
    let ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    let error = Enroller::new(config(&ca, directory.path(), None)).err().unwrap();
    assert!(error.to_string().contains("signet token create"), "{error}");
}

/// A pod of `shop/orders` whose token lies in a file, as the CA knows it.
fn pod(ca: &FakeCa, directory: &Path, token: &str) -> EnrollConfig {
    let id = ca.authority.id("shop", "orders").to_string();
    ca.with_book(|book| book.pods.insert(token.into(), (id, "pod-uid-1".into())));
    let file = directory.join("token");
    std::fs::write(&file, token).unwrap();
    EnrollConfig { token_file: Some(file), ..config(ca, directory, None) }
}

#[tokio::test]
async fn a_pod_shows_the_token_of_the_moment_and_proves_the_certificate_that_it_renews() {
    let ca = FakeCa::start().await;
    // With time to spare between a renewal and the end of what it proves.
    ca.with_book(|book| book.lifetime = 8);
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(pod(&ca, directory.path(), "token-1")).await;
    let status = host.until("an SVID", |s| s.issued == 1).await;
    assert_eq!(status.registered, Some((ca.authority.id("shop", "orders"), "pod-uid-1".parse().unwrap())));
    // The kubelet has written a new one, and the old one is worth nothing.
    pod(&ca, directory.path(), "token-2");
    ca.with_book(|book| book.pods.remove("token-1"));
    let issued = host.status.borrow().issued;
    host.until("two renewals", |s| s.issued >= issued + 2).await;
    ca.with_book(|book| {
        assert_eq!(book.registered.len(), 0, "a pod has no host key");
        assert!(book.renewed.len() >= 2, "renewals prove what they renew");
        assert!(book.renewed.windows(2).all(|pair| pair[0] != pair[1]), "each with the newest receipt");
    });
    assert!(!directory.path().join("state/host.key").exists());
}

#[tokio::test]
async fn the_first_certificate_fixes_who_a_pod_is() {
    let ca = FakeCa::start().await;
    ca.with_book(|book| book.lifetime = 3);
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(pod(&ca, directory.path(), "token")).await;
    host.until("an SVID", |s| s.issued == 1).await;
    let id = ca.authority.id("shop", "orders").to_string();
    ca.with_book(|book| book.pods.insert("token".into(), (id, "pod-uid-2".into())));
    let status = host.until("a refusal", |s| s.consecutive_failures > 0).await;
    let error = status.last_error.unwrap();
    assert!(
        error.contains("with uid pod-uid-2")
            && error.contains("is spiffe://prod.example/ns/shop/sa/orders with uid pod-uid-1"),
        "{error}"
    );
    assert_eq!(host.credentials.svid().unwrap().uid().unwrap().as_str(), "pod-uid-1");
}

#[tokio::test]
async fn a_pod_whose_token_is_not_there_yet_says_so_and_goes_on() {
    let ca = FakeCa::start().await;
    let directory = tempfile::tempdir().unwrap();
    let config = pod(&ca, directory.path(), "token");
    std::fs::remove_file(directory.path().join("token")).unwrap();
    let mut host = start(config).await;
    let status = host.until("a failure", |s| s.consecutive_failures > 0).await;
    assert!(status.last_error.unwrap().contains("the pod's token cannot be read"));
    pod(&ca, directory.path(), "token");
    host.until("an SVID", |s| s.issued == 1).await;
}

#[tokio::test]
async fn an_address_that_is_not_published_yet_is_asked_for_until_it_is() {
    let ca = FakeCa::start().await;
    let mut refusal = Refusal::unavailable("the pod's address is not published yet");
    refusal.metadata_mut().insert("retry-after-ms", "10".parse().unwrap());
    ca.with_book(|book| book.refuse_issue = vec![refusal; 8]);
    let directory = tempfile::tempdir().unwrap();
    let mut host = start(pod(&ca, directory.path(), "token")).await;
    let status = host.until("an SVID", |s| s.issued == 1).await;
    assert_eq!(status.failures, 8);
}
