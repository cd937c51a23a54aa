//! `/healthz`, `/readyz` and `/metrics` on loopback (in a pod on its address), in plaintext and read-only: the one plaintext port
//! of the CA. Whoever can reach it learns numbers and nothing that a peer sent.
use crate::metrics::Metrics;
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header::CONTENT_TYPE, server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::{convert::Infallible, future::Future, io, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{sleep, timeout},
};

/// Connections at once; a scraper and a few probes need a handful.
const MOST: usize = 64;
/// How long one connection may take in all.
const LIFE: Duration = Duration::from_secs(30);

/// Says whether the CA can issue now, or why not.
pub type Readiness = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync>;

/// Serves for ever; survives every error of `accept`.
pub async fn serve(listener: TcpListener, metrics: Metrics, ready: Readiness) {
    let places = Arc::new(Semaphore::new(MOST));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (metrics, ready) = (metrics.clone(), ready.clone());
                tokio::spawn(async move {
                    connection(stream, metrics, ready).await;
                    drop(place);
                });
            }
            Err(error) => back_off(&error).await,
        }
    }
}

async fn back_off(error: &io::Error) {
    tracing::warn!(%error, "the health port could not accept; trying again in 100 ms");
    sleep(Duration::from_millis(100)).await;
}

async fn connection(stream: TcpStream, metrics: Metrics, ready: Readiness) {
    let answers = service_fn(move |request| {
        let (metrics, ready) = (metrics.clone(), ready.clone());
        async move { Ok::<_, Infallible>(answer(&request, &metrics, &ready).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(5))
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answers);
    match timeout(LIFE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the health port failed"),
        Err(_) => tracing::debug!("a connection to the health port took too long"),
    }
}

async fn answer(request: &Request<Incoming>, metrics: &Metrics, ready: &Readiness) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".into());
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => match ready().await {
            Ok(()) => text(StatusCode::OK, "ok\n".into()),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        },
        "/metrics" => match metrics.text() {
            Ok(body) => {
                let mut response = text(StatusCode::OK, body);
                let open_metrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
                response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(open_metrics));
                response
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
        },
        _ => text(StatusCode::NOT_FOUND, "no such page: /healthz, /readyz, /metrics\n".into()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
