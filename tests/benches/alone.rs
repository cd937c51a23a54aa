//! What `make bench` measures without a rival: the time from the start of a sidecar to the first byte that it carries, with a
//! CA on the same machine, and how many certificates a second the CA hands out over gRPC. Prints `name=value` lines.
#![allow(clippy::print_stdout, reason = "a benchmark prints")]
mod host;

use host::{Host, UNLIMITED, cpu_seconds};
use signet::demo::{
    mesh::{Mesh, Options, TRUST_DOMAIN},
    process::wait_for,
};
use signet_tests::{
    SOON,
    apps::{Server, reaches},
    pair, programs,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

/// Calls in progress at the same time, each of a host of its own.
const CALLERS: usize = 32;
const MEASURED: Duration = Duration::from_secs(10);

fn main() {
    // `cargo test` builds benchmarks too, and runs them with other arguments.
    if !std::env::args().any(|argument| argument == "--bench") {
        return;
    }
    let programs = std::env::var_os("SIGNET_PROGRAMS").map_or_else(programs, PathBuf::from);
    start(&programs);
    certificates(&programs);
}

fn start(programs: &std::path::Path) {
    let mut mesh = Mesh::start(Options::new(programs)).expect("a mesh");
    let (mut checkout, orders) = pair(&mut mesh);
    let _server = Server::echo(&orders.machine, 8080);
    let first = |checkout: &signet::demo::mesh::Workload| {
        wait_for("the first byte", SOON, || reaches(&checkout.machine, orders.machine.v4, 8080).ok())
            .expect("it is carried");
    };
    first(&checkout);
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            checkout.sidecar.take().expect("it runs").kill();
            let start = Instant::now();
            checkout.start_sidecar().expect("it starts");
            // Without a pause: a connection to a port on which nobody listens yet fails at once.
            while reaches(&checkout.machine, orders.machine.v4, 8080).is_err() {
                assert!(Instant::now().duration_since(start) < SOON, "it never carried a byte:\n{}", checkout.log());
            }
            Instant::now().duration_since(start).as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    println!("start_ms={:.1} (median of {}; {:.1} to {:.1})", times[10], times.len(), times[0], times[20]);
}

fn certificates(programs: &std::path::Path) {
    let mut options = Options::new(programs);
    options.ca = UNLIMITED.into();
    let mesh = Mesh::start(options).expect("a mesh");
    let tokens: Vec<String> = (0..CALLERS)
        .map(|n| {
            let identity = format!("spiffe://{TRUST_DOMAIN}/ns/bench/sa/host-{n}");
            mesh.token(&["--identity", &identity, "--uid", &format!("host-{n}")]).expect("a token")
        })
        .collect();
    let (_, csr) = host::csr(mesh.world.dir());
    let pid = mesh.ca.as_ref().expect("the CA runs").pid();
    let before = cpu_seconds(pid);
    let (issued, waits) = mesh
        .world
        .hub()
        .enter(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(load(&mesh, tokens, &csr))
        })
        .expect("entering");
    let spent = cpu_seconds(pid) - before;
    let rate = issued as f64 / MEASURED.as_secs_f64();
    println!(
        "certificates_s={rate:.0} (the client shares the two processors; CA {:.0} us of CPU each; p50 {:.1} ms, p99 {:.1} ms)",
        spent * 1e6 / issued as f64,
        waits.0,
        waits.1
    );
}

/// Issues certificates for `MEASURED`; gives their number and the median and 99th percentile of the wait in milliseconds.
async fn load(mesh: &Mesh, tokens: Vec<String>, csr: &[u8]) -> (usize, (f64, f64)) {
    let credentials = host::bootstrap(mesh);
    let deadline = Instant::now() + MEASURED;
    let callers: Vec<_> = tokens
        .into_iter()
        .map(|token| {
            let channel = host::ca(&credentials);
            let csr = csr.to_vec();
            tokio::spawn(async move {
                let mut host = Host::join(channel, token).await;
                let mut waits = Vec::new();
                while Instant::now() < deadline {
                    let start = Instant::now();
                    host.issue(&csr).await;
                    waits.push(Instant::now().duration_since(start).as_secs_f64() * 1000.0);
                }
                waits
            })
        })
        .collect();
    let mut waits = Vec::new();
    for caller in callers {
        waits.extend(caller.await.expect("a caller"));
    }
    waits.sort_by(f64::total_cmp);
    let at = |share: usize| waits.get(waits.len() * share / 100).copied().unwrap_or_default();
    (waits.len(), (at(50), at(99)))
}
