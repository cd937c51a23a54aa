//! What the doors show, and that nothing can be changed or held up through them.
use super::*;
use crate::live::{Direction, Registry};
use crate::observe::Metrics;
use crate::path::socket;
use crate::report::Reporter;
use crate::shared::{Settings, Shared};
use crate::view::View;
use serde_json::Value;
use signet_enroll::settings::LogFormat;
use signet_identity::{Credentials, TrustState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn source() -> Source {
    let second = Duration::from_secs(1);
    let settings = Settings {
        connect_time: second,
        head_time: second,
        head_bytes: 8192,
        streams: 1,
        unknown_wait: second,
        idle_tunnel: second,
        alone_above: 1,
        connections: 1,
        per_identity: 1,
        handshakes: 1,
        own_ports: vec![],
    };
    let credentials = Credentials::new(TrustState::default()).unwrap();
    let (view, _) = View::new();
    let shared = Shared::new(settings, credentials, view, socket::Sources::default(), Reporter::default());
    Source {
        shared,
        metrics: Arc::new(Metrics::default()),
        access_log: None,
        enrolment: tokio::sync::watch::channel(signet_enroll::Status::default()).1,
        operator_connected: Arc::new(AtomicBool::new(false)),
        readiness: Arc::new(Readiness::default()),
        replay: None,
        node: Vec::new(),
    }
}

const KEY: &str = "00112233445566778899aabbccddeeff";

/// Replays these to whoever listens on 127.0.0.1.
fn replay(probes: &str) -> crate::replay::Replay {
    let declared = crate::replay::Declared::read(probes, KEY, "127.0.0.1", &[]).unwrap();
    crate::replay::Replay::new(declared, socket::Sources::new(vec!["127.0.0.1".parse().unwrap()]))
}

/// A writer that shows what it got.
#[derive(Clone, Default)]
struct Shown(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Shown {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Serves a door, and gives its address.
async fn served(door: Door, source: Source) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(serve(door, vec![listener], Arc::new(source)));
    address
}

/// Sends bytes as they are, and gives everything that comes back until the server closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // A reset after the answer is as good as an end.
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8(answer).unwrap()
}

async fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let answer = raw(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0), body.to_owned())
}

#[tokio::test]
async fn admin_shows_its_pages_as_json() {
    let source = source();
    let from: SocketAddr = "10.77.0.3:40000".parse().unwrap();
    let to: SocketAddr = "10.77.0.2:8080".parse().unwrap();
    let _open = Registry::open(&source.shared.live, Direction::Inbound, from, to, None, None, false);
    let admin = served(Door::Admin, source).await;
    for page in ["/config", "/certificates", "/connections", "/verdicts"] {
        let (status, body) = get(admin, page).await;
        assert_eq!(status, 200, "{page}: {body}");
        serde_json::from_str::<Value>(&body).unwrap_or_else(|e| panic!("{page}: {e}: {body}"));
    }
    let connections: Value = serde_json::from_str(&get(admin, "/connections").await.1).unwrap();
    assert_eq!(connections["connections"][0]["source"], "10.77.0.3:40000");
    assert_eq!(connections["connections"][0]["direction"], "inbound");
    let config: Value = serde_json::from_str(&get(admin, "/config").await.1).unwrap();
    assert_eq!(config["configuration"], Value::Null, "none has arrived");
    let (status, metrics) = get(admin, "/metrics").await;
    assert!(status == 200 && metrics.ends_with("# EOF\n"), "{metrics}");
}

