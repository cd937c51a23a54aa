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

use crate::refusal::Refusal;
use crate::shared::Shared;
use std::rc::Rc;
use std::sync::Arc;
use tokio::sync::watch;

/// Turns that what was cut has to abort its connections when the process ends: one is enough unless many wake each other.
const LAST_TURNS: usize = 100;

/// How far the process is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Serving,
    /// No new inbound connections; what is open may finish.
    Draining,
    /// Nothing new at all: tunnels close in order as soon as they carry nothing.
    Leaving,
}

/// One data path thread: what it alone owns.
pub struct Path {
    /// What all threads share.
    pub shared: Arc<Shared>,
    pool: pooled::Pool,
    loads: choose::Loads,
    framings: choose::Framings,
    phase: watch::Receiver<Phase>,
}

impl Path {
    /// Serves these listeners until `stop` resolves. Runs inside a `LocalRuntime`.
    pub async fn run(
        shared: Arc<Shared>,
        listeners: Vec<(listen::Purpose, std::net::TcpListener)>,
        phase: watch::Receiver<Phase>,
        stop: impl Future<Output = ()>,
    ) -> std::io::Result<()> {
        let framings = choose::Framings::new(shared.settings.alone_above);
        let (pool, loads) = (pooled::Pool::default(), choose::Loads::default());
        let path = Rc::new(Self { shared, pool, loads, framings, phase });
        for (purpose, listener) in listeners {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            tokio::task::spawn_local(listen::accept(path.clone(), listener, purpose));
        }
        stop.await;
        // A thread that got no processor in all of that time has cut nothing yet: it has its turn before its connections close.
        for _ in 0..LAST_TURNS {
            if path.shared.live.is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// What this opens, or a refusal when nothing is opened any more: a task that just ended with the process would leave its
    /// caller with what looks like an orderly end.
    async fn until_leaving<T>(&self, opening: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            opened = opening => opened,
            () = self.reached(Phase::Leaving) => Err(Refusal::Draining),
        }
    }

    /// Resolves when the process is as far as this.
    async fn reached(&self, phase: Phase) {
        let mut now = self.phase.clone();
        // A sender that is gone means that the process is ending: it is further than any phase.
        drop(now.wait_for(|now| *now >= phase).await);
    }
}

#[cfg(test)]
mod tests;
