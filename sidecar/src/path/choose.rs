//! Which endpoint, and which framing. Least loaded of two random choices; an endpoint that just failed comes last. The framing
//! follows one fixed rule: pooled, unless recent connections to that port moved more than N bytes each on average.
use crate::tls::Framing;
use crate::view::{Endpoint, Named};
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::time::Instant;

/// How long an endpoint that failed is passed over while there is another.
const PENALTY: Duration = Duration::from_secs(5);
/// Destinations that are remembered at most; above it the memory starts anew.
const REMEMBERED: usize = 4096;

/// Counts one connection to an endpoint while it is held.
pub type Use = Rc<()>;

#[derive(Default)]
struct Load {
    /// The uses beside this one.
    open: Use,
    failed: Option<Instant>,
}

/// Connections that one data path thread has open to each endpoint.
#[derive(Default)]
pub struct Loads {
    by_address: RefCell<HashMap<SocketAddr, Load>>,
}

impl Loads {
    /// Takes the less loaded of two random endpoints out of the list.
    pub fn choose(&self, endpoints: &mut Vec<Endpoint>) -> Option<Endpoint> {
        if endpoints.len() < 2 {
            return endpoints.pop();
        }
        let first = rand::random_range(0..endpoints.len());
        let other = (first + rand::random_range(1..endpoints.len())) % endpoints.len();
        let all = self.by_address.borrow();
        let now = Instant::now();
        let weight = |index: usize| {
            let endpoint: &Endpoint = &endpoints[index];
            let load = all.get(&SocketAddr::new(endpoint.address, endpoint.port));
            let failed = load.and_then(|l| l.failed).is_some_and(|at| at + PENALTY > now);
            (failed, load.map_or(1, |l| Rc::strong_count(&l.open)))
        };
        let chosen = if weight(other) < weight(first) { other } else { first };
        Some(endpoints.swap_remove(chosen))
    }

    fn with<T>(&self, address: SocketAddr, change: impl FnOnce(&mut Load) -> T) -> T {
        let mut all = self.by_address.borrow_mut();
        if all.len() >= REMEMBERED {
            all.retain(|_, load| Rc::strong_count(&load.open) > 1);
        }
        change(all.entry(address).or_default())
    }

    /// Counts a connection to an endpoint.
    pub fn using(&self, address: SocketAddr) -> Use {
        self.with(address, |load| load.open.clone())
    }

    /// Remembers a failure.
    pub fn failed(&self, address: SocketAddr) {
        self.with(address, |load| load.failed = Some(Instant::now()));
    }
}

/// What recent connections to each destination moved on average, in bytes.
pub struct Framings {
    alone_above: u64,
    moved: RefCell<HashMap<SocketAddr, u64>>,
}

impl Framings {
    /// With the average, in bytes, above which a connection gets a tunnel of its own.
    pub fn new(alone_above: u64) -> Self {
        Self { alone_above, moved: RefCell::default() }
    }

    /// The framing for a new connection; `None` when the peer speaks none.
    pub fn choose(&self, to: SocketAddr, peer: &Named) -> Option<Framing> {
        match (peer.h2, peer.http1) {
            (false, false) => None,
            (true, false) => Some(Framing::Pooled),
            (false, true) => Some(Framing::Alone),
            (true, true) => {
                let average = self.moved.borrow().get(&to).copied().unwrap_or(0);
                Some(if average > self.alone_above { Framing::Alone } else { Framing::Pooled })
            }
        }
    }

    /// Remembers what a connection moved: the average moves by a quarter of the difference.
    pub fn moved(&self, to: SocketAddr, bytes: u64) {
        let mut all = self.moved.borrow_mut();
        if all.len() >= REMEMBERED && !all.contains_key(&to) {
            all.clear();
        }
        let average = all.entry(to).or_default();
        *average = if bytes > *average {
            *average + (bytes - *average).div_ceil(4)
        } else {
            *average - (*average - bytes) / 4
        };
    }
}

#[cfg(test)]
mod tests;
