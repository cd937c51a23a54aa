//! What the workload calls: original destination, what is known of it, choice of an endpoint, tunnel or plain TCP, copy.
//! A destination known to be meshed is never dialled in plaintext; inside the mesh's ranges unknown is not unmeshed.
use super::choose::Use;
use super::copy::{self, Side};
use super::pooled::{Pool, Slot};
use super::{Path, head, socket};
use crate::live::{Direction, Registered, Tunnel};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::tls::{Framing, Proven, Tls, is_alert};
use crate::view::{Endpoint, Named, Way};
use signet_policy::Decision;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;
/// How often a waiting connection repeats its question to the operator.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// A peer to open a tunnel to, and the application behind it.
pub struct Target<'a> {
    /// Who must answer.
    pub peer: &'a Named,
    /// The application's address and port.
    pub application: SocketAddr,
}

impl Target<'_> {
    /// Where the peer's tunnel listens.
    pub fn tunnel_address(&self) -> SocketAddr {
        SocketAddr::new(self.application.ip(), self.peer.tunnel_port)
    }
}

/// What was opened towards the destination.
pub(super) struct Opened {
    side: Box<dyn Side>,
    /// What carries it; `None`: plain TCP.
    tunnel: Option<Arc<Tunnel>>,
    /// The workload calls itself.
    own: bool,
    held: Held,
}

/// What is held while the connection lives.
type Held = (Option<Use>, Option<Slot>, Option<Registered<Tunnel>>);

impl Opened {
    fn tcp(tcp: TcpStream, own: bool) -> Self {
        Self { side: Box::new(tcp), tunnel: None, own, held: Held::default() }
    }
}

/// Carries one captured connection from accept to end.
pub async fn serve(path: Rc<Path>, mut app: TcpStream, from: SocketAddr) {
    let shared = path.shared.clone();
    let to = socket::original_destination(&app);
    if to == Some(crate::capture::PROBE) {
        return shared.redirect_seen();
    }
    let mut record = Record::new(&shared, Direction::Outbound, from);
    // In a place of its own: what opening needs is let go before bytes flow.
    let Opened { mut side, tunnel, own, held } = match Box::pin(path.until_leaving(open(&path, to, &mut record))).await
    {
        Ok(opened) => opened,
        Err(refusal) => {
            app.abort(None);
            return record.refused(&refusal);
        }
    };
    let endpoint = record.endpoint_or_destination();
    let plain_to = (tunnel.is_none() && !own).then_some(endpoint);
    let live = shared.live.open(Direction::Outbound, record.source(), record.destination(), plain_to, tunnel, own);
    let moved = record.carry(&live, copy::carry(&mut app, &mut *side, &live)).await;
    path.framings.moved(endpoint, moved);
    drop(held);
}

async fn open(path: &Rc<Path>, to: Option<SocketAddr>, record: &mut Record) -> Result<Opened, Refusal> {
    let shared = &path.shared;
    let to = to.ok_or(Refusal::NoOriginalDestination)?;
    record.to(to);
    if shared.is_own_port(to) {
        return Err(Refusal::OwnPort(to));
    }
    match route(shared, to).await? {
        Some(endpoints) => through_mesh(path, endpoints, record).await,
        None => Ok(Opened::tcp(socket::dial(to, shared.settings.connect_time).await?, true)),
    }
}

/// The endpoints of a destination; `None`: this workload itself. Waits for the operator only inside the mesh's ranges.
pub(super) async fn route(shared: &Shared, to: SocketAddr) -> Result<Option<Vec<Endpoint>>, Refusal> {
    let patience = shared.settings.unknown_wait;
    let deadline = tokio::time::Instant::now() + patience;
    let mut changes = shared.view.changes();
    loop {
        changes.mark_unchanged();
        let state = shared.view.state();
        if let Some(state) = &state {
            if state.addresses.contains(&to.ip()) {
                return Ok(None);
            }
            let known = shared.view.destination(to.ip());
            match known.map_or(Way::Unknown, |destination| destination.way(to)) {
                Way::To(behind) => return Ok(Some(shared.affinity.choose(to, behind))),
                Way::NoSuchPort => return Err(Refusal::NoServicePort(to.ip(), to.port())),
                Way::Unknown if state.may_be_meshed(to.ip()) => shared.view.ask(to.ip()),
                Way::Unknown => return Ok(Some(vec![Endpoint { address: to.ip(), port: to.port(), peer: None }])),
            }
        }
        let again = deadline.min(tokio::time::Instant::now() + ASK_AGAIN);
        // Either the view changed or it is time to ask again; a view that is gone means that the process is ending.
        if let Ok(Err(_)) = tokio::time::timeout_at(again, changes.changed()).await {
            return Err(Refusal::Draining);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(state.map_or(Refusal::NoConfiguration, |_| Refusal::UnknownDestination(to, patience)));
        }
    }
}

