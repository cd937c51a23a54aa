//! The rules in nft syntax: what `capture print` shows, and what `nft -f` takes.
use super::rules::{Act, COMMENT, Chain, Hook, Match, Rule, TABLE};
use ipnet::IpNet;
use std::fmt::Write as _;

/// A script for `nft -f` that makes exactly the table that `capture up` makes, replacing one that is there.
pub(super) fn script(chains: &[Chain]) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    _ = writeln!(out, "table inet {TABLE}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n\tcomment \"{COMMENT}\"");
    for chain in chains {
        let hook = match chain.hook {
            Hook::NatOutput => "type nat hook output priority -100",
            Hook::NatPrerouting => "type nat hook prerouting priority dstnat",
            Hook::FilterInput => "type filter hook input priority filter",
        };
        _ = writeln!(out, "\n\tchain {} {{\n\t\t{hook}; policy accept;", chain.name);
        for rule in &chain.rules {
            _ = writeln!(out, "\t\t{}", self::rule(rule));
        }
        out.push_str("\t}\n");
    }
    out.push_str("}\n");
    out
}

/// One rule on one line.
pub(super) fn rule(rule: &Rule) -> String {
    let mut words: Vec<String> = rule.matches.iter().map(matching).collect();
    words.push(match rule.act {
        Act::Accept => "accept".into(),
        Act::Drop => "drop".into(),
        Act::Redirect(port) => format!("redirect to :{port}"),
    });
    words.join(" ")
}

fn matching(matching: &Match) -> String {
    match matching {
        Match::NotTcp => "meta l4proto != tcp".into(),
        Match::Uid(uid) => format!("meta skuid {uid}"),
        Match::ToLoopback => "oif \"lo\"".into(),
        Match::FromLoopback => "iif \"lo\"".into(),
        Match::ToThisHost => "fib daddr type local".into(),
        Match::ToElsewhere => "fib daddr type != local".into(),
        Match::Port(range) => format!("tcp dport {range}"),
        Match::Network(IpNet::V4(net)) if net.prefix_len() == 0 => "meta nfproto ipv4".into(),
        Match::Network(IpNet::V6(net)) if net.prefix_len() == 0 => "meta nfproto ipv6".into(),
        Match::Network(IpNet::V4(net)) => format!("ip daddr {}", net.trunc()),
        Match::Network(IpNet::V6(net)) => format!("ip6 daddr {}", net.trunc()),
        Match::Syn => "tcp flags & (fin | syn | rst | ack) == syn".into(),
        Match::Redirected => "ct status dnat".into(),
    }
}
