//! What the CA must remember whatever happens to its process: trust state, issuer records, and the journal of certificates.
//! SQLite keeps it on one machine, the Kubernetes API with the standard output in a cluster; those who ask see no difference.
//!
//! Called by `trust`, `issuing` and `issuance`. Join tokens and host keys are not here: a cluster has none.
use crate::{
    kube::state::ClusterState,
    store::{Entry, IssuerRecord, JournalError, Store, StoreError, Swap},
};
use std::{sync::Arc, time::Duration};

/// Who keeps it.
#[derive(Debug, Clone)]
pub enum Ledger {
    /// A file of ours alone.
    Sqlite(Arc<Store>),
    /// Objects that all replicas share.
    Cluster(Arc<ClusterState>),
}

/// How far "signing until" is advanced, and how far ahead it is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// At least this many seconds at a time, so that few signatures wait for a write.
    pub block: u64,
    /// This many seconds beyond the latest leaf's end, in good time: what may be signed while nothing can be written.
    pub reserve: u64,
}

impl Ledger {
    /// Sequence and encoded content of the published trust state.
    pub async fn trust(&self) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        match self {
            Self::Sqlite(store) => store.trust(),
            Self::Cluster(state) => state.trust().await,
        }
    }

    /// Publishes a state if the one of sequence `held` (0: none yet) is still the published one.
    pub async fn swap_trust(&self, held: u64, sequence: u64, content: Vec<u8>, now: u64) -> Result<Swap, StoreError> {
        match self {
            Self::Sqlite(store) => store.swap_trust(held, sequence, content, now).await,
            Self::Cluster(state) => state.swap_trust(held, sequence, content).await,
        }
    }

    /// Fences the issuers of earlier processes: of all before this one where the state directory admits one at a time, of those
    /// of the same name where replicas serve together. Returns how many.
    pub async fn fence_issuers(&self) -> Result<usize, StoreError> {
        match self {
            Self::Sqlite(store) => store.fence_issuers().await,
            Self::Cluster(state) => state.fence_issuers().await,
        }
    }

    /// Records a new issuing CA before it signs anything.
    pub async fn add_issuer(&self, record: IssuerRecord, now: u64) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.add_issuer(record, now).await,
            Self::Cluster(state) => state.add_issuer(record, now).await,
        }
    }

    /// Moves "signing until" forward; `false` when the issuer is fenced or unknown and must not sign.
    pub async fn extend_issuer(&self, ski: &[u8], signing_until: u64, now: u64) -> Result<bool, StoreError> {
        match self {
            Self::Sqlite(store) => store.extend_issuer(ski, signing_until).await,
            Self::Cluster(state) => state.extend_issuer(ski, signing_until, now).await,
        }
    }

    /// Whether it is known already that an issuing CA may sign no more. Asks nobody.
    pub fn is_fenced(&self, ski: &[u8]) -> bool {
        match self {
            // Nobody else can: the state directory is locked.
            Self::Sqlite(_) => false,
            Self::Cluster(state) => state.is_fenced(ski),
        }
    }

    /// Writes a journal entry; only then may the certificate leave.
    pub async fn journal(&self, entry: Entry) -> Result<(), JournalError> {
        match self {
            Self::Sqlite(store) => store.journal(entry).await,
            Self::Cluster(state) => state.journal(entry).await,
        }
    }

    /// The latest moment that any record carries: a clock behind it must not sign.
    pub fn last_record(&self) -> Result<u64, StoreError> {
        match self {
            Self::Sqlite(store) => store.last_record(),
            Self::Cluster(state) => Ok(state.last_record()),
        }
    }

    /// Whether the state can be read and written, for readiness.
    pub async fn check(&self) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.check().await,
            Self::Cluster(state) => state.check().await,
        }
    }

    /// Housekeeping. Journal entries are forgotten after `keep` beyond their certificate's end, where we keep them at all.
    pub async fn tidy(&self, now: u64, keep: Duration) -> Result<(), StoreError> {
        match self {
            Self::Sqlite(store) => store.tidy(now, now.saturating_sub(keep.as_secs())).await,
            Self::Cluster(state) => state.tidy(now).await,
        }
    }

    /// In a cluster a leaf may be renewed for 24 h while nothing can be written, and then lives an hour.
    pub fn blocks(&self) -> Blocks {
        match self {
            Self::Sqlite(_) => Blocks { block: 300, reserve: 0 },
            Self::Cluster(_) => Blocks { block: 3600, reserve: 25 * 3600 },
        }
    }
}

impl From<Arc<Store>> for Ledger {
    fn from(store: Arc<Store>) -> Self {
        Self::Sqlite(store)
    }
}

impl From<Arc<ClusterState>> for Ledger {
    fn from(state: Arc<ClusterState>) -> Self {
        Self::Cluster(state)
    }
}