async fn through_mesh(path: &Rc<Path>, mut from: Vec<Endpoint>, record: &mut Record) -> Result<Opened, Refusal> {
    let to = record.destination();
    let mut last = Refusal::NoEndpoint(to);
    for _ in 0..ATTEMPTS {
        let Some(chosen) = path.loads.choose(&mut from) else { break };
        let application = SocketAddr::new(chosen.address, chosen.port);
        let in_use = path.loads.using(application);
        if chosen.peer.is_some() || application != to {
            record.endpoint(application);
        }
        let attempt = match &chosen.peer {
            Some(peer) => open_tunnel(path, &Target { peer, application }, record).await,
            None => plain_endpoint(path, application, record).await,
        };
        match attempt {
            Ok(mut opened) => {
                opened.held.0 = Some(in_use);
                return Ok(opened);
            }
            Err(refusal) if refusal.is_worth_another_endpoint() => {
                path.loads.failed(application);
                last = refusal;
            }
            Err(refusal) => return Err(refusal),
        }
    }
    Err(last)
}

/// An endpoint without a sidecar: plain TCP, by the egress posture.
async fn plain_endpoint(path: &Path, application: SocketAddr, record: &mut Record) -> Result<Opened, Refusal> {
    let to = record.destination();
    let state = path.shared.view.state().ok_or(Refusal::NoConfiguration)?;
    // The posture may name the Service or the endpoint; both must be allowed.
    if state.egress.judge(to) == Decision::Deny || state.egress.judge(application) == Decision::Deny {
        return Err(Refusal::EgressDenied(to));
    }
    // Two answers of the operator that do not agree: a destination known to be meshed is never dialled in plaintext.
    if path.shared.view.destination(application.ip()).is_some_and(|known| known.is_meshed(application.port())) {
        return Err(Refusal::Contradiction(application));
    }
    record.plain();
    Ok(Opened::tcp(socket::dial(application, path.shared.settings.connect_time).await?, false))
}

pub(super) async fn open_tunnel(path: &Rc<Path>, target: &Target<'_>, record: &mut Record) -> Result<Opened, Refusal> {
    let shared = &path.shared;
    if shared.is_own_uid(target.peer.uid.as_ref()) && shared.is_own_address(target.application.ip()) {
        // A Service address that resolved to this workload: it may always call itself. The UID alone is not enough: a machine
        // that took it over may have left another behind, and what goes there must not go in plaintext.
        return Ok(Opened::tcp(socket::dial(target.application, shared.settings.connect_time).await?, true));
    }
    record.peer(&target.peer.id);
    let framing = path.framings.choose(target.application, target.peer).ok_or(Refusal::NoFraming)?;
    record.framing(framing);
    if framing == Framing::Pooled {
        let (stream, slot) = Pool::open(path, target).await?;
        record.tunnel(&slot.tunnel, framing);
        let tunnel = Some(slot.tunnel.item.clone());
        return Ok(Opened { side: Box::new(stream), tunnel, own: false, held: (None, Some(slot), None) });
    }
    let (mut tls, proven) = dial_tunnel(shared, target, Framing::Alone).await?;
    let tunnel = shared.live.hold(Arc::new(proven.into_tunnel(target.tunnel_address(), true)));
    record.tunnel(&tunnel, framing);
    let limit = shared.settings.connect_time * 2;
    let asked = ask_to_connect(&mut tls, target.application, shared.settings.head_bytes);
    let asked = tokio::time::timeout(limit, asked).await;
    asked.map_err(|_| Refusal::ConnectTimeout(target.application, limit))??;
    Ok(Opened { side: Box::new(tls), tunnel: Some(tunnel.item.clone()), own: false, held: (None, None, Some(tunnel)) })
}

/// Opens TLS to a peer's sidecar and requires the identity and UID that the operator named.
pub async fn dial_tunnel(shared: &Shared, target: &Target<'_>, framing: Framing) -> Result<(Tls, Proven), Refusal> {
    let limit = shared.settings.connect_time;
    let tcp = socket::dial(target.tunnel_address(), limit).await?;
    let (tls, proven) = Tls::connect(shared, tcp, framing, limit)
        .await
        .inspect_err(|refusal| shared.observe.handshake_failed(refusal.code()))?;
    shared.observe.handshake();
    proven.peer.expect(&target.peer.id, target.peer.uid.as_ref()).map_err(Refusal::PeerCertificate)?;
    Ok((tls, proven))
}

/// Sends the CONNECT head and reads its answer; what follows the answer stays for the connection.
async fn ask_to_connect(tls: &mut Tls, application: SocketAddr, head_bytes: u32) -> Result<(), Refusal> {
    // A peer that refuses our certificate says so only after our half of the handshake: here.
    let lost = |e: io::Error| if is_alert(&e) { Refusal::RefusedByPeer(e) } else { Refusal::TunnelBroke(e) };
    tls.write_all(head::write_request(application).as_bytes()).await.map_err(lost)?;
    tls.flush().await.map_err(lost)?;
    match head::read(tls, head_bytes, head::answer, lost).await? {
        (200, _) => Ok(()),
        (status, reason) => Err(Refusal::PeerAnswered { status, reason }),
    }
}
