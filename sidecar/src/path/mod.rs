//! What happens to a byte: accept, original destination, choice, tunnel, verdict, copy. All of it is in this folder, and nothing
//! else is; what feeds it (certificates, control stream, admin, logs) lies beside it and reaches it through `Shared`.
//!
//! ```text
//! application --15001--> outbound -> choose -> pooled | alone (tls, head) ==15008==> inbound -> verdict -> application
//!                             `-> plain TCP, if not meshed and the posture allows       ^
//!                                                     captured plaintext --15006--------'
//! ```
//! Each data path thread runs `Path::run` on a runtime of its own.
mod choose;
mod copy;
mod head;
mod inbound;
pub mod listen;
mod outbound;
mod pooled;
pub mod socket;

pub use copy::Socket;
pub use outbound::{Target, dial_tunnel};
pub use socket::canonical;

use crate::shared::Shared;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// One data path thread: what it alone owns.
pub struct Path {
    /// What all threads share.
    pub shared: Arc<Shared>,
    pool: pooled::Pool,
    loads: choose::Loads,
    framings: choose::Framings,
    drain: watch::Receiver<bool>,
}

impl Path {
    /// Serves these listeners until `stop` resolves. Runs inside a `LocalRuntime`.
    pub async fn run(
        shared: Arc<Shared>,
        listeners: Vec<(listen::Purpose, std::net::TcpListener)>,
        drain: watch::Receiver<bool>,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let framings = choose::Framings::new(shared.settings.alone_above);
        let (pool, loads) = (pooled::Pool::default(), choose::Loads::default());
        let path = Rc::new(Self { shared, pool, loads, framings, drain });
        for (purpose, listener) in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::task::spawn_local(listen::accept(path.clone(), listener, purpose));
        }
        stop.await;
        Ok(())
    }

    /// Resolves when the sidecar takes no more inbound connections.
    async fn draining(&self) {
        let mut drain = self.drain.clone();
        // A sender that is gone means that the process is ending: drained too.
        drop(drain.wait_for(|draining| *draining).await);
    }
}

#[cfg(test)]
mod tests;
