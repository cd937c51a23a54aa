//! One AdmissionReview: the question as JSON, the answer as JSON.
use super::events::{Happened, Told};
use super::trust::Copies;
use super::{CallError, in_time, is_status};
use crate::inject::{self, Outcome, Settings};
use base64::Engine as _;
use k8s_openapi::api::core::v1::Namespace;
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What a review takes.
pub(super) struct Reviewer {
    pub(super) client: Client,
    pub(super) settings: Arc<Settings>,
    pub(super) trust: Arc<Copies>,
    pub(super) events: Told,
}

/// What the API server is told.
enum Answer {
    /// As it is, with a warning for whoever made the pod.
    Allow(Option<&'static str>),
    /// Changed.
    Patch(Value),
    /// Not created; why, and the HTTP status.
    Deny(u16, String),
}

impl Reviewer {
    /// The answer to a review, or nothing when it is none.
    pub(super) async fn review(&self, body: &[u8]) -> Option<Value> {
        let review: Value = serde_json::from_slice(body).ok()?;
        let request = &review["request"];
        let uid = request["uid"].as_str()?;
        if review["apiVersion"] != "admission.k8s.io/v1" {
            return None;
        }
        let answer = self.answer(request).await;
        let mut response = json!({"uid": uid, "allowed": true});
        match answer {
            Answer::Allow(warning) => {
                if let Some(warning) = warning {
                    response["warnings"] = json!([format!("signet: {warning}")]);
                }
            }
            Answer::Patch(patch) => {
                response["patchType"] = json!("JSONPatch");
                response["patch"] = json!(base64::engine::general_purpose::STANDARD.encode(patch.to_string()));
            }
            Answer::Deny(code, message) => {
                response["allowed"] = json!(false);
                response["status"] = json!({"code": code, "message": format!("signet: {message}")});
            }
        }
        Some(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}))
    }

    async fn answer(&self, request: &Value) -> Answer {
        // Whatever else somebody configured this webhook for is none of its business.
        if request["operation"] != "CREATE"
            || request["resource"]["resource"] != "pods"
            || !request["subResource"].is_null()
        {
            return Answer::Allow(None);
        }
        let (Some(namespace), pod) = (request["namespace"].as_str(), &request["object"]) else {
            return Answer::Deny(400, "a pod without a namespace".to_owned());
        };
        let labels = match self.labels(namespace).await {
            Ok(labels) => labels,
            Err(error) => return self.not_now(namespace, &error),
        };
        // A panic of ours must not let a pod through, nor end the program (F18).
        let decided = catch_unwind(AssertUnwindSafe(|| inject::inject(pod, namespace, &labels, &self.settings)));
        let Ok(outcome) = decided else {
            tracing::error!(namespace, "injection panicked; the pod is refused");
            return Answer::Deny(500, "injection failed on this pod; please report it".to_owned());
        };
        let dry_run = request["dryRun"].as_bool().unwrap_or(false);
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
                tell(Happened::Refused(message.clone()));
                Answer::Deny(422, message)
            }
            Outcome::Injected(new) => {
                // The volume of the sidecar mounts it: without it the pod would wait for nobody knows what.
                if !dry_run && let Err(error) = self.trust.ensure(namespace).await {
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
