//! The directory that holds the root's key and the store: ours alone, held by one process at a time. Opened by `program`
//! before anything else; everything that the CA writes outside SQLite goes through here, whole or not at all.
use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};
use zeroize::Zeroizing;

/// The largest file read back from the directory; a key or a bundle is a few KiB.
const MAX_FILE: u64 = 1024 * 1024;

/// A directory with mode 0700 that belongs to this process' user, locked against a second CA.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

/// Why a directory or a file in it is not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateDirError {
    /// Something is there, but no directory.
    #[error("{0} is not a directory; name a directory that only this user may read")]
    NotADirectory(PathBuf),
    /// Group or others have rights.
    #[error(
        "{path} has mode {mode:04o}, so others than its owner may reach the CA's keys; run: chmod {want:04o} {path}"
    )]
    TooOpen {
        /// Directory or file.
        path: PathBuf,
        /// Permission bits found.
        mode: u32,
        /// Permission bits that mend it.
        want: u32,
    },
    /// Another user's.
    #[error("{path} belongs to user {owner}, and this process runs as user {own}; run: chown {own} {path}")]
    NotOurs {
        /// Directory or file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Our effective user.
        own: u32,
    },
    /// A second process.
    #[error("{0} is in use by another signet-ca; stop it first, or give this one its own state_dir")]
    InUse(PathBuf),
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

impl StateDir {
    /// Opens the directory, creates it when only its last component is missing, and takes its lock.
    pub fn open(path: &Path) -> Result<Self, StateDirError> {
        let io = |error| StateDirError::Io { path: path.into(), error };
        match DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(io(error)),
            Ok(()) | Err(_) => private_directory(path)?,
        }
        let lock_path = path.join("lock");
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.into(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(StateDirError::InUse(path.into())),
            Err(TryLockError::Error(error)) => Err(io(error)),
        }
    }

    /// Where a file of this name lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Reads a secret; `None` when the file is missing. Refused when others could have read it.
    pub fn read_secret(&self, name: &str) -> Result<Option<Zeroizing<String>>, StateDirError> {
        let path = self.file(name);
        let Some(file) = open_if_there(&path)? else { return Ok(None) };
        let io = |error| StateDirError::Io { path: path.clone(), error };
        let metadata = file.metadata().map_err(io)?;
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateDirError::TooOpen { path, mode, want: 0o600 });
        }
        let mut text = Zeroizing::new(String::with_capacity(4096));
        file.take(MAX_FILE).read_to_string(&mut text).map_err(io)?;
        Ok(Some(text))
    }

    /// Reads a file that holds no secret; `None` when it is missing.
    pub fn read(&self, name: &str) -> Result<Option<String>, StateDirError> {
        let path = self.file(name);
        let Some(file) = open_if_there(&path)? else { return Ok(None) };
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| StateDirError::Io { path, error })?;
        Ok(Some(text))
    }

    /// Puts a file in place with these permission bits: after a crash there is the old one or the new one.
    pub fn write(&self, name: &str, content: &[u8], mode: u32) -> Result<(), StateDirError> {
        let path = self.file(name);
        let beside = self.file(&format!(".{name}.new"));
        self.replace(&path, &beside, content, mode).map_err(|error| StateDirError::Io { path, error })
    }

    fn replace(&self, path: &Path, beside: &Path, content: &[u8], mode: u32) -> io::Result<()> {
        if let Err(error) = fs::remove_file(beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(beside)?;
        file.write_all(content)?;
        // Exactly these bits, whatever the umask is.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.sync_all()?;
        fs::rename(beside, path)?;
        File::open(&self.path)?.sync_all()
    }
}

/// Refuses a directory that is not ours alone. Also used for the directory of the admin socket.
pub fn private_directory(path: &Path) -> Result<(), StateDirError> {
    let metadata = fs::metadata(path).map_err(|error| StateDirError::Io { path: path.into(), error })?;
    if !metadata.is_dir() {
        return Err(StateDirError::NotADirectory(path.into()));
    }
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(StateDirError::NotOurs { path: path.into(), owner: metadata.uid(), own });
    }
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateDirError::TooOpen { path: path.into(), mode, want: 0o700 });
    }
    Ok(())
}

fn open_if_there(path: &Path) -> Result<Option<File>, StateDirError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(StateDirError::Io { path: path.into(), error }),
    }
}

#[cfg(test)]
mod tests;
