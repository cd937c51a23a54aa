//! Keeps the webhook's certificate, the `caBundle` that lets the API server believe it, the secret path by which the webhook
//! believes the API server, and the owner of what could block pods.
//!
//! The CA lies in the Secret `signet-webhook-ca`: whichever replica is first makes it, all others take it (create-only, then
//! compare-and-swap). A new CA is in `caBundle` beside the old one for a whole turn before any replica serves with it. The path
//! lies in the same Secret and never changes as long as that is there: each replica answers it before it is ready, and what
//! Helm does to the webhooks leaves it alone, since the chart renders none.
use super::authority::{self, Authority, Leaf};
use super::path::{Answered, Path};
use super::{CallError, SERVICE, in_time, is_status, owner};
use crate::inject::Settings;
use hyper::Uri;
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, WebhookClientConfig,
};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

const SECRET: &str = "signet-webhook-ca";
const CONFIGURATION: &str = "signet-injector";
const POLICIES: [&str; 3] = ["signet-guard", "signet-labels", "signet-allowrules"];
/// Between two looks: how soon a replica follows another, and `caBundle` is back after somebody emptied it.
const TURN: Duration = Duration::from_secs(10);
/// Between two tries that failed.
const RETRY: Duration = Duration::from_secs(1);

/// The certificate that is served, swapped live.
pub(super) struct Resolver(Mutex<Option<Arc<CertifiedKey>>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver(..)")
    }
}

