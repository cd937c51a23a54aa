//! Watches the directory of documents. One task; hands every settled change to `state`.
//!
//! Notifications tell that something happened; a slow look at names, sizes and change times is the belt for file systems and
//! moments that notify nobody (network mounts, a directory that was replaced as a whole). A change is read when the directory
//! has been quiet for a moment, and read again if it changed meanwhile: half a change is never applied.
use crate::documents::{Directory, Stamp, look, read_directory};
use crate::metrics::Metrics;
use crate::state::{Outcome, State};
use notify::{RecursiveMode, Watcher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinError;
use tokio::time::{Instant, sleep, timeout};

/// How the directory is watched.
#[derive(Debug, Clone)]
pub struct Watch {
    /// The directory.
    pub directory: PathBuf,
    /// A change is read when nothing has happened for this long.
    pub quiet: Duration,
    /// But no later than this after it began.
    pub patience: Duration,
    /// How often the belt looks.
    pub poll: Duration,
}

impl Watch {
    /// The times that the program uses: a rule reaches the sidecars well within the five seconds that design section 3 gives.
    pub fn new(directory: PathBuf) -> Self {
        let (quiet, patience) = (Duration::from_millis(100), Duration::from_secs(1));
        Self { directory, quiet, patience, poll: Duration::from_secs(2) }
    }

    /// Reads, applies, and watches, for ever. Ends only when applying panicked, a mistake of ours that takes the state with it:
    /// then the program must end too, and the sidecars keep what they have.
    pub async fn run(self, mut state: State, metrics: Arc<Metrics>) -> JoinError {
        let changed = Arc::new(Notify::new());
        let mut watcher = None;
        let mut applied: Option<Vec<Stamp>> = None;
        loop {
            // The watcher is renewed at every turn in which the directory itself is another one than before.
            let before = look(&self.directory);
            if watcher.is_none() || applied.as_ref().and_then(|s| s.first()) != before.first() {
                watcher = self.watcher(&changed);
            }
            if applied.as_ref() != Some(&before) {
                let (next, directory) = self.settled(&changed, applied.is_none()).await;
                let outcome;
                (state, outcome) = match in_background(state, directory).await {
                    Ok(done) => done,
                    Err(error) => return error,
                };
                metrics.reading(outcome);
                applied = Some(next);
            }
            // Either is a reason to look; whether anything changed the look will tell.
            let _ = timeout(self.poll, changed.notified()).await;
        }
    }

    /// The directory when it is quiet. At the start nobody waits: what is still being written shows when it is read.
    async fn settled(&self, changed: &Notify, start: bool) -> (Vec<Stamp>, Directory) {
        let mut noisy = 0_u32;
        loop {
            let end = Instant::now() + if start { Duration::ZERO } else { self.patience };
            while Instant::now() < end && timeout(self.quiet, changed.notified()).await.is_ok() {}
            let path = self.directory.clone();
            let read = tokio::task::spawn_blocking(move || {
                let directory = read_directory(&path);
                (look(&path), directory)
            });
            match read.await {
                Ok((after, directory)) if after == directory.state => return (after, directory),
                Ok(_) => {}
                // Reading panicked: a mistake of ours. What is in force stays in force.
                Err(error) => tracing::error!(%error, "reading the documents failed"),
            }
            noisy += 1;
            if noisy.is_multiple_of(20) {
                tracing::warn!(directory = %self.directory.display(), "keeps changing while it is read; waiting");
            }
            sleep(self.quiet).await;
        }
    }

    fn watcher(&self, changed: &Arc<Notify>) -> Option<notify::RecommendedWatcher> {
        let wake = changed.clone();
        // Errors wake too: the look will find what the notification could not say. Reading does not: our own looks would wake us
        // for ever.
        let made = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            if !event.is_ok_and(|event| event.kind.is_access()) {
                wake.notify_one();
            }
        });
        let watched = made.and_then(|mut watcher| {
            watcher.watch(&self.directory, RecursiveMode::NonRecursive)?;
            Ok(watcher)
        });
        watched
            .inspect_err(|error| {
                tracing::warn!(%error, poll = ?self.poll, "no notifications for the directory; looking at it from time to time");
            })
            .ok()
    }
}

/// Building the index of a large mesh takes long enough to hold up a runtime thread.
async fn in_background(mut state: State, directory: Directory) -> Result<(State, Outcome), JoinError> {
    tokio::task::spawn_blocking(move || {
        let outcome = state.apply(directory);
        (state, outcome)
    })
    .await
}

#[cfg(test)]
mod tests;
