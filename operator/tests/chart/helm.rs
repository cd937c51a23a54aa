//! Runs helm on the chart.
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A helm that is built beside the other programs of a cluster; nothing after saying so.
pub(crate) fn program() -> Option<PathBuf> {
    let helm = signet_apiserver::programs()?.join("helm");
    if helm.exists() {
        return Some(helm);
    }
    signet_apiserver::skipped(&format!("there is no {}", helm.display()));
    None
}

pub(crate) fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/signet")
}

pub(crate) fn run(helm: &Path, arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(helm).args(arguments).env("HOME", home.path()).output().unwrap()
}

/// `helm template` with these settings, as text.
pub(crate) fn template(helm: &Path, namespace: &str, set: &[&str]) -> Result<String, String> {
    let chart = chart();
    let mut arguments = vec!["template", "signet", chart.to_str().unwrap(), "--namespace", namespace];
    for setting in set {
        arguments.extend(["--set", setting]);
    }
    let output = run(helm, &arguments);
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The objects of a rendering.
pub(crate) fn objects(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(Value::is_object).collect()
}
