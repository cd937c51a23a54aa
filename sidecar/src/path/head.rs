//! The head of a CONNECT request and of its answer, in the framing that carries one connection alone (HTTP/1.1, RFC 9112).
//! Peers' bytes: bounded, strict, total. The fuzz target is in the tests beside.
use crate::refusal::Refusal;
use crate::tls::Tls;
use std::io;
use std::net::SocketAddr;
use tokio::io::AsyncReadExt as _;

/// Header fields that are read at most; what has more is refused.
const MAX_FIELDS: usize = 32;

/// A parsed head and how many bytes it took.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<T> {
    /// What it says.
    pub content: T,
    /// Its length in bytes; what follows belongs to the connection that is carried.
    pub length: usize,
}

/// `None`: more bytes are needed.
type Parsed<T> = Result<Option<Head<T>>, Refusal>;

/// Reads until `parse` has a whole head; what follows it stays for the connection. `lost` says what the end of the tunnel means.
pub async fn read<T>(
    tls: &mut Tls,
    limit: u32,
    parse: fn(&[u8]) -> Parsed<T>,
    lost: fn(io::Error) -> Refusal,
) -> Result<T, Refusal> {
    let mut bytes = Vec::with_capacity(256);
    while bytes.len() < limit as usize {
        if tls.read_buf(&mut bytes).await.map_err(lost)? == 0 {
            return Err(lost(io::ErrorKind::UnexpectedEof.into()));
        }
        if let Some(found) = parse(&bytes)? {
            bytes.drain(..found.length);
            tls.unread(bytes);
            return Ok(found.content);
        }
    }
    Err(Refusal::HeadTooLarge(limit))
}

/// Reads a CONNECT request.
pub fn request(bytes: &[u8]) -> Parsed<SocketAddr> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(_) => return Err(Refusal::HeadMalformed),
    };
    if request.method != Some("CONNECT") {
        return Err(Refusal::NotConnect);
    }
    // A body has no meaning in CONNECT (RFC 9110 section 9.3.6); what claims one is refused, not guessed.
    let claims_body =
        |name: &str| name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding");
    if request.headers.iter().any(|field| claims_body(field.name)) {
        return Err(Refusal::HeadMalformed);
    }
    let content = target(request.path.unwrap_or_default())?;
    Ok(Some(Head { content, length }))
}

/// Reads `ip:port`, canonical. Names are refused: the client's sidecar has resolved them.
pub fn target(authority: &str) -> Result<SocketAddr, Refusal> {
    let address: SocketAddr = authority.parse().map_err(|_| Refusal::BadTarget)?;
    if address.port() == 0 || matches!(address, SocketAddr::V6(six) if six.scope_id() != 0) {
        return Err(Refusal::BadTarget);
    }
    Ok(super::canonical(address))
}

/// Reads the answer to a CONNECT: the status, and the code that `Proxy-Status` carries.
pub fn answer(bytes: &[u8]) -> Parsed<(u16, Option<String>)> {
    let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let mut response = httparse::Response::new(&mut fields);
    match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => {
            let reason = response
                .headers
                .iter()
                .find(|field| field.name.eq_ignore_ascii_case("proxy-status"))
                .and_then(|field| proxy_status_code(field.value));
            Ok(Some(Head { content: (response.code.unwrap_or(0), reason), length }))
        }
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Refusal::HeadMalformed),
    }
}

/// Our code from a peer's `Proxy-Status` field; only what looks like one of our codes is taken.
pub fn proxy_status_code(value: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(value).ok()?;
    let code = text.split("details=\"").nth(1)?.split('"').next()?;
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    ((1..=64).contains(&code.len()) && code.bytes().all(plain)).then(|| code.to_owned())
}

/// The request that opens a tunnel.
pub fn write_request(to: SocketAddr) -> String {
    format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n")
}

/// The answer that opens it.
pub const OPEN: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

/// The answer that refuses it.
pub fn write_refusal(refusal: &Refusal) -> String {
    let (status, why) = (refusal.status(), refusal.proxy_status());
    let reason = http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Refused");
    format!("HTTP/1.1 {status} {reason}\r\nProxy-Status: {why}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests;
