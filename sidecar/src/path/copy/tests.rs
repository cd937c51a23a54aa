//! Half-close as half-close and reset as reset, for each kind of side, whatever the other direction is doing.
use super::*;
use crate::live::{Direction, Registry};
use crate::path::pooled::Stream;
use crate::path::tests::Talk;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(5);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

/// Carries between `a` and `b`, and gives what came of it.
async fn carried<A: Side, B: Side>(mut a: A, mut b: B) -> Result<(), Broken> {
    let registry = Arc::new(Registry::default());
    let anywhere = "192.0.2.1:1".parse().unwrap();
    let live = registry.open(Direction::Inbound, anywhere, anywhere, None, None, false);
    carry(&mut a, &mut b, &live).await
}

/// An HTTP/2 exchange over memory: a stream at each end.
async fn exchange() -> (Talk<Stream>, Stream) {
    let (a, b) = tokio::io::duplex(1 << 20);
    let (client, server) = tokio::join!(h2::client::handshake(a), h2::server::handshake(b));
    let ((mut requests, connection), mut server) = (client.unwrap(), server.unwrap());
    tokio::spawn(connection);
    let (response, send) =
        requests.send_request(http::Request::connect("192.0.2.1:80").body(()).unwrap(), false).unwrap();
    let (request, mut respond) = server.accept().await.unwrap().unwrap();
    let theirs = respond.send_response(http::Response::new(()), false).unwrap();
    tokio::spawn(async move { while server.accept().await.is_some() {} });
    let answer = response.await.unwrap();
    // The connection ends with its last handle: keep it for as long as the test runs.
    tokio::spawn(async move {
        let _requests = requests;
        std::future::pending::<()>().await;
    });
    (Talk::over(Stream::new(send, answer.into_body())), Stream::new(theirs, request.into_body()))
}

async fn expect_reset(mut side: TcpStream, what: &str) {
    let read = timeout(SOON, side.read(&mut [0; 8])).await.unwrap_or_else(|_| panic!("{what}: no reset arrived"));
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset, "{what}");
}

fn reset(side: TcpStream) {
    side.set_zero_linger().unwrap();
    drop(side);
}

#[tokio::test]
async fn a_reset_of_an_idle_connection_arrives_as_a_reset() {
    for from_caller in [true, false] {
        let ((a, left), (right, b)) = (pair().await, pair().await);
        let carrier = tokio::spawn(carried(left, right));
        let (broken, other) = if from_caller { (a, b) } else { (b, a) };
        reset(broken);
        expect_reset(other, "idle").await;
        assert!(matches!(carrier.await.unwrap(), Err(Broken::Read("application", _))));
    }
}

#[tokio::test]
async fn a_reset_after_a_half_close_arrives_as_a_reset_while_the_other_direction_is_idle() {
    for from_caller in [true, false] {
        let ((a, left), (right, b)) = (pair().await, pair().await);
        let carrier = tokio::spawn(carried(left, right));
        let (mut broken, mut other) = if from_caller { (a, b) } else { (b, a) };
        broken.shutdown().await.unwrap();
        assert_eq!(timeout(SOON, other.read(&mut [0; 8])).await.unwrap().unwrap(), 0, "half-close as half-close");
        reset(broken);
        let ended = timeout(SOON, carrier).await.expect("the reset was not noticed").unwrap();
        assert!(matches!(ended, Err(Broken::Read("application", _))), "{ended:?}");
        // After the end of what it reads, a socket tells of a reset by its error.
        assert!(other.take_error().unwrap().is_some() || other.write_all(b"x").await.is_err());
    }
}

#[tokio::test]
async fn a_reset_arrives_while_what_was_sent_before_has_no_room() {
    let ((mut a, left), (right, b)) = (pair().await, pair().await);
    let carrier = tokio::spawn(carried(left, right));
    let bulk = vec![7; 1 << 20];
    // Until nothing fits any more: the reader does not read.
    while timeout(Duration::from_millis(300), a.write_all(&bulk)).await.is_ok() {}
    reset(a);
    let ended = timeout(SOON, carrier).await.expect("the reset was not noticed").unwrap();
    assert!(matches!(ended, Err(Broken::Read("application", _))), "{ended:?}");
    drop(b);
}

#[tokio::test]
async fn a_reset_of_a_pooled_stream_arrives_as_a_reset_even_after_its_half_close() {
    for half_closed in [false, true] {
        let (mut theirs, ours) = exchange().await;
        let (right, mut app) = pair().await;
        let carrier = tokio::spawn(carried(ours, right));
        if half_closed {
            theirs.shutdown().await.unwrap();
            assert_eq!(timeout(SOON, app.read(&mut [0; 8])).await.unwrap().unwrap(), 0);
        }
        theirs.side.abort(None);
        let ended = timeout(SOON, carrier).await.expect("the reset was not noticed").unwrap();
        assert!(matches!(ended, Err(Broken::Read("peer", _))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_reset_of_the_application_resets_its_pooled_stream_alone() {
    let (mut theirs, ours) = exchange().await;
    let (right, app) = pair().await;
    let carrier = tokio::spawn(carried(ours, right));
    reset(app);
    let error = timeout(SOON, theirs.read(&mut [0; 8])).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(carrier.await.unwrap().is_err());
}

#[tokio::test]
async fn one_direction_of_a_pooled_stream_ends_while_the_other_goes_on() {
    let (mut theirs, ours) = exchange().await;
    let (right, mut app) = pair().await;
    let carrier = tokio::spawn(carried(ours, right));
    theirs.write_all(b"question").await.unwrap();
    theirs.shutdown().await.unwrap();
    let mut got = Vec::new();
    timeout(SOON, app.read_to_end(&mut got)).await.unwrap().unwrap();
    assert_eq!(got, b"question");
    let mut answer = Vec::new();
    let say = async {
        app.write_all(&vec![5; 3_000_000]).await.unwrap();
        app.shutdown().await.unwrap();
    };
    let ((), heard) = timeout(SOON, async { tokio::join!(say, theirs.read_to_end(&mut answer)) }).await.unwrap();
    heard.unwrap();
    assert_eq!(answer.len(), 3_000_000);
    carrier.await.unwrap().unwrap();
}

/// A look is due once a second at most, and never while both directions wait for bytes.
#[tokio::test(start_paused = true)]
async fn looking_costs_one_timer_a_second() {
    let started = tokio::time::Instant::now();
    let mut look = None;
    poll_fn(|cx| {
        assert!(!poll_look(&mut look, true, cx) && look.is_none());
        Poll::Ready(())
    })
    .await;
    poll_fn(|cx| if poll_look(&mut look, false, cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    assert_eq!(started.elapsed().as_secs(), 1);
}
