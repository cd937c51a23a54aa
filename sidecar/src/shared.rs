//! What every data path thread shares: settings, credentials, the view of the mesh, what is open, and the limits. Built by `run`.
use crate::admin::{Readiness, Step};
use crate::affinity::Affinity;
use crate::clock::{Booted, Clock};
use crate::live::{Direction, Registry};
use crate::path::socket;
use crate::refusal::Refusal;
use crate::report::Reporter;
use crate::tls::Framing;
use crate::view::View;
use arc_swap::ArcSwapOption;
use signet_identity::{ClientAuth, Credentials, SpiffeId, Svid, WorkloadUid};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Times and sizes of the data path, from the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// For TCP connect and for each TLS handshake.
    pub connect_time: Duration,
    /// For a CONNECT head to arrive.
    pub head_time: Duration,
    /// Largest CONNECT head, in bytes.
    pub head_bytes: u32,
    /// How long a connection into the mesh's ranges waits for the operator to name the workload.
    pub unknown_wait: Duration,
    /// A pooled tunnel that carries nothing for this long is closed.
    pub idle_tunnel: Duration,
    /// Connections on one pooled tunnel.
    pub streams: u32,
    /// Above this average, in bytes, connections to a port get tunnels of their own.
    pub alone_above: u64,
    /// Connections at once.
    pub connections: usize,
    /// Of them, those that callers of one identity may hold: tunnels, and connections on pooled ones.
    pub per_identity: usize,
    /// Handshakes in progress at once, inbound.
    pub handshakes: usize,
    /// Ports of the sidecar itself.
    pub own_ports: Vec<u16>,
}

/// What may be in progress at once.
#[derive(Debug)]
pub struct Limits {
    /// Both directions together.
    connections: Arc<Semaphore>,
    /// Three quarters of them: whatever calls this workload, it can still call others.
    inbound: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    /// Handshakes in progress, and those that wait for their turn: whoever has proved nothing yet holds no more than this.
    unproven: Arc<Semaphore>,
    per_identity: usize,
    /// How many each identity holds that holds any.
    identities: Arc<Mutex<HashMap<SpiffeId, usize>>>,
}

/// A place among those of one identity; free again when dropped.
#[derive(Debug)]
pub struct Place {
    identities: Arc<Mutex<HashMap<SpiffeId, usize>>>,
    id: SpiffeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut identities = lock(&self.identities);
        if let Some(held) = identities.get_mut(&self.id) {
            *held -= 1;
            if *held == 0 {
                identities.remove(&self.id);
            }
        }
    }
}

/// Every operation under the lock is one entry: a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many wait for each handshake that is in progress.
const WAITING: usize = 4;

/// Held while a connection or a handshake goes on.
pub type Permit = (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>);

impl Limits {
    fn new(settings: &Settings) -> Self {
        let semaphore = |permits: usize| Arc::new(Semaphore::new(permits.min(Semaphore::MAX_PERMITS)));
        Self {
            connections: semaphore(settings.connections),
            inbound: semaphore(settings.connections.div_ceil(4) * 3),
            handshakes: semaphore(settings.handshakes),
            unproven: semaphore(settings.handshakes.saturating_mul(WAITING + 1)),
            per_identity: settings.per_identity,
            identities: Arc::default(),
        }
    }

    /// One more connection, if there is room.
    pub fn connection(&self, direction: Direction) -> Option<Permit> {
        let inbound = match direction {
            Direction::Inbound => Some(self.inbound.clone().try_acquire_owned().ok()?),
            Direction::Outbound => None,
        };
        Some((self.connections.clone().try_acquire_owned().ok()?, inbound))
    }

    /// One more tunnel or connection of a caller that has proved this identity: no caller takes the places of all others.
    pub fn place(&self, id: &SpiffeId) -> Result<Place, Refusal> {
        let mut identities = lock(&self.identities);
        let held = identities.entry(id.clone()).or_default();
        if *held >= self.per_identity {
            return Err(Refusal::IdentityLimit(self.per_identity));
        }
        *held += 1;
        Ok(Place { identities: self.identities.clone(), id: id.clone() })
    }

    /// One more inbound handshake, when its turn comes; `None` at once when too many wait.
    pub async fn handshake(&self) -> Option<Permit> {
        let waiting = self.unproven.clone().try_acquire_owned().ok()?;
        Some((self.handshakes.clone().acquire_owned().await.ok()?, Some(waiting)))
    }
}

/// rustls configurations, made once; they read the present credentials at each handshake.
pub struct Configs {
    server: Arc<rustls::ServerConfig>,
    alone: Arc<rustls::ClientConfig>,
    pooled: Arc<rustls::ClientConfig>,
    proof: Arc<rustls::ClientConfig>,
}

