//! How the cluster of a test program begins and ends.
use super::{Cluster, WORKLOAD};
use crate::oci::Image;
use anyhow::{Context as _, bail};
use signet_apiserver::bin;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    sync::{Mutex, OnceLock, PoisonError},
};

/// The programs that every cluster of the tests can run: ours, and the tests' own workload.
pub(super) const IMAGES: [&str; 5] = ["signet-ca", "signet-operator", "signet-sidecar", "signet", "signet-workload"];

/// Standard inputs that must end when this process does, and not before.
static HELD: Mutex<Vec<ChildStdin>> = Mutex::new(Vec::new());

/// The scripts beside this package.
fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cluster")
}

/// Runs one of the scripts to its end; gives what it said.
pub(super) fn script<'a>(name: &str, dir: &Path, rest: impl IntoIterator<Item = &'a Path>) -> anyhow::Result<String> {
    let mut command = Command::new(scripts().join(name));
    command.arg(dir).args(rest).env("SIGNET_CLUSTER_BIN", bin()).stdin(Stdio::null());
    let output = command.output().with_context(|| format!("running tests/cluster/{name}"))?;
    if !output.status.success() {
        bail!("tests/cluster/{name}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Brings up a cluster with our images loaded.
pub(super) fn start(dir: &Path) -> anyhow::Result<Cluster> {
    // First, so that it also ends what is killed half way.
    take_down_when_this_ends(dir)?;
    let images = dir.with_extension("images");
    let written = write_images(&images);
    let up = written.and_then(|images| script("up", dir, images.iter().map(PathBuf::as_path)));
    std::fs::remove_dir_all(&images).context("removing the images")?;
    up?;
    let name = script("name", dir, [])?.trim().to_owned();
    Ok(Cluster { dir: dir.to_owned(), bin: bin(), name, installed: OnceLock::new() })
}

/// The images that `helm install` and the tests' own pods name. Their programs must be static, as `tests/run` builds them.
fn write_images(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let programs = crate::programs();
    IMAGES
        .iter()
        .map(|name| {
            let workload = *name == "signet-workload";
            let reference = if workload { WORKLOAD.to_owned() } else { super::reference(name) };
            let image = Image {
                name: (*name).to_owned(),
                program: programs.join(name),
                reference,
                arguments: if workload { vec!["pause".to_owned()] } else { Vec::new() },
                user: if *name == "signet-sidecar" { 2137 } else { 65532 },
            };
            Ok(image.write(dir)?.path)
        })
        .collect()
}

/// Leaves a shell behind that waits until this process is gone, and takes the cluster down then: a test program's statics are
/// not dropped, and a killed one drops nothing.
fn take_down_when_this_ends(dir: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("setsid");
    command
        .args(["sh", "-c", r#"read -r _; exec "$1" "$2""#, "--"].map(OsStr::new))
        .args([scripts().join("down").as_os_str(), dir.as_os_str()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut child = command.spawn().context("starting setsid")?;
    HELD.lock().unwrap_or_else(PoisonError::into_inner).extend(child.stdin.take());
    Ok(())
}
