//! The journal of certificates in a cluster: one JSON line for each on standard output, flushed before the certificate leaves.
//! Whoever collects the pod's logs has the journal.
//!
//! ```json
//! {"journal":"certificate","serial":"7f…","issuer":"09…","identity":"spiffe://…/ns/shop/sa/orders","uid":"…",
//!  "attestor":"kubernetes","pod":"shop/orders-1","node":"node-1","peer":"10.0.0.7","issued_at":1800000000,…}
//! ```
use crate::store::Entry;
use serde::Serialize;
use signet_identity::hex;
use std::{
    fmt,
    io::{self, Write},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

/// Where the lines go.
#[derive(Clone)]
pub struct Journal {
    sink: Arc<Mutex<Box<dyn Write + Send>>>,
}

#[derive(Serialize)]
struct Line<'a> {
    journal: &'static str,
    serial: String,
    issuer: String,
    identity: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<&'a str>,
    attestor: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    peer: Option<IpAddr>,
    issued_at: u64,
    not_before: u64,
    not_after: u64,
    trust_held: u64,
}

impl Journal {
    /// Lines to this sink.
    pub fn new(sink: Box<dyn Write + Send>) -> Self {
        Self { sink: Arc::new(Mutex::new(sink)) }
    }

    /// Writes the line of one certificate; after that, and only after that, the certificate may leave.
    pub async fn write(&self, entry: &Entry) -> io::Result<()> {
        let place = entry.place.as_ref();
        let line = Line {
            journal: "certificate",
            serial: hex(&entry.serial),
            issuer: hex(&entry.issuer),
            identity: &entry.identity,
            uid: entry.uid.as_deref(),
            attestor: entry.attestor,
            pod: place.map(|place| place.pod.as_str()),
            node: place.map(|place| place.node.as_str()),
            peer: place.map(|place| place.peer),
            issued_at: entry.issued_at,
            not_before: entry.not_before,
            not_after: entry.not_after,
            trust_held: entry.trust_held,
        };
        let mut line = serde_json::to_vec(&line)?;
        line.push(b'\n');
        let sink = self.sink.clone();
        // A full pipe holds up this thread alone.
        tokio::task::spawn_blocking(move || {
            let mut sink = sink.lock().unwrap_or_else(PoisonError::into_inner);
            sink.write_all(&line)?;
            sink.flush()
        })
        .await
        .map_err(io::Error::other)?
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Journal")
    }
}
