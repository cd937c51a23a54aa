//! The pooled framing: HTTP/2 over one tunnel carries many connections (HBONE, single hop). Here are one carried connection as a
//! stream of bytes, the settings of both ends, and the client's pool.
use super::Path;
use super::copy::Side;
use super::outbound::{self, Target};
use super::socket;
use crate::live::{CutReason, Registered, Tunnel};
use crate::refusal::{CutByPeer, Refusal};
use crate::shared::Settings;
use crate::shared::Shared;
use crate::tls::{Framing, Tls, is_alert};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use signet_identity::{SpiffeId, WorkloadUid};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// Tunnels that are tried for one connection.
const ATTEMPTS: u32 = 3;
/// What one slow reader can hold back, in bytes.
const STREAM_WINDOW: u32 = 512 * 1024;
/// 256 KiB frames cost 13 % less CPU in bulk than 16 KiB (measured).
const FRAME: u32 = 256 * 1024;
/// A tunnel whose peer does not answer a ping within this is given up.
const PING: Duration = Duration::from_secs(30);

/// The server's end. The limits on resets and headers are those of h2 made explicit (F29: rapid reset, CONTINUATION flood).
pub fn server(settings: &Settings) -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(settings))
        .max_frame_size(FRAME)
        .max_concurrent_streams(settings.streams)
        .max_header_list_size(settings.head_bytes)
        .max_concurrent_reset_streams(32)
        .max_pending_accept_reset_streams(32)
        .max_local_error_reset_streams(Some(256))
        .max_send_buffer_size(FRAME as usize);
    builder
}

/// Streams times stream window, as far as HTTP/2 goes (RFC 9113 section 6.9.1): a slow reader never stops its neighbours.
fn connection_window(settings: &Settings) -> u32 {
    STREAM_WINDOW.saturating_mul(settings.streams).min((1 << 31) - 1)
}

fn client_builder(settings: &Settings) -> client::Builder {
    let mut builder = client::Builder::new();
    builder
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(connection_window(settings))
        .max_frame_size(FRAME)
        .enable_push(false)
        .max_header_list_size(settings.head_bytes)
        .max_concurrent_reset_streams(32)
        .initial_max_send_streams(settings.streams as usize)
        .max_send_buffer_size(FRAME as usize);
    builder
}

/// One carried connection.
pub struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    chunk: Bytes,
}

impl Stream {
    /// From the two halves of an exchange.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, chunk: Bytes::new() }
    }
}

fn broken(error: h2::Error) -> io::Error {
    if error.is_io() {
        error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    } else if let Some(reason) = error.reason().and_then(|reason| CutReason::heard(reason.into())) {
        io::Error::new(io::ErrorKind::ConnectionReset, CutByPeer(reason))
    } else if error.is_reset() || error.is_go_away() {
        io::Error::new(io::ErrorKind::ConnectionReset, error)
    } else {
        io::Error::other(error)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                Some(Ok(chunk)) => self.chunk = chunk,
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                None => return Poll::Ready(Ok(())),
            }
        }
        let taken = self.chunk.len().min(buf.remaining());
        buf.put_slice(&self.chunk.split_to(taken));
        // The window opens only for what was taken: a slow reader holds back its own sender and no more.
        self.receive.flow_control().release_capacity(taken).map_err(broken)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(e)) => return Poll::Ready(Err(broken(e))),
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
        let taken = self.send.capacity().min(buf.len());
        self.send.send_data(Bytes::copy_from_slice(&buf[..taken]), false).map_err(broken)?;
        Poll::Ready(Ok(taken))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }
}

impl Side for Stream {
    const NAME: &'static str = "peer";
    /// Four records with the header of the frame: otherwise its last nine bytes would travel, and be sent, by themselves.
    const WRITE: usize = 64 * 1024 - 9;
    const WAKES: bool = true;
    fn broken(&mut self, cx: &mut Context<'_>) -> Option<io::Error> {
        match self.send.poll_reset(cx) {
            Poll::Pending => None,
            Poll::Ready(Ok(reason)) => Some(broken(reason.into())),
            Poll::Ready(Err(error)) => Some(broken(error)),
        }
    }
    fn abort(&mut self, cut: Option<CutReason>) {
        self.send.send_reset(cut.map_or(Reason::CANCEL, |cut| cut.said().into()));
    }
}

