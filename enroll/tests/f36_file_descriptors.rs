//! Finding F36: an accept loop that runs out of file descriptors backs off, and recovers. A test program of its own, because
//! the limit is the whole process's.
#![allow(clippy::unwrap_used, reason = "in a test, what cannot be made ends the test")]
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signet_enroll::{Limits, connector, serve_tls};
use signet_identity::ClientAuth;
use signet_identity::testing::Authority;
use std::fs::File;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::net::{TcpListener, TcpSocket};
use tokio_stream::StreamExt;

#[tokio::test]
async fn f36_accept_without_file_descriptors_backs_off_counts_and_recovers() {
    let ca = Authority::new("prod.example");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut incoming =
        serve_tls(listener, &ca.credentials("shop", "orders", None), ClientAuth::Required, Limits::default());
    let counters = incoming.counters();

    // The client's socket is there before the descriptors are gone.
    let socket = TcpSocket::new_v4().unwrap();
    let before = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum: before.maximum }).unwrap();
    let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!hoard.is_empty());
    let _client = socket.connect(address).await.unwrap();

    let errors = || counters.accept_errors.load(Ordering::Relaxed);
    let seen = async {
        while errors() < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.expect("the errors are counted");
    let (start, count) = (tokio::time::Instant::now(), errors());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let spins = errors() - count;
    assert!(spins < 20, "the loop spins: {spins} errors in {:?}", tokio::time::Instant::now() - start);

    hoard.clear();
    setrlimit(Resource::Nofile, before).unwrap();
    let connector = connector(&ca.credentials("shop", "checkout", None), ca.id("shop", "orders"), &[b"h2"]);
    let (client, server) = tokio::join!(connector.connect("127.0.0.1", address.port()), incoming.next());
    client.expect("the loop recovers");
    server.unwrap().unwrap();
}
