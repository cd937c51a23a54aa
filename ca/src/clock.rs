//! The CA's clock, passed in so that lifetimes, nonces and the refusal of a clock that went back are tested without waiting.
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use tokio::time::Instant;

/// Tells the time since the Unix epoch.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Duration + Send + Sync>,
    began: Instant,
}

impl Clock {
    /// The machine's wall clock. A clock before 1970 reads as 0, and then nothing is signed.
    pub fn system() -> Self {
        Self::from_fn(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }

    /// A clock that a test holds in its hand.
    pub fn from_fn(read: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { wall: Arc::new(read), began: Instant::now() }
    }

    /// Time since the Unix epoch.
    pub fn since_epoch(&self) -> Duration {
        (self.wall)()
    }

    /// Time since this clock was made. Nobody sets it: for what only has to last (rates, nonces), never for what is written.
    pub fn running(&self) -> Duration {
        self.began.elapsed()
    }

    /// Unix seconds.
    pub fn seconds(&self) -> u64 {
        self.since_epoch().as_secs()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({:?})", self.since_epoch())
    }
}
