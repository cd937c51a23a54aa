//! Keeps what is in force in step with the watches: collects changes until they pause for a moment, and builds the index anew.
//!
//! **Revisions** are the API server's own: a build takes the newest resource version that the server has given out after the
//! changes it contains, so that revisions agree between replicas and grow with every change, deletions too. A replica may be
//! a moment behind another; when a sidecar comes from there with a newer revision and other content, the API server is asked for
//! its newest version, and once the watches had time to bring what belongs to it the sidecar's stream goes on from here. Nothing
//! is built because of what a sidecar says.
use super::translate::{Change, Effect, Objects};
use super::watch;
use crate::control::Hub;
use crate::index::{Memory, Settings, Snapshot};
use crate::state::{Outcome, Published, Report};
use k8s_openapi::api::core::v1::Namespace;
use kube::api::ListParams;
use kube::{Api, Client};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as cell};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// A build begins when nothing has changed for so long,
const QUIET: Duration = Duration::from_millis(50);
/// but no later than so long after the first change.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether a sidecar holds more than this replica has.
const LOOK: Duration = Duration::from_secs(1);
/// How long the API server may take to say its newest resource version.
const ANSWER: Duration = Duration::from_secs(2);

/// What is in force.
#[derive(Debug)]
pub struct Index {
    settings: Settings,
    control_namespace: String,
    objects: Objects,
    memory: Memory,
    snapshot: cell::Sender<Option<Arc<Snapshot>>>,
    report: cell::Sender<Arc<Report>>,
    kept: cell::Sender<Arc<super::status::View>>,
}

impl Index {
    /// Nothing is in force until everything was listed once.
    pub fn new(
        settings: Settings,
        control_namespace: &str,
    ) -> (Self, Published, cell::Receiver<Arc<super::status::View>>) {
        let (snapshot, snapshots) = cell::channel(None);
        let waiting = Report { error: Some("nothing has been listed yet".into()), ..Report::default() };
        let (report, reports) = cell::channel(Arc::new(waiting));
        let (kept, views) = cell::channel(Arc::default());
        let index = Self {
            settings,
            control_namespace: control_namespace.into(),
            objects: Objects::default(),
            memory: Memory::default(),
            snapshot,
            report,
            kept,
        };
        (index, Published { snapshot: snapshots, report: reports }, views)
    }

    /// Follows the changes for ever. Ends when the watches have ended, or when building panicked: then the program must end, and
    /// the sidecars keep what they have.
    pub async fn run(mut self, client: Client, mut changes: mpsc::Receiver<Change>, hub: Arc<Hub>) -> &'static str {
        // What the API server said at the last look, when a sidecar was ahead.
        let mut asked = None;
        // What there was to build when the API server did not say its newest version.
        let mut owed = Effect::Nothing;
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let (mut effect, mut look) = (std::mem::replace(&mut owed, Effect::Nothing), false);
            tokio::select! {
                change = changes.recv() => match change {
                    Some(change) => effect = effect.max(self.objects.take(change)),
                    None => return "the watches ended",
                },
                _ = looks.tick() => look = true,
            }
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end
                && let Ok(Some(change)) = timeout(QUIET, changes.recv()).await
            {
                effect = effect.max(self.objects.take(change));
            }
            let missing = self.objects.missing();
            if !missing.is_empty() {
                let error = Some(format!("not listed yet: {}", missing.join(", ")));
                self.report.send_replace(Arc::new(Report { error, ..Report::default() }));
                continue;
            }
            if self.must_build(effect) {
                let newest = match newest(&client).await {
                    // Nothing is in force yet: a first revision that counts from nothing would be behind every sidecar's.
                    None if self.memory.revision == 0 => {
                        owed = effect;
                        continue;
                    }
                    newest => newest.unwrap_or(0),
                };
                let built = tokio::task::spawn_blocking(move || {
                    self.build(newest);
                    self
                });
                match built.await {
                    Ok(index) => self = index,
                    Err(error) => {
                        tracing::error!(%error, "building the index failed");
                        return "the index";
                    }
                }
            }
            if look {
                if let Some(newest) = asked.take() {
                    hub.confirm(newest);
                }
                if hub.is_behind(Instant::now()) {
                    asked = newest(&client).await;
                    // The watches have all of that time, however long the answer took.
                    looks.reset();
                }
            }
        }
    }

    /// Whether the index must be built after such news. A status that was written is read at once: with a thousand rules one is
    /// written twenty times a second, and none of it changes what is in force, unless it tells of a Service that went before
    /// this operator came.
    pub fn must_build(&mut self, effect: Effect) -> bool {
        match effect {
            Effect::Nothing => false,
            Effect::Index => true,
            Effect::Service if self.objects.remember(&mut self.memory) => true,
            Effect::Status | Effect::Service => {
                self.kept.send_modify(|view| Arc::make_mut(view).read_statuses(&self.objects));
                false
            }
        }
    }

    /// Builds, publishes and remembers.
    pub fn build(&mut self, newest: u64) {
        self.objects.remember(&mut self.memory);
        let documents = self.objects.documents();
        let (snapshot, memory) = Snapshot::build(&self.settings, &documents, &self.memory, newest);
        self.memory = memory;
        let revision = snapshot.revision();
        let faults: Vec<String> = snapshot.faults().iter().map(ToString::to_string).collect();
        let error = (!faults.is_empty()).then(|| faults.join("; "));
        if let Some(error) = error.as_ref().filter(|error| self.report.borrow().error.as_ref() != Some(error)) {
            tracing::error!(revision, %error, "left out, and refused to everybody; the rest is in force");
        }
        let report = Report {
            good: error.is_none(),
            revision,
            last: Outcome::Applied,
            error,
            rules: snapshot.notes().to_vec(),
            ..Report::default()
        };
        let snapshot = Arc::new(snapshot);
        let view = super::status::View::new(&self.objects, &self.memory, snapshot.clone(), &self.control_namespace);
        // Before the snapshot: who has seen a rule in force finds what is to be said of it.
        self.kept.send_replace(Arc::new(view));
        self.snapshot.send_replace(Some(snapshot));
        self.report.send_replace(Arc::new(report));
        tracing::debug!(revision, "in force");
    }

    /// Takes news without a watch, for tests.
    pub fn take(&mut self, change: Change) -> Effect {
        self.objects.take(change)
    }
}

/// The newest resource version of the whole API server: any list that asks for no version gives it.
async fn newest(client: &Client) -> Option<u64> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let one = ListParams::default().limit(1);
    match timeout(ANSWER, namespaces.list_metadata(&one)).await {
        // One that is no number says nothing, and will not.
        Ok(Ok(list)) => Some(list.metadata.resource_version.and_then(|version| version.parse().ok()).unwrap_or(0)),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the API server does not say its newest version");
            None
        }
        Err(_) => None,
    }
}

/// Everything that watches and builds, as one task.
pub fn spawn(
    index: Index,
    client: Client,
    sidecar_images: &[String],
    hub: Arc<Hub>,
    tasks: &mut tokio::task::JoinSet<&'static str>,
) {
    let changes = watch::start(&client, sidecar_images, tasks);
    tasks.spawn(index.run(client, changes, hub));
}

#[cfg(test)]
mod tests;