/// What must be the same for two connections to share a tunnel (design section 4).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    address: SocketAddr,
    id: SpiffeId,
    uid: Option<WorkloadUid>,
    own_serial: Vec<u8>,
    trust_sequence: u64,
}

/// An open tunnel of the pool.
struct Open {
    requests: client::SendRequest<Bytes>,
    tunnel: Rc<Registered<Tunnel>>,
    group: &'static str,
    no_new_streams_at: u64,
    carried: Rc<Carried>,
}

/// How many connections a tunnel carries, and since when it carries none.
struct Carried {
    count: Cell<u32>,
    idle_since: Cell<Instant>,
    /// The peer has answered a request: it did not refuse our certificate.
    answered: Cell<bool>,
    /// A request failed on it: what it carries goes on, nothing new goes there.
    retired: Cell<bool>,
}

/// Counts one connection on a tunnel until dropped.
pub struct Slot(Rc<Carried>);

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

#[derive(Default)]
struct Peer {
    open: RefCell<Vec<Open>>,
    /// One dial at a time: the others wait and share what it opens, or why it failed.
    dialling: tokio::sync::Mutex<()>,
    /// Dials begun so far.
    dials: Cell<u64>,
    /// The last dial that failed, by its number.
    failed: RefCell<Option<(u64, Arc<Refusal>)>>,
}

/// Keeps a peer's entry in the pool while somebody is about to open a connection; an entry without a tunnel goes with the last.
struct Visit<'a> {
    pool: &'a Pool,
    key: &'a Key,
    peer: Rc<Peer>,
}

impl Drop for Visit<'_> {
    fn drop(&mut self) {
        // The pool's own and this one.
        if Rc::strong_count(&self.peer) == 2 && self.peer.open.borrow().is_empty() {
            self.pool.peers.borrow_mut().remove(self.key);
        }
    }
}

/// A connection that was opened on a tunnel of the pool.
pub struct Opened {
    /// The connection.
    pub stream: Stream,
    /// The tunnel below it.
    pub tunnel: Arc<Tunnel>,
    /// The key exchange group, for logs.
    pub group: &'static str,
    /// Held while the connection lives.
    pub slot: Slot,
}

/// The tunnels that one data path thread holds open to its peers.
#[derive(Default)]
pub struct Pool {
    peers: RefCell<HashMap<Key, Rc<Peer>>>,
}

impl Pool {
    /// Opens one connection on a tunnel to the target, which is dialled if there is none with room.
    pub async fn open(path: &Rc<Path>, target: &Target<'_>) -> Result<Opened, Refusal> {
        let own = path.shared.usable_svid()?;
        let key = Key {
            address: target.tunnel_address(),
            id: target.peer.id.clone(),
            uid: target.peer.uid.clone(),
            own_serial: own.serial().to_vec(),
            trust_sequence: path.shared.credentials.trust().state().sequence,
        };
        let peer = path.pool.peers.borrow_mut().entry(key.clone()).or_default().clone();
        let visit = Visit { pool: &path.pool, key: &key, peer };
        let mut attempt = 1;
        loop {
            let picked = match visit.peer.pick(&path.shared) {
                Some(picked) => picked,
                None => Self::wait_or_dial(path, target, &visit).await?,
            };
            let carried = picked.slot.0.clone();
            match Self::connect(path, target, picked).await {
                // A tunnel that said goodbye between the look and the request, or before, is passed over from here on.
                Err(Refusal::TunnelBroke(_) | Refusal::RefusedByPeer(_)) if attempt < ATTEMPTS => {
                    carried.retired.set(true);
                    attempt += 1;
                }
                other => return other,
            }
        }
    }

