//! Who is in: every cell of the table of namespace label and pod annotation, typos included.
use super::*;

#[test]
fn f35_every_cell_of_label_and_annotation() {
    const IN: &str = "injected";
    const OFF: &str = "not-opted-in";
    const OUT: &str = "disabled";
    const WRONG: &str = "refused";
    // What the namespace's label says, and then what becomes of pods without the annotation, with `enabled`, with `disabled`,
    // and with typos.
    for (label, none, enabled, disabled, typo) in [
        (None, OFF, IN, OUT, WRONG),
        (Some("enabled"), IN, IN, OUT, WRONG),
        (Some("disabled"), OFF, IN, OUT, WRONG),
        // Refused when it is written (policy signet-labels); one that was there before opts nobody in, like no label.
        (Some("enabeld"), OFF, IN, OUT, WRONG),
        (Some("Enabled"), OFF, IN, OUT, WRONG),
        (Some("true"), OFF, IN, OUT, WRONG),
        (Some(""), OFF, IN, OUT, WRONG),
    ] {
        let labels = label.map(|label| labels(&[(INJECT, label)])).unwrap_or_default();
        let becomes = |annotation: Option<&str>| {
            let pod = annotation.map_or_else(pod, |value| annotated(&json!({INJECT: value})));
            match inject(&pod, "shop", &labels, &settings(), &ProbeKey::random()) {
                Outcome::Injected(_) => IN,
                Outcome::Skipped(skip) => skip.code(),
                Outcome::Refused(refusal) => {
                    assert!(refusal.to_string().contains("want enabled or disabled"), "{refusal}");
                    WRONG
                }
            }
        };
        assert_eq!(becomes(None), none, "label {label:?}, no annotation");
        assert_eq!(becomes(Some("enabled")), enabled, "label {label:?}, enabled");
        assert_eq!(becomes(Some("disabled")), disabled, "label {label:?}, disabled");
        for wrong in ["enabeld", "Enabled", "true", "", " enabled"] {
            assert_eq!(becomes(Some(wrong)), typo, "label {label:?}, annotation {wrong:?}");
        }
    }
}

#[test]
fn nothing_is_injected_where_the_cluster_or_signet_itself_runs() {
    let settings = settings_from("image = \"signet/signet-sidecar:1\"\nexcluded_namespaces = [\"storage\"]");
    for namespace in ["kube-system", "kube-node-lease", "signet-system", "storage"] {
        let pod = annotated(&json!({INJECT: "enabled"}));
        let labels = labels(&[(INJECT, "enabled")]);
        let outcome = inject(&pod, namespace, &labels, &settings, &ProbeKey::random());
        assert_eq!(outcome, Outcome::Skipped(Skip::ExcludedNamespace), "{namespace}");
    }
}

#[test]
fn host_network_is_skipped_in_a_namespace_and_refused_on_a_pod_that_asks() {
    let mut pod = pod();
    pod["spec"]["hostNetwork"] = json!(true);
    assert_eq!(outcome(&pod), Outcome::Skipped(Skip::HostNetwork));
    assert!(Skip::HostNetwork.message().is_some_and(|message| message.starts_with("host-network: ")), "for the Event");
    pod["metadata"]["annotations"] = json!({INJECT: "enabled"});
    assert_eq!(outcome(&pod), Outcome::Refused(Refusal::HostNetwork));
    pod["metadata"]["annotations"] = json!({INJECT: "disabled"});
    assert_eq!(outcome(&pod), Outcome::Skipped(Skip::Disabled));
}

#[test]
fn static_pods_are_the_kubelets() {
    let pod = annotated(&json!({"kubernetes.io/config.mirror": "abc", INJECT: "enabled"}));
    assert_eq!(outcome(&pod), Outcome::Skipped(Skip::StaticPod));
}
