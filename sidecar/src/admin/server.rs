//! The HTTP server of both doors: few connections, short times, GET only.
use super::pages::{self, Source};
use super::{Door, Page};
use crate::replay::{self, Answer};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::task::JoinSet;

/// Enough for kubelet, Prometheus and a few people; above that connections wait in the backlog.
const CONNECTIONS: usize = 32;
/// How long a connection may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// From the accept to the end of the head of a request.
    pub(super) head: Duration,
    /// A connection lives no longer, whatever it does.
    pub(super) all: Duration,
}

impl Times {
    const REAL: Self = Self { head: Duration::from_secs(5), all: Duration::from_secs(30) };
}

/// hyper's least is 8 KiB.
const HEAD_BYTES: usize = 8 * 1024;
const BACKLOG: i32 = 128;
const TEXT: &str = "text/plain; charset=utf-8";
/// After a failed accept (F36).
const PAUSE: Duration = Duration::from_millis(100);

/// A listener of a door. Unlike the data path's it shares its port with nobody: a second sidecar in the same place fails here.
pub fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = socket2::Type::STREAM.nonblocking();
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), kind, Some(socket2::Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Serves one door on these listeners, until dropped. Dropping it closes its connections.
pub async fn serve(door: Door, listeners: Vec<TcpListener>, source: Arc<Source>) {
    serve_within(Times::REAL, door, listeners, source).await;
}

pub(super) async fn serve_within(times: Times, door: Door, listeners: Vec<TcpListener>, source: Arc<Source>) {
    let mut accepting = JoinSet::new();
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    for listener in listeners {
        accepting.spawn(accept(times, door, listener, source.clone(), room.clone()));
    }
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, ?door, "an admin listener stopped");
        }
    }
}

async fn accept(times: Times, door: Door, listener: TcpListener, source: Arc<Source>, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed: without a permit there is nothing to serve.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let source = source.clone();
                connections.spawn(async move {
                    let replaying = Replaying::default();
                    let served = connection(times, door, stream, source, replaying.clone());
                    tokio::select! {
                        // A peer that is slow, gone or speaks something else has nothing to be told.
                        ended = served => drop(ended),
                        () = over(times, replaying) => {}
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, ?door, "accepting a connection failed");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Held while a declared probe or hook is replayed on this connection.
type Replaying = Arc<Mutex<()>>;

/// The end of a connection's time. A hook may take as long as it was given, and the connection then a moment to answer.
async fn over(times: Times, replaying: Replaying) {
    tokio::time::sleep(times.all).await;
    if replaying.try_lock().is_err() {
        drop(replaying.lock().await);
        tokio::time::sleep(times.head).await;
    }
}

/// The application refused a hook's connection, and so do we: the kubelet takes any answer for a success.
#[derive(Debug, thiserror::Error)]
#[error("the application did not answer")]
struct Unanswered;

fn connection(
    times: Times,
    door: Door,
    stream: TcpStream,
    source: Arc<Source>,
    replaying: Replaying,
) -> impl Future<Output = hyper::Result<()>> {
    let reached = stream.local_addr().map(|address| address.ip());
    let service = service_fn(move |request: Request<Incoming>| {
        let (source, replaying) = (source.clone(), replaying.clone());
        let reached = reached.as_ref().ok().copied();
        async move {
            let replay = source.replay.as_ref().filter(|_| door == Door::Health && request.method() == Method::GET);
            let path = request.uri().path();
            let page = match (replay, path.strip_prefix(replay::PREFIX), reached) {
                (Some(replay), Some(name), Some(reached)) => {
                    let _held = replaying.lock().await;
                    match replay.run(name, reached).await {
                        Answer::Status(status) => Page { status, kind: TEXT, body: String::new() },
                        Answer::Nothing => return Err(Unanswered),
                    }
                }
                _ => answer(&source, door, request.method(), path),
            };
            Ok(respond(page))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
}

fn answer(source: &Source, door: Door, method: &Method, path: &str) -> Page {
    if method == Method::GET {
        return pages::page(source, door, path);
    }
    let body = "read only: GET\n".to_owned();
    Page { status: StatusCode::METHOD_NOT_ALLOWED, kind: TEXT, body }
}

fn respond(page: Page) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(page.body)));
    *response.status_mut() = page.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(page.kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if page.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(header::ALLOW, HeaderValue::from_static("GET"));
        // A body that nobody reads must not be taken for the next request.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
