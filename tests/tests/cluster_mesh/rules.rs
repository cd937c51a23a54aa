//! Rules and postures in a cluster: when they are followed, what their status says, and what does not open a port.
use super::*;
use anyhow::{Context as _, ensure};
use signet::demo::process::wait_for;
use signet_tests::cluster::{PATIENCE, orders_from, pod_of, service};
use std::io::Write as _;
use tokio::time::Instant;

const ORDERS: &str = "http://orders:8080/";

/// `orders` with its Service, and the callers `checkout` and `stranger`, ready.
fn shop<'c>(cluster: &'c Cluster, purpose: &str, labels: &[&str]) -> Space<'c> {
    let space = cluster.space(purpose, &[&["signet.dev/inject=enabled"], labels].concat());
    space.apply(&(pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false)));
    space.apply(&(pod_of("checkout", "checkout", 2, &["pause"]) + &pod_of("stranger", "stranger", 2, &["pause"])));
    for pod in ["orders", "checkout", "stranger"] {
        space.ready(&format!("pod/{pod}"));
    }
    space
}

/// What `kubectl get allowrules` shows of a rule, from the column `MODE` on: accepted, programmed, effective, last matched.
fn columns(space: &Space<'_>, rule: &str) -> anyhow::Result<Vec<String>> {
    let table = space.kubectl(&["get", "allowrules", rule])?;
    let mut lines = table.lines();
    let (head, row) = (lines.next().context("a head")?, lines.next().context("a row")?);
    let from = head.find("MODE").context("a column MODE")?;
    Ok(row.get(from..).unwrap_or_default().split_whitespace().map(str::to_owned).collect())
}

/// Waits until those columns begin with these words.
#[track_caller]
fn shows(space: &Space<'_>, rule: &str, wanted: &[&str]) {
    space.wait(&format!("the status of {rule} is {wanted:?}"), || {
        let columns = columns(space, rule)?;
        ensure!(columns.iter().map(String::as_str).take(wanted.len()).eq(wanted.iter().copied()), "{columns:?}");
        Ok(())
    });
}

#[test]
fn a_rule_is_followed_when_it_is_made_changed_and_deleted_and_its_status_says_so() {
    let Some(cluster) = mesh("a_rule_is_followed_when_it_is_made_changed_and_deleted") else { return };
    let space = shop(cluster, "status", &[]);
    admitted(&space, "stranger", ORDERS, "hello");
    let name = "orders-from-checkout";
    let rule = orders_from("checkout");
    let changed = |what: &str, now: &str, change: &dyn Fn()| {
        let since = Instant::now();
        change();
        let accepted = Instant::now().duration_since(since);
        space.wait(&format!("the rule is {what}"), || {
            let answered = space.run("stranger", "app", &["call", ORDERS, "--limit", "2000"]).is_ok();
            ensure!(answered == (now == "answered"), "a stranger is {now}: {answered}");
            Ok(())
        });
        // Past the capture of the test's output: `tests/run` repeats it. The start of `kubectl` is in it.
        let felt = Instant::now().duration_since(since);
        let _nobody_need_read_it = writeln!(
            std::io::stderr(),
            "MEASURED a rule was {what}: {accepted:.1?} until kubectl returned, {felt:.1?} until it was felt"
        );
    };
    changed("made", "refused", &|| space.apply(&rule));
    admitted(&space, "checkout", ORDERS, "hello");
    shows(&space, name, &["Enforce", "True", "True", "True"]);
    let matched = space.wait("its last match is in the status", || {
        let matched = space.kubectl(&["get", "allowrule", name, "-o", "jsonpath={.status.lastMatched}"])?;
        ensure!(!matched.is_empty(), "nothing");
        Ok(matched)
    });
    assert!(matched.ends_with('Z'), "{matched}");
    let counts = ".status.workloads} {.status.acknowledged} {.status.observedGeneration";
    assert_eq!(space.field(&format!("allowrule/{name}"), counts), "1 1 1");
    changed("changed", "answered", &|| space.apply(&rule.replace("checkout}]", "stranger}]")));
    space.wait("the new generation is acknowledged", || {
        let counts = space.kubectl(&["get", "allowrule", name, "-o", &format!("jsonpath={{{counts}}}")])?;
        ensure!(counts == "1 1 2", "{counts}");
        Ok(())
    });
    space.apply(&rule);
    refused(&space, "stranger", ORDERS);
    changed("deleted", "answered", &|| drop(space.kubectl(&["delete", "allowrule", name]).unwrap()));
}

