//! The `[inject]` table of `operator.toml`: what every injected sidecar is told. The chart renders it.
//!
//! ```toml
//! [inject]
//! image = "signet/signet-sidecar:0.1.0"
//! pull_policy = "IfNotPresent"
//! other_images = []                       # repositories whose images count as our sidecar too
//! excluded_namespaces = []                # beside kube-system, kube-node-lease and the control namespace
//! listen = "0.0.0.0:10250"                # the webhook
//! names = []                              # more names of the webhook, where it is called by URL
//! connections = 512                       # to the webhook, that have not asked at its secret path; who waits makes room
//! connections_per_address = 48            # of one address
//! cpu_request = "20m"
//! memory_request = "32Mi"                 # cpu_limit, memory_limit: none
//! drain_time = "25s"
//! log_level = "info"
//! log_format = "json"
//! exclude_outbound_ports = []             # in every pod, beside what its annotations say
//! exclude_inbound_ports = []
//! exclude_outbound_cidrs = []
//! ```
use super::quantity::Quantity;
use super::wishes;
use ipnet::IpNet;
use signet_enroll::settings::{LogFormat, Table};
use signet_identity::TrustDomain;
use std::net::SocketAddr;
use std::time::Duration;

/// What every injected sidecar is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The mesh's.
    pub trust_domain: TrustDomain,
    /// Where CA and operator are.
    pub control_namespace: String,
    /// Where the webhook listens.
    pub listen: SocketAddr,
    /// Names and addresses in the webhook's certificate, beside its Service's.
    pub names: Vec<String>,
    /// Connections to the webhook that have not asked at its secret path.
    pub connections: usize,
    /// And of one address; at most as many.
    pub connections_per_address: usize,
    /// The sidecar's image, with tag or digest.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub pull_policy: String,
    /// Other repositories whose images count as our sidecar.
    pub other_images: Vec<String>,
    /// Namespaces that nothing is injected into, beside those that never are.
    pub excluded_namespaces: Vec<String>,
    /// Of the sidecar, unless a pod says otherwise.
    pub resources: Resources,
    /// How long open connections may finish after SIGTERM.
    pub drain_time: Duration,
    /// `error` to `trace`.
    pub log_level: String,
    /// Of log and access log.
    pub log_format: LogFormat,
    /// Destination ports that are left out of capture.
    pub exclude_outbound_ports: Vec<String>,
    /// Own ports that are left out of capture.
    pub exclude_inbound_ports: Vec<String>,
    /// Destination networks that are left out of capture.
    pub exclude_outbound_cidrs: Vec<IpNet>,
}

/// CPU and memory of the sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resources {
    /// CPU, requested.
    pub cpu_request: Quantity,
    /// Memory, requested.
    pub memory_request: Quantity,
    /// CPU at most.
    pub cpu_limit: Option<Quantity>,
    /// Memory at most.
    pub memory_limit: Option<Quantity>,
}

