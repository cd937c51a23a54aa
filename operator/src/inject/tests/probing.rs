//! Probes and hooks in an injected pod.
use super::*;

/// The container after injection, `SIGNET_PROBES`, and the pod's key.
fn probed(container: Value) -> (Value, Value, String) {
    let mut pod = pod();
    pod["spec"]["containers"][0] = container;
    let new = must_inject(&pod);
    (new["spec"]["containers"][0].clone(), originals(&new), key(&new))
}

fn variable<'a>(pod: &'a Value, name: &str) -> &'a str {
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    env.iter().find(|variable| variable["name"] == name).unwrap()["value"].as_str().unwrap()
}

fn originals(pod: &Value) -> Value {
    serde_json::from_str(&variable(pod, "SIGNET_PROBES").replace("$$", "$")).unwrap()
}

fn key(pod: &Value) -> String {
    variable(pod, "SIGNET_PROBE_KEY").to_owned()
}

fn turned(key: &str, kind: &str) -> Value {
    json!({"path": format!("/app-probe/{key}/app/{kind}"), "port": 15021, "scheme": "HTTP"})
}

#[test]
fn every_kind_of_probe_is_turned_and_kept() {
    let (container, originals, key) = probed(json!({
        "name": "app",
        "ports": [{"name": "http", "containerPort": 8080}],
        "livenessProbe": {
            "httpGet": {"path": "/live", "port": "http", "scheme": "HTTPS", "httpHeaders": [{"name": "X", "value": "y"}]},
            "timeoutSeconds": 3, "periodSeconds": 7, "failureThreshold": 9,
        },
        "readinessProbe": {"tcpSocket": {"port": 8080}},
        "startupProbe": {"grpc": {"port": 9000, "service": "ready"}, "terminationGracePeriodSeconds": 5},
    }));
    assert_eq!(
        container["livenessProbe"],
        json!({"httpGet": turned(&key, "liveness"), "timeoutSeconds": 3, "periodSeconds": 7, "failureThreshold": 9})
    );
    assert_eq!(container["readinessProbe"], json!({"httpGet": turned(&key, "readiness")}));
    assert_eq!(
        container["startupProbe"],
        json!({"httpGet": turned(&key, "startup"), "terminationGracePeriodSeconds": 5})
    );
    let headers = json!([{"name": "X", "value": "y"}]);
    assert_eq!(
        originals["app"],
        json!({
            "liveness": {
                "httpGet": {"path": "/live", "port": 8080, "scheme": "HTTPS", "httpHeaders": headers},
                "timeoutSeconds": 3,
            },
            "readiness": {"tcpSocket": {"port": 8080}, "timeoutSeconds": 1},
            "startup": {"grpc": {"port": 9000, "service": "ready"}, "timeoutSeconds": 1},
        })
    );
}

#[test]
fn hooks_by_http_are_turned_and_others_left() {
    let (container, originals, key) = probed(json!({
        "name": "app",
        "lifecycle": {"postStart": {"httpGet": {"path": "/up", "port": 8080}}, "preStop": {"sleep": {"seconds": 3}}},
    }));
    assert_eq!(container["lifecycle"]["postStart"], json!({"httpGet": turned(&key, "postStart")}));
    assert_eq!(container["lifecycle"]["preStop"], json!({"sleep": {"seconds": 3}}));
    assert_eq!(originals, json!({"app": {"postStart": {"httpGet": {"path": "/up", "port": 8080}}}}));
}

#[test]
fn what_does_not_reach_the_application_over_the_pods_address_stays() {
    let own = json!({
        "name": "app",
        "livenessProbe": {"exec": {"command": ["true"]}},
        // The kubelet calls that host, from the node.
        "readinessProbe": {"httpGet": {"host": "192.0.2.1", "path": "/", "port": 80}},
    });
    let (container, originals, _) = probed(own.clone());
    assert_eq!(container, own);
    assert_eq!(originals, json!({}));
}

#[test]
fn native_sidecars_of_others_have_probes_too() {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{"name": "proxy", "image": "x", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 5432}}}]);
    let new = must_inject(&pod);
    let path = format!("/app-probe/{}/proxy/startup", key(&new));
    assert_eq!(new["spec"]["initContainers"][2]["startupProbe"]["httpGet"]["path"], path);
    assert_eq!(originals(&new)["proxy"]["startup"]["tcpSocket"]["port"], 5432);
}

