//! What injection does to a pod; pods as the API server hands them over.
use super::*;
use serde_json::json;
use signet_enroll::settings::File;
use std::path::Path;

mod decisions;
mod probing;
mod refusals;
mod results;

fn settings() -> Settings {
    settings_from("image = \"registry:5000/signet/signet-sidecar:0.1.0\"")
}

fn settings_from(text: &str) -> Settings {
    let mut file = File::parse(Path::new("operator.toml"), &format!("[inject]\n{text}\n")).unwrap();
    let read = Settings::read(&mut file.root().table("inject"), &"example.org".parse().unwrap(), "signet-system");
    file.finish(|| read).unwrap()
}

/// A pod as a Deployment makes it.
fn pod() -> Value {
    json!({
        "metadata": {"generateName": "orders-6d4-", "namespace": "shop", "labels": {"app": "orders"}},
        "spec": {
            "serviceAccountName": "orders",
            "containers": [{"name": "app", "image": "orders:1", "ports": [{"name": "http", "containerPort": 8080}]}],
            "volumes": [{"name": "data", "emptyDir": {}}],
        },
    })
}

fn annotated(annotations: &Value) -> Value {
    let mut pod = pod();
    pod["metadata"]["annotations"] = annotations.clone();
    pod
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// In a namespace that opted in.
fn outcome(pod: &Value) -> Outcome {
    inject(pod, "shop", &labels(&[(INJECT, "enabled")]), &settings(), &ProbeKey::random())
}

fn must_inject(pod: &Value) -> Value {
    match outcome(pod) {
        Outcome::Injected(pod) => *pod,
        other => panic!("must be injected: {other:?}"),
    }
}

fn must_refuse(pod: &Value) -> String {
    match outcome(pod) {
        Outcome::Refused(refusal) => refusal.to_string(),
        other => panic!("must be refused: {other:?}"),
    }
}

fn names(list: &Value) -> Vec<&str> {
    pod::list(list).iter().map(|element| pod::text(&element["name"])).collect()
}
