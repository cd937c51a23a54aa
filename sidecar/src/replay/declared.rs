//! What may be replayed: the content of `SIGNET_PROBES`, as injection wrote it, each under the key in `SIGNET_PROBE_KEY`.
//!
//! ```json
//! {"app": {"liveness": {"httpGet": {"path": "/live", "port": 8080}, "timeoutSeconds": 1},
//!          "preStop": {"httpGet": {"path": "/bye", "port": 8080, "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "y"}]}},
//!          "readiness": {"grpc": {"port": 9000, "service": "orders"}},
//!          "startup": {"tcpSocket": {"port": 5432}}}}
//! ```
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;
use tokio::sync::Mutex;

/// A hook without an end of its own; the kubelet ends the pod's grace earlier.
const LONGEST: Duration = Duration::from_secs(3600);

/// Everything that may be replayed, and where to.
#[derive(Debug, Default)]
pub struct Declared {
    /// By `KEY/CONTAINER/KIND`, so that the key is looked for as the whole is: in a time that says nothing about it.
    probes: HashMap<String, Probe>,
    addresses: Vec<IpAddr>,
    own_ports: Vec<u16>,
}

/// Why a variable was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DeclaredError {
    /// `SIGNET_PROBES` is not what injection writes.
    #[error("SIGNET_PROBES: {place}: found {found}; want {want}")]
    Probes {
        /// Container and kind.
        place: String,
        /// What is there.
        found: String,
        /// What would be right.
        want: &'static str,
    },
    /// `SIGNET_POD_IPS` holds something else.
    #[error("SIGNET_POD_IPS: found {0:?}; want this pod's addresses, separated by commas")]
    Addresses(String),
    /// `SIGNET_PROBE_KEY` is none.
    #[error("SIGNET_PROBE_KEY: found something of {0} bytes; want at least 32 of 0-9 and a-f, which nobody can guess")]
    Key(usize),
}

/// A declared probe or hook.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) kind: Kind,
    pub(super) action: Action,
    pub(super) timeout: Duration,
    /// Held while a hook is replayed: one at a time.
    pub(super) replaying: Mutex<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Probe,
    Hook,
}

#[derive(Debug)]
pub(super) enum Action {
    Http(Get),
    Tcp(u16),
    /// Port and service.
    Grpc(u16, String),
}

/// An `httpGet`.
#[derive(Debug)]
pub(super) struct Get {
    pub(super) https: bool,
    pub(super) port: u16,
    pub(super) path: String,
    pub(super) headers: HeaderMap,
}

impl Declared {
    /// Reads the variables; one that is not set is empty. `own_ports` are the sidecar's, which are never called.
    pub fn read(probes: &str, key: &str, addresses: &str, own_ports: &[u16]) -> Result<Self, DeclaredError> {
        let parts = addresses.split(',').map(str::trim).filter(|part| !part.is_empty());
        let addresses = parts
            .map(|part| part.parse().map_err(|_| DeclaredError::Addresses(part.to_owned())))
            .collect::<Result<Vec<IpAddr>, _>>()?;
        let mut read = Self { probes: HashMap::new(), addresses, own_ports: own_ports.to_vec() };
        if probes.trim().is_empty() {
            return Ok(read);
        }
        let wrong = |error: serde_json::Error| refuse("the whole", error.to_string(), "a JSON object");
        let all: Value = serde_json::from_str(probes).map_err(wrong)?;
        let containers = all.as_object().ok_or_else(|| refuse("the whole", "something else", "a JSON object"))?;
        // Without anything to replay there is nothing to guard.
        if !containers.is_empty() && (key.len() < 32 || !key.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(DeclaredError::Key(key.len()));
        }
        for (container, kinds) in containers {
            let kinds = kinds.as_object().ok_or_else(|| refuse(container, "something else", "an object of kinds"))?;
            for (kind, probe) in kinds {
                let name = format!("{container}/{kind}");
                let probe = read.probe(&name, kind, probe)?;
                read.probes.insert(format!("{key}/{name}"), probe);
            }
        }
        Ok(read)
    }

