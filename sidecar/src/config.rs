//! `sidecar.toml`: everything that `signet-sidecar run` and `signet-sidecar capture --config` are told. Read once, at start;
//! every problem is reported before any socket is opened. Only `[ca]` and `[operator]` must be given:
//!
//! ```toml
//! name = "shop/orders"              # for logs; the operator's name for this workload once it is known
//! runtime_dir = "/run/signet"       # the last configuration lies here; 0700, better in memory
//! uid = 2137                        # the user this program runs as, whose connections are not captured
//! workers = 1                       # data path threads
//!
//! [ca]
//! address = "10.0.0.1:15012"
//! trust_domain = "example.org"
//! bundle = "bundle.pem"             # authenticates first contact
//! state_dir = "/var/lib/signet"     # the host key
//! join_token_file = "token"         # until the host key is registered
//!
//! [operator]
//! address = "10.0.0.1:15010"
//!
//! [listen]
//! addresses = ["0.0.0.0", "::"]     # of the tunnel, captured inbound and health; the rest is on loopback always
//! outbound = 15001
//! plaintext = 15006
//! tunnel = 15008
//! admin = 15020
//! health = 15021
//!
//! [capture]
//! exclude_outbound_ports = []       # [22, "8000-8100"]
//! exclude_inbound_ports = []
//! exclude_outbound_cidrs = []
//! include_outbound_cidrs = []
//! source_addresses = 4
//!
//! [limits]
//! connections = 16384
//! connections_per_identity = 8192   # inbound; half of `connections`
//! handshakes = 256
//! head_bytes = "8KiB"
//! head_time = "5s"
//! connect_time = "5s"
//! unknown_wait = "5s"
//!
//! [tunnel]
//! streams = 256
//! idle = "5m"
//! grace = "10s"
//! alone_above = "8MiB"
//! max_age_foreign = "1h"            # off when absent
//!
//! [drain]
//! grace = "25s"
//!
//! [log]
//! format = "text"                   # or "json"
//! filter = "info"
//!
//! [access_log]
//! enabled = true
//! format = "text"                   # or "json"
//! ```
use crate::capture::Plan;
use crate::ports;
use signet_enroll::EnrollConfig;
use signet_enroll::settings::{Bytes, File, LogFormat, LogSettings, Problems, Table};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The whole configuration, valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// For logs until the operator names the workload.
    pub name: Option<String>,
    /// Where the last configuration lies. If it exists, only its owner may enter.
    pub runtime_dir: PathBuf,
    /// The user this program runs as, whose connections are not captured.
    pub uid: u32,
    /// Data path threads, 1 to 64.
    pub workers: u16,
    /// The CA, and how this workload proves itself to it.
    pub ca: EnrollConfig,
    /// The operator's control address, `host:port`.
    pub operator: String,
    /// Addresses of the tunnel, captured inbound and health listeners. Never empty.
    pub addresses: Vec<IpAddr>,
    /// Five different ports.
    pub ports: Ports,
    /// What `capture` redirects.
    pub capture: Plan,
    /// What peers and the workload may use up.
    pub limits: Limits,
    /// Tunnels to and from peers.
    pub tunnel: Tunnel,
    /// After SIGTERM: how long open connections may finish.
    pub drain_grace: Duration,
    /// The program's own log, on standard error.
    pub log: LogSettings,
    /// One record for every connection, on standard output; `None`: off.
    pub access_log: Option<LogFormat>,
}

/// The sidecar's own ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    /// Captured outbound; loopback only.
    pub outbound: u16,
    /// Captured inbound plaintext.
    pub plaintext: u16,
    /// The tunnel, mutual TLS.
    pub tunnel: u16,
    /// Admin; loopback only, read only.
    pub admin: u16,
    /// Health and metrics.
    pub health: u16,
}

/// What may be used up. Whatever is above is refused and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections open at once, both directions together.
    pub connections: u32,
    /// Tunnels and connections that callers of one identity may hold: half of `connections` unless given.
    pub connections_per_identity: u32,
    /// Inbound TLS handshakes in progress at once.
    pub handshakes: u32,
    /// Bytes of a CONNECT head.
    pub head_bytes: u32,
    /// From the end of the handshake to the end of the CONNECT head.
    pub head_time: Duration,
    /// To connect to a peer or the application, and for a handshake.
    pub connect_time: Duration,
    /// How long a destination inside the mesh's ranges may stay unknown before it is refused.
    pub unknown_wait: Duration,
}

