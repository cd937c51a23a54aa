//! Keeps what is in force in step with the watches: collects changes until they pause for a moment, and builds the index anew.
//!
//! **Revisions** are the API server's own: a build takes the newest resource version that the server has given out after the
//! changes it contains, so that revisions agree between replicas and grow with every change, deletions too. A replica may be
//! a moment behind another, in one kind of objects and not in another, so that its revision alone does not say whose content is
//! the newer one. When a sidecar comes with other content than this replica's, the API server is asked what there is, and once
//! all of that has arrived here the sidecar's stream goes on from here; until then it keeps what it holds. Nothing is built
//! because of what a sidecar says.
use super::arrived::{self, Listing};
use super::translate::{Change, Effect, Objects};
use super::watch::{self, Told};
use crate::control::Hub;
use crate::index::{Memory, Settings, Snapshot};
use crate::state::{Outcome, Published, Report};
use kube::Client;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch as cell};
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep, timeout};

/// A build begins when nothing has changed for so long,
const QUIET: Duration = Duration::from_millis(50);
/// but no later than so long after the first change.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often it is looked whether a sidecar came with other content than this replica's, and tried again what the API server did
/// not answer.
const LOOK: Duration = Duration::from_secs(1);
/// When something has not arrived yet, the API server is asked again after a pause that doubles from that up to this.
const RARELY: Duration = Duration::from_secs(16);
/// A question is followed by a pause of so many times what its answer took, so that asking, which sidecars bring about, takes a
/// fifth of the time at most.
const REST: u32 = 4;

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
    pub async fn run(mut self, client: Client, mut changes: mpsc::Receiver<Told>, hub: Arc<Hub>) -> &'static str {
        // What there was to build when the API server did not say its newest version.
        let mut owed = Effect::Nothing;
        let mut question = Question::new(client.clone(), hub);
        loop {
            let mut effect = std::mem::replace(&mut owed, Effect::Nothing);
            let (owes, mut listing) = (effect != Effect::Nothing, None);
            tokio::select! {
                told = changes.recv() => match told {
                    Some((change, version)) => effect = effect.max(self.objects.take(change, version)),
                    None => return "the watches ended",
                },
                answer = question.answer() => listing = Some(answer),
                () = sleep(LOOK), if owes => {}
            }
            let end = Instant::now() + PATIENCE;
            while Instant::now() < end
                && let Ok(Some((change, version))) = timeout(QUIET, changes.recv()).await
            {
                effect = effect.max(self.objects.take(change, version));
            }
            let missing = self.objects.missing();
            if !missing.is_empty() {
                let error = Some(format!("not listed yet: {}", missing.join(", ")));
                self.report.send_replace(Arc::new(Report { error, ..Report::default() }));
                continue;
            }
            if self.must_build(effect) {
                let newest = match arrived::newest(&client).await {
                    // Nothing is in force yet: a first revision that counts from nothing would be behind every sidecar's.
                    None if self.memory.revision == 0 => {
                        let error = Some("the API server does not say its newest version".into());
                        self.report.send_replace(Arc::new(Report { error, ..Report::default() }));
                        owed = effect;
                        continue;
                    }
                    // Never less than what is in it.
                    newest => newest.unwrap_or(0).max(self.objects.newest()),
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
            // After the build: what has arrived is in force.
            if let Some(listing) = listing {
                question.settle(listing, &self.objects);
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
        self.objects.take(change, 0)
    }
}

/// Asks the API server what there is while sidecars wait to hear whether this replica's content is newer than theirs.
struct Question {
    client: Client,
    hub: Arc<Hub>,
    looks: Interval,
    /// What the API server is asked now: the number of the question, since when, and the answer.
    asked: Option<(u64, Instant, JoinHandle<Option<Listing>>)>,
    /// Nothing is asked before.
    rest: Instant,
    /// Somebody waits for an answer that could not be given yet: it is asked again then.
    again: Option<(Instant, Duration)>,
}

impl Question {
    fn new(client: Client, hub: Arc<Hub>) -> Self {
        hub.ask_first();
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { client, hub, looks, asked: None, rest: Instant::now(), again: None }
    }

    /// The answer to the next question, which is asked when somebody waits for it, and its number. May be dropped at any time.
    async fn answer(&mut self) -> (u64, Option<Listing>) {
        loop {
            if let Some((number, since, asked)) = &mut self.asked {
                // A task that panicked has said so, and found nothing.
                let answer = (*number, asked.await.ok().flatten());
                self.rest = Instant::now() + since.elapsed() * REST;
                self.asked = None;
                return answer;
            }
            self.looks.tick().await;
            let now = Instant::now();
            if now >= self.rest && (self.again.is_some_and(|(at, _)| at <= now) || self.hub.is_behind(now)) {
                let number = self.hub.next_question();
                self.asked = Some((number, now, tokio::spawn(arrived::list(self.client.clone()))));
            }
        }
    }

    /// Takes the answer once what has arrived is in force.
    fn settle(&mut self, (number, listing): (u64, Option<Listing>), objects: &Objects) {
        if let Some(listing) = listing.filter(|listing| objects.have(listing)) {
            self.hub.confirm(number, listing.newest);
            self.again = None;
        } else {
            let pause = self.again.map_or(LOOK, |(_, pause)| (pause * 2).min(RARELY));
            self.again = Some((Instant::now() + pause, pause));
        }
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
