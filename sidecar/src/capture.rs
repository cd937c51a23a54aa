//! `signet-sidecar capture up|down|print`: sends the workload's TCP connections through the sidecar without the workload
//! knowing. It writes an nftables table and source addresses straight over netlink, so that the image needs no nft, no
//! iptables and no shell; IPv4 and IPv6; UDP is never touched.
//!
//! ```text
//! flags, sidecar.toml --Plan--> rules --+--print--> nft syntax
//!                                       +--encode--> netlink batch, applied by the kernel whole or not at all
//! ```
//!
//! Called by `main` only. [`sources`] gives the data path the very addresses that `up` adds.

mod addresses;
mod encode;
mod netlink;
mod plan;
mod print;
mod rules;

pub use addresses::sources;
pub use plan::{MAX_SOURCE_ADDRESSES, Plan, PlanError, PortRange, PortRangeError, SOURCE_ADDRESSES};

use crate::config::Config;
use anyhow::Context as _;
use ipnet::IpNet;
use netlink::{Reply, Socket, attributes};
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

/// The address at which the sidecar calls itself through the redirect: it is ready when such a call has arrived. The first of
/// the source addresses, at a port where nothing listens.
pub const PROBE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(169, 254, 113, 1)), 1);

/// `signet-sidecar capture`
#[derive(Debug, clap::Args)]
#[command(after_help = "Example, for everything but SSH into this machine:\n  \
    signet-sidecar capture up --exclude-inbound-ports 22\n\n\
    It works on the network namespace that it runs in, and needs CAP_NET_ADMIN there.")]
pub struct CaptureArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Write the redirect rules and source addresses, in place of earlier ones
    Up(Options),
    /// Remove exactly what `up` made
    Down(Nothing),
    /// Show the rules in nft syntax, changing nothing
    Print(Options),
}

/// What `down` takes: it removes what is there, whatever the configuration says.
#[derive(Debug, Default, clap::Args)]
struct Nothing {
    /// Accepted so that one command line differs from that of `up` in one word; not read
    #[arg(long, value_name = "VARIABLE", hide = true)]
    config_env: Option<String>,
}

#[derive(Debug, Default, clap::Args)]
struct Options {
    /// Take the [capture] table, the ports and the UID of this sidecar.toml; flags win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take them from the TOML in this environment variable
    #[arg(long, value_name = "VARIABLE", conflicts_with = "config")]
    config_env: Option<String>,
    /// The user that the sidecar runs as, whose connections are left alone [default: 2137]
    #[arg(long)]
    uid: Option<u32>,
    /// Destination ports that the workload calls directly, e.g. 22,8000-8100
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_outbound_ports: Option<Vec<PortRange>>,
    /// Ports of the workload that are reached directly, e.g. 22
    #[arg(long, value_name = "PORTS", value_delimiter = ',')]
    exclude_inbound_ports: Option<Vec<PortRange>>,
    /// Networks that the workload calls directly, e.g. 10.0.0.0/8,fd00::/8
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    exclude_outbound_cidrs: Option<Vec<IpNet>>,
    /// Capture only calls into these networks
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    include_outbound_cidrs: Option<Vec<IpNet>>,
    /// Source addresses of each family for calls to the application [default: 4]
    #[arg(long, value_name = "N")]
    source_addresses: Option<u8>,
    /// The sidecar's port for captured outbound connections [default: 15001]
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<u16>,
    /// The sidecar's port for captured inbound connections [default: 15006]
    #[arg(long, value_name = "PORT")]
    plaintext_port: Option<u16>,
    /// The sidecar's tunnel port [default: 15008]
    #[arg(long, value_name = "PORT")]
    tunnel_port: Option<u16>,
    /// The sidecar's admin port [default: 15020]
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
    /// The sidecar's health port [default: 15021]
    #[arg(long, value_name = "PORT")]
    health_port: Option<u16>,
}

