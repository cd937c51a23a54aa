//! Dials a program of the mesh whose exact identity is known before: enrolment the CA, the sidecar the operator.
pub(crate) use crate::serve::ALPN;
use crate::serve::set_socket_options;
use rand::seq::SliceRandom;
use rustls::pki_types::CertificateDer;
use signet_identity::{Credentials, Rejection, SpiffeId, tls};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

/// For each address that a name has.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// From TCP connected to peer verified.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a server could not be reached. Whatever the reason, not one byte was sent to it inside TLS.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Not `host:port`.
    #[error("{0:?} is not host:port")]
    Address(String),
    /// The name has no address.
    #[error("cannot resolve {host}: {error}")]
    Resolve {
        /// The name.
        host: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// No address took the connection.
    #[error("cannot connect to {address}: {error}")]
    Tcp {
        /// The last one tried.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// TLS failed; the rejection, if it was ours, is below it.
    #[error("TLS with {address} failed: {}", refusal(.error))]
    Tls {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// A good certificate of somebody else.
    #[error("{address} is not who was called: {rejection}")]
    Identity {
        /// The address.
        address: SocketAddr,
        /// What differed.
        #[source]
        rejection: Rejection,
    },
    /// The server chose no protocol that was offered.
    #[error("{0} does not speak the protocol that was offered")]
    Protocol(SocketAddr),
}

/// rustls shows an error that is not its own as Rust would.
fn refusal(error: &io::Error) -> String {
    tls::rejection(error).map_or_else(|| error.to_string(), |rejection| rejection.to_string())
}

/// A tonic-compatible connector: TCP, then TLS, then the exact identity, before a byte is sent.
#[derive(Debug, Clone)]
pub struct Connector {
    config: Arc<rustls::ClientConfig>,
    expected: SpiffeId,
    /// Where the last connection went. The next one tries every other address first: whoever connects anew was cut off there,
    /// or wants another replica.
    last: Arc<Mutex<Option<SocketAddr>>>,
}

/// A connector to the one server that has this identity. `alpn` is what is offered; empty for none.
pub fn connector(credentials: &Arc<Credentials>, expected: SpiffeId, alpn: &[&[u8]]) -> Connector {
    Connector { config: credentials.client_config(alpn), expected, last: Arc::default() }
}

/// A gRPC channel to the one server that has this identity, at `host:port`. Connects when first used, again whenever the
/// connection is lost, and notices a dead peer within about 30 s. Every connection resolves the name anew.
pub fn channel(credentials: &Arc<Credentials>, expected: SpiffeId, address: &str) -> Result<Channel, ConnectError> {
    channel_with(connector(credentials, expected, ALPN), address)
}

/// The same over a connector, which remembers where it connected last.
pub(crate) fn channel_with(connector: Connector, address: &str) -> Result<Channel, ConnectError> {
    // The scheme says nothing here: the connector speaks TLS or fails.
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .ok()
        .filter(|endpoint| endpoint.uri().port_u16().is_some() && endpoint.uri().path() == "/")
        .ok_or_else(|| ConnectError::Address(address.chars().take(100).collect()))?
        .http2_keep_alive_interval(Duration::from_secs(15))
        .keep_alive_timeout(Duration::from_secs(10))
        .keep_alive_while_idle(true);
    Ok(endpoint.connect_with_connector_lazy(connector))
}

impl Connector {
    /// Connects to the first address of `host:port` that answers; a name's addresses are tried in random order, which spreads
    /// the callers of a headless Service.
    pub async fn connect(&self, host: &str, port: u16) -> Result<TlsStream<TcpStream>, ConnectError> {
        let resolved = tokio::net::lookup_host((host, port)).await;
        let resolve_error = |error| ConnectError::Resolve { host: host.chars().take(100).collect(), error };
        let addresses = resolved.map_err(resolve_error)?.take(64).collect();
        let addresses = in_order(addresses, *self.last.lock().unwrap_or_else(PoisonError::into_inner));
        let mut last = resolve_error(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        for address in addresses {
            match self.connect_address(address).await {
                Ok(stream) => {
                    *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn connect_address(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>, ConnectError> {
        let stream = within(CONNECT_TIMEOUT, TcpStream::connect(address)).await;
        let stream = stream.map_err(|error| ConnectError::Tcp { address, error })?;
        if let Err(error) = set_socket_options(&stream) {
            tracing::debug!(%address, %error, "socket options were not taken");
        }
        let handshake = TlsConnector::from(self.config.clone()).connect(tls::unnamed(), stream);
        let stream = within(HANDSHAKE_TIMEOUT, handshake).await;
        let stream = stream.map_err(|error| ConnectError::Tls { address, error })?;
        let (_, session) = stream.get_ref();
        let chain: Option<&[CertificateDer<'_>]> = session.peer_certificates();
        tls::peer(chain)
            .and_then(|peer| peer.expect(&self.expected, None))
            .map_err(|rejection| ConnectError::Identity { address, rejection })?;
        // A server that knows no ALPN would go on without.
        if !self.config.alpn_protocols.is_empty() && session.alpn_protocol().is_none() {
            return Err(ConnectError::Protocol(address));
        }
        Ok(stream)
    }
}

/// Random, which spreads the callers of a headless Service, with the last connection's address behind all others.
fn in_order(mut addresses: Vec<SocketAddr>, last: Option<SocketAddr>) -> Vec<SocketAddr> {
    addresses.shuffle(&mut rand::rng());
    addresses.sort_by_key(|address| Some(*address) == last);
    addresses
}

async fn within<T>(limit: Duration, step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::time::timeout(limit, step).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

impl tower::Service<Uri> for Connector {
    type Response = hyper_util::rt::TokioIo<TlsStream<TcpStream>>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let unusable = || ConnectError::Address(uri.to_string().chars().take(100).collect());
            let host = uri.host().ok_or_else(unusable)?;
            let port = uri.port_u16().ok_or_else(unusable)?;
            // The URI writes IPv6 in brackets, the resolver wants it without.
            let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
            connector.connect(host, port).await.map(hyper_util::rt::TokioIo::new)
        })
    }
}

#[cfg(test)]
mod tests;
