//! When to renew and when to try again. Pure arithmetic: what time it is comes in, how long to wait comes out.
use signet_identity::profile;
use std::time::Duration;

/// The first wait after a failure, and the shortest.
pub const SHORTEST_RETRY: Duration = Duration::from_millis(500);
/// The longest wait after a failure.
pub const LONGEST_RETRY: Duration = Duration::from_mins(1);
/// The longest delay that a CA may ask for.
pub const LONGEST_ASKED: Duration = Duration::from_mins(10);
/// The longest wait for something that should come soon.
const LONGEST_SOON: Duration = Duration::from_secs(5);
/// The longest sleep without a look at the clocks: tokio's timers stand still while the machine is suspended, and follow no
/// step of the wall clock.
const LONGEST_NAP: Duration = Duration::from_secs(10);

/// What both clocks say. The wall clock may step, the boot-time clock counts suspended time and never steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Since the unix epoch.
    pub(crate) wall: Duration,
    /// Since the machine booted.
    pub(crate) boot: Duration,
}

/// The moment of renewal on both clocks; whichever comes first counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Due(Moment);

impl Due {
    /// For a certificate that was issued now and ends at `not_after` (unix seconds): between one half and two thirds of what it
    /// lives from now. `dice` is in 0..1.
    pub(crate) fn after_issue(now: Moment, not_after: u64, dice: f64) -> Self {
        let lifetime = Duration::from_secs(not_after).saturating_sub(now.wall);
        let delay = profile::renewal_delay(lifetime, dice);
        Self(Moment { wall: now.wall.saturating_add(delay), boot: now.boot.saturating_add(delay) })
    }

    /// What is left until then.
    pub(crate) fn left(self, now: Moment) -> Duration {
        self.0.wall.saturating_sub(now.wall).min(self.0.boot.saturating_sub(now.boot))
    }

    /// How long to sleep before the next look at the clocks; nothing when it is time.
    pub(crate) fn nap(self, now: Moment) -> Option<Duration> {
        let left = self.left(now);
        (!left.is_zero()).then_some(left.min(LONGEST_NAP))
    }
}

/// How long to wait after this many failures in a row (from 1): anything between half a second and a ceiling that doubles,
/// so that 10,000 hosts that lost the CA together do not come back together. The ceiling ends at a minute, or at a quarter
/// of the certificate's life where that is less, so that a short-lived one gets its tries before its end.
pub(crate) fn retry_delay(failures: u32, lifetime: Option<Duration>, dice: f64) -> Duration {
    let doubled = Duration::from_secs(1).saturating_mul(1 << (failures.max(1) - 1).min(16));
    let quarter = lifetime.map_or(LONGEST_RETRY, |lifetime| lifetime / 4).clamp(Duration::from_secs(1), LONGEST_RETRY);
    let ceiling = doubled.min(quarter);
    SHORTEST_RETRY + ceiling.saturating_sub(SHORTEST_RETRY).mul_f64(dice.clamp(0.0, 1.0))
}

/// How long to wait when the CA asked for a delay: that, and up to a fifth more.
pub(crate) fn asked_delay(asked: Duration, dice: f64) -> Duration {
    asked.clamp(Duration::from_millis(10), LONGEST_ASKED).mul_f64(1.0 + dice.clamp(0.0, 1.0) / 5.0)
}

/// How long to wait when the CA expects to be able to answer soon (a pod's address is not published yet): what it asked for,
/// doubled with every such answer (`times`, from 1) up to five seconds, and up to a fifth more.
pub(crate) fn soon_delay(asked: Duration, times: u32, dice: f64) -> Duration {
    let doubled = asked.saturating_mul(1 << (times.max(1) - 1).min(16));
    doubled.clamp(Duration::from_millis(10), LONGEST_SOON).mul_f64(1.0 + dice.clamp(0.0, 1.0) / 5.0)
}

/// What the clocks say now.
pub(crate) trait Clock: Send + Sync {
    fn now(&self) -> Moment;
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MachineClock;

impl Clock for MachineClock {
    fn now(&self) -> Moment {
        use rustix::time::{ClockId, clock_gettime};
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Moment { wall: read(ClockId::Realtime), boot: read(ClockId::Boottime) }
    }
}

#[cfg(test)]
mod tests;
