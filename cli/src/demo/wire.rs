//! What is on the wire: a capture of every frame that passes a namespace, and the few words about it that people read.
//! Ours rather than tcpdump, because a fresh machine has none and because demo and tests look into the bytes.
use super::world::Namespace;
use anyhow::Context as _;
use rustix::net::sockopt::set_socket_recv_buffer_size_force;
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    collections::HashSet,
    fmt,
    io::Read as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// Every protocol, as `packet(7)` wants it: in network order.
const ETH_P_ALL: u16 = 0x0003;
/// Frames on a virtual cable are as large as segmentation offload makes them.
const LARGEST_FRAME: usize = 128 * 1024;
/// For frames that wait to be read.
const ROOM: usize = 32 << 20;

/// A capture that is under way.
#[derive(Debug)]
pub struct Capture {
    stop: Arc<AtomicBool>,
    reader: Option<std::thread::JoinHandle<anyhow::Result<Vec<Segment>>>>,
}

/// The payload of one TCP segment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Segment {
    /// Who sent it.
    pub from: SocketAddr,
    /// To whom.
    pub to: SocketAddr,
    /// TCP's sequence number of its first byte: the same segment is seen on several ports of a bridge.
    pub sequence: u32,
    /// What it carried: never empty.
    pub payload: Vec<u8>,
}

impl Capture {
    /// Listens on every device of a namespace; returns when it does.
    pub fn start(space: &Namespace) -> anyhow::Result<Self> {
        let protocol = Protocol::from(i32::from(ETH_P_ALL.to_be()));
        let mut socket = space
            .enter(|| Socket::new(Domain::PACKET, Type::RAW, Some(protocol)))?
            .context("opening a packet socket")?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        // The kernel drops frames for which there is no room: large, so that a burst is not lost. Whoever may not go beyond
        // net.core.rmem_max gets what that allows.
        if set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
            socket.set_recv_buffer_size(ROOM).context("making room for frames")?;
        }
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let reader = std::thread::spawn(move || {
            let mut frame = vec![0_u8; LARGEST_FRAME];
            let (mut seen, mut segments) = (HashSet::new(), Vec::new());
            loop {
                match socket.read(&mut frame) {
                    Ok(n) => {
                        if let Some(segment) = frame.get(..n).and_then(parse)
                            && seen.insert((segment.from, segment.to, segment.sequence, segment.payload.len()))
                        {
                            segments.push(segment);
                        }
                    }
                    // Nothing for a while: only then is what was sent before the stop surely here.
                    Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                        if stopped.load(Ordering::Relaxed) {
                            return Ok(segments);
                        }
                    }
                    Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(e) => return Err(e).context("reading frames"),
                }
            }
        });
        Ok(Self { stop, reader: Some(reader) })
    }

    /// Ends the capture, and gives the payload of every TCP segment that was seen. An error when one is missing: then nothing
    /// can be said of what was not on the wire.
    pub fn finish(mut self) -> anyhow::Result<Vec<Segment>> {
        self.stop.store(true, Ordering::Relaxed);
        let segments = match self.reader.take().map(std::thread::JoinHandle::join) {
            Some(Ok(segments)) => segments?,
            _ => anyhow::bail!("the capture's thread failed"),
        };
        if let Some((from, to)) = incomplete(&segments) {
            anyhow::bail!("the capture lost frames from {from} to {to}: the kernel had no room for them");
        }
        Ok(segments)
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// How often `words` occur in what was captured, looked for in each direction's bytes put in order, so that a word that two
/// segments share is found as well.
pub fn occurrences(segments: &[Segment], words: &str) -> usize {
    let needle = words.as_bytes();
    let in_direction = |(_, list): (Direction, Vec<&Segment>)| {
        let bytes: Vec<u8> = list.iter().flat_map(|s| s.payload.iter().copied()).collect();
        bytes.windows(needle.len()).filter(|window| *window == needle).count()
    };
    directions(segments).into_iter().map(in_direction).sum()
}

/// From whom to whom.
type Direction = (SocketAddr, SocketAddr);

/// What each direction of each connection carried, in order.
fn directions(segments: &[Segment]) -> Vec<(Direction, Vec<&Segment>)> {
    let mut directions: Vec<(Direction, Vec<&Segment>)> = Vec::new();
    for segment in segments {
        let key = (segment.from, segment.to);
        match directions.iter_mut().find(|(k, _)| *k == key) {
            Some((_, list)) => list.push(segment),
            None => directions.push((key, vec![segment])),
        }
    }
    for (_, list) in &mut directions {
        let first = list.first().map_or(0, |s| s.sequence);
        list.sort_by_key(|s| s.sequence.wrapping_sub(first).cast_signed());
    }
    directions
}

/// A direction in which bytes are missing between two segments. TCP's sequence numbers show it; the kernel's own count of the
/// frames that it dropped cannot be asked for without `unsafe`.
fn incomplete(segments: &[Segment]) -> Option<Direction> {
    let is_whole = |list: &[&Segment]| {
        let Some(first) = list.first() else { return true };
        // From the first byte on: where a segment begins, and up to where all bytes are there.
        let mut end = 0_u32;
        list.iter().all(|segment| {
            let at = segment.sequence.wrapping_sub(first.sequence);
            let follows = at <= end;
            end = end.max(at.saturating_add(segment.payload.len() as u32));
            follows
        })
    };
    directions(segments).into_iter().find(|(_, list)| !is_whole(list)).map(|(direction, _)| direction)
}

impl Segment {
    /// What it is, in words: a TLS record by type, or what can be read of it.
    pub fn describe(&self) -> String {
        match self.payload.as_slice() {
            [22, 3, _, _, _, 1, ..] => "TLS ClientHello".into(),
            [22, 3, _, _, _, 2, ..] => "TLS ServerHello".into(),
            [20, 3, 3, ..] => "TLS ChangeCipherSpec (for middleboxes)".into(),
            [21, 3, 3, ..] => "TLS alert".into(),
            [23, 3, 3, ..] => format!("TLS application data, {} bytes", self.payload.len()),
            other => {
                let text: String = other
                    .iter()
                    .take(48)
                    .map(|b| if b.is_ascii_graphic() || *b == b' ' { char::from(*b) } else { '.' })
                    .collect();
                format!("{} bytes, readable: {text}", other.len())
            }
        }
    }

    /// Whether it begins as a TLS record does.
    pub fn is_tls(&self) -> bool {
        matches!(self.payload.as_slice(), [20..=23, 3, 0..=4, ..])
    }
}

impl fmt::Display for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} → {}  {}", self.from, self.to, self.describe())
    }
}

