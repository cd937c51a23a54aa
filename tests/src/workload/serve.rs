//! The serving half of the tests' workload.
use bytes::Bytes;
use std::{
    io,
    net::Ipv6Addr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

/// What a port speaks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 that answers these words.
    Http(String),
    /// The same over TLS, with a certificate that nobody knows.
    Https(String),
    /// These words and a newline before anything is read, then an echo.
    First(String),
    /// An echo.
    Echo,
    /// `grpc.health.v1.Health/Check` over HTTP/2 without TLS: always SERVING.
    GrpcHealth,
}

/// Requests that are being answered now.
static BUSY: AtomicUsize = AtomicUsize::new(0);

/// Whether somebody has asked for `/fall-ill`.
static ILL: AtomicBool = AtomicBool::new(false);

/// Listens on every address, and serves until the process ends.
pub async fn start(port: u16, protocol: Protocol) -> io::Result<()> {
    let listener = match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Ok(listener) => listener,
        // A machine without IPv6.
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await?,
    };
    let tls = if matches!(protocol, Protocol::Https(_)) { Some(acceptor()?) } else { None };
    let protocol = Arc::new(protocol);
    tokio::spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { continue };
            let protocol = Arc::clone(&protocol);
            let tls = tls.clone();
            tokio::spawn(async move {
                // What a caller does to its own connection is its own affair.
                let _ = match (&*protocol, tls) {
                    (Protocol::Https(words), Some(tls)) => https(stream, &tls, words).await,
                    (Protocol::Http(words) | Protocol::Https(words), _) => {
                        stream.set_nodelay(true).and(http(stream, words).await)
                    }
                    (Protocol::First(words), _) => first(stream, words).await,
                    (Protocol::Echo, _) => echo(stream).await,
                    (Protocol::GrpcHealth, _) => grpc_health(stream).await,
                };
            });
        }
    });
    Ok(())
}

/// Waits until no request is being answered, 20 s at most.
pub async fn finish() {
    for _ in 0..2000 {
        if BUSY.load(Ordering::Relaxed) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A key of this process's own.
fn acceptor() -> io::Result<TlsAcceptor> {
    let made = rcgen::generate_simple_self_signed(["workload.test".to_owned()]).map_err(io::Error::other)?;
    let key = made.signing_key.serialize_der().try_into().map_err(io::Error::other)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key))
        .map_err(io::Error::other)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn https(stream: TcpStream, tls: &TlsAcceptor, words: &str) -> io::Result<()> {
    http(tls.accept(stream).await?, words).await
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    write.shutdown().await
}

async fn first(mut stream: TcpStream, words: &str) -> io::Result<()> {
    stream.write_all(format!("{words}\n").as_bytes()).await?;
    echo(stream).await
}

/// Requests without a body, which is what probes and the tests' callers send.
async fn http(mut stream: impl AsyncRead + AsyncWrite + Unpin, words: &str) -> io::Result<()> {
    let mut held = Vec::new();
    loop {
        while let Some(end) = held.windows(4).position(|w| w == b"\r\n\r\n") {
            let head: Vec<u8> = held.drain(..end + 4).collect();
            BUSY.fetch_add(1, Ordering::Relaxed);
            let answered = answer(&mut stream, &head, words).await;
            BUSY.fetch_sub(1, Ordering::Relaxed);
            answered?;
        }
        if stream.read_buf(&mut held).await? == 0 {
            return Ok(());
        }
    }
}

#[expect(clippy::print_stdout, reason = "what was asked is what a test wants to hear")]
async fn answer(stream: &mut (impl AsyncWrite + Unpin), head: &[u8], words: &str) -> io::Result<()> {
    let head = String::from_utf8_lossy(head);
    let path = head.split(' ').nth(1).unwrap_or("/");
    let mut parts = path.split(['/', '?']).skip(1);
    let (mut status, mut body) = (200, words);
    if path.starts_with("/slow/") || path.starts_with("/note/") {
        println!("asked {path}");
    }
    match (parts.next(), parts.next()) {
        (Some("fall-ill"), _) => ILL.store(true, Ordering::Relaxed),
        (Some("health"), _) if ILL.load(Ordering::Relaxed) => status = 500,
        (Some("slow"), Some(ms)) => tokio::time::sleep(Duration::from_millis(ms.parse().unwrap_or(1000))).await,
        (Some("status"), Some(code)) => status = code.parse().unwrap_or(500),
        (Some("say"), Some(said)) => body = said,
        _ => {}
    }
    let answer = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    stream.write_all(answer.as_bytes()).await?;
    stream.flush().await
}

async fn grpc_health(stream: TcpStream) -> io::Result<()> {
    let mut connection = h2::server::handshake(stream).await.map_err(io::Error::other)?;
    while let Some(request) = connection.accept().await {
        let (_, mut respond) = request.map_err(io::Error::other)?;
        tokio::spawn(async move {
            let head = http::Response::builder().header("content-type", "application/grpc").body(());
            let Ok(mut stream) = respond.send_response(head?, false) else { return Ok(()) };
            // Not compressed, two bytes: field 1, SERVING.
            let sent = stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false);
            let mut end = http::HeaderMap::new();
            end.insert("grpc-status", http::HeaderValue::from_static("0"));
            let _ = sent.and_then(|()| stream.send_trailers(end));
            Ok::<(), http::Error>(())
        });
    }
    Ok(())
}
