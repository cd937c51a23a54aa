use super::*;
use crate::store::Store;
use crate::{
    root::{Lifetimes, LocalRoot},
    state_dir::StateDir,
};
use std::sync::atomic::AtomicU64 as Hand;

const BLOCK: u64 = 300;
const START: u64 = 1_800_000_000;

struct World {
    dir: tempfile::TempDir,
    hand: Arc<Hand>,
    store: Arc<Store>,
    issuing: Issuing,
}

fn world(issuing_seconds: u64, root_seconds: u64) -> World {
    let dir = tempfile::tempdir().unwrap();
    let state = StateDir::open(&dir.path().join("state")).unwrap();
    let hand = Arc::new(Hand::new(START));
    let reading = hand.clone();
    let clock = Clock::from_fn(move || Duration::from_secs(reading.load(Ordering::Relaxed)));
    let td = "example.org".parse().unwrap();
    let lifetimes =
        Lifetimes { root: Duration::from_secs(root_seconds), issuing: Duration::from_secs(issuing_seconds) };
    let root = LocalRoot::open(&state, &td, &[], START, lifetimes).unwrap();
    let (store, _) = Store::open(&state.file("state.db"), &td, Metrics::default()).unwrap();
    let store = Arc::new(store);
    let issuing = Issuing::new(Box::new(root), store.clone(), clock, Metrics::default());
    World { dir, hand, store, issuing }
}

impl World {
    fn at(&self, second: u64) -> u64 {
        self.hand.store(START + second, Ordering::Relaxed);
        START + second
    }
}

#[tokio::test]
async fn is_replaced_at_two_thirds_with_a_new_key_and_ends_no_later_than_its_root() {
    let world = world(900, 2000);
    let first = world.issuing.replace().await.unwrap();
    assert_eq!((first.replace_at() - START, first.signer().not_after() - START), (600, 900));
    world.at(600);
    let second = world.issuing.replace().await.unwrap();
    assert_ne!(first.signer().subject_key_id(), second.signer().subject_key_id());
    assert_eq!(second.signer().not_after() - START, 1500);
    world.at(1300);
    let third = world.issuing.replace().await.unwrap();
    assert_eq!(third.signer().not_after() - START, 2000, "capped to the root's end");
    world.at(2000);
    assert!(matches!(world.issuing.replace().await, Err(IssuingError::Upstream(UpstreamError::RootEnded(_)))));
}

#[tokio::test]
async fn signs_no_more_after_its_own_end() {
    let world = world(900, 2000);
    world.issuing.replace().await.unwrap();
    assert!(world.issuing.present(world.at(899)).is_ok());
    assert!(matches!(world.issuing.present(world.at(900)), Err(IssuingError::None)));
}

#[tokio::test]
async fn records_how_far_it_signs_before_it_does_and_in_blocks() {
    let world = world(9000, 20_000);
    world.issuing.replace().await.unwrap();
    let until = || world.store.issuers().unwrap()[0].signing_until - START;
    assert_eq!(until(), 0);
    world.issuing.ready_until(START, START + 60).await.unwrap();
    assert_eq!(until(), 60 + BLOCK);
    world.issuing.ready_until(START, START + 60 + BLOCK).await.unwrap();
    assert_eq!(until(), 60 + BLOCK, "within the block nothing is written");
    world.issuing.ready_until(START, START + 61 + BLOCK).await.unwrap();
    assert_eq!(until(), 61 + 2 * BLOCK);
    world.issuing.ready_until(START, START + 100_000).await.unwrap();
    assert_eq!(until(), 9000, "never beyond its own end");
}

#[tokio::test]
async fn stops_when_another_process_has_fenced_it() {
    let world = world(9000, 20_000);
    world.issuing.replace().await.unwrap();
    world.issuing.ready_until(START, START + 60).await.unwrap();
    world.store.fence_issuers().await.unwrap();
    assert!(matches!(world.issuing.ready_until(START, START + 8000).await, Err(IssuingError::Fenced)));
}

#[tokio::test]
async fn is_not_made_while_the_clock_is_behind() {
    let world = world(900, 2000);
    world.issuing.replace().await.unwrap();
    world.hand.store(START - 1, Ordering::Relaxed);
    assert!(matches!(world.issuing.replace().await, Err(IssuingError::ClockBehind { .. })));
    assert!(world.dir.path().exists());
}