impl Settings {
    /// Reads the table; `None` after a problem was recorded.
    pub fn read(table: &mut Table<'_>, trust_domain: &TrustDomain, control_namespace: &str) -> Option<Self> {
        let image =
            table.required("image", "an image such as \"signet/signet-sidecar:0.1.0\"").and_then(|image: String| {
                let good = !image.is_empty() && image.bytes().all(|b| b.is_ascii_graphic() && b != b'\'' && b != b'"');
                table.check("image", good, "an image such as \"signet/signet-sidecar:0.1.0\"").then_some(image)
            });
        let policies = ["Always", "IfNotPresent", "Never"];
        let pull_policy = word(table, "pull_policy", "IfNotPresent", &policies);
        let other_images = table.or("other_images", Vec::new(), "repositories without tag");
        let excluded_namespaces = table.or("excluded_namespaces", Vec::new(), "names of namespaces");
        let listen = table.or("listen", SocketAddr::from(([0, 0, 0, 0], 10250)), "an address such as 0.0.0.0:10250");
        let names = table.or("names", Vec::new(), "DNS names or addresses");
        // An API server has one connection for each review that is under way (Go's client speaks HTTP/1.1 to webhooks,
        // kubernetes/kubernetes#75791) and keeps 25; several may share an address.
        let connections = table.ranged("connections", 512, 32..=65_536);
        let connections_per_address = table.ranged("connections_per_address", 48, 4..=65_536);
        let cpu_request = quantity(table, "cpu_request", Some("20m"));
        let memory_request = quantity(table, "memory_request", Some("32Mi"));
        let cpu_limit = quantity(table, "cpu_limit", None);
        let memory_limit = quantity(table, "memory_limit", None);
        let drain_time =
            table.ranged("drain_time", Duration::from_secs(25), Duration::ZERO..=Duration::from_secs(3600));
        let log_level = word(table, "log_level", "info", &wishes::LEVELS);
        let log_format = table.or("log_format", LogFormat::Json, "\"text\" or \"json\"");
        let exclude_outbound_ports = ports(table, "exclude_outbound_ports");
        let exclude_inbound_ports = ports(table, "exclude_inbound_ports");
        let exclude_outbound_cidrs =
            table.or("exclude_outbound_cidrs", Vec::new(), "networks such as [\"10.0.0.0/8\"]");
        let resources = Resources {
            cpu_request: cpu_request??,
            memory_request: memory_request??,
            cpu_limit: cpu_limit?,
            memory_limit: memory_limit?,
        };
        for (key, request, limit) in [
            ("cpu_limit", &resources.cpu_request, &resources.cpu_limit),
            ("memory_limit", &resources.memory_request, &resources.memory_limit),
        ] {
            let enough = limit.as_ref().is_none_or(|limit| limit >= request);
            if !table.check(key, enough, &format!("at least the request, {request}")) {
                return None;
            }
        }
        let (connections, connections_per_address) = (connections?, connections_per_address?);
        let want = format!("at most `connections`, {connections}");
        table.check("connections_per_address", connections_per_address <= connections, &want).then_some(())?;
        Some(Self {
            connections,
            connections_per_address,
            trust_domain: trust_domain.clone(),
            control_namespace: control_namespace.to_owned(),
            listen: listen?,
            names: names?,
            image: image?,
            pull_policy: pull_policy?,
            other_images: other_images?,
            excluded_namespaces: excluded_namespaces?,
            resources,
            drain_time: drain_time?,
            log_level: log_level?,
            log_format: log_format?,
            exclude_outbound_ports: exclude_outbound_ports?,
            exclude_inbound_ports: exclude_inbound_ports?,
            exclude_outbound_cidrs: exclude_outbound_cidrs?,
        })
    }

    /// Whether nothing is ever injected into this namespace.
    pub fn excludes(&self, namespace: &str) -> bool {
        ["kube-system", "kube-node-lease", &self.control_namespace].contains(&namespace)
            || self.excluded_namespaces.iter().any(|name| name == namespace)
    }

    /// Whether this image is our sidecar, of any version.
    pub fn is_ours(&self, image: &str) -> bool {
        let own = std::iter::once(repository(&self.image));
        own.chain(self.other_images.iter().map(String::as_str)).any(|ours| ours == repository(image))
    }
}

/// An image without tag and digest. A colon before the last slash is a registry's port.
pub fn repository(image: &str) -> &str {
    let image = image.split_once('@').map_or(image, |(before, _)| before);
    match image.rsplit_once(':') {
        Some((before, tag)) if !tag.contains('/') => before,
        _ => image,
    }
}

fn word(table: &mut Table<'_>, key: &str, default: &str, words: &[&str]) -> Option<String> {
    let want = words.join(", ");
    let word: String = table.or(key, default.to_owned(), &want)?;
    table.check(key, words.contains(&word.as_str()), &want).then_some(word)
}

#[allow(clippy::option_option, reason = "wrong, absent, and there are three answers, as everywhere in the reader")]
fn quantity(table: &mut Table<'_>, key: &str, default: Option<&str>) -> Option<Option<Quantity>> {
    let want = "a quantity such as \"100m\" or \"64Mi\"";
    let Some(text) = table.optional::<String>(key, want)?.or(default.map(ToOwned::to_owned)) else { return Some(None) };
    let quantity = text.parse().ok();
    table.check(key, quantity.is_some(), want).then_some(quantity)
}

/// A port may stand there as a number.
struct Port(String);

impl signet_enroll::settings::Setting for Port {
    fn read(value: &signet_enroll::settings::Value<'_>) -> Result<Self, signet_enroll::settings::Unfit> {
        let text = match value.text() {
            Ok(text) => text.to_owned(),
            Err(_) => u16::read(value)?.to_string(),
        };
        if wishes::is_ports(&text) { Ok(Self(text)) } else { Err(signet_enroll::settings::Unfit::default()) }
    }
}

fn ports(table: &mut Table<'_>, key: &str) -> Option<Vec<String>> {
    let ports: Vec<Port> = table.or(key, Vec::new(), "ports and ranges such as [22, \"8000-8100\"]")?;
    Some(ports.into_iter().map(|port| port.0).collect())
}
