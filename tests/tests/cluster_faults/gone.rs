//! Signet is replaced by another version, and taken away.
use super::*;
use signet_tests::cluster::{Cluster, chart, cluster};

const SYSTEM_FLAGS: [&str; 5] = ["-n", SYSTEM, "--wait", "--timeout", "180s"];

/// `helm upgrade` of what is installed, to this chart with some values changed.
fn upgrade(cluster: &Cluster, values: &[&str]) {
    let chart = chart();
    let chart = chart.to_string_lossy();
    let values = values.iter().flat_map(|value| ["--set", value]);
    let all: Vec<&str> =
        ["upgrade", "signet", &*chart, "--reuse-values"].into_iter().chain(SYSTEM_FLAGS).chain(values).collect();
    cluster.helm(&all).unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.system().describe()));
}

/// Webhooks and admission policies of ours that there are.
fn gates(cluster: &Cluster) -> String {
    let kinds = "mutatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings";
    cluster.kubectl(&["get", kinds, "-o", "name"]).unwrap()
}

/// Waits until nothing of the cluster, of whatever kind, is named after Signet but these, and the user's rules.
#[track_caller]
fn only(space: &Space<'_>, kept: &[&str]) {
    space.wait("nothing else is left", || {
        let kinds = space.cluster.kubectl(&["api-resources", "--verbs=list", "-o", "name"])?;
        // Events tell what was.
        let kinds: Vec<&str> =
            kinds.lines().filter(|kind| !kind.starts_with("events") && *kind != "allowrules.signet.dev").collect();
        let all = space.cluster.kubectl(&["get", &kinds.join(","), "-A", "-o", "name"])?;
        let mut named: Vec<&str> = all.lines().filter(|name| name.contains("signet")).collect();
        named.sort_unstable();
        ensure!(named == kept, "{named:?}");
        Ok(())
    });
}

/// What stays when Signet is uninstalled: root and trust, the user's rules and what they are written in, and the namespace.
const KEPT: [&str; 7] = [
    "configmap/signet-issuers",
    "configmap/signet-mesh",
    "configmap/signet-trust",
    "configmap/signet-trust-state",
    "customresourcedefinition.apiextensions.k8s.io/allowrules.signet.dev",
    "namespace/signet-system",
    "secret/signet-root",
];

/// The number of the release that is there.
fn revision(cluster: &Cluster) -> String {
    let history = cluster.helm(&["history", "signet", "-n", SYSTEM, "-o", "json"]).unwrap();
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    history.as_array().and_then(|all| all.last()).unwrap()["revision"].to_string()
}

fn sidecar_image(space: &Space<'_>, pod: &str) -> String {
    space.field(pod, ".spec.initContainers[?(@.name=='signet-sidecar')].image")
}

#[test]
fn an_upgrade_and_a_rollback_disturb_nobody_and_pods_that_start_get_the_sidecar_of_the_day() {
    let name = "an_upgrade_and_a_rollback_disturb_nobody_and_pods_that_start_get_the_sidecar_of_the_day";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "upgrade");
    cluster.retag("relabelled").unwrap();
    upgrade(cluster, &["image.tag=relabelled"]);
    undisturbed(&space);
    space.wait("every pod of ours is of the new version", || {
        let images = ["get", "pods", "-o", "jsonpath={.items[*].spec.containers[*].image}"];
        let running = cluster.system().kubectl(&images)?;
        ensure!(running.split(' ').all(|image| image.ends_with(":relabelled")), "{running}");
        Ok(())
    });
    space.apply(&pod_of("checkout", "upgraded", 2, &["pause"]));
    space.ready("pod/upgraded");
    assert!(sidecar_image(&space, "pod/upgraded").ends_with(":relabelled"));
    space.wait("old and new sidecars speak to each other", || space.call("upgraded", "http://orders:8080/"));

    cluster.helm(&[&["rollback", "signet"][..], &SYSTEM_FLAGS].concat()).unwrap();
    undisturbed(&space);
    space.apply(&pod_of("checkout", "back", 2, &["pause"]));
    space.ready("pod/back");
    assert!(!sidecar_image(&space, "pod/back").ends_with(":relabelled"));
    space.renewed();
    undisturbed(&space);
}

