//! The three listeners of one data path thread. The accept loop survives every error: out of file descriptors it backs off
//! (F36), and above the limit of connections it refuses at once.
use super::{Path, Phase, inbound, outbound, socket};
use crate::live::Direction;
use futures::FutureExt as _;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// 15001.
    Outbound,
    /// 15006.
    Plaintext,
    /// 15008.
    Tunnel,
}

/// The first pause after an error of accept; doubles up to a second.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Accepts until told to stop.
pub async fn accept(path: Rc<Path>, listener: TcpListener, purpose: Purpose) {
    let mut pause = FIRST_PAUSE;
    // Outbound goes on as long as anything is open, so that an application which is finishing its work can (F39). In Kubernetes it
    // has exited before a sidecar is told to stop; elsewhere whoever stops both stops the application first.
    let last = if purpose == Purpose::Outbound { Phase::Leaving } else { Phase::Draining };
    let mut over = pin!(path.reached(last));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut over => return,
        };
        match accepted {
            Ok((stream, from)) => {
                pause = FIRST_PAUSE;
                start(&path, stream, from, purpose);
            }
            // The peer was gone before it was accepted: no fault of ours, and no reason to wait.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                path.shared.observe.accept_failed(&error);
                tracing::warn!(%error, ?purpose, "accept failed; waiting");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

fn start(path: &Rc<Path>, stream: TcpStream, from: SocketAddr, purpose: Purpose) {
    let direction = if purpose == Purpose::Outbound { Direction::Outbound } else { Direction::Inbound };
    let Some(permit) = path.shared.limits.connection(direction) else {
        path.shared.observe.limit("connections");
        // Dropped with a reset, so that nothing lingers.
        drop(stream.set_zero_linger());
        return;
    };
    if let Err(error) = socket::tune(&stream) {
        return tracing::debug!(%error, %from, "connection was gone before it could be served");
    }
    let path = path.clone();
    // Each kind in a task of its own: what one needs for a handshake another need not have room for.
    match purpose {
        Purpose::Outbound => spawn_local(outbound::serve(path, stream, from).map(|()| drop(permit))),
        Purpose::Plaintext => spawn_local(inbound::serve_plaintext(path, stream, from).map(|()| drop(permit))),
        Purpose::Tunnel => spawn_local(inbound::serve_tunnel(path, stream, from).map(|()| drop(permit))),
    };
}
