//! The door: who is let in, and what strangers can do to it.
use super::*;
use crate::connect::connector;
use crate::{ConnectError, channel};
use signet_identity::testing::Authority;
use signet_identity::{SpiffeId, TrustState};
use std::io::Read;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt;

struct Door {
    ca: Authority,
    server: Arc<Credentials>,
    client: Arc<Credentials>,
    id: SpiffeId,
}

impl Door {
    fn new() -> Self {
        let ca = Authority::new("prod.example");
        let server = ca.credentials("shop", "orders", Some("o-1"));
        let client = ca.credentials("shop", "checkout", Some("c-1"));
        let id = ca.id("shop", "orders");
        Self { ca, server, client, id }
    }
    async fn open(&self, auth: ClientAuth, limits: Limits) -> (SocketAddr, Incoming) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (address, serve_tls(listener, &self.server, auth, limits))
    }
}

/// Waits until a counter says so.
async fn until(counter: &AtomicU64, wanted: u64) {
    let reached = async {
        while counter.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let found = tokio::time::timeout(Duration::from_secs(10), reached).await;
    assert!(found.is_ok(), "the counter stands at {} and not at {wanted}", counter.load(Ordering::Relaxed));
}

#[tokio::test]
async fn both_ends_know_each_other_and_bytes_pass() {
    let door = Door::new();
    let (address, mut incoming) = door.open(ClientAuth::Required, Limits::default()).await;
    let connector = connector(&door.client, door.id.clone(), ALPN);
    let (client, server) =
        tokio::join!(connector.connect("127.0.0.1", address.port()), async { incoming.next().await.unwrap().unwrap() });
    let (mut client, mut server) = (client.unwrap(), server);
    let peer = server.info().peer.clone().unwrap();
    peer.expect(&door.ca.id("shop", "checkout"), Some(&"c-1".parse().unwrap())).unwrap();
    assert_eq!(server.info().remote, client.get_ref().0.local_addr().unwrap());
    client.write_all(b"hello").await.unwrap();
    client.flush().await.unwrap();
    let mut line = [0; 5];
    server.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"hello");
    assert_eq!(incoming.counters().accepted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn the_connector_goes_to_nobody_but_the_identity_that_was_meant() {
    let door = Door::new();
    let (address, _incoming) = door.open(ClientAuth::Required, Limits::default()).await;
    let other = connector(&door.client, door.ca.id("shop", "stock"), ALPN);
    match other.connect("127.0.0.1", address.port()).await {
        Err(ConnectError::Identity { rejection, .. }) => assert_eq!(rejection.code(), "peer_identity_mismatch"),
        other => panic!("{other:?}"),
    }
    let stranger = Credentials::new(TrustState::default()).unwrap();
    match connector(&stranger, door.id.clone(), ALPN).connect("127.0.0.1", address.port()).await {
        Err(ConnectError::Tls { error, .. }) => {
            assert_eq!(tls::rejection(&error).unwrap().code(), "peer_trust_domain_unknown");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_reached_is_named() {
    let door = Door::new();
    let connector = connector(&door.client, door.id.clone(), ALPN);
    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let error = connector.connect("127.0.0.1", free).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot connect to 127.0.0.1:{free}")), "{error}");
    for bad in ["", "ca", "ca:", "http://ca:1/x", "ca:1/x", "ca :1"] {
        assert!(matches!(channel(&door.client, door.id.clone(), bad), Err(ConnectError::Address(_))), "{bad:?}");
    }
    for good in ["ca:1", "127.0.0.1:15012", "[::1]:15012"] {
        assert!(channel(&door.client, door.id.clone(), good).is_ok(), "{good:?}");
    }
}

#[tokio::test]
async fn clients_without_an_svid_are_counted_and_not_let_in() {
    let door = Door::new();
    let (address, mut incoming) = door.open(ClientAuth::Required, Limits::default()).await;
    let bare = Credentials::new(door.ca.trust_state(1)).unwrap();
    // TLS 1.3 ends the client's handshake before the server has looked: its first read says what became of it.
    let mut stream = connector(&bare, door.id.clone(), ALPN).connect("127.0.0.1", address.port()).await.unwrap();
    assert!(stream.read_u8().await.is_err());
    let counters = incoming.counters();
    until(&counters.failed, 1).await;
    assert!(tokio::time::timeout(Duration::ZERO, incoming.next()).await.is_err(), "nobody came in");
}

#[tokio::test]
async fn f8_plaintext_is_not_answered() {
    let door = Door::new();
    let (address, incoming) = door.open(ClientAuth::Optional, Limits::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // The end may come as a reset, since the server leaves with bytes unread.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    until(&incoming.counters().failed, 1).await;
}

#[tokio::test]
async fn a_handshake_that_stalls_is_dropped_in_time_and_harms_nobody() {
    let door = Door::new();
    // The neighbour has to keep this time too.
    let limits = Limits { handshake_timeout: Duration::from_secs(3), ..Limits::default() };
    let (address, mut incoming) = door.open(ClientAuth::Required, limits).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let connector = connector(&door.client, door.id.clone(), ALPN);
    let (client, server) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
    assert!(client.is_ok() && server.unwrap().is_ok(), "a stalled neighbour held up another");
    let mut byte = [0];
    assert_eq!(silent.read(&mut byte).await.unwrap_or(0), 0, "the silent one is dropped");
    until(&incoming.counters().timed_out, 1).await;
}

#[tokio::test]
async fn one_address_cannot_take_all_handshakes() {
    let door = Door::new();
    let limits = Limits { handshakes_per_address: 2, ..Limits::default() };
    let (address, incoming) = door.open(ClientAuth::Required, limits).await;
    let mut silent = Vec::new();
    for _ in 0..5 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    let counters = incoming.counters();
    until(&counters.crowded, 3).await;
    // Room comes back with the first that leaves.
    silent.clear();
    until(&counters.failed, 2).await;
    let connector = connector(&door.client, door.id.clone(), ALPN);
    connector.connect("127.0.0.1", address.port()).await.unwrap();
}

#[tokio::test]
async fn connections_are_bounded_and_the_rest_waits() {
    let door = Door::new();
    let (address, mut incoming) = door.open(ClientAuth::Required, Limits { connections: 1, ..Limits::default() }).await;
    let connector = connector(&door.client, door.id.clone(), ALPN);
    let (first, held) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
    first.unwrap();
    let waiting = connector.connect("127.0.0.1", address.port());
    tokio::pin!(waiting);
    tokio::select! {
        early = &mut waiting => panic!("a second connection was taken: {early:?}"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
    drop(held);
    waiting.await.expect("its turn comes when the first is closed");
}

#[tokio::test]
async fn a_listener_whose_stream_is_dropped_is_closed() {
    let door = Door::new();
    let (address, incoming) = door.open(ClientAuth::Required, Limits::default()).await;
    drop(incoming);
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the port is closed");
}

#[tokio::test]
async fn f17_tls_1_2_is_refused() {
    let door = Door::new();
    let (address, incoming) = door.open(ClientAuth::Required, Limits::default()).await;
    let refused = tokio::task::spawn_blocking(move || {
        let mut client = std::process::Command::new("openssl")
            .args(["s_client", "-tls1_2", "-connect", &address.to_string()])
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut said = String::new();
        client.stdout.take().unwrap().read_to_string(&mut said).unwrap();
        (client.wait().unwrap().success(), said)
    });
    let (success, said) = refused.await.unwrap();
    assert!(!success && said.contains("Cipher is (NONE)"), "{said}");
    until(&incoming.counters().failed, 1).await;
}

#[test]
fn a_stranger_has_a_whole_ipv6_network_but_in_a_cluster_where_that_is_a_nodes_pods() {
    let key = |whole_ipv6: bool, text: &str| {
        Limits { whole_ipv6, ..Limits::default() }.key(text.parse().unwrap()).to_string()
    };
    assert_eq!(key(false, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
    assert_eq!(key(true, "2001:db8:1:2:3:4:5:6"), "2001:db8:1:2:3:4:5:6");
    for whole in [false, true] {
        assert_eq!(key(whole, "10.0.0.1"), "10.0.0.1");
    }
    assert_eq!(canonical("[::ffff:10.0.0.1]:5".parse().unwrap()), "10.0.0.1:5".parse().unwrap());
}

#[tokio::test]
async fn one_address_cannot_take_all_connections() {
    let door = Door::new();
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let (address, mut incoming) = door.open(ClientAuth::Optional, limits).await;
    // It shows no certificate.
    let stranger = Credentials::new(door.ca.trust_state(1)).unwrap();
    let connector = connector(&stranger, door.id.clone(), ALPN);
    let mut held = Vec::new();
    for _ in 0..2 {
        let (client, server) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
        held.push((client.unwrap(), server.unwrap().unwrap()));
    }
    let counters = incoming.counters();
    assert_eq!(counters.open.load(Ordering::Relaxed), 2);
    let mut third = connector.connect("127.0.0.1", address.port()).await.unwrap();
    assert!(third.read_u8().await.is_err(), "closed as soon as it has shown that it proves nothing");
    until(&counters.refused, 1).await;
    // Another address has its own.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 2], 0).into()).unwrap();
    let other = TlsConnector::from(stranger.client_config(ALPN));
    let other = other.connect(tls::unnamed(), socket.connect(address).await.unwrap());
    let (other, server) = tokio::join!(other, incoming.next());
    assert!(other.is_ok() && server.unwrap().is_ok());
    held.clear();
    let (client, server) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
    assert!(client.is_ok() && server.unwrap().is_ok(), "places come back");
}

#[tokio::test]
async fn who_has_proved_who_he_is_counts_for_himself_and_not_for_an_address_that_others_share() {
    let door = Door::new();
    let limits = Limits { connections_per_address: 1, connections_per_peer: 2, ..Limits::default() };
    let (address, mut incoming) = door.open(ClientAuth::Required, limits).await;
    let connect = async |client: &Arc<Credentials>| {
        connector(client, door.id.clone(), ALPN).connect("127.0.0.1", address.port()).await.unwrap()
    };
    let mut held = Vec::new();
    for _ in 0..2 {
        let (client, server) = tokio::join!(connect(&door.client), incoming.next());
        held.push((client, server.unwrap().unwrap()));
    }
    // Both ends finish the handshake; then the server knows who it is, and ends it.
    let mut third = connect(&door.client).await;
    assert!(third.read_u8().await.is_err());
    until(&incoming.counters().refused, 1).await;
    let neighbour = door.ca.credentials("shop", "checkout", Some("c-2"));
    let (_client, server) = tokio::join!(connect(&neighbour), incoming.next());
    assert!(server.unwrap().is_ok(), "the same identity, another workload, the same address");
}

#[tokio::test]
async fn f12_where_certificates_are_optional_a_good_one_counts_for_its_peer_and_any_other_for_the_address() {
    let door = Door::new();
    let limits = Limits { connections_per_address: 1, ..Limits::default() };
    let (address, mut incoming) = door.open(ClientAuth::Optional, limits).await;
    let connect = async |client: &Arc<Credentials>| {
        connector(client, door.id.clone(), ALPN).connect("127.0.0.1", address.port()).await.unwrap()
    };
    let bare = Credentials::new(door.ca.trust_state(1)).unwrap();
    let (stranger, first) = tokio::join!(connect(&bare), incoming.next());
    let first = first.unwrap().unwrap();
    assert!(first.info().peer.is_none());
    // The address has no place left but for those who prove themselves: not with a certificate of another mesh.
    let elsewhere = Authority::new("prod.example").credentials("shop", "checkout", Some("c-1"));
    elsewhere.adopt_trust(door.ca.trust_state(2)).unwrap();
    for nobody in [&bare, &elsewhere] {
        assert!(connect(nobody).await.read_u8().await.is_err());
    }
    until(&incoming.counters().refused, 2).await;
    let (_known, second) = tokio::join!(connect(&door.client), incoming.next());
    let second = second.unwrap().unwrap();
    let peer = second.info().peer.clone().unwrap();
    peer.expect(&door.ca.id("shop", "checkout"), Some(&"c-1".parse().unwrap())).unwrap();
    // What is no proof is no reason to send anybody away either.
    drop((first, stranger));
    let mut third = connect(&elsewhere).await;
    let server = incoming.next().await.unwrap().unwrap();
    assert!(server.info().peer.is_none());
    let mut server = server;
    server.write_all(b"x").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(third.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn a_connection_from_which_nothing_comes_is_closed() {
    let door = Door::new();
    let limits = Limits { silence: Duration::from_millis(300), ..Limits::default() };
    let (address, mut incoming) = door.open(ClientAuth::Optional, limits).await;
    let connector = connector(&door.client, door.id.clone(), ALPN);
    let (client, server) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
    let (_client, mut server) = (client.unwrap(), server.unwrap().unwrap());
    assert_eq!(server.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(incoming.counters().silent.load(Ordering::Relaxed), 1);
    drop(server);
    assert_eq!(incoming.counters().open.load(Ordering::Relaxed), 0);
}
