//! What strangers can do to the webhook, which anybody in the cluster can reach and which the API server shows no certificate:
//! without its secret path, and with it.
use crate::webhook::{Anybody, call};
use crate::world::{INJECT, Served, World, pod, until};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};
use signet_apiserver::object;
use signet_identity::testing::Authority;
use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;

impl Served {
    /// What is answered to a review that the API server never made, of somebody who has learned the path.
    fn forged(&self, namespace: &str, pod: &Value) -> Value {
        let review = json!({
            "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
            "request": {
                "uid": "u", "operation": "CREATE", "resource": {"group": "", "version": "v1", "resource": "pods"},
                "namespace": namespace, "object": pod,
            },
        });
        let body = review.to_string();
        let (path, length) = (&self.path, body.len());
        let head = format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
        let answer = call(self.port, &format!("{head}{body}"));
        let body = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer}")).1;
        serde_json::from_str::<Value>(body).unwrap_or_else(|error| panic!("{error}: {answer}"))["response"].take()
    }
}

async fn copy(world: &World, namespace: &str) -> Option<String> {
    let maps = Api::<ConfigMap>::namespaced(world.client.clone(), namespace);
    maps.get_opt("signet-trust").await.unwrap().and_then(|map| map.data?.get("bundle.pem").cloned())
}

