//! Which certificate a handshake presents: always the present SVID.
use super::Credentials;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::sync::Arc;

#[derive(Debug)]
struct Resolver {
    credentials: Arc<Credentials>,
    alpn_required: bool,
}

/// Presents the SVID to clients; with `alpn_required`, to none that offers no protocol at all. rustls itself refuses a client
/// that offers only others, but takes one that offers none.
pub(super) fn of_server(credentials: Arc<Credentials>, alpn_required: bool) -> Arc<dyn ResolvesServerCert> {
    Arc::new(Resolver { credentials, alpn_required })
}

/// Presents the SVID to servers that ask for one.
pub(super) fn of_client(credentials: Arc<Credentials>) -> Arc<dyn ResolvesClientCert> {
    Arc::new(Resolver { credentials, alpn_required: false })
}

impl Resolver {
    fn present(&self) -> Option<Arc<CertifiedKey>> {
        self.credentials.svid.load().as_ref().map(|svid| svid.certified_key())
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if self.alpn_required && client_hello.alpn().is_none() {
            return None;
        }
        self.present()
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _root_hint_subjects: &[&[u8]], _sigschemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.present()
    }
    fn has_certs(&self) -> bool {
        self.credentials.svid.load().is_some()
    }
}
