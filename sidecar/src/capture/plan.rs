//! What is to be captured: the settings of `capture`, from the `[capture]` table of `sidecar.toml` and from flags.
use crate::config::Ports;
use ipnet::IpNet;
use signet_enroll::settings::{self, Setting, Unfit, Value};
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

/// How many source addresses of each family `capture up` adds by default. With the kernel's default
/// range, each gives 28,000 connections to one application port before TIME_WAIT (60 s) has to end.
pub const SOURCE_ADDRESSES: u8 = 4;
/// The most that may be asked for.
pub const MAX_SOURCE_ADDRESSES: u8 = 64;

/// One port or a range of ports: `22`, `8000-8100`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortRange {
    first: u16,
    last: u16,
}

/// Everything that decides the redirect rules and source addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whose connections are left alone.
    pub uid: u32,
    /// The sidecar's own ports.
    pub ports: Ports,
    /// Destination ports that the workload calls without the sidecar.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Ports of the workload that are reached without the sidecar.
    pub exclude_inbound_ports: Vec<PortRange>,
    /// Networks that the workload calls without the sidecar.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// When not empty, only calls into these networks are captured.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Source addresses of each family, 1 to [`MAX_SOURCE_ADDRESSES`].
    pub source_addresses: u8,
}

/// Why a text is no port range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is neither a port (22) nor a range of ports (8000-8100)")]
pub struct PortRangeError(String);

/// Why a plan cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// Excluding it would open a door beside the sidecar.
    #[error(
        "excluded inbound ports {range} contain {port}, a port of the sidecar that must stay closed; leave {port} out"
    )]
    ExcludesOwnPort {
        /// What was given.
        range: PortRange,
        /// The sidecar's.
        port: u16,
    },
    /// Out of bounds.
    #[error("{0} source addresses; want 1 to {MAX_SOURCE_ADDRESSES}")]
    SourceAddresses(u8),
    /// Two listeners cannot share a port.
    #[error("the sidecar's ports {0} must be five different ports, none of them 0")]
    Ports(Ports),
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            uid: crate::ports::UID,
            ports: Ports::default(),
            exclude_outbound_ports: Vec::new(),
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            source_addresses: SOURCE_ADDRESSES,
        }
    }
}

impl Plan {
    /// Reads the `[capture]` table; everything in it has a default.
    pub fn read(table: &mut settings::Table<'_>, uid: u32, ports: Ports) -> Option<Self> {
        let ranges = "ports and ranges such as [22, \"8000-8100\"]";
        let networks = "networks such as [\"10.0.0.0/8\", \"fd00::/8\"]";
        let exclude_outbound_ports = table.or("exclude_outbound_ports", Vec::new(), ranges);
        let exclude_inbound_ports = table.or("exclude_inbound_ports", Vec::new(), ranges);
        let exclude_outbound_cidrs = table.or("exclude_outbound_cidrs", Vec::new(), networks);
        let include_outbound_cidrs = table.or("include_outbound_cidrs", Vec::new(), networks);
        let source_addresses = table.ranged("source_addresses", SOURCE_ADDRESSES, 1..=MAX_SOURCE_ADDRESSES);
        let plan = Self {
            uid,
            ports,
            exclude_outbound_ports: exclude_outbound_ports?,
            exclude_inbound_ports: exclude_inbound_ports?,
            exclude_outbound_cidrs: exclude_outbound_cidrs?,
            include_outbound_cidrs: include_outbound_cidrs?,
            source_addresses: source_addresses?,
        };
        match plan.check() {
            Err(error @ PlanError::ExcludesOwnPort { .. }) => {
                table.refuse("exclude_inbound_ports", &error.to_string(), "other ports");
                None
            }
            // Ports and counts have been checked where they were read.
            Ok(()) | Err(_) => Some(plan),
        }
    }

    /// What no single value shows.
    pub fn check(&self) -> Result<(), PlanError> {
        if !self.ports.distinct() {
            return Err(PlanError::Ports(self.ports));
        }
        if !(1..=MAX_SOURCE_ADDRESSES).contains(&self.source_addresses) {
            return Err(PlanError::SourceAddresses(self.source_addresses));
        }
        for range in &self.exclude_inbound_ports {
            let closed = [self.ports.outbound, self.ports.plaintext, self.ports.admin];
            if let Some(port) = closed.into_iter().find(|port| range.range().contains(port)) {
                return Err(PlanError::ExcludesOwnPort { range: *range, port });
            }
        }
        Ok(())
    }
}

impl PortRange {
    /// `None` when it is empty.
    pub fn new(first: u16, last: u16) -> Option<Self> {
        (first <= last).then_some(Self { first, last })
    }
    /// A single port.
    pub fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }
    /// As a range.
    pub fn range(self) -> RangeInclusive<u16> {
        self.first..=self.last
    }
    /// Sorted, and with overlapping and touching ranges joined.
    pub(super) fn joined(ranges: &[Self]) -> Vec<Self> {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut joined: Vec<Self> = Vec::new();
        for range in sorted {
            match joined.last_mut() {
                Some(before) if u32::from(range.first) <= u32::from(before.last) + 1 => {
                    before.last = before.last.max(range.last);
                }
                _ => joined.push(range),
            }
        }
        joined
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { write!(f, "{}", self.first) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl FromStr for PortRange {
    type Err = PortRangeError;
    fn from_str(text: &str) -> Result<Self, PortRangeError> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let port = |text: &str| text.parse::<u16>().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()));
        let range = port(first).zip(port(last)).and_then(|(first, last)| Self::new(first, last));
        range.ok_or_else(|| PortRangeError(text.to_owned()))
    }
}

impl Setting for PortRange {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        if value.text().is_ok() { value.parsed() } else { u16::read(value).map(Self::one) }
    }
}
