//! What a person does on one machine with the programs as they are: watch the demo, as root or not, and end it at any moment, look
//! at a running sidecar's certificates, and put up, look at and take down the redirect.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use rustix::process::{Pid, Signal, kill_process_group};
use signet::demo::{
    mesh::Join,
    process::{Process, wait_for},
    world::{Namespace, World},
};
use signet_tests::{SOON, join, mesh, programs};
use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

/// Long enough for a whole demo on a machine that does much else.
const DEMO: Duration = Duration::from_mins(3);
/// A variable that every program of a demo inherits.
const MARK: &str = "SIGNET_DEMO_OF_TEST";

/// A machine on which nothing but the demo makes names, rules, links and files: its network, its /run, its directory for
/// temporary files.
struct Stage {
    machine: Namespace,
    /// Holds the mount namespace.
    holder: Process,
    temporary: PathBuf,
    before: String,
    world: World,
}

fn stage() -> Stage {
    let mut world = World::new().unwrap();
    let machine = world.machine("person").unwrap();
    let mut command = Command::new("unshare");
    // /run/mount is mount(8)'s own, and on every machine.
    let script = "mount -t tmpfs tmpfs /run && mkdir -p /run/mount && echo furnished && exec sleep infinity";
    command.args(["--mount", "sh", "-c", script]);
    let holder = machine.spawn("holder", command).unwrap();
    holder.wait_for_line("furnished", SOON).unwrap();
    let temporary = world.private_dir("temporary", 0).unwrap();
    let mut stage = Stage { machine, holder, temporary, before: String::new(), world };
    stage.before = stage.traces();
    stage
}

impl Stage {
    fn demo(&self) -> Process {
        // Whoever runs the tests in the background may have had SIGINT ignored.
        let mut command = self.inside(Path::new("env"));
        command.arg("--default-signal=INT").arg(programs().join("signet")).arg("demo");
        command.env("TMPDIR", &self.temporary).env(MARK, self.world.dir());
        self.machine.spawn("demo", command).unwrap()
    }

    /// A program that sees the machine's own /run.
    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.pid())).arg(program);
        command
    }

    /// Everything that a demo could leave behind, but for processes.
    fn traces(&self) -> String {
        let scripts = "nft list ruleset; ip -o link; ip -o address show scope global; ip netns list; find /run \"$1\"";
        let mut command = self.inside(Path::new("sh"));
        command.args(["-c", scripts, "sh"]).arg(&self.temporary);
        String::from_utf8(self.machine.output(command).unwrap().stdout).unwrap()
    }

    /// The processes of this stage's demos that still run.
    fn processes(&self) -> Vec<String> {
        let mark = format!("{MARK}={}\0", self.world.dir().display());
        let ours = |dir: &Path| {
            let environment = std::fs::read(dir.join("environ")).unwrap_or_default();
            environment.windows(mark.len()).any(|part| part == mark.as_bytes())
        };
        let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let name = |dir: PathBuf| std::fs::read_to_string(dir.join("cmdline")).unwrap_or_default().replace('\0', " ");
        all.filter(|dir| ours(dir)).map(name).collect()
    }

    fn nothing_is_left(&self) {
        let gone = || self.processes().is_empty().then_some(());
        wait_for("no process is left", SOON, gone).unwrap_or_else(|e| panic!("{e}: {:?}", self.processes()));
        assert_eq!(self.traces(), self.before);
    }
}

#[test]
fn the_demo_holds_every_claim_ends_with_0_and_leaves_nothing_also_after_one_that_was_killed() {
    let stage = stage();
    let mut killed = stage.demo();
    killed.wait_for_line("The same request, now over mutual TLS", DEMO).unwrap();
    assert!(stage.processes().len() > 5, "a mesh runs: {:?}", stage.processes());
    killed.kill();
    let mut demo = stage.demo();
    let status = demo.wait(DEMO).unwrap();
    let said = demo.log();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("Every claim held") && !said.contains('✗'), "{said}");
    stage.nothing_is_left();
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() {
    let stage = stage();
    let mut demo = stage.demo();
    demo.wait_for_line("Certificates rotate under traffic", DEMO).unwrap();
    // As the terminal does with Ctrl-C: to the whole group.
    kill_process_group(Pid::from_raw(demo.pid().try_into().unwrap()).unwrap(), Signal::INT).unwrap();
    let status = demo.wait(SOON).unwrap();
    assert_ne!(status.code(), Some(0), "{}", demo.log());
    stage.nothing_is_left();
}

