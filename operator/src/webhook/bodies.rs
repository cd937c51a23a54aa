//! Bytes of request bodies that may be held at once, in all and for one address.
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One body. The API server itself takes requests of at most 3 MiB (`MaxRequestBodyBytes` in
/// `k8s.io/apiserver/pkg/server/config.go`), and a review of a new pod holds it once, with who asks beside it.
pub(super) const ONE: usize = 3 * 1024 * 1024 + 512 * 1024;
/// So much of a body is every connection's own: almost every pod is smaller, and no stranger can take it from another.
pub(super) const OWN: usize = 64 * 1024;
/// What lies beyond that, of all bodies together.
const ALL: usize = 24 * 1024 * 1024;
/// And of one address: two of the largest.
const PER_ADDRESS: usize = 2 * ONE;

/// What is held.
#[derive(Debug, Default)]
pub(super) struct Budget(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    all: usize,
    by_address: HashMap<IpAddr, usize>,
}

/// What one body has of it; given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    address: IpAddr,
    bytes: usize,
}

impl Budget {
    /// Nothing of it yet.
    pub(super) fn share(self: &Arc<Self>, address: IpAddr) -> Share {
        Share { budget: self.clone(), address, bytes: 0 }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Room for a body that is so long now, or none.
    pub(super) fn grow(&mut self, length: usize) -> bool {
        let Some(more) = length.saturating_sub(OWN).checked_sub(self.bytes).filter(|more| *more > 0) else {
            return true;
        };
        let mut held = self.budget.held();
        let own = held.by_address.get(&self.address).copied().unwrap_or_default();
        if held.all + more > ALL || own + more > PER_ADDRESS {
            return false;
        }
        held.all += more;
        *held.by_address.entry(self.address).or_default() += more;
        self.bytes += more;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if self.bytes == 0 {
            return;
        }
        let mut held = self.budget.held();
        held.all -= self.bytes;
        if let Some(own) = held.by_address.get_mut(&self.address) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_address.remove(&self.address);
            }
        }
    }
}
