//! The HTTP server of both doors: few connections, short times, GET only.
//!
//! Strangers reach the health door, and the kubelet must: a connection that shows the pod's key is no stranger's, has a place
//! apart and keeps it; of the others each address has few, and the oldest makes room for the newest. So the kubelet's call, which
//! sends its head at once, is never kept out by those who hold connections. The node's own addresses, where they are known, have
//! places that no pod can take.
use super::pages::{self, Source};
use super::{Door, Page};
use crate::live::Direction;
use crate::record::Facts;
use crate::replay::{self, Answer, Kind, Replay};
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use signet_enroll::places::{Bounds, Place, Places, Stage};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Connections to the admin door: a few people, all on loopback.
const ADMIN: Bounds = Bounds { all: 32, per_address: 32, known: 0 };
/// To the health door: Prometheus, a few others, and probes of many containers at once.
const HEALTH: Bounds = Bounds { all: 32, per_address: 4, known: 64 };
/// And from the node's own addresses.
const NODE: Bounds = Bounds { all: 16, per_address: 16, known: 64 };
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
    let everybody = Places::new(if door == Door::Admin { ADMIN } else { HEALTH });
    let rooms = Arc::new(Rooms { everybody, node: Places::new(NODE) });
    for listener in listeners {
        accepting.spawn(accept(times, door, listener, source.clone(), rooms.clone()));
    }
    while let Some(ended) = accepting.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, ?door, "an admin listener stopped");
        }
    }
}

/// The places of one door.
struct Rooms {
    everybody: Arc<Places>,
    node: Arc<Places>,
}

async fn accept(times: Times, door: Door, listener: TcpListener, source: Arc<Source>, rooms: Arc<Rooms>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let peer = crate::path::canonical(peer);
                let is_node = door == Door::Health && source.node.contains(&peer.ip());
                let places = if is_node { &rooms.node } else { &rooms.everybody };
                // Nobody is at work for long here: all who are there are, and this one is closed unanswered.
                let Ok(mut place) = places.enter(peer.ip()) else { continue };
                let source = source.clone();
                connections.spawn(async move {
                    let replaying = Replaying::default();
                    let served = connection(times, door, stream, peer, source, replaying.clone(), &place);
                    tokio::select! {
                        // A peer that is slow, gone or speaks something else has nothing to be told.
                        ended = served => drop(ended),
                        () = over(times, replaying) => {}
                        () = place.evicted() => {}
                    }
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
    peer: SocketAddr,
    source: Arc<Source>,
    replaying: Replaying,
    place: &Place,
) -> impl Future<Output = hyper::Result<()>> + use<> {
    let reached = stream.local_addr().map(|address| address.ip());
    let visitor = place.visitor();
    let service = service_fn(move |request: Request<Incoming>| {
        let (source, replaying, visitor) = (source.clone(), replaying.clone(), visitor.clone());
        let reached = reached.as_ref().ok().copied();
        async move {
            let replay = source.replay.as_ref().filter(|_| door == Door::Health && request.method() == Method::GET);
            let path = request.uri().path();
            let declared = replay.zip(path.strip_prefix(replay::PREFIX)).zip(reached);
            let declared =
                declared.and_then(|((replay, name), reached)| Some((replay, name, replay.find(name)?, reached)));
            let page = match declared {
                Some((replay, name, kind, reached)) if visitor.becomes_known() => {
                    let _held = replaying.lock().await;
                    let call = Call { source: &source, replay, name, kind, peer, reached };
                    match call.make().await {
                        Answer::Status(status) => Page { status, kind: TEXT, body: String::new() },
                        Answer::Nothing => return Err(Unanswered),
                    }
                }
                // The kubelet takes any answer to a hook for a success.
                Some((_, _, Kind::Hook, _)) => return Err(Unanswered),
                Some(_) => Page { status: StatusCode::SERVICE_UNAVAILABLE, kind: TEXT, body: String::new() },
                None => answer(&source, door, request.method(), path),
            };
            visitor.stage(Stage::Idle);
            Ok(respond(page))
        }
    });
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(times.head)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
}

/// A declared call that somebody with the pod's key asks for.
struct Call<'a> {
    source: &'a Source,
    replay: &'a Replay,
    name: &'a str,
    kind: Kind,
    peer: SocketAddr,
    reached: IpAddr,
}

impl Call<'_> {
    async fn make(&self) -> Answer {
        let begun = Instant::now();
        let answer = self.replay.run(self.name, self.reached).await;
        if let (Kind::Hook, Some(log)) = (self.kind, &self.source.access_log) {
            let done = answer != Answer::Nothing;
            let facts = Facts {
                source: self.peer,
                reason: if done { "hook_replayed" } else { "hook_failed" },
                text: Some(replay::shown(self.name).to_owned()),
                admitted: done,
                duration: Instant::now().duration_since(begun),
                ..Facts::new(Direction::Inbound, &self.source.shared)
            };
            log.write(SystemTime::now(), &facts);
        }
        answer
    }
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
