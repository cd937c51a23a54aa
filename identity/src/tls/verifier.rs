//! rustls' two verifier traits over the present trust. Each is one call of `verify_chain`.
use super::Credentials;
use crate::Rejection;
use crate::verify::{SIGNATURES, Side, verify_chain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, PeerIncompatible, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// The signatures of handshakes and paths: ECDSA P-256 with SHA-256 alone.
pub(super) const ALGORITHMS: WebPkiSupportedAlgorithms =
    WebPkiSupportedAlgorithms { all: SIGNATURES, mapping: &[(SignatureScheme::ECDSA_NISTP256_SHA256, SIGNATURES)] };

#[derive(Debug)]
struct Verifier(Arc<Credentials>);

/// Of clients. Without a verifier every one is taken, and of those with a certificate the proof that they have its key.
#[derive(Debug)]
struct Clients(Option<Verifier>);

/// Verifies what clients present.
pub(super) fn of_clients(credentials: Arc<Credentials>) -> Arc<dyn ClientCertVerifier> {
    Arc::new(Clients(Some(Verifier(credentials))))
}

/// Takes clients without a certificate, and of those with one the proof that they have its key.
pub(super) fn of_anybody() -> Arc<dyn ClientCertVerifier> {
    Arc::new(Clients(None))
}

/// Verifies what servers present.
pub(super) fn of_servers(credentials: Arc<Credentials>) -> Arc<dyn ServerCertVerifier> {
    Arc::new(Verifier(credentials))
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
        side: Side,
    ) -> Result<(), Error> {
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf).chain(above).map(borrowed).collect();
        let trust = self.0.trust.load();
        verify_chain(&chain, &trust, now, side).map(|_| ()).map_err(refused)
    }
    fn verify_signature(
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, leaf, signature, &ALGORITHMS)
    }
}

/// The same certificate without a copy of its bytes.
fn borrowed<'a>(der: &'a CertificateDer<'_>) -> CertificateDer<'a> {
    CertificateDer::from(der.as_ref())
}

/// Wrapped so that `tls::rejection` finds it again.
fn refused(rejection: Rejection) -> Error {
    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejection))))
}

fn no_tls12() -> Error {
    PeerIncompatible::ServerDoesNotSupportTls12Or13.into()
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now, Side::Server)?;
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Self::verify_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}

impl ClientCertVerifier for Clients {
    fn client_auth_mandatory(&self) -> bool {
        self.0.is_some()
    }
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // Names of roots tell a stranger about the mesh and a client nothing.
        &[]
    }
    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if let Some(verifier) = &self.0 {
            verifier.verify(end_entity, intermediates, now, Side::Client)?;
        }
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(no_tls12())
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Verifier::verify_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ALGORITHMS.supported_schemes()
    }
}
