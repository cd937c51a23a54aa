//! Which endpoint, and which framing. Least loaded of two random choices; an endpoint that just failed comes last. The framing
//! follows one fixed rule: pooled, unless recent connections to that port moved more than N bytes each on average.
use super::outbound::FramingKey;
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

#[derive(Default)]
struct Load {
    open: u32,
    failed: Option<Instant>,
}

/// Connections that one data path thread has open to each endpoint.
#[derive(Default)]
pub struct Loads {
    by_address: RefCell<HashMap<SocketAddr, Load>>,
}

/// Counts one connection to an endpoint until dropped.
pub struct Use {
    loads: Rc<Loads>,
    address: SocketAddr,
}

impl Drop for Use {
    fn drop(&mut self) {
        let mut all = self.loads.by_address.borrow_mut();
        if let Some(load) = all.get_mut(&self.address) {
            load.open -= 1;
            if load.open == 0 && load.failed.is_none() {
                all.remove(&self.address);
            }
        }
    }
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
            (failed, load.map_or(0, |l| l.open))
        };
        let chosen = if weight(other) < weight(first) { other } else { first };
        Some(endpoints.swap_remove(chosen))
    }

    /// Counts a connection to an endpoint.
    pub fn using(this: &Rc<Self>, address: SocketAddr) -> Use {
        this.by_address.borrow_mut().entry(address).or_default().open += 1;
        Use { loads: this.clone(), address }
    }

    /// Remembers a failure.
    pub fn failed(&self, address: SocketAddr) {
        let mut all = self.by_address.borrow_mut();
        let now = Instant::now();
        if all.len() >= REMEMBERED {
            all.retain(|_, load| load.open > 0);
        }
        all.entry(address).or_default().failed = Some(now);
    }
}

/// What recent connections to each destination moved on average, in bytes.
pub struct Framings {
    alone_above: u64,
    moved: RefCell<HashMap<FramingKey, u64>>,
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
                let average = self.moved.borrow().get(&(to.ip(), to.port())).copied().unwrap_or(0);
                Some(if average > self.alone_above { Framing::Alone } else { Framing::Pooled })
            }
        }
    }

    /// Remembers what a connection moved: the average moves by a quarter of the difference.
    pub fn moved(&self, key: FramingKey, bytes: u64) {
        let mut all = self.moved.borrow_mut();
        if all.len() >= REMEMBERED && !all.contains_key(&key) {
            all.clear();
        }
        let average = all.entry(key).or_default();
        *average = if bytes > *average {
            *average + (bytes - *average).div_ceil(4)
        } else {
            *average - (*average - bytes) / 4
        };
    }
}

#[cfg(test)]
mod tests;
