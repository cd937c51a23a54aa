//! The rules as nf_tables netlink messages, in the very expressions that nft makes of `print`'s text.
//!
//! A rule is a list of expressions over registers: load something into register 1, compare it, go on if it matches.
//! Numbers and layouts: `linux/netfilter/nf_tables.h`. Numbers of nf_tables itself travel in network order, data that a
//! packet is compared with in the order in which it is loaded (header fields: network; meta, fib, ct: the host's).
use super::netlink::{Message, NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE};
use super::print;
use super::rules::{Act, COMMENT, Chain, Hook, Match, Rule, TABLE};
use ipnet::IpNet;
use rustix::net::AddressFamily;

const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10; // NFNL_SUBSYS_NFTABLES
pub(super) const NEWTABLE: u16 = SUBSYSTEM << 8;
const GETTABLE: u16 = (SUBSYSTEM << 8) | 1;
const DELTABLE: u16 = (SUBSYSTEM << 8) | 2;
const NEWCHAIN: u16 = (SUBSYSTEM << 8) | 3;
const NEWRULE: u16 = (SUBSYSTEM << 8) | 6;
/// `NFPROTO_INET`: IPv4 and IPv6 in one table.
const INET: u8 = 1;
/// `struct nfgenmsg`: family, version, resource id.
pub(super) const NFGENMSG: usize = 4;
pub(super) const TABLE_USERDATA: u16 = 6;

const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const CMP_EQ: u32 = 0;
const CMP_NEQ: u32 = 1;
const CMP_LTE: u32 = 3;
const CMP_GTE: u32 = 5;
const META_IIF: u32 = 4;
const META_OIF: u32 = 5;
const META_SKUID: u32 = 10;
const META_NFPROTO: u32 = 15;
const META_L4PROTO: u32 = 16;
const CT_STATUS: u32 = 2;
const IPS_DST_NAT: u32 = 1 << 5;
const FIB_RESULT_ADDRTYPE: u32 = 3;
const FIB_F_DADDR: u32 = 1 << 1;
const RTN_LOCAL: u32 = 2;
const BASE_NETWORK: u32 = 1;
const BASE_TRANSPORT: u32 = 2;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NAT_RANGE_PROTO_SPECIFIED: u32 = 1 << 1;
const TCP: u8 = 6;
/// The loopback interface has this index in every network namespace.
pub(super) const LOOPBACK: u32 = 1;
/// FIN, SYN, RST and ACK, and SYN among them.
const TCP_FLAGS: (u8, u8) = (0x17, 0x02);

/// Messages that the kernel applies whole or not at all, each with the words for what it does.
pub(super) struct Batch {
    messages: Vec<(Message, String)>,
}

impl Batch {
    /// Removes the table; fails when there is none.
    pub(super) fn removing() -> Self {
        let mut batch = Self { messages: Vec::new() };
        batch.table(DELTABLE, 0, "removing the table");
        batch.ask_for_answer();
        batch
    }

    /// Makes the table, in place of one that may be there.
    pub(super) fn replacing(chains: &[Chain]) -> Self {
        let mut batch = Self { messages: Vec::new() };
        // Make, remove, make: the removal then cannot fail, and there is no moment without rules.
        batch.table(NEWTABLE, NLM_F_CREATE, "making the table");
        batch.table(DELTABLE, 0, "removing the previous table");
        batch.table(NEWTABLE, NLM_F_CREATE, "making the table");
        for chain in chains {
            batch.chain(chain);
            for rule in &chain.rules {
                batch.rule(chain.name, rule);
            }
        }
        batch.ask_for_answer();
        batch
    }

    /// Refusals are answered anyway; success only where it is asked for, and once is enough (hundreds of answers would not
    /// fit into the socket's receive buffer).
    fn ask_for_answer(&mut self) {
        if let Some((last, _)) = self.messages.last_mut() {
            last.add_flags(NLM_F_ACK);
        }
    }

    fn push(&mut self, kind: u16, flags: u16, what: String, fill: impl FnOnce(&mut Message)) {
        let mut message = Message::new(kind, flags, self.messages.len() as u32 + 1, &nfgenmsg(INET, 0));
        fill(&mut message);
        self.messages.push((message, what));
    }

