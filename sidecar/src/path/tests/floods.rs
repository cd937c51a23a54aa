//! F29: what HTTP/2 lets a peer do too often ends in bounded memory and time, and stops nobody else.
use super::*;
use crate::live::Direction;
use bytes::Bytes;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A CONNECT request to this address, without Huffman coding.
fn connect(stream: u32, to: SocketAddr) -> Vec<u8> {
    let authority = to.to_string();
    let length = u8::try_from(authority.len()).unwrap();
    let block = [b"\x02\x07CONNECT".as_slice(), &[0x01, length], authority.as_bytes()].concat();
    frame(1, 4, stream, &block)
}

async fn still_serves(mesh: &Mesh) {
    let mut opened = timeout(SOON, mesh.call(&mesh.orders.named())).await.expect("others wait").unwrap();
    opened.stream.write_all(b"x").await.unwrap();
    assert_eq!(opened.stream.read_u8().await.unwrap(), b'x');
}

#[test]
fn f29_rapid_reset_is_bounded_and_stops_nobody_else() {
    local(async {
        let mesh = Mesh::start().await;
        let mut tls = mesh.foreign(Framing::Pooled).await;
        tls.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        let mut most = 0;
        for number in 0..5_000_u32 {
            let stream = 2 * number + 1;
            let pair = [connect(stream, mesh.application), frame(3, 0, stream, &[0, 0, 0, 8])].concat();
            if tls.write_all(&pair).await.is_err() || tls.flush().await.is_err() {
                break;
            }
            // So that each is accepted before it is reset: the limit on those that were not is the h2 crate's.
            tokio::task::yield_now().await;
            most = most.max(mesh.orders.shared.live.count());
        }
        assert!(most <= 2 * settings().streams as usize, "{most} at once");
        still_serves(&mesh).await;
        drop(tls);
        until("nothing is left of it", || mesh.orders.shared.live.count() <= 1).await;
    });
}

#[test]
fn f29_a_continuation_flood_ends_the_tunnel() {
    local(async {
        let mesh = Mesh::start().await;
        let mut tls = mesh.foreign(Framing::Pooled).await;
        tls.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        // A header block that never ends.
        tls.write_all(&frame(1, 0, 1, b"\x02\x07CONNECT")).await.unwrap();
        let piece = frame(9, 0, 1, &[b"\x00\x01a\x7f\x80\x7e".as_slice(), &[b'x'; 8000]].concat());
        let mut sent = 0;
        let flood = async {
            while sent < 64 << 20 && tls.write_all(&piece).await.is_ok() && tls.flush().await.is_ok() {
                sent += piece.len();
            }
        };
        timeout(SOON, flood).await.expect("the flood was neither taken nor ended");
        assert!(sent < 16 << 20, "{sent} bytes were taken");
        still_serves(&mesh).await;
    });
}

#[test]
fn f29_floods_of_settings_and_pings_are_answered_no_faster_than_they_are_read() {
    local(async {
        let mesh = Mesh::start().await;
        let mut tls = mesh.foreign(Framing::Pooled).await;
        tls.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await.unwrap();
        // Never reads what comes back: the answers must not pile up in memory, so that it is stopped by the socket.
        let pair = [frame(4, 0, 0, &[]), frame(6, 0, 0, &[7; 8])].concat().repeat(1000);
        let mut sent = 0;
        let flood = async {
            while sent < 256 << 20 && tls.write_all(&pair).await.is_ok() {
                sent += pair.len();
            }
        };
        drop(timeout(Duration::from_secs(2), flood).await);
        assert!(sent < 256 << 20, "{sent} bytes were taken");
        still_serves(&mesh).await;
    });
}

#[test]
fn a_preface_that_stalls_ends_in_time() {
    local(async {
        let mesh = Mesh::with(Settings { head_time: BRIEF, ..settings() }).await;
        let mut tls = mesh.foreign(Framing::Pooled).await;
        tls.write_all(&PREFACE[..10]).await.unwrap();
        tls.flush().await.unwrap();
        // SETTINGS of the server come first; then it has waited for long enough.
        drop(timeout(SOON, tls.read_to_end(&mut Vec::new())).await.expect("it may stall for ever"));
        until("the tunnel is gone", || mesh.orders.shared.live.tunnels().is_empty()).await;
    });
}

#[test]
fn streams_count_as_connections() {
    local(async {
        let mesh = Mesh::with(Settings { connections: 4, ..settings() }).await;
        let named = mesh.orders.named();
        let mut open = Vec::new();
        for _ in 0..3 {
            open.push(mesh.call(&named).await.unwrap());
        }
        assert_eq!(mesh.call(&named).await.err().unwrap().to_string(), "the peer answered 503: limit");
        drop(open.pop());
        let again = async {
            while mesh.call(&named).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, again).await.expect("the connection was not given back");
    });
}

#[test]
fn a_slow_reader_holds_back_its_own_stream_and_no_other() {
    local(async {
        let mesh = Mesh::start().await;
        let named = mesh.orders.named();
        let mut slow = mesh.call(&named).await.unwrap();
        // The echo comes back and nobody reads it, until nothing fits.
        let bulk = vec![1; 1 << 20];
        let mut sent = 0;
        while timeout(Duration::from_millis(300), slow.stream.write_all(&bulk)).await.is_ok() {
            sent += bulk.len();
            assert!(sent < 64 << 20, "nothing holds it back");
        }
        still_serves(&mesh).await;
        assert_eq!(mesh.orders.accepted.get(), 1, "by the same tunnel");
    });
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(2_000))]

    /// F20: whatever an HTTP/2 peer calls its target.
    #[test]
    fn f20_any_authority_is_a_canonical_target_or_refused(authority in r"\PC{0,60}|(\[?[0-9a-f:.]{0,30}\]?:[0-9]{0,6})") {
        if let Ok(target) = head::target(&authority) {
            proptest::prop_assert_eq!(canonical(target), target);
            proptest::prop_assert!(target.port() != 0);
            proptest::prop_assert_eq!(head::target(&target.to_string()).unwrap(), target);
        }
    }
}

