//! The redirect rules as plain data, built from a [`Plan`]. Pure: `encode` turns them into netlink messages, `print` into nft
//! syntax, and both say the same.
//!
//! ```text
//! table inet signet
//!   output      (nat)     the workload's own calls            -> 15001
//!   prerouting  (nat)     plaintext calls from outside        -> 15006
//!   guard       (filter)  a new connection from outside that was not redirected and was not meant to be: dropped
//! ```
//!
//! Only SYN packets are redirected, so that connections which were open before `capture up` live on: without it, conntrack
//! would take their next packet for the first of a new connection. A caller that can send raw packets could in turn make
//! conntrack believe in an open connection before its SYN; `guard` closes that way in, because the SYN that then reaches the
//! application unredirected is dropped.
use super::plan::{Plan, PortRange};
use ipnet::IpNet;

/// The name of the table.
pub(super) const TABLE: &str = "signet";
/// The comment by which `down` and `up` know that the table is ours.
pub(super) const COMMENT: &str = "made by signet-sidecar capture";

/// A chain on a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Chain {
    pub(super) name: &'static str,
    pub(super) hook: Hook,
    pub(super) rules: Vec<Rule>,
}

/// Where a chain is attached, and what it may do there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hook {
    /// `nat`, output, priority -100 (dstnat).
    NatOutput,
    /// `nat`, prerouting, priority -100 (dstnat).
    NatPrerouting,
    /// `filter`, input, priority 0 (filter).
    FilterInput,
}

/// Matches, all of which must hold, and what then happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) matches: Vec<Match>,
    pub(super) act: Act,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Match {
    /// Any protocol but TCP.
    NotTcp,
    /// The packet's socket belongs to this user.
    Uid(u32),
    /// Leaves through the loopback interface.
    ToLoopback,
    /// Came in through the loopback interface.
    FromLoopback,
    /// The destination is one of this host's addresses.
    ToThisHost,
    /// The destination is not one of this host's addresses.
    ToElsewhere,
    /// TCP destination port.
    Port(PortRange),
    /// Destination address.
    Network(IpNet),
    /// The first packet of a TCP connection.
    Syn,
    /// Conntrack knows that the destination was rewritten.
    Redirected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    Accept,
    Drop,
    /// To this port of this host.
    Redirect(u16),
}

fn rule(matches: &[Match], act: Act) -> Rule {
    Rule { matches: matches.to_vec(), act }
}

/// The whole table.
pub(super) fn chains(plan: &Plan) -> Vec<Chain> {
    vec![output(plan), prerouting(plan), guard(plan)]
}

fn output(plan: &Plan) -> Chain {
    let probe =
        [Match::Network(super::PROBE.ip().into()), Match::Port(PortRange::one(super::PROBE.port())), Match::Syn];
    let mut rules = vec![
        rule(&[Match::NotTcp], Act::Accept),
        // Before every exception: by this one address the sidecar itself can see that the redirect is in place.
        rule(&probe, Act::Redirect(plan.ports.outbound)),
        rule(&[Match::Uid(plan.uid)], Act::Accept),
        // Loopback and the workload's own addresses: a workload may always call itself.
        rule(&[Match::ToLoopback], Act::Accept),
        rule(&[Match::ToThisHost], Act::Accept),
    ];
    let ports = PortRange::joined(&plan.exclude_outbound_ports);
    rules.extend(ports.into_iter().map(|range| rule(&[Match::Port(range)], Act::Accept)));
    rules.extend(
        IpNet::aggregate(&plan.exclude_outbound_cidrs).iter().map(|n| rule(&[Match::Network(*n)], Act::Accept)),
    );
    let redirect = Act::Redirect(plan.ports.outbound);
    if plan.include_outbound_cidrs.is_empty() {
        rules.push(rule(&[Match::Syn], redirect));
    }
    let included = IpNet::aggregate(&plan.include_outbound_cidrs);
    rules.extend(included.iter().map(|n| rule(&[Match::Network(*n), Match::Syn], redirect)));
    Chain { name: "output", hook: Hook::NatOutput, rules }
}

fn prerouting(plan: &Plan) -> Chain {
    let mut rules = vec![
        rule(&[Match::NotTcp], Act::Accept),
        rule(&[Match::FromLoopback], Act::Accept),
        // What this host only forwards is not the workload's.
        rule(&[Match::ToElsewhere], Act::Accept),
    ];
    rules.extend(open_ports(plan).into_iter().map(|range| rule(&[Match::Port(range)], Act::Accept)));
    rules.push(rule(&[Match::Syn], Act::Redirect(plan.ports.plaintext)));
    Chain { name: "prerouting", hook: Hook::NatPrerouting, rules }
}

fn guard(plan: &Plan) -> Chain {
    let mut rules = vec![rule(&[Match::NotTcp], Act::Accept), rule(&[Match::FromLoopback], Act::Accept)];
    rules.extend(open_ports(plan).into_iter().map(|range| rule(&[Match::Port(range)], Act::Accept)));
    let inbound = Match::Port(PortRange::one(plan.ports.plaintext));
    rules.push(rule(&[inbound, Match::Redirected], Act::Accept));
    rules.push(rule(&[Match::Syn], Act::Drop));
    Chain { name: "guard", hook: Hook::FilterInput, rules }
}

/// The ports that are reached from outside without a redirect: the tunnel, health, and what the user left out.
fn open_ports(plan: &Plan) -> Vec<PortRange> {
    let mut ranges = plan.exclude_inbound_ports.clone();
    ranges.extend([PortRange::one(plan.ports.tunnel), PortRange::one(plan.ports.health)]);
    PortRange::joined(&ranges)
}
