//! The configuration file of `signet-ca`; every key, its default and its bounds. Read once, before any socket is opened.
use crate::{limits::Rate, root, state_dir::private_directory};
use signet_enroll::settings::{File, LogSettings, Problems, Setting, Table, Unfit, Value};
use signet_identity::{SpiffeId, TrustDomain, profile};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

/// Where the state lies unless the file says otherwise.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/signet-ca";

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// `trust_domain`: whose identities are issued.
    pub trust_domain: TrustDomain,
    /// `control_namespace`: where the reserved identities lie; `signet-system`.
    pub control_namespace: String,
    /// `listen`: gRPC over TLS; `0.0.0.0:15012`.
    pub listen: SocketAddr,
    /// `health`: `/healthz`, `/readyz`, `/metrics`, on loopback (in a cluster on any address); `127.0.0.1:15022`.
    pub health: SocketAddr,
    /// `state_dir`: root key and store; `/var/lib/signet-ca`. In a cluster there is none.
    pub state_dir: PathBuf,
    /// `admin_socket`: for `signet token`; `admin.sock` in the state directory.
    pub admin_socket: PathBuf,
    /// `[lifetimes]`.
    pub lifetimes: Lifetimes,
    /// `[limits]`.
    pub limits: Limits,
    /// `[log]`.
    pub log: LogSettings,
    /// `[kubernetes]`: the state is in a cluster, and its pods are attested. Absent: a state directory, and hosts that join.
    pub kubernetes: Option<Kubernetes>,
}

/// `[kubernetes]`; nothing in it has to be set.
#[derive(Debug, Clone)]
pub struct Kubernetes {
    /// `kubeconfig`: for a CA outside the cluster; inside it is told by its environment.
    pub kubeconfig: Option<PathBuf>,
    /// `peer_address`: `require`.
    pub peer_address: PeerAddress,
    /// `instance`: names this replica in its issuer records; `HOSTNAME`, which is the pod's name.
    pub instance: String,
}

/// What becomes of a caller whose address is not one of its pod's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeerAddress {
    /// It is refused.
    #[default]
    Require,
    /// It is written down: for clusters that rewrite addresses between pods.
    Record,
}

impl Setting for PeerAddress {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        match String::read(value)?.as_str() {
            "require" => Ok(Self::Require),
            "record" => Ok(Self::Record),
            _ => Err(Unfit::default()),
        }
    }
    fn show(&self) -> String {
        match self {
            Self::Require => "\"require\"".into(),
            Self::Record => "\"record\"".into(),
        }
    }
}

/// `[lifetimes]`: durations of whole seconds.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// `leaf`: `1h`.
    pub leaf: Duration,
    /// `issuing`: `7d`; replaced at two thirds.
    pub issuing: Duration,
    /// `root`: `365d`; counts when a root is made.
    pub root: Duration,
    /// `join_token`: `10m`, unless a token is made with another.
    pub join_token: Duration,
    /// `journal`: how long an entry is kept after its certificate's end; `7d`.
    pub journal: Duration,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `signing`: requests whose signatures are worked on at the same time; the number of processors.
    pub signing: usize,
    /// `waiting`: requests that may wait for that; 1024.
    pub waiting: usize,
    /// `per_workload`, `per_workload_burst`: certificates for one workload a second and at once; 5 and 50.
    pub workload: Rate,
    /// `per_address`, `per_address_burst`: calls without attestation from one address a second and at once; 200 and 1000.
    pub address: Rate,
    /// `failures`, `failures_burst`: proofs from one address that did not verify, a second and at once; 5 and 50.
    pub failures: Rate,
    /// `watches`: open trust streams; 20000.
    pub watches: usize,
    /// `watches_per_address`: trust streams of one address; 8 in a cluster where each pod has its own, else 1024.
    pub watches_per_address: usize,
    /// `connections`: open connections; 20000.
    pub connections: usize,
    /// `connections_per_address`: 64 in a cluster where each pod has its own, else 1024: machines have many workloads, and nodes
    /// may hide their pods behind their own address.
    pub connections_per_address: usize,
    /// `connection_age`: a connection takes no new calls after this long; `10m`. Callers connect again.
    pub connection_age: Duration,
    /// `answer_time`: how long a request may take, the disk included; `8s`. Then its caller is told to ask again; clients
    /// wait for 15 s.
    pub answer_time: Duration,
}

