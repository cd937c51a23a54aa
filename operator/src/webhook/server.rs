//! HTTPS for the API server: TLS 1.3, HTTP/1.1, one path. Anybody in the cluster can connect, so handshakes, connections, sizes
//! and times are bounded, and a panic ends one request.
use super::certificate::Resolver;
use super::review::Reviewer;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

/// API servers keep a few connections each; more wait in the kernel's queue.
const CONNECTIONS: usize = 256;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// How long a connection may be silent between requests. Go's clients give up after 90 s.
const IDLE: Duration = Duration::from_secs(100);
/// From the head of a request to the end of its body.
const BODY: Duration = Duration::from_secs(5);
/// The API server takes objects of up to 3 MiB; a review holds one, and on updates two.
const BODY_BYTES: usize = 8 * 1024 * 1024;
const HEAD_BYTES: usize = 16 * 1024;

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

/// For ever; dropping it ends its connections.
pub(super) async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, reviewer: Arc<Reviewer>) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { continue };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, _)) => {
                let (acceptor, reviewer) = (acceptor.clone(), reviewer.clone());
                connections.spawn(async move {
                    connection(stream, &acceptor, reviewer).await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most likely: back off, do not spin (F36).
                tracing::warn!(%error, "accept failed on the webhook's address");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: &TlsAcceptor, reviewer: Arc<Reviewer>) {
    // Whoever does not finish has nothing to be told: port scanners, and API servers that trust another CA yet.
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "a handshake with the webhook failed"),
        Err(_) => return,
    };
    let service = service_fn(move |request| {
        let reviewer = reviewer.clone();
        async move { Ok::<_, Infallible>(answer(request, &reviewer).await) }
    });
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(IDLE).max_buf_size(HEAD_BYTES);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "a connection to the webhook ended early");
    }
}

async fn answer(request: Request<Incoming>, reviewer: &Reviewer) -> Response<Full<Bytes>> {
    if request.uri().path() != "/inject" {
        return text(StatusCode::NOT_FOUND, "not here; there is: POST /inject\n");
    }
    if request.method() != Method::POST {
        return text(StatusCode::METHOD_NOT_ALLOWED, "POST an AdmissionReview\n");
    }
    let body = match timeout(BODY, Limited::new(request.into_body(), BODY_BYTES).collect()).await {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return text(StatusCode::PAYLOAD_TOO_LARGE, "more than 8 MiB, or broken off\n"),
        Err(_) => return text(StatusCode::REQUEST_TIMEOUT, "the body did not arrive within 5 s\n"),
    };
    match reviewer.review(&body).await {
        Some(review) => {
            let mut response = Response::new(Full::new(Bytes::from(review.to_string())));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        None => text(StatusCode::BAD_REQUEST, "this is no AdmissionReview of admission.k8s.io/v1\n"),
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    // A body that nobody reads must not be taken for the next request.
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}
