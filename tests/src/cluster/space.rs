//! A namespace of the cluster that belongs to one test: its objects, what its pods say, and how it all stood when something
//! failed.
use super::{Cluster, PATIENCE, WORKLOAD};
use signet::demo::process::wait_for;
use std::{
    fmt::Write as _,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

/// How many spaces this process has made.
static SPACES: AtomicU32 = AtomicU32::new(0);

/// A namespace; deleted when dropped.
#[derive(Debug)]
pub struct Space<'c> {
    /// The cluster that it is in.
    pub cluster: &'c Cluster,
    /// Its name.
    pub name: String,
}

impl<'c> Space<'c> {
    pub(super) fn new(cluster: &'c Cluster, purpose: &str, labels: &[&str]) -> anyhow::Result<Self> {
        let name = format!("{purpose}-{}", SPACES.fetch_add(1, Ordering::Relaxed));
        // Labels with the object, not after it: admission must find them from the first pod on.
        let labels: String =
            labels.iter().filter_map(|label| label.split_once('=')).fold(String::new(), |mut text, (k, v)| {
                // Writing to a string does not fail.
                let _ = writeln!(text, "    {k}: \"{v}\"");
                text
            });
        let labels = if labels.is_empty() { String::new() } else { format!("  labels:\n{labels}") };
        cluster.kubectl_with(
            &["create", "-f", "-"],
            &format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n{labels}"),
        )?;
        let space = Self { cluster, name };
        // A pod that is made before it is refused.
        wait_for("the namespace's service account is there", PATIENCE, || {
            space.kubectl(&["get", "serviceaccount", "default"]).ok()
        })?;
        Ok(space)
    }

    /// `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.cluster.kubectl(&[&["-n", &self.name], arguments].concat())
    }

    /// Applies documents in this namespace; what `kubectl` said, or why they were refused.
    pub fn try_apply(&self, documents: &str) -> anyhow::Result<String> {
        self.cluster.kubectl_with(&["-n", &self.name, "apply", "-f", "-"], documents)
    }

    /// Applies documents that must be accepted.
    #[track_caller]
    pub fn apply(&self, documents: &str) {
        if let Err(error) = self.try_apply(documents) {
            panic!("{error:#}\n{documents}");
        }
    }

    /// Applies documents that must be refused; gives the reason.
    #[track_caller]
    pub fn refused(&self, documents: &str) -> String {
        match self.try_apply(documents) {
            Err(error) => format!("{error:#}"),
            Ok(said) => panic!("this should have been refused: {said}\n{documents}"),
        }
    }

    /// Waits until a pod is ready, or a deployment available: `pod/orders`, `deployment/orders`.
    #[track_caller]
    pub fn ready(&self, what: &str) {
        let condition = if what.starts_with("deployment") { "Available" } else { "Ready" };
        self.wait_condition(what, condition);
    }

    /// Waits for a condition of an object.
    #[track_caller]
    pub fn wait_condition(&self, what: &str, condition: &str) {
        let limit = format!("--timeout={}s", PATIENCE.as_secs());
        if let Err(error) = self.kubectl(&["wait", &format!("--for=condition={condition}"), &limit, what]) {
            panic!("{error:#}\n{}", self.describe());
        }
    }

    /// Waits until `probe` gives something; what it last said is in the failure.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> anyhow::Result<T>) -> T {
        let mut last = String::new();
        let found = wait_for(what, PATIENCE, || match probe() {
            Ok(found) => Some(found),
            Err(error) => {
                last = format!("{error:#}");
                // Each probe is a process or more.
                std::thread::sleep(Duration::from_millis(200));
                None
            }
        });
        found.unwrap_or_else(|error| panic!("{error:#}; last: {last}\n{}", self.describe()))
    }

    /// One field of an object, by JSON path without its braces: `.status.podIP`.
    #[track_caller]
    pub fn field(&self, what: &str, path: &str) -> String {
        let answer = self.kubectl(&["get", what, "-o", &format!("jsonpath={{{path}}}")]);
        answer.unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()))
    }

    /// Runs the workload's program in a pod: what it said, as an error if it ended with another code than 0.
    pub fn run(&self, pod: &str, container: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl(&[&["exec", pod, "-c", container, "--", "/signet-workload"], arguments].concat())
    }

    /// One call from a pod's container `app`, see `signet-workload call`: what was answered, or how it failed.
    pub fn call(&self, pod: &str, url: &str) -> anyhow::Result<String> {
        let said = self.run(pod, "app", &["call", url])?;
        Ok(said.trim().strip_prefix("ok ").unwrap_or(&said).to_owned())
    }

    /// What a container has said.
    pub fn logs(&self, pod: &str, container: &str) -> anyhow::Result<String> {
        self.kubectl(&["logs", pod, "-c", container])
    }

    /// How it all stands: pods, events, and the end of what every container said.
    pub fn describe(&self) -> String {
        let part = |arguments: &[&str]| self.kubectl(arguments).unwrap_or_else(|error| format!("{error:#}\n"));
        let mut text = format!("--- namespace {}\n", self.name);
        text += &part(&["get", "pods,services", "-o", "wide"]);
        text += &part(&["get", "events", "--sort-by=.lastTimestamp"]);
        let pods = part(&["get", "pods", "-o", "name"]);
        for pod in pods.lines() {
            let logs = ["logs", pod, "--all-containers", "--prefix", "--tail=20", "--ignore-errors"];
            // Writing to a string does not fail.
            let _ = write!(text, "--- {pod}\n{}", part(&logs));
        }
        text
    }
}

impl Drop for Space<'_> {
    fn drop(&mut self) {
        // What is left of it ends with the cluster.
        let _ = self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
    }
}

/// A pod whose container `app` runs the workload with these arguments, on node 1 or 2 (0: wherever there is room), labelled
/// `app: NAME`. For what this does not say, tests write their own YAML.
pub fn pod(name: &str, node: u8, arguments: &[&str]) -> String {
    pod_of("default", name, node, arguments)
}

/// The same for a service account, which is made with it.
pub fn pod_of(account: &str, name: &str, node: u8, arguments: &[&str]) -> String {
    let node = if node == 0 { String::new() } else { format!("  nodeName: node{node}\n") };
    let made = if account == "default" {
        String::new()
    } else {
        format!("apiVersion: v1\nkind: ServiceAccount\nmetadata:\n  name: {account}\n---\n")
    };
    format!(
        "{made}apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  labels: {{app: {name}}}\nspec:\n{node}  \
         serviceAccountName: {account}\n  terminationGracePeriodSeconds: 5\n  containers:\n  - name: app\n    \
         image: {WORKLOAD}\n    imagePullPolicy: Never\n    args: {arguments:?}\n---\n"
    )
}

/// A rule that admits this service account of its own namespace, and nobody else, to port 8080 of the Service `orders`.
pub fn orders_from(account: &str) -> String {
    format!(
        "apiVersion: signet.dev/v1alpha1\nkind: AllowRule\nmetadata: {{name: orders-from-{account}}}\nspec:\n  \
         target: {{service: orders, ports: [8080]}}\n  from: [{{serviceAccount: {account}}}]\n---\n"
    )
}

/// A Service for the pods labelled `app: NAME`, one port, the same on both sides. `headless` gives it no address.
pub fn service(name: &str, port: u16, headless: bool) -> String {
    let address = if headless { "  clusterIP: None\n" } else { "" };
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\nspec:\n{address}  selector: {{app: {name}}}\n  \
         ports: [{{name: main, port: {port}}}]\n---\n"
    )
}