/// Tunnels to and from peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tunnel {
    /// Connections that one pooled tunnel carries at once.
    pub streams: u32,
    /// A pooled tunnel without connections ends after this.
    pub idle: Duration,
    /// After `notAfter`: how long a tunnel that was not re-proved may live on.
    pub grace: Duration,
    /// Connections to a destination port that moved more bytes than this on average get tunnels of their own.
    pub alone_above: u64,
    /// The greatest age of tunnels of peers that cannot re-prove them (curl, HBONE); `None`: no limit.
    pub max_age_foreign: Option<Duration>,
}

impl Config {
    /// Reads and checks the file.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::from_file(File::open(path)?)
    }

    /// Reads and checks what an environment variable holds.
    pub fn from_environment(variable: &str) -> Result<Self, Problems> {
        Self::from_file(File::from_environment(variable)?)
    }

    /// Only what `capture` needs of the configuration in an environment variable. The container that writes the redirect rules
    /// has neither the bundle nor the token that the rest names; `run` reads that rest before any connection is served.
    pub fn capture_from_environment(variable: &str) -> Result<Plan, Problems> {
        Self::capture_from_file(File::from_environment(variable)?)
    }

    fn capture_from_file(mut file: File) -> Result<Plan, Problems> {
        let mut root = file.root();
        root.leave(&[
            "name",
            "workers",
            "runtime_dir",
            "ca",
            "operator",
            "limits",
            "tunnel",
            "drain",
            "log",
            "access_log",
        ]);
        let uid = root.or("uid", ports::UID, "a user number such as 2137");
        let mut listen = root.table("listen");
        // `run` reads the addresses.
        listen.leave(&["addresses"]);
        let ports = Ports::read(&mut listen);
        let capture = Plan::read(&mut root.table("capture"), uid.unwrap_or(ports::UID), ports.unwrap_or_default());
        file.finish(|| capture)
    }

    fn from_file(mut file: File) -> Result<Self, Problems> {
        let config = Self::from_root(&mut file.root());
        file.finish(|| config)
    }

    fn from_root(root: &mut Table<'_>) -> Option<Self> {
        // Every table is read before the first `?`: a problem in one must not hide those of the next.
        let name = root.optional("name", "a name such as \"shop/orders\"");
        let uid = root.or("uid", ports::UID, "a user number such as 2137");
        let workers = root.ranged("workers", 1, 1..=64);
        let runtime_dir = runtime_dir(root);
        let ca = EnrollConfig::read(&mut root.table("ca"));
        let operator = address(&mut root.table("operator"), "an address such as \"10.0.0.1:15010\"");
        let mut listen = root.table("listen");
        let addresses = addresses(&mut listen);
        let ports = Ports::read(&mut listen);
        // Without ports the capture table is still checked, against the default ones.
        let capture = Plan::read(&mut root.table("capture"), uid.unwrap_or(ports::UID), ports.unwrap_or_default());
        let limits = Limits::read(&mut root.table("limits"));
        let tunnel = Tunnel::read(&mut root.table("tunnel"));
        let drain_grace = root.table("drain").ranged("grace", seconds(25), seconds(0)..=seconds(3600));
        let log = LogSettings::read(&mut root.table("log"));
        let mut access = root.table("access_log");
        let access_enabled = access.or("enabled", true, "true or false");
        let access_format = access.or("format", LogFormat::Text, "\"text\" or \"json\"");
        Some(Self {
            name: name?,
            runtime_dir: runtime_dir?,
            uid: uid?,
            workers: workers?,
            ca: ca?,
            operator: operator?,
            addresses: addresses?,
            ports: ports?,
            capture: capture?,
            limits: limits?,
            tunnel: tunnel?,
            drain_grace: drain_grace?,
            log: log?,
            access_log: access_enabled?.then_some(access_format?),
        })
    }
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            outbound: ports::OUTBOUND,
            plaintext: ports::PLAINTEXT,
            tunnel: ports::TUNNEL,
            admin: ports::ADMIN,
            health: ports::HEALTH,
        }
    }
}

impl Ports {
    fn read(listen: &mut Table<'_>) -> Option<Self> {
        let outbound = listen.ranged("outbound", ports::OUTBOUND, 1..=u16::MAX);
        let plaintext = listen.ranged("plaintext", ports::PLAINTEXT, 1..=u16::MAX);
        let tunnel = listen.ranged("tunnel", ports::TUNNEL, 1..=u16::MAX);
        let admin = listen.ranged("admin", ports::ADMIN, 1..=u16::MAX);
        let health = listen.ranged("health", ports::HEALTH, 1..=u16::MAX);
        let read = Self { outbound: outbound?, plaintext: plaintext?, tunnel: tunnel?, admin: admin?, health: health? };
        if !read.distinct() {
            listen.refuse("outbound", &format!("the ports {read}"), "five different ports");
            return None;
        }
        Some(read)
    }

