//! What watches bring: lists, changes, and what changes nothing.
use super::super::store::Store;
use super::*;

#[test]
fn what_a_new_list_lacks_is_gone_and_until_it_is_complete_the_old_content_stays() {
    let mut store: Store<u8> = Store::default();
    for news in [News::Start, News::Listed(key("a", "1"), 1), News::Listed(key("a", "2"), 2)] {
        assert!(!store.take(news) && !store.complete());
    }
    assert!(store.take(News::Done) && store.complete());
    store.take(News::Start);
    store.take(News::Listed(key("a", "2"), 3));
    assert_eq!(store.iter().count(), 2);
    assert!(store.take(News::Done));
    assert_eq!(store.iter().map(|(key, n)| (key.name.as_str(), *n)).collect::<Vec<_>>(), [("2", 3)]);
}

#[test]
fn what_changes_nothing_builds_nothing() {
    let mut store: Store<u8> = Store::default();
    store.take(News::Done);
    assert!(store.take(News::Set(key("a", "1"), 1)));
    assert!(!store.take(News::Set(key("a", "1"), 1)));
    assert!(!store.take(News::Gone(key("a", "2"))));
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
