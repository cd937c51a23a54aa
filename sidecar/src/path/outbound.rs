//! What the workload calls: original destination, what is known of it, choice of an endpoint, tunnel or plain TCP, copy.
//! A destination known to be meshed is never dialled in plaintext; inside the mesh's ranges unknown is not unmeshed.
use super::choose::{Loads, Use};
use super::pooled::{Pool, Slot, Stream};
use super::{Path, copy, head, original_destination, socket};
use crate::live::{Direction, Tunnel};
use crate::record::Record;
use crate::refusal::Refusal;
use crate::shared::Shared;
use crate::tls::{Framing, Proven, Tls};
use crate::view::{Destination, Endpoint, Named};
use signet_policy::Decision;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Endpoints that are tried for one connection.
const ATTEMPTS: usize = 3;
/// How often a waiting connection repeats its question to the operator.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Where a connection goes.
enum Route {
    /// Through a tunnel to one of these.
    Endpoints(Vec<Endpoint>),
    /// Plain TCP: not meshed, and the posture allows it.
    Plain(SocketAddr),
    /// This workload itself: dialled directly.
    Own(SocketAddr),
}

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
pub(super) enum Opened {
    Alone(Box<Tls>, Arc<Tunnel>),
    Pooled(Stream, Slot, Arc<Tunnel>),
    Plain(TcpStream),
    Own(TcpStream),
}

/// Carries one captured connection from accept to end.
pub async fn serve(path: Rc<Path>, mut app: TcpStream, from: SocketAddr) {
    let shared = path.shared.clone();
    let to = original_destination(&app);
    if to == Some(crate::capture::PROBE) {
        return shared.redirect_seen();
    }
    let mut record = Record::new(&shared, Direction::Outbound, from);
    let opened = match open(&path, to, &mut record).await {
        Ok(opened) => opened,
        Err(refusal) => {
            copy::Side::abort(&mut app, None);
            return record.refused(&refusal);
        }
    };
    let (to, key) = (record.destination(), record.framing_key());
    let source = record.source();
    let moved = match opened {
        (Opened::Alone(mut tls, tunnel), _use) => {
            let held = shared.live.hold(tunnel);
            let live = shared.live.open(Direction::Outbound, source, to, Some(held.item.clone()), false);
            record.carry(&live, copy::carry(&mut app, &mut *tls, &live)).await
        }
        (Opened::Pooled(mut stream, _slot, tunnel), _use) => {
            let live = shared.live.open(Direction::Outbound, source, to, Some(tunnel), false);
            record.carry(&live, copy::carry(&mut app, &mut stream, &live)).await
        }
        (Opened::Plain(mut tcp), _use) => {
            let live = shared.live.open_plain(source, to, SocketAddr::from(key));
            record.carry(&live, copy::carry(&mut app, &mut tcp, &live)).await
        }
        (Opened::Own(mut tcp), _use) => {
            let live = shared.live.open(Direction::Outbound, source, to, None, true);
            record.carry(&live, copy::carry(&mut app, &mut tcp, &live)).await
        }
    };
    path.framings.moved(key, moved);
}

async fn open(path: &Rc<Path>, to: Option<SocketAddr>, record: &mut Record) -> Result<(Opened, Option<Use>), Refusal> {
    let shared = &path.shared;
    let to = to.ok_or(Refusal::NoOriginalDestination)?;
    record.to(to);
    if shared.is_own_port(to) {
        return Err(Refusal::OwnPort(to));
    }
    let limit = shared.settings.connect_time;
    match route(shared, to).await? {
        Route::Own(to) => Ok((Opened::Own(socket::dial(to, limit).await?), None)),
        Route::Plain(to) => {
            record.plain();
            Ok((Opened::Plain(socket::dial(to, limit).await?), None))
        }
        Route::Endpoints(endpoints) => through_mesh(path, to, endpoints, record).await,
    }
}

/// What is known of a destination; waits for the operator only inside the mesh's ranges.
async fn route(shared: &Shared, to: SocketAddr) -> Result<Route, Refusal> {
    let patience = shared.settings.unknown_wait;
    let deadline = tokio::time::Instant::now() + patience;
    let mut changes = shared.view.changes();
    loop {
        changes.mark_unchanged();
        let state = shared.view.state();
        if let Some(state) = &state {
            if state.addresses.contains(&to.ip()) {
                return Ok(Route::Own(to));
            }
            let plain = || match state.egress.judge(to) {
                Decision::Allow => Ok(Route::Plain(to)),
                Decision::Deny => Err(Refusal::EgressDenied(to)),
            };
            match shared.view.destination(to.ip()).as_deref() {
                Some(Destination::Workload(endpoint)) => {
                    return Ok(Route::Endpoints(vec![Endpoint { port: to.port(), ..endpoint.clone() }]));
                }
                Some(Destination::Service(ports)) => {
                    let endpoints = ports.get(&to.port()).ok_or(Refusal::NoServicePort(to.ip(), to.port()))?;
                    return among(endpoints, to);
                }
                Some(Destination::Node(ports)) => {
                    return ports.get(&to.port()).map_or_else(plain, |endpoints| among(endpoints, to));
                }
                Some(Destination::Unmeshed) => return plain(),
                Some(Destination::Unknown) | None if !state.may_be_meshed(to.ip()) => return plain(),
                Some(Destination::Unknown) | None => shared.view.ask(to.ip()),
            }
        }
        let again = deadline.min(tokio::time::Instant::now() + ASK_AGAIN);
        // Either the view changed or it is time to ask again; a view that is gone means that the process is ending.
        if let Ok(Err(_)) = tokio::time::timeout_at(again, changes.changed()).await {
            return Err(Refusal::Draining);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(if state.is_some() {
                Refusal::UnknownDestination(to, patience)
            } else {
                Refusal::NoConfiguration
            });
        }
    }
}

