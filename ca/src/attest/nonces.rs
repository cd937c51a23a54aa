//! Fresh nonces that cost the CA no memory until one is used well: time, randomness and a MAC over both. A used nonce is
//! remembered until its minute is over, so that it serves once; how many are remembered is bounded.
use aws_lc_rs::{constant_time, digest, hmac, rand};
use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// How long a nonce is good.
pub const LIFETIME: Duration = Duration::from_mins(1);
/// Length of a nonce in bytes: 8 of time (ms of the process' running clock), 8 random, 16 of MAC.
pub const LENGTH: usize = 32;
/// Used nonces remembered for each minute; more are refused. Ten thousand issuances a second, at 16 bytes each.
const MOST_USED: usize = 600_000;

/// Unknown, too old, or used before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

/// Makes and checks nonces. Its key is this process' own: a restart makes all earlier nonces unknown.
#[derive(Debug)]
pub struct Nonces {
    key: hmac::Key,
    most: usize,
    used: Mutex<Used>,
}

/// Two generations, each of at least a nonce's life: the older one is dropped whole.
#[derive(Debug, Default)]
struct Used {
    began: Duration,
    now: HashSet<[u8; 16]>,
    before: HashSet<[u8; 16]>,
}

impl Nonces {
    /// With a fresh key; `None` without randomness.
    pub fn new() -> Option<Self> {
        Self::bounded(MOST_USED)
    }

    fn bounded(most: usize) -> Option<Self> {
        let mut key = [0; digest::SHA256_OUTPUT_LEN];
        rand::fill(&mut key).ok()?;
        Some(Self { key: hmac::Key::new(hmac::HMAC_SHA256, &key), most, used: Mutex::default() })
    }

    /// A nonce made at `now`, by a clock that only moves forward; `None` without randomness.
    pub fn make(&self, now: Duration) -> Option<[u8; LENGTH]> {
        let mut nonce = [0; LENGTH];
        let millis = u64::try_from(now.as_millis()).ok()?.to_be_bytes();
        let (body, mac) = nonce.split_at_mut(16);
        let (time, random) = body.split_at_mut(8);
        time.copy_from_slice(&millis);
        rand::fill(random).ok()?;
        mac.copy_from_slice(hmac::sign(&self.key, body).as_ref().get(..16)?);
        Some(nonce)
    }

    /// Whether this is a nonce of ours that is not too old. Cheap; says nothing about earlier use.
    pub fn check(&self, nonce: &[u8], now: Duration) -> Result<(), Stale> {
        let (body, mac) = nonce.split_at_checked(16).ok_or(Stale)?;
        let ours = hmac::sign(&self.key, body);
        constant_time::verify_slices_are_equal(ours.as_ref().get(..16).unwrap_or_default(), mac).map_err(|_| Stale)?;
        let (millis, _) = body.split_first_chunk::<8>().ok_or(Stale)?;
        let made = Duration::from_millis(u64::from_be_bytes(*millis));
        if made <= now && now < made + LIFETIME { Ok(()) } else { Err(Stale) }
    }

    /// Uses up a nonce that was checked. Of many who try with the same one, a single one succeeds.
    pub fn spend(&self, nonce: &[u8], now: Duration) -> Result<(), Stale> {
        let body = *nonce.first_chunk::<16>().ok_or(Stale)?;
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= used.began + LIFETIME || now < used.began {
            used.before = std::mem::take(&mut used.now);
            used.began = now;
        }
        if used.before.contains(&body) || used.now.len() >= self.most || !used.now.insert(body) {
            return Err(Stale);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::from_hours(2);

    fn later(ms: u64) -> Duration {
        START + Duration::from_millis(ms)
    }

    #[test]
    fn a_nonce_is_good_for_a_minute() {
        let nonces = Nonces::new().unwrap();
        let nonce = nonces.make(START).unwrap();
        for (at, good) in [(0, true), (59_999, true), (60_000, false), (120_000, false)] {
            assert_eq!(nonces.check(&nonce, later(at)).is_ok(), good, "after {at} ms");
        }
        assert_eq!(
            nonces.check(&nonce, START.checked_sub(Duration::from_secs(1)).unwrap()),
            Err(Stale),
            "made in the future"
        );
    }

    #[test]
    fn f24_a_nonce_serves_once_however_late_in_its_minute() {
        let nonces = Nonces::new().unwrap();
        let nonce = nonces.make(START).unwrap();
        for warm_up in 0..5 {
            let other = nonces.make(later(warm_up)).unwrap();
            nonces.spend(&other, later(warm_up)).unwrap();
        }
        nonces.spend(&nonce, later(30_000)).unwrap();
        for at in [30_000, 45_000, 59_999] {
            assert_eq!(nonces.spend(&nonce, later(at)), Err(Stale), "after {at} ms");
        }
    }

    #[test]
    fn a_nonce_that_is_not_ours_is_refused() {
        let nonces = Nonces::new().unwrap();
        let good = nonces.make(START).unwrap();
        for byte in 0..LENGTH {
            let mut bad = good;
            bad[byte] ^= 1;
            assert_eq!(nonces.check(&bad, START), Err(Stale), "byte {byte} changed");
        }
        assert_eq!(nonces.check(&good[..31], START), Err(Stale));
        assert_eq!(nonces.check(b"", START), Err(Stale));
        assert_eq!(Nonces::new().unwrap().check(&good, START), Err(Stale), "another process' nonce");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let nonces = Nonces::bounded(10).unwrap();
        let fresh = |at| nonces.make(later(at)).unwrap();
        assert_eq!((0..100).filter(|_| nonces.spend(&fresh(0), later(0)).is_ok()).count(), 10);
        nonces.spend(&fresh(60_000), later(60_000)).unwrap();
    }
}