    fn table(&mut self, kind: u16, flags: u16, what: &str) {
        self.push(kind, flags, what.to_owned(), |message| {
            message.text(1, TABLE);
            if kind == NEWTABLE {
                message.be32(2, 0).attr(TABLE_USERDATA, &userdata());
            }
        });
    }

    fn chain(&mut self, chain: &Chain) {
        // Hook number, priority, type.
        let (hook, priority, kind) = match chain.hook {
            Hook::NatOutput => (3, -100i32, "nat"),
            Hook::NatPrerouting => (0, -100, "nat"),
            Hook::FilterInput => (1, 0, "filter"),
        };
        self.push(NEWCHAIN, NLM_F_CREATE, format!("the {kind} chain {}", chain.name), |message| {
            message.text(1, TABLE).text(3, chain.name);
            message.nest(4, |m| _ = m.be32(1, hook).be32(2, priority.cast_unsigned()));
            message.be32(5, NF_ACCEPT).text(7, kind);
        });
    }

    fn rule(&mut self, chain: &str, rule: &Rule) {
        let what = format!("the rule \"{}\"", print::rule(rule));
        self.push(NEWRULE, NLM_F_CREATE | NLM_F_APPEND, what, |message| {
            message.text(1, TABLE).text(2, chain).nest(4, |list| {
                let mut tcp_known = false;
                for matching in &rule.matches {
                    encode_match(list, *matching, &mut tcp_known);
                }
                encode_act(list, rule.act);
            });
        });
    }

    /// The datagram, between its begin and end marks.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mark = |kind| Message::new(kind, 0, 0, &nfgenmsg(0, SUBSYSTEM));
        let mut bytes = mark(NFNL_MSG_BATCH_BEGIN).bytes().to_vec();
        for (message, _) in &self.messages {
            bytes.extend_from_slice(message.bytes());
        }
        bytes.extend_from_slice(mark(NFNL_MSG_BATCH_END).bytes());
        bytes
    }

    /// What the message with this sequence number does.
    pub(super) fn what(&self, sequence: u32) -> &str {
        let index = (sequence as usize).checked_sub(1);
        index.and_then(|i| self.messages.get(i)).map_or("the batch", |(_, what)| what)
    }
}

/// Asks for the table.
pub(super) fn get_table() -> Message {
    let mut message = Message::new(GETTABLE, NLM_F_ACK, 1, &nfgenmsg(INET, 0));
    message.text(1, TABLE);
    message
}

/// The comment of the table, as nft itself keeps comments: type 0, length, text with its NUL.
pub(super) fn userdata() -> Vec<u8> {
    let mut data = vec![0, COMMENT.len() as u8 + 1];
    data.extend_from_slice(COMMENT.as_bytes());
    data.push(0);
    data
}

fn nfgenmsg(family: u8, resource: u16) -> [u8; NFGENMSG] {
    let [high, low] = resource.to_be_bytes();
    [family, 0, high, low]
}

/// One expression of a rule.
fn expression(list: &mut Message, name: &str, fill: impl FnOnce(&mut Message)) {
    list.nest(1, |m| {
        m.text(1, name).nest(2, fill);
    });
}

fn compare(list: &mut Message, operation: u32, value: &[u8]) {
    expression(list, "cmp", |m| {
        m.be32(1, REG_1).be32(2, operation).nest(3, |data| _ = data.attr(1, value));
    });
}

fn meta(list: &mut Message, key: u32, operation: u32, value: &[u8]) {
    expression(list, "meta", |m| _ = m.be32(1, REG_1).be32(2, key));
    compare(list, operation, value);
}

fn payload(list: &mut Message, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |m| _ = m.be32(1, REG_1).be32(2, base).be32(3, offset).be32(4, length));
}

fn mask(list: &mut Message, mask: &[u8]) {
    let zero = vec![0; mask.len()];
    expression(list, "bitwise", |m| {
        m.be32(1, REG_1).be32(2, REG_1).be32(3, mask.len() as u32);
        m.nest(4, |data| _ = data.attr(1, mask)).nest(5, |data| _ = data.attr(1, &zero));
    });
}