/// Why a turn ended early; the next one begins anew.
#[derive(Debug, thiserror::Error)]
enum TurnError {
    #[error("{what}: {error}")]
    Call { what: &'static str, error: CallError },
    #[error("the webhook's CA: {0}")]
    Authority(#[from] authority::AuthorityError),
    #[error("no random numbers for the webhook's path")]
    Random,
    #[error("another replica wrote {SECRET} at the same time")]
    Raced,
}

/// Looks after all of it, in turns.
pub(super) struct Keeper {
    client: Client,
    namespace: String,
    names: Vec<String>,
    resolver: Arc<Resolver>,
    answered: Answered,
    leaf: Option<Leaf>,
    /// The CA that stood in `caBundle` at the end of the last turn.
    stood: Option<String>,
    ready: watch::Sender<bool>,
    owner: Option<OwnerReference>,
    owned: bool,
}

/// What the Secret holds.
struct Kept {
    authority: Authority,
    previous: Option<String>,
    path: Path,
}

impl Kept {
    /// Both certificates as long as there are two: what the API server is to trust.
    fn bundle(&self) -> String {
        format!("{}{}", self.authority.certificate_pem, self.previous.as_deref().unwrap_or_default())
    }
}

impl Keeper {
    pub(super) fn new(client: Client, settings: &Settings) -> (Self, Arc<Resolver>, Answered, watch::Receiver<bool>) {
        let resolver = Arc::new(Resolver(Mutex::default()));
        let answered = Answered::default();
        let namespace = &settings.control_namespace;
        let mut names = vec![format!("{SERVICE}.{namespace}.svc")];
        names.extend(settings.names.iter().cloned());
        let (ready, is_ready) = watch::channel(false);
        let keeper = Self {
            client,
            names,
            namespace: namespace.clone(),
            resolver: resolver.clone(),
            answered: answered.clone(),
            leaf: None,
            stood: None,
            ready,
            owner: None,
            owned: false,
        };
        (keeper, resolver, answered, is_ready)
    }

    /// For ever.
    pub(super) async fn keep(mut self) {
        loop {
            let pause = match self.turn(now()).await {
                Ok(()) => TURN,
                Err(TurnError::Raced) => RETRY,
                Err(error) => {
                    tracing::warn!(%error, "the webhook's certificate could not be looked after; it is tried again");
                    RETRY
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn turn(&mut self, now: u64) -> Result<(), TurnError> {
        let kept = self.kept(now).await?;
        self.answered.set(&kept.path);
        // Another replica may have written it a moment ago, and an API server hear of it a moment later.
        let certificate = &kept.authority.certificate_pem;
        let trusted = self.tell(&kept).await? && self.stood.as_ref() == Some(certificate);
        self.stood = Some(certificate.clone());
        let current = self
            .leaf
            .as_ref()
            .is_some_and(|leaf| now < leaf.renew_at && (leaf.issuer_pem == kept.authority.certificate_pem || !trusted));
        if !current {
            let leaf = kept.authority.issue(&self.names, now)?;
            *self.resolver.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(leaf.certified.clone());
            self.leaf = Some(leaf);
            tracing::info!(names = ?self.names, "the webhook has a new certificate");
        }
        self.ready.send_replace(true);
        if !self.owned {
            self.own().await?;
            self.owned = true;
        }
        Ok(())
    }

    /// The Secret's content: read, made, or replaced when its time has come.
    async fn kept(&self, now: u64) -> Result<Kept, TurnError> {
        let api = Api::<Secret>::namespaced(self.client.clone(), &self.namespace);
        let found = in_time(api.get_opt(SECRET)).await.map_err(|error| call("reading the Secret", error))?;
        let Some(secret) = found else {
            let kept = Kept { authority: Authority::make(now)?, previous: None, path: new_path()? };
            let made = in_time(api.create(&PostParams::default(), &secret_of(&kept, None))).await;
            return written(made, kept);
        };
        let text = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok()).unwrap_or_default()
        };
        let previous = Some(text("previous.crt"))
            .filter(|pem| authority::validity(pem).is_ok_and(|(_, not_after)| now < not_after));
        let held = Path::read(&text("path"));
        let is_held = held.is_some();
        let path = held.map_or_else(new_path, Ok)?;
        let kept = match Authority::read(&text("ca.crt"), &text("ca.key")) {
            Ok(authority) if !authority.is_due(now) && is_held => return Ok(Kept { authority, previous, path }),
            Ok(authority) if !authority.is_due(now) => {
                tracing::info!("the Secret {SECRET} holds no path of the webhook: it is made");
                Kept { authority, previous, path }
            }
            Ok(old) => {
                tracing::info!("two thirds of the life of the webhook's CA are over: the next one begins");
                Kept { authority: Authority::make(now)?, previous: Some(old.certificate_pem), path }
            }
            Err(error) => {
                tracing::error!(%error, "the Secret {SECRET} holds no CA of the webhook: it is made anew");
                Kept { authority: Authority::make(now)?, previous: None, path }
            }
        };
        let replaced = in_time(api.replace(SECRET, &PostParams::default(), &secret_of(&kept, Some(&secret)))).await;
        written(replaced, kept)
    }

    /// Writes `caBundle` and path where they differ; whether this CA stood in all of them before.
    async fn tell(&self, kept: &Kept) -> Result<bool, TurnError> {
        let api = Api::<MutatingWebhookConfiguration>::all(self.client.clone());
        let found = in_time(api.get_opt(CONFIGURATION)).await.map_err(|error| call("reading the webhooks", error))?;
        let webhooks = found.and_then(|configuration| configuration.webhooks).unwrap_or_default();
        if webhooks.is_empty() {
            tracing::warn!("there is no MutatingWebhookConfiguration {CONFIGURATION}: nothing is injected");
            return Ok(true);
        }
        let bundle = ByteString(kept.bundle().into_bytes());
        let certificate = kept.authority.certificate_pem.as_bytes();
        let trusted = webhooks.iter().all(|webhook| {
            let held = webhook.client_config.ca_bundle.iter();
            held.flat_map(|held| held.0.windows(certificate.len())).any(|part| part == certificate)
        });
        let wanted: Vec<_> = webhooks.iter().map(|webhook| told(&webhook.client_config, &bundle, &kept.path)).collect();
        if webhooks.iter().zip(&wanted).any(|(webhook, wanted)| webhook.client_config != *wanted) {
            let changes = webhooks.iter().zip(&wanted).map(|(webhook, wanted)| {
                // What the chart renders stays the chart's: only what is ours is named.
                let path = wanted.service.as_ref().map(|service| json!({"path": service.path}));
                let mut config = json!({"caBundle": bundle, "service": path, "url": wanted.url});
                config.as_object_mut().into_iter().for_each(|config| config.retain(|_, value| !value.is_null()));
                json!({"name": webhook.name, "clientConfig": config})
            });
            let patch = Patch::Strategic(json!({"webhooks": changes.collect::<Vec<_>>()}));
            let patched = in_time(api.patch(CONFIGURATION, &PatchParams::default(), &patch)).await;
            patched.map_err(|error| call("writing caBundle and path", error))?;
            tracing::info!("caBundle and path of the webhooks are written");
        }
        Ok(trusted)
    }

    /// Our Namespace becomes the owner of whatever could block a pod: `kubectl delete namespace` takes them along.
    async fn own(&mut self) -> Result<(), TurnError> {
        let owner = match &self.owner {
            Some(owner) => owner.clone(),
            None => in_time(owner(&self.client, &self.namespace))
                .await
                .map_err(|error| call("reading our namespace", error))?,
        };
        self.owner = Some(owner.clone());
        let client = || self.client.clone();
        own(&Api::<MutatingWebhookConfiguration>::all(client()), CONFIGURATION, &owner).await?;
        for policy in POLICIES {
            own(&Api::<ValidatingAdmissionPolicy>::all(client()), policy, &owner).await?;
            own(&Api::<ValidatingAdmissionPolicyBinding>::all(client()), policy, &owner).await?;
        }
        Ok(())
    }
}

/// The same Service, or the same host of a URL, at this path and with this `caBundle`.
fn told(config: &WebhookClientConfig, bundle: &ByteString, path: &Path) -> WebhookClientConfig {
    let mut config = WebhookClientConfig { ca_bundle: Some(bundle.clone()), ..config.clone() };
    if let Some(service) = &mut config.service {
        service.path = Some(path.as_str().to_owned());
    }
    let host = |url: &String| Some(url.parse::<Uri>().ok()?.authority()?.to_string());
    if let Some(host) = config.url.as_ref().and_then(host) {
        config.url = Some(format!("https://{host}{}", path.as_str()));
    }
    config
}

fn new_path() -> Result<Path, TurnError> {
    Path::random().map_err(|_| TurnError::Random)
}

async fn own<K>(api: &Api<K>, name: &str, owner: &OwnerReference) -> Result<(), TurnError>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug,
{
    let found = in_time(api.get_opt(name)).await.map_err(|error| call("reading what we own", error))?;
    // What was not installed needs no owner.
    if found.is_none_or(|object| object.owner_references().iter().any(|reference| reference.uid == owner.uid)) {
        return Ok(());
    }
    let patch = Patch::Strategic(json!({"metadata": {"ownerReferences": [owner]}}));
    in_time(api.patch(name, &PatchParams::default(), &patch)).await.map_err(|error| call("writing an owner", error))?;
    Ok(())
}

fn secret_of(kept: &Kept, before: Option<&Secret>) -> Secret {
    let mut data = BTreeMap::from([
        ("ca.crt".to_owned(), ByteString(kept.authority.certificate_pem.clone().into_bytes())),
        ("ca.key".to_owned(), ByteString(kept.authority.key_pem.clone().into_bytes())),
        ("path".to_owned(), ByteString(kept.path.as_str().as_bytes().to_vec())),
    ]);
    if let Some(previous) = &kept.previous {
        data.insert("previous.crt".to_owned(), ByteString(previous.clone().into_bytes()));
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(SECRET.to_owned()),
            // With it the write is a compare-and-swap.
            resource_version: before.and_then(|secret| secret.metadata.resource_version.clone()),
            labels: Some([("app.kubernetes.io/part-of".to_owned(), "signet".to_owned())].into()),
            ..ObjectMeta::default()
        },
        data: Some(data),
        ..Secret::default()
    }
}

/// Who loses the race reads what the winner wrote.
fn written(result: Result<Secret, CallError>, kept: Kept) -> Result<Kept, TurnError> {
    match result {
        Ok(_) => Ok(kept),
        Err(CallError::Refused(error)) if is_status(&error, 409) => Err(TurnError::Raced),
        Err(error) => Err(call("writing the Secret", error)),
    }
}

fn call(what: &'static str, error: CallError) -> TurnError {
    TurnError::Call { what, error }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
