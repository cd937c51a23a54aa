//! What time it is. Certificates end by the wall clock, which may be set back; a deadline that is kept counts by the boot-time
//! clock too, which never steps and counts suspended time: whichever says first that it is over (design section 3). Read
//! through `Shared`, so that tests can move it.
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// What both clocks say at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Since the Unix epoch.
    pub wall: Duration,
    /// Since the machine booted.
    pub boot: Duration,
}

/// When the machine booted, by the wall clock of the moment in which a deadline was set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Booted(u64);

impl Moment {
    /// To be kept beside a deadline that is set at this moment.
    pub fn booted(self) -> Booted {
        // 64 bits of nanoseconds reach to the year 2554.
        Booted(u64::try_from(self.wall.saturating_sub(self.boot).as_nanos()).unwrap_or(u64::MAX))
    }

    /// Unix seconds, for a deadline that was set when the machine had booted at `then`: those of the wall clock, or those that
    /// it would show had nobody set it back since.
    pub fn seconds(self, then: Booted) -> u64 {
        self.wall.max(Duration::from_nanos(then.0).saturating_add(self.boot)).as_secs()
    }
}

impl Booted {
    /// As a number that fits into an atomic.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// Back from the number.
    pub fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// The machine's clocks.
    pub fn machine() -> Self {
        use rustix::time::{ClockId, clock_gettime};
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Self::from_fn(move || Moment { wall: read(ClockId::Realtime), boot: read(ClockId::Boottime) })
    }

    /// Any other.
    pub fn from_fn(now: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_back_does_not_make_a_deadline_later() {
        let at = |wall, boot| Moment { wall: Duration::from_secs(wall), boot: Duration::from_secs(boot) };
        let set = at(1_000_000, 500).booted();
        for (now, want, why) in [
            (at(1_000_010, 510), 1_000_010, "both went on"),
            (at(1_003_600, 510), 1_003_600, "set ahead"),
            (at(996_400, 510), 1_000_010, "set back by an hour"),
            (at(996_400, 4_100), 1_003_600, "set back, and an hour later"),
            (at(3, 510), 1_000_010, "a battery that is empty"),
        ] {
            assert_eq!(now.seconds(set), want, "{why}");
        }
        assert_eq!(
            at(1_000, 500).seconds(Booted::default()),
            1_000,
            "a deadline that nobody timed counts by the wall clock"
        );
    }
}
