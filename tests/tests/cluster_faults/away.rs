//! Something is away, and comes back.
use super::*;
use signet::demo::process::wait_for;
use signet_tests::cluster::{PATIENCE, cluster};

#[test]
fn without_the_operator_traffic_goes_on_an_opted_in_pod_is_refused_and_no_other_pod_waits() {
    let name = "without_the_operator_traffic_goes_on_an_opted_in_pod_is_refused_and_no_other_pod_waits";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "operator");
    scale(cluster, "deployment/signet-operator", 0);
    undisturbed(&space);
    let refusal = space.refused(&pod("late", 1, &["pause"]));
    assert!(refusal.contains("has no Signet sidecar: the injector did not answer"), "{refusal}");
    others_start(cluster);
    assert!(reviews(cluster).unwrap() > 0, "it counts them");
    // An address of the mesh that nobody has told this sidecar of.
    let unheard = format!("http://{}:8080/", space.field("pod/stranger", ".status.podIP"));
    let error = space.call("first", &unheard).unwrap_err();
    let log = space.logs("first", "signet-sidecar").unwrap();
    assert!(log.contains(r#""reason":"unknown_destination""#), "{error:#}\n{log}");
    scale(cluster, "deployment/signet-operator", 2);
    // The webhook's address reaches the API server a moment after the pod is ready.
    space.wait("an opted-in pod is admitted again", || space.try_apply(&pod("late", 1, &["pause"])));
    space.ready("pod/late");
    space.renewed();
    undisturbed(&space);
}

#[test]
fn while_the_ca_is_away_certificates_serve_to_their_end_and_when_it_is_back_everything_comes_back_by_itself() {
    let name = "while_the_ca_is_away_certificates_serve_to_their_end_and_when_it_is_back_everything_comes_back";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "ca");
    scale(cluster, "deployment/signet-ca", 0);
    undisturbed(&space);
    let [orders, checkout] = ["orders", "checkout"].map(|pod| certificate_end(&space, pod).unwrap());
    space.wait("a failed renewal is counted", || {
        let failures = metric(&space, "checkout", "signet_sidecar_certificate_failures_total")?;
        ensure!(failures > 0.0, "none");
        Ok(())
    });
    assert!(space.logs("checkout", "signet-sidecar").unwrap().contains("no new certificate"), "and logged");
    let (first, last) = (orders.min(checkout), orders.max(checkout));
    // By traffic that never stops: that a call from here fails may be the fault of `kubectl exec`.
    space.wait("the reason is in the log", || {
        let said = space.logs("checkout", "app")?;
        let failed = said.lines().find(|line| !line.starts_with("ok"));
        assert!(failed.is_none() || now() >= first, "failed before any certificate had ended: {failed:?}");
        ensure!(space.logs("checkout", "signet-sidecar")?.contains(r#""reason":"svid_expired""#), "not yet");
        Ok(())
    });
    assert!(now() >= first, "refused before any certificate had ended");
    space.wait("calls fail when the certificates have ended", || {
        ensure!(space.call("checkout", "http://orders:8080/").is_err(), "answered");
        Ok(())
    });
    // The operator's has ended too.
    wait_for("every certificate has ended", PATIENCE, || (now() > last).then_some(())).unwrap();
    scale(cluster, "deployment/signet-ca", 2);
    answered_again(&space);
    space.renewed();
    let calls = calls(&space);
    undisturbed_since(&space, calls);
    space.apply(&orders_from("stranger"));
    space.wait("a new rule is followed", || space.call("stranger", "http://orders:8080/"));
}

#[test]
fn while_the_api_server_is_away_for_longer_than_a_leaf_lives_no_call_fails_and_afterwards_rules_are_followed_again() {
    let name = "while_the_api_server_is_away_for_longer_than_a_leaf_lives_no_call_fails";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "api");
    let leases =
        || cluster.kubectl(&["-n", "kube-node-lease", "get", "leases", "-o", "jsonpath={.items[*].spec.renewTime}"]);
    let before = leases().unwrap();
    let ends = ["orders", "checkout"].map(|pod| certificate_end(&space, pod).unwrap());
    // The controllers take a node for dead whose lease they could not read; that would be theirs, not Signet's.
    cluster.control("stop", "kube-controller-manager").unwrap();
    cluster.control("kill", "kube-apiserver").unwrap();
    let last = ends.into_iter().max().unwrap() + Duration::from_secs(5);
    wait_for("every certificate of before has ended", 2 * PATIENCE, || (now() > last).then_some(())).unwrap();
    cluster.control("start", "kube-apiserver").unwrap();
    space.wait("the API server answers", || cluster.kubectl(&["get", "--raw", "/readyz"]));
    space.wait("both nodes say that they live", || {
        let now = leases()?;
        ensure!(now.split(' ').zip(before.split(' ')).all(|(now, before)| now != before), "{before}, then {now}");
        Ok(())
    });
    cluster.control("start", "kube-controller-manager").unwrap();
    undisturbed(&space);
    for (pod, end) in ["orders", "checkout"].into_iter().zip(ends) {
        assert!(certificate_end(&space, pod).unwrap() > end, "{pod} has the certificate that it had");
    }
    space.apply(&orders_from("stranger"));
    space.wait("the new rule is followed", || space.call("stranger", "http://orders:8080/"));
}

#[test]
fn without_the_webhook_s_service_an_opted_in_pod_is_refused_with_a_message_and_no_other_pod_waits() {
    let name = "without_the_webhook_s_service_an_opted_in_pod_is_refused";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    cluster.install(&VALUES);
    let space = cluster.space("webhook", &["signet.dev/inject=enabled"]);
    let service = cluster.system().kubectl(&["get", "service", "signet-webhook", "-o", "json"]).unwrap();
    cluster.system().kubectl(&["delete", "service", "signet-webhook"]).unwrap();
    // Its connection to the webhook is open, and needs no Service any more.
    cluster.control("kill", "kube-apiserver").unwrap();
    cluster.control("start", "kube-apiserver").unwrap();
    space.wait("the API server answers", || cluster.kubectl(&["get", "--raw", "/readyz"]));
    let refusal = space.refused(&pod("late", 1, &["pause"]));
    assert!(refusal.contains("has no Signet sidecar: the injector did not answer"), "{refusal}");
    others_start(cluster);
    cluster.system().apply(&service);
    space.wait("an opted-in pod is admitted again", || space.try_apply(&pod("late", 1, &["pause"])));
    space.ready("pod/late");
}

#[test]
fn a_node_s_kubelet_that_is_killed_and_started_disturbs_nobody() {
    let Some(cluster) = cluster("a_node_s_kubelet_that_is_killed_and_started_disturbs_nobody") else { return };
    let _alone = alone();
    let space = traffic(cluster, "kubelet");
    // A kubelet that starts takes every container of its last ten seconds for a new one, and its pod for not ready until it has
    // probed it; older ones keep what they were.
    answered(&space, 110);
    cluster.control("kill", "kubelet1").unwrap();
    cluster.control("start", "kubelet1").unwrap();
    space.wait("the node answers", || space.run("orders", "app", &["exit", "0"]));
    space.renewed();
    undisturbed(&space);
    assert_eq!(space.field("pod/orders", ".status.containerStatuses[0].restartCount"), "0");
}
