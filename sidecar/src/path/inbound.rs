//! What calls the workload: through the tunnel (15008) with a proved identity, or captured in plaintext (15006) with none. The
//! verdict is taken before the application hears of the connection; it is dialled at the workload's own address, never loopback.
use super::copy::{self, Side};
use super::pooled::Stream;
use super::{Path, Phase, head, socket};
use crate::http2;
use crate::live::{Direction, Registered, Tunnel};
use crate::proof;
use crate::record::Record;
use crate::refusal::Refusal;
use crate::shared::{Permit, Place};
use crate::tls::{Framing, Proven, Tls};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::Request;
use signet_policy::{Caller, Decision};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// How often an inbound tunnel is looked at for being idle or past its certificates.
const LOOK: Duration = Duration::from_secs(5);

/// Carries one captured plaintext connection. The caller has no identity: only an `unauthenticated` clause or the posture can
/// admit it.
pub async fn serve_plaintext(path: Rc<Path>, mut caller: TcpStream, from: SocketAddr) {
    let mut record = Record::new(&path.shared, Direction::Inbound, from);
    let plaintext = Caller::Plaintext(record.source().ip());
    let opened = match socket::original_destination(&caller) {
        None => Err(Refusal::NoOriginalDestination),
        Some(to) => path.until_leaving(admit_and_dial(&mut record, to, plaintext)).await,
    };
    match opened {
        Err(refusal) => {
            caller.abort(None);
            record.refused(&refusal);
        }
        Ok(app) => carry(record, &mut caller, app, None).await,
    }
}

/// Carries a connection that was admitted, to its end.
async fn carry(record: Record, caller: &mut dyn Side, mut app: TcpStream, below: Option<Arc<Tunnel>>) {
    let live = record.shared().live.open(Direction::Inbound, record.source(), record.destination(), None, below, false);
    record.carry(&live, copy::carry(caller, &mut app, &live)).await;
}

/// Answers one peer's sidecar: handshake, then what the agreed framing says.
pub async fn serve_tunnel(path: Rc<Path>, tcp: TcpStream, from: SocketAddr) {
    let shared = path.shared.clone();
    // Many that come at once take turns; only who waits too long is refused.
    let turn = tokio::time::timeout(shared.settings.connect_time, shared.limits.handshake());
    let Ok(Some(permit)) = turn.await else {
        shared.observe.limit("handshakes");
        return Record::new(&shared, Direction::Inbound, from).refused(&Refusal::Limit("handshakes in progress"));
    };
    let accepted = Tls::accept(&shared, tcp, shared.settings.connect_time).await;
    drop(permit);
    let (tls, proven) = match accepted {
        Ok(accepted) => accepted,
        Err(refusal) => {
            shared.observe.handshake_failed(refusal.code());
            return Record::new(&shared, Direction::Inbound, from).refused(&refusal);
        }
    };
    shared.observe.handshake();
    match proven.framing {
        Framing::Alone => serve_alone(&path, tls, proven, from).await,
        Framing::Pooled => serve_pooled(path, tls, proven, from).await,
        Framing::Proof => proof::answer(&shared, tls, proven).await,
    }
}

async fn serve_alone(path: &Path, mut tls: Tls, proven: Proven, from: SocketAddr) {
    let shared = &path.shared;
    let mut record = Record::new(shared, Direction::Inbound, from);
    let tunnel = shared.live.hold(Arc::new(proven.into_tunnel(from, false)));
    record.tunnel(&tunnel, Framing::Alone);
    match path.until_leaving(open_alone(&mut tls, &tunnel, &mut record)).await {
        Err(refusal) => {
            // The peer may be gone already; what it was told is in the record.
            drop(tls.write_all(head::write_refusal(&refusal).as_bytes()).await);
            drop(tls.shutdown().await);
            record.refused(&refusal);
        }
        Ok((app, _place)) => carry(record, &mut tls, app, Some(tunnel.item.clone())).await,
    }
}

async fn open_alone(tls: &mut Tls, tunnel: &Tunnel, record: &mut Record) -> Result<(TcpStream, Place), Refusal> {
    let place = record.shared().place(&tunnel.peer.leaf.id)?;
    let (limit, most) = (record.shared().settings.head_time, record.shared().settings.head_bytes);
    let read = head::read(tls, most, head::request, Refusal::TunnelBroke);
    let to = tokio::time::timeout(limit, read).await.map_err(|_| Refusal::HeadTimeout(limit))??;
    let app = admit_and_dial(record, to, Caller::Identity(tunnel.peer.leaf.id.as_str())).await?;
    tls.write_all(head::OPEN).await.map_err(Refusal::TunnelBroke)?;
    tls.flush().await.map_err(Refusal::TunnelBroke)?;
    Ok((app, place))
}

