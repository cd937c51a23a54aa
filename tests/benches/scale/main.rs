//! What `make bench` measures of the control plane's size: 10,000 pods of 1,000 Services with 1,000 rules in a real API server
//! (no node runs them), a CA, an operator, and 10,000 control streams, each with a certificate of its own pod. How soon all are
//! served, how soon a changed rule is in force where it must be, what a storm of reconnects costs, and whether memory comes back
//! (F30). All of it shares this machine with what it measures. Prints `name=value` lines.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
#[path = "../host/mod.rs"]
mod host;
mod objects;
mod sidecar;

use host::{Host, cpu_seconds};
use objects::{Objects, PODS, SERVICES, Workload};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sidecar::Sidecar;
use signet::demo::{
    mesh::{Mesh, Options, TRUST_DOMAIN},
    process::Process,
};
use signet_apiserver::ApiServer;
use signet_ca::admin::{Request, Response, client::call};
use signet_enroll::trust_state_from_wire;
use signet_identity::{Credentials, SpiffeId, Svid};
use std::{
    fmt::Write as _,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
    time::sleep,
};

/// Changed rules, one after another.
const CHANGES: usize = 100;
/// The longest wait for anything.
const PATIENCE: Duration = Duration::from_mins(5);
/// When memory is looked at again after all streams have gone.
const LATER: Duration = Duration::from_secs(20);
/// A socket for each stream on either side, and some more.
const FILES: u64 = PODS as u64 + 2_000;

fn main() {
    // `cargo test` builds benchmarks too, and runs them with other arguments.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let programs = std::env::var_os("SIGNET_PROGRAMS").map_or_else(signet_tests::programs, PathBuf::from);
    let may = getrlimit(Resource::Nofile);
    let files = Rlimit { current: Some(FILES), maximum: may.maximum.map(|most| most.max(FILES)) };
    setrlimit(Resource::Nofile, files)
        .unwrap_or_else(|error| panic!("{FILES} open files: {error}; ulimit -Hn says {may:?}"));
    let mut options = Options::new(&programs);
    options.ca = host::UNLIMITED.into();
    let mut mesh = Mesh::start(options).expect("a mesh");
    // This one reads files; the one that is measured takes its place, with its certificate.
    mesh.operator.take().expect("it runs").kill();
    let hub = mesh.world.hub().clone();
    let mut own = Command::new("ip");
    own.args(["route", "add", "local", objects::PODS_RANGE, "dev", "lo"]);
    assert!(hub.output(own).is_ok_and(|output| output.status.success()), "the pods' addresses are this machine's");
    let measured = hub.enter(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        runtime.block_on(measure(&mesh, &programs));
    });
    measured.expect("entering");
}

