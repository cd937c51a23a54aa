//! What people run in a cluster: everything that makes pods, pods with init containers of their own, and with another
//! injector's.
use super::*;
use anyhow::ensure;
use signet_tests::cluster::{WORKLOAD, orders_from, pod_of, service};

/// A pod template, in flow style, for the account `checkout`.
fn template(name: &str, arguments: &[&str], more: &str) -> String {
    format!(
        "{{metadata: {{labels: {{app: {name}}}}}, spec: {{serviceAccountName: checkout, terminationGracePeriodSeconds: 2, \
         {more} containers: [{{name: app, image: '{WORKLOAD}', imagePullPolicy: Never, args: {arguments:?}}}]}}}}"
    )
}

/// `orders`, which admits `checkout` alone, and the account `checkout`.
fn orders(space: &Space<'_>) {
    let account = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: checkout}\n---\n";
    let orders = pod_of("orders", "orders", 1, &["http", "8080"]) + &service("orders", 8080, false);
    space.apply(&(account.to_owned() + &orders + &orders_from("checkout")));
}

#[test]
fn pods_of_a_deployment_a_daemon_set_a_stateful_set_and_a_cron_job_are_in_the_mesh() {
    let Some(cluster) = mesh("pods_of_a_deployment_a_daemon_set_a_stateful_set_and_a_cron_job_are_in_the_mesh") else {
        return;
    };
    let space = cluster.space("kinds", &["signet.dev/inject=enabled"]);
    orders(&space);
    let of = |kind: &str, name: &str, spec: &str, arguments: &[&str]| {
        let template = template(name, arguments, "");
        format!(
            "apiVersion: apps/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{selector: {{matchLabels: {{app: {name}}}}}, \
             {spec} template: {template}}}\n---\n"
        )
    };
    let pause = ["pause"];
    space.apply(&(of("Deployment", "web", "replicas: 2,", &pause) + &of("DaemonSet", "agent", "", &pause)));
    // Each has a name of its own, and speaks before it is spoken to.
    let mail = of(
        "StatefulSet",
        "mail",
        "replicas: 2, serviceName: mail, podManagementPolicy: Parallel,",
        &["first", "2525", "220"],
    );
    space.apply(&(mail + &service("mail", 2525, true)));
    let job = template("nightly", &["call", "http://orders:8080/", "--times", "1"], "restartPolicy: OnFailure,");
    space.apply(&format!(
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {{name: nightly}}\nspec: {{schedule: '0 0 1 1 *', jobTemplate: \
         {{spec: {{backoffLimit: 10, template: {job}}}}}}}"
    ));
    space.ready("pod/orders");
    space.kubectl(&["create", "job", "--from=cronjob/nightly", "now"]).unwrap();
    for what in ["deployment/web", "daemonset/agent", "statefulset/mail"] {
        space
            .kubectl(&["rollout", "status", what, "--timeout=120s"])
            .unwrap_or_else(|e| panic!("{e:#}\n{}", space.describe()));
    }
    space.wait_condition("job/now", "Complete");
    for app in ["web", "agent", "mail", "nightly"] {
        let path = "jsonpath={range .items[*]}{.metadata.name}:{.spec.initContainers[*].name}\n{end}";
        let pods = space.kubectl(&["get", "pods", "-l", &format!("app={app}"), "-o", path]).unwrap();
        assert!(!pods.trim().is_empty(), "{app} has pods");
        for pod in pods.lines() {
            let (pod, containers) = pod.split_once(':').unwrap();
            assert_eq!(containers, "signet-capture signet-sidecar", "{pod}");
            if app != "nightly" {
                admitted(&space, pod, "http://orders:8080/", "hello");
            }
        }
    }
    let web = space.field("pods", ".items[?(@.metadata.labels.app=='web')].metadata.name");
    let caller = web.split(' ').next().unwrap();
    for number in [0, 1] {
        let url = format!("tcp://mail-{number}.mail:2525");
        assert_eq!(space.wait("mail greets", || space.call(caller, &url)), "220");
    }
}

