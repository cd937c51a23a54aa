//! The files of the chart are what the types say, and nothing in them is unbounded.
use super::bounds::{self, children};
use super::*;
use std::collections::BTreeSet;
use std::path::Path;

fn chart() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/signet/crd")
}

#[test]
fn the_files_of_the_chart_are_not_stale() {
    for (name, object) in files() {
        let kept = std::fs::read_to_string(chart().join(name)).unwrap_or_default();
        assert!(kept == text(&object).unwrap(), "{name} is stale: run `signet-operator crd charts/signet/crd`");
    }
}

#[test]
fn a_file_says_what_the_object_says() {
    for (name, object) in files() {
        let read: Value = serde_saphyr::from_str(&text(&object).unwrap()).unwrap();
        assert_eq!(read, object, "{name}");
    }
}

#[test]
fn every_bound_has_its_field() {
    fn walk(schema: &mut Value, path: &str, found: &mut BTreeSet<String>) {
        found.insert(path.to_owned());
        if let Value::Object(node) = schema {
            children(node, path, |below, path| walk(below, path, found));
        }
    }
    for (schema, root, bounds) in
        [(schema::spec(), "spec", bounds::spec()), (schema::status(), "status", bounds::status())]
    {
        let mut paths = BTreeSet::new();
        walk(&mut schema.clone(), root, &mut paths);
        for (path, _) in bounds {
            assert!(paths.contains(path), "no field {path}; there are {paths:?}");
        }
    }
}

#[test]
fn f11_no_text_list_or_map_is_without_a_bound_and_no_field_without_a_word_of_help() {
    fn walk(schema: &mut Value, path: &str, above: bool) {
        let node = schema.as_object_mut().unwrap_or_else(|| panic!("{path} is no schema"));
        let has = |key: &str| node.contains_key(key);
        let either = has("x-kubernetes-int-or-string");
        match node.get("type").and_then(Value::as_str) {
            Some("string") => assert!(has("maxLength"), "{path} has no maxLength"),
            Some("array") => assert!(has("maxItems") && has("items"), "{path} has no maxItems"),
            Some("object") if has("additionalProperties") => {
                assert!(has("maxProperties"), "{path} has no maxProperties");
            }
            Some("object") => assert!(has("properties"), "{path} has no fields"),
            Some("boolean" | "integer") => {}
            None if either => assert!(has("maxLength") && has("maximum"), "{path}"),
            other => panic!("{path} has the type {other:?}"),
        }
        assert!(!above || has("description"), "{path} has no description");
        for gone in ["anyOf", "oneOf", "allOf", "$ref", "const", "default", "nullable"] {
            assert!(!has(gone), "{path} has {gone}");
        }
        children(node, path, |below, path| walk(below, path, !path.ends_with("[]") && !path.ends_with("{}")));
    }
    walk(&mut schema::spec(), "spec", true);
    walk(&mut schema::status(), "status", true);
}

#[test]
fn f7_every_object_of_a_spec_keeps_what_it_does_not_know_and_the_policy_looks_at_each() {
    let policy = files()[1].1.to_string();
    let objects = bounds::objects(&schema::spec(), "spec");
    assert_eq!(
        objects.iter().map(|(path, _)| path.as_str()).collect::<Vec<_>>(),
        [
            "spec",
            "spec.target",
            "spec.target.podSelector",
            "spec.target.podSelector.matchExpressions[]",
            "spec.from[]",
            "spec.from[].unauthenticated",
            "spec.http[]",
            "spec.http[].path",
        ]
    );
    let spec = schema::spec().to_string();
    assert_eq!(spec.matches("\"x-kubernetes-preserve-unknown-fields\":true").count(), objects.len());
    for (path, _) in objects {
        assert!(policy.contains(&format!("{path}: no such field")), "{path}");
    }
}
