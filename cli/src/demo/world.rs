//! A small network on one machine, made of real network namespaces: a hub with a bridge, and any number of machines joined
//! to it by virtual cables. The demo, the tests and nobody else live in it.
//!
//! ```text
//!   machine "checkout"          hub (bridge, CA, operator)          machine "orders"
//!   eth0 10.77.0.1/24 ──────────── 10.77.0.254/24 ───────────────── eth0 10.77.0.2/24
//!        fd77::1/64                fd77::fe/64                            fd77::2/64
//! ```
//!
//! Nothing is put into the namespace that the caller is in. Names carry the id and start time of the process that made them:
//! what a killed run left behind is recognised and removed by the next one.
use super::process::{Process, tail};
use anyhow::{Context as _, bail};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::{
    fs::{self, File},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

/// Where `ip netns` keeps names.
const NAMES: &str = "/run/netns";

/// How many worlds this process has made.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// One network. Everything in it ends and vanishes when it is dropped.
#[derive(Debug)]
pub struct World {
    prefix: String,
    dir: PathBuf,
    hub: Namespace,
    machines: u8,
}

/// One machine of a world: a network namespace with its addresses. A cheap handle.
#[derive(Debug, Clone)]
pub struct Namespace {
    full: String,
    label: String,
    dir: PathBuf,
    /// Its IPv4 address, in 10.77.0.0/24.
    pub v4: Ipv4Addr,
    /// Its IPv6 address, in fd77::/64.
    pub v6: Ipv6Addr,
}

/// IPv4 or IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// 10.77.0.0/24
    V4,
    /// fd77::/64
    V6,
}

impl World {
    /// Makes the hub, after sweeping what dead processes left.
    pub fn new() -> anyhow::Result<Self> {
        fs::create_dir_all(NAMES).with_context(|| format!("making {NAMES}: network namespaces need root"))?;
        sweep();
        let pid = std::process::id();
        let number = WORLDS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("signet-{pid}x{}-{number}", start_time(pid).unwrap_or(0));
        let dir = std::env::temp_dir().join(&prefix);
        fs::create_dir(&dir).with_context(|| format!("making {}", dir.display()))?;
        // In memory: what the CA flushes must not wait for whatever else the machine's disk does. Without it, slower.
        let _ = run("mount", &["-t", "tmpfs", "-o", "mode=755", "signet", &dir.to_string_lossy()]);
        // Programs of other users live in it: they may pass through, and each has a directory of its own below.
        chmod(&dir, 0o755)?;
        let hub = Namespace {
            full: format!("{prefix}-hub"),
            label: "hub".into(),
            dir: dir.clone(),
            v4: Ipv4Addr::new(10, 77, 0, 254),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 0xfe),
        };
        let world = Self { prefix, dir, hub, machines: 0 };
        let name = world.hub.full.as_str();
        ip(&["netns", "add", name])?;
        ip(&[
            "-n",
            name,
            "link",
            "add",
            "hub",
            "type",
            "bridge",
            "stp_state",
            "0",
            "forward_delay",
            "0",
            "mcast_snooping",
            "0",
        ])?;
        world.hub.configure("hub")?;
        world.hub.set("net/ipv4/ip_forward", "0")?;
        Ok(world)
    }

    /// Joins a new machine to the network. `label` is part of file names: lower case, digits, dashes.
    pub fn machine(&mut self, label: &str) -> anyhow::Result<Namespace> {
        self.machines =
            self.machines.checked_add(1).filter(|n| *n < 250).context("a world has room for 249 machines")?;
        let n = self.machines;
        let machine = Namespace {
            full: format!("{}-{label}", self.prefix),
            label: label.into(),
            dir: self.dir.clone(),
            v4: Ipv4Addr::new(10, 77, 0, n),
            v6: Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, u16::from(n)),
        };
        let port = format!("port{n}");
        ip(&["netns", "add", &machine.full])?;
        ip(&[
            "-n",
            &self.hub.full,
            "link",
            "add",
            &port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            &machine.full,
        ])?;
        ip(&["-n", &self.hub.full, "link", "set", &port, "master", "hub", "up"])?;
        machine.configure("eth0")?;
        // The way to every address that nobody has: Service addresses are such.
        ip(&["-n", &machine.full, "route", "add", "default", "via", &self.hub.v4.to_string()])?;
        ip(&["-n", &machine.full, "-6", "route", "add", "default", "via", &self.hub.v6.to_string()])?;
        Ok(machine)
    }

    /// Where CA and operator live, and every frame between two machines passes.
    pub fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// A directory that vanishes with the world.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new directory in the world's own, for the user `uid` alone.
    pub fn private_dir(&self, name: &str, uid: u32) -> anyhow::Result<PathBuf> {
        let dir = self.dir.join(name);
        fs::create_dir_all(&dir)?;
        chmod(&dir, 0o700)?;
        std::os::unix::fs::chown(&dir, Some(uid), Some(uid))
            .with_context(|| format!("giving {} to {uid}", dir.display()))?;
        Ok(dir)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.print_logs();
        }
        remove(&self.prefix, &self.dir);
    }
}

