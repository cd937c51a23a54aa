//! rustls configurations over live credentials: a new key or a new trust state is used by the next handshake, with no new
//! listener and no new configuration. TLS 1.3 only, X25519MLKEM768 first, no resumption, no tickets, no early data.
//!
//! A resumed session would skip the verifier and so today's trust (finding F1), which is why nothing that could resume one
//! is ever made: no ticket is sent, no session is stored, and a client keeps none.
use crate::{Adoption, Peer, Rejection, Svid, Trust, TrustError, TrustState};
use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::kx_group;
use rustls::server::NoServerSessionStorage;
use rustls::{CertificateError, ClientConfig, OtherError, ServerConfig};
use rustls_pki_types::CertificateDer;
use std::error::Error;
use std::sync::{Arc, LazyLock};

mod resolver;
mod verifier;

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
    /// Ask for one, and take every client: the CA's listener, where attestation travels in the request. Whoever shows a
    /// certificate proves that he has its key, and nothing else: an SVID that has ended must not keep a workload from the CA.
    /// What it is worth is for whoever asks `verify_chain` afterwards.
    Optional,
}

/// The cryptography of every connection: aws-lc-rs, TLS 1.3 suites, hybrid key exchange first, P-256 signatures alone.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
        Arc::new(CryptoProvider {
            // Peers that are not ours (curl, ztunnel) may not know the hybrid group yet.
            kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1],
            signature_verification_algorithms: verifier::ALGORITHMS,
            ..rustls::crypto::aws_lc_rs::default_provider()
        })
    });
    PROVIDER.clone()
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
    pub fn adopt_trust(&self, state: TrustState) -> Result<Adoption, TrustError> {
        if self.trust.load().compare(&state)? == Adoption::Unchanged {
            return Ok(Adoption::Unchanged);
        }
        let offered = Arc::new(Trust::new(state)?);
        loop {
            let held = self.trust.load_full();
            if held.compare(offered.state())? == Adoption::Unchanged {
                return Ok(Adoption::Unchanged);
            }
            let found = self.trust.compare_and_swap(&held, offered.clone());
            if Arc::ptr_eq(&found, &held) {
                return Ok(Adoption::Adopted);
            }
        }
    }
    /// The present trust.
    pub fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }
    /// A server configuration; `alpn` in order of preference, empty for none. A client that offers only other protocols is
    /// refused, and so is one that offers none at all, unless `http/1.1` is in the list: that is what TLS without ALPN carries
    /// (curl offers none to a proxy).
    pub fn server_config(self: &Arc<Self>, auth: ClientAuth, alpn: &[&[u8]]) -> Arc<ServerConfig> {
        let builder =
            ServerConfig::builder_with_details(provider(), Arc::new(rustls::time_provider::DefaultTimeProvider))
                .with_protocol_versions(&[&rustls::version::TLS13]);
        #[allow(clippy::expect_used, reason = "the provider is a constant with TLS 1.3 suites; every test makes one")]
        let builder = builder.expect("the provider has suites and groups for TLS 1.3");
        let builder = match auth {
            ClientAuth::Required => builder.with_client_cert_verifier(verifier::of_clients(self.clone())),
            ClientAuth::Optional => builder.with_client_cert_verifier(verifier::of_anybody()),
        };
        let alpn_required = !alpn.is_empty() && !alpn.contains(&b"http/1.1".as_slice());
        let mut config = builder.with_cert_resolver(resolver::of_server(self.clone(), alpn_required));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Arc::new(config)
    }
    /// A client configuration that verifies the server's chain and presents the SVID if there is one. Which identity and UID
    /// the server must have is the caller's to check with `peer` before it sends a byte. The name given to rustls is ignored
    /// (use `unnamed`); no SNI is sent.
    pub fn client_config(self: &Arc<Self>, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let builder =
            ClientConfig::builder_with_details(provider(), Arc::new(rustls::time_provider::DefaultTimeProvider))
                .with_protocol_versions(&[&rustls::version::TLS13]);
        #[allow(clippy::expect_used, reason = "the provider is a constant with TLS 1.3 suites; every test makes one")]
        let builder = builder.expect("the provider has suites and groups for TLS 1.3");
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier::of_servers(self.clone()))
            .with_client_cert_resolver(resolver::of_client(self.clone()));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_sni = false;
        Arc::new(config)
    }
}

/// The server name to give rustls: peers are identified by SPIFFE ID, never by name.
pub fn unnamed() -> rustls_pki_types::ServerName<'static> {
    rustls_pki_types::ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// The peer of a finished handshake, from the chain that the verifier accepted. Checks no trust: give it only what
/// `peer_certificates` of such a connection says.
pub fn peer(chain: Option<&[CertificateDer<'_>]>) -> Result<Peer, Rejection> {
    Peer::claimed(chain.ok_or(Rejection::NoCertificate)?)
}

/// The rejection inside a failed handshake's error, when it was our verifier that refused.
///
/// TLS 1.3 ends a client's handshake before the server has seen its certificate: a server's refusal reaches the client as an
/// alert on its first read, and only the server has the rejection.
pub fn rejection(error: &std::io::Error) -> Option<Rejection> {
    error.get_ref().and_then(|inner| find_rejection(inner))
}

/// The same for any error that has a handshake's failure somewhere below it, such as a transport error of tonic.
pub fn find_rejection(error: &(dyn Error + 'static)) -> Option<Rejection> {
    // Errors nest a few deep; a bound keeps a circular source from holding a thread.
    let mut next = Some(error);
    for _ in 0..16 {
        let error = next?;
        if let Some(rejection) = error.downcast_ref::<Rejection>() {
            return Some(rejection.clone());
        }
        next = if let Some(io) = error.downcast_ref::<std::io::Error>() {
            // An io::Error's source is that of the error inside it, not the error inside it.
            io.get_ref().map(|inner| inner as &(dyn Error + 'static))
        } else if let Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner)))) =
            error.downcast_ref()
        {
            Some(inner.as_ref())
        } else {
            error.source()
        };
    }
    None
}

#[cfg(test)]
mod tests;
