//! The arithmetic of renewal and retry, by table.
use super::*;
use rstest::rstest;

const DAY: u64 = 86_400;

fn moment(wall: u64, boot: u64) -> Moment {
    Moment { wall: Duration::from_secs(wall), boot: Duration::from_secs(boot) }
}

#[rstest]
#[case::earliest(3600, 0.0, 1800)]
#[case::latest(3600, 1.0, 2400)]
#[case::between(3600, 0.5, 2100)]
#[case::short(6, 0.0, 3)]
#[case::already_over(0, 0.5, 0)]
fn renewal_is_due_between_half_and_two_thirds_of_what_is_left(
    #[case] lifetime: u64,
    #[case] dice: f64,
    #[case] delay: u64,
) {
    let now = moment(100 * DAY, 500);
    let left = Due::after_issue(now, 100 * DAY + lifetime, dice).left(now);
    assert!(left.abs_diff(Duration::from_secs(delay)) < Duration::from_millis(1), "{left:?}");
}

#[rstest]
#[case::both_clocks_run(DAY + 1000, 1500, 800)]
#[case::the_wall_clock_stepped_forward(DAY + 1700, 600, 100)]
#[case::the_wall_clock_stepped_back(DAY - 5000, 1500, 800)]
#[case::asleep_with_a_stopped_wall_clock(DAY, 500 + 1800, 0)]
#[case::asleep(DAY + 9000, 500 + 9000, 0)]
fn the_earlier_of_both_clocks_counts(#[case] wall: u64, #[case] boot: u64, #[case] left: u64) {
    let due = Due::after_issue(moment(DAY, 500), DAY + 3600, 0.0);
    assert_eq!(due.left(moment(wall, boot)), Duration::from_secs(left));
}

#[test]
fn a_long_wait_is_slept_in_naps_so_that_a_stepped_clock_is_seen() {
    let now = moment(DAY, 0);
    let due = Due::after_issue(now, DAY + 3600, 0.0);
    assert_eq!(due.nap(now), Some(Duration::from_secs(10)));
    assert_eq!(due.nap(moment(DAY + 1797, 0)), Some(Duration::from_secs(3)));
    assert_eq!(due.nap(moment(DAY + 1800, 0)), None);
}

#[rstest]
#[case::first(1, None, 500, 1000)]
#[case::second(2, None, 500, 2000)]
#[case::sixth(6, None, 500, 32_000)]
#[case::capped(7, None, 500, 60_000)]
#[case::for_days(100_000, None, 500, 60_000)]
#[case::counted_wrong(0, None, 500, 1000)]
#[case::a_leaf_of_an_hour(100, Some(3600), 500, 60_000)]
#[case::a_leaf_of_a_minute(100, Some(60), 500, 15_000)]
#[case::a_leaf_of_seconds(100, Some(3), 500, 1000)]
fn retries_spread_between_half_a_second_and_a_doubling_ceiling(
    #[case] failures: u32,
    #[case] lifetime: Option<u64>,
    #[case] shortest: u128,
    #[case] longest: u128,
) {
    let lifetime = lifetime.map(Duration::from_secs);
    assert_eq!(retry_delay(failures, lifetime, 0.0).as_millis(), shortest);
    assert_eq!(retry_delay(failures, lifetime, 1.0).as_millis(), longest);
    assert_eq!(retry_delay(failures, lifetime, 9.0).as_millis(), longest, "dice beyond its range");
}

#[test]
fn an_asked_delay_is_never_shortened_and_never_endless() {
    for (asked, dice, waits) in [(1000, 0.0, 1000), (1000, 1.0, 1200), (0, 0.0, 10), (u64::MAX, 1.0, 720_000)] {
        assert_eq!(asked_delay(Duration::from_millis(asked), dice).as_millis(), waits, "asked for {asked} ms");
    }
}

#[test]
fn the_machine_has_both_clocks() {
    let now = MachineClock.now();
    assert!(now.wall.as_secs() > 1_700_000_000);
    assert!(!now.boot.is_zero());
}

/// What `enroller` does with these, on paused time: naps until it is due, however the wall clock steps.
#[tokio::test(start_paused = true)]
async fn naps_end_when_the_certificate_is_due_and_not_later() {
    let started = tokio::time::Instant::now();
    let clock = |step: u64| {
        let run = tokio::time::Instant::now() - started;
        Moment { wall: Duration::from_secs(DAY + step) + run, boot: run }
    };
    let due = Due::after_issue(clock(0), DAY + 3600, 0.0);
    let mut step = 0;
    while let Some(nap) = due.nap(clock(step)) {
        tokio::time::sleep(nap).await;
        if (tokio::time::Instant::now() - started).as_secs() == 600 {
            step = 600;
        }
    }
    let slept = tokio::time::Instant::now() - started;
    assert_eq!(slept.as_secs(), 1200, "the wall clock stepped forward by 600 s after 600 s");
}

#[test]
fn what_should_come_soon_is_asked_for_from_100_ms_up_to_five_seconds() {
    let asked = Duration::from_millis(100);
    for (times, millis) in [(0, 100), (1, 100), (2, 200), (3, 400), (6, 3200), (7, 5000), (100, 5000)] {
        assert_eq!(soon_delay(asked, times, 0.0).as_millis(), millis, "the {times}th time");
        assert_eq!(soon_delay(asked, times, 1.0).as_millis(), millis * 6 / 5, "the {times}th time, unlucky");
    }
}
