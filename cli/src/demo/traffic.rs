//! Requests without a pause, made by curl on one machine until they are stopped; for the steps that claim that nobody notices.
use super::world::Namespace;
use anyhow::Context as _;
use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

/// curl, again and again.
#[derive(Debug)]
pub(super) struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU32>,
    thread: Option<JoinHandle<anyhow::Result<Vec<String>>>>,
}

impl Traffic {
    /// Starts; each request is a process and a connection of its own.
    pub(super) fn start(machine: &Namespace, url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU32::new(0));
        let (stopped, count, url) = (Arc::clone(&stop), Arc::clone(&done), url.to_owned());
        let thread = machine.spawn_thread(move || {
            let mut failures = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let out = Command::new("curl")
                    .args(["-sS", "--max-time", "10", "--output", "/dev/null", "--fail", &url])
                    .output();
                match out {
                    Ok(out) if out.status.success() => {}
                    Ok(out) => failures.push(String::from_utf8_lossy(&out.stderr).trim().to_owned()),
                    Err(e) => failures.push(e.to_string()),
                }
                count.fetch_add(1, Ordering::Relaxed);
            }
            failures
        });
        Self { stop, done, thread: Some(thread) }
    }

    /// How many requests have been made so far.
    pub(super) fn so_far(&self) -> u32 {
        self.done.load(Ordering::Relaxed)
    }

    /// Stops. Gives the number of requests, and what curl said about each that failed.
    pub(super) fn finish(mut self) -> anyhow::Result<(u32, Vec<String>)> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the traffic was stopped already")?;
        let failures = thread.join().map_err(|_| anyhow::anyhow!("the traffic's thread failed"))??;
        Ok((self.so_far(), failures))
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
