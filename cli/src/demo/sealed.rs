//! Runs the demo where nothing can be left behind: in PID, mount and network namespaces of its own. When its first process
//! ends, for whatever reason, the kernel ends all others and forgets every name, rule, interface and file.
//!
//! ```text
//! signet demo ─ setpriv --pdeathsig KILL ─ unshare --pid --mount --net [--user] --kill-child ─ signet demo --sealed
//! ```
//!
//! Each link of the chain dies with the one before it, so that `kill -9` of any of them is as clean as Ctrl-C.
use anyhow::{Context as _, bail};
use std::{
    fs,
    path::Path,
    process::{Command, ExitStatus, Stdio},
};

/// Everything that the demo writes lies here, in memory, seen by nobody else.
const SCRATCH: &str = "/run/signet-demo";

/// Starts the same command again, sealed, and waits for it. `Err` says what the machine lacks.
pub(super) fn run(arguments: &[&str]) -> anyhow::Result<ExitStatus> {
    let root = rustix::process::geteuid().is_root();
    let mut unshare = vec!["unshare", "--pid", "--mount", "--net", "--fork", "--kill-child=KILL"];
    if !root {
        // Root inside, and the other users that /etc/subuid grants: the sidecar's must exist.
        unshare.extend(["--user", "--map-root-user", "--map-auto"]);
    }
    if let Err(why) = possible(&unshare) {
        let mend = if root {
            "this machine does not let root make namespaces (a container without CAP_SYS_ADMIN?): run it on the machine itself"
        } else {
            "run it as root (sudo), or install uidmap, have a line for this user in /etc/subuid and /etc/subgid, and allow user namespaces"
        };
        bail!("no namespaces here: {why}; {mend}");
    }
    let myself = std::env::current_exe().context("finding this program")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).args(&unshare).arg("--").arg(myself).args(arguments);
    command.env("TMPDIR", SCRATCH).status().context("running setpriv: is util-linux installed?")
}

/// Whether namespaces like these, with the sidecar's user and a bridge in them, can be made.
fn possible(unshare: &[&str]) -> Result<(), String> {
    let trial = format!(
        "setpriv --reuid {uid} --regid {uid} --clear-groups true && ip link add trial type bridge",
        uid = super::mesh::SIDECAR_UID
    );
    let Some((program, rest)) = unshare.split_first() else { return Err("no command".into()) };
    let out = Command::new(program).args(rest).args(["--", "sh", "-c", &trial]).stdin(Stdio::null()).output();
    match out {
        Ok(out) if out.status.success() => Ok(()),
        Ok(out) => Err(String::from_utf8_lossy(&out.stderr).lines().next().unwrap_or("unshare failed").to_owned()),
        Err(e) => Err(format!("{program}: {e}")),
    }
}

/// Inside: gives the demo its own /proc, /run and names. Returns the id by which the outside knows this process.
pub(super) fn furnish(names: &[(std::net::IpAddr, &str)]) -> anyhow::Result<u32> {
    // The old /proc is still there, and is the outside's.
    let outside =
        fs::read_link("/proc/self").ok().and_then(|p| p.to_str()?.parse().ok()).context("reading /proc/self")?;
    mount(&["--make-rprivate", "/"])?;
    mount(&["-t", "proc", "proc", "/proc"])?;
    mount(&["-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"])?;
    // sshd wants its directory.
    for dir in [SCRATCH, "/run/netns", "/run/sshd"] {
        fs::create_dir_all(dir).with_context(|| format!("making {dir}"))?;
    }
    let mut hosts = vec!["127.0.0.1 localhost".to_owned()];
    hosts.extend(names.iter().map(|(address, name)| format!("{address} {name}")));
    let file = Path::new(SCRATCH).join("hosts");
    fs::write(&file, hosts.join("\n") + "\n")?;
    let file = file.to_str().context("a path in UTF-8")?;
    mount(&["--bind", file, "/etc/hosts"])?;
    Ok(outside)
}

fn mount(arguments: &[&str]) -> anyhow::Result<()> {
    let out = Command::new("mount").args(arguments).output().context("running mount")?;
    if !out.status.success() {
        bail!("mount {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(())
}
