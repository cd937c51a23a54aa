//! HTTPS for the API server: TLS 1.3, HTTP/1.1, one path. It shows no certificate, and anybody in the cluster can connect: whoever
//! does not know the secret path is sent away before his body is read, and what he can hold until then is bounded, in all and for
//! each address. So is the rest, should somebody have learned the path.
//!
//! ```text
//! accept ─▶ place (few of one address; who waits makes room) ─▶ TLS and head within 5 s ─▶ the path (who knows it stays)
//!        ─▶ rate of the address ─▶ body (bytes bounded, 5 s) ─▶ review (16 at once, 2 large ones)
//! ```
use super::bodies::{self, Budget};
use super::certificate::Resolver;
use super::metrics::Metrics;
use super::path::Answered;
use super::review::Reviewer;
use crate::inject::Settings;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use signet_enroll::places::{Bounds, Place, Places, Stage, Visitor};
use signet_enroll::rates::{Buckets, Rate};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

/// Connections that asked at the secret path: they make room for nobody.
const KNOWN: usize = 256;
/// From the accept to the end of the first request's head, handshake and all.
const FIRST_HEAD: Duration = Duration::from_secs(5);
/// How long a connection may be silent between requests. Go's clients give up after 90 s.
const IDLE: Duration = Duration::from_secs(100);
/// From the head of a request to the end of its body.
const BODY: Duration = Duration::from_secs(5);
const HEAD_BYTES: usize = 16 * 1024;
/// Reviews at once; more wait.
const REVIEWS: usize = 16;
/// Of pods that are larger than almost all are: each may need ten times its size.
const LARGE: usize = 2;
/// How long a review waits for its turn. The API server waits for 5 s.
const TURN: Duration = Duration::from_secs(2);
/// Reviews of one address: more than any cluster creates pods, and few for who wants to keep the API server busy.
const RATE: Rate = Rate { per_second: 200, burst: 400 };
/// Addresses that are busy at the same time.
const ADDRESSES: usize = 10_000;

/// Serves with whatever certificate there is at the moment.
pub(super) fn tls(resolver: Arc<Resolver>) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(signet_identity::tls::provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Nothing is resumed: a new certificate counts at once.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}

/// What all connections share.
struct Door {
    acceptor: TlsAcceptor,
    answered: Answered,
    reviewer: Reviewer,
    metrics: Metrics,
    places: Arc<Places>,
    budget: Arc<Budget>,
    reviews: Arc<Semaphore>,
    large: Arc<Semaphore>,
    rate: Buckets<IpAddr>,
    begun: Instant,
}

