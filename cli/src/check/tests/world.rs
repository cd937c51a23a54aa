//! A cluster in which all is well: a mesh in the namespace `mesh`, three pods and a rule in `shop`.
use crate::check::facts::{Facts, Health};
use crate::cluster::Page;
use prost::Message as _;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use signet_identity::testing::Authority;
use signet_proto::ca::{Bundle, TrustState};
use std::collections::BTreeMap;

pub(super) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A pod of `shop` with a sidecar, `ports` by name.
pub(super) fn pod(name: &str, ports: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
        "spec": {
            "containers": [{"name": "app", "ports": ports}],
            "initContainers": [{"name": "signet-sidecar", "restartPolicy": "Always", "image": IMAGE}],
        },
        "status": {
            "phase": "Running",
            "podIPs": [{"ip": "10.1.0.7"}],
            "initContainerStatuses": [{"name": "signet-sidecar", "ready": true, "image": IMAGE, "imageID": "", "restartCount": 0}],
        },
    })
}

pub(super) const IMAGE: &str = concat!("signet/signet-sidecar:", env!("CARGO_PKG_VERSION"));

/// A rule of `shop` in force.
pub(super) fn rule(name: &str, spec: &Value) -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "reason": "Valid", "message": "well", "observedGeneration": 1});
    json!({
        "apiVersion": "signet.dev/v1alpha1", "kind": "AllowRule",
        "metadata": {"name": name, "namespace": "shop", "generation": 1},
        "spec": spec,
        "status": {"conditions": [condition("Accepted"), condition("Programmed"), condition("Effective")]},
    })
}

fn program(name: &str, component: &str) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    json!({
        "metadata": {"name": name, "namespace": "mesh", "labels": {
            "app.kubernetes.io/name": "signet", "app.kubernetes.io/part-of": "signet",
            "app.kubernetes.io/component": component, "app.kubernetes.io/version": version,
        }},
        "spec": {"replicas": 2, "selector": {}, "template": {"spec": {"containers": [{"name": name, "image": format!("signet/{name}:{version}")}]}}},
        "status": {"availableReplicas": 2},
    })
}

fn slice(service: &str) -> Value {
    json!({
        "metadata": {"name": service, "namespace": "mesh", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.0.9"], "conditions": {"ready": true}}],
    })
}

fn control_pod(name: &str, component: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "mesh", "labels": {"app.kubernetes.io/name": "signet", "app.kubernetes.io/component": component}},
        "spec": {"containers": [{"name": name}]},
        "status": {"phase": "Running", "podIPs": [{"ip": "10.1.0.9"}]},
    })
}

fn guard(name: &str) -> (Value, Value) {
    let metadata = json!({"name": name});
    (
        json!({"metadata": metadata, "spec": {"failurePolicy": "Fail"}}),
        json!({"metadata": metadata, "spec": {"policyName": name, "validationActions": ["Deny"]}}),
    )
}

fn page(body: &str) -> Page {
    Page { status: 200, body: body.into() }
}

/// A program that is ready and shows these metrics.
pub(super) fn says(metrics: &str) -> Health {
    Health { ready: Ok(page("ok\n")), metrics: Ok(page(metrics)) }
}

/// What a CA shows that holds this trust sequence, whose issuing certificate has these seconds left.
pub(super) fn ca_metrics(now: i64, sequence: u64, left: i64, rewritten: u64) -> String {
    format!(
        "signet_ca_trust_sequence {sequence}\nsignet_ca_issuing_not_after_seconds {}\n\
         signet_ca_requests_refused_total{{rpc=\"issue\",reason=\"pod_address\"}} {rewritten}\n# EOF\n",
        now + left
    )
}

/// The same of an operator and its own certificate.
pub(super) fn operator_metrics(now: i64, sequence: u64, left: i64) -> String {
    format!(
        "signet_operator_streams 2\nsignet_operator_workloads_outside_ranges 0\n\
         signet_operator_trust_sequence {sequence}\nsignet_operator_svid_not_after_seconds {}\n# EOF\n",
        now + left
    )
}

