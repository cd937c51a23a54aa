//! The CA's state outside a cluster, in SQLite: trust state, join tokens, host keys, issuer records and the journal of certificates.
//!
//! ```text
//!   askers ──(closures)──▶ writer thread ──one transaction for all that wait──▶ WAL, fsync ──▶ answers
//!   askers ──────────────▶ one read-only connection behind a mutex
//! ```
//!
//! Every change runs on the writer's thread; an answer is given only after the transaction that holds it is on disk
//! (`synchronous=FULL`). Many waiting changes share one transaction, each in its own savepoint, so that five thousand
//! journal entries a second cost a few hundred fsyncs and one failing change takes no other with it.
//! Owned by `program`; the tables' own rooms are the submodules.
mod issuers;
mod journal;
mod tokens;
mod trust;
mod writer;

pub use issuers::IssuerRecord;
pub use journal::{Entry, JournalError, Place};
pub use tokens::{HostKey, NewToken, RedeemError, Redemption, Token, TokenError};
pub use trust::Swap;
pub use writer::Closed;

use crate::metrics::Metrics;
use rusqlite::{Connection, OpenFlags, OptionalExtension};
use signet_identity::TrustDomain;
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// The schema that this program writes, in `PRAGMA user_version`.
pub const SCHEMA_VERSION: i64 = 1;

/// Version 1. Times are unix seconds; hashes SHA-256.
const SCHEMA: &str = "
CREATE TABLE meta (id INTEGER PRIMARY KEY CHECK (id = 1), trust_domain TEXT NOT NULL) STRICT;
CREATE TABLE clock (id INTEGER PRIMARY KEY CHECK (id = 1), last INTEGER NOT NULL) STRICT;
INSERT INTO clock (id, last) VALUES (1, 0);
CREATE TABLE trust (id INTEGER PRIMARY KEY CHECK (id = 1), sequence INTEGER NOT NULL, content BLOB NOT NULL) STRICT;
CREATE TABLE join_tokens (
  hash BLOB PRIMARY KEY, id TEXT NOT NULL UNIQUE, identity TEXT NOT NULL, uid TEXT NOT NULL, control INTEGER NOT NULL,
  created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE host_keys (
  uid TEXT PRIMARY KEY, identity TEXT NOT NULL, key_id TEXT NOT NULL UNIQUE, public_key BLOB NOT NULL,
  token_hash BLOB NOT NULL, registered_at INTEGER NOT NULL, revoked_at INTEGER) STRICT, WITHOUT ROWID;
CREATE TABLE issuers (
  ski BLOB PRIMARY KEY, root BLOB NOT NULL, not_after INTEGER NOT NULL, signing_until INTEGER NOT NULL,
  lowest_held INTEGER, fenced INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;
CREATE TABLE journal (
  id INTEGER PRIMARY KEY, serial BLOB NOT NULL UNIQUE, issuer BLOB NOT NULL, identity TEXT NOT NULL, uid TEXT,
  attestor TEXT NOT NULL, host_key TEXT, issued_at INTEGER NOT NULL, not_before INTEGER NOT NULL,
  not_after INTEGER NOT NULL, trust_held INTEGER NOT NULL) STRICT;
CREATE INDEX journal_end ON journal (not_after);
";

/// Why the store gave no answer. Whoever asked must deny (F2).
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// SQLite refused.
    #[error("the store cannot be read or written: {0}")]
    Sqlite(Arc<rusqlite::Error>),
    /// A row holds what this program never wrote.
    #[error("the store holds a wrong value: {0}")]
    Content(String),
    /// A newer program wrote it.
    #[error(
        "the store {path} has schema {found}, and this program knows schema {SCHEMA_VERSION}; run the newer signet-ca"
    )]
    Schema {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The configuration names another trust domain than the one that the state was made for.
    #[error(
        "the store belongs to trust domain {stored}, and the configuration says {configured}; give each its own state_dir"
    )]
    OtherTrustDomain {
        /// In the store.
        stored: String,
        /// In the configuration.
        configured: TrustDomain,
    },
    /// The writer's thread is gone.
    #[error("the store's writer has stopped")]
    Stopped,
    /// The state lies in a cluster, and its API server refused or gave no answer.
    #[error("the state in the cluster cannot be read or written: {0}")]
    Cluster(#[from] crate::kube::ClusterError),
    /// The journal's line could not be written.
    #[error("the journal cannot be written: {0}")]
    Journal(String),
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

/// The open store. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Store {
    writer: writer::Writer,
    reader: Mutex<Connection>,
}

