//! The ValidatingAdmissionPolicy `signet-allowrules`: refuses what a schema cannot. Unknown fields, level by level (the schema
//! keeps them, so that no older version widens a rule in silence), and the grammars for which CEL in a schema costs too much.
//! A rule that is stored already may be touched as long as its `spec` stays: nobody's finalizer waits for us.
use super::bounds::{self, Path};
use super::{GROUP, PLURAL, VERSION};
use serde_json::{Value, json};

const NAME: &str = "signet-allowrules";

/// The policy for a spec of this schema.
pub(super) fn policy(spec: &Value) -> Value {
    let mut variables = Vec::new();
    let mut validations = Vec::new();
    let top = ["apiVersion", "kind", "metadata", "spec", "status"].map(str::to_owned).to_vec();
    let objects = std::iter::once((String::new(), top)).chain(bounds::objects(spec, "spec"));
    for (number, (path, known)) in objects.enumerate() {
        let name = format!("unknown{number}");
        let quoted: Vec<String> = known.iter().map(|field| format!("'{field}'")).collect();
        let (value, steps) = match path.strip_prefix("spec") {
            Some(steps) => ("object.spec", steps),
            None => ("object", ""),
        };
        variables.push(json!({"name": name, "expression": unknown(value, steps, &quoted.join(", "))}));
        let known = known.join(", ");
        let path = if path.is_empty() { "AllowRule" } else { &path };
        validations.push(json!({
            "expression": format!("variables.{name} == ''"),
            "message": format!("{path}: no such field; known here: {known}"),
            "messageExpression": format!("'{path}: no such field: ' + variables.{name} + '; known here: {known}'"),
        }));
    }
    validations.extend(GRAMMARS.iter().map(
        |(expression, message)| json!({"expression": expression.replace("LABEL_KEY", LABEL_KEY), "message": message}),
    ));
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": NAME},
        "spec": {
            "failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{
                "apiGroups": [GROUP],
                "apiVersions": [VERSION],
                "operations": ["CREATE", "UPDATE"],
                "resources": [PLURAL],
            }]},
            "matchConditions": [{
                "name": "spec-is-new",
                "expression": "request.operation == 'CREATE' || object.spec != oldObject.spec",
            }],
            "variables": variables,
            "validations": validations,
        },
    })
}

/// Puts the policy into force.
pub(super) fn binding() -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": NAME},
        "spec": {"policyName": NAME, "validationActions": ["Deny"]},
    })
}

/// In a string of CEL, so without single quotes.
const LABEL_KEY: &str = "^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?([.][a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?)*/)?\
                         [A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$";

const GRAMMARS: [(&str, &str); 3] = [
    (
        "object.metadata.name.split('.').all(label, size(label) <= 63)",
        "metadata.name: a name whose parts between dots have at most 63 characters",
    ),
    (
        "!has(object.spec.target) || !has(object.spec.target.podSelector) || \
         !has(object.spec.target.podSelector.matchLabels) || \
         object.spec.target.podSelector.matchLabels.all(key, size(key) <= 317 && key.matches('LABEL_KEY'))",
        "spec.target.podSelector.matchLabels: labels of 1 to 63 of A-Z a-z 0-9 - _ . with an optional DNS prefix, such as app \
         or example.com/tier",
    ),
    (
        "!has(object.spec.from) || object.spec.from.all(one, !has(one.unauthenticated) || \
         !has(one.unauthenticated.cidrs) || one.unauthenticated.cidrs.all(text, isCIDR(text) && \
         cidr(text) == cidr(text).masked()))",
        "spec.from[].unauthenticated.cidrs: networks in CIDR form without host bits, such as 10.20.0.0/16 or 2001:db8::/32",
    ),
];

/// CEL that lists the unknown fields of the objects at a path below `value`, as one text.
fn unknown(value: &str, steps: &str, known: &str) -> String {
    match Path::next(steps) {
        Path::End => format!("dyn({value}).filter(field, !(field in [{known}])).join(', ')"),
        Path::Field(name, rest) => {
            let below = format!("{value}.{name}");
            format!("(has({below}) ? {} : '')", unknown(&below, rest, known))
        }
        Path::Entries(rest) => {
            format!("{value}.map(entry, {}).filter(found, found != '').join(', ')", unknown("entry", rest, known))
        }
    }
}
