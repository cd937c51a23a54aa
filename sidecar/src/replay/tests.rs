//! Declared calls against applications on real sockets. The application listens on 127.0.0.1, which stands for the pod's
//! address; calls come from 127.0.0.2, as they would from the addresses that `capture` adds.
use super::*;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const KEY: &str = "00112233445566778899aabbccddeeff";
const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const SOURCE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// Replays these. What says no time of its own has plenty, and not the kubelet's second: the applications here answer.
fn replay(probes: &str) -> Replay {
    let mut all: Value = serde_json::from_str(probes).unwrap();
    let kinds = all.as_object_mut().unwrap().values_mut().flat_map(|kinds| kinds.as_object_mut().unwrap().values_mut());
    for probe in kinds {
        probe.as_object_mut().unwrap().entry("timeoutSeconds").or_insert(60.into());
    }
    let declared = Declared::read(&all.to_string(), KEY, "127.0.0.1", &[15001, 15020]).unwrap();
    Replay::new(declared, Sources::new(vec![SOURCE]))
}

async fn status(replay: &Replay, name: &str) -> u16 {
    match replay.run(&format!("{KEY}/{name}"), POD).await {
        Answer::Status(status) => status.as_u16(),
        Answer::Nothing => 0,
    }
}

/// What an application was asked, in order.
type Asked = Arc<Mutex<Vec<String>>>;

/// An application that gives these answers, one for each connection, the last of them for all others.
async fn application(answers: Vec<String>) -> (u16, Asked) {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        let mut turn = 0;
        loop {
            let (mut stream, from) = listener.accept().await.unwrap();
            assert_eq!(from.ip(), SOURCE, "from the sidecar's own address");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                if stream.read_buf(&mut head).await.unwrap_or(0) == 0 {
                    break;
                }
            }
            seen.lock().unwrap().push(String::from_utf8(head).unwrap());
            // Whoever asked may be gone.
            drop(stream.write_all(answers[turn.min(answers.len() - 1)].as_bytes()).await);
            turn += 1;
        }
    });
    (port, asked)
}

fn answer(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 6\r\n\r\nsecret")
}

#[tokio::test]
async fn exactly_the_declared_request_reaches_the_application() {
    let (port, asked) = application(vec![answer("200 OK")]).await;
    let replay = replay(&format!(
        r#"{{"app": {{"liveness": {{"httpGet": {{"path": "live?deep=1#x", "port": {port},
            "httpHeaders": [{{"name": "Host", "value": "orders.example"}}, {{"name": "X-A", "value": "1"}}, {{"name": "X-A", "value": "2"}}]}}}}}}}}"#
    ));
    assert_eq!(status(&replay, "app/liveness").await, 200);
    let asked = asked.lock().unwrap().join("").to_ascii_lowercase();
    assert!(asked.starts_with("get /live?deep=1 http/1.1\r\n"), "{asked}");
    for line in ["host: orders.example", "x-a: 1", "x-a: 2", "accept: */*", "user-agent: kube-probe/signet"] {
        assert_eq!(asked.matches(&format!("\r\n{line}\r\n")).count(), 1, "{line} in {asked}");
    }
}