#[test]
fn originals_survive_a_second_injection_and_a_copy() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/$(HOME)/$$", "port": "http"}});
    let once = must_inject(&pod);
    let again = must_inject(&once);
    assert_eq!(again, once);
    assert_eq!(originals(&again)["app"]["liveness"]["httpGet"]["path"], "/$(HOME)/$$", "nothing is expanded");
}

#[test]
fn a_probe_that_cannot_be_replayed_is_refused() {
    for (probe, words) in [
        (json!({"httpGet": {"path": "/", "port": "web"}}), "the name of a port in its `ports`"),
        (json!({"tcpSocket": {"port": 0}}), "1 to 65535"),
        (json!({"grpc": {"port": 70000}}), "1 to 65535"),
        (json!({"httpGet": {"path": "/readyz", "port": 15021}}), "port 15021 is the sidecar's"),
        (json!({"tcpSocket": {"port": 15008}}), "port 15008 is the sidecar's"),
        (json!({"httpGet": {"path": "/app-probe/app/liveness", "port": 15021}}), "the application's own probe"),
    ] {
        let mut pod = pod();
        pod["spec"]["containers"][0]["livenessProbe"] = probe.clone();
        let refusal = must_refuse(&pod);
        assert!(refusal.starts_with("spec.containers[app].livenessProbe"), "{probe}: {refusal}");
        assert!(refusal.contains(words), "{probe}: {refusal}");
    }
}

#[test]
fn f12_every_pod_has_a_key_of_its_own_that_reinvocation_keeps() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": 8080}});
    let (one, other) = (must_inject(&pod), must_inject(&pod));
    assert_ne!(key(&one), key(&other));
    assert!(key(&one).len() == 32 && key(&one).bytes().all(|byte| byte.is_ascii_hexdigit()), "{}", key(&one));
    let mut again = one.clone();
    // Another injector has put a container with a probe of its own there meanwhile.
    again["spec"]["containers"].as_array_mut().unwrap().push(json!({
        "name": "late", "image": "x", "readinessProbe": {"tcpSocket": {"port": 9000}},
    }));
    let again = must_inject(&again);
    assert_eq!(key(&again), key(&one));
    let path = |container: usize, probe: &str| again["spec"]["containers"][container][probe]["httpGet"]["path"].clone();
    assert_eq!(path(0, "livenessProbe"), format!("/app-probe/{}/app/liveness", key(&one)));
    assert_eq!(path(1, "readinessProbe"), format!("/app-probe/{}/late/readiness", key(&one)));
}

#[test]
fn f12_a_key_that_is_none_is_made_anew_and_so_is_one_that_is_not_there() {
    let mut pod = pod();
    pod["spec"]["containers"][0]["livenessProbe"] = json!({"httpGet": {"path": "/live", "port": 8080}});
    let once = must_inject(&pod);
    for wrong in ["", "0", "../x", "00000000000000000000000000000000x"] {
        let mut copy = once.clone();
        let env = copy["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
        env.iter_mut().find(|variable| variable["name"] == "SIGNET_PROBE_KEY").unwrap()["value"] = json!(wrong);
        let again = must_inject(&copy);
        assert_ne!(key(&again), wrong);
        assert_eq!(again["spec"]["containers"][0]["livenessProbe"]["httpGet"], turned(&key(&again), "liveness"));
        assert_eq!(originals(&again), originals(&once));
    }
    // A pod that was copied from a live one of a version without keys.
    let mut old = once;
    old["spec"]["containers"][0]["livenessProbe"]["httpGet"]["path"] = json!("/app-probe/app/liveness");
    let env = old["spec"]["initContainers"][1]["env"].as_array_mut().unwrap();
    env.retain(|variable| variable["name"] != "SIGNET_PROBE_KEY");
    let again = must_inject(&old);
    assert_eq!(again["spec"]["containers"][0]["livenessProbe"]["httpGet"], turned(&key(&again), "liveness"));
}