    fn probe(&self, place: &str, kind: &str, probe: &Value) -> Result<Probe, DeclaredError> {
        let kind = match kind {
            "liveness" | "readiness" | "startup" => Kind::Probe,
            "postStart" | "preStop" => Kind::Hook,
            other => return Err(refuse(place, other, "liveness, readiness, startup, postStart or preStop")),
        };
        let action = match (&probe["httpGet"], &probe["tcpSocket"], &probe["grpc"]) {
            (get @ Value::Object(_), Value::Null, Value::Null) => Action::Http(self.get(place, get)?),
            (Value::Null, tcp @ Value::Object(_), Value::Null) => Action::Tcp(self.port(place, tcp)?),
            (Value::Null, Value::Null, grpc @ Value::Object(_)) => {
                Action::Grpc(self.port(place, grpc)?, grpc["service"].as_str().unwrap_or_default().to_owned())
            }
            _ => return Err(refuse(place, "none or several of them", "one of httpGet, tcpSocket and grpc")),
        };
        let timeout = match (probe["timeoutSeconds"].as_u64(), kind) {
            (Some(seconds), _) if seconds > 0 => Duration::from_secs(seconds).min(LONGEST),
            (_, Kind::Probe) => Duration::from_secs(1),
            (_, Kind::Hook) => LONGEST,
        };
        Ok(Probe { kind, action, timeout, replaying: Mutex::default() })
    }

    fn port(&self, place: &str, action: &Value) -> Result<u16, DeclaredError> {
        let port = action["port"].as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        port.filter(|port| !self.is_own(*port))
            .ok_or_else(|| refuse(place, action["port"].to_string(), "a port of the application, 1 to 65535"))
    }

    fn get(&self, place: &str, get: &Value) -> Result<Get, DeclaredError> {
        let https = match get["scheme"].as_str() {
            None | Some("" | "HTTP") => false,
            Some("HTTPS") => true,
            Some(other) => return Err(refuse(place, other, "scheme HTTP or HTTPS")),
        };
        let mut headers = HeaderMap::new();
        for header in get["httpHeaders"].as_array().into_iter().flatten() {
            let (name, value) =
                (header["name"].as_str().unwrap_or_default(), header["value"].as_str().unwrap_or_default());
            let name =
                HeaderName::try_from(name).map_err(|_| refuse(place, header.to_string(), "the name of a header"))?;
            let value =
                HeaderValue::try_from(value).map_err(|_| refuse(place, header.to_string(), "the value of a header"))?;
            headers.append(name, value);
        }
        let path = target(get["path"].as_str().unwrap_or_default());
        Ok(Get { https, port: self.port(place, get)?, path, headers })
    }

    /// What is declared under `KEY/CONTAINER/KIND`.
    pub(super) fn find(&self, name: &str) -> Option<&Probe> {
        self.probes.get(name)
    }

    /// The pod's address to call the application at: the one that the caller reached, unless that is another (loopback).
    pub(super) fn own_address(&self, reached: IpAddr) -> IpAddr {
        let reached = reached.to_canonical();
        match self.addresses.first() {
            Some(first) if !self.addresses.contains(&reached) => *first,
            _ => reached,
        }
    }

    /// Whether the sidecar listens there.
    pub(super) fn is_own(&self, port: u16) -> bool {
        self.own_ports.contains(&port)
    }
}

fn refuse(place: &str, found: impl Into<String>, want: &'static str) -> DeclaredError {
    DeclaredError::Probes { place: place.to_owned(), found: found.into(), want }
}

/// A path as it stands in a request: with a slash before it, and escaped what may not stand there.
pub(super) fn target(path: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(path.len() + 1);
    if !path.starts_with('/') {
        out.push('/');
    }
    // A fragment is never sent.
    for byte in path.split('#').next().unwrap_or_default().bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}') {
            out.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            _ = write!(out, "%{byte:02X}");
        }
    }
    out
}