#[tokio::test]
async fn f8_health_shows_nothing_but_health_and_metrics() {
    let health = served(Door::Health, source()).await;
    for page in ["/config", "/certificates", "/connections", "/verdicts", "/", "/debug/pprof", "//healthz", "/healthz/"]
    {
        assert_eq!(get(health, page).await.0, 404, "{page}");
    }
    assert_eq!(get(health, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(get(health, "/metrics").await.0, 200);
}

#[tokio::test]
async fn ready_says_what_is_missing_and_stays_ready_until_the_end() {
    let source = source();
    let readiness = source.readiness.clone();
    let health = served(Door::Health, source).await;
    for (step, words) in Step::ALL.into_iter().zip(["certificate", "configuration", "redirect"]) {
        let (status, body) = get(health, "/readyz").await;
        assert_eq!(status, 503);
        assert!(body.lines().next().unwrap().contains(words), "{body}");
        readiness.reached(step);
    }
    assert_eq!(get(health, "/readyz").await, (200, "ready\n".into()));
    assert_eq!(get(health, "/healthz").await.0, 200);
}

#[tokio::test]
async fn f13_no_verb_changes_anything() {
    let source = source();
    source.readiness.reached(Step::Certificate);
    let readiness = source.readiness.clone();
    for door in [Door::Admin, Door::Health] {
        let address = served(door, source.clone()).await;
        for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "HEAD", "CONNECT", "PURGE"] {
            for path in ["/quitquitquit", "/shutdown", "/drain", "/config", "/healthz", "/logging?level=trace"] {
                let target = if method == "CONNECT" { "127.0.0.1:22" } else { path };
                let request = format!(
                    "{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{{}}"
                );
                let answer = raw(address, &request).await;
                assert!(answer.starts_with("HTTP/1.1 405 "), "{method} {target}: {answer}");
                assert!(answer.to_ascii_lowercase().contains("\r\nallow: get\r\n"), "{answer}");
            }
        }
    }
    assert_eq!(readiness.missing().len(), 2, "as before");
}

#[tokio::test]
async fn a_body_is_not_taken_for_the_next_request() {
    let admin = served(Door::Admin, source()).await;
    let smuggled = "GET /config HTTP/1.1\r\nHost: x\r\n\r\n";
    let length = smuggled.len();
    let answer = raw(admin, &format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{smuggled}")).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
}

#[tokio::test]
async fn f18_heads_of_any_size_are_bounded() {
    let admin = served(Door::Admin, source()).await;
    let long = "x".repeat(64 * 1024);
    for request in [
        format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: x\r\nX: {long}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(1000)),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\0\0\0\r\n\r\n".to_owned(),
    ] {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // The server may close before everything is written.
        drop(stream.write_all(request.as_bytes()).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{}", &answer[..answer.len().min(80)]);
    }
    assert_eq!(get(admin, "/config").await.0, 200, "it still serves");
}

#[tokio::test]
async fn slow_and_silent_peers_do_not_keep_others_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let admin = listener.local_addr().unwrap();
    let times = server::Times { head: Duration::from_millis(50), all: Duration::from_millis(100) };
    tokio::spawn(server::serve_within(times, Door::Admin, vec![listener], Arc::new(source())));
    let mut holding = Vec::new();
    for turn in 0..100 {
        let mut stream = TcpStream::connect(admin).await.unwrap();
        // Some never end their head, some ask and never read.
        let begun =
            if turn % 2 == 0 { "GET /config HTTP/1.1\r\nX: " } else { "GET /config HTTP/1.1\r\nHost: x\r\n\r\n" };
        stream.write_all(begun.as_bytes()).await.unwrap();
        holding.push(stream);
    }
    // More than the server takes at once, all of them before this one. It has no more time than they have: it asks
    // until it is answered.
    let asked = async { while get(admin, "/config").await.0 != 200 {} };
    tokio::time::timeout(Duration::from_secs(30), asked).await.expect("its turn comes");
}

#[tokio::test]
async fn the_health_door_replays_declared_probes_and_shows_nothing_of_their_answers() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = app.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 418 Teapot\r\nSecret: x\r\nContent-Length: 6\r\n\r\nsecret").await.unwrap();
        }
    });
    let probes = format!(
        r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}}}, "timeoutSeconds": 600}},
            "preStop": {{"httpGet": {{"port": {port}}}}},
            "postStart": {{"httpGet": {{"port": 1}}}}}}}}"#
    );
    let shown = Shown::default();
    let access_log = crate::observe::AccessLog::start(LogFormat::Text, shown.clone()).unwrap();
    let source = Source { replay: Some(replay(&probes)), access_log: Some(access_log.clone()), ..source() };
    let health = served(Door::Health, source.clone()).await;
    let whole =
        raw(health, &format!("GET /app-probe/{KEY}/a/liveness HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(whole.starts_with("HTTP/1.1 418 "), "{whole}");
    assert!(!whole.to_ascii_lowercase().contains("secret"), "{whole}");
    let probe = |name: &str| format!("/app-probe/{KEY}/{name}");
    assert_eq!(get(health, &probe("a/preStop")).await, (200, String::new()));
    assert_eq!(get(health, &probe("a/postStart")).await, (0, String::new()), "cut, so that the hook fails");
    for path in ["/app-probe/", "/app-probe", "/app-probe/a/liveness", "/app-probe/a/preStop", "/app-probe//a/preStop"]
    {
        assert_eq!(get(health, path).await.0, 404, "{path}");
    }
    for name in ["a/readiness", "", "a/liveness/../liveness"] {
        assert_eq!(get(health, &probe(name)).await.0, 404, "{name}");
    }
    let path = probe("a/liveness");
    let post = raw(health, &format!("POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(post.starts_with("HTTP/1.1 405 "), "{post}");
    let admin = served(Door::Admin, source).await;
    assert_eq!(get(admin, &path).await.0, 404, "one door alone");
    // Each hook that was replayed is a line, and nobody learns the key from it.
    access_log.flush(Duration::from_secs(10));
    let lines = String::from_utf8(shown.0.lock().unwrap().clone()).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert!(lines.contains("inbound carried reason=hook_replayed source=127.0.0.1:"), "{lines}");
    assert!(lines.contains("inbound refused reason=hook_failed") && lines.contains("text=\"a/postStart\""), "{lines}");
    assert!(!lines.contains(KEY), "{lines}");
}

/// A connection from this address of loopback that sends these bytes and then nothing.
async fn holding(from: [u8; 4], to: SocketAddr, bytes: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(to).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn f12_strangers_who_hold_connections_fail_no_probe() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let probes = format!(r#"{{"a": {{"liveness": {{"tcpSocket": {{"port": {port}}}, "timeoutSeconds": 600}}}}}}"#);
    let source = Source { replay: Some(replay(&probes)), ..source() };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let health = listener.local_addr().unwrap();
    // Nobody is told to go by a clock: those who wait make room, or nobody gets in.
    let long = Duration::from_secs(3600);
    let times = server::Times { head: long, all: long };
    tokio::spawn(server::serve_within(times, Door::Health, vec![listener], Arc::new(source)));
    let mut held = Vec::new();
    // One stranger, who also has the address that the kubelet seems to come from; and then many.
    for from in [[127, 0, 0, 1]; 40].into_iter().chain((2..=60).map(|last| [127, 0, 0, last])) {
        held.push(holding(from, health, "GET /healthz HTTP/1.1\r\nHost: x\r\n").await);
    }
    let asked = async {
        for _ in 0..3 {
            assert_eq!(get(health, &format!("/app-probe/{KEY}/a/liveness")).await.0, 200);
            assert_eq!(get(health, "/readyz").await.0, 503, "answered");
        }
    };
    tokio::time::timeout(Duration::from_secs(60), asked).await.expect("strangers keep the kubelet out");
}

#[tokio::test]
async fn f12_a_slow_probe_is_not_ended_by_strangers_of_the_same_address() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = app.local_addr().unwrap().port();
    let probes = format!(r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}}}, "timeoutSeconds": 600}}}}}}"#);
    let health = served(Door::Health, Source { replay: Some(replay(&probes)), ..source() }).await;
    let path = format!("/app-probe/{KEY}/a/liveness");
    let (told, ()) = tokio::join!(get(health, &path), async {
        let (mut stream, _) = app.accept().await.unwrap();
        let mut held = Vec::new();
        for _ in 0..20 {
            held.push(holding([127, 0, 0, 1], health, "GET /").await);
        }
        // Answered after all of them have their places.
        assert_eq!(get(health, "/healthz").await.0, 200);
        let mut head = [0; 1024];
        assert!(stream.read(&mut head).await.unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    });
    assert_eq!(told.0, 200);
}
