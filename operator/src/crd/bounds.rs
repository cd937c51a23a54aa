//! What the types in `policy` cannot say: how long, how many, in which grammar, and which fields exclude each other. Each line
//! stands for a check in `policy::validate`; the numbers are its numbers. A test asks that no text and no list is without a
//! bound, and that each path here exists.
use serde_json::{Map, Value, json};
use signet_policy::validate::{MAX_CIDRS, MAX_FROM, MAX_HTTP, MAX_PORTS, MAX_SELECTOR};

/// A field's path, `[]` for the entries of a list and `{}` for the values of a map, and what is added to its schema.
pub(super) type Bounds = Vec<(&'static str, Value)>;

const LABEL: &str = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?";
/// A path segment of an identity that is neither `.` nor `..`: these cannot be left out by look-ahead, which RE2 lacks.
const SEGMENT: &str = r"(\.*[A-Za-z0-9_-][A-Za-z0-9._-]*|\.{3,})";
/// The same for paths of HTTP: the characters of RFC 3986 without percent-encoding and `*`.
const PCHAR: &str = r"A-Za-z0-9_~!$&'()+,;=:@-";

fn name() -> Value {
    json!({"minLength": 1, "maxLength": 253, "pattern": format!(r"^{LABEL}(\.{LABEL})*$")})
}

fn label_value() -> Value {
    json!({"maxLength": 63, "pattern": "^([A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?)?$"})
}

fn rules(each: &[(&str, &str)]) -> Value {
    let each = each.iter().map(|(rule, message)| json!({"rule": rule, "message": message}));
    json!({"x-kubernetes-validations": each.collect::<Vec<_>>()})
}

pub(super) fn spec() -> Bounds {
    let path = format!(r"^/((\.*[{PCHAR}][.{PCHAR}]*|\.{{3,}})/)*(\.*[{PCHAR}][.{PCHAR}]*|\.{{3,}})?$");
    let path = json!({"minLength": 1, "maxLength": 1024, "pattern": path});
    let identity = format!("^spiffe://[a-z0-9._-]{{1,255}}(/{SEGMENT})+$");
    let flag = || json!({"enum": [true]});
    vec![
        (
            "spec",
            rules(&[(
                "!has(self.http)",
                "http is not enforced by this version: with it the rule would admit nobody, and its ports would stay guarded",
            )]),
        ),
        (
            "spec.target",
            rules(&[(
                "[has(self.service), has(self.podSelector), has(self.all)].exists_one(one, one)",
                "exactly one of service, podSelector and all, such as {service: orders, ports: [8080]}",
            )]),
        ),
        ("spec.target.service", name()),
        ("spec.target.all", flag()),
        ("spec.target.ports", json!({"minItems": 1, "maxItems": MAX_PORTS, "x-kubernetes-list-type": "set"})),
        (
            "spec.target.ports[]",
            json!({
                "minimum": 1, "maximum": 65535, "maxLength": 15,
                "pattern": "^([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*$",
            }),
        ),
        ("spec.target.podSelector.matchLabels", json!({"maxProperties": MAX_SELECTOR})),
        ("spec.target.podSelector.matchLabels{}", label_value()),
        (
            "spec.target.podSelector.matchExpressions",
            json!({"maxItems": MAX_SELECTOR, "x-kubernetes-list-type": "atomic"}),
        ),
        (
            "spec.target.podSelector.matchExpressions[]",
            rules(&[(
                "self.operator in ['In', 'NotIn'] ? has(self.values) && size(self.values) > 0 \
                 : !has(self.values) || size(self.values) == 0",
                "In and NotIn take at least one value, Exists and DoesNotExist none",
            )]),
        ),
        (
            "spec.target.podSelector.matchExpressions[].key",
            json!({
                "minLength": 1, "maxLength": 317,
                "pattern": format!(
                    r"^({LABEL}(\.{LABEL})*/)?[A-Za-z0-9]([A-Za-z0-9._-]{{0,61}}[A-Za-z0-9])?$"
                ),
            }),
        ),
        (
            "spec.target.podSelector.matchExpressions[].operator",
            json!({"maxLength": 12, "enum": ["In", "NotIn", "Exists", "DoesNotExist"]}),
        ),
        (
            "spec.target.podSelector.matchExpressions[].values",
            json!({"maxItems": MAX_SELECTOR, "x-kubernetes-list-type": "atomic"}),
        ),
        ("spec.target.podSelector.matchExpressions[].values[]", label_value()),
        ("spec.from", json!({"maxItems": MAX_FROM, "x-kubernetes-list-type": "atomic"})),
        (
            "spec.from[]",
            rules(&[(
                "[has(self.serviceAccount) || has(self.__namespace__), has(self.identity), has(self.anyAuthenticated), \
                 has(self.unauthenticated)].exists_one(one, one)",
                "exactly one of serviceAccount (with or without namespace), namespace, identity, anyAuthenticated and \
                 unauthenticated; several callers are several entries",
            )]),
        ),
        (
            "spec.from[].namespace",
            json!({"minLength": 1, "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
        ),
        ("spec.from[].serviceAccount", name()),
        ("spec.from[].identity", json!({"minLength": 1, "maxLength": 2048, "pattern": identity})),
        ("spec.from[].anyAuthenticated", flag()),
        (
            "spec.from[].unauthenticated.cidrs",
            json!({"minItems": 1, "maxItems": MAX_CIDRS, "x-kubernetes-list-type": "atomic"}),
        ),
        // A network without host bits needs CEL, whose estimated cost is too much for so many here: see `admission`.
        ("spec.from[].unauthenticated.cidrs[]", json!({"minLength": 3, "maxLength": 49, "format": "cidr"})),
        ("spec.http", json!({"minItems": 1, "maxItems": MAX_HTTP, "x-kubernetes-list-type": "atomic"})),
        (
            "spec.http[]",
            rules(&[(
                "has(self.methods) || has(self.path)",
                "methods, path or both; for every request leave http out",
            )]),
        ),
        ("spec.http[].methods", json!({"minItems": 1, "maxItems": MAX_HTTP, "x-kubernetes-list-type": "atomic"})),
        (
            "spec.http[].methods[]",
            json!({
                "minLength": 1, "maxLength": 32,
                "pattern": "^([A-Z0-9!#$%&'+.^_`|~-][A-Z0-9!#$%&'*+.^_`|~-]*|\\*[A-Z0-9!#$%&'*+.^_`|~-]+)$",
            }),
        ),
        (
            "spec.http[].path",
            rules(&[(
                "has(self.prefix) != has(self.exact)",
                "exactly one of prefix and exact, such as {prefix: /v1/orders}",
            )]),
        ),
        ("spec.http[].path.prefix", path.clone()),
        ("spec.http[].path.exact", path),
        ("spec.mode", json!({"maxLength": 7})),
    ]
}

pub(super) fn status() -> Bounds {
    let time = || json!({"format": "date-time", "maxLength": 64});
    let count = || json!({"minimum": 0, "format": "int64"});
    vec![
        ("status.observedGeneration", count()),
        ("status.target", json!({"maxLength": 512})),
        ("status.mode", json!({"maxLength": 16})),
        ("status.workloads", count()),
        ("status.acknowledged", count()),
        ("status.lastMatched", time()),
        ("status.service.name", json!({"maxLength": 253})),
        ("status.service.selector", json!({"maxProperties": 256, "x-kubernetes-map-type": "atomic"})),
        ("status.service.selector{}", json!({"maxLength": 63})),
        (
            "status.conditions",
            json!({"maxItems": 8, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}),
        ),
        ("status.conditions[]", json!({"required": ["type", "status", "lastTransitionTime", "reason", "message"]})),
        ("status.conditions[].type", json!({"maxLength": 64})),
        ("status.conditions[].status", json!({"maxLength": 7, "enum": ["True", "False", "Unknown"]})),
        ("status.conditions[].observedGeneration", count()),
        ("status.conditions[].lastTransitionTime", time()),
        ("status.conditions[].reason", json!({"maxLength": 64, "pattern": "^[A-Za-z]+$"})),
        ("status.conditions[].message", json!({"maxLength": 4096})),
    ]
}

/// Adds each fragment at its path.
pub(super) fn apply(schema: &mut Value, path: &str, bounds: &Bounds) {
    let Value::Object(node) = schema else { return };
    for (_, fragment) in bounds.iter().filter(|(at, _)| *at == path) {
        if let Value::Object(fragment) = fragment {
            node.extend(fragment.clone());
        }
    }
    children(node, path, |below, path| apply(below, path, bounds));
}

/// Every schema below a node, with its path.
pub(super) fn children(node: &mut Map<String, Value>, path: &str, mut each: impl FnMut(&mut Value, &str)) {
    if let Some(Value::Object(properties)) = node.get_mut("properties") {
        for (name, below) in properties {
            each(below, &format!("{path}.{name}"));
        }
    }
    if let Some(items) = node.get_mut("items") {
        each(items, &format!("{path}[]"));
    }
    if let Some(values @ Value::Object(_)) = node.get_mut("additionalProperties") {
        each(values, &format!("{path}{{}}"));
    }
}

/// Every object with named fields: its path, and the fields that it knows.
pub(super) fn objects(schema: &Value, path: &str) -> Vec<(String, Vec<String>)> {
    let mut found = Vec::new();
    collect(&mut schema.clone(), path, &mut found);
    found
}

fn collect(schema: &mut Value, path: &str, found: &mut Vec<(String, Vec<String>)>) {
    let Value::Object(node) = schema else { return };
    if let Some(Value::Object(properties)) = node.get("properties") {
        found.push((path.to_owned(), properties.keys().cloned().collect()));
    }
    children(node, path, |below, path| collect(below, path, found));
}

/// One step of a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Path<'a> {
    /// No more.
    End,
    /// A field, and the rest.
    Field(&'a str, &'a str),
    /// The entries of a list, and the rest.
    Entries(&'a str),
}

impl<'a> Path<'a> {
    /// The first step.
    pub(super) fn next(steps: &'a str) -> Self {
        if let Some(rest) = steps.strip_prefix("[]") {
            return Self::Entries(rest);
        }
        let Some(named) = steps.strip_prefix('.') else { return Self::End };
        let end = named.find(['.', '[']).unwrap_or(named.len());
        let (name, rest) = named.split_at(end);
        Self::Field(name, rest)
    }
}