fn among(endpoints: &[Endpoint], to: SocketAddr) -> Result<Route, Refusal> {
    if endpoints.is_empty() { Err(Refusal::NoEndpoint(to)) } else { Ok(Route::Endpoints(endpoints.to_vec())) }
}

async fn through_mesh(
    path: &Rc<Path>,
    to: SocketAddr,
    mut endpoints: Vec<Endpoint>,
    record: &mut Record,
) -> Result<(Opened, Option<Use>), Refusal> {
    let mut last = Refusal::NoEndpoint(to);
    for _ in 0..ATTEMPTS {
        let Some(chosen) = path.loads.choose(&mut endpoints) else { break };
        let application = SocketAddr::new(chosen.address, chosen.port);
        let in_use = Loads::using(&path.loads, application);
        record.endpoint(application);
        let attempt = match &chosen.peer {
            Some(peer) => open_tunnel(path, &Target { peer, application }, record).await,
            None => plain_endpoint(path, to, application, record).await,
        };
        match attempt {
            Ok(opened) => return Ok((opened, Some(in_use))),
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
async fn plain_endpoint(
    path: &Path,
    to: SocketAddr,
    application: SocketAddr,
    record: &mut Record,
) -> Result<Opened, Refusal> {
    let state = path.shared.view.state().ok_or(Refusal::NoConfiguration)?;
    // The posture may name the Service or the endpoint; both must be allowed.
    if state.egress.judge(to) == Decision::Deny || state.egress.judge(application) == Decision::Deny {
        return Err(Refusal::EgressDenied(to));
    }
    // Two answers of the operator that do not agree: a destination known to be meshed is never dialled in plaintext.
    if let Some(Destination::Workload(Endpoint { peer: Some(_), .. })) =
        path.shared.view.destination(application.ip()).as_deref()
    {
        return Err(Refusal::Contradiction(application));
    }
    record.plain();
    Ok(Opened::Plain(socket::dial(application, path.shared.settings.connect_time).await?))
}

pub(super) async fn open_tunnel(path: &Rc<Path>, target: &Target<'_>, record: &mut Record) -> Result<Opened, Refusal> {
    let shared = &path.shared;
    if shared.is_own_uid(target.peer.uid.as_ref()) && shared.is_own_address(target.application.ip()) {
        // A Service address that resolved to this workload: it may always call itself. The UID alone is not enough: a machine
        // that took it over may have left another behind, and what goes there must not go in plaintext.
        return Ok(Opened::Own(socket::dial(target.application, shared.settings.connect_time).await?));
    }
    record.peer(&target.peer.id);
    let framing = path.framings.choose(target.application, target.peer).ok_or(Refusal::NoFraming)?;
    record.framing(framing);
    if framing == Framing::Pooled {
        let opened = Pool::open(path, target).await?;
        record.group(opened.group);
        return Ok(Opened::Pooled(opened.stream, opened.slot, opened.tunnel));
    }
    let (mut tls, proven) = dial_tunnel(shared, target, Framing::Alone).await?;
    record.group(proven.group);
    let limit = shared.settings.connect_time * 2;
    tokio::time::timeout(limit, ask_to_connect(&mut tls, target.application, shared.settings.head_bytes))
        .await
        .map_err(|_| Refusal::ConnectTimeout(target.application, limit))??;
    Ok(Opened::Alone(Box::new(tls), Arc::new(proven.into_tunnel(target.tunnel_address(), true))))
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
    let lost = |e| if crate::tls::is_alert(&e) { Refusal::RefusedByPeer(e) } else { Refusal::TunnelBroke(e) };
    tls.write_all(head::write_request(application).as_bytes()).await.map_err(lost)?;
    tls.flush().await.map_err(lost)?;
    let mut bytes = Vec::with_capacity(256);
    loop {
        if let Some(found) = head::answer(&bytes)? {
            let (status, reason) = found.content;
            if status != 200 {
                return Err(Refusal::PeerAnswered { status, reason });
            }
            bytes.drain(..found.length);
            tls.unread(bytes);
            return Ok(());
        }
        if bytes.len() >= head_bytes as usize {
            return Err(Refusal::HeadTooLarge(head_bytes));
        }
        if tls.read_buf(&mut bytes).await.map_err(lost)? == 0 {
            return Err(Refusal::RefusedByPeer(std::io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// What the framing rule remembers by: the endpoint's address and port.
pub type FramingKey = (IpAddr, u16);
