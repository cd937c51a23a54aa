//! What is followed, stored and forgotten. The stream itself is tested with a real operator.
use super::*;
use crate::view::Destination;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;

fn ip(number: usize) -> IpAddr {
    Ipv4Addr::from_bits((10 << 24) + u32::try_from(number).unwrap()).into()
}

fn answer(number: usize, kind: wire::Kind) -> wire::Destinations {
    let address = view::octets(ip(number));
    let destination = wire::Destination { address, kind: kind.into(), ..wire::Destination::default() };
    wire::Destinations { destinations: vec![destination] }
}

/// What is followed, what the data path knows, and what would be stored.
fn sizes(held: &Held, view: &View) -> (usize, usize, usize) {
    (held.wanted.len(), view.destinations().len(), held.destinations.len())
}

#[tokio::test(start_paused = true)]
async fn a_workload_that_scans_takes_bounded_memory_and_keeps_what_it_uses() {
    let ((view, _questions), mut held) = (View::new(), Held::default());
    let used = ip(1_000_000);
    held.follow(used, &view, true).unwrap();
    held.learn(answer(1_000_000, wire::Kind::Unmeshed), &view).unwrap();
    let mut told = 0;
    for number in 0..20 * FOLLOWED {
        if let Some(forgotten) = held.follow(ip(number), &view, true) {
            told += forgotten.len();
        }
        // Every other one exists.
        let kind = if number % 2 == 0 { wire::Kind::Unmeshed } else { wire::Kind::Unknown };
        held.learn(answer(number, kind), &view).unwrap();
        tokio::time::advance(Duration::from_millis(10)).await;
        assert!(view.destination(used).is_some(), "what is called all the time was forgotten");
    }
    let (wanted, known, stored) = sizes(&held, &view);
    assert!(wanted <= FOLLOWED && known <= wanted && stored <= wanted, "{wanted} {known} {stored}");
    assert_eq!(wanted + told, 20 * FOLLOWED + 1, "the operator was told of each that was forgotten");
}

#[tokio::test(start_paused = true)]
async fn questions_without_an_operator_are_bounded_and_cost_nothing_that_is_known() {
    let ((view, _questions), mut held) = (View::new(), Held::default());
    for number in 0..100 {
        held.follow(ip(number), &view, true).unwrap();
        held.learn(answer(number, wire::Kind::Unmeshed), &view).unwrap();
    }
    for number in 100..10 * FOLLOWED {
        let _ = held.follow(ip(number), &view, false);
    }
    assert!(held.wanted.len() <= FOLLOWED);
    assert!((0..100).all(|number| view.destination(ip(number)).is_some()));
    // Full of what is known: the question is not taken, and nothing is given up.
    for number in 100..10 * FOLLOWED {
        if held.wanted.contains(&ip(number)) {
            held.learn(answer(number, wire::Kind::Unmeshed), &view).unwrap();
        }
    }
    while let Some(_taken) = held.follow(ip(50 * FOLLOWED + held.wanted.len()), &view, false) {
        let number = 50 * FOLLOWED + held.wanted.len() - 1;
        held.learn(answer(number, wire::Kind::Unmeshed), &view).unwrap();
    }
    assert_eq!(sizes(&held, &view), (FOLLOWED, FOLLOWED, FOLLOWED));
}

#[tokio::test(start_paused = true)]
async fn what_nobody_calls_is_forgotten_and_where_nobody_is_soon() {
    let ((view, _questions), mut held) = (View::new(), Held::default());
    for (number, kind) in [(1, wire::Kind::Unmeshed), (2, wire::Kind::Unknown), (3, wire::Kind::Unmeshed)] {
        held.follow(ip(number), &view, true).unwrap();
        held.learn(answer(number, kind), &view).unwrap();
    }
    tokio::time::advance(FORGET_UNKNOWN).await;
    assert_eq!(held.stale(&view), [ip(2)]);
    held.forget(&[ip(2)], &view);
    tokio::time::advance(FORGET.saturating_sub(FORGET_UNKNOWN)).await;
    view.destination(ip(3)).unwrap();
    assert_eq!(held.stale(&view), [ip(1)]);
    // News keep nothing alive, and news of what is forgotten are not taken.
    held.learn(answer(1, wire::Kind::Unmeshed), &view).unwrap();
    assert_eq!(held.stale(&view), [ip(1)]);
    held.forget(&[ip(1)], &view);
    held.learn(answer(1, wire::Kind::Unmeshed), &view).unwrap();
    assert_eq!(sizes(&held, &view), (1, 1, 1));
}

#[test]
fn ranges_alone_change_the_configuration_that_they_are_for_and_no_other() {
    let version = |revision, digest: &str| Some(wire::Version { revision, digest: digest.into() });
    let config = wire::Config { version: version(1, "a"), workload_name: "orders".into(), ..wire::Config::default() };
    let held = Held { config: Some(config.clone()), ..Held::default() };
    let mesh_ranges = vec![wire::Prefix { address: vec![10, 0, 0, 0], length: 8 }];
    let of =
        |base: &str| wire::Ranges { version: version(2, "b"), base: base.into(), mesh_ranges: mesh_ranges.clone() };
    let changed = wire::Config { version: version(2, "b"), mesh_ranges: mesh_ranges.clone(), ..config };
    assert_eq!(held.with_ranges(of("a")), Ok(changed));
    assert_eq!(held.with_ranges(of("c")), Err(version(2, "b")));
    assert_eq!(Held::default().with_ranges(of("")), Err(version(2, "b")));
}

#[test]
fn news_with_one_bad_address_are_refused_whole_asked_for_or_not() {
    let ((view, _questions), mut held) = (View::new(), Held::default());
    held.follow(ip(1), &view, true).unwrap();
    let mut news = answer(1, wire::Kind::Unmeshed);
    news.destinations.push(wire::Destination { address: vec![1, 2, 3], ..wire::Destination::default() });
    held.learn(news, &view).unwrap_err();
    assert_eq!(view.destination(ip(1)), None::<Arc<Destination>>);
}

fn stored(uid: &str) -> Stored {
    Stored { workload_uid: uid.into(), config: Some(wire::Config::default()), destinations: None }
}

#[test]
fn what_is_stored_is_for_its_user_alone_and_for_its_workload_alone() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::new(directory.path());
    assert!(store.load("a").unwrap().is_none());
    // A crash left half of a file, with a mode that others can write.
    let half = store.file.with_extension("new");
    std::fs::write(&half, "half").unwrap();
    std::fs::set_permissions(&half, std::fs::Permissions::from_mode(0o666)).unwrap();
    store.save(&stored("a")).unwrap();
    assert_eq!(std::fs::metadata(&store.file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(store.load("a").unwrap(), Some(stored("a")));
    assert_eq!(store.load("b").unwrap(), None);
    std::fs::set_permissions(&store.file, std::fs::Permissions::from_mode(0o620)).unwrap();
    store.load("a").unwrap_err();
}

proptest::proptest! {
    #[test]
    fn a_stored_file_of_any_bytes_is_read_or_refused(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        store.save(&stored("a")).unwrap();
        std::fs::write(&store.file, bytes).unwrap();
        drop(store.load("a"));
    }
}