/// Ethernet, IPv4 or IPv6 without extension headers, TCP with a payload; anything else is none of ours.
fn parse(frame: &[u8]) -> Option<Segment> {
    let packet = frame.get(14..)?;
    let (from, to, tcp): (IpAddr, IpAddr, &[u8]) = match frame.get(12..14)? {
        [0x08, 0x00] => {
            let header = usize::from(packet.first()? & 0x0f) * 4;
            let length = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            let address = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            if *packet.get(9)? != 6 {
                return None;
            }
            // A length of zero: the frame is larger than the field can say (segmentation offload).
            let end = if length == 0 { packet.len() } else { length };
            (address(12)?.into(), address(16)?.into(), packet.get(header..end)?)
        }
        [0x86, 0xdd] => {
            let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
            let address = |at: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?));
            if *packet.get(6)? != 6 {
                return None;
            }
            let end = if length == 0 { packet.len() } else { 40 + length };
            (address(8)?.into(), address(24)?.into(), packet.get(40..end)?)
        }
        _ => return None,
    };
    let port = |at: usize| Some(u16::from_be_bytes(tcp.get(at..at + 2)?.try_into().ok()?));
    let sequence = u32::from_be_bytes(tcp.get(4..8)?.try_into().ok()?);
    let payload = tcp.get(usize::from(tcp.get(12)? >> 4) * 4..)?;
    let segment = Segment {
        from: SocketAddr::new(from, port(0)?),
        to: SocketAddr::new(to, port(2)?),
        sequence,
        payload: payload.to_vec(),
    };
    (!payload.is_empty()).then_some(segment)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_that_is_missing_in_the_middle_is_noticed_and_one_that_comes_late_or_twice_is_not() {
        let [here, there] = [1, 2].map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
        let segment = |sequence: u32| Segment { from: here, to: there, sequence, payload: vec![0; 10] };
        // Sequence numbers begin again at 0.
        let before = u32::MAX - 9;
        for (captured, missing) in [
            (vec![], false),
            (vec![before, 0, 10], false),
            (vec![10, before, 0], false),
            (vec![before, before + 5, 0, 0, 10], false),
            (vec![before, 10], true),
            (vec![10, before], true),
        ] {
            let segments: Vec<Segment> = captured.iter().map(|sequence| segment(*sequence)).collect();
            assert_eq!(incomplete(&segments).is_some(), missing, "{captured:?}");
        }
    }
}