    /// All five.
    pub fn all(&self) -> [u16; 5] {
        [self.outbound, self.plaintext, self.tunnel, self.admin, self.health]
    }

    /// No two the same, and none of them 0.
    pub fn distinct(&self) -> bool {
        let all = self.all();
        all.iter().enumerate().all(|(index, port)| *port != 0 && all.iter().skip(index + 1).all(|other| other != port))
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { outbound, plaintext, tunnel, admin, health } = self;
        write!(f, "outbound {outbound}, plaintext {plaintext}, tunnel {tunnel}, admin {admin}, health {health}")
    }
}

impl Limits {
    fn read(table: &mut Table<'_>) -> Option<Self> {
        let connections = table.ranged("connections", 16384, 1..=1_000_000);
        let half = connections.map_or(8192, |connections: u32| connections.div_ceil(2));
        let connections_per_identity = table.ranged("connections_per_identity", half, 1..=1_000_000);
        let handshakes = table.ranged("handshakes", 256, 1..=65536);
        let head_bytes = table.ranged("head_bytes", Bytes(8192), Bytes(256)..=Bytes(64 * 1024));
        let moments = Duration::from_millis(100)..=seconds(60);
        let head_time = table.ranged("head_time", seconds(5), moments.clone());
        let connect_time = table.ranged("connect_time", seconds(5), moments.clone());
        let unknown_wait = table.ranged("unknown_wait", seconds(5), moments);
        Some(Self {
            connections: connections?,
            connections_per_identity: connections_per_identity?,
            handshakes: handshakes?,
            head_bytes: head_bytes?.0 as u32,
            head_time: head_time?,
            connect_time: connect_time?,
            unknown_wait: unknown_wait?,
        })
    }
}

impl Tunnel {
    fn read(table: &mut Table<'_>) -> Option<Self> {
        // h2 proxies commonly allow 100 (Go, nginx 128, Envoy 2^31-1); each stream here costs its window only when in use.
        let streams = table.ranged("streams", 256, 1..=65536);
        let idle = table.ranged("idle", seconds(300), seconds(1)..=seconds(86400));
        let grace = table.ranged("grace", seconds(10), seconds(0)..=seconds(3600));
        let alone_above = table.ranged("alone_above", Bytes(8 << 20), Bytes(0)..=Bytes(1 << 40));
        let max_age_foreign = table.optional("max_age_foreign", "a duration such as \"1h\"");
        if let Some(Some(age)) = max_age_foreign {
            let want = "at least \"1s\", or no such key for no limit";
            if !table.check("max_age_foreign", age >= seconds(1), want) {
                return None;
            }
        }
        Some(Self {
            streams: streams?,
            idle: idle?,
            grace: grace?,
            alone_above: alone_above?.0,
            max_age_foreign: max_age_foreign?,
        })
    }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// `address = "host:port"`: names are looked up when they are dialled.
fn address(table: &mut Table<'_>, want: &str) -> Option<String> {
    let address: String = table.required("address", want)?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':' | b'[' | b']' | b'%');
    let good = address.rsplit_once(':').is_some_and(|(host, port)| {
        let bracketed = host.starts_with('[') && host.ends_with(']');
        !host.is_empty() && (bracketed || !host.contains(':')) && port.parse().is_ok_and(|port: u16| port != 0)
    });
    table.check("address", good && address.bytes().all(plain), want).then_some(address)
}

fn addresses(listen: &mut Table<'_>) -> Option<Vec<IpAddr>> {
    let want = "addresses such as [\"0.0.0.0\", \"::\"]";
    let every = vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses: Vec<IpAddr> = listen.or("addresses", every, want)?;
    listen.check("addresses", !addresses.is_empty(), want).then_some(addresses)
}

fn runtime_dir(root: &mut Table<'_>) -> Option<PathBuf> {
    let directory: PathBuf = root.or("runtime_dir", PathBuf::from("/run/signet"), "the path of a directory")?;
    // One that does not exist yet is made with mode 0700 at start.
    let Ok(metadata) = std::fs::metadata(&directory) else { return Some(directory) };
    let shown = directory.display();
    if !metadata.is_dir() {
        root.refuse("runtime_dir", &format!("{shown}, which is not a directory"), "the path of a directory");
        return None;
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        let want = format!("a directory that only its owner may enter: chmod 0700 {shown}");
        root.refuse("runtime_dir", &format!("{shown} with mode {mode:04o}"), &want);
        return None;
    }
    Some(directory)
}

#[cfg(test)]
mod tests;
