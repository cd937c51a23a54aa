//! What is refused, and that the words say what is wrong, where, and what would be right.
use super::*;

#[test]
fn f35_annotations_with_a_wrong_value_name_it_and_what_would_be_right() {
    for (key, wrong, want) in [
        ("signet.dev/log-level", "verbose", "error, warn, info, debug, trace"),
        ("signet.dev/log-level", "", "error, warn"),
        ("signet.dev/log-level", "info\"\n[ca]", "error, warn"),
        ("signet.dev/cpu-request", "0", "such as 100m"),
        ("signet.dev/cpu-request", "-1", "such as 100m"),
        ("signet.dev/cpu-request", "1e3", "such as 100m"),
        ("signet.dev/cpu-limit", "lots", "such as 100m"),
        ("signet.dev/cpu-limit", "1.2.3", "such as 100m"),
        ("signet.dev/memory-request", "64MiB", "64Mi"),
        ("signet.dev/memory-request", "999999999999999999999999999999", "64Mi"),
        ("signet.dev/memory-limit", "", "64Mi"),
        ("signet.dev/exclude-outbound-ports", "0", "22,8000-8100"),
        ("signet.dev/exclude-outbound-ports", "22;23", "22,8000-8100"),
        ("signet.dev/exclude-outbound-ports", "90-80", "22,8000-8100"),
        ("signet.dev/exclude-outbound-ports", "22,", "22,8000-8100"),
        ("signet.dev/exclude-outbound-ports", "+22", "22,8000-8100"),
        ("signet.dev/exclude-inbound-ports", "65536", "22,8000-8100"),
        ("signet.dev/exclude-inbound-ports", "15000-15002", "without 15001"),
        ("signet.dev/exclude-inbound-ports", "15020", "without 15020"),
        ("signet.dev/exclude-outbound-cidrs", "10.0.0.1/8", "10.0.0.0/8"),
        ("signet.dev/exclude-outbound-cidrs", "10.0.0.0", "10.0.0.0/8"),
        ("signet.dev/exclude-outbound-cidrs", "internal", "10.0.0.0/8"),
        ("signet.dev/drain-time", "25", "25s or 5m"),
        ("signet.dev/drain-time", "3601s", "25s or 5m"),
        ("signet.dev/drain-time", "99999999999m", "25s or 5m"),
        ("signet.dev/drain-time", "-1s", "25s or 5m"),
    ] {
        let refusal = must_refuse(&annotated(&json!({key: wrong})));
        assert!(refusal.starts_with(&format!("annotation {key}: found ")), "{key} = {wrong:?}: {refusal}");
        assert!(
            refusal.split_once("; want ").is_some_and(|(_, right)| right.contains(want)),
            "{key} = {wrong:?}: {refusal}"
        );
        assert!(!refusal.contains('\n'), "one line: {refusal:?}");
    }
}

#[test]
fn f35_an_annotation_of_ours_that_nobody_knows_is_refused() {
    let refusal = must_refuse(&annotated(&json!({"signet.dev/log-levle": "debug"})));
    assert!(refusal.contains("signet.dev/log-levle") && refusal.contains("signet.dev/log-level,"), "{refusal}");
    // Whoever opted out may write what he likes, and other people's annotations are not ours.
    assert!(matches!(outcome(&annotated(&json!({INJECT: "disabled", "signet.dev/x": "y"}))), Outcome::Skipped(_)));
    must_inject(&annotated(&json!({"example.com/log-levle": "debug"})));
}

#[test]
fn f18_a_long_wrong_value_does_not_make_a_long_message() {
    let refusal = must_refuse(&annotated(&json!({"signet.dev/log-level": "x".repeat(200_000)})));
    assert!(refusal.len() < 400, "{}", refusal.len());
    let many = vec!["80"; 65].join(",");
    assert!(must_refuse(&annotated(&json!({"signet.dev/exclude-inbound-ports": many}))).contains("at most 64"));
}

#[test]
fn a_limit_below_the_request_is_refused() {
    let both = json!({"signet.dev/memory-request": "1Gi", "signet.dev/memory-limit": "512Mi"});
    assert!(must_refuse(&annotated(&both)).contains("at least the request, 1Gi"));
}

