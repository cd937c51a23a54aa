//! What watches bring: lists, changes, and what changes nothing.
use super::super::arrived::{Listed, Listing};
use super::super::store::{Kind as _, Store};
use super::*;
use std::collections::{BTreeMap, HashSet};

#[test]
fn what_a_new_list_lacks_is_gone_and_until_it_is_complete_the_old_content_stays() {
    let mut store: Store<u8> = Store::default();
    for news in [News::Start, News::Listed(key("a", "1"), 1), News::Listed(key("a", "2"), 2)] {
        assert!(!store.take(news, 0) && !store.complete());
    }
    assert!(store.take(News::Done, 0) && store.complete());
    store.take(News::Start, 0);
    store.take(News::Listed(key("a", "2"), 3), 0);
    assert_eq!(store.iter().count(), 2);
    assert!(store.take(News::Done, 0));
    assert_eq!(store.iter().map(|(key, n)| (key.name.as_str(), *n)).collect::<Vec<_>>(), [("2", 3)]);
}

#[test]
fn what_changes_nothing_builds_nothing() {
    let mut store: Store<u8> = Store::default();
    store.take(News::Done, 0);
    assert!(store.take(News::Set(key("a", "1"), 1), 0));
    assert!(!store.take(News::Set(key("a", "1"), 1), 0));
    assert!(!store.take(News::Gone(key("a", "2")), 0));
}

#[test]
fn the_same_objects_give_the_same_digests_in_whatever_order_they_come() {
    let digest = |cluster: &mut Cluster| {
        let snapshot = cluster.snapshot();
        snapshot.digest(snapshot.find(&key("shop", "a")).unwrap()).to_owned()
    };
    let mut one = Cluster::default();
    one.pod("shop", "a", "10.244.0.2", true, json!({})).pod("shop", "b", "10.244.0.3", true, json!({}));
    let mut two = Cluster::default();
    two.pod("shop", "b", "10.244.0.3", true, json!({})).pod("shop", "a", "10.244.0.2", true, json!({}));
    assert_eq!(digest(&mut one), digest(&mut two));
}

#[test]
fn how_far_a_watch_has_come_counts_a_list_when_it_is_complete_with_what_is_of_no_interest() {
    let mut store: Store<u8> = Store::default();
    store.take(News::Start, 0);
    store.take(News::Listed(key("a", "1"), 1), 7);
    store.take(News::Passed, 9);
    assert_eq!(store.seen(), 0, "another object with a smaller version may follow");
    store.take(News::Done, 0);
    assert_eq!(store.seen(), 9);
    store.take(News::Set(key("a", "1"), 2), 11);
    store.take(News::Gone(key("a", "1")), 12);
    assert_eq!(store.seen(), 12);
    // A list that broke off says nothing.
    store.take(News::Start, 0);
    store.take(News::Listed(key("a", "1"), 1), 20);
    store.take(News::Start, 0);
    store.take(News::Listed(key("a", "1"), 1), 15);
    store.take(News::Done, 0);
    assert_eq!(store.seen(), 15);
}

/// Every kind has one object of version 5, which has arrived. Of the rules it is held, of all others it is of no interest.
fn arrived() -> (Objects, Listing) {
    let mut cluster = Cluster::default();
    let rule = cluster.rule("shop", "r", json!({})).objects.rules.iter().next().unwrap().1.clone();
    let mut objects = Objects::default();
    for change in [
        Change::Pod(News::Passed),
        Change::Service(News::Passed),
        Change::Slice(News::Passed),
        Change::Node(News::Passed),
        Change::ServiceRange(News::Passed),
        Change::Namespace(News::Passed),
        Change::Rule(News::Listed(key("shop", "r"), rule)),
        Change::Pod(News::Done),
        Change::Service(News::Done),
        Change::Slice(News::Done),
        Change::Node(News::Done),
        Change::ServiceRange(News::Done),
        Change::Namespace(News::Done),
        Change::Rule(News::Done),
    ] {
        objects.take(change, 5);
    }
    let listed = || Listed { newest: 5, keys: HashSet::from([key("shop", "r")]) };
    let kinds: BTreeMap<_, _> = objects.kinds().into_iter().map(|(kind, _)| (kind, listed())).collect();
    (objects, Listing { newest: 9, kinds })
}

#[test]
fn everything_has_arrived_when_no_kind_has_anything_newer_and_nothing_that_is_held_has_gone() {
    let (objects, listing) = arrived();
    assert!(objects.kinds().iter().all(|(_, kind)| kind.seen() == 5));
    assert!(objects.have(&listing));
}

#[test]
fn a_change_a_new_object_and_a_deletion_that_have_not_arrived_are_noticed_in_every_kind() {
    for (kind, _) in Objects::default().kinds() {
        let (objects, mut listing) = arrived();
        listing.kinds.get_mut(kind).unwrap().newest = 6;
        assert!(!objects.have(&listing), "a change of {kind}");
        let (objects, mut listing) = arrived();
        listing.kinds.remove(kind);
        assert!(!objects.have(&listing), "{kind} was not listed");
    }
    let (objects, mut listing) = arrived();
    listing.kinds.get_mut("allowrules").unwrap().keys.clear();
    assert!(!objects.have(&listing), "what is held is there no more");
}

#[test]
fn a_kind_of_which_something_has_arrived_that_is_newer_than_what_there_was_has_arrived() {
    let (mut objects, mut listing) = arrived();
    listing.kinds.get_mut("pods").unwrap().newest = 8;
    assert!(!objects.have(&listing));
    objects.take(Change::Pod(News::Gone(key("shop", "x"))), 9);
    assert!(objects.have(&listing));
    // Something that came after the list is held, and not in it.
    let rule = objects.rules.iter().next().unwrap().1.clone();
    objects.take(Change::Rule(News::Set(key("shop", "later"), rule)), 10);
    assert!(objects.have(&listing));
}
