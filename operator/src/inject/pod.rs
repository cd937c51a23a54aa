//! Reading and changing a pod that is JSON: fields that this program does not know must survive, so there is no typed Pod here.
//! What is absent or of another kind reads as empty; the API server has checked the pod against its schema before we see it.
use serde_json::{Value, json};

/// Whether this has a pod's shape, as far as it will be changed.
pub(super) fn well_formed(pod: &Value) -> bool {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let list =
        |name: &str| spec[name].is_null() || spec[name].as_array().is_some_and(|all| all.iter().all(Value::is_object));
    metadata.is_object()
        && spec.is_object()
        && spec["containers"].is_array()
        && ["containers", "initContainers", "ephemeralContainers", "volumes"].into_iter().all(list)
}

/// The elements of a list.
pub(super) fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// A field that is true.
pub(super) fn flag(value: &Value) -> bool {
    value.as_bool().unwrap_or(false)
}

/// A field of text, or nothing.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An annotation of the pod.
pub(super) fn annotation<'a>(pod: &'a Value, key: &str) -> Option<&'a str> {
    pod["metadata"]["annotations"].get(key).and_then(Value::as_str)
}

/// Every annotation of the pod.
pub(super) fn annotations(pod: &Value) -> impl Iterator<Item = (&str, &str)> {
    pod["metadata"]["annotations"].as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), text(value)))
}

/// Writes an annotation of a pod that is well formed.
pub(super) fn set_annotation(pod: &mut Value, key: &str, value: &str) {
    let annotations = &mut pod["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    annotations[key] = json!(value);
}

/// The pod's containers of every kind, with the name of the list each is in.
pub(super) fn all_containers(pod: &Value) -> impl Iterator<Item = (&'static str, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|kind| list(&pod["spec"][kind]).iter().map(move |container| (kind, container)))
}

/// Whether an init container stays for the life of the pod.
pub(super) fn is_native_sidecar(container: &Value) -> bool {
    container["restartPolicy"] == "Always"
}

/// Takes the elements of these names out of a list, and gives them.
pub(super) fn remove_named(value: &mut Value, names: &[&str]) -> Vec<Value> {
    let Some(elements) = value.as_array_mut() else { return Vec::new() };
    let (removed, kept) = std::mem::take(elements).into_iter().partition(|e: &Value| names.contains(&text(&e["name"])));
    *elements = kept;
    removed
}

/// Puts elements at the head of a list, which may not be there yet.
pub(super) fn prepend(value: &mut Value, head: impl IntoIterator<Item = Value>) {
    let tail = value.as_array_mut().map(std::mem::take).unwrap_or_default();
    *value = head.into_iter().chain(tail).collect();
}

/// Puts elements at the end of a list, which may not be there yet.
pub(super) fn append(value: &mut Value, tail: impl IntoIterator<Item = Value>) {
    let head = value.as_array_mut().map(std::mem::take).unwrap_or_default();
    *value = head.into_iter().chain(tail).collect();
}