/// Why nothing was captured or removed. Nothing was changed then, but for source addresses where that is said.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CaptureError {
    /// The options contradict each other.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Not allowed to.
    #[error(
        "this process may not change the network: run it as root or with CAP_NET_ADMIN in this network namespace \
         (a container: securityContext.capabilities.add [NET_ADMIN])"
    )]
    NotPermitted,
    /// No nftables.
    #[error("this kernel has no nftables ({0}): load the module nf_tables, or use a kernel with CONFIG_NF_TABLES_INET")]
    NoNftables(io::Error),
    /// Some part of nftables is missing.
    #[error(
        "this kernel refused {what} ({error}): it takes nftables with inet NAT (Linux 5.2 or newer; modules nft_chain_nat, \
         nft_redir, nft_fib_inet, nft_ct)"
    )]
    Refused {
        /// The rule or chain.
        what: String,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Somebody else's.
    #[error(
        "a table \"inet signet\" that signet-sidecar did not make is in the way: look at `nft list table inet signet`, \
         and remove it with `nft delete table inet signet` if nobody needs it"
    )]
    ForeignTable,
    /// Redirected connections would be lost.
    #[error("the loopback interface is down, so that nothing can be redirected: ip link set lo up")]
    LoopbackDown,
    /// An address could not be added or removed.
    #[error("source address {address} on the loopback interface: {error}")]
    Address {
        /// Which.
        address: IpAddr,
        /// The kernel's answer.
        error: io::Error,
    },
    /// Netlink itself failed.
    #[error("netlink: {0}")]
    Netlink(io::Error),
}

