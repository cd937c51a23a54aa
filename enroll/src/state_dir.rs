//! What outlives a restart: the host key with its registration, and the newest trust state. A directory of mode 0700 with
//! files of mode 0600; every file is written beside its place, synced, and renamed into it.
//!
//! ```text
//! state_dir/
//!   host.key       registration (identity, UID, id, hash of the token) and the private key, one file so that they agree
//!   pending.key    the key of a registration whose answer has not been stored yet
//!   trust.state    newest trust state, signet.ca.v1.TrustState
//!   lock           held by the one process that uses the directory
//! ```
use crate::wire::{WireError, trust_state_from_wire, trust_state_to_wire};
use prost::Message;
use signet_identity::{KeyError, PrivateKey, SpiffeId, TrustState, WorkloadUid};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use zeroize::Zeroizing;

/// The largest file that is read back. A trust state of 1,000 trust domains has less than a megabyte.
const MAX_FILE: u64 = 16 << 20;
const HOST_KEY: &str = "host.key";
const PENDING_KEY: &str = "pending.key";
const TRUST: &str = "trust.state";
const LOCK: &str = "lock";

/// Why the state directory cannot be used. Each message says what mends it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// A file operation failed.
    #[error("{}: {error}", path.display())]
    Io {
        /// Of what.
        path: PathBuf,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// Not a directory.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Others than the owner have access.
    #[error("{path} is open to others (mode {mode:04o}); mend it with: chmod {want:04o} {path}", path = path.display())]
    TooOpen {
        /// Of what.
        path: PathBuf,
        /// The mode found.
        mode: u32,
        /// The mode wanted.
        want: u32,
    },
    /// A second process.
    #[error(
        "{} is in use by another process; stop it first, or give this one its own state_dir: two that share a host key are one workload twice",
        .0.display()
    )]
    InUse(PathBuf),
    /// A file of ours that does not read back.
    #[error("{}: {what}; {mend}", path.display())]
    Broken {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        what: String,
        /// What to do.
        mend: &'static str,
    },
}

/// The directory, checked.
#[derive(Debug, Clone)]
pub(crate) struct StateDir {
    path: PathBuf,
    /// Held until the last clone is gone.
    _lock: Arc<File>,
}

/// This host as the CA knows it.
#[derive(Debug)]
pub(crate) struct Registration {
    pub(crate) key: PrivateKey,
    pub(crate) host_key_id: String,
    pub(crate) id: SpiffeId,
    pub(crate) uid: WorkloadUid,
    /// Lower-case hex SHA-256 of the join token that it came from, so that a new token is recognised.
    pub(crate) token_hash: String,
}

