//! What stays in force when something is wrong.
use super::{Outcome, Published, State};
use crate::documents::{Directory, Reading};
use crate::index::Settings;
use crate::index::tests::{rule, workload};
use crate::store::Store;
use signet_policy::{Caller, Decision, Egress, Posture, Reason};
use std::sync::Arc;

const CHECKOUT: &str = "spiffe://mesh.example/ns/shop/sa/checkout";

fn read(text: &str) -> Directory {
    let mut reading = Reading::default();
    reading.add(&Arc::from("mesh.yaml"), text);
    reading.finish();
    Directory { reading, state: Vec::new(), newest: 1 }
}

fn state(directory: &std::path::Path) -> (State, Published) {
    let settings = Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    State::new(settings, Store::open(directory).unwrap())
}

fn good() -> String {
    workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a")
        + &rule("shop", "r", "{all: true}", "{serviceAccount: checkout}")
}
fn broken_rule() -> String {
    good() + &rule("shop", "s", "{all: true}", "{serviceAcount: checkout}")
}
fn broken_workload() -> String {
    good().replace("uid: a", "uid: 'a b'")
}

fn verdict(published: &Published) -> Option<Reason> {
    let snapshot = published.snapshot.borrow().clone()?;
    let member = snapshot.find(&"shop/a".parse().unwrap())?;
    Some(member.table().judge(&Caller::Identity(CHECKOUT), 1).reason)
}

#[test]
fn a_broken_change_keeps_the_last_good_state_whatever_is_broken() {
    for broken in [broken_rule(), broken_workload(), "kind: [".into(), good() + &good()] {
        let directory = tempfile::tempdir().unwrap();
        let (mut state, published) = state(directory.path());
        assert_eq!(state.apply(read(&good())), Outcome::Applied);
        let revision = published.report.borrow().revision;
        assert_eq!(state.apply(read(&broken)), Outcome::Refused);
        assert_eq!(verdict(&published), Some(Reason::RuleMatched));
        let report = published.report.borrow().clone();
        assert_eq!((report.good, report.revision), (false, revision));
        assert!(!report.findings.is_empty(), "the report does not say what is wrong");
        assert_eq!(state.apply(read(&good())), Outcome::Applied);
        assert!(published.report.borrow().findings.is_empty());
    }
}

#[test]
fn f34_nothing_is_in_force_until_documents_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, published) = state(directory.path());
    assert_eq!(state.apply(read(&broken_workload())), Outcome::Refused);
    assert_eq!(verdict(&published), None);
    assert_eq!(state.apply(read(&good())), Outcome::Applied);
    assert_eq!(verdict(&published), Some(Reason::RuleMatched));
}

#[test]
fn at_the_start_a_broken_rule_guards_and_the_rest_is_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, published) = state(directory.path());
    let alone = workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a")
        + &rule("shop", "s", "{all: true}", "{serviceAcount: checkout}");
    assert_eq!(state.apply(read(&alone)), Outcome::Guarding);
    assert_eq!(verdict(&published), Some(Reason::GuardedByUnusableRule));
    assert!(!published.report.borrow().good);
    // Still no good state in force: the next reading is judged by the same rules as the first.
    assert_eq!(state.apply(read(&broken_rule())), Outcome::Guarding);
    assert_eq!(state.apply(read(&good())), Outcome::Applied);
    assert_eq!(state.apply(read(&broken_rule())), Outcome::Refused);
}

#[test]
fn a_restart_keeps_the_revision_and_never_goes_back() {
    let directory = tempfile::tempdir().unwrap();
    let revision = |text: &str| {
        let (mut state, published) = state(directory.path());
        state.apply(read(text));
        published.report.borrow().revision
    };
    let first = revision(&good());
    assert_eq!(revision(&good()), first);
    let changed = good() + &rule("shop", "s", "{all: true}", "{namespace: a}");
    assert_eq!(revision(&changed), first + 1);
}

#[test]
fn what_cannot_be_stored_is_not_put_into_force() {
    let directory = tempfile::tempdir().unwrap();
    let (mut state, published) = state(&directory.path().join("state"));
    assert_eq!(state.apply(read(&good())), Outcome::Applied);
    std::fs::remove_dir_all(directory.path().join("state")).unwrap();
    let changed = good() + &rule("shop", "s", "{all: true}", "{namespace: a}");
    assert_eq!(state.apply(read(&changed)), Outcome::Refused);
    assert!(published.report.borrow().error.as_ref().is_some_and(|error| error.contains("state directory")));
}

#[test]
fn a_damaged_store_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("operator-index.json"), "{").unwrap();
    let error = Store::open(directory.path()).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("removing it"), "{error}");
}

#[test]
fn a_kill_while_storing_leaves_what_was_stored_before() {
    let directory = tempfile::tempdir().unwrap();
    let (mut before, published) = state(directory.path());
    before.apply(read(&good()));
    let revision = published.report.borrow().revision;
    // Killed after half of the next file was written: it has not taken the place of the old one.
    std::fs::write(directory.path().join("operator-index.next"), "{\"revision\": 99").unwrap();
    let (mut after, published) = state(directory.path());
    assert_eq!(after.apply(read(&good())), Outcome::Applied);
    assert_eq!(published.report.borrow().revision, revision);
}
