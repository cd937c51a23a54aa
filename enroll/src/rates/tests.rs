//! Bursts, averages, and that keys are bounded and do not harm each other.
use super::*;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

#[test]
fn admits_a_burst_and_then_the_average_and_says_when_to_come_back() {
    let buckets = Buckets::new(Rate { per_second: 10, burst: 3 }, 10);
    for _ in 0..3 {
        buckets.take(&"a", ms(1000)).unwrap();
    }
    assert_eq!(buckets.take(&"a", ms(1000)), Err(Busy { retry_after: ms(100) }));
    assert_eq!(buckets.take(&"a", ms(1099)), Err(Busy { retry_after: ms(1) }));
    buckets.take(&"a", ms(1100)).unwrap();
    assert!(buckets.take(&"a", ms(1100)).is_err());
}

#[test]
fn f12_one_key_does_not_empty_anothers_bucket() {
    let buckets = Buckets::new(Rate { per_second: 1, burst: 2 }, 10);
    let refused = (0..1000).filter(|_| buckets.take(&"greedy", ms(0)).is_err()).count();
    assert_eq!(refused, 998);
    buckets.take(&"modest", ms(0)).unwrap();
}

#[test]
fn peeking_takes_nothing() {
    let buckets = Buckets::new(Rate { per_second: 1, burst: 1 }, 10);
    for _ in 0..100 {
        buckets.peek(&"a", ms(0)).unwrap();
    }
    buckets.take(&"a", ms(0)).unwrap();
    assert!(buckets.peek(&"a", ms(0)).is_err());
}

#[test]
fn f26_the_number_of_keys_is_bounded_and_idle_ones_make_room() {
    let buckets = Buckets::new(Rate { per_second: 1, burst: 1 }, 100);
    let admitted = (0..1_000_000_u32).filter(|n| buckets.take(n, ms(0)).is_ok()).count();
    assert_eq!(admitted, 100);
    assert_eq!(buckets.full_at.lock().unwrap().len(), 100);
    buckets.take(&1_000_001, ms(1001)).unwrap();
    assert_eq!(buckets.full_at.lock().unwrap().len(), 1, "the idle ones were forgotten");
}
