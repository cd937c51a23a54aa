//! What `make bench` measures without a rival: the time from the start of a sidecar to the first byte that it carries, with a
//! CA on the same machine, and how many certificates a second the CA hands out over gRPC. Prints `name=value` lines.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
use aws_lc_rs::digest::{SHA256, digest};
use signet::demo::{
    mesh::{Mesh, Options, TRUST_DOMAIN},
    process::wait_for,
};
use signet_identity::{Bundle, Credentials, PrivateKey, SpiffeId, TrustDomain, TrustState};
use signet_proto::ca::{
    ChallengeRequest, HostKeyProof, IssueRequest, RegisterRequest,
    certificate_authority_client::CertificateAuthorityClient, issue_request::Attestation,
};
use signet_tests::{
    SOON,
    apps::{Server, reaches},
    pair, programs,
};
use std::{
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

/// Calls in progress at the same time, each of a host of its own.
const CALLERS: usize = 32;
const MEASURED: Duration = Duration::from_secs(10);

fn main() {
    // `cargo test` builds benchmarks too, and runs them with other arguments.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let programs = std::env::var_os("SIGNET_PROGRAMS").map_or_else(programs, PathBuf::from);
    start(&programs);
    certificates(&programs);
}

fn start(programs: &std::path::Path) {
    let mut mesh = Mesh::start(Options::new(programs)).expect("a mesh");
    let (mut checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let first = |checkout: &signet::demo::mesh::Workload| {
        wait_for("the first byte", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok())
            .expect("it is carried");
    };
    first(&checkout);
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            checkout.sidecar.take().expect("it runs").kill();
            let start = Instant::now();
            checkout.start_sidecar().expect("it starts");
            // Without a pause: a connection to a port on which nobody listens yet fails at once.
            while reaches(&checkout.machine, orders.machine.v4, 8080).is_err() {
                assert!(Instant::now().duration_since(start) < SOON, "it never carried a byte:\n{}", checkout.log());
            }
            Instant::now().duration_since(start).as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("start_ms={:.1} (median of {}; {:.1} to {:.1})", times[10], times.len(), times[0], times[20]);
}

fn certificates(programs: &std::path::Path) {
    let mut options = Options::new(programs);
    options.ca = "[limits]\nper_workload = 1000000\nper_workload_burst = 1000000\nper_address = 1000000\nper_address_burst = 1000000\n".into();
    let mesh = Mesh::start(options).expect("a mesh");
    let tokens: Vec<String> = (0..CALLERS)
        .map(|n| {
            let identity = format!("spiffe://{TRUST_DOMAIN}/ns/bench/sa/host-{n}");
            mesh.token(&["--identity", &identity, "--uid", &format!("host-{n}")]).expect("a token")
        })
        .collect();
    let csr = csr(&mesh);
    let hub = mesh.world.hub().clone();
    let pem = std::fs::read_to_string(mesh.ca_dir().join("bundle.pem")).expect("the bundle");
    let before = cpu_ticks(&mesh);
    let (issued, waits) = hub
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(load(&tokens, &csr, &pem))
        })
        .expect("entering");
    let spent = (cpu_ticks(&mesh) - before) as f64 / 100.0;
    let rate = issued as f64 / MEASURED.as_secs_f64();
    println!(
        "certificates_s={rate:.0} (the client shares the two processors; CA {:.0} us of CPU each; p50 {:.1} ms, p99 {:.1} ms)",
        spent * 1e6 / issued as f64,
        waits.0,
        waits.1
    );
}

/// Issues certificates for `MEASURED`; gives their number and the median and 99th percentile of the wait in milliseconds.
async fn load(tokens: &[String], csr: &[u8], pem: &str) -> (usize, (f64, f64)) {
    let td: TrustDomain = TRUST_DOMAIN.parse().expect("a trust domain");
    let bundles = [(td.clone(), Bundle::from_pem(pem).expect("a bundle"))].into();
    let credentials =
        Credentials::new(TrustState { sequence: 0, bundles, ..TrustState::default() }).expect("credentials");
    let ca = SpiffeId::workload(&td, "signet-system", "signet-ca").expect("an identity");
    let deadline = Instant::now() + MEASURED;
    let callers: Vec<_> = tokens
        .iter()
        .map(|token| {
            let channel = signet_enroll::channel(&credentials, ca.clone(), "127.0.0.1:15012").expect("a channel");
            let mut client = CertificateAuthorityClient::new(channel);
            let (token, csr) = (token.clone(), csr.to_vec());
            tokio::spawn(async move {
                let key = PrivateKey::generate().expect("a key");
                let host_public_key = key.public_key_der();
                let message =
                    [b"signet register v1\0", digest(&SHA256, token.as_bytes()).as_ref(), &host_public_key].concat();
                let proof = key.sign(&message).expect("a signature");
                let register = RegisterRequest { join_token: token, host_public_key, proof };
                let host_key_id = client.register(register).await.expect("registered").into_inner().host_key_id;
                let mut waits = Vec::new();
                while Instant::now() < deadline {
                    let start = Instant::now();
                    let nonce = client.challenge(ChallengeRequest {}).await.expect("a nonce").into_inner().nonce;
                    let message = [b"signet issue v1\0", &nonce[..], digest(&SHA256, &csr).as_ref()].concat();
                    let signature = key.sign(&message).expect("a signature");
                    let proof = HostKeyProof { host_key_id: host_key_id.clone(), nonce, signature };
                    let request = IssueRequest {
                        csr: csr.clone(),
                        trust_sequence_held: 0,
                        attestation: Some(Attestation::HostKey(proof)),
                        renewal: None,
                    };
                    client.issue(request).await.expect("a certificate");
                    waits.push(Instant::now().duration_since(start).as_secs_f64() * 1000.0);
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.extend(caller.await.expect("a caller"));
    }
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    (waits.len(), (at(50), at(99)))
}

/// A certificate request that openssl made: what it costs to make one is not what is measured.
fn csr(mesh: &Mesh) -> Vec<u8> {
    let dir = mesh.world.dir();
    let openssl = |args: &[&str]| {
        let out = Command::new("openssl").args(args).current_dir(dir).output().expect("openssl");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", "leaf.key"]);
    openssl(&["req", "-new", "-key", "leaf.key", "-subj", "/", "-outform", "DER", "-out", "leaf.csr"]);
    std::fs::read(dir.join("leaf.csr")).expect("the request")
}

fn cpu_ticks(mesh: &Mesh) -> u64 {
    let pid = mesh.ca.as_ref().expect("the CA runs").pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("/proc");
    let fields: Vec<u64> =
        stat.rsplit_once(')').expect("stat").1.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    fields[11] + fields[12]
}