#[test]
fn namespaces_that_enforce_pod_security_are_refused_by_name() {
    for level in ["baseline", "restricted", "restrictd"] {
        let labels = labels(&[(INJECT, "enabled"), ("pod-security.kubernetes.io/enforce", level)]);
        let outcome = inject(&pod(), "shop", &labels, &settings(), &ProbeKey::random());
        let Outcome::Refused(refusal) = outcome else { panic!("{level}") };
        let words = refusal.to_string();
        assert!(words.contains("namespace shop") && words.contains(level) && words.contains("NET_ADMIN"), "{words}");
    }
    let labels = labels(&[(INJECT, "enabled"), ("pod-security.kubernetes.io/enforce", "privileged")]);
    assert!(matches!(inject(&pod(), "shop", &labels, &settings(), &ProbeKey::random()), Outcome::Injected(_)));
}

#[test]
fn the_sidecars_user_is_taken() {
    let context = json!({"runAsUser": 2137});
    let mut whole = pod();
    whole["spec"]["securityContext"] = context.clone();
    assert!(must_refuse(&whole).starts_with("spec.securityContext.runAsUser: 2137"));
    for kind in ["containers", "initContainers", "ephemeralContainers"] {
        let mut one = pod();
        pod::append(&mut one["spec"][kind], [json!({"name": "other", "securityContext": context})]);
        let refusal = must_refuse(&one);
        assert!(refusal.starts_with(&format!("spec.{kind}[other].securityContext.runAsUser: 2137")), "{refusal}");
    }
}

#[test]
fn the_sidecars_ports_are_taken() {
    for port in PORTS {
        let mut one = pod();
        one["spec"]["containers"][0]["ports"] = json!([{"containerPort": port}]);
        let refusal = must_refuse(&one);
        assert!(refusal.starts_with(&format!("spec.containers[app].ports: port {port} ")), "{refusal}");
        one["spec"]["containers"][0]["ports"] = json!([{"containerPort": port, "protocol": "UDP"}]);
        must_inject(&one);
    }
    let mut named = pod();
    named["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "name": "signet-health"}]);
    assert!(must_refuse(&named).contains("\"signet-health\" is Signet's own"));
}

#[test]
fn the_sidecars_names_are_taken() {
    for name in [CAPTURE, SIDECAR] {
        for kind in ["containers", "initContainers", "ephemeralContainers"] {
            let mut one = pod();
            pod::append(&mut one["spec"][kind], [json!({"name": name, "image": "somebody/else:1"})]);
            let refusal = must_refuse(&one);
            assert!(refusal.starts_with(&format!("spec.{kind}: the name {name:?}")), "{refusal}");
        }
    }
    for name in [containers::RUN, containers::TOKEN] {
        let mut one = pod();
        pod::append(&mut one["spec"]["volumes"], [json!({"name": name, "hostPath": {"path": "/"}})]);
        assert!(must_refuse(&one).starts_with("spec.volumes: the name"), "{name}");
    }
}

#[test]
fn there_is_no_sidecar_for_windows() {
    let mut windows = pod();
    windows["spec"]["os"] = json!({"name": "windows"});
    assert_eq!(outcome(&windows), Outcome::Refused(Refusal::NotLinux));
}

#[test]
fn f18_whatever_is_no_pod_is_refused_without_a_panic() {
    for other in [
        json!(null),
        json!([]),
        json!("pod"),
        json!({}),
        json!({"metadata": {}, "spec": []}),
        json!({"metadata": {}, "spec": {"containers": {}}}),
        json!({"metadata": {}, "spec": {"containers": [1]}}),
        json!({"metadata": {}, "spec": {"containers": [], "initContainers": "x"}}),
        json!({"metadata": {}, "spec": {"containers": [], "volumes": [[]]}}),
    ] {
        assert_eq!(outcome(&other), Outcome::Refused(Refusal::Malformed), "{other}");
    }
    // And what is a pod in outline only is changed without a panic.
    for odd in [
        json!({"metadata": {"annotations": []}, "spec": {"containers": []}}),
        json!({"metadata": {}, "spec": {"containers": [{"livenessProbe": [], "lifecycle": 3, "ports": {}, "env": 1}]}}),
        json!({"metadata": {}, "spec": {"containers": [{"name": 7, "livenessProbe": {"httpGet": [], "grpc": null}}]}}),
    ] {
        must_inject(&odd);
    }
}
