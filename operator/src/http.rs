//! Health, metrics and status, read only: `/healthz`, `/readyz`, `/metrics`, `/status`, `/edges`. The last two say who runs and
//! who called whom, and are for callers on loopback alone, wherever the address listens (F8): in a pod, for whoever may
//! port-forward to it.
use crate::control::Hub;
use crate::metrics::Metrics;
use crate::state::Published;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::pki_types::UnixTime;
use serde_json::json;
use signet_enroll::Status as Enrolment;
use signet_identity::{Credentials, SpiffeId};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

/// Connections at once: a scraper, a prober, and a person.
const CONNECTIONS: usize = 64;
const HEADERS: Duration = Duration::from_secs(5);
/// A connection lives no longer; scrapers open another.
const LIFETIME: Duration = Duration::from_mins(1);

/// What the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    /// What is in force.
    pub published: Published,
    /// The control streams.
    pub hub: Arc<Hub>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The operator's certificate and trust.
    pub credentials: Arc<Credentials>,
    /// How it gets its certificate.
    pub enrolment: watch::Receiver<Enrolment>,
    /// Whether the injection webhook has a certificate; nothing where there is none.
    pub webhook: Option<watch::Receiver<bool>>,
    /// The identity that sidecars expect of it.
    pub own: SpiffeId,
}

impl Pages {
    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) -> Infallible {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            // The semaphore is never closed.
            let Ok(place) = places.clone().acquire_owned().await else { continue };
            let (stream, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: back off, do not spin (F36).
                    tracing::warn!(%error, "accept failed on the health address");
                    sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let pages = self.clone();
            let admin = from.ip().to_canonical().is_loopback();
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = pages.answer(&request, admin);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut http = hyper::server::conn::http1::Builder::new();
                http.timer(TokioTimer::new()).header_read_timeout(HEADERS).max_buf_size(16 * 1024);
                // A peer that breaks off, or stays too long: nothing that anybody has to know.
                let _ = timeout(LIFETIME, http.serve_connection(TokioIo::new(stream), service)).await;
                drop(place);
            });
        }
    }

    fn answer(&self, request: &Request<Incoming>, admin: bool) -> Response<Full<Bytes>> {
        if request.method() != Method::GET {
            return text(StatusCode::METHOD_NOT_ALLOWED, "read only\n".into());
        }
        match request.uri().path() {
            "/healthz" => text(StatusCode::OK, "ok\n".into()),
            "/readyz" => match self.not_ready() {
                None => text(StatusCode::OK, "ok\n".into()),
                Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            },
            "/metrics" => {
                let mut response = text(StatusCode::OK, self.metrics.text(&self.published, &self.credentials));
                let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
                response.headers_mut().insert(CONTENT_TYPE, kind);
                response
            }
            "/status" | "/edges" if !admin => {
                text(StatusCode::FORBIDDEN, "only for callers on loopback, such as kubectl port-forward\n".into())
            }
            "/status" => json(&self.status()),
            "/edges" => json(&self.hub.edges_json()),
            _ => text(StatusCode::NOT_FOUND, "/healthz /readyz /metrics /status /edges\n".into()),
        }
    }

    /// Ready means: sidecars that come now get what they came for.
    fn not_ready(&self) -> Option<String> {
        let now = UnixTime::now().as_secs();
        match self.credentials.svid() {
            None => {
                let why = self.enrolment.borrow().last_error.clone();
                return Some(format!(
                    "no certificate yet: {}",
                    why.unwrap_or_else(|| "the CA has not answered".into())
                ));
            }
            Some(svid) if svid.not_after() < now => {
                let why = self.enrolment.borrow().last_error.clone();
                return Some(format!("the certificate has ended: {}", why.unwrap_or_else(|| "the CA is away".into())));
            }
            Some(svid) if *svid.id() != self.own => {
                let (has, own) = (svid.id(), &self.own);
                return Some(format!("the certificate is for {has}, but sidecars expect {own}: make a token for that"));
            }
            Some(_) => {}
        }
        if self.webhook.as_ref().is_some_and(|ready| !*ready.borrow()) {
            return Some("the injection webhook has no certificate that the API server trusts yet".to_owned());
        }
        let documents = self.published.snapshot.borrow().is_none();
        documents.then(|| {
            let why = self.published.report.borrow().error.clone();
            why.unwrap_or_else(|| "the documents could not be read yet: see /status".into())
        })
    }

    fn status(&self) -> serde_json::Value {
        let svid =
            self.credentials.svid().map(|svid| json!({"identity": svid.id().as_str(), "not_after": svid.not_after()}));
        let enrolment = self.enrolment.borrow().clone();
        json!({
            "ready": self.not_ready().is_none(),
            "not_ready": self.not_ready(),
            "documents": &**self.published.report.borrow(),
            "certificate": svid,
            "enrolment": {
                "failures": enrolment.consecutive_failures,
                "last_error": enrolment.last_error,
                "trust_stream_open": enrolment.trust_stream_open,
            },
            "trust_sequence": self.credentials.trust().state().sequence,
            "sidecars": self.hub.presences(),
        })
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

fn json(value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, format!("{value:#}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
