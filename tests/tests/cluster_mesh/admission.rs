//! What the API server says to namespaces and pods that opt in, well or badly written. Nothing is started: all of it is a
//! server-side dry run, which passes webhooks and policies as the real thing does.
use super::*;
use anyhow::ensure;
use signet_tests::cluster::{SYSTEM, pod};

/// Of the word `enabled`.
const TYPOS: [&str; 5] = ["enabeld", "Enabled", "true", "", " enabled"];

/// What becomes of a pod: `bare`, `injected`, or why it was refused.
fn becomes(space: &Space<'_>, document: &str) -> String {
    let arguments = ["-n", &space.name, "apply", "--dry-run=server", "-o", "json", "-f", "-"];
    match space.cluster.kubectl_with(&arguments, document) {
        Ok(made) if made.contains("\"signet-sidecar\"") && made.contains("\"signet-capture\"") => "injected".to_owned(),
        Ok(made) if made.contains("\"name\": \"signet-") => panic!("half injected: {made}"),
        Ok(_) => "bare".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}

/// A pod with these annotations, written as YAML.
fn annotated(annotations: &str) -> String {
    let document = pod("one", 0, &["pause"]);
    let document = document.trim_end().trim_end_matches("---");
    document.replacen("  name: one\n", &format!("  name: one\n  annotations: {{{annotations}}}\n"), 1)
}

fn inject(value: &str) -> String {
    annotated(&format!("signet.dev/inject: '{value}'"))
}

#[test]
fn f35_every_cell_of_label_and_annotation_is_in_out_or_refused_with_what_would_be_right() {
    let Some(cluster) = mesh("f35_every_cell_of_label_and_annotation_is_in_out_or_refused") else { return };
    for (label, alone) in [(None, "bare"), (Some("enabled"), "injected"), (Some("disabled"), "bare")] {
        let label = label.map(|value| format!("signet.dev/inject={value}"));
        let labels: Vec<&str> = label.as_deref().into_iter().collect();
        let space = cluster.space("cell", &labels);
        assert_eq!(becomes(&space, &pod("one", 0, &["pause"])), alone, "{labels:?}, no annotation");
        assert_eq!(becomes(&space, &inject("enabled")), "injected", "{labels:?}, enabled");
        assert_eq!(becomes(&space, &inject("disabled")), "bare", "{labels:?}, disabled");
        for typo in TYPOS {
            let told = becomes(&space, &inject(typo));
            assert!(told.contains("want enabled or disabled"), "{labels:?}, annotation {typo:?}: {told}");
        }
    }
    for (label, wanted) in
        [("inject", "want enabled or disabled"), ("posture", "want allow, audit, authenticated or deny")]
    {
        for typo in ["enabeld", "Enabled", "true", "Deny", ""] {
            let document = format!(
                "apiVersion: v1\nkind: Namespace\nmetadata: {{name: typo, labels: {{signet.dev/{label}: '{typo}'}}}}"
            );
            let told = cluster.kubectl_with(&["create", "--dry-run=server", "-f", "-"], &document).unwrap_err();
            assert!(format!("{told:#}").contains(wanted), "label {label}={typo:?}: {told:#}");
        }
    }
}

#[test]
fn f35_a_pod_that_asks_for_what_it_cannot_have_is_told_what_it_can() {
    let Some(cluster) = mesh("f35_a_pod_that_asks_for_what_it_cannot_have_is_told_what_it_can") else { return };
    let space = cluster.space("asks", &["signet.dev/inject=enabled"]);
    for (annotation, words) in [
        ("signet.dev/injct: enabled", "signet.dev/injct"),
        ("signet.dev/log-level: loud", "log-level"),
        ("signet.dev/cpu-request: lots", "cpu-request"),
        ("signet.dev/memory-limit: 1Kb", "memory-limit"),
        ("signet.dev/exclude-inbound-ports: '70000'", "exclude-inbound-ports"),
        ("signet.dev/exclude-outbound-ports: http", "exclude-outbound-ports"),
        ("signet.dev/exclude-outbound-cidrs: 10.0.0.1/8", "exclude-outbound-cidrs"),
        ("signet.dev/drain-time: soon", "drain-time"),
    ] {
        let told = becomes(&space, &annotated(annotation));
        assert!(told.contains(words) && told.contains("want "), "{annotation}: {told}");
    }
    let plain = pod("one", 0, &["pause"]);
    let spec = |more: &str| plain.replacen("spec:\n", &format!("spec:\n{more}"), 1);
    let container = |more: &str| plain.replacen("  - name: app\n", &format!("  - name: app\n{more}"), 1);
    for (document, words) in [
        (container("    securityContext: {runAsUser: 2137}\n"), "2137"),
        (spec("  securityContext: {runAsUser: 2137}\n"), "2137"),
        (container("    ports: [{containerPort: 15008}]\n"), "15008"),
        (plain.replacen("name: app\n", "name: signet-sidecar\n", 1), "signet-sidecar"),
        (inject("enabled").replacen("spec:\n", "spec:\n  hostNetwork: true\n", 1), "hostNetwork"),
    ] {
        let told = becomes(&space, &document);
        assert!(told.contains(words) && told.contains("want "), "{words}: {told}");
    }
    // Nobody asked for it: it is left out, and so is whatever the cluster itself runs.
    assert_eq!(becomes(&space, &spec("  hostNetwork: true\n")), "bare");
    let system = cluster.system();
    let told = becomes(&system, &inject("enabled"));
    assert!(!told.contains("injected"), "a pod of {SYSTEM} is never in the mesh: {told}");
}

#[test]
fn in_a_namespace_that_enforces_pod_security_the_refusal_names_it() {
    let Some(cluster) = mesh("in_a_namespace_that_enforces_pod_security_the_refusal_names_it") else { return };
    for level in ["baseline", "restricted"] {
        let enforced = format!("pod-security.kubernetes.io/enforce={level}");
        let space = cluster.space("strict", &["signet.dev/inject=enabled", &enforced]);
        let told = becomes(&space, &pod("one", 0, &["pause"]));
        assert!(told.contains(level) && told.contains("signet"), "{told}");
    }
}

#[test]
fn describing_a_pod_says_why_it_was_not_injected() {
    let Some(cluster) = mesh("describing_a_pod_says_why_it_was_not_injected") else { return };
    let space = cluster.space("skipped", &["signet.dev/inject=enabled"]);
    // Its image is on the node: it runs as soon as it is stored.
    space.apply(&pod("one", 1, &["pause"]).replacen("spec:\n", "spec:\n  hostNetwork: true\n", 1));
    space.wait("the pod's own Event", || {
        let described = space.kubectl(&["describe", "pod", "one"])?;
        ensure!(described.contains("InjectionSkipped") && described.contains("network"), "{described}");
        Ok(())
    });
}
