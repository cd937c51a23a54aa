//! The bundle for first contact: ConfigMap `signet-trust` in every enrolled namespace, from which a new pod's sidecar knows the
//! CA. Kept current with the trust state that this program follows; the one in the control namespace is the CA's.
use super::{CallError, MANAGER, in_time, is_status, owner};
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
use signet_identity::{Credentials, TrustDomain};
use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const NAME: &str = "signet-trust";
const KEY: &str = "bundle.pem";
/// With it a replica that lags behind does not write an older bundle over a newer one.
const SEQUENCE: &str = "signet.dev/trust-sequence";
/// How soon copies follow a new trust state.
const TURN: Duration = Duration::from_secs(1);

/// A copy as it is in the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Copy {
    bundle: String,
    sequence: u64,
}

/// What is known of namespaces and copies.
#[derive(Debug, Default)]
struct Known {
    copies: BTreeMap<String, Copy>,
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
        }
    }

    /// Returns when this namespace has a current copy.
    pub(super) async fn ensure(&self, namespace: &str) -> Result<(), CallError> {
        let wanted = self.wanted();
        if namespace == self.control_namespace
            || self.known().copies.get(namespace).is_some_and(|copy| fits(copy, &wanted))
        {
            return Ok(());
        }
        self.write(namespace, wanted).await
    }

    async fn write(&self, namespace: &str, wanted: Copy) -> Result<(), CallError> {
        let owner = self.owner.get_or_try_init(|| in_time(owner(&self.client, &self.control_namespace))).await?;
        let object = json!({
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {
                "name": NAME,
                "labels": {"app.kubernetes.io/part-of": "signet", "app.kubernetes.io/managed-by": MANAGER},
                "annotations": {SEQUENCE: wanted.sequence.to_string()},
                // Gone with our namespace.
                "ownerReferences": [owner],
            },
            "data": {KEY: wanted.bundle},
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
            Event::Init => known.copies.clear(),
            Event::InitApply(copy) | Event::Apply(copy) => {
                let sequence = copy.annotations().get(SEQUENCE).and_then(|text| text.parse().ok()).unwrap_or(0);
                let bundle = copy.data.as_ref().and_then(|data| data.get(KEY)).cloned().unwrap_or_default();
                known.copies.insert(copy.namespace().unwrap_or_default(), Copy { bundle, sequence });
            }
            Event::Delete(copy) => _ = known.copies.remove(&copy.namespace().unwrap_or_default()),
            Event::InitDone => return true,
        }
        false
    }

    async fn write_all(&self) {
        let wanted = self.wanted();
        let stale: Vec<String> = {
            let known = self.known();
            let names: BTreeSet<&String> = known.copies.keys().chain(&known.enrolled).collect();
            let stale = names.into_iter().filter(|name| {
                **name != self.control_namespace && known.copies.get(*name).is_none_or(|copy| !fits(copy, &wanted))
            });
            stale.cloned().collect()
        };
        for namespace in stale {
            match self.write(&namespace, wanted.clone()).await {
                Ok(()) => {
                    tracing::info!(namespace, sequence = wanted.sequence, "the bundle for first contact is written");
                }
                // A namespace that is being deleted takes nothing new.
                Err(CallError::Refused(error)) if is_status(&error, 403) || is_status(&error, 404) => {
                    tracing::debug!(namespace, %error, "the bundle for first contact was refused");
                }
                Err(error) => {
                    tracing::warn!(namespace, %error, "the bundle for first contact could not be written; it is tried again");
                }
            }
        }
    }

    fn wanted(&self) -> Copy {
        let trust = self.credentials.trust();
        let state = trust.state();
        let bundle = state.bundles.get(&self.trust_domain).map(signet_identity::Bundle::to_pem).unwrap_or_default();
        Copy { bundle, sequence: state.sequence }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The same bundle, or a newer one than ours.
fn fits(copy: &Copy, wanted: &Copy) -> bool {
    copy.bundle == wanted.bundle || (copy.sequence > wanted.sequence && !copy.bundle.is_empty())
}
