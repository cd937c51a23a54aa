//! What can be reached, by whom, and what it says.
use crate::support::{TestCa, connect, write_config};
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::PermissionsExt,
    process::{Command, Output},
    time::Duration,
};

/// What a listener answers to these bytes in plaintext.
fn plain(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    // A reset is an answer of nothing.
    let _ = stream.read_to_end(&mut answer);
    answer
}

pub(crate) fn get(address: SocketAddr, path: &str) -> String {
    String::from_utf8(plain(address, format!("GET {path} HTTP/1.1\r\nhost: ca\r\n\r\n").as_bytes())).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_f17_the_grpc_port_speaks_tls_1_3_alone() {
    let ca = TestCa::start().await;
    let address = ca.running.listen;
    let answers = tokio::task::spawn_blocking(move || {
        let http1 = plain(address, b"GET /signet.ca.v1.CertificateAuthority/Challenge HTTP/1.1\r\nhost: ca\r\n\r\n");
        let http2 = plain(address, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
        (http1, http2)
    });
    let (http1, http2) = answers.await.unwrap();
    for answer in [http1, http2] {
        assert!(!answer.windows(4).any(|four| four == b"HTTP"), "plaintext was answered: {answer:?}");
        assert!(answer.len() <= 7, "more than a TLS alert: {answer:?}");
    }
    for version in ["-tls1", "-tls1_1", "-tls1_2", "-tls1_3"] {
        let out = Command::new("openssl")
            .args(["s_client", version, "-alpn", "h2", "-connect", &address.to_string()])
            .stdin(std::process::Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let taken = text.contains("BEGIN CERTIFICATE");
        assert_eq!(taken, version == "-tls1_3", "{version}: {text}");
    }
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f1_no_session_ticket_is_sent() {
    let ca = TestCa::start().await;
    let out = Command::new("sh")
        .args(["-c", &format!("sleep 1 | openssl s_client -tls1_3 -alpn h2 -connect {}", ca.running.listen)])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(
        text.contains("BEGIN CERTIFICATE") && !text.contains("Session-ID-ctx") && !text.contains("TLS session ticket"),
        "{text}"
    );
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f8_f14_the_loopback_port_has_three_read_only_pages() {
    let ca = TestCa::start().await;
    ca.joined(crate::support::ORDERS, "orders-1").await;
    let address = ca.running.health;
    assert!(address.ip().is_loopback());
    let page = move |path: &'static str| tokio::task::spawn_blocking(move || get(address, path));
    assert!(page("/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    assert!(page("/readyz").await.unwrap().starts_with("HTTP/1.1 200"));
    let metrics = page("/metrics").await.unwrap();
    assert!(metrics.contains("signet_ca_certificates_issued_total{attestor=\"self\"} 1"), "{metrics}");
    assert!(!metrics.contains("orders"), "nothing of a peer: {metrics}");
    for path in ["/", "/debug/pprof", "/config", "/quitquitquit", "/metrics/../admin"] {
        assert!(page(path).await.unwrap().starts_with("HTTP/1.1 404"), "{path}");
    }
    let post = tokio::task::spawn_blocking(move || {
        plain(address, b"POST /healthz HTTP/1.1\r\nhost: ca\r\ncontent-length: 0\r\n\r\n")
    });
    assert!(post.await.unwrap().starts_with(b"HTTP/1.1 405"));
    let dir = ca.dir.path().join("state");
    rusqlite::Connection::open(dir.join("state.db")).unwrap().execute_batch("DROP TABLE clock").unwrap();
    assert!(page("/readyz").await.unwrap().starts_with("HTTP/1.1 503"), "a store that fails is not ready");
    assert!(page("/healthz").await.unwrap().starts_with("HTTP/1.1 200"));
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_health_answers_on_the_same_port() {
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};
    let ca = TestCa::start().await;
    let identity = "spiffe://example.org/ns/signet-system/sa/signet-ca".parse().unwrap();
    let trust = crate::support::trusting(&ca.state());
    let channel = signet_enroll::channel(&trust, identity, &ca.running.listen.to_string()).unwrap();
    let request = HealthCheckRequest { service: "signet.ca.v1.CertificateAuthority".into() };
    let answer = HealthClient::new(channel).check(request).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_socket_is_for_its_owner_alone() {
    let ca = TestCa::start().await;
    let socket = ca.state().join("admin.sock");
    assert_eq!(fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(ca.state()).unwrap().permissions().mode() & 0o777, 0o700);
    ca.stop().await;
}

/// Even when somebody has opened the directory and the socket by hand, the kernel's word on who connects counts.
#[tokio::test(flavor = "multi_thread")]
async fn another_user_gets_no_answer_on_the_admin_socket_but_whom_to_be() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: becoming another user needs root");
        return;
    }
    let ca = TestCa::start().await;
    let socket = ca.state().join("admin.sock");
    for (path, mode) in [(ca.dir.path(), 0o755), (&ca.state(), 0o755), (&socket, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    // curl as a client that we did not write: what it sends is no request, and its owner is told so.
    let ask = |user: u32| {
        use std::os::unix::process::CommandExt;
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--http0.9", "--max-time", "5", "--unix-socket"]).arg(&socket).arg("http://ca/").uid(user);
        String::from_utf8(curl.output().unwrap().stdout).unwrap()
    };
    let (own, other) = tokio::task::block_in_place(|| (ask(0), ask(65_534)));
    assert!(own.contains("not understood"), "{own}");
    assert!(other.contains("this CA runs as user 0") && other.contains("not user 65534"), "{other}");
    assert_eq!(other.lines().count(), 1, "what it asked was not looked at: {other}");
    ca.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_socket_in_an_open_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let error = TestCa::start_in(dir, "admin_socket = \"open/admin.sock\"\n").await.err().unwrap().to_string();
    assert!(error.contains("chmod 0700"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_another_identity_never_sends_a_token() {
    let ca = TestCa::start().await;
    let other = "spiffe://example.org/ns/shop/sa/signet-ca".parse().unwrap();
    let trust = crate::support::trusting(&ca.state());
    let channel = signet_enroll::channel(&trust, other, &ca.running.listen.to_string()).unwrap();
    let mut client = signet_proto::ca::certificate_authority_client::CertificateAuthorityClient::new(channel);
    assert!(client.challenge(signet_proto::ca::ChallengeRequest {}).await.is_err());
    let mut right = connect(&ca.state(), &ca.running.listen.to_string());
    right.challenge(signet_proto::ca::ChallengeRequest {}).await.unwrap();
    ca.stop().await;
}

/// Runs the real program until it gives up.
fn run_program(dir: &std::path::Path, more: &str) -> Output {
    let config = write_config(dir, more);
    Command::new(env!("CARGO_BIN_EXE_signet-ca")).args(["run", "--config"]).arg(config).output().unwrap()
}

#[test]
fn bad_configuration_ends_with_2_and_every_problem_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let out = run_program(dir.path(), "helth = 1\n[lifetimes]\nleaf = \"forever\"\n");
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("helth") && text.contains("leaf"), "{text}");
    assert!(!dir.path().join("state").exists(), "nothing was made");
}

#[test]
fn a_state_directory_that_others_can_read_is_refused_with_the_chmod() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o750)).unwrap();
    let out = run_program(dir.path(), "");
    assert_eq!(out.status.code(), Some(2));
    let text = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(text.contains("ca.toml:4: state_dir"), "{text}");
    assert!(text.contains(&format!("chmod 0700 {}", state.display())), "{text}");
    assert_eq!(fs::read_dir(&state).unwrap().count(), 0, "nothing was written there");
}
