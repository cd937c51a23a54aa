//! Revisions and digests: what changes for whom, and what the rollout waits for.
use super::*;

#[test]
fn the_same_documents_keep_revision_and_digest_in_any_order_and_over_a_restart() {
    let (a, b) = (meshed("shop", "a", "10.77.0.2"), meshed("shop", "b", "10.77.0.3"));
    let (first, memory) = after(&(a.clone() + &b), &Memory::default());
    let (second, _) = after(&(b + &a), &memory);
    assert_eq!(first.revision(), second.revision());
    assert_eq!(first.digest(member(&first, "shop/a")), second.digest(member(&second, "shop/a")));
}

#[test]
fn a_change_raises_the_revision_even_when_the_clock_went_back() {
    let text = meshed("shop", "a", "10.77.0.2");
    let (first, memory) = Snapshot::build(&settings(), &documents(&text), &Memory::default(), 5_000);
    assert_eq!(first.revision(), 5_000);
    let changed = text + &rule("shop", "r", "{all: true}", "{namespace: a}");
    let (second, _) = Snapshot::build(&settings(), &documents(&changed), &memory, 7);
    assert_eq!(second.revision(), 5_001);
}

#[test]
fn a_change_that_does_not_concern_a_workload_leaves_its_digest() {
    let text = meshed("shop", "a", "10.77.0.2") + &meshed("shop", "b", "10.77.0.3");
    let before = build(&text);
    let after = build(&(text + &rule("shop", "r", "{podSelector: {matchLabels: {app: b}}}", "{namespace: a}")));
    assert_eq!(before.digest(member(&before, "shop/a")), after.digest(member(&after, "shop/a")));
    assert_ne!(before.digest(member(&before, "shop/b")), after.digest(member(&after, "shop/b")));
}

#[test]
fn the_digest_covers_the_ranges() {
    let mut other = settings();
    other.mesh_ranges.clear();
    let text = meshed("shop", "a", "10.77.0.2");
    let one = build(&text);
    let two = Snapshot::build(&other, &documents(&text), &Memory::default(), 1).0;
    assert_ne!(one.digest(member(&one, "shop/a")), two.digest(member(&two, "shop/a")));
}
