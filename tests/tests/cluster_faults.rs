//! What goes on when a part of Signet or of the cluster is away: each judged by traffic that never stops. These tests break the
//! cluster that they share, hence one at a time, and in a program of their own.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use anyhow::ensure;
use signet_tests::cluster::{Cluster, SYSTEM, Space, cluster, orders_from, pod, pod_of, service};
use std::sync::{Mutex, MutexGuard, PoisonError};

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `checkout` on one node calls `orders` on the other, ten times a second and for ever; only it may.
fn traffic<'c>(cluster: &'c Cluster, purpose: &str) -> Space<'c> {
    cluster.install(&[]);
    let space = cluster.space(purpose, &["signet.dev/inject=enabled"]);
    space.apply(&orders_from("checkout"));
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&pod_of("stranger", "stranger", 2, &["pause"]));
    space.ready("pod/orders");
    space.ready("pod/stranger");
    // Once Service and rule are where they must be, no call may fail.
    space.apply(&pod_of("checkout", "first", 2, &["pause"]));
    space.ready("pod/first");
    space.wait("checkout is answered", || space.call("first", "http://orders:8080/"));
    space.wait("a stranger is refused", || {
        ensure!(space.call("stranger", "http://orders:8080/").is_err(), "answered");
        Ok(())
    });
    space.apply(&pod_of("checkout", "checkout", 2, &["call", "http://orders:8080/", "--times", "0"]));
    space.ready("pod/checkout");
    answered_again(&space);
    space
}

/// Waits for ten more answers than there were.
#[track_caller]
fn answered_again(space: &Space<'_>) {
    answered(space, 10);
}

/// Waits for `more` answers than there were.
#[track_caller]
fn answered(space: &Space<'_>, more: usize) {
    let answers =
        || Ok::<_, anyhow::Error>(space.logs("checkout", "app")?.lines().filter(|l| l.starts_with("ok")).count());
    let before = space.wait("the log of checkout", answers);
    space.wait("more answers", || {
        let now = answers()?;
        ensure!(now >= before + more, "{now} answers, {before} before");
        Ok(())
    });
}

/// No call has failed, and the stranger is still refused.
#[track_caller]
fn undisturbed(space: &Space<'_>) {
    answered_again(space);
    let said = space.logs("checkout", "app").unwrap();
    let failed: Vec<_> = said.lines().filter(|line| !line.starts_with("ok")).collect();
    assert_eq!(failed, Vec::<&str>::new(), "of {} calls", said.lines().count());
    assert!(space.call("stranger", "http://orders:8080/").is_err(), "a stranger was answered");
}

/// Scales one of Signet's deployments, and waits until that is so.
fn scale(cluster: &Cluster, what: &str, replicas: u8) {
    cluster.kubectl(&["-n", SYSTEM, "scale", what, &format!("--replicas={replicas}")]).unwrap();
    if replicas == 0 {
        let name = what.rsplit('/').next().unwrap();
        let label = format!("app.kubernetes.io/component={}", name.trim_start_matches("signet-"));
        let gone = ["-n", SYSTEM, "wait", "--for=delete", "pod", "-l", &label, "--timeout=60s"];
        cluster.kubectl(&gone).unwrap();
    } else {
        cluster.kubectl(&["-n", SYSTEM, "rollout", "status", what, "--timeout=120s"]).unwrap();
    }
}

#[test]
fn without_the_operator_traffic_goes_on_an_opted_in_pod_is_refused_and_no_other_pod_waits() {
    let name = "without_the_operator_traffic_goes_on_an_opted_in_pod_is_refused_and_no_other_pod_waits";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "operator");
    scale(cluster, "deployment/signet-operator", 0);
    undisturbed(&space);
    let refusal = space.refused(&pod("late", 1, &["pause"]));
    assert!(refusal.contains("signet"), "{refusal}");
    let other = cluster.space("other", &[]);
    other.apply(&pod("free", 1, &["pause"]));
    other.ready("pod/free");
    scale(cluster, "deployment/signet-operator", 2);
    // The webhook's address reaches the API server a moment after the pod is ready.
    space.wait("an opted-in pod is admitted again", || {
        space.cluster.kubectl_with(&["-n", &space.name, "apply", "-f", "-"], &pod("late", 1, &["pause"]))
    });
    space.ready("pod/late");
    undisturbed(&space);
}

#[test]
fn without_the_ca_traffic_goes_on() {
    let Some(cluster) = cluster("without_the_ca_traffic_goes_on") else { return };
    let _alone = alone();
    let space = traffic(cluster, "ca");
    scale(cluster, "deployment/signet-ca", 0);
    undisturbed(&space);
    scale(cluster, "deployment/signet-ca", 2);
    undisturbed(&space);
}

#[test]
fn without_the_api_server_traffic_goes_on_and_afterwards_rules_are_followed_again() {
    let name = "without_the_api_server_traffic_goes_on_and_afterwards_rules_are_followed_again";
    let Some(cluster) = cluster(name) else { return };
    let _alone = alone();
    let space = traffic(cluster, "api");
    cluster.control("kill", "kube-apiserver").unwrap();
    cluster.control("start", "kube-apiserver").unwrap();
    space.wait("the API server answers", || cluster.kubectl(&["get", "--raw", "/readyz"]));
    undisturbed(&space);
    space.apply(&orders_from("stranger"));
    space.wait("the new rule is followed", || space.call("stranger", "http://orders:8080/"));
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
    undisturbed(&space);
    assert_eq!(space.field("pod/orders", ".status.containerStatuses[0].restartCount"), "0");
}
