//! A cluster of the tests comes and goes without a trace on the machine, even when what made it is killed.
#![allow(clippy::unwrap_used, reason = "a test ends where something is not as it must be")]
use signet::demo::process::wait_for;
use signet_tests::cluster::{self, Cluster, PATIENCE};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// What of a cluster is on the machine: names of namespaces, links, control groups, mounts and processes that carry its own.
fn traces(dir: &Path, name: &str) -> Vec<String> {
    let list = |path: &str| -> Vec<String> {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        entries.map(|entry| entry.path().display().to_string()).collect()
    };
    let mut found = list("/run/netns");
    found.extend(list("/sys/class/net"));
    for controller in list("/sys/fs/cgroup") {
        found.extend(list(&controller));
    }
    found.extend(list("/sys/fs/cgroup"));
    found.retain(|path| path.rsplit('/').next().unwrap().starts_with(&format!("{name}-")));
    let dir = dir.display().to_string();
    found.extend(
        fs::read_to_string("/proc/mounts").unwrap().lines().filter(|line| line.contains(&dir)).map(str::to_owned),
    );
    for process in list("/proc") {
        let command = fs::read(format!("{process}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        // This test's own children name it, too.
        if command.contains(&dir) && !command.contains("cluster/down") {
            found.push(format!("{process} {command}"));
        }
    }
    if Path::new(&dir).exists() {
        found.push(dir);
    }
    found
}

/// The machine's own links and addresses, without those of any cluster.
fn links() -> Vec<String> {
    let out = Command::new("ip").args(["-brief", "address"]).output().unwrap();
    String::from_utf8_lossy(&out.stdout).lines().filter(|line| !line.starts_with("sc")).map(str::to_owned).collect()
}

fn scratch(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("signet-cluster-{}-{name}", std::process::id()))
}

#[test]
fn a_cluster_that_is_taken_down_leaves_nothing() {
    let test = "a_cluster_that_is_taken_down_leaves_nothing";
    if !cluster::available(test) {
        return;
    }
    let dir = scratch("a");
    let before = links();
    let cluster = Cluster::start(&dir).unwrap();
    let name = cluster.name().to_owned();
    let space = cluster.space("left", &[]);
    space.apply(&cluster::pod("stays", 1, &["pause"]));
    space.ready("pod/stays");
    drop(space);
    assert!(traces(&dir, &name).len() > 10);
    cluster.down().unwrap();
    assert_eq!(traces(&dir, &name), Vec::<String>::new());
    assert_eq!(links(), before, "the machine's own network is as it was");
}

#[test]
fn what_a_killed_start_left_is_removed() {
    let test = "what_a_killed_start_left_is_removed";
    if !cluster::available(test) {
        return;
    }
    let dir = scratch("b");
    let mut up = Command::new("setsid");
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster");
    up.arg(scripts.join("up")).arg(&dir).env("SIGNET_CLUSTER_BIN", signet_apiserver::bin());
    let mut up = up.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = || dir.join("pid/kube-apiserver").exists().then_some(());
    wait_for("its API server has been started", PATIENCE, begun).unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    let out = Command::new(scripts.join("name")).arg(&dir).output().unwrap();
    let name = String::from_utf8(out.stdout).unwrap().trim().to_owned();
    assert!(traces(&dir, &name).len() > 5);
    assert!(Command::new(scripts.join("down")).arg(&dir).status().unwrap().success());
    // What it was about to do besides, such as a question to the API server, ends by itself.
    let gone = || traces(&dir, &name).is_empty().then_some(());
    wait_for("every trace is gone", PATIENCE, gone).unwrap();
}