#[tokio::test]
async fn nothing_but_what_is_declared_is_called() {
    let (port, asked) = application(vec![answer("200 OK")]).await;
    let replay = replay(&format!(r#"{{"app": {{"liveness": {{"httpGet": {{"path": "/live", "port": {port}}}}}}}}}"#));
    for name in [
        "app/readiness",
        "other/liveness",
        "app",
        "",
        "app/liveness/",
        "app/liveness/admin",
        "/app/liveness",
        "APP/liveness",
    ] {
        assert_eq!(status(&replay, name).await, 404, "{name:?}");
    }
    assert!(asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn the_verdict_is_the_kubelets() {
    for (said, told) in [
        ("200 OK", 200),
        ("204 No Content", 200),
        ("399 Odd", 200),
        ("304 Not Modified", 200),
        ("400 Bad Request", 400),
        ("503 Service Unavailable", 503),
    ] {
        let (port, _) = application(vec![answer(said)]).await;
        let replay = replay(&format!(r#"{{"a": {{"readiness": {{"httpGet": {{"port": {port}}}}}}}}}"#));
        assert_eq!(status(&replay, "a/readiness").await, told, "{said}");
    }
}

#[tokio::test]
async fn redirects_within_the_host_are_followed_and_others_are_a_success() {
    let redirect = |to: &str| format!("HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n");
    let (other, reached) = application(vec![answer("500 Oh")]).await;
    for (to, path, told) in [
        ("/next".to_owned(), "/next", 200),
        ("deeper?x=1".to_owned(), "/a/deeper?x=1", 200),
        ("?y=2".to_owned(), "/a/b?y=2", 200),
    ] {
        let (port, asked) = application(vec![redirect(&to), answer("200 OK")]).await;
        let replay = replay(&format!(r#"{{"a": {{"liveness": {{"httpGet": {{"path": "/a/b", "port": {port}}}}}}}}}"#));
        assert_eq!(status(&replay, "a/liveness").await, told, "{to}");
        let asked = asked.lock().unwrap();
        assert!(asked.get(1).is_some_and(|head| head.starts_with(&format!("GET {path} "))), "{to}: {asked:?}");
    }
    // Another port of the same host is followed, so that its answer counts.
    let (port, _) = application(vec![redirect(&format!("http://127.0.0.1:{other}/"))]).await;
    let probes = |port: u16| format!(r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}}}}}}}}}"#);
    assert_eq!(status(&replay(&probes(port)), "a/liveness").await, 500);
    assert_eq!(reached.lock().unwrap().len(), 1);
    // F9: no other host, and no port of the sidecar.
    for to in
        [format!("http://localhost:{other}/"), format!("//127.0.0.9:{other}/"), "http://169.254.169.254/".to_owned()]
    {
        let (port, asked) = application(vec![redirect(&to)]).await;
        assert_eq!(status(&replay(&probes(port)), "a/liveness").await, 200, "{to}");
        assert_eq!(asked.lock().unwrap().len(), 1, "{to}");
    }
    assert_eq!(reached.lock().unwrap().len(), 1, "nobody else was called");
    let (port, _) = application(vec![redirect("http://127.0.0.1:15020/config")]).await;
    assert_eq!(status(&replay(&probes(port)), "a/liveness").await, 502);
    // In a circle.
    let (port, asked) = application(vec![redirect("/")]).await;
    assert_eq!(status(&replay(&probes(port)), "a/liveness").await, 502);
    assert_eq!(asked.lock().unwrap().len(), 10);
}

#[tokio::test]
async fn an_application_that_is_not_there_fails_the_probe_and_cuts_the_hook() {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let replay = replay(&format!(
        r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}}}}}, "startup": {{"tcpSocket": {{"port": {port}}}}},
            "readiness": {{"grpc": {{"port": {port}}}}}, "preStop": {{"httpGet": {{"port": {port}}}}}}}}}"#
    ));
    for kind in ["liveness", "startup", "readiness"] {
        assert_eq!(status(&replay, &format!("a/{kind}")).await, 502, "{kind}");
    }
    assert_eq!(replay.run(&format!("{KEY}/a/preStop"), POD).await, Answer::Nothing);
}

#[tokio::test]
async fn any_answer_to_a_hook_is_a_success_as_for_the_kubelet() {
    let (port, _) = application(vec![answer("500 Oh")]).await;
    let replay = replay(&format!(r#"{{"a": {{"postStart": {{"httpGet": {{"port": {port}}}}}}}}}"#));
    assert_eq!(status(&replay, "a/postStart").await, 200);
}

#[tokio::test]
async fn tcp_connects_and_says_nothing() {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let replay = replay(&format!(r#"{{"db": {{"readiness": {{"tcpSocket": {{"port": {port}}}}}}}}}"#));
    let (told, heard) = tokio::join!(status(&replay, "db/readiness"), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        drop(stream.read_to_end(&mut heard).await);
        heard
    });
    assert_eq!((told, heard.len()), (200, 0));
}

#[tokio::test(start_paused = true)]
async fn the_probes_own_timeout_is_kept() {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let replay = replay(&format!(r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}}}, "timeoutSeconds": 7}}}}}}"#));
    // Accepted by the kernel, never answered.
    let before = tokio::time::Instant::now();
    assert_eq!(status(&replay, "a/liveness").await, 504);
    assert_eq!((tokio::time::Instant::now() - before).as_secs(), 7);
}

