use super::*;

#[test]
fn an_ipv6_host_has_one_key_and_a_mapped_address_is_the_ipv4_one() {
    let key = |text: &str| address_key(text.parse().unwrap(), false);
    assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
    assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
    assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
}

#[test]
fn f12_pods_of_one_node_have_keys_of_their_own() {
    let key = |text: &str| address_key(text.parse().unwrap(), true);
    assert_ne!(key("2001:db8::1"), key("2001:db8::2"));
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
