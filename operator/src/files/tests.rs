//! A real directory and real notifications.
use super::Watch;
use crate::index::Settings;
use crate::index::tests::{rule, workload};
use crate::metrics::Metrics;
use crate::state::{Outcome, Published, Report, State};
use crate::store::Store;
use signet_policy::{Decision, Egress, Posture};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(60);
const NEVER: Duration = Duration::from_hours(1);

struct Running {
    files: TempDir,
    _state: TempDir,
    published: Published,
    task: tokio::task::JoinHandle<tokio::task::JoinError>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn start(poll: Duration) -> Running {
    let (files, state_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fs::write(files.path().join("10-a.yaml"), good()).unwrap();
    let settings = Settings {
        trust_domain: "mesh.example".parse().unwrap(),
        mesh_ranges: Vec::new(),
        inbound: Posture::Audit,
        egress: Egress { default: Decision::Allow, exceptions: Vec::new() },
    };
    let (state, published) = State::new(settings, Store::open(state_dir.path()).unwrap());
    let watch = Watch { poll, ..Watch::new(files.path().into()) };
    let task = tokio::spawn(watch.run(state, Arc::new(Metrics::default())));
    Running { files, _state: state_dir, published, task }
}

fn good() -> String {
    workload("shop", "a", "10.77.0.2", "serviceAccount: a, uid: a")
}

impl Running {
    async fn until(&mut self, what: &str, holds: impl Fn(&Report) -> bool) -> Report {
        let waited = timeout(SOON, self.published.report.wait_for(|report| holds(report))).await;
        let Ok(Ok(report)) = waited.map(|r| r.map(|r| (**r).clone())) else {
            panic!("{what} did not happen within {SOON:?}: {:?}", self.published.report.borrow())
        };
        report
    }
    fn rules(&self) -> usize {
        self.published.snapshot.borrow().as_ref().map_or(0, |snapshot| snapshot.notes().len())
    }
    fn path(&self) -> &Path {
        self.files.path()
    }
}

#[tokio::test]
async fn a_change_takes_effect_by_notification_alone() {
    let mut running = start(NEVER);
    running.until("the first reading", |r| r.good).await;
    for number in 1..=12 {
        fs::write(
            running.path().join(format!("{number}-r.yaml")),
            rule("shop", &format!("r{number}"), "{all: true}", "{namespace: a}"),
        )
        .unwrap();
        running.until("the new rule", |r| r.rules.len() == number).await;
    }
    fs::remove_file(running.path().join("12-r.yaml")).unwrap();
    running.until("the removal", |r| r.rules.len() == 11).await;
}

#[tokio::test]
async fn a_change_takes_effect_by_the_belt_when_the_directory_is_replaced() {
    let mut running = start(Duration::from_millis(50));
    running.until("the first reading", |r| r.good).await;
    let (path, aside) = (running.path().to_owned(), running.path().with_extension("aside"));
    fs::rename(&path, &aside).unwrap();
    fs::create_dir(&path).unwrap();
    fs::write(path.join("a.yaml"), good() + &rule("shop", "r", "{all: true}", "{namespace: a}")).unwrap();
    running.until("the new directory", |r| r.good && r.rules.len() == 1).await;
    fs::remove_dir_all(aside).unwrap();
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_state_and_names_file_line_field_and_mend() {
    let mut running = start(NEVER);
    running.until("the first reading", |r| r.good).await;
    let path = running.path().join("20-r.yaml");
    fs::write(&path, rule("shop", "r", "{all: true}", "{namespace: a}")).unwrap();
    running.until("the rule", |r| r.rules.len() == 1).await;

    fs::write(&path, rule("shop", "r", "{all: true}", "{namespaces: a}")).unwrap();
    let report = running.until("the refusal", |r| r.last == Outcome::Refused).await;
    assert_eq!(running.rules(), 1, "the last good state is gone");
    let line = report.findings[0].to_string();
    assert!(line.starts_with(&format!("{}:5: AllowRule shop/r: spec.from[0]", path.display())), "{line}");
    assert!(line.contains("namespace"), "{line}");

    fs::write(&path, rule("shop", "r", "{all: true}", "{namespace: b}")).unwrap();
    running.until("the mended rule", |r| r.good).await;
}

#[tokio::test]
async fn a_directory_that_vanishes_or_empties_changes_nothing_in_force() {
    let mut running = start(Duration::from_millis(50));
    running.until("the first reading", |r| r.good).await;
    fs::write(running.path().join("10-a.yaml"), "").unwrap();
    running.until("the refusal of an empty file", |r| r.last == Outcome::Refused).await;
    fs::remove_file(running.path().join("10-a.yaml")).unwrap();
    running
        .until("the refusal of an empty directory", |r| r.findings.iter().any(|f| f.found == "no *.yaml file"))
        .await;
    assert_eq!(running.published.snapshot.borrow().as_ref().map(|s| s.members().count()), Some(1));
}

/// The operator once spent a whole core on answering the notifications of its own looks.
#[tokio::test]
async fn looking_at_the_directory_wakes_nobody_and_a_change_does() {
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("a.yaml"), good()).unwrap();
    let changed = Arc::new(tokio::sync::Notify::new());
    let watch = Watch::new(files.path().to_path_buf());
    let _watcher = watch.watcher(&changed).expect("notifications");
    crate::documents::read_directory(files.path());
    crate::documents::look(files.path());
    assert!(timeout(Duration::from_millis(300), changed.notified()).await.is_err(), "a look woke the watch");
    fs::write(files.path().join("b.yaml"), good()).unwrap();
    assert!(timeout(SOON, changed.notified()).await.is_ok(), "a change did not wake the watch");
}
