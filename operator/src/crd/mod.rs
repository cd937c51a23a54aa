//! What the cluster must know of `AllowRule`: its custom resource definition, and the admission policy that refuses fields which
//! nobody knows. Both are made from the types in `policy` (and [`RuleStatus`]), so that they can never differ from what the
//! operator reads; `signet-operator crd` writes them, and a test fails when the files of the chart are stale.
//!
//! ```text
//! policy::model types --schema--> structure and documentation --bounds--> what a type cannot say --> CRD
//!                                                                                    `--admission--> admission policy
//! ```
//!
//! A pruned field widens a rule, and so does one that an older version drops: every object keeps what it does not know, the
//! admission policy refuses it, and what comes in all the same guards its ports and admits nobody.
mod admission;
mod bounds;
mod schema;
mod status;

pub use status::{Condition, LastService, RuleStatus};

use serde_json::{Value, json};

/// The API group of everything that is Signet's.
pub const GROUP: &str = "signet.dev";
/// The only version so far.
pub const VERSION: &str = "v1alpha1";
/// The name of `AllowRule` in URLs.
pub const PLURAL: &str = "allowrules";

/// Every file that is made here, below `charts/signet/crd`: its name and its object.
pub fn files() -> [(&'static str, Value); 3] {
    [
        ("allowrule.yaml", definition()),
        ("policy.yaml", admission::policy(&schema::spec())),
        ("binding.yaml", admission::binding()),
    ]
}

/// A file's whole text.
pub fn text(object: &Value) -> Result<String, serde_saphyr::ser::Error> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false, quote_all: false };
    let body = serde_saphyr::to_string_with_options(object, options)?;
    Ok(format!("# Made by `signet-operator crd` from the types in policy/src/model.rs. Do not edit.\n{body}"))
}

/// The custom resource definition.
pub fn definition() -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{PLURAL}.{GROUP}")},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "plural": PLURAL,
                "singular": "allowrule",
                "kind": signet_policy::model::KIND,
                "listKind": "AllowRuleList",
                // Not `ar`: that is Argo Rollouts' AnalysisRun.
                "shortNames": ["arule"],
                "categories": ["signet"],
            },
            "versions": [{
                "name": VERSION,
                "served": true,
                "storage": true,
                "subresources": {"status": {}},
                "additionalPrinterColumns": columns(),
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": "Who may call which ports of which workloads. Rules only allow: a port with at least one rule \
                                    in force admits exactly what its rules match, and order never matters.",
                    "required": ["spec"],
                    // A field of the spec that was indented too little would be pruned, and the rule widened.
                    "x-kubernetes-preserve-unknown-fields": true,
                    "properties": {
                        "apiVersion": {"type": "string", "description": "signet.dev/v1alpha1"},
                        "kind": {"type": "string", "description": "AllowRule"},
                        "metadata": {"type": "object"},
                        "spec": schema::spec(),
                        "status": schema::status(),
                    },
                }},
            }],
        },
    })
}

fn columns() -> Value {
    let condition = |name: &str| {
        json!({
            "name": name,
            "type": "string",
            "jsonPath": format!(".status.conditions[?(@.type==\"{name}\")].status"),
        })
    };
    json!([
        {"name": "Target", "type": "string", "jsonPath": ".status.target"},
        {"name": "Mode", "type": "string", "jsonPath": ".status.mode"},
        condition("Accepted"),
        condition("Programmed"),
        condition("Effective"),
        {"name": "LastMatched", "type": "date", "jsonPath": ".status.lastMatched"},
        {"name": "Workloads", "type": "integer", "jsonPath": ".status.workloads", "priority": 1},
        {"name": "Acknowledged", "type": "integer", "jsonPath": ".status.acknowledged", "priority": 1},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    ])
}

#[cfg(test)]
mod tests;
