//! Helpers of the tests that need more than one program. The network and the mesh come from `signet::demo`, so that demo and
//! tests stand on the same ground; here are the applications on it, and certificates made by a tool that is not ours.
pub mod apps;
pub mod carried;
pub mod cluster;
pub mod oci;
pub mod openssl;
pub mod outside;
pub mod workload;

use signet::demo::{
    mesh::{Family, Join, Mesh, Options, Workload},
    process::{Process, Signal, wait_for},
    world::Namespace,
};
use std::{net::IpAddr, path::PathBuf, process::Command, time::Duration};

/// Long enough for anything that should happen at once, on a machine that does much else.
pub const SOON: Duration = Duration::from_secs(10);
/// Both address families.
pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// Where the programs under test lie: `make test` builds them with `--profile fast`, beside what cargo builds for the tests.
/// `SIGNET_PROGRAMS` names another directory.
pub fn programs() -> PathBuf {
    if let Some(dir) = std::env::var_os("SIGNET_PROGRAMS") {
        return dir.into();
    }
    let mut dir = std::env::current_exe().expect("a test knows its own path");
    // target/debug/deps/<test>
    dir.pop();
    dir.pop();
    dir.pop();
    let dir = dir.join("fast");
    assert!(
        dir.join("signet").exists(),
        "{} is not there: cargo build --profile fast --bins",
        dir.join("signet").display()
    );
    dir
}

/// The usual mesh.
pub fn mesh() -> Mesh {
    mesh_with(|_| {})
}

/// A mesh that differs from the usual.
pub fn mesh_with(change: impl FnOnce(&mut Options)) -> Mesh {
    let mut options = Options::new(&programs());
    change(&mut options);
    Mesh::start(options).expect("CA and operator start")
}

/// A workload of the namespace `shop` whose service account has its own name, joined and ready.
pub fn join(mesh: &mut Mesh, name: &str, ports: &[(&str, u16)]) -> Workload {
    mesh.join(&Join { name, namespace: "shop", service_account: name, ports }).expect("the workload joins")
}

/// SIGSTOP, and waits until no thread of it runs: it comes later than the signal. It is frozen until SIGCONT.
pub fn freeze(process: &Process) {
    process.signal(Signal::STOP);
    let stopped = |thread: std::io::Result<std::fs::DirEntry>| {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        std::io::Result::Ok(status.lines().any(|line| line.starts_with("State:\tT")))
    };
    let frozen = || {
        let mut threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).ok()?;
        threads.all(|thread| stopped(thread).unwrap_or(false)).then_some(())
    };
    wait_for("no thread of it runs", SOON, frozen).expect("SIGSTOP stops it");
}

/// The usual pair: `checkout` may call `orders` on port 8080, and the rule that says so is in force.
pub fn pair(mesh: &mut Mesh) -> (Workload, Workload) {
    let orders = join(mesh, "orders", &[("http", 8080)]);
    let checkout = join(mesh, "checkout", &[]);
    mesh.allow("shop", "orders", &[8080], &["checkout"]).expect("the rule is written");
    let in_force = || orders.log().contains("rules=1").then_some(());
    wait_for("the rule is in force", SOON, in_force).expect("the operator reads it and the sidecar takes it");
    (checkout, orders)
}

/// The first line that a sidecar has said since `from` (bytes of its log) with these words, awaited.
pub fn logged(workload: &Workload, from: usize, words: &str) -> String {
    let line = || workload.log().get(from..)?.lines().find(|line| line.contains(words)).map(str::to_owned);
    wait_for(&format!("{} says {words:?}", workload.name), SOON, line)
        .unwrap_or_else(|e| panic!("{e}; it said:\n{}", workload.log().get(from..).unwrap_or_default()))
}

/// Waits until the control streams of these stand: while there is no operator, sidecars try again ever more seldom.
pub fn connected(workloads: &[&Workload]) {
    let is_connected =
        |workload: &&Workload| workload.metric("signet_sidecar_operator_connected").is_ok_and(|stands| stands == 1);
    wait_for("all are connected to the operator", Duration::from_secs(90), || {
        workloads.iter().all(is_connected).then_some(())
    })
    .expect("the operator is there");
}

/// How long a connection took, by its record.
pub fn seconds(record: &str) -> Duration {
    let seconds = record.split(' ').find_map(|field| field.strip_prefix("seconds=")?.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("no seconds in {record}")))
}

/// A machine with an address in each family outside the mesh's ranges, which these callers have a route to.
pub fn beyond(mesh: &mut Mesh, callers: &[&Workload]) -> (Namespace, [IpAddr; 2]) {
    let machine = mesh.world.machine("beyond").expect("a machine");
    let addresses = ["192.0.2.10", "2001:db8::10"].map(|address| address.parse::<IpAddr>().expect("an address"));
    for address in addresses {
        // Usable at once: nobody else has it.
        let (host, at_once) =
            if address.is_ipv4() { (format!("{address}/32"), None) } else { (format!("{address}/128"), Some("nodad")) };
        let run = |space: &Namespace, what: &str| {
            let mut command = Command::new("ip");
            command.args([what, "add", &host, "dev", "eth0"]).args(at_once.filter(|_| what == "address"));
            let out = space.output(command).expect("ip runs");
            assert!(out.status.success(), "ip {what} add {host}: {}", String::from_utf8_lossy(&out.stderr));
        };
        run(&machine, "address");
        for caller in callers {
            run(&caller.machine, "route");
        }
    }
    (machine, addresses)
}