async fn serve_pooled(path: Rc<Path>, tls: Tls, proven: Proven, from: SocketAddr) {
    let shared = path.shared.clone();
    let tunnel = Rc::new(shared.live.hold(Arc::new(proven.into_tunnel(from, false))));
    let _place = match shared.place(&tunnel.peer.leaf.id) {
        Ok(place) => place,
        Err(refusal) => {
            let mut record = Record::new(&shared, Direction::Inbound, from);
            record.tunnel(&tunnel, Framing::Pooled);
            return record.refused(&refusal);
        }
    };
    let limit = shared.settings.head_time;
    if let Err(error) = socket::must_read(&tls) {
        return tracing::debug!(%from, %error, "tunnel was gone before it could be served");
    }
    let handshake = http2::server(&shared.settings).handshake::<_, Bytes>(tls);
    let mut connection = match tokio::time::timeout(limit, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "HTTP/2 preface refused"),
        Err(_) => return tracing::debug!(%from, "HTTP/2 preface did not arrive in time"),
    };
    let (mut drain, mut draining) = (pin!(path.reached(Phase::Draining)), false);
    let (mut look, mut idle) = (pin!(tokio::time::sleep(LOOK)), Duration::ZERO);
    // Each stream's task holds the tunnel, so that this counts them: of those that the peer has reset already too.
    let carried = |tunnel: &Rc<_>| Rc::strong_count(tunnel) - 1;
    loop {
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((_, mut respond))) if carried(&tunnel) >= 2 * shared.settings.streams as usize => {
                    // HTTP/2 forgets a stream with its reset, its connection to the application ends later (rapid reset).
                    shared.observe.limit("streams");
                    respond.send_reset(Reason::REFUSED_STREAM);
                }
                Some(Ok((request, respond))) => {
                    tokio::task::spawn_local(serve_stream(path.clone(), tunnel.clone(), request, respond, from));
                }
                Some(Err(error)) => return tracing::debug!(%from, peer = %tunnel.peer.leaf.id, %error, "tunnel ended"),
                None => return,
            },
            reason = tunnel.cut.wait() => {
                tracing::info!(%from, peer = %tunnel.peer.leaf.id, %reason, "tunnel cut");
                connection.abrupt_shutdown(Reason::NO_ERROR);
                // One turn lets GOAWAY leave; the streams were cut one by one before.
                drop(tokio::time::timeout(limit, poll_fn(|cx| connection.poll_closed(cx))).await);
                return;
            }
            () = &mut drain, if !draining => {
                draining = true;
                connection.graceful_shutdown();
            }
            () = &mut look => {
                idle = if carried(&tunnel) == 0 { idle + LOOK } else { Duration::ZERO };
                // A peer that opens tunnels and leaves them must not use up the connections of all; ours leave twice as early.
                // And what was proved by certificates that have ended is not proved for new connections.
                let spent = idle >= 2 * shared.settings.idle_tunnel || tunnel.now(shared.clock.now()) > tunnel.deadline();
                if spent && !draining {
                    draining = true;
                    connection.graceful_shutdown();
                }
                look.as_mut().reset(tokio::time::Instant::now() + LOOK);
            }
        }
    }
}

async fn serve_stream(
    path: Rc<Path>,
    tunnel: Rc<Registered<Tunnel>>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    from: SocketAddr,
) {
    let mut record = Record::new(&path.shared, Direction::Inbound, from);
    record.tunnel(&tunnel, Framing::Pooled);
    // In a place of its own: what opening needs is let go before bytes flow.
    let open = Box::pin(path.until_leaving(open_stream(&tunnel, &request, &mut record)));
    let opened = tokio::select! {
        biased;
        // The caller is gone: the application need not hear of it.
        _ = poll_fn(|cx| respond.poll_reset(cx)) => Err(Refusal::TunnelBroke(std::io::ErrorKind::ConnectionReset.into())),
        opened = open => opened,
    };
    let (app, held, mut stream) = match opened {
        Err(refusal) => {
            let answer =
                http::Response::builder().status(refusal.status()).header("proxy-status", refusal.proxy_status());
            // A peer that is gone cannot be answered; the record says what happened.
            drop(answer.body(()).map(|answer| respond.send_response(answer, true)));
            return record.refused(&refusal);
        }
        Ok((app, held)) => match respond.send_response(http::Response::new(()), false) {
            Ok(send) => (app, held, Stream::new(send, request.into_body())),
            Err(error) => return record.refused(&Refusal::TunnelBroke(std::io::Error::other(error))),
        },
    };
    carry(record, &mut stream, app, Some(tunnel.item.clone())).await;
    drop(held);
}

async fn open_stream(
    tunnel: &Tunnel,
    asked: &Request<RecvStream>,
    record: &mut Record,
) -> Result<(TcpStream, (Place, Permit)), Refusal> {
    let held = record.shared().stream(&tunnel.peer.leaf.id)?;
    if asked.method() != http::Method::CONNECT || asked.extensions().get::<h2::ext::Protocol>().is_some() {
        return Err(Refusal::NotConnect);
    }
    let authority = asked.uri().authority().ok_or(Refusal::BadTarget)?;
    let to = head::target(authority.as_str())?;
    Ok((admit_and_dial(record, to, Caller::Identity(tunnel.peer.leaf.id.as_str())).await?, held))
}

/// The verdict, and for an admitted caller a connection to the application.
async fn admit_and_dial(record: &mut Record, to: SocketAddr, caller: Caller<'_>) -> Result<TcpStream, Refusal> {
    let shared = record.shared();
    record.to(to);
    let state = shared.view.state().ok_or(Refusal::NoConfiguration)?;
    if shared.is_own_port(to) {
        return Err(Refusal::OwnPort(to));
    }
    // Loopback and link-local are never among a workload's addresses; refused all the same if a configuration says so.
    if !state.addresses.contains(&to.ip()) || crate::shared::is_local_only(to.ip()) {
        return Err(Refusal::ForeignTarget(to));
    }
    let verdict = state.table.judge(&caller, to.port());
    let (decision, reason) = (verdict.decision, verdict.reason);
    record.verdict(verdict);
    match decision {
        Decision::Deny => Err(Refusal::Denied(reason.code())),
        Decision::Allow => shared.sources.dial(to, shared.settings.connect_time).await,
    }
}