#[test]
fn an_init_container_of_the_application_calls_out_as_the_application_does_and_a_workload_calls_its_own_service() {
    let name = "an_init_container_of_the_application_calls_out_as_the_application_does";
    let Some(cluster) = mesh(name) else { return };
    let space = cluster.space("init", &["signet.dev/inject=enabled", "signet.dev/posture=deny"]);
    orders(&space);
    space.ready("pod/orders");
    let first = format!(
        "  initContainers: [{{name: first, image: '{WORKLOAD}', imagePullPolicy: Never, args: [call, 'http://orders:8080/']}}]\n"
    );
    let pod = pod_of("checkout", "checkout", 2, &["http", "8080", "myself"]);
    space.apply(&(pod.replacen("spec:\n", &format!("spec:\n{first}"), 1) + &service("checkout", 8080, false)));
    space.ready("pod/checkout");
    let said = space.logs("checkout", "first").unwrap();
    assert_eq!(said.lines().last(), Some("ok 200 hello"), "{said}");
    // No rule admits anybody to checkout: it may call itself all the same, whatever the name it uses.
    let address = space.field("pod/checkout", ".status.podIP");
    for host in ["checkout", &address, "127.0.0.1"] {
        admitted(&space, "checkout", &format!("http://{host}:8080/"), "myself");
    }
    assert!(space.call("orders", "http://checkout:8080/").is_err(), "another was answered");
}

#[test]
fn another_injector_that_puts_itself_ahead_does_not_put_the_pod_out_of_the_mesh() {
    let Some(cluster) = mesh("another_injector_that_puts_itself_ahead_does_not_put_the_pod_out_of_the_mesh") else {
        return;
    };
    let space = cluster.space("injectors", &["signet.dev/inject=enabled"]);
    let policy = format!("other-{}", space.name);
    let container = format!(
        "Object.spec.initContainers{{name: 'other', image: '{WORKLOAD}', imagePullPolicy: 'Never', args: ['exit', '0']}}"
    );
    space.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicy
metadata: {{name: {policy}}}
spec:
  failurePolicy: Fail
  reinvocationPolicy: IfNeeded
  matchConstraints:
    resourceRules: [{{apiGroups: [''], apiVersions: [v1], resources: [pods], operations: [CREATE]}}]
    namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {}}}}}
  matchConditions:
  - {{name: has-some, expression: has(object.spec.initContainers)}}
  mutations:
  - patchType: JSONPatch
    jsonPatch:
      expression: >-
        object.spec.initContainers[0].name == 'other' ? [] :
        (object.spec.initContainers.exists(c, c.name == 'other') ? [JSONPatch{{op: 'remove', path: '/spec/initContainers/2'}}] : []) +
        [JSONPatch{{op: 'add', path: '/spec/initContainers/0', value: {container}}}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingAdmissionPolicyBinding
metadata: {{name: {policy}}}
spec: {{policyName: {policy}}}
",
        space.name
    ));
    let _gone = Gone(cluster, policy);
    orders(&space);
    let own =
        format!("  initContainers: [{{name: own, image: '{WORKLOAD}', imagePullPolicy: Never, args: [exit, '0']}}]\n");
    let pod = pod_of("checkout", "probe", 2, &["pause"]).replacen("spec:\n", &format!("spec:\n{own}"), 1);
    // The API server takes a moment to follow a new policy.
    let dry =
        ["-n", &space.name, "apply", "--dry-run=server", "-o", "jsonpath={.spec.initContainers[*].name}", "-f", "-"];
    space.wait("the other injector is at work", || {
        let names = cluster.kubectl_with(&dry, pod.split_once("---\n").unwrap().1)?;
        ensure!(names.contains("other"), "{names}");
        Ok(())
    });
    space.apply(&pod);
    space.ready("pod/orders");
    space.ready("pod/probe");
    let names = space.field("pod/probe", ".spec.initContainers[*].name");
    // Asked again after the other one had put itself ahead, ours went back to where it catches whatever the others send.
    assert_eq!(names, "signet-capture signet-sidecar other own");
    admitted(&space, "probe", "http://orders:8080/", "hello");
}

/// Deletes the other injector, whose objects are in no namespace.
struct Gone(&'static Cluster, String);

impl Drop for Gone {
    fn drop(&mut self) {
        for kind in ["mutatingadmissionpolicybinding", "mutatingadmissionpolicy"] {
            // What is left of it ends with the cluster.
            let _ = self.0.kubectl(&["delete", kind, &self.1, "--wait=false"]);
        }
    }
}
