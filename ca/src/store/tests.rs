use super::*;
use signet_identity::{SpiffeId, WorkloadUid};

fn open(dir: &Path) -> Store {
    Store::open(&dir.join("state.db"), &"example.org".parse().unwrap(), Metrics::default()).unwrap().0
}

fn token(text: &str, uid: &str, account: &str) -> NewToken {
    let identity: SpiffeId = format!("spiffe://example.org/ns/shop/sa/{account}").parse().unwrap();
    NewToken {
        hash: text.as_bytes().to_vec(),
        id: text.into(),
        identity,
        uid: uid.parse().unwrap(),
        control: false,
        created_at: 100,
        expires_at: 700,
    }
}

fn redemption(token: &str, key: &str) -> Redemption {
    Redemption { token_hash: token.as_bytes().to_vec(), key_id: key.into(), public_key: key.as_bytes().to_vec() }
}

fn issuer(signing_until: u64) -> IssuerRecord {
    IssuerRecord { ski: vec![1], root: vec![9], not_after: 5000, signing_until, lowest_held: None, fenced: false }
}

fn entry(serial: u8, not_after: u64, trust_held: u64) -> Entry {
    Entry {
        serial: vec![serial],
        issuer: vec![1],
        identity: "spiffe://example.org/ns/shop/sa/orders".into(),
        uid: None,
        attestor: "self",
        host_key: None,
        issued_at: 100,
        not_before: 90,
        not_after,
        trust_held,
        place: None,
    }
}

#[tokio::test]
async fn f24_of_a_hundred_redemptions_with_different_keys_one_succeeds() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    store.add_token(token("t", "orders-1", "orders")).await.unwrap();
    let tries = (0..100).map(|n| {
        let store = store.clone();
        tokio::spawn(async move { store.redeem(redemption("t", &format!("key-{n}")), 200).await })
    });
    let mut successes = 0;
    for one in tries.collect::<Vec<_>>() {
        match one.await.unwrap() {
            Ok(_) => successes += 1,
            Err(error) => assert!(matches!(error, RedeemError::Unknown), "{error}"),
        }
    }
    assert_eq!(successes, 1);
}

#[tokio::test]
async fn f24_the_same_token_and_key_give_the_same_answer_and_another_key_none() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_token(token("t", "orders-1", "orders")).await.unwrap();
    let first = store.redeem(redemption("t", "a"), 200).await.unwrap();
    let again = store.redeem(redemption("t", "a"), 10_000).await.unwrap();
    assert_eq!(first, again, "an answer lost on its way can be asked for again, even after the token's end");
    assert!(matches!(store.redeem(redemption("t", "b"), 200).await, Err(RedeemError::Unknown)));
}

#[tokio::test]
async fn f25_a_token_is_good_until_the_second_of_its_end_and_not_at_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_token(token("early", "a", "orders")).await.unwrap();
    store.add_token(token("late", "b", "orders")).await.unwrap();
    assert!(store.redeem(redemption("early", "a"), 699).await.is_ok());
    assert!(matches!(store.redeem(redemption("late", "b"), 700).await, Err(RedeemError::Unknown)));
}

#[tokio::test]
async fn joining_again_replaces_the_host_key_and_the_old_one_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_token(token("one", "orders-1", "orders")).await.unwrap();
    store.redeem(redemption("one", "old"), 200).await.unwrap();
    store.add_token(token("two", "orders-1", "orders")).await.unwrap();
    store.redeem(redemption("two", "new"), 300).await.unwrap();
    assert_eq!(store.host_key("old").unwrap(), None);
    assert_eq!(store.host_key("new").unwrap().unwrap().uid.as_str(), "orders-1");
}

#[tokio::test]
async fn a_uid_of_another_identity_is_refused_when_the_token_is_made_and_when_it_is_redeemed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_token(token("one", "orders-1", "orders")).await.unwrap();
    store.add_token(token("two", "orders-1", "checkout")).await.unwrap();
    store.redeem(redemption("one", "a"), 200).await.unwrap();
    assert!(matches!(store.add_token(token("three", "orders-1", "checkout")).await, Err(TokenError::UidTaken { .. })));
    assert!(matches!(store.redeem(redemption("two", "b"), 200).await, Err(RedeemError::UidTaken)));
    assert!(store.host_key("b").unwrap().is_none(), "a refused redemption leaves no trace");
    assert_eq!(store.tokens(200).unwrap().len(), 1, "and does not spend the token");
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_and_its_uid_stays_bound() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let uid: WorkloadUid = "orders-1".parse().unwrap();
    store.add_token(token("one", "orders-1", "orders")).await.unwrap();
    store.redeem(redemption("one", "a"), 200).await.unwrap();
    assert!(store.revoke_host_key(uid.clone(), 300).await.unwrap());
    assert!(!store.revoke_host_key(uid, 301).await.unwrap());
    assert!(matches!(store.redeem(redemption("one", "a"), 302).await, Err(RedeemError::KeyRevoked)));
    assert!(matches!(store.add_token(token("x", "orders-1", "checkout")).await, Err(TokenError::UidTaken { .. })));
    store.add_token(token("two", "orders-1", "orders")).await.unwrap();
    assert!(matches!(store.redeem(redemption("two", "a"), 302).await, Err(RedeemError::KeyRevoked)));
    assert!(store.redeem(redemption("two", "b"), 302).await.is_ok(), "a new key may join");
}

