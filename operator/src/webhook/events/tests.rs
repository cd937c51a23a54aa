//! Which pods there is something to say about. That Events are written is tested on a real cluster.
use super::*;
use serde_json::json;

/// What is said of a pod of this phase and age, on its node's network or with our sidecar.
fn said(phase: &str, seconds: i64, host_network: bool) -> Option<&'static str> {
    let made = Timestamp::from_second(1_800_000_000).unwrap();
    let sidecar = json!([{"name": SIDECAR, "image": "x"}]);
    let pod = json!({
        "metadata": {"name": "a", "creationTimestamp": made.to_string()},
        "spec": {
            "hostNetwork": host_network, "containers": [],
            "initContainers": if host_network { json!([]) } else { sidecar },
        },
        "status": {"phase": phase},
    });
    let pod: Pod = serde_json::from_value(pod).unwrap();
    happened(&pod, made + SignedDuration::from_secs(seconds)).map(|(reason, _)| reason)
}

#[test]
fn a_pod_that_runs_before_anybody_looks_is_told_of_and_one_that_has_long_been_running_is_not() {
    for (host_network, reason) in [(true, "InjectionSkipped"), (false, "Injected")] {
        assert_eq!(said("Pending", 3600, host_network), Some(reason), "it waits for an image");
        assert_eq!(said("Running", 1, host_network), Some(reason));
        assert_eq!(said("Succeeded", 60, host_network), Some(reason), "a short Job");
        assert_eq!(said("Running", 61, host_network), None);
        assert_eq!(said("Running", -5, host_network), Some(reason), "by a clock that is behind");
    }
}