#[test]
fn uninstalling_is_refused_while_pods_are_in_the_mesh_and_by_force_leaves_nothing_that_blocks_and_a_mesh_that_comes_back()
 {
    let name = "uninstalling_is_refused_while_pods_are_in_the_mesh_and_by_force_leaves_nothing_that_blocks";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "uninstall");
    let uninstall = [&["uninstall", "signet"][..], &SYSTEM_FLAGS].concat();
    let refusal = format!("{:#}", cluster.helm(&uninstall).unwrap_err());
    let log = cluster.system().kubectl(&["logs", "job/signet-uninstall-check"]).unwrap_or_default();
    for pod in ["orders", "checkout", "stranger"] {
        let named = format!("{}/{pod}", space.name);
        assert!(refusal.contains(&named) || log.contains(&named), "{named} is not named in {refusal}\n{log}");
    }
    assert!(refusal.contains("helm rollback") || log.contains("helm rollback"), "{refusal}\n{log}");
    assert!(gates(cluster).contains("signet"), "refused, and yet the webhook is gone");
    undisturbed(&space);

    // Helm has it down as being uninstalled until it is rolled back to what it is.
    cluster.helm(&[&["rollback", "signet", &revision(cluster)][..], &SYSTEM_FLAGS].concat()).unwrap();
    // Without CA certificates end; this is about what happens before.
    upgrade(cluster, &["uninstall.force=true", "ca.lifetimes.leaf=1h", "ca.lifetimes.issuing=7d"]);
    for pod in ["orders", "checkout"] {
        space.wait(&format!("{pod} has a certificate that lasts"), || {
            let end = certificate_end(&space, pod)?;
            ensure!(end > now() + Duration::from_mins(10), "it ends at {end:?}");
            Ok(())
        });
    }
    cluster.helm(&uninstall).unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.system().describe()));
    only(&space, &KEPT);
    undisturbed(&space);
    // Opted in or not, right or wrong: there is nobody who says no.
    space.apply(&(pod("free", 1, &["pause"]) + &orders_from("anybody")));
    space.ready("pod/free");
    space.kubectl(&["label", "namespace", &space.name, "signet.dev/posture=anything"]).unwrap();
    space.kubectl(&["label", "namespace", &space.name, "signet.dev/posture-"]).unwrap();
    space.kubectl(&["delete", "allowrule", "orders-from-anybody"]).unwrap();

    // Root and trust stayed: it is the same mesh again, and who was left behind is in it.
    cluster.install_again(&VALUES).unwrap();
    undisturbed(&space);
    space.apply(&pod_of("checkout", "again", 2, &["pause"]));
    space.ready("pod/again");
    space.wait("who came after is answered by who was there before", || space.call("again", "http://orders:8080/"));
    undisturbed(&space);

    // Root and trust go together when that is asked for.
    upgrade(cluster, &["uninstall.force=true", "ca.purge=true"]);
    cluster.helm(&uninstall).unwrap_or_else(|error| panic!("{error:#}\n{}", cluster.system().describe()));
    only(&space, &["customresourcedefinition.apiextensions.k8s.io/allowrules.signet.dev", "namespace/signet-system"]);
    cluster.install_again(&VALUES).unwrap();
}

/// What it leaves is another mesh.
#[test]
fn when_signet_s_namespace_is_deleted_nobody_is_blocked_and_it_can_be_installed_again() {
    let name = "when_signet_s_namespace_is_deleted_nobody_is_blocked_and_it_can_be_installed_again";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    cluster.install(&VALUES);
    cluster.kubectl(&["delete", "namespace", SYSTEM, "--wait=false"]).unwrap();
    // At once, and whatever of it is still there.
    others_start(cluster);
    cluster.kubectl(&["wait", "--for=delete", "namespace", SYSTEM, "--timeout=120s"]).unwrap();
    others_start(cluster);
    let space = cluster.space("after", &["signet.dev/inject=enabled"]);
    space.wait("webhooks and policies are gone with it", || {
        let left = gates(cluster);
        ensure!(!left.contains("signet"), "{left}");
        Ok(())
    });
    space.apply(&pod("unmeshed", 1, &["pause"]));
    space.ready("pod/unmeshed");
    cluster.install_again(&VALUES).unwrap_or_else(|error| panic!("{error:#}"));
    drop(traffic(cluster, "anew"));
}
