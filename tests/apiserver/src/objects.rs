//! The objects that most tests need, made as controllers and kubelets would make them. Every function panics when the API
//! server refuses: a test cannot go on.
#![allow(clippy::missing_panics_doc, reason = "said once, above")]
use crate::ApiServer;
use k8s_openapi::{
    api::{
        authentication::v1::TokenRequest,
        core::v1::{Namespace, Pod, ServiceAccount},
    },
    serde::de::DeserializeOwned,
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU32, Ordering};

/// What a pod is made of; everything has a default.
#[derive(Debug, Clone)]
pub struct PodOptions<'a> {
    /// Its service account; `default`.
    pub service_account: &'a str,
    /// The node that it runs on, `node-1`; absent for a pod that is not scheduled.
    pub node: Option<&'a str>,
    /// Its published addresses; none.
    pub addresses: &'a [&'a str],
    /// Merged into the object.
    pub more: Value,
}

impl Default for PodOptions<'_> {
    fn default() -> Self {
        Self { service_account: "default", node: Some("node-1"), addresses: &[], more: json!({}) }
    }
}

impl ApiServer {
    /// Makes a namespace whose name begins with `prefix` and that no other test has, with its default service account.
    pub async fn namespace(&self, prefix: &str) -> String {
        self.namespace_with(prefix, &json!({})).await
    }

    /// The same with these labels. With the object, not after it: admission must find them from the first pod on.
    pub async fn namespace_with(&self, prefix: &str, labels: &Value) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("{prefix}-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let client = self.client().await;
        let namespace: Namespace = object(json!({"metadata": {"name": name, "labels": labels}}));
        Api::all(client.clone()).create(&PostParams::default(), &namespace).await.expect("a namespace");
        make_service_account(&client, &name, "default").await;
        name
    }
}

/// Turns JSON into an object of this kind.
pub fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("an object of this kind")
}

/// Makes a service account; returns its UID.
pub async fn make_service_account(client: &Client, namespace: &str, name: &str) -> String {
    let account: ServiceAccount = object(json!({"metadata": {"name": name}}));
    let made = Api::namespaced(client.clone(), namespace).create(&PostParams::default(), &account).await;
    made.expect("a service account").uid().expect("a UID")
}

/// Makes a running pod; the answer holds its UID and its status.
pub async fn make_pod(client: &Client, namespace: &str, name: &str, options: &PodOptions<'_>) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {
            "serviceAccountName": options.service_account,
            "automountServiceAccountToken": false,
            "containers": [{"name": "app", "image": "app"}],
        },
    });
    if let Some(node) = options.node {
        pod["spec"]["nodeName"] = node.into();
    }
    merge(&mut pod, &options.more);
    pods.create(&PostParams::default(), &object(pod)).await.expect("a pod");
    set_addresses(client, namespace, name, options.addresses).await
}

/// Publishes a pod's addresses, as its kubelet does, with the phase `Running`.
pub async fn set_addresses(client: &Client, namespace: &str, name: &str, addresses: &[&str]) -> Pod {
    let mut status = json!({"phase": "Running"});
    if let Some(first) = addresses.first() {
        status["podIP"] = (*first).into();
        status["podIPs"] = addresses.iter().map(|ip| json!({"ip": ip})).collect();
    }
    set_status(client, namespace, name, status).await
}

/// Merges into a pod's status.
pub async fn set_status(client: &Client, namespace: &str, name: &str, status: Value) -> Pod {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({"status": status}));
    pods.patch_status(name, &PatchParams::default(), &patch).await.expect("the status is taken")
}

/// Begins a pod's end: it has a deletion timestamp from now on and stays, as long as its kubelet would need.
pub async fn terminate_pod(client: &Client, namespace: &str, name: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.delete(name, &DeleteParams::default()).await.expect("the deletion is taken");
}

/// Removes a pod at once.
pub async fn remove_pod(client: &Client, namespace: &str, name: &str) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    pods.delete(name, &DeleteParams::default().grace_period(0)).await.expect("the deletion is taken");
}

/// A token for a service account, bound to a pod as a projected one is.
pub async fn pod_token(client: &Client, pod: &Pod, audience: &str) -> String {
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone()).expect("a service account");
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": pod.name_any(), "uid": pod.uid()});
    let namespace = pod.namespace().expect("a namespace");
    token(
        client,
        &namespace,
        &account,
        json!({"audiences": [audience], "expirationSeconds": 600, "boundObjectRef": bound}),
    )
    .await
}

/// A token for a service account by this `spec` of a TokenRequest.
pub async fn token(client: &Client, namespace: &str, account: &str, spec: Value) -> String {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request: TokenRequest = object(json!({"metadata": {}, "spec": spec}));
    let made = accounts.create_token_request(account, &PostParams::default(), &request).await.expect("a token");
    made.status.expect("a status").token
}

/// JSON merge: objects are merged, everything else is replaced.
pub fn merge(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from.clone(),
    }
}
