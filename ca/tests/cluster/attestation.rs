//! Who gets a certificate, and who is refused.
use crate::{
    support::{Client, csr_with, nonce},
    world::{Ca, TRUST_DOMAIN, World, ask, eventually, obtain, proof, renew, request, request_for, within},
};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::{Api, ResourceExt, api::DeleteParams};
use rcgen::SanType;
use serde_json::json;
use signet_apiserver::{
    PodOptions, make_pod, make_service_account, pod_token, remove_pod, set_addresses, set_status, shared,
    terminate_pod, token,
};
use signet_enroll::{EnrollConfig, Enroller};
use signet_identity::{PrivateKey, hex};
use signet_proto::ca::{IssueRequest, RegisterRequest};
use std::{collections::BTreeSet, path::Path, time::Duration};
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_gets_the_identity_of_its_service_account_and_its_own_uid_and_the_journal_has_it() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let pod = world.pod("orders-1").await;
    let held = obtain(&mut ca.client(), &world.token(&pod).await).await.unwrap();
    assert_eq!(held.svid.id().to_string(), world.orders());
    assert_eq!(held.svid.uid().unwrap().as_str(), pod.uid().unwrap());
    let lines = ca.lines.parsed();
    let line = lines.iter().find(|line| line["serial"] == hex(held.svid.serial())).expect("its line in the journal");
    assert_eq!(line["identity"], world.orders());
    assert_eq!(line["pod"], format!("{}/orders-1", world.shop));
    assert_eq!(
        (&line["node"], &line["peer"], &line["attestor"]),
        (&json!("node-1"), &json!("127.0.0.1"), &json!("kubernetes"))
    );
    assert_eq!(line["uid"], pod.uid().unwrap());
    ca.stop().await;
}

