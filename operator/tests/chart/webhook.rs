//! The webhook as the API server meets it: from the rendered configuration to a pod with a sidecar, and what happens without it.
use crate::world::{INJECT, Served, World, pod, until};
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingAdmissionPolicy};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use k8s_openapi::api::events::v1::Event;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::json;
use signet_identity::testing::Authority;
use signet_operator::metrics::Metrics;
use signet_operator::{uninstall, webhook};
use tokio::task::JoinSet;

fn init_containers(pod: &Pod) -> Vec<&str> {
    let containers = pod.spec.as_ref().unwrap().init_containers.iter().flatten();
    containers.map(|container| container.name.as_str()).collect()
}

fn review(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// F18: whatever is no review is refused, within bounds.
fn flooded(port: u16, path: &str) {
    let review = |body: &str| review(path, body);
    let large = "x".repeat(9 * 1024 * 1024);
    for (request, status) in [
        (format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"), "405"),
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".to_owned(), "404"),
        (review("{"), "400"),
        (review(&"[".repeat(100_000)), "400"),
        (review("{\"apiVersion\": \"admission.k8s.io/v1beta1\", \"request\": {\"uid\": \"x\"}}"), "400"),
        (review(&large), "413"),
        (format!("POST {path} HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(64 * 1024)), "431"),
    ] {
        let answer = call(port, &request);
        // What is still on its way when the server closes resets the connection, and the answer may be lost with it.
        let lost = answer.is_empty() && request.len() > 16 * 1024;
        assert!(lost || answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    // A review of something that this webhook was never meant for changes nothing.
    let other =
        json!({"apiVersion": "admission.k8s.io/v1", "request": {"uid": "u", "operation": "DELETE", "namespace": "x"}});
    let answer = call(port, &review(&other.to_string()));
    assert!(answer.contains("\"allowed\":true") && !answer.contains("patch"), "{answer}");
}

/// What the webhook answers to these bytes.
pub(crate) fn call(port: u16, request: &str) -> String {
    use std::io::{Read as _, Write as _};
    let stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
    let credentials = signet_identity::Credentials::new(signet_identity::TrustState::default()).unwrap();
    let mut config = rustls::ClientConfig::clone(&credentials.client_config(&[b"http/1.1"]));
    config.dangerous().set_certificate_verifier(std::sync::Arc::new(Anybody));
    let client = rustls::ClientConnection::new(config.into(), signet_identity::tls::unnamed()).unwrap();
    let mut tls = rustls::StreamOwned::new(client, stream);
    // The server may answer and close before it has read everything.
    drop(tls.write_all(request.as_bytes()));
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    while let Ok(count) = tls.read(&mut part) {
        answer.extend_from_slice(&part[..count]);
        if count == 0 || is_whole(&answer) {
            break;
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether the head is there, and as much after it as it announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|end| end == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
    answer.len() >= end + 4 + length
}

/// The test asks what is answered, not who answers.
#[derive(Debug)]
pub(crate) struct Anybody;

impl rustls::client::danger::ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        vec![rustls::SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_opts_in_has_a_sidecar_or_is_refused() {
    let Some(world) = World::start().await else { return };
    let Served { authority, port, path, operator, credentials, settings, mut tasks, .. } = world.webhook_by_url().await;

    let shop = world.namespace(&json!({INJECT: "enabled"})).await;
    world.injects(&shop).await;
    let made = world.create(&shop, &pod(&json!({})), false).await.unwrap();
    assert_eq!(init_containers(&made), ["signet-capture", "signet-sidecar"]);

    // The bundle was there before the answer, and everything that could block a pod has our namespace as its owner.
    let bundle = async |namespace: &str| {
        let found =
            Api::<ConfigMap>::namespaced(world.client.clone(), namespace).get_opt("signet-trust").await.unwrap();
        found.and_then(|map| map.data?.get("bundle.pem").cloned())
    };
    assert_eq!(bundle(&shop).await, Some(authority.bundle().to_pem()));
    // Written after the webhook is ready.
    until("the webhooks have an owner", async || {
        let webhooks = Api::<MutatingWebhookConfiguration>::all(world.client.clone());
        let configuration = webhooks.get("signet-injector").await.unwrap();
        configuration.owner_references().iter().any(|owner| owner.kind == "Namespace" && owner.name == world.control)
    })
    .await;
    until("the guard has an owner", async || {
        let policy = Api::<ValidatingAdmissionPolicy>::all(world.client.clone()).get("signet-guard").await.unwrap();
        policy.owner_references().iter().any(|owner| owner.name == world.control)
    })
    .await;

    // A single pod opts in elsewhere, and the bundle comes there too; others are not even seen.
    let edge = world.namespace(&json!({})).await;
    let single = world.create(&edge, &pod(&json!({INJECT: "enabled"})), false).await.unwrap();
    assert_eq!(init_containers(&single), ["signet-capture", "signet-sidecar"]);
    assert!(bundle(&edge).await.is_some());
    let other = world.namespace(&json!({})).await;
    assert!(init_containers(&world.create(&other, &pod(&json!({})), false).await.unwrap()).is_empty());
    assert_eq!(bundle(&other).await, None);

    // A refused pod is told what is wrong and what would be right.
    let told = world.create(&shop, &pod(&json!({"signet.dev/drain-time": "soon"})), true).await.unwrap_err();
    assert!(told.contains("annotation signet.dev/drain-time: found \"soon\"; want whole seconds"), "{told}");

    flooded(port, &path);

    // The Event stands on the pod.
    let events = Api::<Event>::namespaced(world.client.clone(), &shop);
    until("the Event is written", async || {
        let all = events.list(&ListParams::default()).await.unwrap();
        all.iter().any(|event| {
            event.reason.as_deref() == Some("Injected")
                && event.regarding.as_ref().is_some_and(|pod| pod.uid == made.uid())
        })
    })
    .await;

    // A new trust state reaches every copy, and a second replica takes the CA that the first has made.
    let next = Authority::new("example.org");
    let mut state = authority.trust_state(2);
    state.bundles.values_mut().for_each(|bundle| bundle.roots.extend(next.bundle().roots));
    credentials.adopt_trust(state).unwrap();
    until("the copy in the namespace is new", async || {
        bundle(&shop).await.is_some_and(|pem| pem.matches("BEGIN CERTIFICATE").count() == 2)
    })
    .await;
    until("the copy for the single pod is new", async || {
        bundle(&edge).await.is_some_and(|pem| pem.matches("BEGIN CERTIFICATE").count() == 2)
    })
    .await;
    let secret = async || {
        Api::<Secret>::namespaced(world.client.clone(), &world.control).get("signet-webhook-ca").await.unwrap()
    };
    let before = secret().await;
    let mut replica = JoinSet::new();
    let settings = signet_operator::inject::Settings { listen: ([127, 0, 0, 1], 0).into(), ..settings };
    let second =
        webhook::start(operator, credentials, settings, Metrics::default().webhook, &mut replica).await.unwrap();
    second.ready.clone().wait_for(|ready| *ready).await.unwrap();
    assert_eq!(secret().await.resource_version(), before.resource_version());
    let answer = call(second.listen.port(), &review(&path, "{}"));
    assert!(answer.starts_with("HTTP/1.1 400 "), "the path is that of all replicas: {answer}");

    // Without any webhook: who opted in is refused, and everybody else untouched.
    tasks.shutdown().await;
    replica.shutdown().await;
    until("pods without a sidecar are refused", async || {
        world.create(&shop, &pod(&json!({})), true).await.is_err_and(|told| told.contains("no Signet sidecar"))
    })
    .await;
    world.create(&other, &pod(&json!({})), true).await.expect("no other pod is touched");

    // Uninstalling names the pods that would be left behind, and takes away what was made.
    let mut left = [format!("{shop}/{}", made.name_any()), format!("{edge}/{}", single.name_any())];
    left.sort();
    let found = uninstall::injected(&world.client).await.unwrap();
    assert_eq!(found, left);
    let refusal = uninstall::refusal(&found);
    assert!(left.iter().all(|pod| refusal.contains(pod)) && refusal.contains("--no-hooks"), "{refusal}");
    uninstall::clean(&world.client, &world.control, false).await.unwrap();
    assert_eq!((bundle(&shop).await, bundle(&edge).await), (None, None));
    let secrets = Api::<Secret>::namespaced(world.client.clone(), &world.control);
    assert!(secrets.get_opt("signet-webhook-ca").await.unwrap().is_none());
}
