//! A peer that speaks the tunnel's TLS and framings without any code of ours, for the things that curl and openssl do not do:
//! floods, resets, and names by the hundred thousand.
use crate::{apps::call, openssl::Pair};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use signet::demo::world::Namespace;
use std::{io, net::IpAddr, sync::Arc};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Takes whatever certificate it is shown: what is tested is the other side.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".into()))
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// A configuration with a client certificate and one ALPN name. It keeps every session that a server gives it, and resumes.
pub fn client_config(pair: &Pair, alpn: &[u8]) -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain: Vec<_> =
        CertificateDer::pem_file_iter(&pair.chain).expect("the chain").map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(&pair.key).expect("the key");
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_client_auth_cert(chain, key)
        .expect("chain and key");
    config.alpn_protocols = vec![alpn.to_vec()];
    Arc::new(config)
}

/// A machine that calls with one configuration again and again.
#[derive(Debug)]
pub struct Outside<'a> {
    /// Where it calls from.
    pub machine: &'a Namespace,
    /// What it remembers from one connection to the next.
    pub config: Arc<ClientConfig>,
}

impl Outside<'_> {
    /// A TLS connection. Call it in a tokio runtime.
    pub async fn connect(&self, to: IpAddr, port: u16) -> io::Result<TlsStream<TcpStream>> {
        let tcp = call(self.machine, to, port)?;
        tcp.set_nonblocking(true)?;
        let name = ServerName::IpAddress(to.into());
        TlsConnector::from(Arc::clone(&self.config)).connect(name, TcpStream::from_std(tcp)?).await
    }
}

/// A TLS connection with a client certificate and one ALPN name. Call it in a tokio runtime.
pub async fn tls(
    from: &Namespace,
    to: IpAddr,
    port: u16,
    pair: &Pair,
    alpn: &[u8],
) -> io::Result<TlsStream<TcpStream>> {
    Outside { machine: from, config: client_config(pair, alpn) }.connect(to, port).await
}