/// A gRPC server that answers every check with this message and trailer.
async fn grpc_application(status: i32, trailer: &'static str) -> (u16, Asked) {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Asked::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let seen = seen.clone();
            tokio::spawn(async move {
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let seen = seen.clone();
                    tokio::spawn(async move {
                        let path = request.uri().path().to_owned();
                        let body = request.into_body().data().await.unwrap().unwrap();
                        seen.lock().unwrap().push(format!("{path} {}", String::from_utf8_lossy(&body[7..])));
                        let mut send = respond.send_response(::http::Response::new(()), false).unwrap();
                        let frame = vec![0, 0, 0, 0, 2, 8, u8::try_from(status).unwrap()];
                        send.send_data(frame.into(), false).unwrap();
                        let trailers =
                            [("grpc-status".parse().unwrap(), trailer.parse().unwrap())].into_iter().collect();
                        send.send_trailers(trailers).unwrap();
                    });
                }
            });
        }
    });
    (port, asked)
}

#[tokio::test]
async fn grpc_asks_for_the_service_and_believes_serving_alone() {
    for (said, trailer, told) in [(1, "0", 200), (2, "0", 503), (0, "0", 503), (1, "5", 502)] {
        let (port, asked) = grpc_application(said, trailer).await;
        let probes = format!(r#"{{"a": {{"liveness": {{"grpc": {{"port": {port}, "service": "orders"}}}}}}}}"#);
        assert_eq!(status(&replay(&probes), "a/liveness").await, told, "{said} {trailer}");
        assert_eq!(*asked.lock().unwrap(), ["/grpc.health.v1.Health/Check orders"]);
    }
}

#[tokio::test]
async fn https_asks_for_no_certificate_and_takes_the_versions_that_the_kubelet_takes() {
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        // A signature that no certificate of the mesh has.
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
        let params = rcgen::CertificateParams::new(["anybody.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let secret = rustls_pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], secret)
            .unwrap();
        let listener = TcpListener::bind((POD, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let probes = format!(r#"{{"a": {{"liveness": {{"httpGet": {{"port": {port}, "scheme": "HTTPS"}}}}}}}}"#);
        let replay = replay(&probes);
        let (told, head) = tokio::join!(status(&replay, "a/liveness"), async {
            let (stream, _) = listener.accept().await.unwrap();
            let mut tls = tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                tls.read_buf(&mut head).await.unwrap();
            }
            tls.write_all(answer("200 OK").as_bytes()).await.unwrap();
            tls.shutdown().await.unwrap();
            head
        });
        assert_eq!(told, 200, "{version:?}");
        assert!(head.starts_with(b"GET / HTTP/1.1\r\n"));
    }
}

#[test]
fn what_injection_would_not_write_is_refused_at_the_start() {
    let refused = |probes: &str| Declared::read(probes, KEY, "", &[15020]).expect_err(probes).to_string();
    for (probes, words) in [
        ("[]", "a JSON object"),
        ("{", "a JSON object"),
        (r#"{"a": 1}"#, "an object of kinds"),
        (r#"{"a": {"livenes": {}}}"#, "liveness, readiness"),
        (r#"{"a": {"liveness": {}}}"#, "one of httpGet"),
        (r#"{"a": {"liveness": {"tcpSocket": {"port": 1}, "grpc": {"port": 1}}}}"#, "one of httpGet"),
        (r#"{"a": {"liveness": {"tcpSocket": {"port": "http"}}}}"#, "a port of the application"),
        (r#"{"a": {"liveness": {"tcpSocket": {"port": 0}}}}"#, "a port of the application"),
        (r#"{"a": {"liveness": {"httpGet": {"port": 15020, "path": "/config"}}}}"#, "a port of the application"),
        (r#"{"a": {"liveness": {"httpGet": {"port": 1, "scheme": "FTP"}}}}"#, "HTTP or HTTPS"),
        (r#"{"a": {"liveness": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a b", "value": ""}]}}}}"#, "a header"),
        (
            r#"{"a": {"liveness": {"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "x\r\ny: z"}]}}}}"#,
            "a header",
        ),
    ] {
        let refusal = refused(probes);
        assert!(refusal.starts_with("SIGNET_PROBES: ") && refusal.contains(words), "{probes}: {refusal}");
    }
    assert!(Declared::read("{}", "", "10.0.0.1,host", &[]).is_err());
}

#[test]
fn the_application_is_called_at_the_pods_own_address() {
    let declared = Declared::read("", "", "10.0.0.7, fd00::7", &[]).unwrap();
    let own = |reached: &str| declared.own_address(reached.parse().unwrap()).to_string();
    assert_eq!(own("10.0.0.7"), "10.0.0.7");
    assert_eq!(own("::ffff:10.0.0.7"), "10.0.0.7");
    assert_eq!(own("fd00::7"), "fd00::7");
    assert_eq!(own("127.0.0.1"), "10.0.0.7", "never loopback");
    assert_eq!(own("169.254.113.1"), "10.0.0.7");
}

#[tokio::test]
async fn f12_nothing_is_called_without_the_pods_key() {
    let (port, asked) = application(vec![answer("200 OK")]).await;
    let get = format!(r#"{{"httpGet": {{"port": {port}}}}}"#);
    let replay = replay(&format!(r#"{{"a": {{"liveness": {get}, "preStop": {get}}}}}"#));
    let other = KEY.replace('f', "e");
    for key in ["", "/", &other, &KEY[..31], &KEY.to_uppercase(), "*"] {
        for kind in ["liveness", "preStop"] {
            for name in [format!("{key}/a/{kind}"), format!("a/{kind}"), format!("{key}a/{kind}")] {
                assert_eq!(replay.run(&name, POD).await, Answer::Status(StatusCode::NOT_FOUND), "{name}");
            }
        }
    }
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!((status(&replay, "a/liveness").await, status(&replay, "a/preStop").await), (200, 200));
}

#[test]
fn f12_probes_without_a_key_that_nobody_guesses_are_refused_at_the_start() {
    let probes = r#"{"a": {"liveness": {"tcpSocket": {"port": 1}}}}"#;
    for key in ["", "1", &KEY[1..], &KEY.replace('0', "x")] {
        let refusal = Declared::read(probes, key, "", &[]).unwrap_err().to_string();
        assert!(refusal.starts_with("SIGNET_PROBE_KEY: "), "{refusal}");
        assert!(key.is_empty() || key.len() < 8 || !refusal.contains(key), "no key in a log: {refusal}");
    }
    Declared::read("{}", "", "", &[]).unwrap();
}

#[tokio::test]
async fn a_hook_is_replayed_once_at_a_time() {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let replay = replay(&format!(r#"{{"a": {{"preStop": {{"httpGet": {{"port": {port}}}}}}}}}"#));
    let both = async { tokio::join!(status(&replay, "a/preStop"), status(&replay, "a/preStop")) };
    let served = async {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = [0; 1024];
            assert!(stream.read(&mut head).await.unwrap() > 0);
            // A second call at the same moment would be in the queue by now: each has had its turn to connect.
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            let next = tokio::time::timeout(Duration::ZERO, listener.accept()).await;
            assert!(next.is_err(), "two at once");
            stream.write_all(answer("200 OK").as_bytes()).await.unwrap();
        }
    };
    let (told, ()) = tokio::join!(both, served);
    assert_eq!(told, (200, 200));
}