impl Store {
    /// Opens or makes the database and starts the writer's thread. The second value resolves when the store has been dropped
    /// and all that it was asked for is on disk.
    pub fn open(path: &Path, trust_domain: &TrustDomain, metrics: Metrics) -> Result<(Self, Closed), StoreError> {
        let mut connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(5))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -16_384)?; // KiB
        migrate(&mut connection, path, trust_domain)?;
        let reader =
            Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        reader.busy_timeout(Duration::from_secs(5))?;
        let (writer, closed) = writer::Writer::start(connection, metrics)?;
        Ok((Self { writer, reader: Mutex::new(reader) }, closed))
    }

    /// Runs a change on the writer's thread and answers once it is on disk. A change that fails leaves no trace; one whose
    /// asker has gone is carried out all the same.
    pub async fn write<T, E>(&self, change: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + Send + 'static,
    {
        self.writer.run(change).await
    }

    /// Runs a question on the calling thread, which may block for some microseconds.
    pub fn read<T>(&self, question: impl FnOnce(&Connection) -> Result<T, StoreError>) -> Result<T, StoreError> {
        // A panic while reading leaves a read-only connection as good as before.
        question(&self.reader.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The latest moment that any record carries: a clock behind it must not sign.
    pub fn last_record(&self) -> Result<u64, StoreError> {
        self.read(|c| Ok(uint(c.prepare_cached("SELECT last FROM clock")?.query_row([], |row| row.get(0))?)))
    }

    /// Whether the state can be read and written, for readiness.
    pub async fn check(&self) -> Result<(), StoreError> {
        self.last_record()?;
        self.write(|c| Ok(c.execute("UPDATE clock SET last = last WHERE id = 1", []).map(|_| ())?)).await
    }
}

fn migrate(connection: &mut Connection, path: &Path, trust_domain: &TrustDomain) -> Result<(), StoreError> {
    let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let transaction = connection.transaction()?;
    match found {
        0 => {
            transaction.execute_batch(SCHEMA)?;
            transaction.execute("INSERT INTO meta (id, trust_domain) VALUES (1, ?1)", [trust_domain.as_str()])?;
            transaction.pragma_update(None, "user_version", SCHEMA_VERSION)?;
        }
        SCHEMA_VERSION => {}
        _ => return Err(StoreError::Schema { path: path.into(), found }),
    }
    let stored: String = transaction.query_row("SELECT trust_domain FROM meta", [], |row| row.get(0))?;
    if stored != trust_domain.as_str() {
        return Err(StoreError::OtherTrustDomain { stored, configured: trust_domain.clone() });
    }
    Ok(transaction.commit()?)
}

/// Moves the record of the latest moment forward.
fn touch_clock(connection: &Connection, now: u64) -> Result<(), StoreError> {
    connection.prepare_cached("UPDATE clock SET last = ?1 WHERE last < ?1")?.execute([int(now)])?;
    Ok(())
}

/// SQLite's integers are signed; times and sequences stay far below the bound.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

/// Reads a column that must parse as one of our types.
fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: T::Err| StoreError::Content(error.to_string()))
}

/// A query of at most one row.
fn optional<T>(
    connection: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Option<T>, StoreError> {
    Ok(connection.prepare_cached(sql)?.query_row(params, read).optional()?)
}

#[cfg(test)]
mod tests;