impl World {
    /// The end of what each program said, on standard error: for a test that fails.
    #[allow(clippy::print_stderr)] // this is for whoever watches a test fail
    fn print_logs(&self) {
        let mut logs: Vec<PathBuf> = fs::read_dir(&self.dir)
            .map(|entries| {
                entries
                    .filter_map(|e| Some(e.ok()?.path()))
                    .filter(|p| p.extension().is_some_and(|x| x == "log"))
                    .collect()
            })
            .unwrap_or_default();
        logs.sort();
        for log in logs {
            let text = fs::read(&log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default();
            if !text.trim().is_empty() {
                eprintln!("--- {} (last 40 lines)\n{}", log.file_name().unwrap_or_default().display(), tail(&text, 40));
            }
        }
    }
}

impl Namespace {
    /// A namespace that somebody else made and will remove, by the name under which `ip netns` knows it.
    pub fn existing(name: &str, v4: Ipv4Addr) -> Self {
        Self { full: name.into(), label: name.into(), dir: std::env::temp_dir(), v4, v6: Ipv6Addr::UNSPECIFIED }
    }

    /// The name under which `ip netns` knows it.
    pub fn name(&self) -> &str {
        &self.full
    }

    /// The label it was made with.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Its address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.v4.into(),
            Family::V6 => self.v6.into(),
        }
    }

    /// Both addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Runs `work` on a thread of its own inside this namespace: the sockets it opens and the programs it starts belong here.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let path = Path::new(NAMES).join(&self.full);
        let file = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok::<T, rustix::io::Errno>(work())
            });
            match inside.join() {
                Ok(done) => done.with_context(|| format!("entering {}", self.full)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// The same for work that goes on by itself; the thread ends with the process at the latest.
    pub fn spawn_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<anyhow::Result<T>> {
        let here = self.clone();
        std::thread::spawn(move || here.enter(work))
    }

    /// Starts a program in this namespace. What it says goes to `<label>-<name>.log` in the world's directory.
    pub fn spawn(&self, name: &str, command: Command) -> anyhow::Result<Process> {
        let log = self.dir.join(format!("{}-{name}.log", self.label));
        self.enter(|| Process::spawn(name, command, &log))?
    }

    /// Runs a program in this namespace to its end.
    pub fn output(&self, mut command: Command) -> anyhow::Result<std::process::Output> {
        self.enter(|| {
            command.stdin(std::process::Stdio::null());
            command.output().with_context(|| format!("running {}", command.get_program().to_string_lossy()))
        })?
    }

    /// Sets a kernel parameter of this namespace, such as `net/ipv4/ip_local_port_range`.
    pub fn set(&self, parameter: &str, value: &str) -> anyhow::Result<()> {
        let path = Path::new("/proc/sys").join(parameter);
        self.enter(|| fs::write(&path, value))?.with_context(|| format!("writing {value:?} to {}", path.display()))
    }

    /// Takes the cable out (`false`) or puts it back (`true`).
    pub fn plugged(&self, plugged: bool) -> anyhow::Result<()> {
        ip(&["-n", &self.full, "link", "set", "eth0", if plugged { "up" } else { "down" }])
    }

    fn configure(&self, device: &str) -> anyhow::Result<()> {
        let name = self.full.as_str();
        ip(&["-n", name, "address", "add", &format!("{}/24", self.v4), "dev", device])?;
        // nodad: an address is usable at once, duplicates cannot be.
        ip(&["-n", name, "address", "add", &format!("{}/64", self.v6), "dev", device, "nodad"])?;
        ip(&["-n", name, "link", "set", "lo", "up"])?;
        ip(&["-n", name, "link", "set", device, "up"])
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    run("ip", args)
}

/// Runs a program to its end; what it says when it fails is the error.
pub(super) fn run(program: &str, args: &[&str]) -> anyhow::Result<()> {
    let out = Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    if !out.status.success() {
        bail!("{program} {}: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}

fn chmod(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
        .with_context(|| format!("chmod {mode:o} {}", path.display()))
}

/// Removes what processes that are gone have left. Runs at the same time in several processes without harm: everything that
/// it does may find that another has done it.
fn sweep() {
    let names = |dir: &Path| -> Vec<String> {
        fs::read_dir(dir)
            .map(|d| d.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect())
            .unwrap_or_default()
    };
    let mut found = names(Path::new(NAMES));
    found.extend(names(&std::env::temp_dir()));
    let mut dead: Vec<String> = found.iter().filter_map(|name| dead_prefix(name)).collect();
    dead.sort();
    dead.dedup();
    for prefix in dead {
        remove(&prefix, &std::env::temp_dir().join(&prefix));
    }
}

/// `signet-<pid>x<start>-<n>` of a name, when the process that made it is gone.
fn dead_prefix(name: &str) -> Option<String> {
    let (maker, rest) = name.strip_prefix("signet-")?.split_once('-')?;
    let (pid, start) = maker.split_once('x')?;
    let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    let number = rest.split('-').next()?;
    (start_time(pid) != Some(start)).then(|| format!("signet-{maker}-{number}"))
}

/// When a process started, in clock ticks since boot: with the id it names a process for ever.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// Ends every program in the namespaces of a world, and removes them and its directory.
fn remove(prefix: &str, dir: &Path) {
    let spaces: Vec<PathBuf> =
        fs::read_dir(NAMES).map(|d| d.filter_map(|e| Some(e.ok()?.path())).collect()).unwrap_or_default();
    let ours = |path: &Path| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-'))
    };
    let spaces: Vec<PathBuf> = spaces.into_iter().filter(|path| ours(path)).collect();
    let inodes: Vec<u64> = spaces.iter().filter_map(|path| Some(fs::metadata(path).ok()?.ino())).collect();
    end_programs_in(&inodes);
    for space in spaces {
        if let Some(name) = space.file_name().and_then(|n| n.to_str()) {
            // Another sweep may have been first.
            let _ = ip(&["netns", "delete", name]);
        }
    }
    // The same; and a directory that is no mount point has nothing to unmount.
    let _ = run("umount", &["--lazy", &dir.to_string_lossy()]);
    let _ = fs::remove_dir_all(dir);
}

/// `kill -9` for every process whose main thread is in one of these network namespaces.
fn end_programs_in(inodes: &[u64]) {
    let Ok(processes) = fs::read_dir("/proc") else { return };
    for entry in processes.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|s| s.parse::<i32>().ok()) else { continue };
        let Ok(space) = fs::metadata(entry.path().join("ns/net")) else { continue };
        if let (true, Some(pid)) = (inodes.contains(&space.ino()), rustix::process::Pid::from_raw(pid)) {
            // Gone already is as good.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}
