//! CA and operator: enough of them, reachable, healthy, and of one version.
use super::facts::{Facts, component};
use super::install::upgrade;
use super::report::{Finding, counted, some};
use crate::cluster::{Lack, Read, SIDECAR};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use std::collections::BTreeMap;

/// How many ready endpoints a Service has.
pub(super) fn ready_endpoints(slices: &[EndpointSlice], service: &str) -> usize {
    let of_service = slices
        .iter()
        .filter(|slice| slice.labels().get("kubernetes.io/service-name").is_some_and(|name| name == service));
    let ready = of_service
        .flat_map(|slice| &slice.endpoints)
        .filter(|endpoint| endpoint.conditions.as_ref().is_none_or(|conditions| conditions.ready.unwrap_or(true)));
    ready.count()
}

/// A Deployment's replicas, and the endpoints of its Service.
pub(super) fn available(facts: &Facts, id: &'static str, program: &str) -> Finding {
    let name = format!("signet-{program}");
    let namespace = facts.control();
    let (deployments, slices) = match (&facts.deployments, &facts.slices) {
        (Ok(deployments), Ok(slices)) => (deployments, slices),
        (Err(lack), _) | (_, Err(lack)) => return Finding::lacking(id, lack),
    };
    let Some(deployment) = deployments.iter().find(|deployment| component(*deployment) == program) else {
        return Finding::fail(id, format!("there is no Deployment of {name} in {namespace}"), upgrade(facts));
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    let there = deployment.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
    let hint = format!("kubectl -n {namespace} describe pods -l app.kubernetes.io/component={program}");
    if wanted == 0 {
        let hint = format!("kubectl -n {namespace} scale deployment/{} --replicas=2", deployment.name_any());
        return Finding::fail(id, format!("{name} is scaled to 0"), hint);
    }
    if there == 0 {
        return Finding::fail(id, format!("{name}: none of {wanted} replicas is available"), hint);
    }
    if ready_endpoints(slices, &name) == 0 {
        let found = format!("Service {namespace}/{name} has no ready endpoint");
        return Finding::fail(
            id,
            found,
            format!("kubectl -n {namespace} get endpointslices -l kubernetes.io/service-name={name}"),
        );
    }
    if there < wanted {
        return Finding::warn(id, format!("{name}: {there} of {wanted} replicas are available"), hint);
    }
    Finding::ok(id, format!("{name}: {there} of {wanted} replicas are available, its Service has ready endpoints"))
}

/// What each pod answers to `/readyz`, asked on its own port.
pub(super) fn healthy(facts: &Facts, id: &'static str, program: &str) -> Finding {
    let pods = match facts.pods_of(program) {
        Ok(pods) => pods,
        Err(lack) => return Finding::lacking(id, &lack),
    };
    let (mut good, mut wrong, mut unreached) = (0, Vec::new(), Vec::new());
    for pod in pods {
        let name = pod.name_any();
        match facts.health.get(&name).map(|health| &health.ready) {
            Some(Ok(page)) if page.status == 200 => good += 1,
            Some(Ok(page)) => wrong.push(format!("{name}: {}", page.body.trim())),
            Some(Err(lack @ Lack::Forbidden { .. })) => return Finding::lacking(id, lack),
            Some(Err(lack)) => unreached.push(format!("{name}: {lack}")),
            None => {}
        }
    }
    let namespace = facts.control();
    let hint = format!("kubectl -n {namespace} logs -l app.kubernetes.io/component={program} --tail=20");
    if let Some(first) = wrong.first() {
        return Finding::fail(id, format!("not ready: {first}"), hint).about(wrong);
    }
    if let Some(first) = unreached.first() {
        return Finding::warn(id, format!("could not be asked, though it may be well: {first}"), hint).about(unreached);
    }
    if good == 0 {
        return Finding::skipped(id, format!("no pod of signet-{program} runs"), format!("see {program}.available"));
    }
    Finding::ok(id, format!("signet-{program}: {} ready", counted(good, "pod")))
}

/// A number that each pod of a program shows on its page of metrics, without labels; the pods that show none are left out: that
/// they could not be asked is said by the health checks.
pub(super) fn metric(facts: &Facts, program: &str, name: &str) -> Read<BTreeMap<String, u64>> {
    let read = |text: &str| {
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.split('.').next()?.parse().ok())
    };
    let mut found = BTreeMap::new();
    for pod in facts.pods_of(program)?.iter().map(|pod| pod.name_any()) {
        match facts.health.get(&pod).map(|health| &health.metrics) {
            Some(Ok(page)) => found.extend(read(&page.body).map(|value| (pod, value))),
            Some(Err(lack @ Lack::Forbidden { .. })) => return Err(lack.clone()),
            Some(Err(_)) | None => {}
        }
    }
    Ok(found)
}

/// The last part of an image: `0.1.0` of `registry/signet/signet-ca:0.1.0`, or its digest.
pub(super) fn version_of(image: &str) -> &str {
    if let Some((_, digest)) = image.split_once('@') {
        return digest;
    }
    match image.rsplit_once(':') {
        Some((_, tag)) if !tag.contains('/') => tag,
        _ => "latest",
    }
}

/// A program's settings as its ConfigMap holds them.
pub(super) fn settings(config: &ConfigMap, file: &str) -> Option<toml::Table> {
    config.data.as_ref()?.get(file)?.parse().ok()
}

/// The image that is injected: `[inject] image` of the operator's configuration.
pub(super) fn injected_image(operator: &ConfigMap) -> Option<String> {
    Some(settings(operator, "operator.toml")?.get("inject")?.get("image")?.as_str()?.to_owned())
}

/// A pod's containers by name, and their images.
pub(super) fn sidecar_image(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    let sidecar = spec.init_containers.iter().flatten().find(|container| container.name == SIDECAR)?;
    sidecar.image.as_deref()
}

/// Versions among command line, chart, CA, operator and what is injected.
pub(super) fn skew(facts: &Facts) -> Finding {
    const ID: &str = "versions.skew";
    let deployments = match &facts.deployments {
        Ok(deployments) => deployments,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut note = |version: &str, who: &str| found.entry(version.to_owned()).or_default().push(who.to_owned());
    note(env!("CARGO_PKG_VERSION"), "signet (this program)");
    for deployment in deployments {
        let name = deployment.name_any();
        if let Some(chart) = deployment.labels().get("app.kubernetes.io/version") {
            note(chart, &format!("the chart of {name}"));
        }
        let template = deployment.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
        for container in template.map(|spec| spec.containers.as_slice()).unwrap_or_default() {
            if let Some(image) = container.image.as_deref().filter(|image| !image.contains('@')) {
                note(version_of(image), &container.name);
            }
        }
    }
    if deployments.is_empty() {
        return Finding::skipped(ID, "there is nothing to compare with", "see install.namespace");
    }
    let image = facts.config("signet-operator").ok().flatten().and_then(injected_image);
    if let Some(image) = image.as_deref().filter(|image| !image.contains('@')) {
        note(version_of(image), "injected sidecars");
    }
    if let [only] = found.keys().collect::<Vec<_>>().as_slice() {
        return Finding::ok(ID, format!("command line, chart, CA, operator and sidecars to come are {only}"));
    }
    let said: Vec<String> =
        found.iter().map(|(version, who)| format!("{version}: {}", some(who.iter().map(String::as_str)))).collect();
    let hint = format!("{}; or use the signet of the version that is installed", upgrade(facts));
    Finding::warn(ID, said.join("; "), hint).about(said)
}