impl Configs {
    pub fn client(&self, framing: Framing) -> Arc<rustls::ClientConfig> {
        match framing {
            Framing::Alone => self.alone.clone(),
            Framing::Pooled => self.pooled.clone(),
            Framing::Proof => self.proof.clone(),
        }
    }
    pub fn server(&self) -> Arc<rustls::ServerConfig> {
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
    /// Whom this workload keeps calling at Services that ask for it.
    pub affinity: Affinity,
    /// What is open.
    pub live: Arc<Registry>,
    /// Where applications are called from.
    pub sources: socket::Sources,
    /// Metrics and access log.
    pub observe: Reporter,
    /// What has happened of what must have happened once.
    pub readiness: Arc<Readiness>,
    /// What may be in progress.
    pub limits: Limits,
    /// rustls configurations.
    pub tls: Configs,
    /// The time.
    pub clock: Clock,
    /// The SVID that was looked at last, and what its end counts by besides the wall clock.
    end: ArcSwapOption<(Arc<Svid>, Booted)>,
}

impl Shared {
    /// From its parts.
    pub fn new(
        settings: Settings,
        credentials: Arc<Credentials>,
        view: Arc<View>,
        sources: socket::Sources,
        observe: Reporter,
    ) -> Arc<Self> {
        Self::with_clock(settings, credentials, view, sources, observe, Clock::machine())
    }

    /// By another clock.
    pub fn with_clock(
        settings: Settings,
        credentials: Arc<Credentials>,
        view: Arc<View>,
        sources: socket::Sources,
        observe: Reporter,
        clock: Clock,
    ) -> Arc<Self> {
        let limits = Limits::new(&settings);
        // The record layer takes the traffic keys out of rustls after each handshake.
        let mut server = rustls::ServerConfig::clone(
            &credentials.server_config(ClientAuth::Required, &Framing::ALL.map(Framing::alpn)),
        );
        server.enable_secret_extraction = true;
        let client = |framing: Framing| {
            let mut config = rustls::ClientConfig::clone(&credentials.client_config(&[framing.alpn()]));
            config.enable_secret_extraction = true;
            Arc::new(config)
        };
        let (alone, pooled, proof) = (client(Framing::Alone), client(Framing::Pooled), client(Framing::Proof));
        let tls = Configs { server: Arc::new(server), alone, pooled, proof };
        Arc::new(Self {
            settings,
            credentials,
            view,
            affinity: Affinity::default(),
            live: Arc::default(),
            sources,
            observe,
            readiness: Arc::default(),
            limits,
            tls,
            clock,
            end: ArcSwapOption::empty(),
        })
    }

    /// A place among those that callers of this identity may hold.
    pub fn place(&self, id: &SpiffeId) -> Result<Place, Refusal> {
        self.limits.place(id).inspect_err(|_| self.observe.limit("identity"))
    }

    /// What one more connection on a pooled tunnel of theirs holds: it counts like one that has a tunnel of its own.
    pub fn stream(&self, id: &SpiffeId) -> Result<(Place, Permit), Refusal> {
        let place = self.place(id)?;
        let permit = self.limits.connection(Direction::Inbound).ok_or_else(|| {
            self.observe.limit("connections");
            Refusal::Limit("connections")
        })?;
        Ok((place, permit))
    }

    /// A call of ours came back through the redirect.
    pub fn redirect_seen(&self) {
        self.readiness.reached(Step::Redirect);
    }

    /// Unix seconds by the wall clock.
    pub fn now(&self) -> u64 {
        self.clock.now().wall.as_secs()
    }

    /// The present SVID, if it is still valid: nothing is proved with one that has ended.
    pub fn usable_svid(&self) -> Result<Arc<Svid>, Refusal> {
        let svid = self.credentials.svid().ok_or(Refusal::NoSvid)?;
        if svid.not_after() < self.now_for(&svid) { Err(Refusal::SvidExpired) } else { Ok(svid) }
    }

    /// Unix seconds for the end of our SVID. The keeper asks every second, so that a new one is known from its first on.
    fn now_for(&self, svid: &Arc<Svid>) -> u64 {
        let now = self.clock.now();
        match &*self.end.load() {
            Some(held) if Arc::ptr_eq(&held.0, svid) => now.seconds(held.1),
            _ => {
                self.end.store(Some(Arc::new((svid.clone(), now.booted()))));
                now.wall.as_secs()
            }
        }
    }

    pub fn is_own_port(&self, to: SocketAddr) -> bool {
        self.settings.own_ports.contains(&to.port())
            && (is_local_only(to.ip()) || self.view.state().is_none_or(|state| state.addresses.contains(&to.ip())))
    }

    pub fn is_own_address(&self, address: IpAddr) -> bool {
        self.view.state().is_some_and(|state| state.addresses.contains(&address))
    }

    pub fn is_own_uid(&self, uid: Option<&WorkloadUid>) -> bool {
        uid.is_some() && self.credentials.svid().as_ref().and_then(|svid| svid.uid()) == uid
    }
}

/// Loopback, link-local, unspecified or multicast: never a workload's address.
pub fn is_local_only(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(a) => {
            a.is_loopback() || a.is_link_local() || a.is_unspecified() || a.is_multicast() || a.is_broadcast()
        }
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified() || a.is_multicast(),
    }
}
