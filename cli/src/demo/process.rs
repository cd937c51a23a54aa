//! Programs that run in a `World`: spawned inside a namespace, their words kept in a file, ended with the world.
use anyhow::{Context as _, bail};
use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

pub use rustix::process::Signal;

/// How often a condition is looked at while it is awaited.
const POLL: Duration = Duration::from_millis(10);

/// Waits until `probe` gives something. `what` is what a failure is called.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = probe() {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep(POLL);
    }
}

/// A program that runs; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` on this thread, hence in this thread's network namespace; its output goes to `log`, appended.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> anyhow::Result<Self> {
        use std::os::unix::process::CommandExt as _;
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("opening {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        // A group of its own: Ctrl-C at the terminal reaches whoever owns the world, not each program by itself.
        command.process_group(0);
        let child = command.spawn().with_context(|| format!("starting {}", command.get_program().to_string_lossy()))?;
        Ok(Self { name: name.into(), child, log: log.into() })
    }

    /// The name it was started under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id of the program itself: nothing stands between.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has said so far, on both of its outputs.
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }

    /// The first line that holds `words`, awaited.
    pub fn wait_for_line(&self, words: &str, limit: Duration) -> anyhow::Result<String> {
        let line = || self.log().lines().find(|line| line.contains(words)).map(str::to_owned);
        wait_for(&format!("{} says {words:?}; it said:\n{}", self.name, tail(&self.log(), 20)), limit, line)
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Its exit status, awaited.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let name = self.name.clone();
        wait_for(&format!("{name} ends"), limit, || self.ended())
    }

    /// Sends a signal; a program that has ended is not an error.
    pub fn signal(&self, signal: Signal) {
        if let Some(pid) = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw) {
            // It fails only when the program is gone, which is what the caller then observes anyway.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory in KiB, and CPU time used in clock ticks: what /proc says.
    pub fn resident_kib(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).ok()?;
        status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last `lines` lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
}
