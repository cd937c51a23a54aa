//! The API server is away: nobody new gets in, those who are in renew, and not for ever. Each test stops a server of its own.
use crate::{
    support::nonce,
    world::{Ca, TRUST_DOMAIN, World, ask, obtain, proof, renew, request, request_for},
};
use signet_apiserver::ApiServer;
use signet_enroll::{EnrollConfig, Enroller};
use signet_identity::PrivateKey;
use signet_proto::ca::IssueRequest;
use std::{collections::BTreeSet, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

const HOUR: i64 = 3600;

/// The status of `/readyz`, on another address than loopback's first.
async fn ready(ca: &Ca) -> String {
    let mut stream = TcpStream::connect(("::1", ca.running.health.port())).await.unwrap();
    stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: ca\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_without_the_api_server_valid_certificates_are_renewed_for_24_hours_and_no_token_is_taken() {
    let Some(server) = ApiServer::start().await else { return };
    let world = World::new(&server).await;
    // Leaves that outlive the bound, so that it is the bound which ends the renewals.
    let ca = world.ca_with("ca-1", "[lifetimes]\nleaf = \"30h\"", "").await.unwrap();
    let other = world.ca("ca-2").await;
    let (pod, far) = (world.pod("orders-1").await, world.pod_at("far", &["127.0.0.1"]).await);
    let (token, token_of_far) = (world.token(&pod).await, world.token(&far).await);
    let mut client = ca.client();
    let held = obtain(&mut client, &token).await.unwrap();
    let held_far = obtain(&mut client, &token_of_far).await.unwrap();
    assert_eq!(ready(&ca).await, "200");
    server.stop();
    assert_eq!(ready(&ca).await, "200", "it must stay in its Service: renewals go on");

    let status = ask(&mut client, &token).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "the first issuance waits: {status}");
    let renewed = renew(&mut client, &token, &held).await.unwrap();
    assert_eq!((renewed.svid.id(), renewed.svid.uid()), (held.svid.id(), held.svid.uid()));
    // Any replica renews, whichever of them saw the pod.
    renew(&mut other.client(), &token, &held).await.unwrap();
    // The key of one pod and the receipt of another make nobody.
    let csr = request_for(&PrivateKey::generate().unwrap());
    let fresh = nonce(&mut client).await.unwrap();
    let mixed = proof(&held, &held_far.receipt, &fresh, &csr);
    let mixed = client.issue(IssueRequest { renewal: Some(mixed), ..request(&token, csr) }).await;
    assert_eq!(mixed.unwrap_err().code(), Code::PermissionDenied);
    // A key that was carried off is worth nothing at another address.
    let mut elsewhere = ca.client_over("[::1]");
    assert_eq!(renew(&mut elsewhere, &token, &held).await.err().unwrap().code(), Code::PermissionDenied);

    ca.shift_clock(23 * HOUR);
    let late = renew(&mut client, &token, &renewed).await.unwrap();
    assert!(late.svid.not_after() > renewed.svid.not_after(), "renewals go on");
    ca.shift_clock(24 * HOUR + 120);
    let status = renew(&mut client, &token, &late).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("more than 24 h ago"), "{status}");

    server.resume().await;
    let again = obtain(&mut client, &world.token(&pod).await).await.unwrap();
    assert_ne!(again.receipt, held.receipt, "attested in full again");
    ca.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_renews_through_an_outage_that_is_longer_than_its_certificates_live() {
    let Some(server) = ApiServer::start().await else { return };
    let world = World::new(&server).await;
    // Without the API server a certificate that has ended is never renewed: between the moment of renewal and the end
    // there is room for a machine that is busy with others.
    let ca = world.ca_with("ca-1", "[lifetimes]\nleaf = \"12s\"\nissuing = \"1h\"", "").await.unwrap();
    let pod = world.pod("orders-1").await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), world.token(&pod).await.as_bytes()).unwrap();
    let config = EnrollConfig {
        ca_address: format!("127.0.0.1:{}", ca.running.listen.port()),
        trust_domain: TRUST_DOMAIN.parse().unwrap(),
        control_namespace: ca.namespace.clone(),
        bundle_pem: ca.bundle.to_pem(),
        state_dir: home.path().join("state"),
        join_token: None,
        token_file: Some(home.path().join("token")),
    };
    let enroller = Enroller::new(config).unwrap();
    let (credentials, mut status) = (enroller.credentials(), enroller.status());
    let running = tokio::spawn(enroller.run());
    let wait = Duration::from_secs(180);
    tokio::time::timeout(wait, status.wait_for(|s| s.issued > 0)).await.expect("a certificate").unwrap();
    server.stop();
    let mut serials = BTreeSet::new();
    let renewals = async {
        while serials.len() < 4 {
            status.changed().await.unwrap();
            serials.extend(credentials.svid().map(|svid| svid.serial().to_vec()));
        }
    };
    tokio::time::timeout(wait, renewals).await.expect("renewals without the API server");
    assert_eq!(status.borrow().failures, 0);
    running.abort();
    ca.stop().await;
}
