//! The addresses from which the sidecar calls its own application.
//!
//! The application is reached at the workload's own address, never at loopback (a service that listens on loopback alone is
//! private to its workload). With one source address, 28,000 connections to one port within a minute fill the ports with
//! TIME_WAIT; so `capture up` puts several addresses on the loopback interface, and the data path takes them in turn.
//!
//! IPv4 takes link-local addresses, apart from those that clouds and node-local DNS use. IPv6 link-local ones do not work
//! there: a socket bound to `fe80::1%lo` may only route through `lo`, and the kernel finds no route to the workload's
//! address on `eth0` ("network is unreachable", Linux 6.18). So IPv6 takes a unique local range (RFC 4193) with a random
//! global id. They are deprecated from birth, so that source address selection (RFC 6724, rule 3) never takes one unasked.
use super::encode::LOOPBACK;
use super::netlink::{Message, NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Reply, Socket, attributes, u32_at};
use rustix::net::AddressFamily;
use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// By this label `down` knows our IPv4 addresses; it must begin with the interface's name.
const LABEL: &str = "lo:signet";
/// By this network `down` knows our IPv6 addresses, which have no labels.
const V6_NETWORK: Ipv6Addr = Ipv6Addr::new(0xfdb7, 0x2137, 0x5e19, 0, 0, 0, 0, 0);

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
/// `struct ifaddrmsg`: family, prefix length, flags, scope, index.
const IFADDRMSG: usize = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_LABEL: u16 = 3;
const IFA_CACHEINFO: u16 = 6;
const IFA_FLAGS: u16 = 8;
/// No duplicate address detection, deprecated, no route for the prefix.
const V6_FLAGS: u32 = 0x02 | 0x20 | 0x200;
const SCOPE_GLOBAL: u8 = 0;
const SCOPE_HOST: u8 = 254;
const IFF_UP: u32 = 1;

/// The source addresses that `capture up` adds: `count` of IPv4, and as many of IPv6 where IPv6 is enabled.
pub fn sources(count: u8) -> Vec<IpAddr> {
    let v4 = (1..=count).map(|n| IpAddr::V4(Ipv4Addr::new(169, 254, 113, n)));
    let v6 = (1..=count).map(|n| IpAddr::V6(Ipv6Addr::from_bits(V6_NETWORK.to_bits() | u128::from(n))));
    v4.chain(v6).collect()
}

/// Whether the loopback interface is up: nothing is redirected, and no address reached, while it is not.
pub(super) fn loopback_is_up(socket: &Socket) -> io::Result<bool> {
    // `struct ifinfomsg`: family, padding, type, index, flags, change.
    let mut fixed = [0; 16];
    fixed.iter_mut().skip(4).zip(LOOPBACK.to_ne_bytes()).for_each(|(byte, index)| *byte = index);
    let replies = socket.exchange(Message::new(RTM_GETLINK, 0, 1, &fixed).bytes())?;
    let mut up = false;
    for reply in replies {
        match reply {
            Reply::Record { kind: RTM_NEWLINK, payload } => up = u32_at(&payload, 8) & IFF_UP != 0,
            Reply::Record { .. } => {}
            Reply::Outcome { result, .. } => result?,
        }
    }
    Ok(up)
}

/// The addresses that are ours on the loopback interface.
pub(super) fn list(socket: &Socket) -> io::Result<BTreeSet<IpAddr>> {
    let mut ours = BTreeSet::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let request = Message::new(RTM_GETADDR, NLM_F_DUMP, 1, &ifaddrmsg(family, 0, 0));
        for reply in socket.exchange(request.bytes())? {
            match reply {
                Reply::Record { kind: RTM_NEWADDR, payload } => ours.extend(our_address(&payload)),
                Reply::Record { .. } => {}
                Reply::Outcome { result, .. } => result?,
            }
        }
    }
    Ok(ours)
}

fn our_address(payload: &[u8]) -> Option<IpAddr> {
    let (family, prefix) = (*payload.first()?, *payload.get(1)?);
    if u32_at(payload, 4) != LOOPBACK {
        return None;
    }
    let value = |wanted: u16| attributes(payload, IFADDRMSG).find(|(kind, _)| *kind == wanted).map(|(_, value)| value);
    if u16::from(family) == AddressFamily::INET.as_raw() {
        let label = value(IFA_LABEL)?;
        let address = <[u8; 4]>::try_from(value(IFA_LOCAL)?).ok()?;
        (label.strip_suffix(b"\0").unwrap_or(label) == LABEL.as_bytes()).then(|| IpAddr::from(address))
    } else {
        let address = Ipv6Addr::from(<[u8; 16]>::try_from(value(IFA_ADDRESS)?).ok()?);
        (prefix == 128 && address.to_bits() >> 16 == V6_NETWORK.to_bits() >> 16).then_some(IpAddr::V6(address))
    }
}

/// Adds what is missing and removes what is too much.
pub(super) fn set(socket: &Socket, wanted: &BTreeSet<IpAddr>) -> Result<(), (IpAddr, io::Error)> {
    let present = list(socket).map_err(|error| (IpAddr::V4(Ipv4Addr::UNSPECIFIED), error))?;
    for address in wanted.difference(&present) {
        change(socket, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, *address).map_err(|error| (*address, error))?;
    }
    for address in present.difference(wanted) {
        change(socket, RTM_DELADDR, 0, *address).map_err(|error| (*address, error))?;
    }
    Ok(())
}

fn change(socket: &Socket, kind: u16, flags: u16, address: IpAddr) -> io::Result<()> {
    let message = match address {
        IpAddr::V4(v4) => {
            let fixed = ifaddrmsg(AddressFamily::INET, 32, SCOPE_HOST);
            let mut message = Message::new(kind, flags | NLM_F_ACK, 1, &fixed);
            message.attr(IFA_LOCAL, &v4.octets()).attr(IFA_ADDRESS, &v4.octets()).text(IFA_LABEL, LABEL);
            message
        }
        IpAddr::V6(v6) => {
            let fixed = ifaddrmsg(AddressFamily::INET6, 128, SCOPE_GLOBAL);
            let mut message = Message::new(kind, flags | NLM_F_ACK, 1, &fixed);
            message.attr(IFA_LOCAL, &v6.octets()).attr(IFA_ADDRESS, &v6.octets());
            if kind == RTM_NEWADDR {
                message.attr(IFA_FLAGS, &V6_FLAGS.to_ne_bytes());
                // `struct ifa_cacheinfo`: preferred for 0 s, valid for ever, and two times that only the kernel writes.
                let lifetimes = [0, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
                message.attr(IFA_CACHEINFO, &lifetimes);
            }
            message
        }
    };
    for reply in socket.exchange(message.bytes())? {
        if let Reply::Outcome { result, .. } = reply {
            result?;
        }
    }
    Ok(())
}

fn ifaddrmsg(family: AddressFamily, prefix: u8, scope: u8) -> [u8; IFADDRMSG] {
    let [a, b, c, d] = LOOPBACK.to_ne_bytes();
    [family.as_raw() as u8, prefix, 0, scope, a, b, c, d]
}
