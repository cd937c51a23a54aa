//! A real etcd and kube-apiserver on loopback, for the tests of programs that speak to a cluster. No node, no controller: a
//! test creates Pods itself and writes their status as a kubelet would.
//!
//! ```no_run
//! # async fn test() {
//! let Some(server) = signet_apiserver::shared().await else { return }; // not built here: says SKIPPED; in CI it fails
//! let namespace = server.namespace("shop").await; // made under a name of its own, with its default service account
//! let client = server.client().await;             // may do everything; `server.kubeconfig()` is the same for programs
//! # }
//! ```
//!
//! The programs are looked for in `SIGNET_CLUSTER_BIN`, then where `tests/cluster/build` puts them. Both run below a shell that
//! waits for the end of its standard input, so that they end with the test however it ends.
//!
//! What a cluster has and this has not: controllers (a namespace that is deleted stays `Terminating`, no EndpointSlices, no
//! default service account but those that [`ApiServer::namespace`] and [`ApiServer::namespace_with`] make) and kubelets (a Pod
//! with `nodeName` that is deleted stays until it is deleted with a grace period of 0).
mod objects;
mod process;

pub use objects::{
    PodOptions, make_pod, make_service_account, merge, object, pod_token, remove_pod, set_addresses, set_status,
    terminate_pod, token,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use process::Process;
use std::{
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    sync::Mutex,
    time::Duration,
};
use tokio::sync::OnceCell;

/// From the first try to both programs serving, on a busy machine.
const START_LIMIT: Duration = Duration::from_mins(3);

/// A running API server with its own etcd; both end when it is dropped.
#[derive(Debug)]
pub struct ApiServer {
    directory: tempfile::TempDir,
    bin: PathBuf,
    port: u16,
    etcd_port: u16,
    api: Mutex<Option<Process>>,
    _etcd: Process,
}

/// Where `tests/cluster/build` puts what it has built, or `SIGNET_CLUSTER_BIN`.
pub fn bin() -> PathBuf {
    if let Some(dir) = std::env::var_os("SIGNET_CLUSTER_BIN") {
        return dir.into();
    }
    let home = || std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from).join(".cache");
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|dir| !dir.is_empty()).map_or_else(home, PathBuf::from);
    cache.join("signet/cluster/bin")
}

/// The same where the programs are there, or nothing after saying so. In CI (`CI` is set) their absence is a failure.
pub fn programs() -> Option<PathBuf> {
    let bin = bin();
    let missing = ["etcd", "kube-apiserver"].iter().any(|program| !bin.join(program).exists());
    if missing {
        skipped(&format!("there is no etcd and kube-apiserver in {}: run tests/cluster/build", bin.display()));
    }
    (!missing).then_some(bin)
}

/// Says under the test's name that it cannot run here and why, past the capture of its output: it must not look like one that
/// passed, and `tests/run` counts such lines.
///
/// # Panics
/// In CI (`CI` is set), where nothing may be skipped.
pub fn skipped(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    let thread = std::thread::current();
    // Where nobody reads it, nobody need hear it.
    let _ = writeln!(std::io::stderr(), "SKIPPED {}: {why}", thread.name().unwrap_or("a_test"));
}

/// The one server that all tests of a process share; each takes namespaces of its own from it.
pub async fn shared() -> Option<&'static ApiServer> {
    static SERVER: OnceCell<Option<ApiServer>> = OnceCell::const_new();
    // Each test says for itself that it was skipped.
    programs()?;
    SERVER.get_or_init(ApiServer::start).await.as_ref()
}

impl ApiServer {
    /// Starts both programs and waits until they serve. Nothing where they are not built (see [`programs`]).
    ///
    /// # Panics
    /// When a program is there and does not come up.
    pub async fn start() -> Option<Self> {
        let bin = programs()?;
        // A second installation is no news: every test wants the same one.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a temporary directory");
        let at = directory.path();
        process::write_credentials(at);
        let [port, etcd_port, peer_port] = free_ports();
        let etcd = Process::start(at, "etcd", &bin.join("etcd"), &process::etcd(at, etcd_port, peer_port));
        let server = Self { bin, port, etcd_port, api: Mutex::new(None), _etcd: etcd, directory };
        std::fs::write(server.kubeconfig(), process::kubeconfig(server.directory(), port))
            .expect("the kubeconfig is written");
        server.resume().await;
        Some(server)
    }

    /// Kills the API server; etcd keeps what it holds.
    pub fn stop(&self) {
        drop(self.api.lock().expect("no panic in between").take());
    }

    /// Starts the API server again, at the same address, and waits until it serves.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn resume(&self) {
        let at = self.directory.path();
        let arguments = process::api_server(at, self.port, self.etcd_port);
        let process = Process::start(at, "kube-apiserver", &self.bin.join("kube-apiserver"), &arguments);
        *self.api.lock().expect("no panic in between") = Some(process);
        if tokio::time::timeout(START_LIMIT, self.ready()).await.is_err() {
            let log = |name: &str| std::fs::read_to_string(at.join(format!("{name}.log"))).unwrap_or_default();
            let tail = |text: String| {
                text.lines().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n")
            };
            panic!(
                "the API server did not come up\netcd:\n{}\nkube-apiserver:\n{}",
                tail(log("etcd")),
                tail(log("kube-apiserver"))
            );
        }
    }

    async fn ready(&self) {
        let client = self.client().await;
        loop {
            let request = kube::core::Request::new("");
            if let Ok(request) = request.get("readyz", &kube::api::GetParams::default()) {
                let answer = client.request_text(request).await;
                if matches!(answer, Ok(text) if text == "ok") {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// A kubeconfig that may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.directory.path().join("kubeconfig")
    }

    /// A kubeconfig for a bearer token, such as one of a service account, written beside the other under this name.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn kubeconfig_for(&self, name: &str, token: &str) -> PathBuf {
        let path = self.directory.path().join(format!("{name}.kubeconfig"));
        let text = process::kubeconfig_with(self.directory.path(), self.port, token);
        std::fs::write(&path, text).expect("the kubeconfig is written");
        path
    }

    /// `https://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// A directory for a test's own files; it goes with the server.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A new client that may do everything. Clients belong to the runtime that made them: each test makes its own.
    ///
    /// # Panics
    /// When the kubeconfig is not one.
    pub async fn client(&self) -> Client {
        client(&self.kubeconfig()).await
    }
}

/// A client from a kubeconfig.
///
/// # Panics
/// When it is not one.
pub async fn client(kubeconfig: &Path) -> Client {
    let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    Client::try_from(config.expect("a kubeconfig with a context")).expect("a client")
}

/// Ports that nobody listens on at this moment.
fn free_ports<const N: usize>() -> [u16; N] {
    // All are held until all are known, so that they differ.
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port"));
    held.map(|listener| listener.local_addr().expect("a bound socket has an address").port())
}
