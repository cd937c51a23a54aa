//! `signet check`, `identity` and `edges` on a real cluster: all is well, who a pod is, who called whom; and then something is
//! broken, and found by its name. In a test program of its own, since a broken cluster is everybody's.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use signet_tests::cluster::{Cluster, Space, cluster, orders_from, pod_of, service};
use signet_tests::programs;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Runs `signet`, or under the name of kubectl's plugin: exit code and what it printed.
fn signet(cluster: &Cluster, name: &str, arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(programs().join("signet"));
    let output = command.arg0(name).args(arguments).env("KUBECONFIG", cluster.kubeconfig()).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), said(&output.stdout) + &said(&output.stderr))
}

/// What it prints with `-o json`.
fn json(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<(i32, Value)> {
    let (code, said) = signet(cluster, "signet", &[arguments, &["-o", "json"]].concat());
    Ok((code, serde_json::from_str(&said).with_context(|| said.clone())?))
}

/// Ids of the checks with this sign, and what the first of them found.
fn with_sign(report: &Value, sign: &str) -> Vec<(String, String)> {
    let checks = report["checks"].as_array().unwrap().iter().filter(|check| check["sign"] == sign);
    checks.map(|check| (check["id"].as_str().unwrap().into(), check["found"].as_str().unwrap().into())).collect()
}

/// Waits until `signet check` says that all is well: pods of the installation may still be on their way.
#[track_caller]
fn well(space: &Space<'_>) {
    space.wait("signet check says that all is well", || {
        let (code, report) = json(space.cluster, &["check"])?;
        let not_ok = report["checks"].as_array().unwrap().iter().filter(|check| check["sign"] != "ok").count();
        ensure!(code == 0 && not_ok == 0, "exit code {code}: {report:#}");
        Ok(())
    });
}

/// Waits until one check fails, and no other.
#[track_caller]
fn broken(space: &Space<'_>, id: &str, words: &str) {
    space.wait(&format!("signet check finds {id}"), || {
        let (code, report) = json(space.cluster, &["check"])?;
        let failed = with_sign(&report, "fail");
        let [(found_id, found)] = failed.as_slice() else { bail!("found {failed:?}") };
        ensure!(code == 1 && found_id == id && found.contains(words), "exit code {code}: {failed:?}");
        Ok(())
    });
}

#[test]
fn all_is_well_a_pod_is_named_its_callers_are_seen_and_a_broken_thing_is_found_by_its_name() {
    let Some(cluster) = cluster("all_is_well_a_pod_is_named_its_callers_are_seen") else { return };
    cluster.install(&[]);
    let space = cluster.space("checked", &["signet.dev/inject=enabled"]);
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&(pod_of("stranger", "stranger", 2, &["pause"]) + &pod_of("checkout", "checkout", 2, &["pause"])));
    for name in ["orders", "checkout", "stranger"] {
        space.ready(&format!("pod/{name}"));
    }
    space.apply(&orders_from("checkout"));
    space.wait("checkout is answered", || space.call("checkout", "http://orders:8080/"));
    space.wait("stranger is refused", || match space.call("stranger", "http://orders:8080/") {
        Ok(answer) => bail!("answered {answer}"),
        Err(_) => Ok(()),
    });

    well(&space);
    let (code, text) = signet(cluster, "kubectl-signet", &["check", "-n", &space.name]);
    assert!(code == 0 && text.contains("ok      network.tunnel"), "{text}");

    let (code, orders) = json(cluster, &["identity", "orders", "-n", &space.name]).unwrap();
    let (uid, name) = (space.field("pod/orders", ".metadata.uid"), &space.name);
    assert_eq!(code, 0, "{orders:#}");
    assert!(orders["identity"].as_str().unwrap().ends_with(&format!("/ns/{name}/sa/orders")), "{orders:#}");
    assert_eq!((orders["uid"].as_str(), orders["posture"].as_str()), (Some(uid.as_str()), Some("audit")));
    assert_eq!(orders["rules"][0]["rule"], format!("{name}/orders-from-checkout"), "{orders:#}");
    let (code, said) = signet(cluster, "signet", &["identity", "orderz", "-n", name]);
    assert!(code == 2 && said.contains("did you mean orders?"), "{said}");

    // From the sidecar to its operator, and from there to the holder of the lease.
    space.wait("both callers are seen", || {
        let (_, edges) = json(cluster, &["edges", "-n", name])?;
        let counts = |source: &str| {
            let to = format!("{name}/orders");
            let edges = edges["edges"].as_array().into_iter().flatten();
            let mut between =
                edges.filter(|edge| edge["source"] == format!("{name}/{source}") && edge["destination"] == to);
            between
                .find(|edge| edge["via"].as_str().is_some_and(|via| via.starts_with("mTLS")))
                .cloned()
                .unwrap_or_default()
        };
        let (allowed, refused) = (counts("checkout"), counts("stranger"));
        ensure!(allowed["allowed"].as_u64() > Some(0) && allowed["port"] == 8080, "{edges:#}");
        ensure!(refused["denied"].as_u64() > Some(0) && refused["reasons"]["no_rule_matched"].is_u64(), "{edges:#}");
        Ok(())
    });
    // Who is not on the operator's loopback does not hear who calls whom.
    let operator = cluster
        .kubectl(&[
            "-n",
            "signet-system",
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=operator",
            "-o",
            "jsonpath={.items[0].status.podIP}",
        ])
        .unwrap();
    let mut curl = Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", &format!("http://{operator}:15023/edges")]);
    let answer = cluster.node(1).output(curl).unwrap();
    assert_eq!(String::from_utf8_lossy(&answer.stdout), "403");

    space.apply(
        "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: only-8080}
spec: {podSelector: {matchLabels: {app: orders}}, ingress: [{ports: [{port: 8080}]}]}",
    );
    broken(&space, "network.tunnel", "only-8080 blocks port 15008");
    space.kubectl(&["delete", "networkpolicy", "only-8080"]).unwrap();
    let binding = cluster.kubectl(&["get", "validatingadmissionpolicybinding", "signet-guard", "-o", "json"]).unwrap();
    cluster.kubectl(&["delete", "validatingadmissionpolicybinding", "signet-guard"]).unwrap();
    broken(&space, "install.guard", "ValidatingAdmissionPolicyBinding signet-guard is missing");
    let mut again: Value = serde_json::from_str(&binding).unwrap();
    for field in ["resourceVersion", "uid"] {
        again["metadata"].as_object_mut().unwrap().remove(field);
    }
    cluster.kubectl_with(&["create", "-f", "-"], &again.to_string()).unwrap();
    well(&space);
}