#[test]
fn a_rule_that_selects_nothing_or_a_port_that_nobody_has_says_so() {
    let Some(cluster) = mesh("a_rule_that_selects_nothing_or_a_port_that_nobody_has_says_so") else { return };
    let space = cluster.space("nothing", &["signet.dev/inject=enabled"]);
    space.apply(&pod_of("orders", "orders", 1, &["http", "8080"]));
    space.ready("pod/orders");
    let named = |name: &str, target: &str| {
        format!(
            "---\napiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {{name: {name}}}\n\
             spec: {{target: {target}, from: [{{serviceAccount: checkout}}]}}\n"
        )
    };
    let rules = [
        (orders_from("checkout"), "orders-from-checkout", "SelectsNothing", "orders does not exist"),
        (
            named("nobody", "{podSelector: {matchLabels: {app: nobody}}}"),
            "nobody",
            "SelectsNothing",
            "selects no workload",
        ),
        (named("no-name", "{all: true, ports: [no-such-port]}"), "no-name", "NoSuchPort", "no-such-port"),
    ];
    for (rule, name, reason, words) in rules {
        space.apply(&rule);
        shows(&space, name, &["Enforce", "True"]);
        let effective = |field: &str| {
            let path = format!("jsonpath={{.status.conditions[?(@.type=='Effective')].{field}}}");
            space.kubectl(&["get", "allowrule", name, "-o", &path])
        };
        space.wait("it is not effective, and says why", || {
            let (said, because, why) = (effective("status")?, effective("reason")?, effective("message")?);
            ensure!(said == "False" && because == reason && why.contains(words), "{name} is {said}, {because}: {why}");
            Ok(())
        });
    }
}

#[test]
fn a_port_stays_guarded_while_the_service_of_its_rule_is_away_and_when_it_is_made_again() {
    let Some(cluster) = mesh("a_port_stays_guarded_while_the_service_of_its_rule_is_away") else { return };
    let space = shop(cluster, "target", &[]);
    let address = format!("http://{}:8080/", space.field("pod/orders", ".status.podIP"));
    space.apply(&orders_from("checkout"));
    refused(&space, "stranger", &address);
    admitted(&space, "checkout", &address, "hello");
    shows(&space, "orders-from-checkout", &["Enforce", "True", "True", "True"]);
    let guarded = |when: &str| {
        for _ in 0..5 {
            let answer = space.call("stranger", &address);
            assert!(answer.is_err(), "{when} a stranger was answered {answer:?}");
            admitted(&space, "checkout", &address, "hello");
        }
    };
    space.kubectl(&["delete", "service", "orders"]).unwrap();
    guarded("right after the Service was deleted");
    // The operator has seen it: nobody knows the name any more, and the status says what the rule still holds.
    space.wait("the status says that the Service is away", || {
        let path = "jsonpath={.status.conditions[?(@.type=='Effective')].message}";
        let why = space.kubectl(&["get", "allowrule", "orders-from-checkout", "-o", path])?;
        ensure!(why.contains("orders"), "{why}");
        Ok(())
    });
    guarded("without the Service");
    space.apply(&service("orders", 8080, false));
    guarded("right after the Service was made again");
    shows(&space, "orders-from-checkout", &["Enforce", "True", "True", "True"]);
    guarded("with the Service made again");
    admitted(&space, "checkout", ORDERS, "hello");
}

