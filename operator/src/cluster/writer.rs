//! Writes statuses, while this replica holds the lease: one for a rule in ten seconds, twenty a second in all, and whoever waits
//! longest comes first, by what is in force at that moment. Server-side apply
//! with a field manager of its own, so that nobody's fields are taken. With each status that says something new about whether the
//! rule could be read goes one Event: `RuleAccepted` or `RuleRejected`.
use super::lease::Known;
use super::reports::Reports;
use super::status::{Acknowledged, RuleView, View};
use crate::control::Hub;
use crate::crd::{self, RuleStatus};
use crate::documents::Key;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client};
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

/// Who writes, in `managedFields`.
const MANAGER: &str = "signet-operator-status";
/// Between two writes for one rule.
const PER_RULE: Duration = Duration::from_secs(10);
/// In all, a second: one is written in each of these.
const TICK: Duration = Duration::from_millis(50);
/// How often it is looked for rules whose status is not what it should be.
const LOOK: Duration = Duration::from_millis(500);
/// How many are written before it is looked again: no more than fit between two looks.
const SHARE: usize = 10;
/// How long the API server may take for one.
const ANSWER: Duration = Duration::from_secs(5);

/// Bytes of an Event's note.
const NOTE: usize = 1024;

/// When each rule (by name and UID) was written about last.
type Written = HashMap<(Key, String), Instant>;

/// The task that writes.
pub struct Writer {
    /// Speaks to the API server.
    pub client: Client,
    /// What is in force.
    pub views: watch::Receiver<Arc<View>>,
    /// Whether this replica may write.
    pub lease: watch::Receiver<Known>,
    /// What this replica's own sidecars have acknowledged.
    pub hub: Arc<Hub>,
    /// What the other replicas have said.
    pub reports: Arc<Reports>,
}

impl Writer {
    /// Runs for ever.
    pub async fn run(self) -> &'static str {
        let mut written = Written::new();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut term = None;
        let instance = self.lease.borrow().holder.clone();
        let reporter =
            Reporter { controller: "signet-operator".into(), instance: Some(instance).filter(|i| !i.is_empty()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        loop {
            look.tick().await;
            let known = self.lease.borrow().clone();
            if !known.is_ours() {
                term = None;
                continue;
            }
            let view = self.views.borrow().clone();
            if term != Some(known.term) {
                term = Some(known.term);
                self.reports.begin();
            }
            written.retain(|(key, uid), _| view.rules.get(key).is_some_and(|rule| rule.rule.uid == *uid));
            let now = Instant::now();
            let complete = self.reports.complete(&view, &known.holder, now);
            let mut all: Acknowledged = self.hub.acknowledged();
            self.reports.merge_into(&mut all, now);
            self.write(&view, &all, complete, &mut written, &recorder).await;
        }
    }

    async fn write(
        &self,
        view: &View,
        known: &Acknowledged,
        complete: bool,
        written: &mut Written,
        recorder: &Recorder,
    ) {
        let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default().to_string();
        for (key, rule, status) in due(view, known, complete, &now, written, Instant::now()).into_iter().take(SHARE) {
            if !self.lease.borrow().is_ours() {
                return;
            }
            let rules: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &key.namespace, &super::watch::resource());
            let patch = Patch::Apply(json!({
                "apiVersion": format!("{}/{}", crd::GROUP, crd::VERSION),
                "kind": signet_policy::model::KIND,
                // Of a rule that was made again under the same name, the old status says nothing: this one is refused then.
                "metadata": {"name": key.name, "namespace": key.namespace, "uid": rule.rule.uid},
                "status": status,
            }));
            let parameters = PatchParams::apply(MANAGER).force();
            match timeout(ANSWER, rules.patch_status(&key.name, &parameters, &patch)).await {
                Ok(Ok(_)) => {
                    if let Some(event) = event(&rule.rule.status, &status) {
                        tell(recorder, key, &rule.rule.uid, &event).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!(rule = %key, %error, "the status could not be written"),
                Err(_) => tracing::debug!(rule = %key, "the API server does not answer about a status"),
            }
            written.insert((key.clone(), rule.rule.uid.clone()), Instant::now());
            tokio::time::sleep(TICK).await;
        }
    }
}

/// The rules whose status should be written now, with that status: who was never written about first, then who waits longest. A
/// rule that always has news comes after all others.
fn due<'a>(
    view: &'a View,
    known: &Acknowledged,
    complete: bool,
    now: &str,
    written: &Written,
    at: Instant,
) -> Vec<(&'a Key, &'a RuleView, RuleStatus)> {
    let last = |key: &Key, rule: &RuleView| written.get(&(key.clone(), rule.rule.uid.clone())).copied();
    let rested = view.rules.iter().filter(|(key, rule)| last(key, rule).is_none_or(|last| last + PER_RULE <= at));
    let news = rested.filter_map(|(key, rule)| {
        let status = rule.status(key, known, complete, now);
        (status != rule.rule.status).then_some((key, rule, status))
    });
    let mut news: Vec<_> = news.collect();
    news.sort_by_key(|(key, rule, _)| last(key, rule));
    news
}

/// As much of a text as the API server takes in an Event's note: it counts bytes.
pub(crate) fn note(text: &str) -> String {
    text.get(..text.floor_char_boundary(NOTE)).unwrap_or_default().to_owned()
}

/// What is new about whether the rule could be read.
fn event(before: &RuleStatus, after: &RuleStatus) -> Option<Event> {
    let accepted = |status: &RuleStatus| status.conditions.iter().find(|c| c.kind == "Accepted").cloned();
    let now = accepted(after)?;
    let same = accepted(before).is_some_and(|held| held.status == now.status && held.reason == now.reason);
    if same && before.observed_generation == after.observed_generation {
        return None;
    }
    let good = now.status == "True";
    Some(Event {
        type_: if good { EventType::Normal } else { EventType::Warning },
        reason: if good { "RuleAccepted" } else { "RuleRejected" }.into(),
        note: Some(note(&now.message)),
        action: "Read".into(),
        secondary: None,
    })
}

async fn tell(recorder: &Recorder, rule: &Key, uid: &str, event: &Event) {
    let regarding = ObjectReference {
        api_version: Some(format!("{}/{}", crd::GROUP, crd::VERSION)),
        kind: Some(signet_policy::model::KIND.into()),
        namespace: Some(rule.namespace.clone()),
        name: Some(rule.name.clone()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    match timeout(ANSWER, recorder.publish(event, &regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%rule, %error, "an Event could not be written"),
        Err(_) => tracing::debug!(%rule, "an Event could not be written in time"),
    }
}

#[cfg(test)]
mod tests;