/// Asks once and expects a refusal.
async fn refused(ca: &Ca, token: &str, code: Code, words: &str) {
    let status = ask(&mut ca.client(), token).await.unwrap_err();
    assert_eq!(status.code(), code, "{status}");
    assert!(status.message().contains(words), "{words:?} is not in: {status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_this_pods_own_are_refused() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    // Some are asked for again and again: how often is not what is judged here.
    let limits = "[limits]\nfailures_burst = 10000\nper_workload_burst = 10000\n";
    let ca = world.ca_with("ca-1", limits, "").await.unwrap();
    let (client, shop) = (&world.client, world.shop.as_str());

    let pod = world.pod("wrong-audience").await;
    refused(&ca, &pod_token(client, &pod, "https://kubernetes.default.svc").await, Code::Unauthenticated, "audience")
        .await;

    let unbound = token(client, shop, "orders", json!({"audiences": ["signet-ca"], "expirationSeconds": 600})).await;
    refused(&ca, &unbound, Code::Unauthenticated, "not bound to a pod").await;

    let elsewhere = world.pod_at("elsewhere", &["10.0.0.9"]).await;
    let replayed = world.token(&elsewhere).await;
    refused(&ca, &replayed, Code::PermissionDenied, "127.0.0.1 is not one of the pod's").await;

    let deleted = world.pod("deleted").await;
    let token_of_deleted = world.token(&deleted).await;
    remove_pod(client, shop, "deleted").await;
    // The API server learns of it by a watch of its own; as long as it takes the token, the CA finds no pod.
    let is_not_accepted = || async {
        let status = ask(&mut ca.client(), &token_of_deleted).await.expect_err("a pod that is gone gets nothing");
        status.code() == Code::Unauthenticated && status.message().contains("still exist")
    };
    eventually("the token of a pod that is gone is not accepted", is_not_accepted).await;
    // Another pod under the same name is not the one that the token was for.
    world.pod("deleted").await;
    refused(&ca, &token_of_deleted, Code::Unauthenticated, "still exist").await;

    let ended = world.pod("ended").await;
    let token_of_ended = world.token(&ended).await;
    set_status(client, shop, "ended", json!({"phase": "Succeeded"})).await;
    refused(&ca, &token_of_ended, Code::PermissionDenied, "the pod has ended").await;

    let pod = world.pod("account-again").await;
    let token_of_old_account = world.token(&pod).await;
    ask(&mut ca.client(), &token_of_old_account).await.expect("before");
    let accounts: Api<ServiceAccount> = within(client, shop);
    accounts.delete("orders", &DeleteParams::default()).await.unwrap();
    make_service_account(client, shop, "orders").await;
    // The API server learns of it by a watch of its own.
    let is_not_accepted = || async {
        let answer = ask(&mut ca.client(), &token_of_old_account).await;
        answer.is_err_and(|status| status.code() == Code::Unauthenticated && status.message().contains("still exist"))
    };
    eventually("the token of an account that was made again is not accepted", is_not_accepted).await;

    refused(&ca, "not.a.token-at-all", Code::Unauthenticated, "does not accept the token").await;
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operators_identity_is_given_to_its_service_account_alone() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let mut client = ca.client();
    let operator = format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/signet-operator", world.namespace);

    let pod = world.pod("asks").await;
    let asked = operator.clone();
    let san = csr_with(|p| p.subject_alt_names = vec![SanType::URI(asked.try_into().unwrap())]);
    let status = client.issue(request(&world.token(&pod).await, san)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");

    for (namespace, id) in [
        (&world.shop, format!("spiffe://{TRUST_DOMAIN}/ns/{}/sa/signet-operator", world.shop)),
        (&world.namespace, operator),
    ] {
        make_service_account(&world.client, namespace, "signet-operator").await;
        let options =
            PodOptions { service_account: "signet-operator", addresses: &["127.0.0.1"], ..PodOptions::default() };
        let pod = make_pod(&world.client, namespace, "operator", &options).await;
        let held = obtain(&mut client, &world.token(&pod).await).await.unwrap();
        assert_eq!(held.svid.id().to_string(), id, "identity comes from where the pod is");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_of_both_families_count_and_v4_mapped_callers_are_ipv4() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    // It listens on [::], so that IPv4 callers arrive v4-mapped.
    let ca = world.ca("ca-1").await;
    let token = world.token(&world.pod_at("both", &["127.0.0.1", "::1"]).await).await;
    for host in ["127.0.0.1", "[::1]"] {
        ask(&mut ca.client_over(host), &token).await.unwrap_or_else(|status| panic!("over {host}: {status}"));
    }
    let token = world.token(&world.pod_at("one", &["::1"]).await).await;
    assert_eq!(ask(&mut ca.client(), &token).await.unwrap_err().code(), Code::PermissionDenied);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_rewritten_is_only_recorded_where_that_is_set() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca_with("ca-1", "", "peer_address = \"record\"").await.unwrap();
    let token = world.token(&world.pod_at("far", &["10.0.0.9"]).await).await;
    let held = obtain(&mut ca.client(), &token).await.unwrap();
    let lines = ca.lines.parsed();
    let line = lines.iter().find(|line| line["serial"] == hex(held.svid.serial())).unwrap();
    assert_eq!(line["peer"], "127.0.0.1");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_what_a_neighbour_failed_to_prove_blocks_no_renewal() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    // A node that hides its pods behind its own address: all of them share their bucket of failures.
    let limits = "[limits]\nfailures = 1\nfailures_burst = 3\n";
    let ca = world.ca_with("ca-1", limits, "peer_address = \"record\"").await.unwrap();
    let mut client = ca.client();
    let pod = world.pod("orders-1").await;
    let token = world.token(&pod).await;
    let held = obtain(&mut client, &token).await.unwrap();
    let wrong = pod_token(&world.client, &pod, "another-audience").await;
    let exhaust = async |client: &mut Client| {
        for _ in 0..1000 {
            if ask(client, &wrong).await.unwrap_err().code() == Code::ResourceExhausted {
                return;
            }
        }
        panic!("failures are not bounded");
    };
    exhaust(&mut client).await;
    renew(&mut client, &token, &held).await.expect("who holds the key of a valid certificate is not a neighbour");
    // Whoever proves nothing waits, whatever he sends as a proof.
    exhaust(&mut client).await;
    let csr = request_for(&PrivateKey::generate().unwrap());
    let fresh = nonce(&mut client).await.unwrap();
    let mut forged = proof(&held, &held.receipt, &fresh, &csr);
    forged.signature = proof(&held, &[], &fresh, b"another").signature;
    exhaust(&mut client).await;
    let asked = client.issue(IssueRequest { renewal: Some(forged), ..request(&wrong, csr) }).await;
    // Too often, or, if the bucket has one again by now, not proved.
    let code = asked.unwrap_err().code();
    assert!(matches!(code, Code::ResourceExhausted | Code::PermissionDenied), "{code:?}");
    ca.stop().await;
}

fn config(ca: &Ca, home: &Path) -> EnrollConfig {
    EnrollConfig {
        ca_address: format!("127.0.0.1:{}", ca.running.listen.port()),
        trust_domain: TRUST_DOMAIN.parse().unwrap(),
        control_namespace: ca.namespace.clone(),
        bundle_pem: ca.bundle.to_pem(),
        state_dir: home.join("state"),
        join_token: None,
        token_file: Some(home.join("token")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_not_published_yet_is_waited_for_and_certificates_are_renewed_with_new_keys() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca_with("ca-1", "[lifetimes]\nleaf = \"10s\"\nissuing = \"30s\"", "").await.unwrap();
    let pod = world.pod_at("early", &[]).await;
    let token = world.token(&pod).await;
    let says_when = || async {
        let status = ask(&mut ca.client(), &token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "not yet is never a refusal: {status}");
        // Neither a connection nor an answer that took too long says when to come back.
        let wait = status.metadata().get("retry-after-ms");
        wait.inspect(|wait| assert_eq!(*wait, "100")).is_some()
    };
    eventually("an answer that says when to ask again", says_when).await;

    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("token"), &token).unwrap();
    let enroller = Enroller::new(config(&ca, home.path())).unwrap();
    let (credentials, mut status) = (enroller.credentials(), enroller.status());
    let running = tokio::spawn(enroller.run());
    let wait = Duration::from_secs(120);
    tokio::time::timeout(wait, status.wait_for(|s| s.failures > 2)).await.expect("it asks again").unwrap();
    set_addresses(&world.client, &world.shop, "early", &["127.0.0.1"]).await;
    let mut serials = BTreeSet::new();
    let renewed = async {
        while serials.len() < 3 {
            status.changed().await.unwrap();
            if let Some(svid) = credentials.svid() {
                assert_eq!(svid.uid().unwrap().as_str(), pod.uid().unwrap());
                serials.insert(svid.serial().to_vec());
            }
        }
    };
    tokio::time::timeout(wait, renewed).await.expect("three certificates");
    assert!(credentials.trust().state().sequence > 0, "the trust state is followed");
    running.abort();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminating_pod_may_renew_what_it_holds_and_gets_nothing_anew() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let mut client = ca.client();
    let (pod, other) = (world.pod("leaving").await, world.pod("staying").await);
    let (token, token_of_other) = (world.token(&pod).await, world.token(&other).await);
    let held = obtain(&mut client, &token).await.unwrap();
    let held_by_other = obtain(&mut client, &token_of_other).await.unwrap();
    terminate_pod(&world.client, &world.shop, "leaving").await;

    refused(&ca, &token, Code::PermissionDenied, "the pod is terminating").await;
    let renewed = renew(&mut client, &token, &held).await.unwrap();
    assert_eq!((renewed.svid.id(), renewed.svid.uid()), (held.svid.id(), held.svid.uid()));
    assert_eq!(renewed.receipt, held.receipt, "the clock of the last full attestation goes on");
    // Its token may end before it does: the kubelet fetches no new one for a pod that leaves.
    renew(&mut client, "a-token-that-is-none", &renewed).await.unwrap();
    let line = ca.lines.parsed().pop().unwrap();
    assert_eq!(line["attestor"], "kubernetes-renewal");

    // What another pod holds says nothing about this one, and a pod that stays needs its token.
    assert_eq!(renew(&mut client, &token, &held_by_other).await.err().unwrap().code(), Code::PermissionDenied);
    let status = renew(&mut client, "a-token-that-is-none", &held_by_other).await.err().unwrap();
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");

    remove_pod(&world.client, &world.shop, "leaving").await;
    // The API server may go on to accept the token for some seconds; the live pod is what counts.
    for token in [&*token, "a-token-that-is-none"] {
        let status = renew(&mut client, token, &renewed).await.err().expect("a pod that is gone renews nothing");
        assert!(matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated), "{status}");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_is_not_proved_is_refused() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let mut client = ca.client();
    let (pod, other) = (world.pod("a").await, world.pod("b").await);
    let token = world.token(&pod).await;
    let held = obtain(&mut client, &token).await.unwrap();
    let others = obtain(&mut client, &world.token(&other).await).await.unwrap();
    terminate_pod(&world.client, &world.shop, "a").await;
    let csr = request_for(&PrivateKey::generate().unwrap());
    for what in [
        "another's receipt",
        "no receipt of ours",
        "another's signature",
        "another request",
        "another's chain",
        "an old nonce",
    ] {
        let fresh = nonce(&mut client).await.unwrap();
        let mut renewal = proof(&held, &held.receipt, &fresh, &csr);
        match what {
            "another's receipt" => renewal.receipt.clone_from(&others.receipt),
            "no receipt of ours" => renewal.receipt[40] ^= 1,
            "another's signature" => renewal.signature = proof(&others, &[], &fresh, &csr).signature,
            "another request" => renewal.signature = proof(&held, &[], &fresh, b"another").signature,
            "another's chain" => renewal.chain = proof(&others, &[], &fresh, &csr).chain,
            _ => renewal.nonce[0] ^= 1,
        }
        let asked = client.issue(IssueRequest { renewal: Some(renewal), ..request(&token, csr.clone()) }).await;
        let status = asked.err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated), "{what}: {status}");
    }
    // F24: a proof serves once.
    let fresh = nonce(&mut client).await.unwrap();
    let once =
        IssueRequest { renewal: Some(proof(&held, &held.receipt, &fresh, &csr)), ..request(&token, csr.clone()) };
    client.issue(once.clone()).await.unwrap();
    assert_eq!(client.issue(once).await.unwrap_err().code(), Code::Unauthenticated, "the nonce is used up");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_told_what_is_right_in_a_cluster() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let status =
        ca.client().register(RegisterRequest { join_token: "x".repeat(40), ..Default::default() }).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(
        status.message().contains("set token_file to a projected service account token with audience signet-ca"),
        "{status}"
    );
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_one_workload_that_asks_without_end_does_not_starve_another() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    // Both pods have this machine's address: nothing but the workload's own bounds may count.
    let limits = "[limits]\nper_workload = 1\nper_workload_burst = 10\nper_address_burst = 5000\nper_address = 5000\n\
                  connections_per_address = 1000";
    let ca = world.ca_with("ca-1", limits, "").await.unwrap();
    let (greedy, modest) =
        (world.token(&world.pod("greedy").await).await, world.token(&world.pod("modest").await).await);
    // Requests are bounded here, not connections: 200 handshakes at once would take a busy machine too long.
    let connections: Vec<_> = (0..8).map(|_| ca.client()).collect();
    let flood: Vec<_> = connections
        .iter()
        .cycle()
        .take(200)
        .map(|client| {
            let (mut client, token) = (client.clone(), greedy.clone());
            tokio::spawn(async move { ask(&mut client, &token).await })
        })
        .collect();
    ask(&mut ca.client(), &modest).await.expect("another workload is served");
    let mut exhausted = 0;
    for one in flood {
        if let Err(status) = one.await.unwrap() {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
            assert!(status.metadata().contains_key("retry-after-ms"));
            exhausted += 1;
        }
    }
    assert!(exhausted > 100, "{exhausted} of 200 were held back");
    eventually("the greedy one is served again", || async { ask(&mut ca.client(), &greedy).await.is_ok() }).await;
    ca.stop().await;
}