impl Config {
    /// Reads the file; all its problems at once.
    pub fn read(path: &Path) -> Result<Self, Problems> {
        Self::from_file(File::open(path)?)
    }

    fn from_file(mut file: File) -> Result<Self, Problems> {
        let mut top = file.root();
        let trust_domain: Option<TrustDomain> = top.required("trust_domain", "a trust domain such as example.org");
        let control_namespace = top.or("control_namespace", "signet-system".to_owned(), "a namespace");
        let listen = top.or("listen", SocketAddr::from(([0, 0, 0, 0], 15012)), "an address such as 0.0.0.0:15012");
        let health = top.or("health", SocketAddr::from(([127, 0, 0, 1], 15022)), "an address such as 127.0.0.1:15022");
        let kubernetes = kubernetes(&mut top.table("kubernetes"));
        let in_cluster = matches!(kubernetes, Some(Some(_)));
        let health = health.filter(|address| {
            let want = "a loopback address: it is plaintext";
            top.check("health", in_cluster || address.ip().is_loopback(), want)
        });
        let state_dir: Option<Option<PathBuf>> = top.optional("state_dir", "a directory");
        let state_dir = state_dir.filter(|configured| {
            let path = configured.as_deref().unwrap_or(Path::new(DEFAULT_STATE_DIR));
            // One that is not there yet is made at the start, and in a cluster there is none.
            let problem = (!in_cluster && path.exists()).then(|| private_directory(path).err()).flatten();
            if let Some(problem) = &problem {
                top.refuse("state_dir", &problem.to_string(), "a directory that only this user may enter");
            }
            problem.is_none()
        });
        let admin_socket: Option<Option<PathBuf>> = top.optional("admin_socket", "the path of a Unix socket");
        for (key, set) in [("state_dir", &state_dir), ("admin_socket", &admin_socket)] {
            let absent = !matches!(set, Some(Some(_)));
            top.check(
                key,
                absent || !in_cluster,
                "no such key beside [kubernetes]: the state is in the cluster, and pods need no join tokens",
            );
        }
        if let (Some(td), Some(namespace)) = (&trust_domain, &control_namespace) {
            let fits = SpiffeId::workload(td, namespace, "signet-ca").is_ok();
            top.check("control_namespace", fits, "a namespace of a-z A-Z 0-9 . _ -");
        }
        let lifetimes = lifetimes(&mut top.table("lifetimes"));
        // Where addresses are recorded only, many pods may seem to have the same.
        let own_addresses = matches!(&kubernetes, Some(Some(k)) if k.peer_address == PeerAddress::Require);
        let limits = limits(&mut top.table("limits"), own_addresses);
        let log = LogSettings::read(&mut top.table("log"));
        file.finish(|| {
            let state_dir = state_dir?.unwrap_or_else(|| PathBuf::from(DEFAULT_STATE_DIR));
            Some(Self {
                trust_domain: trust_domain?,
                control_namespace: control_namespace?,
                listen: listen?,
                health: health?,
                admin_socket: admin_socket?.unwrap_or_else(|| state_dir.join("admin.sock")),
                state_dir,
                lifetimes: lifetimes?,
                limits: limits?,
                log: log?,
                kubernetes: kubernetes?,
            })
        })
    }
}

impl Lifetimes {
    /// What the root and the issuing CAs need of them.
    pub fn authorities(&self) -> root::Lifetimes {
        root::Lifetimes { root: self.root, issuing: self.issuing }
    }
}

#[allow(clippy::option_option, reason = "wrong, absent, and there are three answers, as everywhere in the reader")]
fn kubernetes(table: &mut Table<'_>) -> Option<Option<Kubernetes>> {
    let kubeconfig = table.optional("kubeconfig", "path of a kubeconfig");
    let peer_address = table.or("peer_address", PeerAddress::Require, "\"require\" or \"record\"");
    let instance: Option<Option<String>> = table.optional("instance", "a name for this replica");
    if !table.present() {
        return Some(None);
    }
    let instance = instance?.or_else(|| std::env::var("HOSTNAME").ok()).filter(|name| !name.is_empty());
    let good = instance.as_ref().is_some_and(|name| name.len() <= 253);
    table.check("instance", good, "a name for this replica of at most 253 bytes (HOSTNAME is not set)");
    Some(Some(Kubernetes { kubeconfig: kubeconfig?, peer_address: peer_address?, instance: instance? }))
}

