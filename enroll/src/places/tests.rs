//! Who finds a place, and who loses his for it.
use super::*;

const BOUNDS: Bounds = Bounds { all: 6, per_address: 3, known: 1 };

fn address(last: u8) -> IpAddr {
    [10, 0, 0, last].into()
}

async fn is_evicted(place: &mut Place) -> bool {
    tokio::time::timeout(std::time::Duration::ZERO, place.evicted()).await.is_ok()
}

#[tokio::test]
async fn the_oldest_that_waits_makes_room_for_a_newcomer_of_its_address() {
    let places = Places::new(BOUNDS);
    let mut held: Vec<Place> = (0..3).map(|_| places.enter(address(1)).unwrap()).collect();
    held[0].visitor().stage(Stage::Working);
    // It has asked already, and may ask again: those that have not asked leave first.
    held[1].visitor().stage(Stage::Idle);
    let mut newest = places.enter(address(1)).unwrap();
    assert!(is_evicted(&mut held[2]).await);
    newest.visitor().stage(Stage::Working);
    let last = places.enter(address(1)).unwrap();
    assert!(is_evicted(&mut held[1]).await);
    last.visitor().stage(Stage::Working);
    assert_eq!(places.enter(address(1)).unwrap_err(), Full::Address, "all are at work");
    assert!(!is_evicted(&mut held[0]).await && !is_evicted(&mut newest).await);
    assert_eq!((places.evicted.load(Ordering::Relaxed), places.refused.load(Ordering::Relaxed)), (2, 1));
    drop(last);
    places.enter(address(1)).unwrap();
}

#[tokio::test]
async fn whoever_holds_most_makes_room_when_there_is_none_at_all() {
    let places = Places::new(BOUNDS);
    let mut modest = places.enter(address(1)).unwrap();
    let _other: Vec<Place> = (0..2).map(|_| places.enter(address(2)).unwrap()).collect();
    let mut greedy: Vec<Place> = (0..3).map(|_| places.enter(address(3)).unwrap()).collect();
    let _late = places.enter(address(4)).unwrap();
    assert!(is_evicted(&mut greedy[0]).await && !is_evicted(&mut modest).await);
    assert_eq!(places.taken(), 6);
}

#[tokio::test]
async fn who_is_known_keeps_the_place_and_leaves_the_strangers_theirs() {
    let places = Places::new(BOUNDS);
    let mut known = places.enter(address(1)).unwrap();
    assert!(known.visitor().becomes_known() && known.visitor().becomes_known());
    let mut held: Vec<Place> = (0..3).map(|_| places.enter(address(1)).unwrap()).collect();
    let newcomer = places.enter(address(1)).unwrap();
    assert!(is_evicted(&mut held[0]).await && !is_evicted(&mut known).await);
    assert!(!newcomer.visitor().becomes_known(), "those places are counted too");
    drop(known);
    assert!(newcomer.visitor().becomes_known());
}

#[test]
fn places_come_back() {
    let places = Places::new(BOUNDS);
    for turn in 0..100_u8 {
        let place = places.enter(address(turn % 3)).unwrap();
        if turn % 2 == 0 {
            assert!(place.visitor().becomes_known());
        }
    }
    let rooms = places.rooms();
    assert!(rooms.strangers.is_empty() && rooms.by_address.is_empty() && rooms.known.is_empty());
}
