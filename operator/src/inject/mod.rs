//! Injection: from a pod as it was submitted to the same pod with a sidecar.
//!
//! ```text
//!                     namespace labels, Settings
//!                                │
//!            `webhook` ─▶ inject() ─▶ a patch | a skip with its cause | a refusal with what would be right
//! ```
//!
//! [`inject`] is pure: no clock, no cluster, no randomness (the key that it is given is used for a pod that has none). It may be called again on its own result, after the API server and
//! other injectors have changed it: then it moves our two containers back to the head and makes them new. Started by `program`
//! in a cluster.

mod containers;
mod pod;
mod probes;
mod quantity;
mod refusal;
mod settings;
mod taken;
mod wishes;

pub use probes::ProbeKey;
pub use quantity::Quantity;
pub use refusal::{Refusal, Skip};
pub use settings::{Resources, Settings};

use serde_json::Value;
use std::collections::BTreeMap;

/// Written on an injected pod, with this program's version.
pub const INJECTED: &str = "signet.dev/injected";
/// Opts a namespace (as a label) or a pod (as an annotation) in or out.
pub const INJECT: &str = "signet.dev/inject";
/// The container that writes the redirect rules.
pub const CAPTURE: &str = "signet-capture";
/// The container that stays.
pub const SIDECAR: &str = "signet-sidecar";
/// The port that replays probes.
pub const HEALTH_PORT: u16 = 15021;
/// Ports of the sidecar, which no container of an injected pod may have.
pub const PORTS: [u16; 5] = [15001, 15006, 15008, 15020, HEALTH_PORT];
/// The user the sidecar runs as, whose connections are not captured.
pub const UID: i64 = 2137;

const POD_SECURITY: &str = "pod-security.kubernetes.io/enforce";

/// What is to happen to a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// This is the pod now.
    Injected(Box<Value>),
    /// It stays as it is.
    Skipped(Skip),
    /// It must not be created as it is.
    Refused(Refusal),
}

/// Decides about `pod` (a Pod of v1 as JSON), which is being created in a namespace of this name with these labels.
/// `fresh` is for this pod alone.
pub fn inject(
    pod: &Value,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    settings: &Settings,
    fresh: &ProbeKey,
) -> Outcome {
    match opted_in(pod, namespace, labels, settings).and_then(|()| injected(pod, namespace, labels, settings, fresh)) {
        Ok(pod) => Outcome::Injected(Box::new(pod)),
        Err(Stop::Skip(skip)) => Outcome::Skipped(skip),
        Err(Stop::Refuse(refusal)) => Outcome::Refused(refusal),
    }
}

/// Why injection ends early.
enum Stop {
    Skip(Skip),
    Refuse(Refusal),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}

/// Pod disabled beats pod enabled beats namespace; otherwise off. The same as the chart's predicate for webhooks and guard.
fn opted_in(pod: &Value, namespace: &str, labels: &BTreeMap<String, String>, settings: &Settings) -> Result<(), Stop> {
    if !pod::well_formed(pod) {
        return Err(Refusal::Malformed.into());
    }
    if settings.excludes(namespace) {
        return Err(Stop::Skip(Skip::ExcludedNamespace));
    }
    if pod::annotation(pod, "kubernetes.io/config.mirror").is_some() {
        return Err(Stop::Skip(Skip::StaticPod));
    }
    let by_pod = match pod::annotation(pod, INJECT) {
        Some("disabled") => return Err(Stop::Skip(Skip::Disabled)),
        Some("enabled") => true,
        Some(other) => return Err(Refusal::annotation(INJECT, other, "enabled or disabled").into()),
        None => false,
    };
    // A typo there is refused when the label is written (policy signet-labels), and opts nobody in.
    let by_namespace = labels.get(INJECT).is_some_and(|word| word == "enabled");
    if !by_pod && !by_namespace {
        return Err(Stop::Skip(Skip::NotOptedIn));
    }
    if pod::flag(&pod["spec"]["hostNetwork"]) {
        return Err(if by_pod { Refusal::HostNetwork.into() } else { Stop::Skip(Skip::HostNetwork) });
    }
    Ok(())
}

fn injected(
    pod: &Value,
    namespace: &str,
    labels: &BTreeMap<String, String>,
    settings: &Settings,
    fresh: &ProbeKey,
) -> Result<Value, Stop> {
    if let Some(level) = labels.get(POD_SECURITY).filter(|level| level.as_str() != "privileged") {
        return Err(Refusal::PodSecurity { namespace: namespace.to_owned(), level: level.clone() }.into());
    }
    if pod["spec"]["os"]["name"].as_str().is_some_and(|os| os != "linux") {
        return Err(Refusal::NotLinux.into());
    }
    let wishes = wishes::Wishes::read(pod, settings)?;
    taken::check(pod, settings)?;

    let mut new = pod.clone();
    let ours = pod::remove_named(&mut new["spec"]["initContainers"], &[CAPTURE, SIDECAR]);
    pod::remove_named(&mut new["spec"]["volumes"], &[containers::RUN, containers::TOKEN]);
    let probes = probes::rewrite(&mut new, ours.iter().find(|container| container["name"] == SIDECAR), fresh)?;
    let guaranteed = quantity::is_guaranteed(&new);
    let (capture, sidecar) = containers::both(settings, &wishes, &probes, guaranteed);
    pod::prepend(&mut new["spec"]["initContainers"], [capture, sidecar]);
    pod::append(&mut new["spec"]["volumes"], containers::volumes());
    annotate(&mut new);
    Ok(new)
}

fn annotate(pod: &mut Value) {
    let first = pod["spec"]["containers"][0]["name"].as_str().map(ToOwned::to_owned);
    pod::set_annotation(pod, INJECTED, env!("CARGO_PKG_VERSION"));
    // `kubectl logs` and `kubectl exec` without -c mean the application.
    let key = "kubectl.kubernetes.io/default-container";
    if let Some(first) = first.filter(|_| pod::annotation(pod, key).is_none()) {
        pod::set_annotation(pod, key, &first);
    }
    // Our memory-backed volume is no reason to keep a node.
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let mut volumes: Vec<&str> =
        pod::annotation(pod, key).map(|list| list.split(',').map(str::trim).collect()).unwrap_or_default();
    volumes.retain(|volume| !volume.is_empty());
    if !volumes.contains(&containers::RUN) {
        volumes.push(containers::RUN);
    }
    let volumes = volumes.join(",");
    pod::set_annotation(pod, key, &volumes);
}

#[cfg(test)]
mod tests;
