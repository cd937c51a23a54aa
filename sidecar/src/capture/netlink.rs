//! Netlink messages and the socket that carries them: just what nftables batches and address requests need.
//!
//! A message is a header, a fixed part that depends on the protocol, and attributes (type, length, value, padded to four
//! bytes), which may nest. Layouts: `linux/netlink.h`, `linux/netfilter/nfnetlink.h`.
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, netlink};
use std::io;

pub(super) const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_ACK: u16 = 4;
pub(super) const NLM_F_DUMP: u16 = 0x300;
pub(super) const NLM_F_EXCL: u16 = 0x200;
pub(super) const NLM_F_CREATE: u16 = 0x400;
pub(super) const NLM_F_APPEND: u16 = 0x800;

const NLA_F_NESTED: u16 = 0x8000;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel fills at most 32 KiB in a part of a dump; everything else is smaller.
const RECEIVE: usize = 64 * 1024;

/// One netlink message under construction.
pub(super) struct Message(Vec<u8>);

impl Message {
    /// `fixed` is the protocol's own header (`nfgenmsg`, `ifaddrmsg`, ...).
    pub(super) fn new(kind: u16, flags: u16, sequence: u32, fixed: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // the length, kept by `measure`
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes()); // from the kernel's point of view: port id unknown
        bytes.extend_from_slice(fixed);
        let mut message = Self(bytes);
        message.pad();
        message.measure();
        message
    }

    pub(super) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        self.with(kind, |message| message.0.extend_from_slice(value))
    }

    /// Text with its terminating NUL, as the kernel wants names.
    pub(super) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.with(kind, |message| {
            message.0.extend_from_slice(value.as_bytes());
            message.0.push(0);
        })
    }

    /// nf_tables takes its numbers in network order.
    pub(super) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attr(kind, &value.to_be_bytes())
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        self.with(kind | NLA_F_NESTED, fill)
    }

    fn with(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.0.len();
        self.0.extend_from_slice(&0u16.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.overwrite(start, &length.to_ne_bytes());
        self.pad();
        self.measure();
        self
    }

    fn measure(&mut self) {
        let length = self.0.len() as u32;
        self.overwrite(0, &length.to_ne_bytes());
    }

    pub(super) fn add_flags(&mut self, flags: u16) {
        let all = flags | u16_at(&self.0, 6);
        self.overwrite(6, &all.to_ne_bytes());
    }

    /// As it is sent.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn overwrite(&mut self, at: usize, value: &[u8]) {
        for (byte, new) in self.0.iter_mut().skip(at).zip(value) {
            *byte = *new;
        }
    }

    fn pad(&mut self) {
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// What the kernel answered to one message.
#[derive(Debug)]
pub(super) enum Reply {
    /// Done, or refused with an error.
    Outcome { sequence: u32, result: io::Result<()> },
    /// A record: its type, and everything after the header.
    Record { kind: u16, payload: Vec<u8> },
}

/// A netlink socket. The kernel answers within the send, so that replies are waiting when it returns.
pub(super) struct Socket(OwnedFd);

impl Socket {
    pub(super) fn netfilter() -> io::Result<Self> {
        Self::open(Some(netlink::NETFILTER))
    }

    pub(super) fn route() -> io::Result<Self> {
        Self::open(None) // NETLINK_ROUTE is protocol 0
    }

    fn open(protocol: Option<Protocol>) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        Ok(Self(rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?))
    }

    /// Sends one or more messages as one datagram, and gives every reply to it.
    pub(super) fn exchange(&self, datagram: &[u8]) -> io::Result<Vec<Reply>> {
        // A batch must arrive whole; the default send buffer is 208 KiB and a rule takes less than 512 bytes. The kernel caps
        // the size silently (net.core.wmem_max); what really does not fit fails in `send`.
        rustix::net::sockopt::set_socket_send_buffer_size(&self.0, datagram.len() + RECEIVE)?;
        rustix::net::send(&self.0, datagram, SendFlags::empty())?;
        let mut replies = Vec::new();
        let mut buffer = vec![0; RECEIVE];
        loop {
            match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => parse(buffer.get(..length).unwrap_or_default(), &mut replies),
                Err(rustix::io::Errno::AGAIN) => return Ok(replies),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn parse(mut datagram: &[u8], replies: &mut Vec<Reply>) {
    while let Some((header, _)) = datagram.split_at_checked(HEADER) {
        let length = (u32_at(header, 0) as usize).clamp(HEADER, datagram.len());
        let kind = u16_at(header, 4);
        let payload = datagram.get(HEADER..length).unwrap_or_default();
        match kind {
            NLMSG_ERROR => {
                let code = u32_at(payload, 0).cast_signed();
                let result = if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                replies.push(Reply::Outcome { sequence: u32_at(header, 8), result });
            }
            NLMSG_DONE => {}
            _ => replies.push(Reply::Record { kind, payload: payload.to_vec() }),
        }
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

/// The attributes of a record, after `fixed` bytes of the protocol's own header.
pub(super) fn attributes(payload: &[u8], fixed: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(fixed..).unwrap_or_default();
    std::iter::from_fn(move || {
        let (header, _) = rest.split_at_checked(4)?;
        let length = usize::from(u16_at(header, 0));
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16_at(header, 2) & !NLA_F_NESTED, value))
    })
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_ne_bytes)
}