#[test]
fn the_h2_crate_is_carried_like_ours() {
    local(async {
        let mesh = Mesh::start().await;
        let (requests, connection) = h2::client::handshake(mesh.foreign(Framing::Pooled).await).await.unwrap();
        spawn_local(connection);
        let mut requests = requests.ready().await.unwrap();
        let request = http::Request::connect(mesh.application.to_string()).body(()).unwrap();
        let (response, mut send) = requests.send_request(request, false).unwrap();
        let response = timeout(SOON, response).await.unwrap().unwrap();
        assert_eq!(response.status(), 200);
        send.send_data(Bytes::from_static(b"hello"), true).unwrap();
        let mut body = response.into_body();
        let mut echo = Vec::new();
        // Half-close comes back as half-close.
        while let Some(data) = timeout(SOON, body.data()).await.expect("no end") {
            echo.extend(data.unwrap());
        }
        assert_eq!(echo, b"hello");
    });
}

#[test]
fn callers_of_a_workload_cannot_keep_it_from_calling_others() {
    local(async {
        let mesh = Mesh::with(Settings { connections: 40, ..settings() }).await;
        let limits = &mesh.orders.shared.limits;
        let inbound: Vec<_> = std::iter::from_fn(|| limits.connection(Direction::Inbound)).collect();
        assert_eq!(inbound.len(), 30);
        let outbound: Vec<_> = std::iter::from_fn(|| limits.connection(Direction::Outbound)).collect();
        assert_eq!(outbound.len(), 10);
        drop(inbound);
        assert!(limits.connection(Direction::Inbound).is_some());
    });
}

/// Ten who are let in or wait, and say nothing.
async fn ten_silent(mesh: &Mesh) -> Vec<TcpStream> {
    let mut silent = Vec::new();
    for _ in 0..10 {
        silent.push(TcpStream::connect(mesh.orders.tunnel).await.unwrap());
    }
    until("all were accepted", || mesh.orders.accepted.get() == 10).await;
    silent
}

#[test]
fn who_has_proved_nothing_waits_in_a_bounded_queue() {
    local(async {
        // Nobody's time is over while this goes on: who is refused did not wait.
        let connect_time = Duration::from_secs(3600);
        let mesh = Mesh::with(Settings { handshakes: 2, connect_time, ..settings() }).await;
        let _silent = ten_silent(&mesh).await;
        let mut refused = TcpStream::connect(mesh.orders.tunnel).await.unwrap();
        assert_eq!(timeout(SOON, refused.read(&mut [0; 8])).await.unwrap().unwrap_or(0), 0);
        let counted = mesh.orders.shared.observe.metrics.encode(crate::observe::Present::default());
        assert!(counted.contains("signet_sidecar_limit_refusals_total{limit=\"handshakes\"} 1\n"), "{counted}");
        // When they have had their time, others are served.
        let connect_time = Duration::from_secs(2);
        let mesh = Mesh::with(Settings { handshakes: 2, connect_time, ..settings() }).await;
        let _silent = ten_silent(&mesh).await;
        let served = async {
            while mesh.call(&mesh.orders.named()).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON * 4, served).await.expect("the silent hold their places");
        still_serves(&mesh).await;
    });
}

#[test]
fn callers_of_one_identity_take_no_more_than_their_places_and_leave_those_of_others() {
    local(async {
        let mesh = Mesh::with(Settings { per_identity: 3, ..settings() }).await;
        let named = mesh.orders.named();
        // A tunnel and two connections on it.
        let first = mesh.call(&named).await.unwrap();
        let _second = mesh.call(&named).await.unwrap();
        let refused = mesh.call(&named).await.err().unwrap();
        assert!(refused.to_string().contains("503: limit_identity"), "{refused}");
        let said = mesh.say(format!("CONNECT {} HTTP/1.1\r\n\r\n", mesh.application).as_bytes()).await;
        assert!(said.starts_with("HTTP/1.1 503") && said.contains("limit_identity"), "{said}");
        // Trickling parts of a record costs the identity its places, and nobody else's.
        let other = mesh.authority.credentials("shop", "other", Some("other-1"));
        let other = Sidecar::start(&other, settings()).await;
        other.shared.view.apply(&config(1, "deny", vec![])).unwrap();
        let target = Target { peer: &named, application: mesh.application };
        let (stream, _slot) = Pool::open(&other.path, &target).await.unwrap();
        let mut theirs = Talk::over(stream);
        theirs.write_all(b"x").await.unwrap();
        assert_eq!(theirs.read_u8().await.unwrap(), b'x');
        let counted = mesh.orders.shared.observe.metrics.encode(crate::observe::Present::default());
        assert!(counted.contains("signet_sidecar_limit_refusals_total{limit=\"identity\"} 2"), "{counted}");
        drop(first);
        let again = async {
            while mesh.call(&named).await.is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, again).await.expect("a place that was given back is taken again");
    });
}
