//! Probes and lifecycle hooks: turned to the sidecar's health port, with the originals in its environment.
//!
//! The kubelet calls from an address that anybody on the node has, so no address is admitted for its sake. The sidecar replays
//! exactly what is declared here, and nothing else (design section 5, rule 5):
//!
//! ```text
//! kubelet ── GET :15021/app-probe/KEY/CONTAINER/KIND ──▶ sidecar ── the declared probe ──▶ application
//! ```
//! KIND is `liveness`, `readiness`, `startup`, `postStart` or `preStop`. KEY is the pod's own: whoever reaches the port but may
//! not read the pod can make the sidecar call nothing (F12). The kubelet's address would be no better proof: what a pod sees of
//! it differs from network to network, and is often every pod's on the node.
use super::refusal::Refusal;
use super::{HEALTH_PORT, PORTS, containers, pod};
use serde_json::{Map, Value, json};

/// Field of the container, and KIND.
const PROBES: [(&str, &str); 3] =
    [("livenessProbe", "liveness"), ("readinessProbe", "readiness"), ("startupProbe", "startup")];
const HOOKS: [&str; 2] = ["postStart", "preStop"];
/// The kinds of action that reach the application over the network. `exec` and `sleep` do not.
const ACTIONS: [&str; 3] = ["httpGet", "tcpSocket", "grpc"];

/// The element of a pod's probe paths that only who may read the pod knows.
#[derive(Clone, PartialEq, Eq)]
pub struct ProbeKey(String);

impl ProbeKey {
    /// 128 random bits.
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// As it stands in paths: 32 of `0-9a-f`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key that our sidecar has from an earlier call.
    fn of(sidecar: &Value) -> Option<Self> {
        let key = variable(sidecar, containers::PROBE_KEY)?;
        let good = key.len() == 32 && key.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(key.to_owned()))
    }
}

impl std::fmt::Debug for ProbeKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ProbeKey")
    }
}

/// What became of a pod's probes.
pub(super) struct Turned {
    /// The value of `SIGNET_PROBES`.
    pub(super) originals: String,
    /// The one in their paths.
    pub(super) key: ProbeKey,
}

/// Turns every probe and hook of the pod. `before` is our sidecar as an earlier call left it: a probe that is turned already
/// keeps its original from there, and the pod its key; a pod that has none gets `fresh`.
pub(super) fn rewrite(pod: &mut Value, before: Option<&Value>, fresh: &ProbeKey) -> Result<Turned, Refusal> {
    let key = before.and_then(ProbeKey::of).unwrap_or_else(|| fresh.clone());
    let before = before.map(originals).unwrap_or_default();
    let mut probes = Map::new();
    for kind in ["initContainers", "containers"] {
        let Some(containers) = pod["spec"][kind].as_array_mut() else { continue };
        for container in containers {
            // Other init containers have neither probes nor hooks.
            if kind == "containers" || pod::is_native_sidecar(container) {
                let own = rewrite_container(container, &format!("spec.{kind}"), &before, &key)?;
                if !own.is_empty() {
                    probes.insert(pod::text(&container["name"]).to_owned(), Value::Object(own));
                }
            }
        }
    }
    Ok(Turned { originals: Value::Object(probes).to_string(), key })
}

/// `SIGNET_PROBES` of our sidecar.
fn originals(sidecar: &Value) -> Value {
    let value = variable(sidecar, containers::PROBES);
    value.and_then(|text| serde_json::from_str(&containers::unescaped(text)).ok()).unwrap_or_default()
}

fn variable<'a>(container: &'a Value, name: &str) -> Option<&'a str> {
    let variables = pod::list(&container["env"]).iter();
    variables.filter(|variable| variable["name"] == name).find_map(|variable| variable["value"].as_str())
}