#[test]
fn an_audit_rule_changes_nothing_and_its_shadow_verdicts_are_logged_and_counted() {
    let Some(cluster) = mesh("an_audit_rule_changes_nothing_and_its_shadow_verdicts_are_logged_and_counted") else {
        return;
    };
    let space = shop(cluster, "audit", &[]);
    space.apply(&orders_from("checkout").replace("  from:", "  mode: Audit\n  from:"));
    shows(&space, "orders-from-checkout", &["Audit", "True", "True"]);
    for caller in ["checkout", "stranger"] {
        admitted(&space, caller, ORDERS, "hello");
    }
    space.wait("the log has what would have been refused, and nothing of who would have been admitted", || {
        let log = space.logs("orders", "signet-sidecar")?;
        let of = |account: &str| -> Vec<serde_json::Value> {
            let peer = format!("/sa/{account}");
            let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
            lines.filter(|line| line["peer"].as_str().is_some_and(|found| found.ends_with(&peer))).collect()
        };
        let (stranger, checkout) = (of("stranger"), of("checkout"));
        ensure!(!stranger.is_empty() && !checkout.is_empty(), "{log}");
        let shadow = |line: &serde_json::Value, wanted: &str| line["verdict"]["shadow"]["decision"] == wanted;
        ensure!(stranger.iter().all(|line| shadow(line, "deny")), "{stranger:?}");
        ensure!(!checkout.iter().any(|line| shadow(line, "deny")), "{checkout:?}");
        Ok(())
    });
    let metrics = space.call("orders", "http://127.0.0.1:15021/metrics").unwrap();
    let shadows = metrics.lines().find(|line| line.contains("_shadow_verdicts_total") && line.contains("deny"));
    assert!(shadows.is_some_and(|line| !line.ends_with(" 0")), "{metrics}");
}

#[test]
fn a_namespace_s_posture_changes_what_its_open_ports_admit_while_pods_run() {
    let Some(cluster) = mesh("a_namespace_s_posture_changes_what_its_open_ports_admit_while_pods_run") else { return };
    let space = shop(cluster, "posture", &["signet.dev/posture=deny"]);
    let plain = cluster.space("plain", &[]);
    plain.apply(&signet_tests::cluster::pod("outsider", 2, &["pause"]));
    plain.ready("pod/outsider");
    let address = format!("http://{}:8080/", space.field("pod/orders", ".status.podIP"));
    for (posture, mesh, outside) in [
        ("deny", false, false),
        ("authenticated", true, false),
        ("audit", true, true),
        ("allow", true, true),
        ("deny", false, false),
    ] {
        space
            .kubectl(&["label", "namespace", &space.name, "--overwrite", &format!("signet.dev/posture={posture}")])
            .unwrap();
        for (caller, calls, wanted) in [("checkout", &space, mesh), ("outsider", &plain, outside)] {
            if wanted {
                admitted(calls, caller, &address, "hello");
            } else {
                refused(calls, caller, &address);
            }
        }
    }
}

#[test]
fn f7_a_rule_with_an_unknown_field_guards_its_port_and_admits_nobody() {
    let Some(cluster) = mesh("f7_a_rule_with_an_unknown_field_guards_its_port_and_admits_nobody") else { return };
    let space = shop(cluster, "unknown", &[]);
    admitted(&space, "checkout", ORDERS, "hello");
    let rule = orders_from("checkout").replace("  from:", "  only: [morning]\n  from:");
    let create = |validate: &str| {
        cluster.kubectl_with(&["-n", &space.name, "create", &format!("--validate={validate}"), "-f", "-"], &rule)
    };
    for validate in ["strict", "false"] {
        let told = format!("{:#}", create(validate).expect_err("a field that nobody knows was accepted"));
        assert!(told.contains("only"), "--validate={validate}: {told}");
    }
    // Past the policy too, as a rule would be that a newer version admitted.
    let patch = |resources: &str| {
        let patch = format!("{{\"spec\":{{\"matchResources\":{resources}}}}}");
        let binding = ["patch", "validatingadmissionpolicybinding", "signet-allowrules", "--type=merge", "-p", &patch];
        cluster.kubectl(&binding).unwrap();
    };
    patch(&format!(
        "{{\"namespaceSelector\":{{\"matchExpressions\":[{{\"key\":\"kubernetes.io/metadata.name\",\"operator\":\"NotIn\",\
         \"values\":[\"{}\"]}}]}}}}",
        space.name
    ));
    let made = wait_for("the API server follows the policy", PATIENCE, || create("false").ok());
    patch("null");
    made.unwrap();
    for caller in ["stranger", "checkout"] {
        refused(&space, caller, ORDERS);
    }
    shows(&space, "orders-from-checkout", &["Enforce", "False"]);
    let path = ".status.conditions[?(@.type=='Accepted')].message";
    let why = space.field("allowrule/orders-from-checkout", path);
    assert!(why.contains("only"), "{why}");
    for caller in ["stranger", "checkout"] {
        assert!(space.call(caller, ORDERS).is_err(), "{caller} was answered");
    }
}
