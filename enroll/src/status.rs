//! What enrolment has achieved so far, for readiness, metrics and logs.
use signet_identity::{SpiffeId, WorkloadUid};

/// A snapshot. A new one is published after every attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// What this host is registered as; nothing before it has joined.
    pub registered: Option<(SpiffeId, WorkloadUid)>,
    /// Of the SVID in use: lower-case hex.
    pub serial: Option<String>,
    /// Of the SVID in use, unix seconds.
    pub not_after: Option<u64>,
    /// When an SVID was last obtained, unix seconds.
    pub last_success: Option<u64>,
    /// SVIDs obtained since the program started.
    pub issued: u64,
    /// Attempts that failed since the program started.
    pub failures: u64,
    /// Attempts that failed since the last success.
    pub consecutive_failures: u32,
    /// Why the last attempt failed; nothing after a success. Fit for a log line.
    pub last_error: Option<String>,
    /// Sequence of the trust state in force.
    pub trust_sequence: u64,
    /// Whether the CA's trust stream is open.
    pub trust_stream_open: bool,
    /// Failures of the trust stream since it last said something.
    pub trust_failures: u32,
    /// Trust states refused because another content was held under the same sequence. Anything but 0 is an alarm.
    pub trust_conflicts: u64,
}

impl Status {
    /// Whether there is an SVID that is valid at this moment (unix seconds).
    pub fn has_valid_svid(&self, now: u64) -> bool {
        self.not_after.is_some_and(|not_after| now <= not_after)
    }
}
