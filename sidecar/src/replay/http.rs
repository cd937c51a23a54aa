//! `httpGet`, as the kubelet makes it: no certificate is checked, redirects within the same host are followed.
use super::declared::{Declared, Get, target};
use super::{Dial, Failed};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

/// As Go's client and the kubelet.
const REDIRECTS: usize = 10;

/// Makes the call; the status of the last answer.
pub(super) async fn get(get: &Get, dial: &Dial<'_>, declared: &Declared) -> Result<StatusCode, Failed> {
    let (mut https, mut port, mut path) = (get.https, get.port, get.path.clone());
    for _ in 0..REDIRECTS {
        let tcp = dial.port(port).await?;
        let request = request(get, &format!("{}:{port}", host(dial)), &path)?;
        let response = if https {
            let connector = TlsConnector::from(anybody()?);
            let tls = connector.connect(signet_identity::tls::unnamed(), tcp).await.map_err(Failed::Tls)?;
            exchange(tls, request).await?
        } else {
            exchange(tcp, request).await?
        };
        let Some(next) = redirected(&response, https, port, &path, &host(dial)) else { return Ok(response.status()) };
        if declared.is_own(next.1) {
            return Err(Failed::OwnPort(next.1));
        }
        (https, port, path) = next;
    }
    Err(Failed::Redirects(REDIRECTS))
}

/// The pod's address as it stands in a URL.
fn host(dial: &Dial<'_>) -> String {
    if dial.ip.is_ipv6() { format!("[{}]", dial.ip) } else { dial.ip.to_string() }
}

fn request(get: &Get, host: &str, path: &str) -> Result<Request<Empty<Bytes>>, Failed> {
    let mut request = Request::get(path).body(Empty::new())?;
    let headers = request.headers_mut();
    *headers = get.headers.clone();
    for (name, value) in [
        (header::HOST, HeaderValue::from_str(host).map_err(http::Error::from)?),
        // Applications keep probes out of their logs by its beginning.
        (header::USER_AGENT, HeaderValue::from_static("kube-probe/signet")),
        (header::ACCEPT, HeaderValue::from_static("*/*")),
    ] {
        if !headers.contains_key(&name) {
            headers.insert(name, value);
        }
    }
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) =
        hyper::client::conn::http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await?;
    let mut answer = std::pin::pin!(sender.send_request(request));
    tokio::select! {
        biased;
        answer = &mut answer => Ok(answer?),
        // Drives the exchange; what ended it the answer says best.
        ended = connection => {
            ended?;
            Ok(answer.await?)
        }
    }
}

/// Scheme, port and path that a redirect within the same host leads to. To another host the kubelet does not go: that is a
/// success.
fn redirected(
    response: &Response<Incoming>,
    https: bool,
    port: u16,
    path: &str,
    own: &str,
) -> Option<(bool, u16, String)> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = response.headers().get(header::LOCATION)?.to_str().ok()?.trim();
    if let Some(rest) = location.strip_prefix("//") {
        let scheme = if https { "https" } else { "http" };
        return absolute(&format!("{scheme}://{rest}"), own);
    }
    if location.contains("://") {
        return absolute(location, own);
    }
    let next = if location.starts_with('/') {
        target(location)
    } else if location.starts_with('?') {
        format!("{}{}", path.split('?').next().unwrap_or("/"), target(location).trim_start_matches('/'))
    } else {
        let directory = path.split('?').next().and_then(|path| path.rsplit_once('/')).map_or("", |(before, _)| before);
        format!("{directory}{}", target(location))
    };
    Some((https, port, next))
}

fn absolute(location: &str, own: &str) -> Option<(bool, u16, String)> {
    let uri: Uri = location.split('#').next()?.parse().ok()?;
    let https = match uri.scheme_str()? {
        "https" => true,
        "http" => false,
        _ => return None,
    };
    if uri.host()? != own {
        return None;
    }
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Some((https, uri.port_u16().unwrap_or(if https { 443 } else { 80 }), target(path)))
}

/// Whoever answers at the pod's own address is the application: the kubelet asks for no certificate either, and speaks TLS 1.2
/// with those that know no other. Nothing else of the sidecar does: the mesh's own tunnels are TLS 1.3 alone.
fn anybody() -> Result<Arc<ClientConfig>, Failed> {
    // Not the mesh's provider, whose signatures are those of its own certificates.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| Failed::Tls(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
        .with_no_client_auth();
    config.enable_sni = false;
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// Where every certificate is taken, a signature by its key says nothing: those that are too old to be read are taken too.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
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
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
