//! The pooled framing: HTTP/2 over one tunnel carries many connections (HBONE, single hop). Here are one carried connection as a
//! stream of bytes, and the client's pool.
use super::copy::{About, Side};
use super::outbound::{self, Target};
use super::socket;
use super::{Path, Phase};
use crate::http2;
use crate::live::{CutReason, Registered, Tunnel};
use crate::refusal::{CutByPeer, Refusal};
use crate::shared::Shared;
use crate::tls::{Framing, Tls, WHOLE, is_alert};
use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream, client};
use signet_identity::{SpiffeId, WorkloadUid};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Tunnels that are tried for one connection.
const ATTEMPTS: u32 = 3;
/// A tunnel whose peer does not answer a ping within this is given up.
const PING: Duration = Duration::from_secs(30);

/// One carried connection.
pub struct Stream {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Bytes that were handed out last, for which the window is not open again.
    taken: usize,
}

impl Stream {
    /// From the two halves of an exchange.
    pub fn new(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        Self { send, receive, taken: 0 }
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

impl Side for Stream {
    /// Takes, with the frame's header of 9 bytes, as much as leaves with one send. The records are laid out for the peer's frame
    /// reader: the first holds the header and little more, so that the reader makes room for the frame before the rest is opened,
    /// in that place; the last is small, because a record needs one byte more room than its content.
    fn about(&self) -> About {
        About { name: "peer", most: WHOLE - 9, wakes: true }
    }
    fn poll_take(&mut self, cx: &mut Context<'_>, _: usize) -> Poll<io::Result<Bytes>> {
        // The window opens only for what has been given away: a slow reader holds back its own sender and no more. A stream that
        // is gone says so below.
        drop(self.receive.flow_control().release_capacity(std::mem::take(&mut self.taken)));
        loop {
            match ready!(self.receive.poll_data(cx)).transpose().map_err(broken)? {
                Some(chunk) if chunk.is_empty() => {}
                Some(chunk) => {
                    self.taken = chunk.len();
                    return Poll::Ready(Ok(chunk));
                }
                None => return Poll::Ready(Ok(Bytes::new())),
            }
        }
    }
    fn poll_give(&mut self, cx: &mut Context<'_>, bytes: &mut Bytes) -> Poll<io::Result<()>> {
        self.send.reserve_capacity(bytes.len());
        while self.send.capacity() == 0 {
            ready!(self.send.poll_capacity(cx)).ok_or(io::ErrorKind::BrokenPipe)?.map_err(broken)?;
        }
        let taken = self.send.capacity().min(bytes.len());
        Poll::Ready(self.send.send_data(bytes.split_to(taken), false).map_err(broken))
    }
    fn poll_flush(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.send.send_data(Bytes::new(), true).map_err(broken))
    }
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
pub(super) struct Key {
    address: SocketAddr,
    id: SpiffeId,
    uid: Option<WorkloadUid>,
    own_serial: Vec<u8>,
    trust_sequence: u64,
}

/// An open tunnel of the pool.
pub struct Open {
    /// Gone when the process leaves: a tunnel for which nobody can ask closes in order once what it carried has left.
    pub(super) requests: RefCell<Option<client::SendRequest<Bytes>>>,
    /// The tunnel, for as long as it is in the pool or carries something.
    pub tunnel: Registered<Tunnel>,
    no_new_streams_at: u64,
    pub(super) carried: Cell<u32>,
    /// Since when it carries nothing.
    idle_since: Cell<Instant>,
    /// The peer has answered a request: it did not refuse our certificate.
    answered: Cell<bool>,
    /// A request failed on it: what it carries goes on, nothing new goes there.
    retired: Cell<bool>,
}

/// One connection's place on a tunnel, until dropped.
pub struct Slot(Rc<Open>);

impl Slot {
    fn on(open: &Rc<Open>) -> Self {
        open.carried.set(open.carried.get() + 1);
        Self(open.clone())
    }
}

impl std::ops::Deref for Slot {
    type Target = Open;
    fn deref(&self) -> &Open {
        &self.0
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.carried.set(self.carried.get() - 1);
        self.idle_since.set(Instant::now());
    }
}

/// What a dial came to, for everybody who waited for it.
type Dialled = Result<Rc<Open>, Arc<Refusal>>;

/// The tunnels that one data path thread holds open to its peers.
#[derive(Default)]
pub struct Pool {
    pub(super) open: RefCell<HashMap<Key, Vec<Rc<Open>>>>,
    /// One dial at a time to each peer: what it opens is shared, and so is its failure. Were it not, a hundred callers of a peer
    /// that is gone would wait for a hundred timeouts one after the other.
    dials: RefCell<HashMap<Key, Rc<OnceCell<Dialled>>>>,
}

impl Pool {
    /// Opens one connection on a tunnel to the target, which is dialled if there is none with room.
    pub async fn open(path: &Rc<Path>, target: &Target<'_>) -> Result<(Stream, Slot), Refusal> {
        let key = Key {
            address: target.tunnel_address(),
            id: target.peer.id.clone(),
            uid: target.peer.uid.clone(),
            own_serial: path.shared.usable_svid()?.serial().to_vec(),
            trust_sequence: path.shared.credentials.trust().state().sequence,
        };
        let mut attempts = 1..ATTEMPTS;
        loop {
            let slot = Self::slot(path, target, &key).await?;
            let open = slot.0.clone();
            match connect(&path.shared, target.application, slot).await {
                // A tunnel that said goodbye between the look and the request, or before, is passed over from here on.
                Err(Refusal::TunnelBroke(_) | Refusal::RefusedByPeer(_)) if attempts.next().is_some() => {
                    open.retired.set(true);
                }
                other => return other,
            }
        }
    }

    /// A place on a tunnel with room; without one, on what the dial that is under way opens, or on one of its own.
    async fn slot(path: &Rc<Path>, target: &Target<'_>, key: &Key) -> Result<Slot, Refusal> {
        loop {
            if let Some(slot) = path.pool.pick(key, &path.shared) {
                return Ok(slot);
            }
            let cell = path.pool.dials.borrow_mut().entry(key.clone()).or_default().clone();
            let mut own = false;
            let dial = async {
                own = true;
                dial(path, target, key).await.map_err(Arc::new)
            };
            let dialled = cell.get_or_init(|| dial).await.clone();
            // This one has ended, and those that nobody waits for any more never will.
            path.pool.dials.borrow_mut().retain(|_, each| !Rc::ptr_eq(each, &cell) && Rc::strong_count(each) > 1);
            let open = dialled.map_err(Refusal::Shared)?;
            // Whoever dialled takes a place, whatever the tunnel's age by now: it is as fresh as can be had.
            if own {
                return Ok(Slot::on(&open));
            }
        }
    }

    /// The fullest tunnel that still has room: so that the others empty and close.
    fn pick(&self, key: &Key, shared: &Shared) -> Option<Slot> {
        let (all, now, streams) = (self.open.borrow(), shared.clock.now(), shared.settings.streams as usize);
        let room = |open: &Open| {
            let most = open.requests.borrow().as_ref().map_or(0, client::SendRequest::current_max_send_streams);
            (open.carried.get() as usize) < most.min(streams)
        };
        let usable = |open: &&Rc<Open>| {
            !open.retired.get()
                && open.tunnel.now(now) < open.no_new_streams_at
                && room(open)
                && open.tunnel.cut.thrown().is_none()
        };
        all.get(key)?.iter().filter(usable).max_by_key(|open| open.carried.get()).map(Slot::on)
    }
}

/// Asks for one connection on a tunnel.
async fn connect(shared: &Shared, application: SocketAddr, slot: Slot) -> Result<(Stream, Slot), Refusal> {
    // The peer has its own limit for its application; ours is later, so that its answer is heard.
    let limit = shared.settings.connect_time * 2;
    // A peer that refuses our certificate says so only after our half of the handshake: here, with the first request.
    let lost = |error: h2::Error| {
        let below = error.is_io();
        let error = broken(error);
        let refused = below && !slot.answered.get() && is_alert(&error);
        if refused { Refusal::RefusedByPeer(error) } else { Refusal::TunnelBroke(error) }
    };
    let requests = slot.requests.borrow().clone();
    let mut requests = requests.ok_or(Refusal::Draining)?;
    poll_fn(|cx| requests.poll_ready(cx)).await.map_err(lost)?;
    let request = http::Request::connect(application.to_string()).version(http::Version::HTTP_2).body(());
    let (response, send) = requests.send_request(request.map_err(|_| Refusal::BadTarget)?, false).map_err(lost)?;
    let answer = tokio::time::timeout(limit, response).await;
    let response = answer.map_err(|_| Refusal::ConnectTimeout(application, limit))?.map_err(lost)?;
    slot.answered.set(true);
    if response.status() != http::StatusCode::OK {
        let reason = response.headers().get("proxy-status").and_then(|v| super::head::proxy_status_code(v.as_bytes()));
        return Err(Refusal::PeerAnswered { status: response.status().as_u16(), reason });
    }
    Ok((Stream::new(send, response.into_body()), slot))
}

/// Opens a tunnel and puts it into the pool.
async fn dial(path: &Rc<Path>, target: &Target<'_>, key: &Key) -> Result<Rc<Open>, Refusal> {
    let (tls, proven) = outbound::dial_tunnel(&path.shared, target, Framing::Pooled).await?;
    socket::must_read(&tls).map_err(Refusal::TunnelBroke)?;
    let no_new_streams_at = proven.validity().no_new_streams_from(path.shared.now());
    let tunnel = path.shared.live.hold(Arc::new(proven.into_tunnel(key.address, true)));
    let (requests, connection) =
        http2::client(&path.shared.settings).handshake(tls).await.map_err(|e| Refusal::TunnelBroke(broken(e)))?;
    let open = Rc::new(Open {
        requests: RefCell::new(Some(requests)),
        tunnel,
        no_new_streams_at,
        carried: Cell::new(0),
        idle_since: Cell::new(Instant::now()),
        answered: Cell::new(false),
        retired: Cell::new(false),
    });
    path.pool.open.borrow_mut().entry(key.clone()).or_default().push(open.clone());
    tokio::task::spawn_local(drive(path.clone(), connection, open.clone()));
    Ok(open)
}

/// Drives one tunnel until it ends, is cut, stops answering pings, or was idle for too long. When the process leaves it ends as
/// soon as it carries nothing, and what was sent on it has left.
async fn drive(path: Rc<Path>, mut connection: client::Connection<Tls, Bytes>, open: Rc<Open>) {
    let mut pings = connection.ping_pong();
    let idle = path.shared.settings.idle_tunnel;
    let watch = async {
        loop {
            tokio::time::sleep(PING.min(idle)).await;
            let spent = open.retired.get() || open.idle_since.get() + idle <= Instant::now();
            if open.carried.get() == 0 && spent {
                return;
            }
            if let Some(pings) = &mut pings
                && !matches!(tokio::time::timeout(PING, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_)))
            {
                return;
            }
        }
    };
    let leave = async {
        path.reached(Phase::Leaving).await;
        drop(open.requests.take());
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = &mut connection => if let Err(error) = ended {
            tracing::debug!(peer = %open.tunnel.peer.leaf.id, %error, "pooled tunnel ended");
        },
        reason = open.tunnel.cut.wait() => tracing::info!(peer = %open.tunnel.peer.leaf.id, %reason, "pooled tunnel cut"),
        () = watch => {}
        () = leave => {}
    }
    path.pool.open.borrow_mut().retain(|_, tunnels| {
        tunnels.retain(|each| !Rc::ptr_eq(each, &open));
        !tunnels.is_empty()
    });
}
