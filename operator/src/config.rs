//! `operator.toml`. Everything that is wrong with it is reported at once, before a socket is opened.
//!
//! ```toml
//! files = "mesh"                    # directory of Workload, Service, Posture and AllowRule documents
//! listen = "0.0.0.0:15010"          # where sidecars attach
//! health = "127.0.0.1:15023"        # health, metrics and status
//! mesh_ranges = ["10.77.0.0/16"]    # where meshed workloads can be, beside the addresses of the documents
//!
//! [posture]                         # of namespaces whose Posture does not say
//! inbound = "audit"
//! egress = "allow"
//!
//! [limits]
//! streams = 16384                   # sidecars at once
//! stream_age = "30m"                # then a sidecar attaches anew
//! connections = 20000               # of sidecars, at least as many as streams; more wait
//! connections_per_address = 256     # of one address (IPv6 outside a cluster: a /64) that have not proved yet who they are
//! connections_per_peer = 16         # of one identity and UID
//!
//! [kubernetes]                      # instead of `files`: a cluster's objects; see `cluster`
//! sidecar_images = ["signet/signet-sidecar"]
//!
//! [inject]                          # with it this operator injects sidecars; see `inject`
//! image = "signet/signet-sidecar:0.1.0"
//!
//! [ca]                              # see signet-enroll: address, trust_domain, bundle, state_dir, join_token_file
//! ```
use crate::control::Limits;
use crate::index::Settings;
use ipnet::IpNet;
use signet_enroll::EnrollConfig;
use signet_enroll::settings::{File, LogSettings, Problems, Table};
use signet_policy::{Decision, Egress, Posture};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Everything that can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where workloads and rules come from.
    pub source: Source,
    /// Where sidecars attach.
    pub listen: SocketAddr,
    /// Health, metrics and status; loopback.
    pub health: SocketAddr,
    /// Ranges and default posture.
    pub settings: Settings,
    /// Bounds of the control service.
    pub limits: Limits,
    /// How the operator gets its own certificate. Its state directory holds the operator's own state too.
    pub enroll: EnrollConfig,
    /// What is injected into pods; nothing where no cluster is.
    pub inject: Option<crate::inject::Settings>,
    /// What is logged, and how.
    pub log: LogSettings,
}

/// Where workloads and rules come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A directory of documents.
    Files(PathBuf),
    /// The objects of a cluster.
    Cluster(crate::cluster::Settings),
}

impl Config {
    /// Reads the file; `files` from the command line wins over the file's.
    pub fn read(path: &Path, files: Option<PathBuf>) -> Result<Self, Problems> {
        Self::from_file(File::open(path)?, files)
    }

    fn from_file(mut file: File, files: Option<PathBuf>) -> Result<Self, Problems> {
        let mut root = file.root();
        let kubernetes = kubernetes(&mut root.table("kubernetes"));
        let in_cluster = kubernetes.is_some();
        let source = match kubernetes {
            Some(cluster) => {
                let no_files = files.is_none() && root.optional::<PathBuf>("files", "no such key") == Some(None);
                root.check("files", no_files, "either `files` or [kubernetes]");
                cluster.map(Source::Cluster)
            }
            None => directory(&mut root, files).map(Source::Files),
        };
        let listen = root.or("listen", SocketAddr::from(([0, 0, 0, 0], 15010)), "an address such as 0.0.0.0:15010");
        let loopback = "an address of this machine alone, such as 127.0.0.1:15023";
        let health = root.or("health", SocketAddr::from(([127, 0, 0, 1], 15023)), loopback);
        // A pod's probes come from its node, and scrapers from other pods.
        let health = health.filter(|health| in_cluster || root.check("health", health.ip().is_loopback(), loopback));
        let ranges = root.or("mesh_ranges", Vec::<IpNet>::new(), "networks such as [\"10.77.0.0/16\"]");
        let plain = "networks without address bits beyond their length, such as 10.77.0.0/16";
        let ranges = ranges.filter(|all| root.check("mesh_ranges", all.iter().all(|net| *net == net.trunc()), plain));
        let (inbound, egress) = posture(&mut root.table("posture"));
        let limits = limits(&mut root.table("limits"), in_cluster);
        let enroll = EnrollConfig::read(&mut root.table("ca"));
        let inject = injection(&mut root, enroll.as_ref(), in_cluster);
        let log = LogSettings::read(&mut root.table("log"));
        file.finish(|| {
            let enroll = enroll?;
            let settings = Settings {
                trust_domain: enroll.trust_domain.clone(),
                mesh_ranges: ranges?,
                inbound: inbound?,
                egress: Egress { default: egress?, exceptions: Vec::new() },
            };
            Some(Self {
                source: source?,
                listen: listen?,
                health: health?,
                settings,
                limits: limits?,
                enroll,
                inject: inject?,
                log: log?,
            })
        })
    }
}

