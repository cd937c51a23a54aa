//! GET of a page that a pod serves, through the API server's port-forward: it ends on the pod's loopback, where nothing but the
//! pod itself and whoever may port-forward to it can come.
use super::{Lack, Read, reason};
use crate::output::plain;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

/// Nothing that our programs show is larger.
const MAX: u64 = 64 * 1024 * 1024;
const PATIENCE: Duration = Duration::from_secs(10);

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Page {
    /// 200 for a good one.
    pub(crate) status: u16,
    /// All of it.
    pub(crate) body: String,
}

/// Asks a port of a pod's loopback for a page.
pub(crate) async fn get(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> Read<Page> {
    match timeout(PATIENCE, fetch(client, namespace, pod, port, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(Lack::Failed(format!(
            "no answer from port {port} of {namespace}/{pod} within {} s",
            PATIENCE.as_secs()
        ))),
    }
}

async fn fetch(client: &Client, namespace: &str, pod: &str, port: u16, path: &str) -> Read<Page> {
    let failed = |why: String| Lack::Failed(format!("port {port} of {namespace}/{pod}: {}", plain(&why)));
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut forwarder = pods.portforward(pod, &[port]).await.map_err(|error| {
        let text = reason(&error);
        // The upgrade is refused with a status alone.
        if matches!(&error, kube::Error::Api(status) if status.code == 403) || text.contains("403") {
            Lack::Forbidden { verb: "create", resource: "pods/portforward".to_owned() }
        } else {
            failed(text)
        }
    })?;
    let broken = forwarder.take_error(port);
    let mut stream = forwarder.take_stream(port).ok_or_else(|| failed("no stream".to_owned()))?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        (&mut stream).take(MAX).read_to_end(&mut answer).await
    };
    let ended = exchange.await;
    forwarder.abort();
    if answer.is_empty() {
        let why = match broken {
            Some(error) => error.await,
            None => None,
        };
        let why = why.or_else(|| ended.err().map(|error| error.to_string()));
        return Err(failed(why.unwrap_or_else(|| "the connection ended without an answer".to_owned())));
    }
    parse(&answer).map_err(failed)
}

/// A whole HTTP/1 answer that ended with its connection.
fn parse(answer: &[u8]) -> Result<Page, String> {
    let answer = String::from_utf8_lossy(answer);
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer is no HTTP")?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or("the answer is no HTTP")?;
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    if length.is_some_and(|length| body.len() < length) {
        return Err("the answer was cut short".to_owned());
    }
    Ok(Page { status, body: body.to_owned() })
}

#[cfg(test)]
mod tests {
    //! Answers as our programs give them, and as nobody should.
    use super::*;

    #[test]
    fn an_answer_is_read_with_its_status_and_a_cut_one_is_no_answer() {
        let whole = parse(b"HTTP/1.0 503 Service Unavailable\r\ncontent-length: 3\r\n\r\nno\n").unwrap();
        assert_eq!(whole, Page { status: 503, body: "no\n".into() });
        assert!(parse(b"HTTP/1.0 200 OK\r\nContent-Length: 30\r\n\r\nno\n").unwrap_err().contains("cut short"));
        assert!(parse(b"SSH-2.0-x\r\n").is_err());
        assert!(parse(b"HTTP/1.1 x\r\n\r\n").is_err());
    }
}
