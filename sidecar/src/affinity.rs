//! Session affinity (`sessionAffinity: ClientIP`): the endpoint that this workload called last at each port of a Service that asks
//! for it. As with kube-proxy, it is called again while it stands and the last call is not older than the Service's timeout, also
//! when others have come that a caller without a past would be sent to. One table for all data path threads; only such
//! Services touch it. A sidecar that starts anew remembers nothing, and calls whom the operator names.
use crate::view::{Behind, Endpoint};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// Destinations that are remembered at most; above it the memory starts anew.
const REMEMBERED: usize = 4096;

/// Whom each destination with affinity led to last.
#[derive(Debug, Default)]
pub struct Affinity {
    last: Mutex<HashMap<SocketAddr, Last>>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    endpoint: SocketAddr,
    /// From when on it is forgotten.
    until: Instant,
}

impl Affinity {
    /// The endpoints among which a connection to `to` may choose: without affinity all of them, with it the one to call now.
    pub fn choose(&self, to: SocketAddr, behind: Behind) -> Vec<Endpoint> {
        let Some(sticky) = &behind.sticky else { return behind.endpoints };
        let now = Instant::now();
        // Every operation under the lock is one entry: a panic leaves nothing half done.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let held = last.get(&to).filter(|held| held.until > now).map(|held| held.endpoint);
        let is = |endpoint: &&Endpoint| Some(at(endpoint)) == held;
        let kept = behind.endpoints.iter().chain(&sticky.others).find(is);
        let Some(chosen) = kept.or_else(|| behind.endpoints.first()).cloned() else { return Vec::new() };
        if last.len() >= REMEMBERED && !last.contains_key(&to) {
            last.retain(|_, held| held.until > now);
            if last.len() >= REMEMBERED {
                last.clear();
            }
        }
        last.insert(to, Last { endpoint: at(&chosen), until: now + sticky.timeout });
        vec![chosen]
    }
}

fn at(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(endpoint.address, endpoint.port)
}

#[cfg(test)]
mod tests;