impl StateDir {
    /// Opens the directory, and makes it if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        let io = |error| StateError::Io { path: path.to_path_buf(), error };
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(io(error)),
        }
        let metadata = fs::metadata(path).map_err(io)?;
        if !metadata.is_dir() {
            return Err(StateError::NotADirectory(path.to_path_buf()));
        }
        check_mode(path, &metadata, 0o700)?;
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join(LOCK));
        let lock = lock.map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_path_buf(), _lock: Arc::new(lock) }),
            Err(TryLockError::WouldBlock) => Err(StateError::InUse(path.to_path_buf())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    pub(crate) fn registration(&self) -> Result<Option<Registration>, StateError> {
        let path = self.path.join(HOST_KEY);
        let Some(text) = read_secret(&path)? else { return Ok(None) };
        let broken = |what: String| StateError::Broken {
            path: path.clone(),
            what,
            mend: "remove it and join again with a new token",
        };
        let text = std::str::from_utf8(&text).map_err(|_| broken("not text".into()))?;
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            line.ok_or_else(|| broken(format!("the line \"{name}: ...\" is missing")))
        };
        Ok(Some(Registration {
            key: PrivateKey::from_pem(text).map_err(|e| broken(e.to_string()))?,
            host_key_id: field("host-key")?.to_owned(),
            id: field("identity")?.parse().map_err(|e: signet_identity::IdError| broken(e.to_string()))?,
            uid: field("uid")?.parse().map_err(|e: signet_identity::UidError| broken(e.to_string()))?,
            token_hash: field("token-sha256")?.to_owned(),
        }))
    }

    /// Stores a registration in the place of any earlier one; its key is pending no longer.
    pub(crate) fn set_registration(&self, registration: &Registration) -> Result<(), StateError> {
        let pem = registration.key.to_pem();
        let mut text = Zeroizing::new(String::with_capacity(pem.len() + 1024));
        for (name, value) in [
            ("host-key", registration.host_key_id.as_str()),
            ("identity", registration.id.as_str()),
            ("uid", registration.uid.as_str()),
            ("token-sha256", registration.token_hash.as_str()),
        ] {
            for part in [name, ": ", value, "\n"] {
                text.push_str(part);
            }
        }
        text.push_str(&pem);
        self.replace(HOST_KEY, text.as_bytes())?;
        let pending = self.path.join(PENDING_KEY);
        match fs::remove_file(&pending) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StateError::Io { path: pending, error }),
            _ => Ok(()),
        }
    }

    /// The key for a registration that is about to be asked for. It is on the disk before the CA hears of it, so that a crash
    /// after the answer can ask again with the same key and get the same answer.
    pub(crate) fn pending_key(&self) -> Result<PrivateKey, StateError> {
        let path = self.path.join(PENDING_KEY);
        let broken = |error: KeyError| StateError::Broken {
            path: path.clone(),
            what: error.to_string(),
            mend: "remove it and start again",
        };
        if let Some(text) = read_secret(&path)? {
            return PrivateKey::from_pem(&String::from_utf8_lossy(&text)).map_err(broken);
        }
        let key = PrivateKey::generate().map_err(broken)?;
        let beside = self.write_beside(PENDING_KEY, key.to_pem().as_bytes())?;
        // A link is never half a file and never takes the place of another one, as O_EXCL would not.
        let io = |error| StateError::Io { path: path.clone(), error };
        fs::hard_link(&beside, &path).and_then(|()| fs::remove_file(&beside)).map_err(io)?;
        self.sync()?;
        Ok(key)
    }

    /// The newest trust state stored, if any.
    pub(crate) fn trust(&self) -> Result<Option<TrustState>, StateError> {
        let path = self.path.join(TRUST);
        let Some(bytes) = read_secret(&path)? else { return Ok(None) };
        let broken = |what: String| StateError::Broken {
            path: path.clone(),
            what,
            mend: "remove it to start from the configured bundle",
        };
        let message = signet_proto::ca::TrustState::decode(bytes.as_slice()).map_err(|e| broken(e.to_string()))?;
        trust_state_from_wire(message).map(Some).map_err(|e: WireError| broken(e.to_string()))
    }

    pub(crate) fn set_trust(&self, state: &TrustState) -> Result<(), StateError> {
        self.replace(TRUST, &trust_state_to_wire(state).encode_to_vec())
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), StateError> {
        let (path, beside) = (self.path.join(name), self.write_beside(name, content)?);
        fs::rename(&beside, &path).map_err(|error| StateError::Io { path, error })?;
        self.sync()
    }

    /// A synced file beside `name`, which is still to be put in its place. One left over from a crash is overwritten.
    fn write_beside(&self, name: &str, content: &[u8]) -> Result<PathBuf, StateError> {
        let path = self.path.join(format!("{name}.new"));
        let write = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
            file.write_all(content)?;
            file.sync_all()
        };
        write().map_err(|error| StateError::Io { path: path.clone(), error })?;
        Ok(path)
    }

    /// Makes names last as well as contents.
    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|directory| directory.sync_all())
            .map_err(|error| StateError::Io { path: self.path.clone(), error })
    }
}

/// Whether a directory, if it is there, is one that others cannot enter: for the configuration, before anything is opened.
pub(crate) fn check(path: &Path) -> Result<(), StateError> {
    match fs::metadata(path) {
        Ok(metadata) if !metadata.is_dir() => Err(StateError::NotADirectory(path.to_path_buf())),
        Ok(metadata) => check_mode(path, &metadata, 0o700),
        // One that is not there is made; one that cannot be seen is refused when it is opened.
        Err(_) => Ok(()),
    }
}

fn check_mode(path: &Path, metadata: &fs::Metadata, want: u32) -> Result<(), StateError> {
    let mode = metadata.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::TooOpen { path: path.to_path_buf(), mode, want });
    }
    Ok(())
}

/// A file's content, or nothing when there is no such file.
fn read_secret(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, StateError> {
    let io = |error| StateError::Io { path: path.to_path_buf(), error };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
    };
    let metadata = file.metadata().map_err(io)?;
    check_mode(path, &metadata, 0o600)?;
    // All at once: a vector that grows leaves copies behind.
    let mut content =
        Zeroizing::new(Vec::with_capacity(usize::try_from(metadata.len().min(MAX_FILE)).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_end(&mut content).map_err(io)?;
    Ok(Some(content))
}

#[cfg(test)]
mod tests;