    /// Dials, or waits for the dial that is under way: what it opens is shared, and so is its failure. Were it not, a hundred
    /// callers of a peer that is gone would wait for a hundred timeouts one after the other.
    async fn wait_or_dial(path: &Rc<Path>, target: &Target<'_>, visit: &Visit<'_>) -> Result<Picked, Refusal> {
        let peer = &visit.peer;
        let (_turn, waited_for) = if let Ok(turn) = peer.dialling.try_lock() {
            (turn, None)
        } else {
            let under_way = peer.dials.get();
            (peer.dialling.lock().await, Some(under_way))
        };
        if let Some(picked) = peer.pick(&path.shared) {
            return Ok(picked);
        }
        if let (Some(under_way), Some((number, refusal))) = (waited_for, &*peer.failed.borrow())
            && *number >= under_way
        {
            return Err(Refusal::Shared(refusal.clone()));
        }
        peer.dials.set(peer.dials.get() + 1);
        Self::dial(path, target, visit.key, peer).await.map_err(|refusal| {
            let refusal = Arc::new(refusal);
            peer.failed.replace(Some((peer.dials.get(), refusal.clone())));
            Refusal::Shared(refusal)
        })
    }

    async fn connect(path: &Rc<Path>, target: &Target<'_>, picked: Picked) -> Result<Opened, Refusal> {
        let limit = path.shared.settings.connect_time;
        let carried = picked.slot.0.clone();
        // A peer that refuses our certificate says so only after our half of the handshake: here, with the first request.
        let lost = |error: h2::Error| {
            let below = error.is_io();
            let error = broken(error);
            if below && !carried.answered.get() && is_alert(&error) {
                Refusal::RefusedByPeer(error)
            } else {
                Refusal::TunnelBroke(error)
            }
        };
        let mut requests = picked.requests;
        poll_fn(|cx| requests.poll_ready(cx)).await.map_err(lost)?;
        let mut request = http::Request::new(());
        *request.method_mut() = http::Method::CONNECT;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() =
            http::Uri::builder().authority(target.application.to_string()).build().map_err(|_| Refusal::BadTarget)?;
        let (response, send) = requests.send_request(request, false).map_err(lost)?;
        // The peer has its own limit for its application; ours is later, so that its answer is heard.
        let answer = tokio::time::timeout(limit * 2, response).await;
        let response = answer.map_err(|_| Refusal::ConnectTimeout(target.application, limit * 2))?.map_err(lost)?;
        carried.answered.set(true);
        if response.status() != http::StatusCode::OK {
            let reason =
                response.headers().get("proxy-status").and_then(|v| super::head::proxy_status_code(v.as_bytes()));
            return Err(Refusal::PeerAnswered { status: response.status().as_u16(), reason });
        }
        let stream = Stream::new(send, response.into_body());
        Ok(Opened { stream, tunnel: picked.tunnel.item.clone(), group: picked.group, slot: picked.slot })
    }

    async fn dial(path: &Rc<Path>, target: &Target<'_>, key: &Key, peer: &Rc<Peer>) -> Result<Picked, Refusal> {
        let (tls, proven) = outbound::dial_tunnel(&path.shared, target, Framing::Pooled).await?;
        socket::must_read(tls.tcp()).map_err(Refusal::TunnelBroke)?;
        let (group, no_new_streams_at) = (proven.group, proven.validity().no_new_streams_from(path.shared.now()));
        let tunnel = Arc::new(proven.into_tunnel(key.address, true));
        let tunnel = Rc::new(path.shared.live.hold(tunnel));
        let (requests, connection) =
            client_builder(&path.shared.settings).handshake(tls).await.map_err(|e| Refusal::TunnelBroke(broken(e)))?;
        let now = Instant::now();
        // Whoever dialled takes the first place, whatever the tunnel's age by now: it is as fresh as can be had.
        let carried = Rc::new(Carried {
            count: Cell::new(1),
            idle_since: Cell::new(now),
            answered: Cell::new(false),
            retired: Cell::new(false),
        });
        let slot = Slot(carried.clone());
        peer.open.borrow_mut().push(Open {
            requests: requests.clone(),
            tunnel: tunnel.clone(),
            group,
            no_new_streams_at,
            carried: carried.clone(),
        });
        tokio::task::spawn_local(drive(path.clone(), connection, tunnel.clone(), key.clone(), carried));
        Ok(Picked { requests, tunnel, group, slot })
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.peers.borrow().is_empty()
    }

