//! What keeps one caller from taking the CA from the others: token buckets by key, and a bounded number of places at the
//! signing bench. Both answer with the time after which to come back.
pub use signet_enroll::rates::{Buckets, Busy, Rate};
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// The key of a caller that has not proved anything: its address, and of IPv6 outside a cluster the /64, which is what one host
/// is given. In a cluster a /64 is a whole node's pods, none of which can choose its address: one must not block the others.
pub fn address_key(address: IpAddr, in_cluster: bool) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) if !in_cluster => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        whole => whole,
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
