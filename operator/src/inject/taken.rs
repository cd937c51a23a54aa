//! Names, ports and the user of ours, which somebody else in the pod may have.
use super::refusal::Refusal;
use super::settings::Settings;
use super::{CAPTURE, PORTS, SIDECAR, UID, containers, pod};
use serde_json::Value;

/// Refuses a pod that has something of ours. Our own containers and volumes, of an earlier call or of the live pod that this
/// one was copied from, are nobody else's.
pub(super) fn check(pod: &Value, settings: &Settings) -> Result<(), Refusal> {
    let spec = &pod["spec"];
    user(&spec["securityContext"], "spec.securityContext".to_owned())?;
    let mut injected_before = false;
    for (kind, container) in pod::all_containers(pod) {
        let name = pod::text(&container["name"]);
        let place = || format!("spec.{kind}[{name}]");
        if [CAPTURE, SIDECAR].contains(&name) {
            if kind != "initContainers" || !settings.is_ours(pod::text(&container["image"])) {
                return Err(Refusal::NameTaken { place: format!("spec.{kind}"), name: name.to_owned() });
            }
            injected_before = true;
            continue;
        }
        user(&container["securityContext"], format!("{}.securityContext", place()))?;
        for port in pod::list(&container["ports"]) {
            let number = port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
            let udp = port["protocol"].as_str().is_some_and(|protocol| protocol != "TCP");
            if let Some(port) = number.filter(|number| PORTS.contains(number) && !udp) {
                return Err(Refusal::PortTaken { place: format!("{}.ports", place()), port });
            }
            if port["name"] == containers::HEALTH_NAME {
                let name = containers::HEALTH_NAME.to_owned();
                return Err(Refusal::NameTaken { place: format!("{}.ports", place()), name });
            }
        }
    }
    for volume in pod::list(&spec["volumes"]) {
        let name = pod::text(&volume["name"]);
        if [containers::RUN, containers::TOKEN].contains(&name) && !injected_before {
            return Err(Refusal::NameTaken { place: "spec.volumes".to_owned(), name: name.to_owned() });
        }
    }
    Ok(())
}

fn user(context: &Value, place: String) -> Result<(), Refusal> {
    if context["runAsUser"].as_i64() == Some(UID) { Err(Refusal::UidTaken { place }) } else { Ok(()) }
}
