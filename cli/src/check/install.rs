//! What the chart puts into the cluster beside its programs: the definition of rules, the injection webhook, and the guard.
use super::certificates::{self, End};
use super::facts::Facts;
use super::report::{Finding, some};
use kube::ResourceExt as _;
use serde_json::Value;
use signet_operator::crd;

const UPGRADE: &str = "helm upgrade signet charts/signet --reuse-values -n";
/// The configuration of the webhook, and its Service.
pub(super) const WEBHOOK: &str = "signet-injector";
pub(super) const SERVICE: &str = "signet-webhook";
/// Its two webhooks.
const HOOKS: [&str; 2] = ["namespace.injector.signet.dev", "pod.injector.signet.dev"];
/// Policies, each with a binding of the same name.
const POLICIES: [&str; 3] = ["signet-guard", "signet-labels", "signet-allowrules"];

/// Puts back what the chart renders.
pub(super) fn upgrade(facts: &Facts) -> String {
    format!("{UPGRADE} {}", facts.control())
}

pub(super) fn namespace(facts: &Facts) -> Finding {
    const ID: &str = "install.namespace";
    let installed = match &facts.installed {
        Ok(installed) => installed,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    match &facts.control {
        Some(control) if installed.contains(control) => Finding::ok(ID, format!("Signet is installed in {control}")),
        Some(control) => Finding::fail(
            ID,
            format!("there is no operator of Signet in {control}"),
            match installed.first() {
                Some(other) => format!("signet check --control-namespace {other}"),
                None => format!("helm install signet charts/signet -n {control} --create-namespace"),
            },
        ),
        None if installed.is_empty() => Finding::fail(
            ID,
            "Signet is not installed: no Deployment has the labels app.kubernetes.io/part-of=signet and \
             app.kubernetes.io/component=operator",
            "helm install signet charts/signet -n signet-system --create-namespace",
        ),
        None => Finding::fail(
            ID,
            format!("Signet is installed more than once: {}", some(installed.iter().map(String::as_str))),
            "choose one with --control-namespace, and uninstall the others: webhook and guard have the same names in all",
        )
        .about(installed.iter().cloned()),
    }
}

pub(super) fn definition(facts: &Facts) -> Finding {
    const ID: &str = "install.crd";
    let name = format!("{}.{}", crd::PLURAL, crd::GROUP);
    let found = match &facts.crd {
        Ok(Some(found)) => found,
        Ok(None) => {
            let hint = format!("{} --set crds.enabled=true", upgrade(facts));
            return Finding::fail(ID, format!("there is no CustomResourceDefinition {name}"), hint);
        }
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let conditions = found.pointer("/status/conditions").and_then(Value::as_array);
    let condition = conditions.into_iter().flatten().find(|condition| condition["type"] == "Established");
    if condition.is_none_or(|condition| condition["status"] != "True") {
        let hint = format!("kubectl describe crd {name}");
        return Finding::fail(ID, format!("the CustomResourceDefinition {name} is not established"), hint);
    }
    let expected = crd::definition();
    match difference(expected.pointer("/spec").unwrap_or(&Value::Null), found.pointer("/spec").unwrap_or(&Value::Null))
    {
        None => Finding::ok(ID, format!("{name} is established, and as this version knows it")),
        Some(path) => Finding::fail(
            ID,
            format!(
                "{name} is another version's: it differs from what signet {} knows at spec{path}",
                env!("CARGO_PKG_VERSION")
            ),
            format!("{}, or use the signet of the version that is installed", upgrade(facts)),
        ),
    }
}

/// The first place where something expected is missing or other. What the API server adds of its own is no difference.
fn difference(expected: &Value, found: &Value) -> Option<String> {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => expected.iter().find_map(|(key, value)| {
            match found.get(key) {
                Some(other) => difference(value, other),
                // What is empty or false need not be there.
                None if matches!(value, Value::Bool(false) | Value::Null) => None,
                None => Some(String::new()),
            }
            .map(|rest| format!(".{key}{rest}"))
        }),
        (Value::Array(expected), Value::Array(found)) => {
            if expected.len() != found.len() {
                return Some(String::new());
            }
            let pairs = expected.iter().zip(found).enumerate();
            let mut differences = pairs.map(|(at, (e, f))| difference(e, f).map(|rest| format!("[{at}]{rest}")));
            differences.find_map(|difference| difference)
        }
        (Value::Number(expected), Value::Number(found)) if expected.as_f64() == found.as_f64() => None,
        (expected, found) if expected == found => None,
        _ => Some(String::new()),
    }
}

pub(super) fn webhook(facts: &Facts) -> Finding {
    const ID: &str = "install.webhook";
    let webhooks = match &facts.webhooks {
        Ok(webhooks) => webhooks,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let Some(configuration) = webhooks.iter().find(|webhook| webhook.name_any() == WEBHOOK) else {
        let found = format!("there is no MutatingWebhookConfiguration {WEBHOOK}: no pod gets a sidecar");
        return Finding::fail(ID, found, upgrade(facts));
    };
    let hooks = configuration.webhooks.as_deref().unwrap_or_default();
    for name in HOOKS {
        let Some(hook) = hooks.iter().find(|hook| hook.name == name) else {
            return Finding::fail(ID, format!("{WEBHOOK} has no webhook {name}"), upgrade(facts));
        };
        let service = hook.client_config.service.as_ref();
        let target = service.map_or_else(
            || hook.client_config.url.clone().unwrap_or_default(),
            |service| format!("{}/{}:{}", service.namespace, service.name, service.port.unwrap_or(443)),
        );
        let wanted = format!("{}/{SERVICE}:443", facts.control());
        if target != wanted {
            let found = format!("{name} asks {target}, but the operator is {wanted}");
            return Finding::fail(ID, found, upgrade(facts));
        }
        let hint = || format!("kubectl -n {} logs deployment/signet-operator | grep -i webhook", facts.control());
        if hook.client_config.ca_bundle.as_ref().is_none_or(|bundle| bundle.0.is_empty()) {
            let found = "has an empty caBundle: the API server cannot believe the operator, which writes it";
            return Finding::fail(ID, format!("{name} {found}"), hint());
        }
        // The path itself is for nobody to see.
        let path = service.and_then(|service| service.path.as_deref()).and_then(|path| path.strip_prefix("/inject/"));
        if path.is_none_or(str::is_empty) {
            let found = "has no secret path: the operator, which writes it, refuses the API server without it";
            return Finding::fail(ID, format!("{name} {found}"), hint());
        }
    }
    if let Ok(slices) = &facts.slices {
        let ready = super::programs::ready_endpoints(slices, SERVICE);
        if ready == 0 {
            return Finding::fail(
                ID,
                format!("Service {}/{SERVICE} has no ready endpoint: nobody injects", facts.control()),
                format!("kubectl -n {} get pods -l app.kubernetes.io/component=operator", facts.control()),
            );
        }
    }
    Finding::ok(ID, format!("{WEBHOOK} asks {}/{SERVICE} about pods that opted in", facts.control()))
}

/// When what `caBundle` holds ends.
pub(super) fn webhook_certificate(facts: &Facts) -> Finding {
    const ID: &str = "certificates.webhook";
    let webhooks = match &facts.webhooks {
        Ok(webhooks) => webhooks,
        Err(lack) => return Finding::lacking(ID, lack),
    };
    let hooks = webhooks.iter().filter(|webhook| webhook.name_any() == WEBHOOK);
    let mut last: Option<i64> = None;
    for hook in hooks.flat_map(|configuration| configuration.webhooks.iter().flatten()) {
        let pem = hook.client_config.ca_bundle.as_ref().map(|bundle| bundle.0.as_slice()).unwrap_or_default();
        // Old and new stand there together while one replaces the other: the newest counts.
        match certificates::last_end(pem, facts.now) {
            End::None => {}
            End::Broken(why) => {
                return Finding::fail(
                    ID,
                    format!("caBundle of {} cannot be read: {why}", hook.name),
                    format!("kubectl -n {} rollout restart deployment/signet-operator", facts.control()),
                );
            }
            End::At { end, .. } => last = Some(last.map_or(end, |last| last.min(end))),
        }
    }
    let Some(end) = last else {
        return Finding::skipped(ID, "there is no caBundle to look at", "see install.webhook");
    };
    let hint = format!(
        "kubectl -n {0} logs deployment/signet-operator | grep -i webhook; kubectl -n {0} delete secret signet-webhook-ca makes a new one",
        facts.control()
    );
    certificates::judged(ID, "the webhook's CA", end, facts.now, certificates::SOON, hint)
}

pub(super) fn guard(facts: &Facts) -> Finding {
    const ID: &str = "install.guard";
    let (policies, bindings) = match (&facts.policies, &facts.bindings) {
        (Ok(policies), Ok(bindings)) => (policies, bindings),
        (Err(lack), _) | (_, Err(lack)) => return Finding::lacking(ID, lack),
    };
    let mut wrong = Vec::new();
    for name in POLICIES {
        match policies.iter().find(|policy| policy.name_any() == name) {
            None => wrong.push(format!("ValidatingAdmissionPolicy {name} is missing")),
            Some(policy) => {
                let spec = policy.spec.as_ref();
                if spec.and_then(|spec| spec.failure_policy.as_deref()).is_some_and(|policy| policy != "Fail") {
                    wrong.push(format!(
                        "ValidatingAdmissionPolicy {name} lets pass what it cannot judge (failurePolicy)"
                    ));
                }
            }
        }
        let binding = bindings.iter().find(|binding| binding.name_any() == name);
        match binding.and_then(|binding| binding.spec.as_ref()) {
            None => wrong.push(format!("ValidatingAdmissionPolicyBinding {name} is missing")),
            Some(spec) if spec.policy_name.as_deref() != Some(name) => {
                wrong.push(format!("ValidatingAdmissionPolicyBinding {name} binds another policy"));
            }
            Some(spec) if !spec.validation_actions.iter().flatten().any(|action| action == "Deny") => {
                wrong.push(format!("ValidatingAdmissionPolicyBinding {name} does not deny"));
            }
            Some(spec) if spec.match_resources.is_some() => {
                wrong.push(format!("ValidatingAdmissionPolicyBinding {name} is narrowed (matchResources)"));
            }
            Some(_) => {}
        }
    }
    if wrong.is_empty() {
        return Finding::ok(ID, format!("{} are there and bound", POLICIES.join(", ")));
    }
    let found = format!(
        "{}: a pod that opted in can be up without its sidecar, or a rule be misread",
        some(wrong.iter().map(String::as_str))
    );
    Finding::fail(ID, found, upgrade(facts)).about(wrong)
}