/// A demo of somebody who is not root, and who has such lines in /etc/subuid and /etc/subgid.
fn demo_of_nobody(stage: &Stage, lines: &str) -> Process {
    // Nobody may look into the directory where the programs lie, and the demo has a /run of its own.
    let script = r#"
        mount -t tmpfs tmpfs /mnt
        cp "$1"/signet* /mnt
        mkdir -m 1777 /mnt/temporary
        printf "$2" >/mnt/ids
        mount --bind /mnt/ids /etc/subuid
        mount --bind /mnt/ids /etc/subgid"#;
    let mut command = stage.inside(Path::new("sh"));
    command.args(["-ec", script, "sh"]).arg(programs()).arg(lines);
    let out = stage.machine.output(command).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut command = stage.inside(Path::new("setpriv"));
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "/mnt/signet", "demo"]);
    command.env("TMPDIR", "/mnt/temporary").env("HOME", "/").env(MARK, stage.world.dir());
    stage.machine.spawn("demo", command).unwrap()
}

#[test]
fn a_demo_of_who_is_not_root_runs_in_a_user_namespace() {
    let users = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if users.split_whitespace().ne(["0", "0", "4294967295"]) {
        // newuidmap belongs to the machine's root.
        let name = "a_demo_of_who_is_not_root_runs_in_a_user_namespace";
        let _ = writeln!(std::io::stderr(), "SKIPPED {name}: this is a user namespace already");
        return;
    }
    let stage = stage();
    let mut demo = demo_of_nobody(&stage, "nobody:100000:65536\\n");
    let status = demo.wait(DEMO).unwrap();
    let said = demo.log();
    assert_eq!(status.code(), Some(0), "{said}");
    assert!(said.contains("Every claim held") && !said.contains('✗'), "{said}");
    stage.nothing_is_left();
}

#[test]
fn a_demo_of_who_is_not_root_and_has_no_other_users_says_in_one_line_what_to_do() {
    let stage = stage();
    let mut demo = demo_of_nobody(&stage, "");
    let status = demo.wait(SOON).unwrap();
    let said = demo.log();
    assert_eq!((status.code(), said.trim_end().lines().count()), (Some(1), 1), "{said}");
    assert!(said.contains("run it as root (sudo), or") && said.contains("/etc/subuid"), "{said}");
    stage.nothing_is_left();
}

#[test]
fn signet_inspect_shows_the_certificates_of_a_running_sidecar_and_the_roots_that_it_trusts() {
    let mut mesh = mesh();
    let orders = join(&mut mesh, "orders", &[]);
    let mut command = Command::new(programs().join("signet"));
    command.args(["inspect", "http://127.0.0.1:15020"]);
    let out = orders.machine.output(command).unwrap();
    let said = String::from_utf8(out.stdout).unwrap();
    assert_eq!(out.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&out.stderr));
    for words in ["svid 1 (leaf)", "root of demo.signet.dev 1 (root)", &orders.identity, "orders-1"] {
        assert!(said.contains(words), "no {words:?} in {said}");
    }
}

#[test]
fn capture_down_leaves_the_rules_and_addresses_of_before_and_capture_print_is_what_nft_takes() {
    let mut mesh = mesh();
    let machine = mesh.world.machine("orders").unwrap();
    let named = Join { name: "orders", namespace: "shop", service_account: "orders", ports: &[] };
    let orders = mesh.prepare(machine, &named).unwrap();
    let here = |script: &str, input: Option<&Path>| {
        let mut command = Command::new("sh");
        command.args(["-ec", script, "sh"]).args(input).stdin(Stdio::null());
        let out = orders.machine.output(command).unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    };
    // Somebody else's rules are there already.
    here(
        "nft 'add table inet mine; add chain inet mine in { type filter hook input priority 0; }; add rule inet mine in tcp dport 23 drop'",
        None,
    );
    // The kernel gives the device an address of its own, in its own time: it must have it, and be sure that nobody else has.
    let sure = || {
        let own = here("ip -6 -o address show dev eth0 scope link -tentative; ip -6 route show table local", None);
        (own.contains("inet6 fe80:") && own.contains("local fe80:")).then_some(())
    };
    wait_for("the device has its link-local address", SOON, sure).unwrap();
    let state = || here("nft list ruleset; ip -o address; ip rule; ip -6 rule; ip route show table all", None);
    let before = state();
    assert!(before.contains("table inet mine"), "{before}");

    let printed = orders.capture("print").unwrap();
    assert_eq!(state(), before, "print changes nothing");
    assert!(printed.contains("15001") && printed.contains("15006"), "{printed}");
    let file = orders.dir.join("print.nft");
    std::fs::write(&file, &printed).unwrap();
    here("nft --check --file \"$1\"", Some(&file));

    orders.capture("up").unwrap();
    let up = state();
    assert_ne!(up, before);
    orders.capture("up").unwrap();
    assert_eq!(state(), up, "twice is once");
    orders.capture("down").unwrap();
    assert_eq!(state(), before);
    orders.capture("down").unwrap();
    assert_eq!(state(), before);
}
