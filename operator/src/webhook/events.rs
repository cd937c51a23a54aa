//! What happened, as Events on the pod, where `kubectl describe pod` shows them: `Injected`, `InjectionSkipped` with its cause,
//! and `InjectionRefused` on whoever made the pod, since a refused pod is not there.
//!
//! A pod has neither UID nor, often, a name while it is reviewed. So what happened waits a moment; then the pods with its labels
//! are looked up, once for all of a Deployment. Whoever sends a review that the API server never made learns nothing and writes
//! nothing: an Event is about a pod as it is in the cluster, or about an owner that is there with that UID, and Events and
//! look-ups are few, in all and for each namespace.
use super::{Limit, in_time};
use crate::inject::{INJECT, INJECTED, SIDECAR};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::Value;
use signet_enroll::rates::Rate;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::sync::mpsc;

/// Those that wait; what comes beyond is not told.
const WAITING: usize = 1024;
const TURN: Duration = Duration::from_secs(1);
/// How often pods are looked for: they may be stored a little later.
const LOOKS: u8 = 3;
/// How long a pod that no longer waits for its containers is told of all the same.
const NEW: SignedDuration = SignedDuration::from_secs(60);
/// Groups of pods that are looked for in one turn, and in several.
const GROUPS: usize = 32;
/// Bytes of a selector, and so of the labels by which pods are found.
const SELECTOR: usize = 1024;
/// Pods that were told about already; forgotten all at once when there are more.
const REMEMBERED: usize = 16 * 1024;
/// Events in all, and in one namespace. A Deployment that starts with 100 pods has each of them told.
const RATE: Rate = Rate { per_second: 10, burst: 200 };
const RATE_OF_NAMESPACE: Rate = Rate { per_second: 5, burst: 100 };
/// Owners that are looked up because a review names them, in all and in one namespace.
const OWNERS: Rate = Rate { per_second: 5, burst: 20 };
const OWNERS_OF_NAMESPACE: Rate = Rate { per_second: 1, burst: 5 };

/// Who makes pods of its own; the operator may read these. Others tell their users themselves why they make none.
const OWNER_KINDS: [(&str, &str); 5] = [
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("batch/v1", "Job"),
    ("v1", "ReplicationController"),
];

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    Injected,
    Skipped(&'static str),
    /// Why; `enrolled`: in a namespace that opted in.
    Refused {
        enrolled: bool,
        message: String,
    },
}

/// One of the two ends: whoever reviews tells it.
#[derive(Debug, Clone)]
pub(super) struct Told(mpsc::Sender<News>);

#[derive(Debug)]
enum News {
    Pods(Group),
    Owner(Box<Owner>),
}

/// Who made a pod that was refused, as the review has it.
#[derive(Debug)]
struct Owner {
    reference: ObjectReference,
    enrolled: bool,
    message: String,
}

/// Pods of one namespace that look alike.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Group {
    namespace: String,
    selector: String,
}

impl Told {
    /// Notes what happened; never waits.
    pub(super) fn tell(&self, namespace: &str, pod: &Value, happened: Happened) {
        let news = match happened {
            Happened::Refused { enrolled, message } => match owner(namespace, pod) {
                Some(reference) => News::Owner(Box::new(Owner { reference, enrolled, message })),
                // Whoever made it by hand is told by the answer.
                None => return,
            },
            Happened::Injected | Happened::Skipped(_) => match selector(pod) {
                Some(selector) => News::Pods(Group { namespace: namespace.to_owned(), selector }),
                None => return tracing::debug!(namespace, "more labels than Events are worth"),
            },
        };
        if self.0.try_send(news).is_err() {
            tracing::debug!(namespace, "too much happens at once: no Event for this pod");
        }
    }
}

/// What finds the pod again; nothing when it is too long, or when these are no labels.
fn selector(pod: &Value) -> Option<String> {
    let part = |text: &str| {
        text.len() <= 317 && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte))
    };
    let mut selector = String::new();
    for (key, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        let comma = if selector.is_empty() { "" } else { "," };
        if !part(key) || !part(value) || selector.len() + key.len() + value.len() + 2 > SELECTOR {
            return None;
        }
        // Writing to a String cannot fail.
        _ = write!(selector, "{comma}{key}={value}");
    }
    Some(selector)
}

fn owner(namespace: &str, pod: &Value) -> Option<ObjectReference> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |key: &str| owner[key].as_str().filter(|text| text.len() <= 253).map(ToOwned::to_owned);
    Some(ObjectReference {
        api_version: text("apiVersion"),
        kind: text("kind"),
        name: text("name"),
        uid: text("uid"),
        namespace: Some(namespace.to_owned()),
        ..ObjectReference::default()
    })
}

/// The other end: writes Events.
pub(super) struct Writer {
    client: Client,
    recorder: Recorder,
    news: mpsc::Receiver<News>,
    told: HashSet<String>,
    events: Limit,
    owners: Limit,
}

pub(super) fn channel(client: Client) -> (Told, Writer) {
    let (tell, news) = mpsc::channel(WAITING);
    let reporter =
        Reporter { controller: "signet-operator".to_owned(), instance: std::env::var("SIGNET_POD_NAME").ok() };
    let recorder = Recorder::new(client.clone(), reporter);
    let events = Limit::new(RATE, RATE_OF_NAMESPACE);
    let owners = Limit::new(OWNERS, OWNERS_OF_NAMESPACE);
    (Told(tell), Writer { client, recorder, news, told: HashSet::new(), events, owners })
}

