//! Several replicas: one root, one trust, each its own issuing key; and what happens when somebody takes an object away.
use crate::world::{Ca, Lines, TRUST_DOMAIN, World, ask, eventually, obtain, renew, within};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use rustls_pki_types::UnixTime;
use serde_json::{Value, json};
use signet_apiserver::shared;
use signet_identity::{Bundle, Side, Svid, hex, verify};
use std::{
    collections::BTreeMap,
    io::{self, Write},
    sync::mpsc,
    time::Duration,
};
use tokio::sync::mpsc as asynchronous;
use tonic::Code;

fn issuing_key(svid: &Svid) -> Vec<u8> {
    verify::parse_leaf(&svid.chain()[0]).unwrap().authority_key
}

fn trusted_by(ca: &Ca, svid: &Svid) -> bool {
    verify::verify_chain(svid.chain(), &ca.trusting().trust(), UnixTime::now(), Side::Client).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_started_at_once_have_one_root_and_an_issuing_key_each() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let (one, other) = tokio::join!(world.ca("ca-1"), world.ca("ca-2"));
    assert_eq!(one.bundle, other.bundle);
    assert_eq!(one.bundle.roots.len(), 1, "one root");
    let token = world.token(&world.pod("orders-1").await).await;
    let (first, second) =
        (obtain(&mut one.client(), &token).await.unwrap(), obtain(&mut other.client(), &token).await.unwrap());
    assert!(trusted_by(&other, &first.svid) && trusted_by(&one, &second.svid));
    assert_ne!(issuing_key(&first.svid), issuing_key(&second.svid));
    // Which replica it was that gave a certificate plays no part in renewing it.
    renew(&mut other.client(), &token, &first).await.unwrap();

    let records =
        within::<ConfigMap>(&world.client, &world.namespace).get("signet-issuers").await.unwrap().data.unwrap();
    for (svid, instance) in [(&first.svid, "ca-1"), (&second.svid, "ca-2")] {
        let record: Value = serde_json::from_str(&records[&hex(&issuing_key(svid))]).unwrap();
        assert_eq!(
            (&record["instance"], &record["fenced"], &record["lowest_held"]),
            (&json!(instance), &json!(false), &json!(0))
        );
        assert!(record["signing_until"].as_u64().unwrap() >= svid.not_after(), "recorded before it was signed");
    }
    one.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_cost_no_write_to_the_api() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let token = world.token(&world.pod("orders-1").await).await;
    // The first one lowers "lowest held" and moves "signing until".
    ask(&mut ca.client(), &token).await.unwrap();
    let versions = || async {
        let mut versions = BTreeMap::new();
        for name in ["signet-issuers", "signet-trust-state", "signet-trust"] {
            let object = within::<ConfigMap>(&world.client, &world.namespace).get(name).await.unwrap();
            versions.insert(name, object.resource_version());
        }
        versions
    };
    let before = versions().await;
    for _ in 0..40 {
        ask(&mut ca.client(), &token).await.unwrap();
    }
    assert_eq!(versions().await, before);
    assert!(ca.lines.parsed().len() > 41, "but the journal has them all");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_key_material_is_in_the_secret_and_nowhere_else() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    ask(&mut ca.client(), &world.token(&world.pod("orders-1").await).await).await.unwrap();
    let secret = within::<Secret>(&world.client, &world.namespace).get("signet-root").await.unwrap();
    assert_eq!(secret.type_.as_deref(), Some("kubernetes.io/tls"));
    let data = secret.data.unwrap();
    assert_eq!(data.keys().collect::<Vec<_>>(), ["tls.crt", "tls.key"]);
    let key = String::from_utf8(data["tls.key"].0.clone()).unwrap();
    let body = key.lines().nth(1).unwrap();
    let objects = within::<ConfigMap>(&world.client, &world.namespace).list(&ListParams::default()).await.unwrap();
    assert!(objects.items.len() >= 3);
    let everywhere = format!("{:?}{:?}", objects.items, ca.lines.parsed());
    assert!(!everywhere.contains("PRIVATE KEY") && !everywhere.contains(body));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_workloads_that_start_all_at_once_are_all_served() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca_with("ca-1", "[limits]\nper_address = 5000\nper_address_burst = 5000", "").await.unwrap();
    let mut tokens = Vec::new();
    for n in 0..300 {
        tokens.push(world.token(&world.pod(&format!("orders-{n}")).await).await);
    }
    let client = ca.client();
    let end = tokio::time::Instant::now() + Duration::from_secs(120);
    let starting: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let mut client = client.clone();
            tokio::spawn(async move {
                loop {
                    match ask(&mut client, &token).await {
                        // Not answered in time. Workloads ask again, too.
                        Err(status) if status.code() == Code::Unavailable => {}
                        answer => break answer,
                    }
                }
            })
        })
        .collect();
    for one in starting {
        let answer = tokio::time::timeout_at(end, one).await.expect("all are served in 120 s");
        answer.unwrap().expect("nobody is held back for what others ask");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_the_root_and_fences_its_predecessor() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let first = world.ca("ca-1").await;
    let bundle = first.bundle.clone();
    let other = world.ca("ca-2").await;
    first.stop().await;
    let again = world.ca("ca-1").await;
    assert_eq!(again.bundle, bundle);
    let records =
        within::<ConfigMap>(&world.client, &world.namespace).get("signet-issuers").await.unwrap().data.unwrap();
    let mut fenced: Vec<(String, bool)> = records
        .values()
        .map(|text| serde_json::from_str::<Value>(text).unwrap())
        .map(|record| (record["instance"].as_str().unwrap().to_owned(), record["fenced"].as_bool().unwrap()))
        .collect();
    fenced.sort();
    assert_eq!(fenced, [("ca-1".into(), false), ("ca-1".into(), true), ("ca-2".into(), false)]);
    again.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_second_root_is_made_once_a_bundle_was_published() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    world.ca("ca-1").await.stop().await;
    let secrets: Api<Secret> = within(&world.client, &world.namespace);
    let config_maps: Api<ConfigMap> = within(&world.client, &world.namespace);
    let kept = secrets.get("signet-root").await.unwrap();
    secrets.delete("signet-root", &DeleteParams::default()).await.unwrap();
    for gone in ["nothing else", "signet-trust-state"] {
        if gone != "nothing else" {
            config_maps.delete(gone, &DeleteParams::default()).await.unwrap();
        }
        let error = world.ca_with("ca-1", "", "").await.err().unwrap();
        assert!(
            format!("{error:#}").contains("Secret signet-root is missing; restore it"),
            "without {gone}: {error:#}"
        );
        assert!(secrets.get_opt("signet-root").await.unwrap().is_none(), "none was made");
    }
    let mut restored = kept;
    restored.metadata.resource_version = None;
    restored.metadata.uid = None;
    secrets.create(&kube::api::PostParams::default(), &restored).await.unwrap();
    world.ca("ca-1").await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_root_in_the_secret_and_another_trust_domain_are_refused() {
    let Some(server) = shared().await else { return };
    let (world, foreign) = (World::new(server).await, World::new(server).await);
    world.ca("ca-1").await.stop().await;
    foreign.ca("ca-1").await.stop().await;
    let theirs = within::<Secret>(&foreign.client, &foreign.namespace).get("signet-root").await.unwrap().data;
    let secrets: Api<Secret> = within(&world.client, &world.namespace);
    let ours = secrets.get("signet-root").await.unwrap().data;
    let put = |data| {
        let patch = Patch::Merge(json!({"data": data}));
        let secrets = secrets.clone();
        async move { secrets.patch("signet-root", &PatchParams::default(), &patch).await.unwrap() }
    };
    put(theirs).await;
    let error = world.ca_with("ca-1", "", "").await.err().unwrap();
    assert!(format!("{error:#}").contains("none of the 1 root(s) published"), "{error:#}");
    put(ours).await;
    let path = server.directory().join("other-domain.toml");
    let text = format!(
        "trust_domain = \"other.org\"\ncontrol_namespace = \"{}\"\n[kubernetes]\nkubeconfig = \"{}\"\ninstance = \"ca-1\"\n",
        world.namespace,
        world.kubeconfig.display()
    );
    std::fs::write(&path, text).unwrap();
    let config = signet_ca::config::Config::read(&path).unwrap();
    let started = signet_ca::program::start(config, signet_ca::clock::Clock::system()).await;
    let error = started.err().unwrap();
    assert!(format!("{error:#}").contains(&format!("that of {TRUST_DOMAIN}")), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bundle_comes_back_when_somebody_changes_or_deletes_it() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let ca = world.ca("ca-1").await;
    let want = ca.bundle.to_pem();
    let config_maps: Api<ConfigMap> = within(&world.client, &world.namespace);
    let broken = Patch::Merge(json!({"data": {"bundle.pem": "somebody else's"}}));
    config_maps.patch("signet-trust", &PatchParams::default(), &broken).await.unwrap();
    let back = || async { world.bundle().await.as_deref() == Some(want.as_str()) };
    eventually("the bundle", back).await;
    config_maps.delete("signet-trust", &DeleteParams::default()).await.unwrap();
    eventually("the bundle again", back).await;
    assert_eq!(Bundle::from_pem(&want).unwrap(), ca.bundle);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_behind_its_own_record_signs_nothing_and_other_nodes_may_differ_a_little() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    world.ca("ca-1").await.stop().await;
    let start = |instance: &'static str, shifted| world.ca_writing(instance, "", "", Lines::default(), shifted);
    let error = start("ca-1", -30).await.err().unwrap();
    assert!(format!("{error:#}").contains("the last record is of"), "{error:#}");
    start("ca-2", -30).await.unwrap().stop().await;
    assert!(start("ca-3", -300).await.is_err(), "five minutes are no little");
}

/// A journal that takes a line only when it is told to.
struct Gate {
    arrived: asynchronous::UnboundedSender<Vec<u8>>,
    verdict: mpsc::Receiver<bool>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.arrived.send(bytes.to_vec()).unwrap();
        match self.verdict.recv() {
            Ok(true) => Ok(bytes.len()),
            _ => Err(io::Error::other("the log is full")),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_certificate_leaves_before_its_journal_line() {
    let Some(server) = shared().await else { return };
    let world = World::new(server).await;
    let (arrived, mut lines) = asynchronous::unbounded_channel();
    let (verdicts, verdict) = mpsc::channel();
    verdicts.send(true).unwrap(); // the CA's own certificate
    let ca = world.ca_journaling("ca-1", Box::new(Gate { arrived, verdict })).await;
    lines.recv().await.unwrap();
    let token = world.token(&world.pod("orders-1").await).await;
    for (verdict, code) in [(true, None), (false, Some(Code::Unavailable))] {
        let (mut client, token) = (ca.client(), token.clone());
        let mut asking = tokio::spawn(async move { ask(&mut client, &token).await });
        let line = lines.recv().await.unwrap();
        assert!(String::from_utf8(line).unwrap().contains("\"attestor\":\"kubernetes\""));
        let early = tokio::time::timeout(Duration::from_millis(50), &mut asking).await;
        assert!(early.is_err(), "the certificate came before its line was written");
        verdicts.send(verdict).unwrap();
        assert_eq!(asking.await.unwrap().err().map(|status| status.code()), code);
    }
    ca.stop().await;
}
