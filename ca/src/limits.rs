//! What keeps one caller from taking the CA from the others: token buckets by key, and a bounded number of places at the
//! signing bench. Both answer with the time after which to come back.
use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// Come back after this.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests; try again in {} ms", .retry_after.as_millis())]
pub struct Busy {
    /// The earliest moment at which asking again can succeed.
    pub retry_after: Duration,
}

/// How often, on average, and how many at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Average; at least 1.
    pub per_second: u32,
    /// At once; at least 1.
    pub burst: u32,
}

/// One bucket for each key (generic cell rate algorithm: what is kept is the time at which the bucket is full again).
#[derive(Debug)]
pub struct Buckets<K> {
    spacing: Duration,
    tolerance: Duration,
    most: usize,
    full_at: Mutex<HashMap<K, Duration>>,
}

impl<K: Eq + Hash + Clone> Buckets<K> {
    /// Buckets for at most `most` keys that are busy at the same time.
    pub fn new(rate: Rate, most: usize) -> Self {
        let spacing = Duration::from_secs(1) / rate.per_second.max(1);
        Self { spacing, tolerance: spacing * (rate.burst.max(1) - 1), most, full_at: Mutex::default() }
    }

    /// Whether `take` would succeed. Takes nothing: nobody can empty another's bucket before proving who he is.
    pub fn peek(&self, key: &K, now: Duration) -> Result<(), Busy> {
        let full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        self.wait(full_at.get(key).copied().unwrap_or_default(), now)
    }

    /// Takes one; `now` only has to be a clock that moves forward.
    pub fn take(&self, key: &K, now: Duration) -> Result<(), Busy> {
        let mut full_at = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        if !full_at.contains_key(key) && full_at.len() >= self.most {
            full_at.retain(|_, full| *full > now);
            if full_at.len() >= self.most {
                return Err(Busy { retry_after: Duration::from_secs(1) });
            }
        }
        let full = full_at.get(key).copied().unwrap_or_default();
        self.wait(full, now)?;
        full_at.insert(key.clone(), full.max(now) + self.spacing);
        Ok(())
    }

    fn wait(&self, full_at: Duration, now: Duration) -> Result<(), Busy> {
        let retry_after = full_at.saturating_sub(now).saturating_sub(self.tolerance);
        if retry_after.is_zero() { Ok(()) } else { Err(Busy { retry_after }) }
    }
}

/// The key of a caller that has not proved anything: its address, and of IPv6 the /64, which is what one host is given.
pub fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Places at which cryptography is done, off the threads that serve connections, and a bounded queue before them.
#[derive(Debug)]
pub struct Bench {
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// The work could not be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BenchError {
    /// The queue is full.
    #[error(transparent)]
    Busy(#[from] Busy),
    /// The process is stopping, or the work panicked (and was contained).
    #[error("the work was broken off")]
    Broken,
}

impl Bench {
    /// `places` at once, `most_waiting` in the queue.
    pub fn new(places: usize, most_waiting: usize) -> Self {
        Self { places: Arc::new(Semaphore::new(places.max(1))), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Does the work on a thread that may block, when a place is free.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, BenchError> {
        let place = if let Ok(place) = self.places.clone().try_acquire_owned() {
            place
        } else {
            let _queued = Queued::enter(self)?;
            self.places.clone().acquire_owned().await.map_err(|_| BenchError::Broken)?
        };
        // The place goes with the work: a caller that hangs up does not free it before the work is done (F29).
        let work = move || {
            let _place = place;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| BenchError::Broken)
    }
}

struct Queued<'a>(&'a Bench);

impl<'a> Queued<'a> {
    fn enter(bench: &'a Bench) -> Result<Self, Busy> {
        let queued = Self(bench);
        if bench.waiting.fetch_add(1, Ordering::AcqRel) >= bench.most_waiting {
            return Err(Busy { retry_after: Duration::from_millis(200) });
        }
        Ok(queued)
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests;
