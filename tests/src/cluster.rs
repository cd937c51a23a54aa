//! A real Kubernetes cluster for the tests, see `tests/cluster/up`: brought up once for each test program, shared by its tests,
//! and taken down when the program has ended, however it ended. A test asks for it with [`cluster`] and works in a
//! [`Space`] of its own, so that tests run beside one another.
//!
//! ```no_run
//! use signet_tests::cluster::cluster;
//! let Some(cluster) = cluster("a_pod_runs") else { return };
//! let space = cluster.space("shop", &[]);
//! space.apply("apiVersion: v1\nkind: Pod\n...");
//! space.ready("pod/orders");
//! ```
mod inside;
mod lifecycle;
mod space;

pub use space::{Space, orders_from, pod, pod_of, service};

use anyhow::{Context as _, bail};
use signet::demo::{
    wire::{Capture, Segment},
    world::Namespace,
};
use std::{
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::OnceLock,
    time::Duration,
};

/// Long enough for a pod to be pulled up, or a rollout to pass, on a machine that does much else.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// The image of `signet-workload` in the cluster: pods name it with `imagePullPolicy: Never`.
pub const WORKLOAD: &str = "docker.io/signet/signet-workload:test";

/// The namespace that [`Cluster::install`] installs into.
pub const SYSTEM: &str = "signet-system";

/// A cluster that runs.
#[derive(Debug)]
pub struct Cluster {
    /// Everything it has on disk.
    pub dir: PathBuf,
    /// Its programs: `kubectl`, `helm` and the others.
    pub bin: PathBuf,
    name: String,
    installed: OnceLock<Result<(), String>>,
}

/// The cluster of this test program; the first caller brings it up. `None` where there can be none, which is said aloud under
/// the test's name and counted by `tests/run`; in CI (`CI=true`) that is a failure instead.
pub fn cluster(test: &str) -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Result<Cluster, String>> = OnceLock::new();
    if !available(test) {
        return None;
    }
    let dir = std::env::temp_dir().join(format!("signet-cluster-{}", std::process::id()));
    match CLUSTER.get_or_init(|| Cluster::start(&dir).map_err(|e| format!("{e:#}"))) {
        Ok(cluster) => Some(cluster),
        Err(error) => panic!("no cluster: {error}"),
    }
}

/// Whether a cluster can run here; if not, says so as [`cluster`] does.
pub fn available(test: &str) -> bool {
    let Err(why) = possible() else { return true };
    assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "no cluster: {why}");
    // Past the capture of a test's output; where nobody reads it, nobody need hear it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
    false
}

/// Whether a cluster can run here, and if not, why.
fn possible() -> Result<(), String> {
    // Root of a user namespace is not enough: control groups and mounts belong to the machine's.
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if !rustix::process::geteuid().is_root() || users.split_whitespace().ne(["0", "0", "4294967295"]) {
        return Err("a cluster needs root".into());
    }
    let bin = signet_apiserver::bin();
    if bin.join("kubelet").exists() {
        Ok(())
    } else {
        Err(format!("{} does not hold the cluster's programs: run tests/cluster/build", bin.display()))
    }
}

impl Cluster {
    /// Brings up a cluster of its own in `dir`, with all images loaded; for tests that break it. It ends with this process at
    /// the latest.
    pub fn start(dir: &Path) -> anyhow::Result<Self> {
        lifecycle::start(dir)
    }

    /// Takes it down at once.
    pub fn down(&self) -> anyhow::Result<()> {
        lifecycle::script("down", &self.dir, [])?;
        Ok(())
    }

