//! Reads `Posture`. Called by `read`; the words are those of the operator's configuration too.
use super::fields::{Object, Sink, port, show};
use super::kinds::{Posture, is_plain};
use super::workload::head;
use ipnet::IpNet;
use serde_json::Value;
use signet_policy::{Decision, Egress, EgressException};

pub(super) fn posture(value: &Value, sink: &Sink) -> Option<Posture> {
    let root = Object::open(value, "", sink)?;
    let head = head(&root);
    let spec = root.object("spec", "inbound, egress or both");
    root.close();
    let spec = spec?;
    let inbound = spec.optional("inbound").and_then(|value| {
        let word = value.as_str().and_then(|word| word.parse::<signet_policy::Posture>().ok());
        if word.is_none() {
            spec.report("inbound", show(value), "allow, audit, authenticated or deny");
        }
        word
    });
    let egress = spec.optional("egress").and_then(|value| egress(value, &spec.path("egress"), sink));
    spec.close();
    let (key, _labels_of_a_posture_select_nothing) = head?;
    Some(Posture { key, inbound, egress })
}

/// `allow` or `deny`.
pub(crate) fn egress_word(word: &str) -> Option<Decision> {
    match word {
        "allow" => Some(Decision::Allow),
        "deny" => Some(Decision::Deny),
        _ => None,
    }
}

fn egress(value: &Value, path: &str, sink: &Sink) -> Option<Egress> {
    let object = Object::open(value, path, sink)?;
    let default = object.required("default", "allow or deny").and_then(|value| {
        let word = value.as_str().and_then(egress_word);
        if word.is_none() {
            object.report("default", show(value), "allow or deny");
        }
        word
    });
    let mut good = true;
    let mut exceptions = Vec::new();
    for (path, value) in object.list("exceptions")? {
        match exception(value, &path, sink) {
            Some(exception) => exceptions.push(exception),
            None => good = false,
        }
    }
    object.close();
    Some(Egress { default: default?, exceptions: good.then_some(exceptions)? })
}

fn exception(value: &Value, path: &str, sink: &Sink) -> Option<EgressException> {
    let object = Object::open(value, path, sink)?;
    let network = object.required("cidr", "a network such as 10.0.0.0/8").and_then(|value| {
        let network = value.as_str().and_then(|text| text.parse::<IpNet>().ok()).filter(is_plain);
        if network.is_none() {
            object.report("cidr", show(value), "a network such as 10.0.0.0/8, without address bits beyond its length");
        }
        network
    });
    let mut good = true;
    let mut ports = Vec::new();
    if object.optional("ports").is_some_and(|v| v.as_array().is_some_and(Vec::is_empty)) {
        good = false;
        object.report("ports", "an empty list", "at least one port; leave `ports` out to mean every port");
    }
    for (path, value) in object.list("ports")? {
        match port(value, &path, sink) {
            Some(port) => ports.push(port),
            None => good = false,
        }
    }
    object.close();
    Some(EgressException { network: network?, ports: good.then_some(ports)? })
}
