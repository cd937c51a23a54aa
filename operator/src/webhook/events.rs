//! What happened, as Events on the pod, where `kubectl describe pod` shows them: `Injected`, `InjectionSkipped` with its cause,
//! and `InjectionRefused` on whoever made the pod, since a refused pod is not there.
//!
//! A pod has neither UID nor, often, a name while it is reviewed. So what happened waits a moment; then the pods with its labels
//! are looked up, once for all of a Deployment.
use super::in_time;
use crate::inject::{INJECTED, SIDECAR};
use k8s_openapi::api::core::v1::{ObjectReference, Pod};
use kube::api::ListParams;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Api, Client, Resource as _, ResourceExt as _};
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Duration;
use tokio::sync::mpsc;

/// Those that wait; what comes beyond is not told.
const WAITING: usize = 1024;
const TURN: Duration = Duration::from_secs(1);
/// How often pods are looked for: they may be stored a little later.
const LOOKS: u8 = 3;
/// Pods that were told about already; forgotten all at once when there are more.
const REMEMBERED: usize = 16 * 1024;

/// What happened to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Happened {
    Injected,
    Skipped(&'static str),
    Refused(String),
}

/// One of the two ends: whoever reviews tells it.
#[derive(Debug, Clone)]
pub(super) struct Told(mpsc::Sender<News>);

#[derive(Debug)]
enum News {
    Pods(Group),
    Owner(ObjectReference, String),
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
            Happened::Refused(message) => match owner(namespace, pod) {
                Some(owner) => News::Owner(owner, message),
                // Whoever made it by hand is told by the answer.
                None => return,
            },
            Happened::Injected | Happened::Skipped(_) => {
                let group = Group { namespace: namespace.to_owned(), selector: selector(pod) };
                News::Pods(group)
            }
        };
        if self.0.try_send(news).is_err() {
            tracing::debug!(namespace, "too much happens at once: no Event for this pod");
        }
    }
}

fn selector(pod: &Value) -> String {
    let mut selector = String::new();
    for (key, value) in pod["metadata"]["labels"].as_object().into_iter().flatten() {
        let comma = if selector.is_empty() { "" } else { "," };
        // Writing to a String cannot fail.
        _ = write!(selector, "{comma}{key}={}", value.as_str().unwrap_or_default());
    }
    selector
}

fn owner(namespace: &str, pod: &Value) -> Option<ObjectReference> {
    let owners = pod["metadata"]["ownerReferences"].as_array()?;
    let owner = owners.iter().find(|owner| owner["controller"] == true)?;
    let text = |key: &str| owner[key].as_str().map(ToOwned::to_owned);
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
}

pub(super) fn channel(client: Client) -> (Told, Writer) {
    let (tell, news) = mpsc::channel(WAITING);
    let reporter =
        Reporter { controller: "signet-operator".to_owned(), instance: std::env::var("SIGNET_POD_NAME").ok() };
    let recorder = Recorder::new(client.clone(), reporter);
    (Told(tell), Writer { client, recorder, news, told: HashSet::new() })
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
                    News::Pods(group) => _ = waiting.insert(group, LOOKS),
                    News::Owner(owner, message) => self.publish("InjectionRefused", &message, &owner).await,
                },
                _ = turn.tick(), if !waiting.is_empty() => {
                    for group in waiting.keys() {
                        Self::look(&self.client, &self.recorder, &mut self.told, group).await;
                    }
                    waiting.retain(|_, looks| {
                        *looks -= 1;
                        *looks > 0
                    });
                }
            }
        }
    }

    async fn look(client: &Client, recorder: &Recorder, told: &mut HashSet<String>, group: &Group) {
        let api = Api::<Pod>::namespaced(client.clone(), &group.namespace);
        // What the API server has at hand is new enough; 500 are more than one ReplicaSet starts at once.
        let which = ListParams::default().labels(&group.selector).limit(500);
        let pods = match in_time(api.list(&which)).await {
            Ok(pods) => pods,
            Err(error) => {
                return tracing::debug!(%error, namespace = group.namespace, "pods for Events could not be listed");
            }
        };
        for pod in pods {
            let Some((reason, message)) = happened(&pod) else { continue };
            let Some(uid) = pod.uid() else { continue };
            if told.len() >= REMEMBERED {
                told.clear();
            }
            if told.insert(uid) {
                write(recorder, reason, &message, &pod.object_ref(&())).await;
            }
        }
    }

    async fn publish(&self, reason: &str, message: &str, regarding: &ObjectReference) {
        write(&self.recorder, reason, message, regarding).await;
    }
}

/// What there is to say about a pod that has just been made: seen in the pod itself, so that it is true.
fn happened(pod: &Pod) -> Option<(&'static str, String)> {
    let spec = pod.spec.as_ref()?;
    // An operator that starts must not tell again of pods that run.
    if pod.status.as_ref().and_then(|status| status.phase.as_deref()).is_some_and(|phase| phase != "Pending") {
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
