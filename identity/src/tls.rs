//! rustls configurations over live credentials: a new key or a new trust state is used by the next handshake, with no new
//! listener and no new configuration. TLS 1.3 only, X25519MLKEM768 first, no resumption, no tickets, no early data.
use crate::{Adoption, Peer, Rejection, Svid, Trust, TrustError, TrustState};
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls_pki_types::CertificateDer;
use std::sync::Arc;

/// The present SVID and the present trust of one process. Shared by every listener and connector.
#[derive(Debug)]
pub struct Credentials {
    svid: ArcSwapOption<Svid>,
    trust: ArcSwap<Trust>,
}

/// Whether a listener asks clients for a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Refuse clients without a verified SVID: every listener but the CA's.
    Required,
    /// The CA's listener: attestation travels in the request.
    None,
}

impl Credentials {
    /// Starts without an SVID: servers refuse every handshake, clients present nothing.
    pub fn new(trust: TrustState) -> Result<Arc<Self>, TrustError> {
        Ok(Arc::new(Self { svid: ArcSwapOption::empty(), trust: ArcSwap::from_pointee(Trust::new(trust)?) }))
    }
    /// Used by the next handshake.
    pub fn set_svid(&self, svid: Svid) {
        self.svid.store(Some(Arc::new(svid)));
    }
    /// The present SVID.
    pub fn svid(&self) -> Option<Arc<Svid>> {
        self.svid.load_full()
    }
    /// Takes a newer trust state; refuses an older one and other content under the same sequence.
    pub fn adopt_trust(&self, _state: TrustState) -> Result<Adoption, TrustError> {
        todo!()
    }
    /// The present trust.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }
    /// A server configuration; `alpn` in order of preference, empty for none. A client that offers no protocol of the list is
    /// refused when the list is not empty.
    pub fn server_config(self: &Arc<Self>, _auth: ClientAuth, _alpn: &[&[u8]]) -> Arc<rustls::ServerConfig> {
        todo!()
    }
    /// A client configuration that verifies the server's chain and presents the SVID if there is one. Which identity and UID
    /// the server must have is the caller's to check with `peer` before it sends a byte. The name given to rustls is ignored
    /// (use `UNNAMED`); no SNI is sent.
    pub fn client_config(self: &Arc<Self>, _alpn: &[&[u8]]) -> Arc<rustls::ClientConfig> {
        todo!()
    }
}

/// The server name to give rustls: peers are identified by SPIFFE ID, never by name.
pub fn unnamed() -> rustls_pki_types::ServerName<'static> {
    rustls_pki_types::ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// The peer of a finished handshake, from the chain that the verifier accepted.
pub fn peer(_chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, Rejection> {
    todo!()
}

/// The rejection inside a failed handshake's error, when it was our verifier that refused.
pub fn rejection(_error: &std::io::Error) -> Option<Rejection> {
    todo!()
}
