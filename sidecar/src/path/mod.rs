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
pub mod live;
mod orig_dst;
mod outbound;
mod pooled;
pub mod proof;
pub mod record;
mod refusal;
pub mod socket;
pub mod tls;

pub use orig_dst::{canonical, original_destination};
pub use outbound::Target;
pub use refusal::{Broken, Refusal};
use tls::{Framing, Tls};

use crate::report::Reporter;
use crate::view::View;
use live::Registry;
use signet_identity::{ClientAuth, Credentials, Svid, WorkloadUid};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// Times and sizes of the data path, from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For TCP connect and for each TLS handshake.
    pub connect_time: Duration,
    /// For a CONNECT head to arrive.
    pub head_time: Duration,
    /// Largest CONNECT head, in bytes.
    pub head_bytes: usize,
    /// How long a connection into the mesh's ranges waits for the operator to name the workload.
    pub unknown_wait: Duration,
    /// A pooled tunnel that carries nothing for this long is closed.
    pub idle_tunnel: Duration,
    /// Above this average, in bytes, connections to a port get tunnels of their own.
    pub alone_above: u64,
    /// Connections at once.
    pub connections: usize,
    /// Handshakes in progress at once, inbound.
    pub handshakes: usize,
    /// Ports of the sidecar itself.
    pub own_ports: Vec<u16>,
}

/// What may be in progress at once.
#[derive(Debug)]
pub struct Limits {
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
}

impl Limits {
    fn connection(&self) -> Option<OwnedSemaphorePermit> {
        self.connections.clone().try_acquire_owned().ok()
    }
    fn handshake(&self) -> Option<OwnedSemaphorePermit> {
        self.handshakes.clone().try_acquire_owned().ok()
    }
}

/// rustls configurations, made once; they read the present credentials at each handshake.
pub struct Configs {
    server: Arc<rustls::ServerConfig>,
    clients: HashMap<Framing, Arc<rustls::ClientConfig>>,
}

impl Configs {
    fn client(&self, framing: Framing) -> Arc<rustls::ClientConfig> {
        self.clients[&framing].clone()
    }
    fn server(&self) -> Arc<rustls::ServerConfig> {
        self.server.clone()
    }
}

/// What every data path thread shares.
pub struct Shared {
    /// Times and sizes.
    pub settings: Settings,
    /// The present SVID and trust.
    pub credentials: Arc<Credentials>,
    /// Rules, posture, destinations.
    pub view: Arc<View>,
    /// What is open.
    pub live: Arc<Registry>,
    /// Where applications are called from.
    pub sources: socket::Sources,
    /// Metrics and access log.
    pub observe: Reporter,
    limits: Limits,
    tls: Configs,
}

impl Shared {
    /// From its parts.
    pub fn new(settings: Settings, credentials: Arc<Credentials>, view: Arc<View>, sources: socket::Sources, observe: Reporter) -> Arc<Self> {
        let limits = Limits {
            connections: Arc::new(Semaphore::new(settings.connections)),
            handshakes: Arc::new(Semaphore::new(settings.handshakes)),
        };
        // The record layer takes the traffic keys out of rustls after each handshake.
        let mut server = rustls::ServerConfig::clone(&credentials.server_config(ClientAuth::Required, &Framing::ALL.map(Framing::alpn)));
        server.enable_secret_extraction = true;
        let client = |framing: Framing| {
            let mut config = rustls::ClientConfig::clone(&credentials.client_config(&[framing.alpn()]));
            config.enable_secret_extraction = true;
            (framing, Arc::new(config))
        };
        let tls = Configs { server: Arc::new(server), clients: Framing::ALL.map(client).into() };
        Arc::new(Self { settings, credentials, view, live: Arc::default(), sources, observe, limits, tls })
    }

    /// Unix seconds.
    pub fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    /// The present SVID, if it is still valid: nothing is proved with one that has ended.
    fn usable_svid(&self) -> Result<Arc<Svid>, Refusal> {
        let svid = self.credentials.svid().ok_or(Refusal::NoSvid)?;
        if svid.not_after() < self.now() { Err(Refusal::SvidExpired) } else { Ok(svid) }
    }

    fn is_own_port(&self, to: SocketAddr) -> bool {
        self.settings.own_ports.contains(&to.port())
            && (is_local_only(to.ip()) || self.view.state().is_none_or(|state| state.addresses.contains(&to.ip())))
    }

    fn is_own_uid(&self, uid: Option<&WorkloadUid>) -> bool {
        uid.is_some() && self.credentials.svid().as_ref().and_then(|svid| svid.uid()) == uid
    }
}

/// Loopback, link-local, unspecified or multicast: never a workload's address.
pub fn is_local_only(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast(),
    }
}

/// One data path thread: what it alone owns.
pub struct Path {
    /// What all threads share.
    pub shared: Arc<Shared>,
    pool: pooled::Pool,
    loads: Rc<choose::Loads>,
    framings: choose::Framings,
    drain: watch::Receiver<bool>,
}

impl Path {
    /// Serves these listeners until `stop` resolves. Runs inside a `LocalRuntime`.
    pub async fn run(shared: Arc<Shared>, listeners: Vec<(listen::Purpose, std::net::TcpListener)>, drain: watch::Receiver<bool>, stop: impl Future<Output = ()>) -> std::io::Result<()> {
        let framings = choose::Framings::new(shared.settings.alone_above);
        let path = Rc::new(Self { shared, pool: pooled::Pool::default(), loads: Rc::default(), framings, drain });
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
