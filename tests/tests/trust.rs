//! What happens when the trust state changes under programs that run: a root comes, a root goes, keys change. The CA has no
//! command for roots yet: its store is changed while it is away, as its next start publishes it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::{
    mesh::{Mesh, TRUST_DOMAIN, Workload},
    process::wait_for,
};
use signet_ca::{clock::Clock, metrics::Metrics, store::Store, trust::Publisher};
use signet_identity::{Bundle, TrustDomain, TrustState};
use signet_tests::{
    SOON,
    apps::Server,
    join, mesh, mesh_with,
    openssl::{Leaf, Pair, Workshop},
    outside::{Outside, client_config},
};
use std::{
    collections::BTreeSet,
    io::Write as _,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

const CALLER: &str = "spiffe://demo.signet.dev/ns/shop/sa/partner";

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// Publishes another trust state: the CA is away for it, and every sidecar hears of it from the stream.
fn publish(mesh: &mut Mesh, change: impl Fn(&mut Bundle)) -> u64 {
    mesh.ca.take().unwrap().kill();
    let domain: TrustDomain = TRUST_DOMAIN.parse().unwrap();
    let path = mesh.ca_dir().join("state.db");
    let sequence = runtime().block_on(async {
        let (store, closed) = Store::open(&path, &domain, Metrics::default()).unwrap();
        let store = Arc::new(store);
        let publisher = Publisher::open(store.clone(), Clock::system(), Metrics::default()).await.unwrap();
        let changed = |state: &mut TrustState| change(state.bundles.get_mut(&domain).unwrap());
        let sequence = publisher.publish(changed).await.unwrap().state.sequence;
        drop((publisher, store));
        // Closed when its sender is gone, too.
        let _ = closed.await;
        sequence
    });
    mesh.start_ca().unwrap();
    sequence
}

fn follows(workload: &Workload, sequence: u64) {
    let there = || (workload.metric("signet_sidecar_trust_sequence").ok()? >= sequence).then_some(());
    wait_for("the sidecar follows the trust state", SOON * 9, there).unwrap();
}

/// Orders, a root beside the mesh's own, and a peer whose certificate hangs below that root.
fn stage() -> (Mesh, Workload, Server, Bundle, Pair) {
    let mut mesh = mesh();
    let orders = join(&mut mesh, "orders", &[("http", 8080)]);
    mesh.allow("shop", "orders", &[8080], &["partner"]).unwrap();
    wait_for("the rule is in force", SOON, || orders.log().contains("rules=1").then_some(())).unwrap();
    let server = Server::echo(&orders.machine, 8080);
    let shop = Workshop::new(&mesh.world.dir().join("other-root"), TRUST_DOMAIN);
    let root = Bundle::from_pem(&std::fs::read_to_string(&shop.root().chain).unwrap()).unwrap();
    let peer = shop.leaf("partner", &Leaf::good(CALLER, "partner-1"));
    (mesh, orders, server, root, peer)
}

async fn tunnelled(
    outside: &Outside<'_>,
    orders: &Workload,
) -> std::io::Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> {
    let mut tls = outside.connect(orders.machine.v4.into(), 15008).await?;
    tls.write_all(format!("CONNECT {}:8080 HTTP/1.1\r\n\r\n", orders.machine.v4).as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(tls.read_u8().await?);
    }
    assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
    tls.write_all(b"x").await?;
    assert_eq!(tls.read_u8().await?, b'x');
    Ok(tls)
}

#[test]
fn f1_after_a_root_is_removed_from_trust_a_reconnect_with_the_old_session_is_refused_and_what_is_open_is_cut() {
    let (mut mesh, orders, _server, root, peer) = stage();
    let machine = mesh.world.machine("partner").unwrap();
    // One configuration for all connections: it would resume with any session that it was ever given.
    let config = client_config(&peer, b"http/1.1");
    let outside = Outside { machine: &machine, config };
    let refused = runtime().block_on(tunnelled(&outside, &orders)).err();
    assert!(refused.is_some(), "nobody trusts that root yet");

    let with = publish(&mut mesh, |bundle| bundle.roots.extend(root.roots.iter().cloned()));
    follows(&orders, with);
    let runtime = runtime();
    let mut open = runtime.block_on(async {
        // Twice, so that a session would be used.
        drop(tunnelled(&outside, &orders).await.unwrap());
        tunnelled(&outside, &orders).await.unwrap()
    });

    let without = publish(&mut mesh, |bundle| bundle.roots.retain(|held| !root.roots.contains(held)));
    follows(&orders, without);
    runtime.block_on(async {
        let ended = tokio::time::timeout(SOON, open.read(&mut [0; 1])).await.expect("it outlives its root");
        assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
        let again = tunnelled(&outside, &orders).await.err();
        assert!(again.is_some(), "a reconnect was let in");
    });
    let lines = |words: &str| orders.log().lines().filter(|line| line.contains(words)).count();
    wait_for("the cut is logged", SOON, || (lines("reason=cut_trust_gone") > 0).then_some(())).unwrap();
    wait_for("the reconnect is logged", SOON, || (lines("reason=peer_cert_issuer_untrusted") > 1).then_some(()))
        .unwrap();
}

#[test]
fn f33_a_new_root_is_trusted_without_a_restart() {
    let (mut mesh, orders, _server, root, peer) = stage();
    let pid = orders.sidecar.as_ref().unwrap().pid();
    let before = orders.serial().unwrap();
    let machine = mesh.world.machine("partner").unwrap();
    let outside = Outside { machine: &machine, config: client_config(&peer, b"http/1.1") };
    let sequence = publish(&mut mesh, |bundle| bundle.roots.extend(root.roots.iter().cloned()));
    follows(&orders, sequence);
    runtime().block_on(async { drop(tunnelled(&outside, &orders).await.unwrap()) });
    assert_eq!(orders.sidecar.as_ref().unwrap().pid(), pid);
    assert_eq!(orders.serial().unwrap(), before, "the same process with the same certificate");
}

#[test]
fn f33_every_renewal_has_a_new_key_and_so_has_every_issuing_ca() {
    let mut mesh = mesh_with(|options| {
        options.leaf_lifetime = Some(Duration::from_secs(4));
        options.ca = "issuing = \"12s\"\n".into();
    });
    let orders = join(&mut mesh, "orders", &[]);
    let (mut serials, mut leaves, mut issuers) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    wait_for("five renewals, below two issuing CAs", Duration::from_mins(2), || {
        let page: serde_json::Value = serde_json::from_str(&orders.admin("/certificates").ok()?).ok()?;
        if serials.insert(page["svid"]["serial"].as_str()?.to_owned()) {
            let pem = page["svid"]["chain_pem"].as_str()?;
            let mut chain = pem.split_inclusive("-----END CERTIFICATE-----").filter(|part| part.contains("BEGIN"));
            assert!(leaves.insert(public_key(chain.next()?)), "a key was certified twice");
            issuers.insert(public_key(chain.next()?));
        }
        (serials.len() > 5 && issuers.len() > 1).then_some(())
    })
    .unwrap();
    assert!(leaves.is_disjoint(&issuers));
    // And no issuing CA has the root's.
    assert!(!issuers.contains(&public_key(&std::fs::read_to_string(mesh.ca_dir().join("bundle.pem")).unwrap())));
}

/// The public key of a certificate, as openssl reads it.
fn public_key(pem: &str) -> String {
    let mut command = Command::new("openssl");
    command.args(["x509", "-noout", "-pubkey"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut openssl = command.spawn().unwrap();
    openssl.stdin.take().unwrap().write_all(pem.as_bytes()).unwrap();
    let out = openssl.wait_with_output().unwrap();
    assert!(out.status.success(), "{pem}");
    String::from_utf8(out.stdout).unwrap()
}