    /// What its namespaces, links and control groups begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that `kubectl` and `helm` read.
    pub fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    /// A command of the cluster's own programs, with its KUBECONFIG and nothing of the user's.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("HOME", &self.dir)
            .env("HELM_CACHE_HOME", self.dir.join("helm"))
            .stdin(Stdio::null());
        command
    }

    /// What `kubectl` answers; what it complains of is the error.
    pub fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        finished("kubectl", arguments, &self.command("kubectl").args(arguments).output()?)
    }

    /// The same for `helm`.
    pub fn helm(&self, arguments: &[&str]) -> anyhow::Result<String> {
        finished("helm", arguments, &self.command("helm").args(arguments).output()?)
    }

    /// `kubectl` with a document on its standard input.
    pub fn kubectl_with(&self, arguments: &[&str], document: &str) -> anyhow::Result<String> {
        let mut command = self.command("kubectl");
        let command = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting kubectl")?;
        child.stdin.take().context("kubectl's standard input")?.write_all(document.as_bytes())?;
        finished("kubectl", arguments, &child.wait_with_output()?)
    }

    /// Applies documents; each must be accepted.
    #[track_caller]
    pub fn apply(&self, documents: &str) {
        if let Err(error) = self.kubectl_with(&["apply", "-f", "-"], documents) {
            panic!("{error:#}\n{documents}");
        }
    }

    /// Makes a namespace of its own for a test, named after `purpose` and a number, with labels such as
    /// `signet.dev/inject=enabled`. It is deleted when dropped.
    #[track_caller]
    pub fn space(&self, purpose: &str, labels: &[&str]) -> Space<'_> {
        Space::new(self, purpose, labels).unwrap_or_else(|e| panic!("{e:#}"))
    }

    /// Installs Signet with the chart, once for each cluster; `values` are Helm's `--set` arguments, of the first caller.
    #[track_caller]
    pub fn install(&self, values: &[&str]) {
        let install = || self.install_again(values).map_err(|error| format!("{error:#}"));
        if let Err(error) = self.installed.get_or_init(install) {
            panic!("{error}");
        }
    }

    /// The same, whether it was installed before or not: for tests that took it away.
    pub fn install_again(&self, values: &[&str]) -> anyhow::Result<()> {
        let chart = chart();
        let chart = chart.to_string_lossy();
        let base = ["install", "signet", &*chart, "-n", SYSTEM, "--create-namespace", "--wait", "--timeout", "180s"];
        let values = values.iter().flat_map(|value| ["--set", value]);
        let arguments: Vec<&str> = base.into_iter().chain(values).collect();
        self.helm(&arguments).map(drop).map_err(|error| {
            let system = self.system();
            error.context(system.describe())
        })
    }

    /// The namespace that Signet is installed in; it stays when this is dropped.
    pub fn system(&self) -> std::mem::ManuallyDrop<Space<'_>> {
        std::mem::ManuallyDrop::new(Space { cluster: self, name: SYSTEM.to_owned() })
    }

    /// Loads image tars into every node.
    pub fn load(&self, images: &[PathBuf]) -> anyhow::Result<()> {
        lifecycle::script("load", &self.dir, images.iter().map(PathBuf::as_path))?;
        Ok(())
    }

    /// `stop`, `kill` or `start` one of the cluster's programs, such as `kube-apiserver` or `kubelet1`. Other tests of the
    /// program feel it: tests that do this are in a test program of their own.
    pub fn control(&self, verb: &str, program: &str) -> anyhow::Result<()> {
        lifecycle::script("control", &self.dir, [verb, program].map(Path::new))?;
        Ok(())
    }

    /// The network namespace of the bridge between the nodes: a capture there sees all that passes from node to node.
    pub fn bridge(&self) -> Namespace {
        Namespace::existing(&format!("{}-c", self.name), Ipv4Addr::new(10, 89, 0, 1))
    }

    /// Starts a capture of what passes from node to node, and between them and the API server.
    pub fn capture(&self) -> anyhow::Result<Capture> {
        Capture::start(&self.bridge())
    }

    /// Ends it. What etcd says to the API server inside that namespace passes no bridge, and is left out.
    pub fn captured(capture: Capture) -> anyhow::Result<Vec<Segment>> {
        let mut segments = capture.finish()?;
        segments.retain(|segment| !segment.from.ip().is_loopback());
        Ok(segments)
    }

    /// The network namespace of a node, 1 or 2: where unmeshed callers from outside every pod live.
    pub fn node(&self, number: u8) -> Namespace {
        Namespace::existing(&format!("{}-n{number}", self.name), Ipv4Addr::new(10, 89, 0, 10 + number))
    }
}

/// The chart that is installed.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/signet")
}

/// What the chart calls the image of one of our programs.
fn reference(program: &str) -> String {
    format!("docker.io/signet/{program}:{}", env!("CARGO_PKG_VERSION"))
}

/// What a program said on its standard output, if it ended well.
fn finished(program: &str, arguments: &[&str], output: &Output) -> anyhow::Result<String> {
    let said = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}: {}{}", arguments.join(" "), output.status, said, complaint.trim_end());
    }
    Ok(said.into_owned())
}
