//! Everything that is open in this process: what the data path registers, `keeper` and admin walk, and whoever waits for the end
//! waits for.
use super::{Cut, Direction, Exporter, Live, Tunnel, lock};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use tokio::sync::Notify;

/// Everything that is open in this process.
#[derive(Debug, Default)]
pub struct Registry {
    next: AtomicU64,
    opening: AtomicUsize,
    connections: Mutex<HashMap<u64, Arc<Live>>>,
    tunnels: Mutex<HashMap<Exporter, Arc<Tunnel>>>,
    emptied: Notify,
    closed: Notify,
}

/// Takes what it holds out of the registry when dropped.
#[derive(Debug)]
pub struct Registered<T> {
    registry: Arc<Registry>,
    /// What is registered.
    pub item: Arc<T>,
    remove: fn(&Registry, &T),
}

impl<T> Drop for Registered<T> {
    fn drop(&mut self) {
        (self.remove)(&self.registry, &self.item);
    }
}

impl<T> std::ops::Deref for Registered<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.item
    }
}

/// One connection that was accepted and is not carried yet, until dropped.
#[derive(Debug)]
pub struct Opening(Arc<Registry>);

impl Drop for Opening {
    fn drop(&mut self) {
        if self.0.opening.fetch_sub(1, SeqCst) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Registry {
    /// Counts a connection that is being opened until the guard is dropped: whoever waits for the end waits for it too.
    pub fn opening(self: &Arc<Self>) -> Opening {
        self.opening.fetch_add(1, SeqCst);
        Opening(self.clone())
    }

    /// Registers a connection until the guard is dropped; one that leaves in plaintext with its endpoint.
    pub fn open(
        self: &Arc<Self>,
        direction: Direction,
        source: SocketAddr,
        destination: SocketAddr,
        endpoint: Option<SocketAddr>,
        tunnel: Option<Arc<Tunnel>>,
        own: bool,
    ) -> Registered<Live> {
        let number = self.next.fetch_add(1, Relaxed);
        let item = Arc::new(Live {
            number,
            direction,
            source,
            destination,
            endpoint,
            tunnel,
            own,
            sent: 0.into(),
            received: 0.into(),
            admitted: OnceLock::new(),
            counted: Default::default(),
            cut: Cut::default(),
        });
        lock(&self.connections).insert(number, item.clone());
        Registered {
            registry: self.clone(),
            item,
            remove: |registry, live| {
                let mut connections = lock(&registry.connections);
                connections.remove(&live.number);
                if connections.is_empty() {
                    registry.emptied.notify_waiters();
                }
            },
        }
    }

    /// Registers a tunnel until the guard is dropped.
    pub fn hold(self: &Arc<Self>, tunnel: Arc<Tunnel>) -> Registered<Tunnel> {
        lock(&self.tunnels).insert(tunnel.exporter, tunnel.clone());
        Registered {
            registry: self.clone(),
            item: tunnel,
            remove: |registry, tunnel| {
                let mut tunnels = lock(&registry.tunnels);
                tunnels.remove(&tunnel.exporter);
                if tunnels.is_empty() {
                    registry.closed.notify_waiters();
                }
            },
        }
    }

    /// The tunnel with this exporter value.
    pub fn tunnel(&self, exporter: &Exporter) -> Option<Arc<Tunnel>> {
        lock(&self.tunnels).get(exporter).cloned()
    }

    /// Every connection that is open now.
    pub fn connections(&self) -> Vec<Arc<Live>> {
        lock(&self.connections).values().cloned().collect()
    }

    /// How many connections are open now.
    pub fn count(&self) -> usize {
        lock(&self.connections).len()
    }

    /// How many connections are being opened now.
    pub fn count_opening(&self) -> usize {
        self.opening.load(SeqCst)
    }

    /// Whether no connection is open or being opened.
    pub fn is_empty(&self) -> bool {
        // In this order: what is opened in between is found open.
        self.count_opening() == 0 && self.count() == 0
    }

    /// Resolves when no connection is open or being opened.
    pub async fn emptied(&self) {
        until(&self.emptied, || self.is_empty()).await;
    }

    /// Resolves when no tunnel is open.
    pub async fn closed(&self) {
        until(&self.closed, || lock(&self.tunnels).is_empty()).await;
    }

    /// Every tunnel that is open now.
    pub fn tunnels(&self) -> Vec<Arc<Tunnel>> {
        lock(&self.tunnels).values().cloned().collect()
    }
}

/// Resolves when it is so, now or in a moment of which `changed` tells.
async fn until(changed: &Notify, is_so: impl Fn() -> bool) {
    loop {
        let mut told = pin!(changed.notified());
        // From here on it hears of every such moment, so that none falls between the look and the wait.
        told.as_mut().enable();
        if is_so() {
            return;
        }
        told.await;
    }
}
