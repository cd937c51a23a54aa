//! What is in force, and what became of the last change. `files` hands every reading of the directory to [`State::apply`];
//! `control` and `http` follow the result through [`Published`].
//!
//! A change applies whole or not at all. What happens when something is wrong:
//!
//! | wrong | a good state is in force | none is, as at the start |
//! |---|---|---|
//! | a rule whose target parses | the change is refused, the good state stays | applied: the rule guards its ports and admits nobody |
//! | anything else | the change is refused, the good state stays | nothing is in force: no sidecar gets a configuration, and a new one denies |
//!
//! A state that holds a refused rule is no good state: the next reading replaces it by the same rules as at the start. So a
//! restart with broken files can only deny more than the state before it, never less: what was good before is not kept in
//! another place, where nobody would see that it differs from the files.
use crate::documents::{Directory, Finding};
use crate::index::{IndexError, Note, Settings, Snapshot};
use crate::store::{Store, StoreError};
use std::sync::Arc;
use tokio::sync::watch;

/// What the rest of the program sees.
#[derive(Debug, Clone)]
pub struct Published {
    /// The snapshot in force; none until documents could be read once.
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// What became of the last change.
    pub report: watch::Receiver<Arc<Report>>,
}

/// What became of the last change, for `/status` and the log.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Report {
    /// Whether the files are what is in force, with nothing wrong in them.
    pub good: bool,
    /// The revision in force; 0 for none.
    pub revision: u64,
    /// How the last reading ended.
    pub last: Outcome,
    /// What is wrong with the files as they are now.
    pub findings: Vec<Finding>,
    /// Why good documents could not be applied.
    pub error: Option<String>,
    /// What is worth knowing about the rules in force.
    pub rules: Vec<Note>,
}

/// How a reading ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// Nothing has been read yet.
    #[default]
    Pending,
    /// In force now.
    Applied,
    /// In force now, with rules that guard and admit nobody.
    Guarding,
    /// The last good state stays in force, or none.
    Refused,
}

/// Why documents that were read are not in force.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApplyError {
    /// They contradict each other.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// What must be remembered could not be stored, and a restart would go back.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The owner of what is in force.
#[derive(Debug)]
pub struct State {
    settings: Settings,
    store: Store,
    /// The state in force was read without any finding.
    good: bool,
    snapshot: watch::Sender<Option<Arc<Snapshot>>>,
    report: watch::Sender<Arc<Report>>,
}

impl State {
    /// Nothing is in force yet.
    pub fn new(settings: Settings, store: Store) -> (Self, Published) {
        let (snapshot, snapshots) = watch::channel(None);
        let (report, reports) = watch::channel(Arc::default());
        (Self { settings, store, good: false, snapshot, report }, Published { snapshot: snapshots, report: reports })
    }

    /// Puts what was read into force, or says why not.
    pub fn apply(&mut self, directory: Directory) -> Outcome {
        let reading = directory.reading;
        let safe = reading.is_good() || (reading.is_safe() && !self.good);
        let mut error = None;
        let mut outcome = Outcome::Refused;
        if safe {
            match self.build(&reading.documents, directory.newest) {
                Ok(()) if reading.is_good() => outcome = Outcome::Applied,
                Ok(()) => outcome = Outcome::Guarding,
                Err(e) => error = Some(e.to_string()),
            }
        }
        if outcome != Outcome::Refused {
            self.good = reading.is_good();
        }
        self.tell(outcome, reading.findings, error);
        outcome
    }

    /// What must be remembered is on disk before anybody hears of the snapshot: a kill in between loses nothing.
    fn build(&mut self, documents: &crate::documents::Documents, newest: u64) -> Result<(), ApplyError> {
        let (snapshot, memory) = Snapshot::build(&self.settings, documents, self.store.memory(), newest);
        if let Some(fault) = snapshot.faults().first() {
            return Err(fault.clone().into());
        }
        self.store.keep(memory)?;
        self.snapshot.send_replace(Some(Arc::new(snapshot)));
        Ok(())
    }

    fn tell(&self, outcome: Outcome, findings: Vec<Finding>, error: Option<String>) {
        let (revision, rules) = match &*self.snapshot.borrow() {
            Some(snapshot) => (snapshot.revision(), snapshot.notes().to_vec()),
            None => (0, Vec::new()),
        };
        let report = Report { good: outcome == Outcome::Applied, revision, last: outcome, findings, error, rules };
        let report = Arc::new(report);
        self.report.send_replace(report.clone());
        report.log();
    }
}

impl Report {
    /// Every problem is one line; a directory full of broken files must not fill the disk with them.
    fn log(&self) {
        const LINES: usize = 50;
        for finding in self.findings.iter().take(LINES) {
            tracing::error!(revision = self.revision, "{finding}");
        }
        if self.findings.len() > LINES {
            tracing::error!("and {} more, see /status", self.findings.len() - LINES);
        }
        if let Some(error) = &self.error {
            tracing::error!(revision = self.revision, "{error}");
        }
        match self.last {
            Outcome::Refused if self.revision == 0 => {
                tracing::error!("nothing is in force: sidecars get no configuration until the files are mended");
            }
            Outcome::Refused => {
                tracing::error!(revision = self.revision, "the change is refused whole; the last good state stays");
            }
            Outcome::Guarding => {
                tracing::error!(
                    revision = self.revision,
                    "in force, but refused rules guard their ports and admit nobody"
                );
            }
            Outcome::Applied | Outcome::Pending => tracing::info!(revision = self.revision, "in force"),
        }
    }
}

#[cfg(test)]
mod tests;