/// Everything that a good installation has.
pub(super) fn well() -> Facts {
    let authority = Authority::new("mesh.example");
    let pem = authority.bundle().to_pem();
    let roots = authority.bundle().roots.iter().map(|root| root.to_vec()).collect();
    let state = TrustState {
        sequence: 7,
        bundles: vec![Bundle { trust_domain: "mesh.example".into(), roots }],
        ..TrustState::default()
    };
    let config = |name: &str, data: Value| json!({"metadata": {"name": name, "namespace": "mesh"}, "data": data});
    let mut trust_state = config("signet-trust-state", json!({"sequence": "7"}));
    trust_state["binaryData"] =
        serde_json::to_value(BTreeMap::from([("state", k8s_openapi::ByteString(state.encode_to_vec()))])).unwrap();
    let copy = |namespace: &str| json!({"metadata": {"name": "signet-trust", "namespace": namespace}, "data": {"bundle.pem": pem}});
    let hook = |name: &str| {
        json!({
            "name": format!("{name}.injector.signet.dev"), "admissionReviewVersions": ["v1"], "sideEffects": "None",
            "clientConfig": {
                "service": {"name": "signet-webhook", "namespace": "mesh", "path": "/inject/5ec7e7", "port": 443},
                "caBundle": k8s_openapi::ByteString(pem.clone().into_bytes()),
            },
        })
    };
    let mut definition = signet_operator::crd::definition();
    definition["spec"]["conversion"] = json!({"strategy": "None"});
    definition["status"] = json!({"conditions": [{"type": "Established", "status": "True"}]});
    let (policies, bindings): (Vec<Value>, Vec<Value>) =
        ["signet-guard", "signet-labels", "signet-allowrules"].into_iter().map(guard).unzip();
    let mut facts = Facts::nothing();
    facts.now = i64::try_from(signet_identity::testing::now()).unwrap();
    facts.groups = Ok([
        "admissionregistration.k8s.io/v1",
        "apiextensions.k8s.io/v1",
        "apps/v1",
        "authentication.k8s.io/v1",
        "coordination.k8s.io/v1",
        "discovery.k8s.io/v1",
    ]
    .map(str::to_owned)
    .into());
    facts.installed = Ok(["mesh".to_owned()].into());
    facts.control = Some("mesh".into());
    facts.crd = Ok(Some(definition));
    facts.webhooks = Ok(vec![object(
        json!({"metadata": {"name": "signet-injector"}, "webhooks": [hook("namespace"), hook("pod")]}),
    )]);
    facts.policies = Ok(policies.into_iter().map(object).collect());
    facts.bindings = Ok(bindings.into_iter().map(object).collect());
    facts.namespaces = Ok(vec![
        object(json!({"metadata": {"name": "mesh", "labels": {"kubernetes.io/metadata.name": "mesh"}}})),
        object(
            json!({"metadata": {"name": "shop", "labels": {"kubernetes.io/metadata.name": "shop", "signet.dev/inject": "enabled"}}}),
        ),
    ]);
    facts.deployments = Ok(vec![object(program("signet-ca", "ca")), object(program("signet-operator", "operator"))]);
    facts.slices = Ok(["signet-ca", "signet-operator", "signet-webhook"].map(|name| object(slice(name))).into());
    facts.configs = Ok(vec![
        object(trust_state),
        object(config("signet-mesh", json!({"trust-domain": "mesh.example"}))),
        object(config(
            "signet-ca",
            json!({"ca.toml": "[lifetimes]\nissuing = \"7d\"\n\n[kubernetes]\npeer_address = \"require\"\n"}),
        )),
        object(config(
            "signet-operator",
            json!({"operator.toml": format!("[inject]\nimage = \"{IMAGE}\"\nexcluded_namespaces = []\n")}),
        )),
        object(copy("mesh")),
    ]);
    facts.copies = Ok(vec![object(copy("mesh")), object(copy("shop"))]);
    facts.control_pods = Ok(vec![object(control_pod("ca-1", "ca")), object(control_pod("operator-1", "operator"))]);
    facts.health = BTreeMap::from([
        ("ca-1".to_owned(), says(&ca_metrics(facts.now, 7, 7 * 24 * 3600, 0))),
        ("operator-1".to_owned(), says(&operator_metrics(facts.now, 7, 3600))),
    ]);
    facts.services = Ok(vec![object(
        json!({"metadata": {"name": "orders", "namespace": "shop"}, "spec": {"selector": {"app": "orders"}}}),
    )]);
    let ports = json!([{"name": "http", "containerPort": 8080}]);
    facts.pods =
        Ok(vec![object(pod("orders", &ports)), object(pod("checkout", &ports)), object(pod("cart", &json!([])))]);
    facts.rules = Ok(vec![rule(
        "orders-callers",
        &json!({"target": {"service": "orders", "ports": [8080, "http"]}, "from": [{"serviceAccount": "checkout"}]}),
    )]);
    facts
}