/// Header fields of TCP mean something only in TCP packets.
fn tcp(list: &mut Message, known: &mut bool) {
    if !std::mem::replace(known, true) {
        meta(list, META_L4PROTO, CMP_EQ, &[TCP]);
    }
}

fn encode_match(list: &mut Message, matching: Match, tcp_known: &mut bool) {
    match matching {
        Match::NotTcp => meta(list, META_L4PROTO, CMP_NEQ, &[TCP]),
        Match::Uid(uid) => meta(list, META_SKUID, CMP_EQ, &uid.to_ne_bytes()),
        Match::ToLoopback => meta(list, META_OIF, CMP_EQ, &LOOPBACK.to_ne_bytes()),
        Match::FromLoopback => meta(list, META_IIF, CMP_EQ, &LOOPBACK.to_ne_bytes()),
        Match::ToThisHost | Match::ToElsewhere => {
            expression(list, "fib", |m| _ = m.be32(1, REG_1).be32(2, FIB_RESULT_ADDRTYPE).be32(3, FIB_F_DADDR));
            let operation = if matching == Match::ToThisHost { CMP_EQ } else { CMP_NEQ };
            compare(list, operation, &RTN_LOCAL.to_ne_bytes());
        }
        Match::Port(range) => {
            tcp(list, tcp_known);
            payload(list, BASE_TRANSPORT, 2, 2);
            let (first, last) = range.range().into_inner();
            if first == last {
                compare(list, CMP_EQ, &first.to_be_bytes());
            } else {
                compare(list, CMP_GTE, &first.to_be_bytes());
                compare(list, CMP_LTE, &last.to_be_bytes());
            }
        }
        Match::Network(network) => encode_network(list, network),
        Match::Syn => {
            tcp(list, tcp_known);
            payload(list, BASE_TRANSPORT, 13, 1);
            mask(list, &[TCP_FLAGS.0]);
            compare(list, CMP_EQ, &[TCP_FLAGS.1]);
        }
        Match::Redirected => {
            expression(list, "ct", |m| _ = m.be32(1, REG_1).be32(2, CT_STATUS));
            mask(list, &IPS_DST_NAT.to_ne_bytes());
            compare(list, CMP_NEQ, &0u32.to_ne_bytes());
        }
    }
}

fn encode_network(list: &mut Message, network: IpNet) {
    // The destination's offset in the network header.
    let (family, offset, address, netmask) = match network {
        IpNet::V4(net) => (AddressFamily::INET, 16, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
        IpNet::V6(net) => (AddressFamily::INET6, 24, net.network().octets().to_vec(), net.netmask().octets().to_vec()),
    };
    meta(list, META_NFPROTO, CMP_EQ, &[family.as_raw() as u8]);
    let whole = usize::from(network.prefix_len()).div_ceil(8);
    if whole == 0 {
        return;
    }
    if network.prefix_len().is_multiple_of(8) {
        // Whole bytes need no mask.
        payload(list, BASE_NETWORK, offset, whole as u32);
        compare(list, CMP_EQ, address.get(..whole).unwrap_or(&address));
    } else {
        payload(list, BASE_NETWORK, offset, address.len() as u32);
        mask(list, &netmask);
        compare(list, CMP_EQ, &address);
    }
}

fn encode_act(list: &mut Message, act: Act) {
    let verdict = |list: &mut Message, code: u32| {
        expression(list, "immediate", |m| {
            m.be32(1, REG_VERDICT).nest(2, |data| _ = data.nest(2, |verdict| _ = verdict.be32(1, code)));
        });
    };
    match act {
        Act::Accept => verdict(list, NF_ACCEPT),
        Act::Drop => verdict(list, NF_DROP),
        Act::Redirect(port) => {
            expression(list, "immediate", |m| {
                m.be32(1, REG_1).nest(2, |data| _ = data.attr(1, &port.to_be_bytes()));
            });
            expression(list, "redir", |m| _ = m.be32(1, REG_1).be32(3, NAT_RANGE_PROTO_SPECIFIED));
        }
    }
}
