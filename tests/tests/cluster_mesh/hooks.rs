//! The kubelet's probes and hooks reach the application of a pod that admits nobody, and mean there what they mean anywhere.
use super::*;
use anyhow::ensure;
use signet_tests::cluster::{WORKLOAD, pod, service};

/// All that a namespace admits to ports without rules: nothing.
const CLOSED: [&str; 2] = ["signet.dev/inject=enabled", "signet.dev/posture=deny"];

/// A container that runs the workload, with more of YAML's flow lines in it.
fn container(name: &str, arguments: &[&str], more: &str) -> String {
    format!("  - {{name: {name}, image: '{WORKLOAD}', imagePullPolicy: Never, args: {arguments:?}, {more}}}\n")
}

fn with_containers(name: &str, containers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 5\n  containers:\n{containers}---\n"
    )
}

fn all_three(probe: &str) -> String {
    // An application may start, and answer, slowly where much else goes on. One that is not reached fails at once, thrice.
    let often = "periodSeconds: 1, timeoutSeconds: 10";
    let started = format!("startupProbe: {{{probe}, {often}, failureThreshold: 60}}");
    let others = ["readinessProbe", "livenessProbe"].map(|kind| format!("{kind}: {{{probe}, {often}}}"));
    format!("{started}, {}", others.join(", "))
}

#[test]
fn every_kind_of_probe_is_answered_by_the_application_where_nobody_else_may_call_it() {
    let Some(cluster) = mesh("every_kind_of_probe_is_answered_by_the_application") else { return };
    let space = cluster.space("probes", &CLOSED);
    let plain = cluster.space("prober", &[]);
    let well = [
        container("http", &["http", "8001"], &all_three("httpGet: {port: 8001, path: /health}")),
        container("https", &["https", "8002"], &all_three("httpGet: {port: 8002, path: /health, scheme: HTTPS}")),
        container("tcp", &["echo", "8003"], &all_three("tcpSocket: {port: 8003}")),
        container("grpc", &["grpc", "8004"], &all_three("grpc: {port: 8004}")),
    ]
    .concat();
    // The same kinds, where each must fail: so that an answer above was the application's.
    let ready = |probe: &str| format!("readinessProbe: {{{probe}, periodSeconds: 1}}");
    let ill = [
        container("http", &["http", "8001"], &ready("httpGet: {port: 8001, path: /status/500}")),
        container("https", &["https", "8002"], &ready("httpGet: {port: 8002, path: /status/500, scheme: HTTPS}")),
        container("tcp", &["pause"], &ready("tcpSocket: {port: 8003}")),
        container("grpc", &["pause"], &ready("grpc: {port: 8004}")),
    ]
    .concat();
    space.apply(&(with_containers("well", &well) + &with_containers("ill", &ill) + &pod("near", 1, &["pause"])));
    plain.apply(&pod("outsider", 1, &["pause"]));
    space.ready("pod/well");
    space.ready("pod/near");
    plain.ready("pod/outsider");
    let url = format!("http://{}:8001/", space.field("pod/well", ".status.podIP"));
    assert!(space.call("near", &url).is_err(), "a pod of the mesh was answered");
    assert!(plain.call("outsider", &url).is_err(), "a pod outside the mesh was answered");
    for name in ["http", "https", "tcp", "grpc"] {
        let selector =
            format!("involvedObject.name=ill,involvedObject.fieldPath=spec.containers{{{name}}},reason=Unhealthy");
        space.wait(&format!("the {name} probe of an application that is not well fails"), || {
            let said = space.kubectl(&[
                "get",
                "events",
                "--field-selector",
                &selector,
                "-o",
                "jsonpath={.items[*].message}",
            ])?;
            ensure!(said.contains("Readiness probe failed"), "{said:?}");
            Ok(())
        });
    }
    assert_eq!(space.field("pod/well", ".status.containerStatuses[*].restartCount"), "0 0 0 0");
}

#[test]
fn hooks_are_called_and_a_failing_liveness_probe_restarts_the_application() {
    let Some(cluster) = mesh("hooks_are_called_and_a_failing_liveness_probe_restarts_the_application") else { return };
    let space = cluster.space("hooks", &CLOSED);
    let hooks = "lifecycle: {postStart: {httpGet: {port: 8080, path: /note/started}}, \
                 preStop: {httpGet: {port: 8080, path: /note/stopping}}}, \
                 livenessProbe: {httpGet: {port: 8080, path: /health}, periodSeconds: 1, failureThreshold: 1}";
    space.apply(&with_containers("orders", &container("app", &["http", "8080"], hooks)));
    space.ready("pod/orders");
    assert_eq!(space.logs("orders", "app").unwrap(), "asked /note/started\n");
    space.call("orders", "http://127.0.0.1:8080/fall-ill").unwrap();
    // Not whichever ran before: a hook that comes before the application listens has failed, as it would without Signet, and
    // the kubelet starts over.
    space.wait("the one that was started and fell ill was told to stop, and another runs", || {
        let before = space.kubectl(&["logs", "orders", "-c", "app", "--previous"])?;
        ensure!(before == "asked /note/started\nasked /note/stopping\n", "{before:?}");
        Ok(())
    });
    // A new process is well again.
    space.ready("pod/orders");
}

#[test]
fn a_request_that_is_being_answered_when_its_pod_is_deleted_is_answered_whole() {
    let Some(cluster) = mesh("a_request_that_is_being_answered_when_its_pod_is_deleted_is_answered_whole") else {
        return;
    };
    let space = cluster.space("sigterm", &["signet.dev/inject=enabled"]);
    let patient = |name: &str, node| {
        pod(name, node, &["http", "8080", "whole"])
            .replace("terminationGracePeriodSeconds: 5", "terminationGracePeriodSeconds: 30")
    };
    space.apply(&(patient("orders", 1) + &service("orders", 8080, false)));
    space.apply(&pod("caller", 2, &["pause"]));
    space.ready("pod/orders");
    space.ready("pod/caller");
    admitted(&space, "caller", "http://orders:8080/", "whole");
    let answer = std::thread::scope(|scope| {
        let slow = scope.spawn(|| space.call("caller", "http://orders:8080/slow/4000"));
        space.wait("orders was asked", || {
            let said = space.logs("orders", "app")?;
            ensure!(said.contains("asked /slow/4000"), "{said:?}");
            Ok(())
        });
        space.kubectl(&["delete", "pod", "orders", "--wait=false"]).unwrap();
        slow.join().unwrap()
    });
    assert_eq!(answer.unwrap(), "200 whole");
    // It was ending while it answered, and is not one that was left running.
    space.kubectl(&["wait", "--for=delete", "pod/orders", "--timeout=60s"]).unwrap();
}
