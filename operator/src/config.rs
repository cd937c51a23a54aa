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
    /// The directory of documents.
    pub files: PathBuf,
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
    /// What is logged, and how.
    pub log: LogSettings,
}

impl Config {
    /// Reads the file; `files` from the command line wins over the file's.
    pub fn read(path: &Path, files: Option<PathBuf>) -> Result<Self, Problems> {
        Self::from_file(File::open(path)?, files)
    }

    fn from_file(mut file: File, files: Option<PathBuf>) -> Result<Self, Problems> {
        let mut root = file.root();
        let configured = root.optional("files", "path of a directory of YAML documents");
        let files = match (configured, files) {
            (Some(_), Some(given)) => Some(given),
            (Some(None), None) => {
                root.check("files", false, "path of a directory of YAML documents, or --files DIR");
                None
            }
            (Some(configured), None) => configured,
            (None, _) => None,
        };
        let listen = root.or("listen", SocketAddr::from(([0, 0, 0, 0], 15010)), "an address such as 0.0.0.0:15010");
        let loopback = "an address of this machine alone, such as 127.0.0.1:15023";
        let health = root.or("health", SocketAddr::from(([127, 0, 0, 1], 15023)), loopback);
        let health = health.filter(|health| root.check("health", health.ip().is_loopback(), loopback));
        let ranges = root.or("mesh_ranges", Vec::<IpNet>::new(), "networks such as [\"10.77.0.0/16\"]");
        let plain = "networks without address bits beyond their length, such as 10.77.0.0/16";
        let ranges = ranges.filter(|all| root.check("mesh_ranges", all.iter().all(|net| *net == net.trunc()), plain));
        let (inbound, egress) = posture(&mut root.table("posture"));
        let limits = limits(&mut root.table("limits"));
        let enroll = EnrollConfig::read(&mut root.table("ca"));
        let log = LogSettings::read(&mut root.table("log"));
        file.finish(|| {
            let enroll = enroll?;
            let settings = Settings {
                trust_domain: enroll.trust_domain.clone(),
                mesh_ranges: ranges?,
                inbound: inbound?,
                egress: Egress { default: egress?, exceptions: Vec::new() },
            };
            Some(Self { files: files?, listen: listen?, health: health?, settings, limits: limits?, enroll, log: log? })
        })
    }
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

fn limits(table: &mut Table<'_>) -> Option<Limits> {
    let streams = table.ranged("streams", 16_384, 1..=1_000_000_usize);
    let (shortest, longest) = (Duration::from_mins(1), Duration::from_hours(24));
    let max_age = table.ranged("stream_age", Duration::from_mins(30), shortest..=longest);
    Some(Limits { streams: streams?, max_age: max_age?, ..Limits::default() })
}

#[cfg(test)]
mod tests;