impl Writer {
    /// For ever.
    pub(super) async fn run(mut self) {
        let mut waiting: BTreeMap<Group, u8> = BTreeMap::new();
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(news) = self.news.recv() => match news {
                    News::Pods(group) if waiting.len() < GROUPS || waiting.contains_key(&group) => {
                        _ = waiting.insert(group, LOOKS);
                    }
                    News::Pods(_) => tracing::debug!("too much happens at once: no Event for these pods"),
                    News::Owner(owner) => self.refused(&owner).await,
                },
                _ = turn.tick(), if !waiting.is_empty() => {
                    for group in waiting.keys() {
                        self.look(group).await;
                    }
                    waiting.retain(|_, looks| {
                        *looks -= 1;
                        *looks > 0
                    });
                }
            }
        }
    }

    async fn look(&mut self, group: &Group) {
        let api = Api::<Pod>::namespaced(self.client.clone(), &group.namespace);
        // What the API server has at hand is new enough; 500 are more than one ReplicaSet starts at once.
        let which = ListParams::default().labels(&group.selector).limit(500);
        let pods = match in_time(api.list(&which)).await {
            Ok(pods) => pods,
            Err(error) => {
                return tracing::debug!(%error, namespace = group.namespace, "pods for Events could not be listed");
            }
        };
        let now = Timestamp::now();
        for pod in pods {
            let Some((reason, message)) = happened(&pod, now) else { continue };
            let Some(uid) = pod.uid().filter(|uid| !self.told.contains(uid)) else { continue };
            if !self.events.allows(&group.namespace) {
                return tracing::debug!(namespace = group.namespace, "too many Events at once; some are not written");
            }
            if self.told.len() >= REMEMBERED {
                self.told.clear();
            }
            self.told.insert(uid);
            write(&self.recorder, reason, &message, &pod.object_ref(&())).await;
        }
    }

    /// Tells the owner of a refused pod, if it is there, is the one that was named, and makes pods that opted in.
    async fn refused(&self, owner: &Owner) {
        let namespace = owner.reference.namespace.as_deref().unwrap_or_default();
        if !self.owners.allows(namespace) {
            return tracing::debug!(namespace, "too many refused pods at once; some owners are not told");
        }
        match self.is_there(namespace, owner).await {
            Some(true) if self.events.allows(namespace) => {
                write(&self.recorder, "InjectionRefused", &owner.message, &owner.reference).await;
            }
            _ => tracing::debug!(namespace, "no Event for an owner that is not there, or not known"),
        }
    }

    async fn is_there(&self, namespace: &str, owner: &Owner) -> Option<bool> {
        let ObjectReference { api_version, kind, name, uid, .. } = &owner.reference;
        let (version, kind, name) = (api_version.as_deref()?, kind.as_deref()?, name.as_deref()?);
        let known = OWNER_KINDS.contains(&(version, kind));
        if !known || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte)) {
            return None;
        }
        let (group, version) = version.split_once('/').unwrap_or(("", version));
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
        let found = in_time(api.get(name)).await.ok()?;
        let opted_in = &found.data["spec"]["template"]["metadata"]["annotations"][INJECT];
        Some(found.uid() == *uid && (owner.enrolled || opted_in.is_string()))
    }
}

/// What there is to say about a pod that has just been made: seen in the pod itself, so that it is true.
fn happened(pod: &Pod, now: Timestamp) -> Option<(&'static str, String)> {
    let spec = pod.spec.as_ref()?;
    let pending = pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_none_or(|phase| phase == "Pending");
    // A pod on its node's network whose image is there runs before anybody looks. One that has long been running was told of
    // when it was made, maybe by another operator.
    let made = pod.creation_timestamp().map_or(Timestamp::MIN, |made| made.0);
    if !pending && now.duration_since(made) > NEW {
        return None;
    }
    let meshed = spec.init_containers.iter().flatten().any(|container| container.name == SIDECAR);
    if meshed {
        let version = pod.annotations().get(INJECTED).map_or("unknown", String::as_str);
        return Some(("Injected", format!("the sidecar {SIDECAR} was added, version {version}")));
    }
    let message = crate::inject::Skip::HostNetwork.message().filter(|_| spec.host_network == Some(true))?;
    Some(("InjectionSkipped", message.to_owned()))
}

async fn write(recorder: &Recorder, reason: &str, message: &str, regarding: &ObjectReference) {
    let refused = reason == "InjectionRefused";
    let event = Event {
        type_: if refused { EventType::Warning } else { EventType::Normal },
        reason: reason.to_owned(),
        // The API server takes 1,024 bytes.
        note: Some(crate::cluster::writer::note(message)),
        action: "Inject".to_owned(),
        secondary: None,
    };
    match tokio::time::timeout(Duration::from_secs(3), recorder.publish(&event, regarding)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, reason, "an Event could not be written"),
        Err(_) => tracing::debug!(reason, "an Event could not be written in time"),
    }
}

#[cfg(test)]
mod tests;
