//! What the chart renders, held against the API server that it is for.
use super::*;
use serde_json::{Map, Value, json};
use signet_tests::cluster::{Cluster, SYSTEM, chart};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// Everything that the chart can render but the pods of `helm test`, whose namespace is made by itself, for this namespace.
fn rendered(cluster: &Cluster, namespace: &str) -> String {
    let chart = chart();
    let values = ["trustDomain=prod.example", "networkPolicy.enabled=true", "ca.purge=true"];
    let base = ["template", "signet", &*chart.to_string_lossy(), "-n", namespace, "--skip-tests"].map(str::to_owned);
    let set = values.iter().flat_map(|value| ["--set".to_owned(), (*value).to_owned()]);
    let arguments: Vec<String> = base.into_iter().chain(set).collect();
    cluster.helm(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
}

/// The API server's own description of every kind, as a schema for each that knows nothing beside it.
fn schemas(cluster: &Cluster, place: &Path) {
    fs::create_dir_all(place).unwrap();
    let described: Value = serde_json::from_str(&cluster.kubectl(&["get", "--raw", "/openapi/v2"]).unwrap()).unwrap();
    let definitions = described["definitions"].as_object().unwrap();
    for (name, definition) in definitions {
        for kind in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
            let word = |key: &str| kind[key].as_str().unwrap().to_lowercase();
            let group = word("group");
            let group = group.split('.').next().filter(|group| !group.is_empty());
            let suffix = group.map_or_else(String::new, |group| format!("-{group}")) + "-" + &word("version");
            let mut needed = Map::new();
            collect(definitions, name, &mut needed);
            let schema = json!({"$ref": format!("#/definitions/{name}"), "definitions": needed});
            fs::write(place.join(format!("{}{suffix}.json", word("kind"))), schema.to_string()).unwrap();
        }
    }
}

/// The CRD's own schema: what the API server describes of it in that old form ends where unknown fields are kept.
fn schema_of_rules(cluster: &Cluster, place: &Path) {
    let definition = cluster.kubectl(&["get", "crd", "allowrules.signet.dev", "-o", "json"]).unwrap();
    let mut definition: Value = serde_json::from_str(&definition).unwrap();
    let mut schema = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"].take();
    close(&mut schema, &mut BTreeSet::new());
    fs::write(place.join("allowrule-signet-v1alpha1.json"), schema.to_string()).unwrap();
}

/// A definition and all that it refers to, closed to fields that it does not name.
fn collect(all: &Map<String, Value>, name: &str, into: &mut Map<String, Value>) {
    if into.contains_key(name) {
        return;
    }
    let mut definition = all[name].clone();
    let mut refers = BTreeSet::new();
    close(&mut definition, &mut refers);
    // Written as a string there, and read as a number too.
    if name.ends_with(".Quantity") || name.ends_with(".IntOrString") {
        definition = json!({"type": ["string", "number"]});
    }
    into.insert(name.to_owned(), definition);
    for next in refers {
        collect(all, &next, into);
    }
}

fn close(schema: &mut Value, refers: &mut BTreeSet<String>) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::String(next)) = schema.get("$ref") {
        refers.insert(next.trim_start_matches("#/definitions/").to_owned());
    }
    let open = schema.contains_key("x-kubernetes-preserve-unknown-fields");
    if schema.contains_key("properties") && !open {
        schema.insert("additionalProperties".to_owned(), false.into());
    }
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(|property| close(property, refers));
    }
    for key in ["items", "additionalProperties"] {
        schema.get_mut(key).into_iter().for_each(|below| close(below, refers));
    }
}

/// What `kubeconform` says of a file.
fn conforms(cluster: &Cluster, schemas: &Path, document: &str) -> Result<String, String> {
    let file = schemas.join("document.yaml");
    fs::write(&file, document).unwrap();
    let location = format!("{}/{{{{.ResourceKind}}}}{{{{.KindSuffix}}}}.json", schemas.display());
    let mut command = cluster.command("kubeconform");
    let output = command.args(["-strict", "-summary", "-schema-location", &location]).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(said) } else { Err(said) }
}

#[test]
fn every_object_of_the_chart_is_what_the_api_server_describes_field_by_field() {
    let Some(cluster) = mesh("every_object_of_the_chart_is_what_the_api_server_describes") else { return };
    let place: PathBuf = cluster.dir.join("schemas");
    schemas(cluster, &place);
    schema_of_rules(cluster, &place);
    let document = rendered(cluster, SYSTEM);
    let said = conforms(cluster, &place, &document).unwrap_or_else(|said| panic!("{said}"));
    assert!(said.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{said}");
    // It would have said so.
    let wrong = document.replacen("revisionHistoryLimit:", "revisionHistoryLimits:", 1);
    assert!(conforms(cluster, &place, &wrong).unwrap_err().contains("revisionHistoryLimits"));
    let rule = signet_tests::cluster::orders_from("checkout");
    conforms(cluster, &place, &rule).unwrap_or_else(|said| panic!("{said}"));
    let wrong = rule.replace("service: orders", "service: [orders]");
    conforms(cluster, &place, &wrong).expect_err("a rule with a list for a name");
}

#[test]
fn the_api_server_takes_every_object_of_the_chart_and_every_pod_of_it_where_pod_security_is_restricted() {
    let Some(cluster) = mesh("the_api_server_takes_every_object_of_the_chart_where_pod_security_is_restricted") else {
        return;
    };
    let levels = ["enforce", "warn"].map(|mode| format!("pod-security.kubernetes.io/{mode}=restricted"));
    let space = cluster.space("restricted", &[&levels[0], &levels[1]]);
    let document = rendered(cluster, &space.name);
    // A template that makes pods which would be refused is a warning, and here a warning is an error.
    let apply = ["apply", "--server-side", "--force-conflicts", "--dry-run=server", "--warnings-as-errors", "-f", "-"];
    let said = cluster.kubectl_with(&apply, &document).unwrap();
    for object in ["deployment.apps/signet-ca", "deployment.apps/signet-operator", "job.batch/signet-uninstall-check"] {
        assert!(said.contains(object), "{object} is not in {said}");
    }
    let wrong = document.replacen("runAsNonRoot: true", "runAsNonRoot: false", 1);
    cluster.kubectl_with(&apply, &wrong).expect_err("a pod that runs as root");
    // The pods that run are no others than those.
    let label = ["label", "namespace", SYSTEM, "--dry-run=server", "--overwrite", "--warnings-as-errors", &levels[0]];
    cluster.kubectl(&label).unwrap();
}

#[test]
fn kubectl_explains_every_field_of_a_rule() {
    let Some(cluster) = mesh("kubectl_explains_every_field_of_a_rule") else { return };
    let said = cluster.kubectl(&["explain", "allowrule", "--recursive"]).unwrap();
    for field in ["target", "service", "podSelector", "all", "ports", "from", "serviceAccount", "namespace", "identity"]
    {
        assert!(
            said.lines().any(|line| line.trim_start().starts_with(&format!("{field}\t"))),
            "{field} is not in {said}"
        );
    }
    let one = cluster.kubectl(&["explain", "allowrule.spec.from.unauthenticated.cidrs"]).unwrap();
    assert!(one.contains("DESCRIPTION:") && !one.contains("<empty>"), "{one}");
    // By its short name and its category too.
    for name in ["arule", "signet"] {
        cluster.kubectl(&["get", name, "-A"]).unwrap();
    }
}
