//! F29: what HTTP/2 lets a peer send without end. F18: what connections one address and one peer may have.
use crate::world::{MESH, SOON, World, hello, world};
use signet_enroll::connector;
use signet_operator::control::Limits;
use signet_operator::metrics::Metrics;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

/// A connection that is to end does so within this: less than the 30 s after which the server's pings would end it too.
const AT_ONCE: Duration = Duration::from_secs(20);

/// A connection of a workload that the mesh knows, before any HTTP/2.
async fn connection(world: &World) -> TlsStream<TcpStream> {
    let credentials = world.authority.credentials("shop", "a", Some("uid-a"));
    let connector = connector(&credentials, world.operator_id(), &[b"h2"]);
    connector.connect(&world.address.ip().to_string(), world.address.port()).await.unwrap()
}

/// HTTP/2's preface and empty SETTINGS.
const OPENING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A frame's head: length, type, flags, stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];

/// Writes chunks until the other end closes; gives how many bytes it took.
async fn flood(stream: TlsStream<TcpStream>, mut chunk: impl FnMut(u32) -> Vec<u8>) -> usize {
    let (mut from, mut to) = tokio::io::split(stream);
    let reading = tokio::spawn(async move {
        let mut sink = vec![0; 4096];
        while from.read(&mut sink).await.is_ok_and(|length| length > 0) {}
    });
    let mut taken = 0;
    let mut round = 0;
    to.write_all(OPENING).await.unwrap();
    while !reading.is_finished() && taken < 64 * 1024 * 1024 {
        let bytes = chunk(round);
        round += 1;
        if to.write_all(&bytes).await.is_err() {
            break;
        }
        taken += bytes.len();
        tokio::task::yield_now().await;
    }
    timeout(AT_ONCE, reading).await.expect("the operator keeps the connection open").unwrap();
    taken
}

async fn still_serves(world: &World) {
    world.attach("b", Some("uid-b"), hello(None)).await.unwrap().config().await;
}

/// Memory of this process that is in use, in bytes.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f29_rapid_resets_starve_nobody_hold_no_memory_and_end_with_the_connections_time() {
    let world = world(Limits { takes_streams: Duration::from_secs(1), ..Limits::default() }, Some(MESH)).await;
    let before = resident();
    // :method POST, :scheme http, :path / from the static table (RFC 7541, appendix A).
    let head = [0x83, 0x86, 0x84];
    let flooding = tokio::spawn(flood(connection(&world).await, move |round| {
        let stream = 2 * round + 1;
        [frame(HEADERS, END_HEADERS, stream, &head), frame(RST_STREAM, 0, stream, &CANCEL)].concat()
    }));
    still_serves(&world).await;
    timeout(2 * SOON, flooding).await.expect("the flood does not end").unwrap();
    still_serves(&world).await;
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 * 1024 * 1024, "{grown} bytes more are in use");
}

#[tokio::test]
async fn f29_headers_without_end_end_the_connection() {
    let world = world(Limits { takes_streams: Duration::from_mins(1), ..Limits::default() }, Some(MESH)).await;
    // A literal header without indexing: name "a" and 100 bytes of value.
    let field = [&[0, 1, b'a', 100][..], &[b'x'; 100]].concat();
    let taken = flood(connection(&world).await, |round| match round {
        0 => frame(HEADERS, 0, 1, &[0x83, 0x86, 0x84]),
        _ => frame(CONTINUATION, 0, 1, &field),
    })
    .await;
    assert!(taken < 4 * 1024 * 1024, "{taken} bytes of headers were taken");
    still_serves(&world).await;
}

/// The value of one of the control listener's metrics.
fn counted(metrics: &Metrics, name: &str) -> u64 {
    let text = metrics.encoded();
    let name = format!("signet_operator_control_{name} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}: {text}"));
    value.parse().unwrap()
}

#[tokio::test]
async fn f18_one_address_and_one_peer_have_few_connections_and_each_that_is_closed_is_counted() {
    let door = signet_enroll::Limits { handshakes_per_address: 2, connections_per_peer: 2, ..Default::default() };
    let world = world(Limits { door, ..Limits::default() }, Some(MESH)).await;
    // Two that prove who they are, and are no strangers any more.
    let peers = [connection(&world).await, connection(&world).await];
    // A third of the same peer is closed: what comes is an end.
    let mut third = connection(&world).await;
    let end = timeout(SOON, third.read(&mut [0; 1])).await.expect("in time");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    assert_eq!(counted(&world.metrics, "connections_refused_total"), 1);
    // Two that prove nothing, and a third stranger that is closed at once.
    let strangers =
        [TcpStream::connect(world.address).await.unwrap(), TcpStream::connect(world.address).await.unwrap()];
    let mut third = TcpStream::connect(world.address).await.unwrap();
    let end = timeout(SOON, third.read(&mut [0; 1])).await.expect("in time");
    assert!(!matches!(end, Ok(1..)), "{end:?}");
    assert_eq!(counted(&world.metrics, "connections_crowded_total"), 1);
    assert_eq!(counted(&world.metrics, "connections_open"), 2);
    drop((peers, strangers));
}
