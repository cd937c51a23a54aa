//! `signet identity`: who a pod is in the mesh, as its own sidecar says: asked on the pod's loopback, through the API server.
use crate::cluster::{self, ADMIN, Cluster, ClusterArgs, Lack, SIDECAR, api, ask, get, list};
use crate::inspect::{certificate, validity};
use crate::output::{Format, plain, print, print_json};
use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use kube::api::ListParams;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde::Serialize;
use serde_json::Value;
use std::process::ExitCode;

/// Arguments of `signet identity`.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit code: 0 when the pod has a good certificate, 1 when it is not in the mesh, not ready, or its certificate has a problem,
2 when nothing can be said: no such pod, no cluster.

Example:
  signet identity orders-6d5f7 -n shop
  signet identity shop/orders-6d5f7 -o json | jq -r .identity")]
pub struct IdentityArgs {
    /// The pod, as NAME or NAMESPACE/NAME.
    #[arg(value_name = "POD")]
    pod: String,
    /// Its namespace [default: the kubeconfig's].
    #[arg(short, long, value_name = "NAMESPACE")]
    namespace: Option<String>,
    #[command(flatten)]
    cluster: ClusterArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// What is shown.
#[derive(Debug, Serialize)]
#[allow(clippy::struct_field_names, reason = "the JSON's own names")]
struct Identity {
    version: u32,
    pod: String,
    identity: String,
    uid: Option<String>,
    serial: String,
    issuer: String,
    /// Unix seconds.
    not_before: i64,
    /// Unix seconds.
    not_after: i64,
    trust_sequence: u64,
    trust_domains: Vec<String>,
    /// What unguarded ports admit.
    posture: Option<String>,
    /// As the sidecar enforces them.
    rules: Vec<Value>,
    configuration_revision: Option<u64>,
    operator_connected: bool,
    problems: Vec<String>,
    #[serde(skip)]
    valid: String,
}

/// What there is to say of a pod.
enum Answer {
    Shown(Box<Identity>),
    /// It has no identity to show, and why.
    Without(String),
}

/// Runs it.
pub fn run(arguments: &IdentityArgs) -> anyhow::Result<ExitCode> {
    let answer = cluster::run(async {
        let cluster = arguments.cluster.connect().await?;
        look(&cluster, arguments).await
    })?;
    let identity = match answer {
        Answer::Shown(identity) => identity,
        Answer::Without(why) => {
            crate::output::note(&plain(&why));
            return Ok(ExitCode::from(1));
        }
    };
    match arguments.output {
        Format::Json => print_json(&identity)?,
        Format::Text => print(&text(&identity))?,
    }
    Ok(ExitCode::from(u8::from(!identity.problems.is_empty())))
}

async fn look(cluster: &Cluster, arguments: &IdentityArgs) -> anyhow::Result<Answer> {
    let (namespace, name) = place(&arguments.pod, arguments.namespace.as_deref().unwrap_or(&cluster.namespace));
    let pods = api::<Pod>(&cluster.client, Some(&namespace));
    let Some(pod) = ask("get", "pods", pods.get_opt(&name)).await? else {
        let known = list(pods, "pods", ListParams::default()).await.unwrap_or_default();
        let known: Vec<String> = known.iter().map(ResourceExt::name_any).collect();
        bail!("there is no pod {namespace}/{name}{}", meant(&name, &known));
    };
    if let Some(why) = without(&pod) {
        return Ok(Answer::Without(why));
    }
    let certificates = page(cluster, &namespace, &name, "/certificates").await?;
    let config = page(cluster, &namespace, &name, "/config").await?;
    Ok(read(&format!("{namespace}/{name}"), &certificates, &config, Timestamp::now()))
}

async fn page(cluster: &Cluster, namespace: &str, name: &str, path: &str) -> anyhow::Result<Value> {
    let page = match get(&cluster.client, namespace, name, ADMIN, path).await {
        Err(lack @ Lack::Forbidden { .. }) => {
            bail!(
                "{lack}: the sidecar's admin address is on the pod's loopback, and is reached by port-forward. Somebody who may \
                 grant it runs: kubectl -n {namespace} create role signet-identity --verb=create --resource=pods/portforward"
            )
        }
        other => other?,
    };
    if page.status != 200 {
        bail!("the sidecar of {namespace}/{name} answers {} to {path}", page.status);
    }
    serde_json::from_str(&page.body).with_context(|| format!("what the sidecar of {namespace}/{name} says at {path}"))
}

/// Namespace and name; what kubectl prints (`pod/NAME`) is a name too.
fn place(given: &str, namespace: &str) -> (String, String) {
    let given = given.strip_prefix("pod/").or_else(|| given.strip_prefix("pods/")).unwrap_or(given);
    match given.split_once('/') {
        Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
        None => (namespace.to_owned(), given.to_owned()),
    }
}

/// What may have been meant: the pods of a controller of that name, or one that is spelled nearly so.
pub(crate) fn meant(name: &str, known: &[String]) -> String {
    let of_controller = known.iter().filter(|pod| pod.starts_with(&format!("{name}-"))).map(String::as_str);
    let mut near: Vec<&str> = of_controller.take(3).collect();
    if near.is_empty() && !name.is_empty() {
        near.extend(known.iter().filter(|pod| pod.starts_with(name)).take(3).map(String::as_str));
    }
    if near.is_empty() {
        let known: Vec<&str> = known.iter().map(String::as_str).collect();
        near.extend(signet_policy::similar(name, &known));
    }
    if near.is_empty() { String::new() } else { format!("; did you mean {}?", near.join(" or ")) }
}

/// Why a pod has nobody who could be asked.
fn without(pod: &Pod) -> Option<String> {
    let named = format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let spec = pod.spec.as_ref()?;
    if !spec.init_containers.iter().flatten().any(|container| container.name == SIDECAR) {
        let why = if spec.host_network.unwrap_or(false) {
            "it has the node's network (hostNetwork), in which nothing can be captured".to_owned()
        } else {
            format!(
                "it has no sidecar. Opt in with kubectl label namespace {} signet.dev/inject=enabled, or the annotation \
                 signet.dev/inject: enabled on the pod's template, and start it anew",
                pod.namespace().unwrap_or_default()
            )
        };
        return Some(format!("{named} is not in the mesh: {why}"));
    }
    let status = pod.status.as_ref();
    if let Some(phase @ ("Succeeded" | "Failed")) = status.and_then(|status| status.phase.as_deref()) {
        return Some(format!("{named} has ended ({phase}), and its identity with it"));
    }
    let sidecar = status.and_then(|status| status.init_container_statuses.as_ref());
    let sidecar = sidecar.into_iter().flatten().find(|status| status.name == SIDECAR);
    let state = sidecar.and_then(|status| status.state.as_ref());
    if state.is_none_or(|state| state.running.is_none()) {
        let waiting = state.and_then(|state| state.waiting.as_ref()).and_then(|waiting| waiting.reason.clone());
        return Some(format!(
            "the sidecar of {named} does not run{}: kubectl -n {} describe pod {}",
            waiting.map(|reason| format!(" ({reason})")).unwrap_or_default(),
            pod.namespace().unwrap_or_default(),
            pod.name_any()
        ));
    }
    None
}

/// From the sidecar's own pages.
fn read(pod: &str, certificates: &Value, config: &Value, now: Timestamp) -> Answer {
    let chain = certificates.pointer("/svid/chain_pem").and_then(Value::as_str).unwrap_or_default();
    let leaf = CertificateDer::pem_slice_iter(chain.as_bytes()).find_map(Result::ok);
    let Some(leaf) = leaf else {
        return Answer::Without(format!(
            "the sidecar of {pod} has no certificate yet: kubectl -n {} logs {} -c {SIDECAR} --tail=20 says why",
            pod.split('/').next().unwrap_or_default(),
            pod.split('/').next_back().unwrap_or_default()
        ));
    };
    let shown = certificate::read(pod, &leaf, now.as_second());
    let configuration = &config["configuration"];
    let bundles = certificates.pointer("/trust/bundles").and_then(Value::as_array);
    let mut problems = shown.problems.clone();
    if configuration.is_null() {
        problems.push("it has no configuration from the operator yet, and denies everything inbound".to_owned());
    }
    Answer::Shown(Box::new(Identity {
        version: 1,
        pod: pod.to_owned(),
        identity: shown.identities.first().cloned().unwrap_or_default(),
        uid: shown.uid.clone(),
        serial: shown.serial.clone(),
        issuer: shown.issuer.clone(),
        not_before: shown.not_before,
        not_after: shown.not_after,
        trust_sequence: certificates.pointer("/trust/sequence").and_then(Value::as_u64).unwrap_or(0),
        trust_domains: bundles
            .into_iter()
            .flatten()
            .filter_map(|bundle| Some(bundle.get("trust_domain")?.as_str()?.to_owned()))
            .collect(),
        posture: configuration["inbound"].as_str().map(str::to_owned),
        rules: configuration["rules"].as_array().cloned().unwrap_or_default(),
        configuration_revision: configuration["revision"].as_u64(),
        operator_connected: config["operator_connected"].as_bool().unwrap_or(false),
        problems,
        valid: validity(&shown, now),
    }))
}

fn text(identity: &Identity) -> String {
    let mut lines = vec![plain(&identity.pod)];
    let mut line = |name: &str, value: &str| lines.push(format!("  {name:<9} {}", plain(value)));
    line("identity", &identity.identity);
    line("uid", identity.uid.as_deref().unwrap_or("none"));
    line("serial", &identity.serial);
    line("issuer", &identity.issuer);
    line("valid", &identity.valid);
    line("trust", &format!("sequence {}, roots of {}", identity.trust_sequence, identity.trust_domains.join(", ")));
    let posture = identity.posture.as_deref().unwrap_or("deny, until there is a configuration");
    line("posture", &format!("{posture} (ports without a rule)"));
    if identity.rules.is_empty() {
        line("rules", "none guards a port of this pod");
    }
    for rule in &identity.rules {
        line("rule", &one(rule));
    }
    let connected =
        if identity.operator_connected { "connected" } else { "not connected; the last configuration is in force" };
    let revision = identity.configuration_revision.map_or_else(|| "none".to_owned(), |revision| revision.to_string());
    line("operator", &format!("{connected}; configuration revision {revision}"));
    if identity.problems.is_empty() {
        line("problems", "none");
    }
    for problem in &identity.problems {
        line("problem", problem);
    }
    lines.join("\n")
}

/// A rule of the sidecar's page in one line.
fn one(rule: &Value) -> String {
    let words = |value: &Value| match value {
        Value::Array(all) => all
            .iter()
            .map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned))
            .collect::<Vec<_>>()
            .join(", "),
        Value::String(word) => word.clone(),
        other => other.to_string(),
    };
    let from = |source: &Value| {
        if let Some(identity) = source["identity"].as_str() {
            identity.to_owned()
        } else if let Some(namespace) = source["namespace"].as_str() {
            format!("everybody of namespace {namespace}")
        } else if source["any_authenticated"] == true {
            "any identity".to_owned()
        } else {
            format!("plaintext from {}", words(&source["plaintext"]))
        }
    };
    let admits: Vec<String> = rule["admits"].as_array().into_iter().flatten().map(from).collect();
    let admits = match rule["refused"].as_str() {
        Some(why) => format!("nobody, because it was refused: {why}"),
        None if admits.is_empty() => "nobody".to_owned(),
        None => admits.join(", "),
    };
    let ports = match words(&rule["ports"]).as_str() {
        "all" => "every port".to_owned(),
        ports => format!("port {ports}"),
    };
    format!("{} ({}): {ports}, admits {admits}", words(&rule["rule"]), words(&rule["mode"]))
}

#[cfg(test)]
mod tests;
