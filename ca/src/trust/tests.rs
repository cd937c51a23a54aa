use super::*;
use crate::store::Store;
use signet_identity::Bundle;
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

async fn publisher(dir: &Path, second: &Arc<AtomicU64>) -> Publisher {
    let (store, _) = Store::open(&dir.join("state.db"), &"example.org".parse().unwrap(), Metrics::default()).unwrap();
    let second = second.clone();
    let clock = Clock::from_fn(move || Duration::from_secs(second.load(Ordering::Relaxed)));
    Publisher::open(Arc::new(store), clock, Metrics::default()).await.unwrap()
}

fn deny(serial: u8) -> impl Fn(&mut TrustState) {
    move |state| {
        state.bundles.entry("example.org".parse().unwrap()).or_insert_with(|| Bundle { roots: vec![] });
        state.deny.serials.insert(vec![serial]);
    }
}

#[test]
fn a_sequence_never_goes_back_and_jumps_to_the_present() {
    for (previous, now, want) in
        [(0, 0, 1), (0, 100, 100), (100, 50, 101), (100, 100, 101), (100, 101, 101), (100, 500, 500)]
    {
        assert_eq!(next_sequence(previous, now), want, "after {previous} at {now}");
    }
}

#[tokio::test]
async fn what_is_published_outlives_a_restart_and_only_changes_are_published() {
    let dir = tempfile::tempdir().unwrap();
    let second = Arc::new(AtomicU64::new(1000));
    let first = publisher(dir.path(), &second).await;
    assert_eq!(first.newest().state.sequence, 0);
    let published = first.publish(deny(1)).await.unwrap();
    assert_eq!(published.state.sequence, 1000);
    assert_eq!(first.publish(deny(1)).await.unwrap().state.sequence, 1000, "nothing changed");
    drop(first);
    let again = publisher(dir.path(), &second).await;
    assert_eq!(again.newest().state, published.state);
    assert_eq!(again.newest().wire, published.wire);
}

#[tokio::test]
async fn of_two_writers_the_one_that_lost_decides_again_on_what_the_other_published() {
    let dir = tempfile::tempdir().unwrap();
    let second = Arc::new(AtomicU64::new(1000));
    let (one, other) = (publisher(dir.path(), &second).await, publisher(dir.path(), &second).await);
    one.publish(deny(1)).await.unwrap();
    let both = other.publish(deny(2)).await.unwrap();
    assert_eq!(both.state.sequence, 1001);
    assert_eq!(both.state.deny.serials.len(), 2, "the other's change was kept");
}

#[tokio::test]
async fn whoever_watches_sees_the_newest() {
    let dir = tempfile::tempdir().unwrap();
    let publisher = publisher(dir.path(), &Arc::new(AtomicU64::new(1000))).await;
    let mut watch = publisher.watch();
    publisher.publish(deny(1)).await.unwrap();
    publisher.publish(deny(2)).await.unwrap();
    watch.changed().await.unwrap();
    assert_eq!(watch.borrow_and_update().state.sequence, 1001, "and may skip what came before");
}

#[tokio::test]
async fn what_was_heard_late_takes_nothing_back_that_another_has_published_since() {
    let dir = tempfile::tempdir().unwrap();
    let second = Arc::new(AtomicU64::new(1000));
    let (one, other) = (publisher(dir.path(), &second).await, publisher(dir.path(), &second).await);
    let first = one.publish(deny(1)).await.unwrap();
    let held = one.publish(deny(2)).await.unwrap();
    let both = other.publish(deny(3)).await.unwrap();
    assert_eq!(both.state.deny.serials.len(), 3);
    // One holds the second; of the third it has not heard yet, and of the first only now.
    second.store(2000, Ordering::Relaxed);
    assert_eq!(one.newest().state, held.state);
    one.offer(first.state.sequence, &first.wire.encode_to_vec()).await.unwrap();
    assert_eq!(one.newest().state, both.state);
    // And that the state was gone for a moment, after it was published again.
    one.restore().await.unwrap();
    assert_eq!(
        publisher(dir.path(), &second).await.newest().state,
        both.state,
        "neither content nor number is another"
    );
}