/// For ever; dropping it ends its connections.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    answered: Answered,
    reviewer: Reviewer,
    metrics: Metrics,
) {
    let Settings { connections: all, connections_per_address: per_address, .. } = *reviewer.settings;
    let places = Places::new(Bounds { all, per_address, known: KNOWN });
    metrics.watch(places.clone());
    let door = Arc::new(Door {
        acceptor: TlsAcceptor::from(tls),
        answered,
        reviewer,
        metrics,
        places,
        budget: Arc::default(),
        reviews: Arc::new(Semaphore::new(REVIEWS)),
        large: Arc::new(Semaphore::new(LARGE)),
        rate: Buckets::new(RATE, ADDRESSES),
        begun: Instant::now(),
    });
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, peer)) => {
                let peer = peer.ip().to_canonical();
                // Full of connections at work: this one is closed unanswered, and counted.
                let Ok(place) = door.places.enter(peer) else { continue };
                let door = door.clone();
                connections.spawn(async move { door.connection(stream, peer, place).await });
            }
            Err(error) => {
                // Out of file descriptors, most likely: back off, do not spin (F36).
                tracing::warn!(%error, "accept failed on the webhook's address");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

impl Door {
    async fn connection(self: Arc<Self>, stream: TcpStream, peer: IpAddr, mut place: Place) {
        let visitor = place.visitor();
        tokio::select! {
            () = self.serve(stream, peer, visitor) => {}
            // Somebody else came, and this one was waiting.
            () = place.evicted() => {}
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, peer: IpAddr, visitor: Visitor) {
        let first_head = Instant::now() + FIRST_HEAD;
        // Whoever does not finish has nothing to be told: port scanners, and API servers that trust another CA yet.
        let stream = match timeout_at(first_head, self.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.metrics.refused("handshake");
                return tracing::debug!(%error, "a handshake with the webhook failed");
            }
            Err(_) => return self.metrics.refused("late"),
        };
        let (asked, mut first) = tokio::sync::watch::channel(false);
        let door = self.clone();
        let service = service_fn(move |request| {
            let (door, visitor) = (door.clone(), visitor.clone());
            asked.send_replace(true);
            async move {
                let response = door.answer(request, peer, &visitor).await;
                visitor.stage(Stage::Idle);
                Ok::<_, Infallible>(response)
            }
        });
        let mut http = hyper::server::conn::http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES);
        let served = http.serve_connection(TokioIo::new(stream), service);
        let too_late = async {
            let in_time = timeout_at(first_head, first.wait_for(|asked| *asked)).await.is_ok();
            if in_time {
                std::future::pending::<()>().await;
            }
            self.metrics.refused("late");
        };
        tokio::select! {
            served = served => if let Err(error) = served {
                tracing::debug!(%error, "a connection to the webhook ended early");
            },
            () = too_late => {}
        }
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr, visitor: &Visitor) -> Response<Full<Bytes>> {
        match self.review(request, peer, visitor).await {
            Ok(response) => response,
            Err(refusal) => {
                self.metrics.refused(refusal.reason());
                text(refusal)
            }
        }
    }

    async fn review(
        &self,
        request: Request<Incoming>,
        peer: IpAddr,
        visitor: &Visitor,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        if !self.answered.is(request.uri().path()) {
            return Err(Refusal::Path);
        }
        // Where there is no place left for those who know the path, it stays among strangers.
        _ = visitor.becomes_known();
        if request.method() != Method::POST {
            return Err(Refusal::Method);
        }
        self.rate.take(&peer, self.begun.elapsed()).map_err(|_| Refusal::Busy)?;
        visitor.stage(Stage::Reading);
        let mut share = self.budget.share(peer);
        let reading = read(request.into_body(), |length| share.grow(length));
        let body = timeout(BODY, reading).await.map_err(|_| Refusal::Late)??;
        visitor.stage(Stage::Working);
        let _turn = turn(&self.reviews).await?;
        let _large = if body.len() > bodies::OWN { Some(turn(&self.large).await?) } else { None };
        let _in_progress = self.metrics.begin();
        let (answer, verdict) = self.reviewer.review(&body).await.ok_or(Refusal::NoReview)?;
        self.metrics.reviewed(verdict);
        let mut response = Response::new(Full::new(Bytes::from(answer.to_string())));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

async fn turn(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    // The semaphore is never closed.
    timeout(TURN, places.clone().acquire_owned()).await.ok().and_then(Result::ok).ok_or(Refusal::Busy)
}

/// The whole body, as long as there is room for what has come.
async fn read(mut body: Incoming, mut room: impl FnMut(usize) -> bool) -> Result<Vec<u8>, Refusal> {
    // What is announced is too long already: nothing of it is read.
    if body.size_hint().lower() > bodies::ONE as u64 {
        return Err(Refusal::TooLong);
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Refusal::Broken)?;
        let Some(data) = frame.data_ref() else { continue };
        let length = bytes.len() + data.len();
        if length > bodies::ONE {
            return Err(Refusal::TooLong);
        }
        if !room(length) {
            return Err(Refusal::Busy);
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

/// Why a request is not reviewed.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    Path,
    Method,
    TooLong,
    Broken,
    Late,
    Busy,
    NoReview,
}

impl Refusal {
    /// For metrics.
    fn reason(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Method => "method",
            Self::TooLong => "too_long",
            Self::Broken => "broken_off",
            Self::Late => "late",
            Self::Busy => "busy",
            Self::NoReview => "no_review",
        }
    }

    fn answer(self) -> (StatusCode, &'static str) {
        match self {
            Self::Path => (StatusCode::NOT_FOUND, "not here\n"),
            Self::Method => (StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview\n"),
            Self::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, "more than 3.5 MiB\n"),
            Self::Broken => (StatusCode::BAD_REQUEST, "the body was broken off\n"),
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 5 s\n"),
            Self::Busy => (StatusCode::TOO_MANY_REQUESTS, "too much at once; try again\n"),
            Self::NoReview => (StatusCode::BAD_REQUEST, "this is no AdmissionReview of admission.k8s.io/v1\n"),
        }
    }
}

fn text(refusal: Refusal) -> Response<Full<Bytes>> {
    let (status, body) = refusal.answer();
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // A body that nobody reads must not be taken for the next request.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
