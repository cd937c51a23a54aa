//! Pods that opted in: each has its sidecar, which is ready, and of the version that is installed now.
use super::facts::Facts;
use super::programs::{self, injected_image, sidecar_image, version_of};
use super::report::{Finding, counted, some};
use crate::cluster::{Lack, Read, SIDECAR};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use std::collections::BTreeMap;

/// Label of namespaces, annotation of pods.
pub(super) const INJECT: &str = "signet.dev/inject";

/// Neither finished nor on its way out.
pub(super) fn is_alive(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, "Succeeded" | "Failed")
}

/// Judged by the pod's spec, as the operator does.
pub(super) fn has_sidecar(pod: &Pod) -> bool {
    let containers = pod.spec.as_ref().and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    containers
        .iter()
        .any(|container| container.name == SIDECAR && container.restart_policy.as_deref() == Some("Always"))
}

/// Namespaces that are never looked into.
pub(super) fn excluded(facts: &Facts, namespace: &str) -> bool {
    ["kube-system", "kube-node-lease", facts.control()].contains(&namespace)
        || facts.config("signet-operator").ok().flatten().is_some_and(|config| {
            let settings = programs::settings(config, "operator.toml");
            let names = settings.as_ref().and_then(|all| all.get("inject")?.get("excluded_namespaces")?.as_array());
            names.into_iter().flatten().any(|name| name.as_str() == Some(namespace))
        })
}

/// The pods that opted in: pod disabled beats pod enabled beats namespace; host network is left out of a namespace.
pub(super) fn opted_in(facts: &Facts) -> Read<Vec<&Pod>> {
    let pods = facts.pods.as_ref().map_err(Lack::clone)?;
    let namespaces = facts.namespaces.as_ref().map_err(Lack::clone)?;
    let labelled: BTreeMap<String, bool> = namespaces
        .iter()
        .map(|namespace| {
            let name = namespace.name_any();
            let enabled = namespace.labels().get(INJECT).is_some_and(|value| value == "enabled");
            (name.clone(), enabled && !excluded(facts, &name))
        })
        .collect();
    let opted_in = |pod: &&Pod| {
        let mirror = pod.annotations().contains_key("kubernetes.io/config.mirror");
        let host = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false);
        let of_namespace = labelled.get(&pod.namespace().unwrap_or_default()).copied();
        !mirror
            && match pod.annotations().get(INJECT).map(String::as_str) {
                Some("disabled") => false,
                Some("enabled") => of_namespace.is_some() && !excluded(facts, &pod.namespace().unwrap_or_default()),
                _ => of_namespace == Some(true) && !host,
            }
    };
    Ok(pods.iter().filter(|pod| is_alive(pod)).filter(opted_in).collect())
}

/// `namespace/name`.
pub(super) fn named(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace().unwrap_or_default(), pod.name_any())
}

/// What starts a pod anew: its controller's own command, as far as the pod tells it.
fn restart(pod: &Pod) -> String {
    let namespace = pod.namespace().unwrap_or_default();
    let owner = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    match owner.map(|owner| (owner.kind.as_str(), owner.name.as_str())) {
        Some(("ReplicaSet", name)) => {
            let deployment = name.rsplit_once('-').map_or(name, |(deployment, _)| deployment);
            format!("kubectl -n {namespace} rollout restart deployment/{deployment}")
        }
        Some((kind @ ("StatefulSet" | "DaemonSet"), name)) => {
            format!("kubectl -n {namespace} rollout restart {}/{name}", kind.to_lowercase())
        }
        Some(_) => format!("kubectl -n {namespace} delete pod {}: its controller makes it anew", pod.name_any()),
        None => format!("kubectl -n {namespace} delete pod {}, and create it again", pod.name_any()),
    }
}

/// The commands that start them all anew, as far as a line holds them.
fn restarts<'a>(pods: impl Iterator<Item = &'a Pod>) -> String {
    const SHOWN: usize = 3;
    let mut commands: Vec<String> = Vec::new();
    for command in pods.map(restart) {
        if !commands.contains(&command) {
            commands.push(command);
        }
    }
    let more = if commands.len() > SHOWN { "; and so on for the others" } else { "" };
    commands.truncate(SHOWN);
    commands.join("; ") + more
}

