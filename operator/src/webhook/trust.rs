//! The bundle for first contact: ConfigMap `signet-trust` in every enrolled namespace, from which a new pod's sidecar knows the
//! CA. The one in the control namespace is the CA's, and the only source; until it has been seen, the trust state that this
//! program follows is. Whatever else a copy holds, it is overwritten: its namespace's users may write there, too.
use super::{CallError, Limit, MANAGER, in_time, is_status, owner};
use crate::inject::{INJECT, Settings};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{Patch, PatchParams};
use kube::core::PartialObjectMeta;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use signet_enroll::rates::Rate;
use signet_identity::{Credentials, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NAME: &str = "signet-trust";
const KEY: &str = "bundle.pem";
/// For who looks at a copy; nothing is decided by it.
const SEQUENCE: &str = "signet.dev/trust-sequence";
/// How soon copies follow a new trust state.
const TURN: Duration = Duration::from_secs(1);
/// Copies that reviews make, of namespaces that have the label.
const ENROLLED: [Rate; 2] = [Rate { per_second: 20, burst: 100 }, Rate { per_second: 1, burst: 5 }];
/// And of others. That a pod there opted in is the review's word alone, and anybody can send one. Once a namespace has its copy,
/// nothing more is written for it.
const OTHERS: [Rate; 2] = [Rate { per_second: 1, burst: 20 }, Rate { per_second: 1, burst: 2 }];

/// What is known of namespaces and copies.
#[derive(Debug, Default)]
struct Known {
    /// The bundle in each namespace but the control namespace.
    copies: BTreeMap<String, String>,
    /// The one in the control namespace.
    source: Option<String>,
    /// Namespaces with the label.
    enrolled: BTreeSet<String>,
}

/// Writes the copies.
pub(super) struct Copies {
    client: Client,
    credentials: Arc<Credentials>,
    trust_domain: TrustDomain,
    control_namespace: String,
    owner: tokio::sync::OnceCell<OwnerReference>,
    known: Mutex<Known>,
    /// Held while a review makes a copy.
    writing: tokio::sync::Mutex<()>,
    enrolled: Limit,
    others: Limit,
}

impl Copies {
    pub(super) fn new(client: Client, credentials: Arc<Credentials>, settings: &Settings) -> Self {
        Self {
            client,
            credentials,
            trust_domain: settings.trust_domain.clone(),
            control_namespace: settings.control_namespace.clone(),
            owner: tokio::sync::OnceCell::new(),
            known: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            enrolled: Limit::new(ENROLLED[0], ENROLLED[1]),
            others: Limit::new(OTHERS[0], OTHERS[1]),
        }
    }

    /// Returns when this namespace, which is there, has a current copy. `enrolled`: it has the label.
    pub(super) async fn ensure(&self, namespace: &str, enrolled: bool) -> Result<(), CallError> {
        let wanted = self.wanted();
        let is_there = || namespace == self.control_namespace || self.known().copies.get(namespace) == Some(&wanted);
        if is_there() {
            return Ok(());
        }
        if wanted.is_empty() {
            return Err(CallError::NoBundle);
        }
        // Many pods of a new namespace come at once: one writes, and the others find it written.
        let _writing = self.writing.lock().await;
        if is_there() {
            return Ok(());
        }
        let limit = if enrolled { &self.enrolled } else { &self.others };
        if !limit.allows(namespace) {
            return Err(CallError::TooOften);
        }
        self.write(namespace, wanted).await
    }

    async fn write(&self, namespace: &str, wanted: String) -> Result<(), CallError> {
        let owner = self.owner.get_or_try_init(|| in_time(owner(&self.client, &self.control_namespace))).await?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "labels": {"app.kubernetes.io/part-of": "signet", "app.kubernetes.io/managed-by": MANAGER},
                "annotations": {SEQUENCE: self.credentials.trust().state().sequence.to_string()},
                // Gone with our namespace.
                "ownerReferences": [owner],
            },
            "data": {KEY: wanted},
        });
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), namespace);
        in_time(api.patch(NAME, &PatchParams::apply(MANAGER).force(), &Patch::Apply(object))).await?;
        self.known().copies.insert(namespace.to_owned(), wanted);
        Ok(())
    }

    /// Keeps every copy current, for ever: those of labelled namespaces, and those that were made for single pods.
    pub(super) async fn keep(&self) {
        // By name, so that this program may not read other ConfigMaps.
        let one = watcher::Config::default().fields(&format!("metadata.name={NAME}"));
        let mut copies = pin!(watcher(Api::<ConfigMap>::all(self.client.clone()), one).default_backoff());
        let labelled = watcher::Config::default().labels(&format!("{INJECT}=enabled"));
        let mut namespaces =
            pin!(watcher(Api::<PartialObjectMeta<Namespace>>::all(self.client.clone()), labelled).default_backoff());
        let mut turn = tokio::time::interval(TURN);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut listed = (false, false);
        loop {
            tokio::select! {
                Some(event) = copies.next() => match event {
                    Ok(event) => listed.0 |= self.note_copy(event),
                    Err(error) => tracing::warn!(%error, "watching the copies of the bundle broke; it begins anew"),
                },
                Some(event) = namespaces.next() => match event {
                    Ok(event) => {
                        let done = matches!(event, Event::InitDone);
                        listed.1 |= done;
                        let mut known = self.known();
                        match event {
                            Event::Init => known.enrolled.clear(),
                            Event::InitApply(namespace) | Event::Apply(namespace) => _ = known.enrolled.insert(namespace.name_any()),
                            Event::Delete(namespace) => _ = known.enrolled.remove(&namespace.name_any()),
                            Event::InitDone => {}
                        }
                    }
                    Err(error) => tracing::warn!(%error, "watching namespaces broke; it begins anew"),
                },
                _ = turn.tick(), if listed == (true, true) => self.write_all().await,
            }
        }
    }

    /// Whether the first list is complete.
    fn note_copy(&self, event: Event<ConfigMap>) -> bool {
        let mut known = self.known();
        match event {
            // The source is kept: what the CA last wrote is nearer to the truth than nothing.
            Event::Init => known.copies.clear(),
            Event::InitApply(copy) | Event::Apply(copy) => {
                let bundle = copy.data.as_ref().and_then(|data| data.get(KEY)).cloned().unwrap_or_default();
                let namespace = copy.namespace().unwrap_or_default();
                if namespace == self.control_namespace {
                    known.source = Some(bundle).filter(|bundle| !bundle.is_empty());
                } else {
                    known.copies.insert(namespace, bundle);
                }
            }
            Event::Delete(copy) => _ = known.copies.remove(&copy.namespace().unwrap_or_default()),
            Event::InitDone => return true,
        }
        false
    }

    async fn write_all(&self) {
        let wanted = self.wanted();
        if wanted.is_empty() {
            return;
        }
        let stale: Vec<String> = {
            let known = self.known();
            let names: BTreeSet<&String> = known.copies.keys().chain(&known.enrolled).collect();
            let stale = names
                .into_iter()
                .filter(|name| **name != self.control_namespace && known.copies.get(*name) != Some(&wanted));
            stale.cloned().collect()
        };
        for namespace in stale {
            match self.write(&namespace, wanted.clone()).await {
                Ok(()) => {
                    tracing::info!(namespace, "the bundle for first contact is written");
                }
                // A namespace that is being deleted takes nothing new, nor does a copy that a user has made immutable: who makes
                // a pod there is told.
                Err(CallError::Refused(error)) if [403, 404, 422].iter().any(|code| is_status(&error, *code)) => {
                    tracing::debug!(namespace, %error, "the bundle for first contact was refused");
                }
                Err(error) => {
                    tracing::warn!(namespace, %error, "the bundle for first contact could not be written; it is tried again");
                }
            }
        }
    }

    /// What every copy has to be: what the CA has published, or, until that has been seen, what it has told us.
    fn wanted(&self) -> String {
        if let Some(source) = self.known().source.clone() {
            return source;
        }
        let trust = self.credentials.trust();
        trust.state().bundles.get(&self.trust_domain).map(signet_identity::Bundle::to_pem).unwrap_or_default()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
