//! The two containers and two volumes that a pod gets, and the sidecar's configuration.
use super::probes::Turned;
use super::settings::{Resources, Settings};
use super::wishes::Wishes;
use super::{CAPTURE, HEALTH_PORT, SIDECAR, UID};
use serde_json::{Value, json};
use signet_enroll::settings::LogFormat;

/// The sidecar's own directory, in memory: its last configuration, so that it restarts without the operator.
pub(super) const RUN: &str = "signet-run";
/// What it proves itself with, and the bundle for first contact.
pub(super) const TOKEN: &str = "signet-token";
/// The name of port 15021, for those who collect metrics.
pub(super) const HEALTH_NAME: &str = "signet-health";
/// The sidecar's configuration.
const CONFIG: &str = "SIGNET_CONFIG";
/// The probes that it replays.
pub(super) const PROBES: &str = "SIGNET_PROBES";
/// What their paths hold, so that nobody else has them replayed.
pub(super) const PROBE_KEY: &str = "SIGNET_PROBE_KEY";

const RUN_PATH: &str = "/run/signet";
const TOKEN_PATH: &str = "/var/run/secrets/signet.dev";

/// The container that writes the redirect rules and ends, and the one that stays.
pub(super) fn both(settings: &Settings, wishes: &Wishes, probes: &Turned, guaranteed: bool) -> (Value, Value) {
    let config = literal(&configuration(settings, wishes));
    let resources = resources(&wishes.resources, guaranteed);
    let capture = json!({
        "name": CAPTURE,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": ["capture", "up", "--config-env", CONFIG],
        "env": [{"name": CONFIG, "value": config}],
        "resources": resources,
        // Everything is said here: the pod's own securityContext must not change it. As another user than root the capability
        // is not effective.
        "securityContext": {
            "runAsUser": 0,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"], "add": ["NET_ADMIN"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}});
    let ready = json!({"path": "/readyz", "port": HEALTH_PORT, "scheme": "HTTP"});
    let sidecar = json!({
        "name": SIDECAR,
        "image": settings.image,
        "imagePullPolicy": settings.pull_policy,
        "args": ["run", "--config-env", CONFIG],
        "restartPolicy": "Always",
        "env": [
            {"name": CONFIG, "value": config},
            {"name": PROBES, "value": literal(&probes.originals)},
            {"name": PROBE_KEY, "value": probes.key.as_str()},
            field("SIGNET_POD_NAME", "metadata.name"),
            field("SIGNET_POD_NAMESPACE", "metadata.namespace"),
            field("SIGNET_POD_IPS", "status.podIPs"),
            field("SIGNET_HOST_IPS", "status.hostIPs"),
        ],
        "ports": [{"name": HEALTH_NAME, "containerPort": HEALTH_PORT, "protocol": "TCP"}],
        // Certificate, configuration, and one connection through the redirect; never again after that. The pod's own init
        // containers wait for it, and have a network then. Ten minutes without a CA are no reason to start over.
        "startupProbe": {
            "httpGet": ready,
            "periodSeconds": 1, "timeoutSeconds": 3, "successThreshold": 1, "failureThreshold": 600,
        },
        "readinessProbe": {
            "httpGet": ready,
            "periodSeconds": 10, "timeoutSeconds": 3, "successThreshold": 1, "failureThreshold": 3,
        },
        "resources": resources,
        "securityContext": {
            "runAsUser": UID,
            "runAsGroup": UID,
            "runAsNonRoot": true,
            "privileged": false,
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "volumeMounts": [
            {"name": RUN, "mountPath": RUN_PATH},
            {"name": TOKEN, "mountPath": TOKEN_PATH, "readOnly": true},
        ],
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "FallbackToLogsOnError",
    });
    (capture, sidecar)
}

/// Both volumes.
pub(super) fn volumes() -> [Value; 2] {
    [
        json!({"name": RUN, "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}),
        json!({"name": TOKEN, "projected": {"defaultMode": 0o644, "sources": [
            {"serviceAccountToken": {"audience": "signet-ca", "expirationSeconds": 600, "path": "token"}},
            {"configMap": {"name": "signet-trust", "items": [{"key": "bundle.pem", "path": "bundle.pem"}]}},
        ]}}),
    ]
}

/// Requests always: an autoscaler cannot reckon with a container that has none. In a Guaranteed pod limits equal to them.
fn resources(wished: &Resources, guaranteed: bool) -> Value {
    let Resources { cpu_request, memory_request, cpu_limit, memory_limit } = wished;
    if guaranteed {
        let both = json!({
            "cpu": cpu_limit.as_ref().unwrap_or(cpu_request).as_str(),
            "memory": memory_limit.as_ref().unwrap_or(memory_request).as_str(),
        });
        return json!({"requests": both, "limits": both});
    }
    let mut resources = json!({"requests": {"cpu": cpu_request.as_str(), "memory": memory_request.as_str()}});
    for (what, limit) in [("cpu", cpu_limit), ("memory", memory_limit)] {
        if let Some(limit) = limit {
            resources["limits"][what] = json!(limit.as_str());
        }
    }
    resources
}

/// The sidecar's TOML. JSON's strings and lists are TOML's.
fn configuration(settings: &Settings, wishes: &Wishes) -> String {
    let Settings { trust_domain, control_namespace, log_format, .. } = settings;
    let format = if *log_format == LogFormat::Json { "json" } else { "text" };
    let networks: Vec<String> = wishes.outbound_cidrs.iter().map(ToString::to_string).collect();
    format!(
        r#"runtime_dir = "{RUN_PATH}/sidecar"
uid = {UID}

[ca]
address = {ca}
trust_domain = {trust_domain}
control_namespace = {namespace}
bundle = "{TOKEN_PATH}/bundle.pem"
token_file = "{TOKEN_PATH}/token"
state_dir = "{RUN_PATH}/enroll"

[operator]
address = {operator}

[capture]
exclude_outbound_ports = {outbound_ports}
exclude_inbound_ports = {inbound_ports}
exclude_outbound_cidrs = {networks}

[drain]
grace = "{grace}s"

[log]
format = "{format}"
filter = {level}

[access_log]
format = "{format}"
"#,
        ca = json!(format!("signet-ca.{control_namespace}.svc:15012")),
        operator = json!(format!("signet-operator.{control_namespace}.svc:15010")),
        trust_domain = json!(trust_domain.to_string()),
        namespace = json!(control_namespace),
        outbound_ports = json!(wishes.outbound_ports),
        inbound_ports = json!(wishes.inbound_ports),
        networks = json!(networks),
        grace = wishes.drain_time.as_secs(),
        level = json!(wishes.log_level),
    )
}

/// A value that the kubelet must not expand: `$(NAME)` would become that variable's value.
fn literal(text: &str) -> String {
    text.replace('$', "$$")
}

/// What the kubelet makes of it.
pub(super) fn unescaped(value: &str) -> String {
    value.replace("$$", "$")
}