fn directory(root: &mut Table<'_>, given: Option<PathBuf>) -> Option<PathBuf> {
    let want = "path of a directory of YAML documents";
    match (root.optional("files", want), given) {
        (Some(_), Some(given)) => Some(given),
        (Some(None), None) => {
            root.check("files", false, "path of a directory of YAML documents, or --files DIR, or [kubernetes]");
            None
        }
        (Some(configured), None) => configured,
        (None, _) => None,
    }
}

/// The outer one: whether the table is there; the inner one: whether it could be read.
#[allow(clippy::option_option, reason = "outer: is it there; inner: could it be read")]
fn kubernetes(table: &mut Table<'_>) -> Option<Option<crate::cluster::Settings>> {
    if !table.present() {
        return None;
    }
    let want = "repositories of images without tag, such as [\"signet/signet-sidecar\"]";
    let images = table.or("sidecar_images", vec!["signet/signet-sidecar".to_owned()], want);
    let images = images.filter(|images| table.check("sidecar_images", !images.is_empty(), want));
    let kubeconfig = table.optional("kubeconfig", "path of a kubeconfig");
    Some((|| Some(crate::cluster::Settings { sidecar_images: images?, kubeconfig: kubeconfig? }))())
}

/// The outer one: whether it could be read; the inner one: whether the table is there.
#[allow(clippy::option_option, reason = "wrong, absent, and there are three answers")]
fn injection(
    root: &mut Table<'_>,
    enroll: Option<&EnrollConfig>,
    in_cluster: bool,
) -> Option<Option<crate::inject::Settings>> {
    let mut table = root.table("inject");
    if !table.present() {
        return Some(None);
    }
    // Without [ca] nothing starts anyway, but what is wrong here is reported all the same.
    let trust_domain = enroll.map(|enroll| enroll.trust_domain.clone()).or_else(|| "unknown.invalid".parse().ok())?;
    let namespace = enroll.map_or("signet-system", |enroll| enroll.control_namespace.as_str());
    let settings = crate::inject::Settings::read(&mut table, &trust_domain, namespace)?;
    root.check("inject", in_cluster, "no such table without [kubernetes]").then_some(Some(settings))
}

fn posture(table: &mut Table<'_>) -> (Option<Posture>, Option<Decision>) {
    let want = "\"allow\", \"audit\", \"authenticated\" or \"deny\"";
    let inbound = table.or("inbound", "audit".to_owned(), want).and_then(|word| {
        let posture = word.parse::<Posture>().ok();
        table.check("inbound", posture.is_some(), want);
        posture
    });
    let want = "\"allow\" or \"deny\"";
    let egress = table.or("egress", "allow".to_owned(), want).and_then(|word| {
        let decision = crate::documents::egress_word(&word);
        table.check("egress", decision.is_some(), want);
        decision
    });
    (inbound, egress)
}

fn limits(table: &mut Table<'_>, in_cluster: bool) -> Option<Limits> {
    let door = door(table, in_cluster);
    let streams = table.ranged("streams", 16_384, 1..=1_000_000_usize);
    let (shortest, longest) = (Duration::from_mins(1), Duration::from_hours(24));
    let max_age = table.ranged("stream_age", Duration::from_mins(30), shortest..=longest);
    let (streams, door) = (streams?, door?);
    let want = format!("at least `streams`, {streams}: each has a connection");
    table.check("connections", door.connections >= streams, &want).then_some(())?;
    Some(Limits { streams, max_age: max_age?, door, ..Limits::default() })
}

/// Of the control service's listener. Whoever has proved who he is counts by that; so what one address may have are handshakes.
fn door(table: &mut Table<'_>, in_cluster: bool) -> Option<signet_enroll::Limits> {
    let usual = signet_enroll::Limits::default();
    let connections = table.ranged("connections", usual.connections, 1..=1_000_000);
    let of_address = table.ranged("connections_per_address", usual.handshakes_per_address, 1..=1_000_000);
    let of_peer = table.ranged("connections_per_peer", usual.connections_per_peer, 1..=1_000_000);
    Some(signet_enroll::Limits {
        connections: connections?,
        handshakes_per_address: of_address?,
        connections_per_address: of_address?,
        connections_per_peer: of_peer?,
        // In a cluster a /64 is a whole node's pods.
        whole_ipv6: in_cluster,
        ..usual
    })
}

#[cfg(test)]
mod tests;
