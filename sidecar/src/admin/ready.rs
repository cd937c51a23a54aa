//! Readiness: a certificate, a configuration, and one connection seen through the redirect. Once reached it stays: a sidecar
//! that has started never depends on the CA or the operator again (design section 7).
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// What must have happened once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The first SVID is in use.
    Certificate,
    /// The first configuration is in force.
    Configuration,
    /// A connection came through the redirect, so that it stands.
    Redirect,
}

impl Step {
    /// All of them, in the order in which they are waited for.
    pub const ALL: [Self; 3] = [Self::Certificate, Self::Configuration, Self::Redirect];

    fn bit(self) -> u8 {
        match self {
            Self::Certificate => 1,
            Self::Configuration => 2,
            Self::Redirect => 4,
        }
    }

    /// What is missing, for whoever looks at `/readyz`.
    pub fn missing(self) -> &'static str {
        match self {
            Self::Certificate => "no certificate from the CA yet",
            Self::Configuration => "no configuration from the operator yet",
            Self::Redirect => "no connection has come through the redirect yet: run `signet-sidecar capture up`",
        }
    }
}

/// Which steps are done. Only ever grows: SIGTERM does not end readiness while the
/// application still runs (F39).
#[derive(Debug, Default)]
pub struct Readiness {
    done: AtomicU8,
}

impl Readiness {
    /// This step has happened. Cheap enough for every connection.
    pub fn reached(&self, step: Step) {
        if !self.has_reached(step) {
            self.done.fetch_or(step.bit(), Relaxed);
        }
    }

    /// Whether this step has happened.
    pub fn has_reached(&self, step: Step) -> bool {
        self.done.load(Relaxed) & step.bit() != 0
    }

    /// Whether all steps are done.
    pub fn ready(&self) -> bool {
        self.missing().is_empty()
    }

    /// Why it is not ready; empty when it is.
    pub fn missing(&self) -> Vec<&'static str> {
        Step::ALL.into_iter().filter(|step| !self.has_reached(*step)).map(Step::missing).collect()
    }
}
