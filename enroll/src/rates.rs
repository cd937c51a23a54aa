//! How often something may happen, for each key: token buckets whose number is bounded, for whatever strangers can cause. Used
//! by the CA (calls, failures, issuances) and the operator (what reviews of its webhook may write).
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

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

#[cfg(test)]
mod tests;