/// Runs the command. Exit code 2 for wrong options or configuration, 1 when the kernel refuses.
pub fn run(args: CaptureArgs) -> anyhow::Result<ExitCode> {
    match args.action {
        Action::Up(options) => {
            let plan = match plan(options) {
                Ok(plan) => plan,
                Err(refused) => return Ok(refused.exit()),
            };
            up(&plan)?;
        }
        Action::Down(_) => down()?,
        Action::Print(options) => {
            let plan = match plan(options) {
                Ok(plan) => plan,
                Err(refused) => return Ok(refused.exit()),
            };
            io::stdout().lock().write_all(script(&plan).as_bytes()).context("standard output")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Wrong options or configuration, one problem a line.
struct WrongOptions(String);

impl WrongOptions {
    fn exit(self) -> ExitCode {
        // Standard error is gone: the exit code still tells.
        _ = writeln!(io::stderr(), "{}", self.0);
        ExitCode::from(2)
    }
}

fn plan(options: Options) -> Result<Plan, WrongOptions> {
    let read = match (&options.config, &options.config_env) {
        (Some(path), _) => Config::read(path).map(|config| config.capture),
        (None, Some(variable)) => Config::capture_from_environment(variable),
        (None, None) => Ok(Plan::default()),
    };
    let mut plan = read.map_err(|problems| WrongOptions(problems.to_string()))?;
    let take = |port: Option<u16>, into: &mut u16| *into = port.unwrap_or(*into);
    take(options.outbound_port, &mut plan.ports.outbound);
    take(options.plaintext_port, &mut plan.ports.plaintext);
    take(options.tunnel_port, &mut plan.ports.tunnel);
    take(options.admin_port, &mut plan.ports.admin);
    take(options.health_port, &mut plan.ports.health);
    plan.uid = options.uid.unwrap_or(plan.uid);
    plan.source_addresses = options.source_addresses.unwrap_or(plan.source_addresses);
    plan.exclude_outbound_ports = options.exclude_outbound_ports.unwrap_or(plan.exclude_outbound_ports);
    plan.exclude_inbound_ports = options.exclude_inbound_ports.unwrap_or(plan.exclude_inbound_ports);
    plan.exclude_outbound_cidrs = options.exclude_outbound_cidrs.unwrap_or(plan.exclude_outbound_cidrs);
    plan.include_outbound_cidrs = options.include_outbound_cidrs.unwrap_or(plan.include_outbound_cidrs);
    plan.check().map_err(|error| WrongOptions(error.to_string()))?;
    Ok(plan)
}

/// Writes rules and source addresses into this thread's network namespace, in place of earlier ones of ours. The addresses
/// come first: at no moment is a connection redirected that the sidecar could not hand on.
pub fn up(plan: &Plan) -> Result<(), CaptureError> {
    plan.check()?;
    let netfilter = Socket::netfilter().map_err(CaptureError::NoNftables)?;
    if table(&netfilter)? == Table::Foreign {
        return Err(CaptureError::ForeignTable);
    }
    let route = Socket::route().map_err(CaptureError::Netlink)?;
    if !addresses::loopback_is_up(&route).map_err(CaptureError::Netlink)? {
        return Err(CaptureError::LoopbackDown);
    }
    let v6 = ipv6_is_on();
    let wanted = sources(plan.source_addresses).into_iter().filter(|address| v6 || address.is_ipv4()).collect();
    set_addresses(&route, &wanted)?;
    apply(&netfilter, &encode::Batch::replacing(&rules::chains(plan)))
}

/// Removes the table and the source addresses that `up` made from this thread's network namespace. Fine when there are none.
pub fn down() -> Result<(), CaptureError> {
    let netfilter = Socket::netfilter().map_err(CaptureError::NoNftables)?;
    if table(&netfilter)? == Table::Ours {
        apply(&netfilter, &encode::Batch::removing())?;
    }
    let route = Socket::route().map_err(CaptureError::Netlink)?;
    set_addresses(&route, &BTreeSet::new())
}

/// What `up` would do: the table as a script for `nft -f`, and the addresses in comments.
pub fn script(plan: &Plan) -> String {
    use std::fmt::Write as _;
    let mut out = print::script(&rules::chains(plan));
    for address in sources(plan.source_addresses) {
        // Writing to a String cannot fail.
        _ = match address {
            IpAddr::V4(v4) => writeln!(out, "# ip address add {v4}/32 dev lo scope host label lo:signet"),
            IpAddr::V6(v6) => writeln!(out, "# ip address add {v6}/128 dev lo nodad noprefixroute preferred_lft 0"),
        };
    }
    out
}

#[derive(Debug, PartialEq, Eq)]
enum Table {
    Absent,
    Ours,
    Foreign,
}

fn table(socket: &Socket) -> Result<Table, CaptureError> {
    let replies = socket.exchange(encode::get_table().bytes()).map_err(CaptureError::Netlink)?;
    let mut found = Table::Absent;
    for reply in replies {
        match reply {
            Reply::Record { kind: encode::NEWTABLE, payload } => {
                let ours = encode::userdata();
                let mut data = attributes(&payload, encode::NFGENMSG);
                let is_ours = data.any(|(kind, value)| kind == encode::TABLE_USERDATA && value == ours);
                found = if is_ours { Table::Ours } else { Table::Foreign };
            }
            Reply::Record { .. } | Reply::Outcome { result: Ok(()), .. } => {}
            Reply::Outcome { result: Err(error), .. } => match error.kind() {
                ErrorKind::NotFound => {}
                ErrorKind::PermissionDenied => return Err(CaptureError::NotPermitted),
                _ => return Err(CaptureError::NoNftables(error)),
            },
        }
    }
    Ok(found)
}

fn apply(socket: &Socket, batch: &encode::Batch) -> Result<(), CaptureError> {
    let mut answered = false;
    for reply in socket.exchange(&batch.bytes()).map_err(CaptureError::Netlink)? {
        let Reply::Outcome { sequence, result } = reply else { continue };
        answered = true;
        result.map_err(|error| match error.kind() {
            ErrorKind::PermissionDenied => CaptureError::NotPermitted,
            _ => CaptureError::Refused { what: batch.what(sequence).to_owned(), error },
        })?;
    }
    if answered { Ok(()) } else { Err(CaptureError::Netlink(io::Error::other("the kernel did not answer"))) }
}

fn set_addresses(socket: &Socket, wanted: &BTreeSet<IpAddr>) -> Result<(), CaptureError> {
    addresses::set(socket, wanted).map_err(|(address, error)| match error.kind() {
        ErrorKind::PermissionDenied => CaptureError::NotPermitted,
        _ => CaptureError::Address { address, error },
    })
}

/// Whether the loopback interface may have IPv6 addresses.
fn ipv6_is_on() -> bool {
    std::fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|value| value.trim() == "0")
}

#[cfg(test)]
mod tests;
