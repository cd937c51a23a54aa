//! The client that sidecars and operators use, against the real CA: the two ends of `signet.ca.v1` agree.
use crate::support::{ORDERS, TestCa};
use signet_enroll::{EnrollConfig, Enroller};
use std::{path::Path, time::Duration};
use tokio::time::timeout;
use zeroize::Zeroizing;

fn config(ca: &TestCa, state_dir: &Path, token: Option<String>) -> EnrollConfig {
    EnrollConfig {
        ca_address: ca.running.listen.to_string(),
        trust_domain: "example.org".parse().unwrap(),
        control_namespace: "signet-system".into(),
        bundle_pem: std::fs::read_to_string(ca.state().join("bundle.pem")).unwrap(),
        state_dir: state_dir.to_path_buf(),
        join_token: token.map(Zeroizing::new),
        token_file: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_joins_renews_with_new_keys_and_comes_back_without_a_token() {
    let ca = TestCa::start_with("[lifetimes]\nleaf = \"8s\"\nissuing = \"24s\"\n").await;
    let home = tempfile::tempdir().unwrap();
    let token = ca.token(ORDERS, "orders-1").await;
    for token in [Some(token), None] {
        let enroller = Enroller::new(config(&ca, &home.path().join("state"), token)).unwrap();
        let (credentials, mut status) = (enroller.credentials(), enroller.status());
        let running = tokio::spawn(enroller.run());
        let mut serials = std::collections::BTreeSet::new();
        let obtained = timeout(Duration::from_secs(120), async {
            while serials.len() < 3 {
                status.changed().await.unwrap();
                if let Some(svid) = credentials.svid() {
                    assert_eq!(svid.id().as_str(), ORDERS);
                    assert_eq!(svid.uid().unwrap().as_str(), "orders-1");
                    serials.insert(svid.serial().to_vec());
                }
            }
        });
        obtained.await.expect("three certificates in 120 s");
        assert!(credentials.trust().state().sequence > 0, "the trust state was followed");
        running.abort();
        // Gone when this says so: the next one takes the directory.
        let _ = running.await;
    }
    ca.stop().await;
}