    /// Whether a tunnel is left that would take another request, as far as HTTP/2 knows.
    #[cfg(test)]
    pub fn takes_more(&self) -> bool {
        let noop = &mut Context::from_waker(std::task::Waker::noop());
        let mut takes = |open: &Open| matches!(open.requests.clone().poll_ready(noop), Poll::Ready(Ok(())));
        self.peers.borrow().values().any(|peer| peer.open.borrow().iter().any(&mut takes))
    }

    #[cfg(test)]
    pub fn carried(&self) -> u32 {
        let peers = self.peers.borrow();
        peers.values().map(|peer| peer.open.borrow().iter().map(|open| open.carried.count.get()).sum::<u32>()).sum()
    }

    fn remove(&self, key: &Key, tunnel: &Tunnel) {
        let mut peers = self.peers.borrow_mut();
        if let Some(peer) = peers.get(key) {
            peer.open.borrow_mut().retain(|open| open.tunnel.exporter != tunnel.exporter);
            // Whoever visits it takes it away when he leaves.
            if peer.open.borrow().is_empty() && Rc::strong_count(peer) == 1 {
                peers.remove(key);
            }
        }
    }
}

struct Picked {
    requests: client::SendRequest<Bytes>,
    tunnel: Rc<Registered<Tunnel>>,
    group: &'static str,
    slot: Slot,
}

impl Peer {
    /// The fullest tunnel that still has room: so that the others empty and close.
    fn pick(&self, shared: &Shared) -> Option<Picked> {
        let (open, now, streams) = (self.open.borrow(), shared.clock.now(), shared.settings.streams as usize);
        let usable = |o: &&Open| {
            let room = o.requests.current_max_send_streams().min(streams);
            !o.carried.retired.get()
                && o.tunnel.now(now) < o.no_new_streams_at
                && (o.carried.count.get() as usize) < room
                && o.tunnel.cut.thrown().is_none()
        };
        let chosen = open.iter().filter(usable).max_by_key(|o| o.carried.count.get())?;
        chosen.carried.count.set(chosen.carried.count.get() + 1);
        let slot = Slot(chosen.carried.clone());
        Some(Picked { requests: chosen.requests.clone(), tunnel: chosen.tunnel.clone(), group: chosen.group, slot })
    }
}

/// Drives one tunnel until it ends, is cut, stops answering pings, or was idle for too long.
async fn drive(
    path: Rc<Path>,
    mut connection: client::Connection<Tls, Bytes>,
    tunnel: Rc<Registered<Tunnel>>,
    key: Key,
    carried: Rc<Carried>,
) {
    let mut pings = connection.ping_pong();
    let idle = path.shared.settings.idle_tunnel;
    let watch = async {
        loop {
            tokio::time::sleep(PING.min(idle)).await;
            let spent = carried.retired.get() || carried.idle_since.get() + idle <= Instant::now();
            if carried.count.get() == 0 && spent {
                return;
            }
            if let Some(pings) = &mut pings
                && !matches!(tokio::time::timeout(PING, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_)))
            {
                return;
            }
        }
    };
    tokio::select! {
        ended = &mut connection => if let Err(error) = ended {
            tracing::debug!(peer = %tunnel.peer.leaf.id, %error, "pooled tunnel ended");
        },
        reason = tunnel.cut.wait() => tracing::info!(peer = %tunnel.peer.leaf.id, %reason, "pooled tunnel cut"),
        () = watch => {}
    }
    path.pool.remove(&key, &tunnel);
}
