//! The lowest trust sequence that a holder of an unexpired leaf was known to hold, without a table of all leaves: a queue in
//! which a leaf is dropped as soon as a later one, that lives at least as long, holds no more than it. Pure.
use std::collections::VecDeque;

/// Of one issuing CA.
#[derive(Debug, Default)]
pub(super) struct Lowest {
    /// End (unix seconds) and sequence; both grow from front to back.
    live: VecDeque<(u64, u64)>,
}

impl Lowest {
    /// A leaf that ends at `end` goes to a holder of `held`.
    pub(super) fn note(&mut self, end: u64, held: u64) {
        // Ends hardly ever go back: where one does, it is taken to end with the last, which errs on the safe side.
        let end = self.live.back().map_or(end, |(last, _)| end.max(*last));
        while self.live.back().is_some_and(|(_, other)| *other >= held) {
            self.live.pop_back();
        }
        self.live.push_back((end, held));
    }

    /// The lowest sequence of the leaves that have not ended at `now`.
    pub(super) fn at(&mut self, now: u64) -> Option<u64> {
        while self.live.front().is_some_and(|(end, _)| *end <= now) {
            self.live.pop_front();
        }
        self.live.front().map(|(_, held)| *held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_lowest_of_all_that_live_and_rises_when_they_end() {
        let mut lowest = Lowest::default();
        assert_eq!(lowest.at(0), None);
        for (end, held) in [(100, 5), (110, 3), (120, 7), (130, 7), (140, 9)] {
            lowest.note(end, held);
        }
        for (now, want) in [(0, Some(3)), (109, Some(3)), (110, Some(7)), (129, Some(7)), (130, Some(9)), (140, None)] {
            assert_eq!(lowest.at(now), want, "at {now}");
        }
    }

    #[test]
    fn a_million_leaves_are_a_short_queue() {
        let mut lowest = Lowest::default();
        for leaf in 0..1_000_000 {
            lowest.note(leaf, 1000 + leaf % 2);
        }
        assert!(lowest.live.len() <= 2, "{}", lowest.live.len());
        assert_eq!(lowest.at(0), Some(1000));
    }

    #[test]
    fn an_end_that_goes_back_never_hides_a_lower_sequence() {
        let mut lowest = Lowest::default();
        lowest.note(200, 5);
        lowest.note(100, 3);
        assert_eq!(lowest.at(150), Some(3));
    }
}