fn rewrite_container(
    container: &mut Value,
    list: &str,
    before: &Value,
    key: &ProbeKey,
) -> Result<Map<String, Value>, Refusal> {
    let name = pod::text(&container["name"]).to_owned();
    let ports = container["ports"].clone();
    let mut own = Map::new();
    for (field, kind) in PROBES {
        let path = format!("{list}[{name}].{field}");
        let Some(probe) = container.get_mut(field).filter(|probe| probe.is_object()) else { continue };
        let timeout = probe["timeoutSeconds"].as_i64().filter(|seconds| *seconds > 0).unwrap_or(1);
        if let Some(mut original) = turn(probe, &Place { path, name: &name, kind, ports: &ports, before, key })? {
            original["timeoutSeconds"] = json!(timeout);
            own.insert(kind.to_owned(), original);
        }
    }
    for kind in HOOKS {
        let path = format!("{list}[{name}].lifecycle.{kind}");
        let hook = container.get_mut("lifecycle").and_then(|lifecycle| lifecycle.get_mut(kind));
        let Some(hook) = hook.filter(|hook| hook.is_object()) else { continue };
        // A hook by tcpSocket has never been supported by any kubelet.
        if hook.get("httpGet").is_none() {
            continue;
        }
        if let Some(original) = turn(hook, &Place { path, name: &name, kind, ports: &ports, before, key })? {
            own.insert(kind.to_owned(), original);
        }
    }
    Ok(own)
}

/// A probe or hook, and what must be known about its surroundings.
struct Place<'a> {
    path: String,
    name: &'a str,
    kind: &'a str,
    ports: &'a Value,
    before: &'a Value,
    key: &'a ProbeKey,
}

/// Replaces the action of `probe`, and gives the one that it had; `None` for what does not come to the application over the
/// pod's address.
fn turn(probe: &mut Value, at: &Place<'_>) -> Result<Option<Value>, Refusal> {
    let Some(action) = ACTIONS.into_iter().find(|action| probe.get(action).is_some_and(Value::is_object)) else {
        return Ok(None);
    };
    let mut declared = probe[action].clone();
    let replayed = format!("/app-probe/{}/{}/{}", at.key.as_str(), at.name, at.kind);
    let turned = json!({"path": replayed, "port": HEALTH_PORT, "scheme": "HTTP"});
    // Of an earlier call; in a pod that was copied from a live one perhaps with another key.
    let of_ours = pod::text(&declared["path"]).strip_prefix("/app-probe/").is_some_and(|rest| {
        let own = format!("{}/{}", at.name, at.kind);
        rest.strip_suffix(&own).is_some_and(|key| key.is_empty() || key.find('/') == Some(key.len() - 1))
    });
    if action == "httpGet" && of_ours && declared["port"] == turned["port"] {
        let original = &at.before[at.name][at.kind];
        if !original.is_object() {
            let found = "it calls the sidecar, and what it called before is not known";
            return Err(Refusal::probe(&at.path, found, "the application's own probe"));
        }
        probe["httpGet"] = turned;
        return Ok(Some(original.clone()));
    }
    // With a host of its own the kubelet calls that host, not this pod.
    if !pod::text(&declared["host"]).is_empty() {
        return Ok(None);
    }
    let port = number(&declared["port"], at.ports).ok_or_else(|| {
        let found =
            format!("{action}.port: {} is neither a port nor the name of one of this container", declared["port"]);
        Refusal::probe(&at.path, found, "a number from 1 to 65535, or the name of a port in its `ports`")
    })?;
    if PORTS.contains(&port) {
        return Err(Refusal::PortTaken { place: format!("{}.{action}.port", at.path), port });
    }
    declared["port"] = json!(port);
    if let Some(fields) = declared.as_object_mut() {
        fields.remove("host");
    }
    if let Some(fields) = probe.as_object_mut() {
        fields.remove(action);
        fields.insert("httpGet".to_owned(), turned);
    }
    let mut original = Map::new();
    original.insert(action.to_owned(), declared);
    Ok(Some(Value::Object(original)))
}

/// A port by number, or by its name in the container's `ports`.
fn number(port: &Value, ports: &Value) -> Option<u16> {
    let number = |value: &Value| value.as_u64().and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
    match port.as_str() {
        None => number(port),
        Some(name) => {
            let named = pod::list(ports).iter().find(|port| port["name"] == name);
            // The kubelet takes digits in quotation marks for a number.
            named.map_or_else(|| name.parse().ok().filter(|port| *port > 0), |port| number(&port["containerPort"]))
        }
    }
}