/// A connection from this address that has shown itself to be one and then says nothing.
fn silent(from: Ipv4Addr, port: u16) -> Option<rustls::StreamOwned<rustls::ClientConnection, TcpStream>> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into()).unwrap();
    let credentials = signet_identity::Credentials::new(signet_identity::TrustState::default()).unwrap();
    let mut config = rustls::ClientConfig::clone(&credentials.client_config(&[b"http/1.1"]));
    config.dangerous().set_certificate_verifier(Arc::new(Anybody));
    let mut tls = rustls::ClientConnection::new(config.into(), signet_identity::tls::unnamed()).unwrap();
    let mut stream = TcpStream::from(socket);
    tls.complete_io(&mut stream).ok()?;
    let mut stream = rustls::StreamOwned::new(tls, stream);
    // Answered, so that it is a connection in good standing between two requests.
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n").ok()?;
    Some(stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_connections_that_do_nothing_keep_no_pod_from_its_sidecar() {
    let Some(world) = World::start().await else { return };
    let served = world.webhook_by_url().await;
    let shop = world.namespace(&json!({INJECT: "enabled"})).await;
    world.injects(&shop).await;
    let port = served.port;
    // More than there are places, none of them with more than its share.
    let held = tokio::task::spawn_blocking(move || {
        (1..=14_u8)
            .flat_map(|last| (0..45).map(move |_| silent(Ipv4Addr::new(127, 0, 1, last), port)))
            .collect::<Vec<_>>()
    });
    let held = held.await.unwrap();
    for _ in 0..5 {
        let made = world.create(&shop, &pod(&json!({})), true).await.expect("a pod gets its sidecar");
        assert!(made.spec.unwrap().init_containers.is_some());
    }
    let text = served.metrics.encoded();
    assert!(text.contains("signet_operator_webhook_refused_total{reason=\"evicted\"}"), "{text}");
    assert!(text.contains("signet_operator_webhook_reviews_total{verdict=\"injected\"}"), "{text}");
    assert!(text.contains("signet_operator_webhook_review_seconds_count"), "{text}");
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_who_does_not_know_the_path_is_sent_away_before_his_body_is_read() {
    let Some(world) = World::start().await else { return };
    let served = world.webhook_by_url().await;
    let secret = served.path.strip_prefix("/inject/").expect("a path of its own").to_owned();
    assert!(secret.len() * 4 >= 128, "too short to be guessed");
    let (half, double) = (&served.path[..served.path.len() / 2], format!("{}/{secret}", served.path));
    let other = format!("/inject/{}", "0".repeat(secret.len()));
    let paths = ["/", "/inject", "/inject/", half, &double, &other, "/inject/..", "*"];
    for path in paths {
        // The body is announced and never comes: whoever waited for it would answer nothing.
        let answer = call(served.port, &format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"));
        assert!(answer.starts_with("HTTP/1.1 404 ") && !answer.contains(&secret), "{path}: {answer}");
    }
    let text = served.metrics.encoded();
    let counted = format!("signet_operator_webhook_refused_total{{reason=\"path\"}} {}\n", paths.len());
    assert!(text.contains(&counted), "{text}");

    // Kept where the operator alone may read it, and put right where somebody changed it.
    let kept = Api::<Secret>::namespaced(world.client.clone(), &world.control).get("signet-webhook-ca").await.unwrap();
    assert_eq!(kept.data.unwrap()["path"].0, served.path.as_bytes());
    let shop = world.namespace(&json!({INJECT: "enabled"})).await;
    world.injects(&shop).await;
    let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
    let url = format!("https://localhost:{}/inject", served.port);
    let patch = json!({"webhooks": [{"name": "namespace.injector.signet.dev", "clientConfig": {"url": url}}]});
    webhooks.patch("signet-injector", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    until("the path is back", async || {
        let hooks = world.hooks().await;
        hooks.iter().all(|hook| hook.client_config.url.as_ref().is_some_and(|url| url.ends_with(&served.path)))
    })
    .await;
    world.injects(&shop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_forged_reviews_write_next_to_nothing() {
    let Some(world) = World::start().await else { return };
    let served = world.webhook_by_url().await;

    // Paths, and namespaces that are not there.
    for (namespace, code) in [("../../secrets", 400), ("Shop", 400), ("", 400), ("no-such-namespace", 403)] {
        let answer = served.forged(namespace, &pod(&json!({INJECT: "enabled"})));
        assert_eq!(
            (&answer["allowed"], &answer["status"]["code"]),
            (&json!(false), &json!(code)),
            "{namespace}: {answer}"
        );
    }

    // A pod that opts in by itself, it says: in namespaces that did not.
    let mut others = Vec::new();
    for _ in 0..30 {
        others.push(world.server.namespace("other").await);
    }
    let (mut first, mut refused) = (0, 0);
    let begun = tokio::time::Instant::now();
    for namespace in &others {
        let answer = served.forged(namespace, &pod(&json!({INJECT: "enabled"})));
        if answer["allowed"] == true { first += 1 } else { refused += 1 }
    }
    let mut written = 0;
    for namespace in &others {
        written += usize::from(copy(&world, namespace).await.is_some());
    }
    // A burst of 20, and one each second from then on.
    let bound = 21 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(written == first && written <= bound, "{written} written, {first} injected, at most {bound}");
    assert!(refused > 0 || bound >= 30, "the rate did not hold");

    // Owners that are not there, or are others than was said, are told nothing.
    let shop = world.namespace(&json!({INJECT: "enabled"})).await;
    let sets = Api::<ReplicaSet>::namespaced(world.client.clone(), &shop);
    let set = json!({
        "metadata": {"name": "orders"},
        "spec": {"selector": {"matchLabels": {"app": "orders"}}, "template": {
            "metadata": {"labels": {"app": "orders"}}, "spec": {"containers": [{"name": "app", "image": "orders:1"}]},
        }},
    });
    let set: ReplicaSet = sets.create(&PostParams::default(), &object(set)).await.unwrap();
    let uid = set.uid().unwrap();
    for (name, uid) in [("orders", "00000000-0000-0000-0000-000000000000"), ("gone", &uid), ("orders", &uid)] {
        let mut wrong = pod(&json!({"signet.dev/drain-time": "soon"}));
        wrong["metadata"]["ownerReferences"] =
            json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": name, "uid": uid, "controller": true}]);
        assert_eq!(served.forged(&shop, &wrong)["allowed"], false);
    }
    let events = Api::<Event>::namespaced(world.client.clone(), &shop);
    let told = async || events.list(&ListParams::default()).await.unwrap().items;
    until("the real owner is told", async || !told().await.is_empty()).await;
    for event in told().await {
        assert_eq!(event.regarding.and_then(|owner| owner.uid).as_deref(), Some(uid.as_str()), "one owner alone");
    }

    // Few bytes that are much once they are read.
    let mut bomb = pod(&json!({}));
    bomb["spec"]["zeros"] = vec![0; 100_000].into();
    let answer = served.forged(&shop, &bomb);
    assert!(answer["status"]["message"].as_str().unwrap().contains("more than 65536 values"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_copy_of_the_bundle_never_wins() {
    let Some(world) = World::start().await else { return };
    let served = world.webhook_by_url().await;
    let maps = |namespace: &str| Api::<ConfigMap>::namespaced(world.client.clone(), namespace);
    let write = async |namespace: &str, bundle: &str, sequence: &str| {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "signet-trust", "annotations": {"signet.dev/trust-sequence": sequence}},
            "data": {"bundle.pem": bundle},
        });
        maps(namespace).patch("signet-trust", &PatchParams::apply("user").force(), &Patch::Apply(map)).await.unwrap();
    };
    let ours = served.authority.bundle().to_pem();
    let shop = world.namespace(&json!({INJECT: "enabled"})).await;
    until("the namespace has its copy", async || copy(&world, &shop).await.as_ref() == Some(&ours)).await;
    let theirs = Authority::new("example.org").bundle().to_pem();
    write(&shop, &theirs, "18446744073709551615").await;
    until("it is put right", async || copy(&world, &shop).await.as_ref() == Some(&ours)).await;

    // What the CA publishes in the control namespace is the source, also when this operator has not heard of it.
    let next = format!("{ours}{}", Authority::new("example.org").bundle().to_pem());
    write(&world.control, &next, "0").await;
    until("the copy follows the source", async || copy(&world, &shop).await.as_ref() == Some(&next)).await;
    write(&shop, &theirs, "18446744073709551615").await;
    until("it is put right again", async || copy(&world, &shop).await.as_ref() == Some(&next)).await;
}
