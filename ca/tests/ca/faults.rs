//! Root, key and bundle when something is missing.
use crate::support::{CHECKOUT, Host, ORDERS, TestCa};
use std::{fs, os::unix::fs::PermissionsExt};

async fn stopped() -> tempfile::TempDir {
    TestCa::start().await.stop().await
}

async fn refusal(dir: tempfile::TempDir) -> String {
    format!("{:#}", TestCa::start_in(dir, "").await.err().expect("must not start"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_root_is_minted_when_a_bundle_is_published_and_its_key_is_gone() {
    let dir = stopped().await;
    fs::remove_file(dir.path().join("state/root.key")).unwrap();
    let error = refusal(dir).await;
    assert!(error.contains("root.key is missing") && error.contains("backup"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_root_is_minted_when_only_the_bundle_file_is_left() {
    let dir = stopped().await;
    for name in ["root.key", "state.db", "state.db-wal", "state.db-shm"] {
        // The last two are there only after a crash.
        let _ = fs::remove_file(dir.path().join("state").join(name));
    }
    let error = refusal(dir).await;
    assert!(error.contains("root.key is missing"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_store_is_made_anew_around_the_same_root() {
    let dir = stopped().await;
    let bundle = fs::read(dir.path().join("state/bundle.pem")).unwrap();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        let _ = fs::remove_file(dir.path().join("state").join(name));
    }
    let ca = TestCa::start_in(dir, "").await.unwrap();
    assert_eq!(fs::read(ca.state().join("bundle.pem")).unwrap(), bundle);
    ca.joined(ORDERS, "orders-1").await.issue(&mut ca.client()).await.unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_roots_key_is_refused() {
    let (dir, other) = (stopped().await, stopped().await);
    fs::copy(other.path().join("state/root.key"), dir.path().join("state/root.key")).unwrap();
    let error = refusal(dir).await;
    assert!(error.contains("not the key of any"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_the_root_key_is_for_its_owner_alone_and_refused_otherwise() {
    let dir = stopped().await;
    let key = dir.path().join("state/root.key");
    assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let error = refusal(dir).await;
    assert!(error.contains(&format!("chmod 0600 {}", key.display())), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_ca_in_the_same_directory_is_refused() {
    let ca = TestCa::start().await;
    let config = signet_ca::config::Config::read(&ca.dir.path().join("ca.toml")).unwrap();
    let error = signet_ca::program::start(config, signet_ca::clock::Clock::system()).await.unwrap_err().to_string();
    assert!(error.contains("in use by another signet-ca"), "{error}");
    ca.joined(ORDERS, "orders-1").await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_another_trust_domain_is_refused() {
    let dir = stopped().await;
    let config = dir.path().join("ca.toml");
    let text = fs::read_to_string(&config).unwrap().replace("example.org", "example.com");
    fs::write(&config, text).unwrap();
    let config = signet_ca::config::Config::read(&config).unwrap();
    let error = signet_ca::program::start(config, signet_ca::clock::Clock::system()).await.unwrap_err();
    assert!(format!("{error:#}").contains("example.com"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_too_slow_is_a_clear_refusal_and_nothing_leaves_that_the_journal_lacks() {
    // Joined and served while answers have their usual time: what is refused later is refused because of the disk.
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let first = host.issue(&mut ca.client()).await.unwrap();
    let ca = TestCa::start_in(ca.stop().await, "[limits]\nanswer_time = \"200ms\"\n").await.unwrap();
    let token = ca.token(CHECKOUT, "checkout-1").await;
    let (joining, mut client) = (Host::new(), ca.client());
    // Whoever holds the database's lock keeps the writer waiting as a slow disk does.
    let disk = ca.database();
    disk.execute_batch("BEGIN IMMEDIATE").unwrap();
    for refused in [host.issue(&mut client).await.err(), joining.join(&mut client, &token).await.err()] {
        let refused = refused.expect("the disk did not answer");
        assert_eq!(refused.code(), tonic::Code::Unavailable, "asked again: {refused}");
        assert!(refused.message().contains("within 200ms") && refused.message().contains("ask again"), "{refused}");
    }
    disk.execute_batch("ROLLBACK").unwrap();
    // The same requests again, with the same key.
    let answer = loop {
        match joining.join(&mut client, &token).await {
            Ok(answer) => break answer,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    };
    assert_eq!(answer.workload_uid, "checkout-1", "a token whose answer was lost is not lost");
    let second = loop {
        match host.issue(&mut client).await {
            Ok(issued) => break issued,
            Err(status) => assert_eq!(status.code(), tonic::Code::Unavailable, "{status}"),
        }
    };
    for issued in [first, second] {
        let leaf = signet_identity::verify::parse_leaf(&issued.chain[0].clone().into()).unwrap();
        let journaled: bool = ca
            .database()
            .query_row("SELECT count(*) = 1 FROM journal WHERE serial = ?1", [&leaf.serial], |row| row.get(0))
            .unwrap();
        assert!(journaled, "a certificate left that the journal lacks");
    }
    ca.stop().await;
}
