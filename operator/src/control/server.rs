//! Serves the control service over mutual TLS.
use super::hub::Hub;
use super::service::Service;
use signet_enroll::serve_tls;
use signet_identity::{ClientAuth, Credentials};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tonic::transport::Server;

/// One stream, and room for one that replaces it.
const STREAMS_PER_CONNECTION: u32 = 4;
/// Resets that a peer may have pending, and header bytes: HTTP/2 floods end the connection (F29).
const PENDING_RESETS: usize = 20;
const HEADERS: u32 = 16 * 1024;

/// Serves until `stop` resolves and the open streams have ended.
pub async fn serve(
    listener: TcpListener,
    credentials: &Arc<Credentials>,
    hub: Arc<Hub>,
    stop: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let incoming = serve_tls(listener, credentials, ClientAuth::Required, hub.limits.door);
    hub.metrics.control.watch(incoming.counters());
    Server::builder()
        // No `max_connection_age_grace`: with it tonic 0.14.9 never says goodbye, but waits for both times and then cuts
        // (`connection_timeout_future`). Streams have a longest age of their own.
        .max_connection_age(hub.limits.takes_streams)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .http2_keepalive_interval(Some(Duration::from_secs(15)))
        .http2_keepalive_timeout(Some(Duration::from_secs(15)))
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(PENDING_RESETS))
        .http2_max_header_list_size(HEADERS)
        .initial_stream_window_size(64 * 1024)
        .initial_connection_window_size(256 * 1024)
        .serve_with_incoming_shutdown(Service::server(hub), incoming, stop)
        .await
}