fn about(finding: Finding, pods: &[&Pod]) -> Finding {
    finding.about(pods.iter().map(|pod| named(pod)))
}

fn names(pods: &[&Pod]) -> String {
    let names: Vec<String> = pods.iter().map(|pod| named(pod)).collect();
    some(names.iter().map(String::as_str))
}

/// Nobody opted in: nothing to say.
fn nobody(id: &'static str) -> Finding {
    Finding::ok(id, "no pod has opted in yet")
}

pub(super) fn injected(facts: &Facts) -> Finding {
    const ID: &str = "pods.injected";
    let pods = match opted_in(facts) {
        Ok(pods) if pods.is_empty() => return nobody(ID),
        Ok(pods) => pods,
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let without: Vec<&Pod> = pods.iter().copied().filter(|pod| !has_sidecar(pod)).collect();
    if without.is_empty() {
        return Finding::ok(ID, format!("{} opted in, each has its sidecar", counted(pods.len(), "pod")));
    }
    let found = format!(
        "{} of {} that opted in have no sidecar (started before they opted in): {}",
        without.len(),
        counted(pods.len(), "pod"),
        names(&without)
    );
    about(Finding::fail(ID, found, restarts(without.iter().copied())), &without)
}

pub(super) fn ready(facts: &Facts) -> Finding {
    const ID: &str = "pods.ready";
    let meshed: Vec<&Pod> = match &facts.pods {
        Ok(pods) => pods.iter().filter(|pod| is_alive(pod) && has_sidecar(pod)).collect(),
        Err(lack) => return Finding::lacking(ID, lack),
    };
    if meshed.is_empty() {
        return Finding::ok(ID, "no pod has a sidecar yet");
    }
    let is_ready = |pod: &&Pod| {
        let statuses = pod.status.as_ref().and_then(|status| status.init_container_statuses.as_deref());
        statuses.unwrap_or_default().iter().any(|status| status.name == SIDECAR && status.ready)
    };
    let not: Vec<&Pod> = meshed.iter().copied().filter(|pod| !is_ready(pod)).collect();
    let Some(first) = not.first() else {
        return Finding::ok(ID, format!("{} of {} are ready", meshed.len(), counted(meshed.len(), "sidecar")));
    };
    let found =
        format!("the sidecar is not ready in {} of {}: {}", not.len(), counted(meshed.len(), "pod"), names(&not));
    let hint = format!(
        "kubectl -n {} logs {} -c {SIDECAR} --tail=20",
        first.namespace().unwrap_or_default(),
        first.name_any()
    );
    about(Finding::fail(ID, found, hint), &not)
}

pub(super) fn current(facts: &Facts) -> Finding {
    const ID: &str = "pods.current";
    let pods = match &facts.pods {
        Ok(pods) => pods,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let wanted = match facts.config("signet-operator") {
        Ok(config) => config.and_then(injected_image),
        Err(lack) => return Finding::lacking(ID, &lack),
    };
    let Some(wanted) = wanted else {
        return Finding::skipped(ID, "the operator's configuration names no image to inject", "see install.namespace");
    };
    let meshed: Vec<&Pod> = pods.iter().filter(|pod| is_alive(pod) && has_sidecar(pod)).collect();
    let old: Vec<&Pod> = meshed.iter().copied().filter(|pod| sidecar_image(pod) != Some(wanted.as_str())).collect();
    if old.is_empty() {
        return Finding::ok(
            ID,
            format!("{} of the installed version, {}", counted(meshed.len(), "sidecar"), version_of(&wanted)),
        );
    }
    let mut versions: Vec<&str> = old.iter().filter_map(|pod| sidecar_image(pod)).collect();
    versions.sort_unstable();
    versions.dedup();
    let found = format!(
        "{} of {} have another sidecar ({}) than is injected now ({wanted}): {}",
        old.len(),
        counted(meshed.len(), "pod"),
        some(versions),
        names(&old)
    );
    about(Finding::warn(ID, found, restarts(old.iter().copied())), &old)
}