fn lifetimes(table: &mut Table<'_>) -> Option<Lifetimes> {
    let leaf = seconds(table, "leaf", profile::LEAF_LIFETIME);
    let issuing = seconds(table, "issuing", profile::ISSUING_LIFETIME);
    let root = seconds(table, "root", profile::ROOT_LIFETIME);
    let join_token = seconds(table, "join_token", Duration::from_mins(10));
    let journal = seconds(table, "journal", Duration::from_hours(7 * 24));
    if let (Some(leaf), Some(issuing), Some(root)) = (leaf, issuing, root) {
        // A leaf that outlives what is left of its issuer is cut short; with a third left, it never is.
        table.check("issuing", issuing >= leaf * 3, "at least three times the life of a leaf");
        table.check("root", root > issuing, "longer than the life of an issuing CA");
    }
    if let Some(token) = join_token {
        table.check("join_token", token <= MAX_TOKEN_LIFETIME, "at most 24h: a token is for joining now");
    }
    Some(Lifetimes { leaf: leaf?, issuing: issuing?, root: root?, join_token: join_token?, journal: journal? })
}

/// The longest life that a join token is given.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_hours(24);

/// Certificates count whole seconds.
fn seconds(table: &mut Table<'_>, key: &str, default: Duration) -> Option<Duration> {
    let want = "a duration of whole seconds such as \"1h\", at least \"2s\"";
    let found: Duration = table.or(key, default, want)?;
    let fits = found.subsec_nanos() == 0 && found.as_secs() >= 2 && found <= Duration::from_hours(24 * 365 * 30);
    table.check(key, fits, want).then_some(found)
}

fn limits(table: &mut Table<'_>, own_addresses: bool) -> Option<Limits> {
    let processors = thread::available_parallelism().map_or(2, usize::from).clamp(1, 256);
    let signing = table.ranged("signing", processors, 1..=256);
    let waiting = table.ranged("waiting", 1024_usize, 0..=1_000_000);
    let workload = rate(table, "per_workload", "per_workload_burst", Rate { per_second: 5, burst: 50 });
    let address = rate(table, "per_address", "per_address_burst", Rate { per_second: 200, burst: 1000 });
    let failures = rate(table, "failures", "failures_burst", Rate { per_second: 5, burst: 50 });
    let watches = table.ranged("watches", 20_000_usize, 1..=1_000_000);
    let shared = if own_addresses { (8, 64) } else { (1024, 1024) };
    let watches_per_address = table.ranged("watches_per_address", shared.0, 1..=1_000_000_usize);
    let connections = table.ranged("connections", 20_000_usize, 1..=1_000_000);
    let connections_per_address = table.ranged("connections_per_address", shared.1, 1..=1_000_000_usize);
    let connection_age =
        table.ranged("connection_age", Duration::from_mins(10), Duration::from_secs(1)..=Duration::from_hours(24));
    let answer_time =
        table.ranged("answer_time", Duration::from_secs(8), Duration::from_millis(100)..=Duration::from_secs(9));
    Some(Limits {
        signing: signing?,
        waiting: waiting?,
        workload: workload?,
        address: address?,
        failures: failures?,
        watches: watches?,
        watches_per_address: watches_per_address?,
        connections: connections?,
        connections_per_address: connections_per_address?,
        connection_age: connection_age?,
        answer_time: answer_time?,
    })
}

fn rate(table: &mut Table<'_>, per_second: &str, burst: &str, default: Rate) -> Option<Rate> {
    let average = table.ranged(per_second, default.per_second, 1..=1_000_000_u32);
    let burst = table.ranged(burst, default.burst, 1..=1_000_000_u32);
    Some(Rate { per_second: average?, burst: burst? })
}

#[cfg(test)]
mod tests;
