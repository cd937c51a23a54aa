//! Join tokens and host keys, over the wire.
use crate::support::{CHECKOUT, Host, ORDERS, TestCa, csr, nonce};
use signet_ca::admin::{Request, Response};
use signet_proto::ca::RegisterRequest;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn f24_a_token_that_a_hundred_use_at_once_registers_one_key() {
    let ca = TestCa::start_with("[limits]\nfailures_burst = 1000\n").await;
    let token = ca.token(ORDERS, "orders-1").await;
    let client = ca.client();
    let tries: Vec<_> = (0..100)
        .map(|_| {
            let (mut client, token) = (client.clone(), token.clone());
            tokio::spawn(async move { Host::new().join(&mut client, &token).await })
        })
        .collect();
    let mut winners = Vec::new();
    for one in tries {
        match one.await.unwrap() {
            Ok(registered) => winners.push(registered),
            Err(status) => assert_eq!(status.code(), Code::Unauthenticated, "{status}"),
        }
    }
    assert_eq!(winners.len(), 1);
    let hosts: i64 = ca.database().query_row("SELECT count(*) FROM host_keys", [], |row| row.get(0)).unwrap();
    assert_eq!(hosts, 1);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_the_same_token_and_key_give_the_same_answer_and_another_key_is_refused() {
    let ca = TestCa::start().await;
    let token = ca.token(ORDERS, "orders-1").await;
    let (host, mut client) = (Host::new(), ca.client());
    let first = host.join(&mut client, &token).await.unwrap();
    assert_eq!((first.spiffe_id.as_str(), first.workload_uid.as_str()), (ORDERS, "orders-1"));
    assert_eq!(first.host_key_id, host.id());
    assert_eq!(host.join(&mut client, &token).await.unwrap(), first);
    assert_eq!(Host::new().join(&mut client, &token).await.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f24_a_proof_over_anything_else_is_refused_and_spends_nothing() {
    let ca = TestCa::start().await;
    let token = ca.token(ORDERS, "orders-1").await;
    let (host, mut client) = (Host::new(), ca.client());
    let good = host.register_request(&token);
    let wrong = [
        ("another token", host.register_request("signet_join_another_token").proof),
        ("another key", Host::new().register_request(&token).proof),
        ("no context", host.key.sign(&good.host_public_key).unwrap()),
        ("garbage", vec![0x30; 70]),
    ];
    for (what, proof) in wrong {
        let status = client.register(RegisterRequest { proof, ..good.clone() }).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status}");
    }
    client.register(good).await.unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_missing_fields_and_both_sides_of_every_limit() {
    let ca = TestCa::start_with("[limits]\nfailures_burst = 1000\n").await;
    let token = ca.token(ORDERS, "orders-1").await;
    let (host, mut client) = (Host::new(), ca.client());
    let good = host.register_request(&token);
    let sized = |length: usize| "t".repeat(length);
    let cases: Vec<(&str, RegisterRequest, Code)> = vec![
        ("no token", RegisterRequest { join_token: String::new(), ..good.clone() }, Code::InvalidArgument),
        ("token of 15", RegisterRequest { join_token: sized(15), ..good.clone() }, Code::InvalidArgument),
        ("token of 16", RegisterRequest { join_token: sized(16), ..good.clone() }, Code::Unauthenticated),
        ("token of 256", RegisterRequest { join_token: sized(256), ..good.clone() }, Code::Unauthenticated),
        ("token of 257", RegisterRequest { join_token: sized(257), ..good.clone() }, Code::InvalidArgument),
        ("no key", RegisterRequest { host_public_key: vec![], ..good.clone() }, Code::InvalidArgument),
        (
            "another kind of key",
            RegisterRequest { host_public_key: vec![1; 91], ..good.clone() },
            Code::InvalidArgument,
        ),
        (
            "a key and one byte",
            RegisterRequest { host_public_key: [good.host_public_key.as_slice(), &[0]].concat(), ..good.clone() },
            Code::InvalidArgument,
        ),
        ("no proof", RegisterRequest { proof: vec![], ..good.clone() }, Code::InvalidArgument),
        ("proof of 7", RegisterRequest { proof: vec![0; 7], ..good.clone() }, Code::InvalidArgument),
        ("proof of 8", RegisterRequest { proof: vec![0; 8], ..good.clone() }, Code::Unauthenticated),
        ("proof of 80", RegisterRequest { proof: vec![0; 80], ..good.clone() }, Code::Unauthenticated),
        ("proof of 81", RegisterRequest { proof: vec![0; 81], ..good.clone() }, Code::InvalidArgument),
    ];
    for (what, request, code) in cases {
        let status = client.register(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{what}: {status}");
    }
    client.register(good).await.unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f25_a_token_ends_to_the_second() {
    let ca = TestCa::start().await;
    let (late, timely) = (ca.token(ORDERS, "a").await, ca.token(ORDERS, "b").await);
    let mut client = ca.client();
    ca.shift_clock(590);
    Host::new().join(&mut client, &timely).await.unwrap();
    ca.shift_clock(600);
    assert_eq!(Host::new().join(&mut client, &late).await.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_token_and_a_revoked_host_key_are_worth_nothing() {
    let ca = TestCa::start().await;
    let mut client = ca.client();
    let token = ca.token(ORDERS, "orders-1").await;
    let Response::Tokens(tokens) = ca.admin(Request::ListTokens {}).await.unwrap() else { panic!("no list") };
    assert_eq!((tokens.len(), tokens[0].identity.as_str()), (1, ORDERS));
    ca.admin(Request::RevokeToken { id: tokens[0].id.clone() }).await.unwrap();
    assert_eq!(Host::new().join(&mut client, &token).await.unwrap_err().code(), Code::Unauthenticated);

    let host = ca.joined(ORDERS, "orders-1").await;
    host.issue(&mut client).await.unwrap();
    ca.admin(Request::RevokeHost { uid: "orders-1".into() }).await.unwrap();
    let status = host.issue(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("join again"), "{status}");
    let Response::Hosts(hosts) = ca.admin(Request::ListHosts {}).await.unwrap() else { panic!("no list") };
    assert!(hosts[0].revoked_at.is_some());
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_replaces_the_host_key_of_the_same_workload() {
    let ca = TestCa::start().await;
    let mut client = ca.client();
    let old = ca.joined(ORDERS, "orders-1").await;
    let new = ca.joined(ORDERS, "orders-1").await;
    new.issue(&mut client).await.unwrap();
    assert_eq!(old.issue(&mut client).await.unwrap_err().code(), Code::Unauthenticated);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_uid_stays_with_its_identity_and_reserved_identities_need_control() {
    let ca = TestCa::start().await;
    ca.joined(ORDERS, "orders-1").await;
    let create = |identity: &str, uid: &str, control: bool| Request::CreateToken {
        identity: identity.into(),
        uid: Some(uid.into()),
        ttl_seconds: None,
        control,
    };
    let operator = "spiffe://example.org/ns/signet-system/sa/signet-operator";
    let table = [
        (create(CHECKOUT, "orders-1", false), "belongs to spiffe://example.org/ns/shop/sa/orders"),
        (create(operator, "op", false), "--control"),
        (create("spiffe://example.org/ns/signet-system/sa/signet-ca", "x", false), "--control"),
        (create(ORDERS, "orders-1", true), "--control is for"),
        (create("spiffe://other.org/ns/shop/sa/orders", "x", false), "trust domain"),
        (create("spiffe://example.org/shop/orders", "x", false), "/ns/<namespace>/sa/<service account>"),
        (create("spiffe://example.org", "x", false), "/ns/<namespace>/sa/<service account>"),
        (create("spiffe://Example.org/ns/a/sa/b", "x", false), ""),
        (create(ORDERS, "two words", false), "workload uid"),
        (Request::CreateToken { identity: ORDERS.into(), uid: None, ttl_seconds: Some(0), control: false }, "seconds"),
        (
            Request::CreateToken { identity: ORDERS.into(), uid: None, ttl_seconds: Some(86_401), control: false },
            "seconds",
        ),
    ];
    for (request, want) in table {
        let error = ca.admin(request.clone()).await.expect_err(&format!("{request:?}"));
        assert!(error.contains(want), "{request:?}: {error}");
    }
    ca.admin(create(operator, "op", true)).await.unwrap();
    ca.admin(Request::CreateToken { identity: ORDERS.into(), uid: None, ttl_seconds: Some(86_400), control: false })
        .await
        .unwrap();
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_cannot_stand_for_two_workloads() {
    let ca = TestCa::start().await;
    let mut client = ca.client();
    let host = ca.joined(ORDERS, "orders-1").await;
    let status = host.join(&mut client, &ca.token(CHECKOUT, "checkout-1").await).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f2_state_that_cannot_be_read_denies_every_token_and_every_key() {
    let ca = TestCa::start().await;
    let mut client = ca.client();
    let host = ca.joined(ORDERS, "orders-1").await;
    let token = ca.token(CHECKOUT, "checkout-1").await;
    let fresh = nonce(&mut client).await.unwrap();
    let database = ca.database();
    database.execute_batch("ALTER TABLE join_tokens RENAME TO gone1; ALTER TABLE host_keys RENAME TO gone2").unwrap();
    for text in [token.as_str(), "signet_join_anything_at_all", ""] {
        let status = Host::new().join(&mut client, text).await.unwrap_err();
        let want = if text.is_empty() { Code::InvalidArgument } else { Code::Unavailable };
        assert_eq!(status.code(), want, "{text:?}: {status}");
    }
    let status = client.issue(host.issue_request(&fresh, csr())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    database.execute_batch("ALTER TABLE gone1 RENAME TO join_tokens; ALTER TABLE gone2 RENAME TO host_keys").unwrap();
    Host::new().join(&mut client, &token).await.unwrap();
    host.issue(&mut client).await.unwrap();
    ca.stop().await;
}
