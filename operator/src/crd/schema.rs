//! From Rust types to Kubernetes' structural schemas: the types give structure and documentation, `bounds` the rest.
use super::bounds;
use super::status::RuleStatus;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, Schema};
use serde_json::{Map, Value, json};

/// The schema of `spec`.
pub(super) fn spec() -> Value {
    let mut schema = of::<signet_policy::model::Spec>();
    keep_unknown(&mut schema);
    bounds::apply(&mut schema, "spec", &bounds::spec());
    schema
}

/// The schema of `status`. Nothing unknown is kept there: it is the operator's own.
pub(super) fn status() -> Value {
    let mut schema = of::<RuleStatus>();
    bounds::apply(&mut schema, "status", &bounds::status());
    schema
}

fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft07().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    let schema: Schema = settings.into_generator().into_root_schema_for::<T>();
    let mut schema = Value::from(schema);
    structural(&mut schema);
    schema
}

/// What JSON Schema knows and a structural schema does not: null beside a type, one of several types, references, formats of
/// numbers, defaults (a rule is stored as it was written).
fn structural(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    for gone in ["$schema", "title", "default", "additionalProperties", "format", "minimum", "maximum"] {
        let is_map = gone == "additionalProperties" && node.get(gone).is_some_and(Value::is_object);
        if !is_map {
            node.remove(gone);
        }
    }
    one_type(node);
    if let Some(text) = node.get("description").and_then(Value::as_str) {
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        node.insert("description".into(), line.into());
    }
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(structural);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = node.get_mut(below) {
            structural(schema);
        }
    }
}

fn one_type(node: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = node.get_mut("type") {
        types.retain(|kind| kind != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            node.insert("type".into(), only);
        }
    }
    if let Some(Value::Array(words)) = node.get_mut("enum") {
        words.retain(|word| !word.is_null());
    }
    for several in ["anyOf", "oneOf"] {
        let Some(Value::Array(mut forms)) = node.remove(several) else { continue };
        forms.retain(|form| form.get("type") != Some(&json!("null")));
        let kinds: Vec<&Value> = forms.iter().filter_map(|form| form.get("type")).collect();
        if kinds == [&json!("integer"), &json!("string")] {
            node.insert("x-kubernetes-int-or-string".into(), true.into());
        } else if forms.iter().all(|form| form.get("const").is_some_and(Value::is_string)) {
            // An enum with documented variants.
            let said = forms.iter().filter_map(|form| {
                let said = form.get("description")?.as_str()?;
                Some(format!("{}: {said}", form.get("const")?.as_str()?))
            });
            let own = node.get("description").and_then(Value::as_str).map(str::to_owned);
            let all: Vec<String> = own.into_iter().chain(said).collect();
            node.insert("description".into(), all.join(" ").into());
            node.insert("type".into(), "string".into());
            let words = forms.iter().filter_map(|form| form.get("const").cloned());
            node.insert("enum".into(), words.collect());
        } else if let [Value::Object(only)] = forms.as_slice() {
            for (key, value) in only {
                node.entry(key.clone()).or_insert_with(|| value.clone());
            }
            one_type(node);
        }
    }
}

/// Every object with named fields keeps the fields that it does not know.
fn keep_unknown(schema: &mut Value) {
    let Value::Object(node) = schema else { return };
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        properties.values_mut().for_each(keep_unknown);
        node.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = node.get_mut(below) {
            keep_unknown(schema);
        }
    }
}
