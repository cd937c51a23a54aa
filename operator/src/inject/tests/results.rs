//! What an injected pod looks like.
use super::*;

#[test]
fn both_containers_stand_at_the_head_in_order() {
    let mut pod = pod();
    pod["spec"]["initContainers"] = json!([{"name": "migrate", "image": "orders:1"}]);
    let new = must_inject(&pod);
    assert_eq!(names(&new["spec"]["initContainers"]), [CAPTURE, SIDECAR, "migrate"]);
    assert_eq!(names(&new["spec"]["containers"]), ["app"]);
    assert_eq!(names(&new["spec"]["volumes"]), ["data", "signet-run", "signet-token"]);
    let sidecar = &new["spec"]["initContainers"][1];
    assert_eq!(sidecar["restartPolicy"], "Always");
    assert_eq!(sidecar["startupProbe"]["httpGet"]["path"], "/readyz");
    assert_eq!(new["metadata"]["annotations"][INJECTED], env!("CARGO_PKG_VERSION"));
}

#[test]
fn root_is_for_the_capture_container_alone_and_it_says_everything_itself() {
    let mut pod = pod();
    pod["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsNonRoot": true});
    let new = must_inject(&pod);
    let capture = &new["spec"]["initContainers"][0]["securityContext"];
    assert_eq!((&capture["runAsUser"], &capture["runAsNonRoot"]), (&json!(0), &json!(false)));
    assert_eq!(capture["capabilities"], json!({"drop": ["ALL"], "add": ["NET_ADMIN"]}));
    let sidecar = &new["spec"]["initContainers"][1]["securityContext"];
    assert_eq!((&sidecar["runAsUser"], &sidecar["runAsNonRoot"]), (&json!(2137), &json!(true)));
    assert_eq!(sidecar["capabilities"], json!({"drop": ["ALL"]}));
    for context in [capture, sidecar] {
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["privileged"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    }
    assert_eq!(new["spec"]["securityContext"], pod["spec"]["securityContext"], "the pod's own stays");
    assert_eq!(new["spec"]["initContainers"][0]["volumeMounts"], Value::Null, "no token for the root container");
}

#[test]
fn injection_again_is_the_same() {
    let once = must_inject(&pod());
    assert_eq!(must_inject(&once), once);
}

#[test]
fn reinvocation_moves_ours_to_the_head_again_and_forgets_what_was_mounted_meanwhile() {
    let once = must_inject(&pod());
    let mut changed = once.clone();
    let containers = changed["spec"]["initContainers"].as_array_mut().unwrap();
    containers.insert(0, json!({"name": "other-injector", "image": "x:1"}));
    // The API server mounts the pod's token into every container.
    containers[2]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "kube-api-access-x", "mountPath": "/token"}));
    let again = must_inject(&changed);
    assert_eq!(names(&again["spec"]["initContainers"]), [CAPTURE, SIDECAR, "other-injector"]);
    assert_eq!(again["spec"]["initContainers"][1], once["spec"]["initContainers"][1]);
}

#[test]
fn a_pod_made_again_from_a_live_one_is_injected_anew() {
    // `kubectl debug --copy-to`: containers, volumes and environment of a live pod, of an earlier version of ours.
    let mut copy = must_inject(&pod());
    for container in copy["spec"]["initContainers"].as_array_mut().unwrap() {
        container["image"] = json!("registry:5000/signet/signet-sidecar:0.0.9");
    }
    copy["metadata"]["annotations"][INJECTED] = json!("0.0.9");
    pod::append(&mut copy["spec"]["containers"], [json!({"name": "debugger", "image": "busybox"})]);
    let again = must_inject(&copy);
    assert_eq!(again["spec"]["initContainers"][1]["image"], "registry:5000/signet/signet-sidecar:0.1.0");
    assert_eq!(names(&again["spec"]["volumes"]), ["data", "signet-run", "signet-token"]);
}

#[test]
fn fields_that_this_program_does_not_know_stay() {
    let mut pod = pod();
    pod["spec"]["fromTheFuture"] = json!({"a": [1, {"b": null}]});
    pod["spec"]["containers"][0]["alsoNew"] = json!("x");
    let new = must_inject(&pod);
    assert_eq!(new["spec"]["fromTheFuture"], pod["spec"]["fromTheFuture"]);
    assert_eq!(new["spec"]["containers"], pod["spec"]["containers"]);
}