#[tokio::test]
async fn a_certificate_of_a_host_key_revoked_meanwhile_is_not_journaled() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_issuer(issuer(1000), 100).await.unwrap();
    store.add_token(token("one", "orders-1", "orders")).await.unwrap();
    store.redeem(redemption("one", "a"), 200).await.unwrap();
    let of_host = |serial| Entry { uid: Some("orders-1".into()), host_key: Some("a".into()), ..entry(serial, 900, 1) };
    store.journal(of_host(1)).await.unwrap();
    store.revoke_host_key("orders-1".parse().unwrap(), 300).await.unwrap();
    assert!(matches!(store.journal(of_host(2)).await, Err(JournalError::HostKeyGone)));
}

#[tokio::test]
async fn an_issuer_never_has_a_leaf_beyond_what_it_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_issuer(issuer(1000), 100).await.unwrap();
    store.journal(entry(1, 1000, 1)).await.unwrap();
    assert!(matches!(store.journal(entry(2, 1001, 1)).await, Err(JournalError::Fenced)));
    assert!(store.extend_issuer(&[1], 1001).await.unwrap());
    store.journal(entry(2, 1001, 1)).await.unwrap();
    store.fence_issuers().await.unwrap();
    assert!(!store.extend_issuer(&[1], 2000).await.unwrap(), "a fenced issuer cannot go on");
    assert!(matches!(store.journal(entry(3, 1000, 1)).await, Err(JournalError::Fenced)));
}

#[tokio::test]
async fn the_lowest_trust_sequence_held_counts_living_leaves_only() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_issuer(issuer(5000), 100).await.unwrap();
    store.journal(entry(1, 1000, 5)).await.unwrap();
    store.journal(entry(2, 2000, 8)).await.unwrap();
    assert_eq!(store.issuers().unwrap()[0].lowest_held, Some(5));
    store.tidy(1500, 0).await.unwrap();
    assert_eq!(store.issuers().unwrap()[0].lowest_held, Some(8));
    store.tidy(2500, 0).await.unwrap();
    assert_eq!(store.issuers().unwrap()[0].lowest_held, None);
}

#[tokio::test]
async fn a_serial_is_journaled_once() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    store.add_issuer(issuer(5000), 100).await.unwrap();
    store.journal(entry(1, 1000, 1)).await.unwrap();
    assert!(matches!(store.journal(entry(1, 1000, 1)).await, Err(JournalError::Store(_))));
}

#[tokio::test]
async fn trust_is_swapped_only_against_the_state_that_was_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    assert_eq!(store.swap_trust(0, 10, vec![1], 10).await.unwrap(), Swap::Done);
    assert_eq!(store.swap_trust(0, 11, vec![2], 11).await.unwrap(), Swap::Lost, "somebody published first");
    assert_eq!(store.swap_trust(10, 12, vec![3], 12).await.unwrap(), Swap::Done);
    assert_eq!(store.swap_trust(10, 13, vec![4], 13).await.unwrap(), Swap::Lost);
    assert_eq!(store.swap_trust(12, 12, vec![5], 13).await.unwrap(), Swap::Lost, "a sequence never repeats");
    assert_eq!(store.trust().unwrap(), Some((12, vec![3])));
    assert_eq!(store.last_record().unwrap(), 13);
}

#[tokio::test]
async fn one_failing_change_takes_no_other_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(open(dir.path()));
    let mixed = (0..200_u64).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            store
                .write(move |c| {
                    c.execute("INSERT INTO issuers VALUES (?1, x'00', 1, 1, NULL, 0)", [n.to_be_bytes().to_vec()])?;
                    if n % 3 == 0 { Err(StoreError::Content("on purpose".into())) } else { Ok(()) }
                })
                .await
        })
    });
    for (n, one) in mixed.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(one.await.unwrap().is_err(), n % 3 == 0);
    }
    assert_eq!(store.issuers().unwrap().len(), 133);
}

#[test]
fn another_trust_domain_and_a_newer_schema_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()));
    let path = dir.path().join("state.db");
    let other = Store::open(&path, &"other.org".parse().unwrap(), Metrics::default());
    assert!(matches!(other, Err(StoreError::OtherTrustDomain { .. })));
    Connection::open(&path).unwrap().pragma_update(None, "user_version", 2).unwrap();
    let newer = Store::open(&path, &"example.org".parse().unwrap(), Metrics::default());
    assert!(matches!(newer, Err(StoreError::Schema { found: 2, .. })));
}
