//! Probes and hooks in an injected pod.
use super::*;

/// The container after injection, and `SIGNET_PROBES`.
fn probed(container: Value) -> (Value, Value) {
    let mut pod = pod();
    pod["spec"]["containers"][0] = container;
    let new = must_inject(&pod);
    (new["spec"]["containers"][0].clone(), originals(&new))
}

fn originals(pod: &Value) -> Value {
    let env = pod["spec"]["initContainers"][1]["env"].as_array().unwrap();
    let value = env.iter().find(|variable| variable["name"] == "SIGNET_PROBES").unwrap()["value"].as_str().unwrap();
    serde_json::from_str(&value.replace("$$", "$")).unwrap()
}

fn turned(kind: &str) -> Value {
    json!({"path": format!("/app-probe/app/{kind}"), "port": 15021, "scheme": "HTTP"})
}

#[test]
fn every_kind_of_probe_is_turned_and_kept() {
    let (container, originals) = probed(json!({
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
        json!({"httpGet": turned("liveness"), "timeoutSeconds": 3, "periodSeconds": 7, "failureThreshold": 9})
    );
    assert_eq!(container["readinessProbe"], json!({"httpGet": turned("readiness")}));
    assert_eq!(container["startupProbe"], json!({"httpGet": turned("startup"), "terminationGracePeriodSeconds": 5}));
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
    let (container, originals) = probed(json!({
        "name": "app",
        "lifecycle": {"postStart": {"httpGet": {"path": "/up", "port": 8080}}, "preStop": {"sleep": {"seconds": 3}}},
    }));
    assert_eq!(container["lifecycle"]["postStart"], json!({"httpGet": turned("postStart")}));
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
    let (container, originals) = probed(own.clone());
    assert_eq!(container, own);
    assert_eq!(originals, json!({}));
}

#[test]
fn native_sidecars_of_others_have_probes_too() {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{"name": "proxy", "image": "x", "restartPolicy": "Always", "startupProbe": {"tcpSocket": {"port": 5432}}}]);
    let new = must_inject(&pod);
    assert_eq!(new["spec"]["initContainers"][2]["startupProbe"]["httpGet"]["path"], "/app-probe/proxy/startup");
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
