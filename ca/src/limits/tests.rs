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

#[test]
fn an_ipv6_host_has_one_key_and_a_mapped_address_is_the_ipv4_one() {
    let key = |text: &str| address_key(text.parse().unwrap());
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
}

#[tokio::test]
async fn the_queue_before_the_bench_is_bounded() {
    let bench = std::sync::Arc::new(Bench::new(1, 1));
    let (release, hold) = std::sync::mpsc::channel::<()>();
    let (started, first_works) = tokio::sync::oneshot::channel();
    let first = tokio::spawn({
        let bench = bench.clone();
        async move {
            bench
                .run(move || {
                    started.send(()).unwrap();
                    hold.recv().unwrap();
                })
                .await
        }
    });
    first_works.await.unwrap();
    let second = tokio::spawn({
        let bench = bench.clone();
        async move { bench.run(|| ()).await }
    });
    while bench.waiting.load(Ordering::Acquire) == 0 {
        tokio::task::yield_now().await;
    }
    assert!(matches!(bench.run(|| ()).await, Err(BenchError::Busy(_))));
    release.send(()).unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
    bench.run(|| ()).await.unwrap();
}

#[tokio::test]
async fn work_that_panics_is_contained_and_gives_its_place_back() {
    let bench = Bench::new(1, 0);
    assert_eq!(bench.run(|| panic!("on purpose")).await.map(|(): ()| ()), Err(BenchError::Broken));
    assert_eq!(bench.run(|| 7).await, Ok(7));
}