#[test]
fn requests_are_always_there_and_guaranteed_pods_stay_guaranteed() {
    let burstable = must_inject(&pod());
    for container in &burstable["spec"]["initContainers"].as_array().unwrap()[..2] {
        assert_eq!(container["resources"], json!({"requests": {"cpu": "20m", "memory": "32Mi"}}));
    }
    let mut pod = pod();
    pod["spec"]["containers"][0]["resources"] =
        json!({"limits": {"cpu": 1, "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1024Mi"}});
    let guaranteed = must_inject(&pod);
    for container in &guaranteed["spec"]["initContainers"].as_array().unwrap()[..2] {
        let both = json!({"cpu": "20m", "memory": "32Mi"});
        assert_eq!(container["resources"], json!({"requests": both, "limits": both}));
    }
    // Seen again, with our own containers in it.
    assert_eq!(must_inject(&guaranteed), guaranteed);
    pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] = json!("999m");
    assert_eq!(must_inject(&pod)["spec"]["initContainers"][1]["resources"]["limits"], Value::Null);
}

#[test]
fn a_pods_annotations_reach_the_sidecars_configuration() {
    let new = must_inject(&annotated(&json!({
        "signet.dev/log-level": "debug",
        "signet.dev/cpu-request": "250m",
        "signet.dev/memory-limit": "128Mi",
        "signet.dev/exclude-outbound-ports": "22, 8000-8100",
        "signet.dev/exclude-inbound-ports": "9100",
        "signet.dev/exclude-outbound-cidrs": "10.9.0.0/16,fd00::/8",
        "signet.dev/drain-time": "2m",
    })));
    let sidecar = &new["spec"]["initContainers"][1];
    assert_eq!(
        sidecar["resources"],
        json!({"requests": {"cpu": "250m", "memory": "32Mi"}, "limits": {"memory": "128Mi"}})
    );
    let config = sidecar["env"][0]["value"].as_str().unwrap();
    for line in [
        "runtime_dir = \"/run/signet/sidecar\"",
        "address = \"signet-ca.signet-system.svc:15012\"",
        "address = \"signet-operator.signet-system.svc:15010\"",
        "trust_domain = \"example.org\"",
        "exclude_outbound_ports = [\"22\",\"8000-8100\"]",
        "exclude_inbound_ports = [\"9100\"]",
        "exclude_outbound_cidrs = [\"10.9.0.0/16\",\"fd00::/8\"]",
        "grace = \"120s\"",
        "filter = \"debug\"",
    ] {
        assert!(config.lines().any(|found| found == line), "{line} in\n{config}");
    }
    assert_eq!(new["spec"]["initContainers"][0]["env"][0], sidecar["env"][0], "capture reads the same");
    File::parse(Path::new("SIGNET_CONFIG"), config).expect("TOML");
}

#[test]
fn tools_find_the_application_and_the_autoscaler_may_evict() {
    let key = "cluster-autoscaler.kubernetes.io/safe-to-evict-local-volumes";
    let default = "kubectl.kubernetes.io/default-container";
    let new = must_inject(&pod());
    assert_eq!(new["metadata"]["annotations"][default], "app");
    assert_eq!(new["metadata"]["annotations"][key], "signet-run");
    let new = must_inject(&annotated(&json!({key: "data, cache", default: "cache"})));
    assert_eq!(new["metadata"]["annotations"][default], "cache", "what was set stays");
    assert_eq!(new["metadata"]["annotations"][key], "data,cache,signet-run");
}

#[test]
fn f27_no_key_and_no_token_is_in_an_injected_pod() {
    let new = must_inject(&pod()).to_string();
    assert!(!new.contains("PRIVATE KEY") && !new.contains("BEGIN "), "{new}");
    let sources = &must_inject(&pod())["spec"]["volumes"][2]["projected"]["sources"];
    assert_eq!(
        sources[0]["serviceAccountToken"],
        json!({"audience": "signet-ca", "expirationSeconds": 600, "path": "token"})
    );
    assert_eq!(sources[1]["configMap"]["name"], "signet-trust", "the bundle by a volume, never in the environment");
}

#[test]
fn images_are_ours_by_repository_whatever_the_tag() {
    let settings = settings_from(
        "image = \"registry:5000/signet/signet-sidecar@sha256:00\"\nother_images = [\"old/signet-sidecar\"]",
    );
    for ours in ["registry:5000/signet/signet-sidecar", "registry:5000/signet/signet-sidecar:9", "old/signet-sidecar:1"]
    {
        assert!(settings.is_ours(ours), "{ours}");
    }
    for other in ["signet/signet-sidecar:1", "registry:5000/signet/signet-sidecar-x:1", "evil/old/signet-sidecar:1", ""]
    {
        assert!(!settings.is_ours(other), "{other}");
    }
}
