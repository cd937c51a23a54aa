//! What a certificate needs and what it is.
use crate::support::{Host, ORDERS, TestCa, csr, csr_with, nonce, trusting};
use rcgen::{DnType, KeyUsagePurpose, SanType};
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_identity::{Side, verify};
use signet_proto::ca::{HostKeyProof, IssueRequest, KubernetesProof, issue_request::Attestation};
use std::{collections::BTreeSet, process::Command, time::Duration};
use tonic::Code;

fn der(chain: &[Vec<u8>]) -> Vec<CertificateDer<'static>> {
    chain.iter().cloned().map(CertificateDer::from).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_joined_host_gets_the_identity_and_uid_of_its_token_and_openssl_agrees() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let issued = host.issue(&mut ca.client()).await.unwrap();
    let chain = der(&issued.chain);
    let trust = trusting(&ca.state());
    for side in [Side::Server, Side::Client] {
        let peer = verify::verify_chain(&chain, &trust.trust(), UnixTime::now(), side).unwrap();
        assert_eq!(peer.leaf.id.as_str(), ORDERS);
        assert_eq!(peer.leaf.uid.unwrap().as_str(), "orders-1");
    }
    let newest = issued.trust.unwrap();
    assert_eq!(newest.bundles.len(), 1);
    assert!(newest.sequence > 1_700_000_000, "a sequence is at least unix seconds");

    for (name, bytes) in [("leaf", &issued.chain[0]), ("issuing", &issued.chain[1])] {
        std::fs::write(ca.dir.path().join(name), bytes).unwrap();
    }
    let verified = Command::new("openssl")
        .args([
            "verify",
            "-x509_strict",
            "-purpose",
            "sslserver",
            "-CAfile",
            "state/bundle.pem",
            "-untrusted",
            "issuing",
            "leaf",
        ])
        .current_dir(ca.dir.path())
        .output()
        .unwrap();
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f32_requests_that_are_broken_or_ask_for_anything_are_refused() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let mut broken = csr();
    *broken.last_mut().unwrap() ^= 1;
    let san = || vec![SanType::URI("spiffe://example.org/ns/shop/sa/admin".try_into().unwrap())];
    let requests = [
        ("a broken signature", broken),
        ("a subject", csr_with(|p| p.distinguished_name.push(DnType::CommonName, "admin"))),
        ("a SAN", csr_with(|p| p.subject_alt_names = san())),
        ("a key usage", csr_with(|p| p.key_usages = vec![KeyUsagePurpose::KeyCertSign])),
        ("nothing at all", vec![]),
        ("too many bytes", vec![0x30; 1025]),
        ("no DER", b"-----BEGIN CERTIFICATE REQUEST-----".to_vec()),
    ];
    for (what, csr) in requests {
        let fresh = nonce(&mut client).await.unwrap();
        let status = client.issue(host.issue_request(&fresh, csr)).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status}");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f32_serials_are_random() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let mut serials = BTreeSet::new();
    for _ in 0..20 {
        let issued = host.issue(&mut client).await.unwrap();
        serials.insert(verify::parse_leaf(&der(&issued.chain)[0]).unwrap().serial);
    }
    assert_eq!(serials.len(), 20);
    assert!(serials.iter().all(|serial| serial.len() == 16));
    assert!(serials.iter().map(|serial| serial[0]).collect::<BTreeSet<_>>().len() > 5, "first bytes are spread");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_a_nonce_serves_one_of_fifty_who_use_it_at_once() {
    let ca = TestCa::start_with("[limits]\nper_workload_burst = 1000\n").await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let fresh = nonce(&mut client).await.unwrap();
    let tries: Vec<_> = (0..50)
        .map(|_| {
            let (mut client, request) = (client.clone(), host.issue_request(&fresh, csr()));
            tokio::spawn(async move { client.issue(request).await })
        })
        .collect();
    let mut successes = 0;
    for one in tries {
        match one.await.unwrap() {
            Ok(_) => successes += 1,
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status}"),
        }
    }
    assert_eq!(successes, 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_proof_that_lacks_anything_or_is_for_another_request_is_refused() {
    let ca = TestCa::start_with("[limits]\nfailures_burst = 1000\n").await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let fresh = nonce(&mut client).await.unwrap();
    let good = host.issue_request(&fresh, csr());
    let Some(Attestation::HostKey(proof)) = good.attestation.clone() else { unreachable!() };
    let with = |proof: HostKeyProof| IssueRequest { attestation: Some(Attestation::HostKey(proof)), ..good.clone() };
    let cases = [
        ("no attestation", IssueRequest { attestation: None, ..good.clone() }, Code::InvalidArgument),
        (
            "a Kubernetes token",
            IssueRequest {
                attestation: Some(Attestation::Kubernetes(KubernetesProof { token: "t".into() })),
                ..good.clone()
            },
            Code::Unimplemented,
        ),
        ("no key id", with(HostKeyProof { host_key_id: String::new(), ..proof.clone() }), Code::InvalidArgument),
        ("a key id of 63", with(HostKeyProof { host_key_id: "a".repeat(63), ..proof.clone() }), Code::InvalidArgument),
        ("a key id of 65", with(HostKeyProof { host_key_id: "a".repeat(65), ..proof.clone() }), Code::InvalidArgument),
        ("another key id", with(HostKeyProof { host_key_id: "a".repeat(64), ..proof.clone() }), Code::Unauthenticated),
        ("no nonce", with(HostKeyProof { nonce: vec![], ..proof.clone() }), Code::InvalidArgument),
        ("a nonce of 31", with(HostKeyProof { nonce: vec![0; 31], ..proof.clone() }), Code::InvalidArgument),
        ("a nonce of 33", with(HostKeyProof { nonce: vec![0; 33], ..proof.clone() }), Code::InvalidArgument),
        (
            "a nonce that is not the CA's",
            with(HostKeyProof { nonce: vec![0; 32], ..proof.clone() }),
            Code::Unauthenticated,
        ),
        ("no signature", with(HostKeyProof { signature: vec![], ..proof.clone() }), Code::InvalidArgument),
        ("a signature of 81", with(HostKeyProof { signature: vec![0; 81], ..proof.clone() }), Code::InvalidArgument),
        (
            "a signature that is none",
            with(HostKeyProof { signature: vec![0; 70], ..proof.clone() }),
            Code::Unauthenticated,
        ),
        ("another request", IssueRequest { csr: csr(), ..good.clone() }, Code::Unauthenticated),
    ];
    for (what, request, code) in cases {
        let status = client.issue(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    client.issue(good).await.expect("none of them used up the nonce");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_signed_while_the_clock_is_behind_the_last_record() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    host.issue(&mut client).await.unwrap();
    ca.shift_clock(-30);
    let status = host.issue(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("clock"), "{status}");
    ca.shift_clock(0);
    host.issue(&mut client).await.unwrap();
    // After a restart, too.
    ca.shift_clock(3000);
    host.issue(&mut client).await.unwrap();
    let dir = ca.stop().await;
    let error = TestCa::start_in(dir, "").await.err().expect("the clock is now 3000 s behind").to_string();
    assert!(error.contains("clock"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_issuing_ca_is_replaced_without_an_interruption_and_no_leaf_outlives_it() {
    // The CA's own certificate lives as long as a leaf. A shorter one could end before a busy machine
    // has renewed it.
    let lifetimes =
        "[lifetimes]\nleaf = \"8s\"\nissuing = \"24s\"\n[limits]\nper_workload = 1000\nper_workload_burst = 1000\n";
    let ca = TestCa::start_with(lifetimes).await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let trust = trusting(&ca.state());
    let mut issuers = BTreeSet::new();
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    while issuers.len() < 3 {
        assert!(tokio::time::Instant::now() < end, "only {} issuing CAs in 120 s", issuers.len());
        // Each time a new connection: the CA's own certificate is renewed meanwhile too.
        let chain = der(&host.issue(&mut ca.client()).await.expect("no request fails").chain);
        let peer = verify::verify_chain(&chain, &trust.trust(), UnixTime::now(), Side::Client).unwrap();
        let (_, issuing) = x509_parser::parse_x509_certificate(&chain[1]).unwrap();
        let issuer_ends = u64::try_from(issuing.validity().not_after.timestamp()).unwrap();
        assert!(peer.leaf.not_after <= issuer_ends);
        issuers.insert(peer.issuers[0].clone());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let database = ca.database();
    let beyond: i64 = database
        .query_row(
            "SELECT count(*) FROM journal j JOIN issuers i ON i.ski = j.issuer WHERE j.not_after > i.signing_until",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(beyond, 0, "no leaf ends later than its issuer recorded");
    ca.stop().await;
}

/// Identity, UID, attestor, host key, end, trust sequence held.
type JournalRow = (String, String, String, String, i64, i64);

#[tokio::test(flavor = "multi_thread")]
async fn every_certificate_is_in_the_journal_with_what_the_holder_held() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let mut client = ca.client();
    let fresh = nonce(&mut client).await.unwrap();
    let request = IssueRequest { trust_sequence_held: 5, ..host.issue_request(&fresh, csr()) };
    let issued = client.issue(request).await.unwrap().into_inner();
    let leaf = verify::parse_leaf(&der(&issued.chain)[0]).unwrap();
    let row: JournalRow = ca
        .database()
        .query_row(
            "SELECT identity, uid, attestor, host_key, not_after, trust_held FROM journal WHERE serial = ?1",
            [&leaf.serial],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?)),
        )
        .unwrap();
    let not_after = i64::try_from(leaf.not_after).unwrap();
    assert_eq!(row, (ORDERS.into(), "orders-1".into(), "host-key".into(), host.id(), not_after, 5));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_root_and_the_hosts() {
    let ca = TestCa::start().await;
    let host = ca.joined(ORDERS, "orders-1").await;
    let root = std::fs::read(ca.state().join("bundle.pem")).unwrap();
    let ca = TestCa::start_in(ca.stop().await, "").await.unwrap();
    assert_eq!(std::fs::read(ca.state().join("bundle.pem")).unwrap(), root);
    host.issue(&mut ca.client()).await.expect("a host key outlives a restart");
    let stranger = Host::new();
    assert_eq!(stranger.issue(&mut ca.client()).await.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}