async fn measure(mesh: &Mesh, programs: &std::path::Path) {
    let Some(server) = ApiServer::start().await else { return };
    let start = Instant::now();
    let objects = Objects::make(server.client().await).await;
    println!(
        "# {PODS} pods, {SERVICES} Services and as many rules are in the API server after {:.0} s",
        seconds(start)
    );

    let start = Instant::now();
    let operator = start_operator(mesh, programs, &server).await;
    println!("scale_start_s={:.2} (listed, and the index built, by an operator that starts)", seconds(start));
    let credentials = enrol(mesh, &objects.workloads).await;
    let operator_id =
        SpiffeId::workload(&host::trust_domain(), "signet-system", "signet-operator").expect("an identity");
    let resident = || operator.resident_kib().expect("it runs") as f64 / 1024.0;
    println!("# idle: {:.0} MB", resident());

    let mut sidecars: Vec<Sidecar> = objects
        .workloads
        .iter()
        .zip(credentials)
        .map(|(workload, credentials)| Sidecar::new(credentials, operator_id.clone(), workload))
        .collect();
    let (took, cpu, own) = attach(&mut sidecars, &operator).await;
    let attached = resident();
    println!(
        "scale_attach_s={took:.1} ({PODS} at once, all with configuration and destinations; {cpu:.1} s of CPU, the other ends {own:.1} s)"
    );
    println!("scale_attached_mb={attached:.0}");

    let before = cpu_seconds(operator.pid());
    let mut waits = Vec::new();
    for change in 0..CHANGES {
        waits.extend(change_a_rule(&objects, &sidecars, change).await);
    }
    waits.sort_by(f64::total_cmp);
    let cpu = (cpu_seconds(operator.pid()) - before) / CHANGES as f64;
    let at = |share: usize| waits[(waits.len() - 1) * share / 100];
    println!(
        "scale_rule_p99_ms={:.0} ({CHANGES} rules changed one after another, {} acknowledgements; p50 {:.0} ms, last {:.0} ms; {:.0} ms of CPU each)",
        at(99),
        waits.len(),
        at(50),
        at(100),
        cpu * 1000.0
    );

    let before = resident();
    for sidecar in &mut sidecars {
        sidecar.drop_connection();
    }
    let (took, cpu, own) = attach(&mut sidecars, &operator).await;
    println!(
        "scale_reconnect_s={took:.1} ({PODS} streams that were cut at once are served again; {cpu:.1} s of CPU, the other ends {own:.1} s)"
    );
    let most = peak(&operator);
    drop(sidecars);
    // Whoever is gone costs nothing: what is left is looked at once no stream is.
    let gone = async {
        while streams().await > 0 {
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("every stream ends");
    let gone = resident();
    sleep(LATER).await;
    println!(
        "scale_memory_mb={most:.0} (the most ever; {before:.0} before the reconnects, {gone:.0} when all were gone, {:.0} {} s later)",
        resident(),
        LATER.as_secs()
    );
}

/// An operator of the cluster beside the CA, with status and all, once its index is built.
async fn start_operator(mesh: &Mesh, programs: &std::path::Path, server: &ApiServer) -> Process {
    let dir = mesh.world.dir();
    let path = dir.join("scale.toml");
    let mut toml = String::new();
    write!(
        toml,
        "health = \"127.0.0.1:15023\"\nmesh_ranges = [\"10.64.0.0/10\"]\n[kubernetes]\nkubeconfig = \"{}\"\n[ca]\naddress = \"127.0.0.1:15012\"\n\
         trust_domain = \"{TRUST_DOMAIN}\"\nbundle = \"{ca}/bundle.pem\"\nstate_dir = \"{dir}/operator\"\njoin_token_file = \"{dir}/operator/token\"\n",
        server.kubeconfig().display(),
        ca = mesh.ca_dir().display(),
        dir = dir.display(),
    )
    .expect("text");
    std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| std::io::Write::write_all(&mut file, toml.as_bytes()))
        .expect("the configuration");
    let mut command = Command::new(programs.join("signet-operator"));
    command.args(["run", "--config"]).arg(&path);
    command.envs([("POD_NAME", "signet-operator-0"), ("POD_IP", "127.0.0.1"), ("POD_NAMESPACE", "signet-system")]);
    let operator = mesh.world.hub().spawn("scale", command).expect("the operator starts");
    let ready = async {
        while !page("/readyz").await.is_some_and(|answer| answer.starts_with("HTTP/1.1 200")) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let served = tokio::time::timeout(PATIENCE, ready).await;
    assert!(served.is_ok(), "the operator was never ready:\n{}", operator.log());
    operator
}

/// A certificate for each pod: real ones, from the CA, but all for one key, which costs the clients less.
async fn enrol(mesh: &Mesh, workloads: &[Workload]) -> Vec<Arc<Credentials>> {
    let start = Instant::now();
    let (key, csr) = host::csr(mesh.world.dir());
    let (key, csr) = (Arc::new(key), Arc::new(csr));
    let bootstrap = host::bootstrap(mesh);
    let socket = mesh.ca_dir().join("admin.sock");
    let places = Arc::new(Semaphore::new(12));
    // Eight connections carry all of it.
    let channels: Vec<_> = (0..8).map(|_| host::ca(&bootstrap)).collect();
    let tasks = workloads.iter().enumerate().map(|(n, workload)| {
        let (key, csr, places, socket) = (key.clone(), csr.clone(), places.clone(), socket.clone());
        let channel = channels[n % channels.len()].clone();
        let request = Request::CreateToken {
            identity: workload.identity.clone(),
            uid: Some(workload.uid.clone()),
            ttl_seconds: None,
            control: false,
        };
        async move {
            let _place = places.acquire_owned().await.expect("never closed");
            let made = tokio::task::spawn_blocking(move || call(&socket, &request)).await.expect("no panic");
            let Ok(Response::Token { token, .. }) = made else { panic!("no token: {made:?}") };
            let issued = Host::join(channel, token).await.issue(&csr).await;
            let trust = trust_state_from_wire(issued.trust.expect("a trust state")).expect("a trust state");
            let credentials = Credentials::new(trust).expect("credentials");
            let chain = issued.chain.into_iter().map(Into::into).collect();
            credentials.set_svid(Svid::new(chain, &key).expect("an SVID"));
            credentials
        }
    });
    let all = futures::future::join_all(tasks).await;
    println!("# each pod has a token, a registration and a certificate after {:.0} s", seconds(start));
    all
}

/// Attaches all at once, and gives the seconds until the last is served, and the CPU seconds for it: the operator's, and those of
/// the streams' other ends, which share the processors with it.
async fn attach(sidecars: &mut [Sidecar], operator: &Process) -> (f64, f64, f64) {
    let spent = || [operator.pid(), std::process::id()].map(cpu_seconds);
    let (start, before) = (Instant::now(), spent());
    for sidecar in &mut *sidecars {
        sidecar.attach(15010);
    }
    for (n, sidecar) in sidecars.iter_mut().enumerate() {
        let served = tokio::time::timeout(PATIENCE, sidecar.served()).await;
        assert!(served.is_ok(), "sidecar {n} was never served:\n{}", signet::demo::process::tail(&operator.log(), 20));
    }
    let (took, after) = (seconds(start), spent());
    (took, after[0] - before[0], after[1] - before[1])
}

/// Changes the rule of one Service; gives the milliseconds from before the change was sent until each of its pods had it in force.
async fn change_a_rule(objects: &Objects, sidecars: &[Sidecar], change: usize) -> Vec<f64> {
    // Spread over all, and each once.
    let service = change * 37 % SERVICES;
    let start = Instant::now();
    let generation = objects.change_rule(service).await;
    let mut waits = Vec::new();
    for pod in Objects::pods_of(service) {
        let when = tokio::time::timeout(PATIENCE, sidecars[pod].has_rule(generation)).await.expect("in force");
        waits.push(when.duration_since(start).as_secs_f64() * 1000.0);
    }
    waits
}

fn seconds(since: Instant) -> f64 {
    Instant::now().duration_since(since).as_secs_f64()
}

fn peak(process: &Process) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.split_whitespace().next().and_then(|kib| kib.parse::<f64>().ok()).expect("a number") / 1024.0
}

/// A page of the operator.
async fn page(path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((IpAddr::from([127, 0, 0, 1]), 15023)).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: operator\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}

/// How many streams the operator has.
async fn streams() -> u64 {
    let metrics = page("/metrics").await.unwrap_or_default();
    let line = metrics.lines().find(|line| line.starts_with("signet_operator_streams "));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(u64::MAX)
}
