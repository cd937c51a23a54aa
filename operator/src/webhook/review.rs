//! One AdmissionReview: the question as JSON, the answer as JSON.
//!
//! Anybody can send one (the API server shows no certificate), so nothing in it is believed beyond its answer: what is written
//! because of a review is written about what the API server itself says is there, and seldom (see `trust` and `events`).
use super::events::{Happened, Told};
use super::json;
use super::trust::Copies;
use super::{CallError, in_time, is_status};
use crate::inject::{self, INJECT, Outcome, ProbeKey, Settings};
use base64::Engine as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// The API server's are UUIDs.
const UID_BYTES: usize = 128;

/// What a review takes.
pub(super) struct Reviewer {
    pub(super) client: Client,
    pub(super) settings: Arc<Settings>,
    pub(super) trust: Arc<Copies>,
    pub(super) events: Told,
}

/// What the API server is told.
enum Answer {
    /// None of our business.
    Ignore,
    /// As it is, with a warning for whoever made the pod.
    Allow(Option<&'static str>),
    /// Changed.
    Patch(Value),
    /// Not created; why, and the HTTP status.
    Deny(u16, String),
}

impl Answer {
    /// For metrics.
    fn verdict(&self) -> &'static str {
        match self {
            Self::Ignore => "ignored",
            Self::Allow(_) => "skipped",
            Self::Patch(_) => "injected",
            Self::Deny(403 | 503, _) => "unavailable",
            Self::Deny(500, _) => "failed",
            Self::Deny(..) => "refused",
        }
    }
}

impl Reviewer {
    /// The answer to a review and a word for it, or nothing when it is none.
    pub(super) async fn review(&self, body: &[u8]) -> Option<(Value, &'static str)> {
        let json::Review { api_version, request } = serde_json::from_slice(body).ok()?;
        if api_version != "admission.k8s.io/v1" || request.uid.len() > UID_BYTES {
            return None;
        }
        let answer = self.answer(&request, body).await;
        let verdict = answer.verdict();
        let mut response = json!({"uid": request.uid, "allowed": true});
        match answer {
            Answer::Ignore | Answer::Allow(None) => {}
            Answer::Allow(Some(warning)) => response["warnings"] = json!([format!("signet: {warning}")]),
            Answer::Patch(patch) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(base64::engine::general_purpose::STANDARD.encode(patch.to_string()));
            }
            Answer::Deny(code, message) => {
                response["allowed"] = json!(false);
                response["status"] = json!({"code": code, "message": format!("signet: {message}")});
            }
        }
        Some((json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}), verdict))
    }

    async fn answer(&self, request: &json::Request, body: &[u8]) -> Answer {
        // Whatever else somebody configured this webhook for is none of its business.
        if request.operation != "CREATE" || request.resource.resource != "pods" || request.sub_resource.is_some() {
            return Answer::Ignore;
        }
        // It becomes part of paths: nothing but a name.
        let Some(namespace) = request.namespace.as_deref().filter(|name| is_label(name)) else {
            return Answer::Deny(400, "a pod without a namespace".to_owned());
        };
        let pod = &match json::object(body) {
            Ok(pod) => pod,
            Err(error) => return Answer::Deny(400, format!("the pod cannot be read: {error}")),
        };
        let labels = match self.labels(namespace).await {
            Ok(labels) => labels,
            Err(error) => return self.not_now(namespace, &error),
        };
        let enrolled = labels.get(INJECT).is_some_and(|word| word == "enabled");
        // A panic of ours must not let a pod through, nor end the program (F18).
        let fresh = ProbeKey::random();
        let decided =
            catch_unwind(AssertUnwindSafe(|| inject::inject(pod, namespace, &labels, &self.settings, &fresh)));
        let Ok(outcome) = decided else {
            tracing::error!(namespace, "injection panicked; the pod is refused");
            return Answer::Deny(500, "injection failed on this pod; please report it".to_owned());
        };
        let dry_run = request.dry_run.unwrap_or(false);
        let tell = |happened: Happened| {
            if !dry_run {
                self.events.tell(namespace, pod, happened);
            }
        };
        match outcome {
            Outcome::Skipped(skip) => {
                if let Some(message) = skip.message() {
                    tell(Happened::Skipped(message));
                }
                Answer::Allow(skip.message())
            }
            Outcome::Refused(refusal) => {
                let message = refusal.to_string();
                tracing::info!(namespace, message, "a pod is refused");
                tell(Happened::Refused { enrolled, message: message.clone() });
                Answer::Deny(422, message)
            }
            Outcome::Injected(new) => {
                // The volume of the sidecar mounts it: without it the pod would wait for nobody knows what.
                if !dry_run && let Err(error) = self.trust.ensure(namespace, enrolled).await {
                    return self.not_now(namespace, &error);
                }
                tell(Happened::Injected);
                Answer::Patch(json!(json_patch::diff(pod, &new)))
            }
        }
    }

    /// The namespace's labels at this moment: whoever has just labelled it expects that it counts.
    async fn labels(&self, namespace: &str) -> Result<BTreeMap<String, String>, CallError> {
        let found = in_time(Api::<Namespace>::all(self.client.clone()).get_metadata(namespace)).await?;
        Ok(found.metadata.labels.unwrap_or_default())
    }

    #[allow(clippy::unused_self, reason = "one of several answers of a reviewer")]
    fn not_now(&self, namespace: &str, error: &CallError) -> Answer {
        let gone = matches!(error, CallError::Refused(error) if is_status(error, 404) || is_status(error, 403));
        tracing::warn!(namespace, %error, "a pod cannot be injected now");
        Answer::Deny(
            if gone { 403 } else { 503 },
            format!("the pod cannot be injected now, and is to be created again: {error}"),
        )
    }
}

/// Whether this is a name as namespaces have: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end (RFC 1123).
fn is_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}
