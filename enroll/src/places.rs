//! Places for connections of strangers: so many in all, so many for each address, and none that can be held by doing nothing.
//!
//! ```text
//! accept ── enter ─┬─ there is a place ──────────────▶ Place ── stage ─▶ Fresh, Reading, Working, Idle
//!                  ├─ an idler gives his up ─────────▶ Place (the idler's `evicted` resolves)
//!                  └─ everybody there is at work ────▶ Full
//! ```
//!
//! A newcomer is never kept out by connections that wait, be it for their first request, for the rest of a slow one, or for the
//! next: those leave first, of the address that holds most of them the oldest. Used by the operator's webhook and by the
//! sidecar's health door, which anybody in a cluster can reach. [`Counts`] is the simple bound for what is long-lived, such as
//! the connections and streams of CA and operator.
use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// How many connections there may be.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In all.
    pub all: usize,
    /// Of one address (IPv6: whole addresses; whoever has many still finds the bound for all).
    pub per_address: usize,
    /// Of connections that have shown that they are no strangers ([`Visitor::becomes_known`]), which count neither in all nor for
    /// their address.
    pub known: usize,
}

/// What a connection is doing. The order is the one in which connections of one address leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// It has asked nothing yet.
    Fresh,
    /// Its request is still arriving.
    Reading,
    /// It may ask again.
    Idle,
    /// An answer is being made: it stays.
    Working,
}

/// Why there is no place: everybody there is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// The address has as many connections as it may.
    #[error("too many connections of one address")]
    Address,
    /// There are as many connections as there may be.
    #[error("too many connections")]
    All,
}

/// The places of one server.
#[derive(Debug)]
pub struct Places {
    bounds: Bounds,
    rooms: Mutex<Rooms>,
    /// Connections that had to make room.
    pub evicted: AtomicU64,
    /// Connections that found no place.
    pub refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Rooms {
    /// Numbers only grow: who has the lower number is older.
    next: u64,
    strangers: HashMap<u64, Guest>,
    by_address: HashMap<IpAddr, usize>,
    /// Those who are no strangers.
    known: HashSet<u64>,
}

#[derive(Debug)]
struct Guest {
    address: IpAddr,
    stage: Stage,
    /// Since when it is in this stage, counted as guests are.
    since: u64,
    evict: oneshot::Sender<()>,
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub struct Place {
    guest: Visitor,
    evicted: oneshot::Receiver<()>,
}

/// What a connection's requests say of it; the place itself stays with the connection.
#[derive(Debug, Clone)]
pub struct Visitor {
    places: Arc<Places>,
    number: u64,
}

impl Places {
    /// All free.
    pub fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, rooms: Mutex::default(), evicted: AtomicU64::default(), refused: AtomicU64::default() })
    }

    /// A place for a connection from this address; somebody who waits may lose his for it.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = address.to_canonical();
        let mut rooms = self.rooms();
        if rooms.by_address.get(&address).copied().unwrap_or_default() >= self.bounds.per_address {
            let oldest = rooms.oldest_waiter(address);
            self.evict(&mut rooms, oldest, Full::Address)?;
        }
        if rooms.strangers.len() >= self.bounds.all {
            let oldest = rooms.greediest().and_then(|address| rooms.oldest_waiter(address));
            self.evict(&mut rooms, oldest, Full::All)?;
        }
        let (evict, evicted) = oneshot::channel();
        let number = rooms.tick();
        rooms.strangers.insert(number, Guest { address, stage: Stage::Fresh, since: number, evict });
        *rooms.by_address.entry(address).or_default() += 1;
        Ok(Place { guest: Visitor { places: self.clone(), number }, evicted })
    }

    /// How many connections there are, those of strangers and the others.
    pub fn taken(&self) -> usize {
        let rooms = self.rooms();
        rooms.strangers.len() + rooms.known.len()
    }

    fn evict(&self, rooms: &mut Rooms, guest: Option<u64>, otherwise: Full) -> Result<(), Full> {
        let Some(guest) = guest.and_then(|number| rooms.leave(number)) else {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(otherwise);
        };
        self.evicted.fetch_add(1, Ordering::Relaxed);
        // It may have gone by itself at this moment.
        _ = guest.evict.send(());
        Ok(())
    }

    fn rooms(&self) -> MutexGuard<'_, Rooms> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rooms {
    fn tick(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn waiters(&self) -> impl Iterator<Item = (&u64, &Guest)> {
        self.strangers.iter().filter(|(_, guest)| guest.stage != Stage::Working)
    }

    fn oldest_waiter(&self, address: IpAddr) -> Option<u64> {
        let own = self.waiters().filter(|(_, guest)| guest.address == address);
        own.min_by_key(|(_, guest)| (guest.stage, guest.since)).map(|(number, _)| *number)
    }

    /// The address with most connections that wait; of several the one whose oldest is the oldest.
    fn greediest(&self) -> Option<IpAddr> {
        let mut waiting: HashMap<IpAddr, (usize, u64)> = HashMap::new();
        for (_, guest) in self.waiters() {
            let (count, oldest) = waiting.entry(guest.address).or_insert((0, u64::MAX));
            *count += 1;
            *oldest = guest.since.min(*oldest);
        }
        waiting.into_iter().max_by_key(|(_, (count, oldest))| (*count, Reverse(*oldest))).map(|(address, _)| address)
    }

    fn leave(&mut self, number: u64) -> Option<Guest> {
        self.known.remove(&number);
        let guest = self.strangers.remove(&number)?;
        if let Some(count) = self.by_address.get_mut(&guest.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&guest.address);
            }
        }
        Some(guest)
    }
}

impl Place {
    /// Resolves when somebody else was given the place: the connection must end.
    pub async fn evicted(&mut self) {
        if (&mut self.evicted).await.is_err() {
            // Whoever is no stranger any more is never evicted.
            std::future::pending::<()>().await;
        }
    }

    /// For whoever serves the connection's requests.
    pub fn visitor(&self) -> Visitor {
        self.guest.clone()
    }
}

impl Visitor {
    /// The connection does this from now on.
    pub fn stage(&self, stage: Stage) {
        let mut rooms = self.places.rooms();
        let since = rooms.tick();
        if let Some(guest) = rooms.strangers.get_mut(&self.number) {
            (guest.stage, guest.since) = (stage, since);
        }
    }

    /// The connection is no stranger's: it counts elsewhere from now on, and stays. Whether there was a place.
    pub fn becomes_known(&self) -> bool {
        let mut rooms = self.places.rooms();
        if rooms.known.contains(&self.number) {
            return true;
        }
        // One that has just been evicted is gone.
        let room = rooms.known.len() < self.places.bounds.known;
        let known = room && rooms.leave(self.number).is_some();
        if known {
            rooms.known.insert(self.number);
        }
        known
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Visitor { places, number } = &self.guest;
        places.rooms().leave(*number);
    }
}

/// How many of something each key has, up to a bound. Only keys that have some are remembered.
#[derive(Debug)]
pub struct Counts<K: Eq + Hash + Clone> {
    most: usize,
    counts: Arc<Mutex<HashMap<K, usize>>>,
}

/// One that is counted until it is dropped.
#[derive(Debug)]
pub struct Counted<K: Eq + Hash + Clone> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// At most so many for each key.
    pub fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// One more; nothing when the key has as many as it may.
    pub fn enter(&self, key: K) -> Option<Counted<K>> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key.clone()).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Counted { counts: self.counts.clone(), key })
    }
}

impl<K: Eq + Hash + Clone> Drop for Counted<K> {
    fn drop(&mut self) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests;
