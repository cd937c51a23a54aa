//! The one file that the operator writes: what the index must remember over a restart. Replaced as a whole, so that a kill at
//! any moment leaves the old or the new one.
use crate::index::Memory;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

const FILE: &str = "operator-index.json";

/// What goes wrong with the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// It cannot be read or written.
    #[error("{path}: {error}; the operator must be able to read and write its state directory")]
    Io {
        /// Which file or directory.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is not what the operator wrote.
    #[error(
        "{path} is damaged: {error}; removing it lets the operator start, but rules that target a Service which no longer \
         exists lose their guard"
    )]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        error: serde_json::Error,
    },
}

/// The file and what it holds.
#[derive(Debug)]
pub struct Store {
    path: PathBuf,
    memory: Memory,
}

impl Store {
    /// Opens the store in a state directory, which is made when it is missing (readable by its owner alone).
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(FILE);
        let io = |error| StoreError::Io { path: path.clone(), error };
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(io)?;
        let memory = match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| StoreError::Damaged { path: path.clone(), error })?
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Memory::default(),
            Err(error) => return Err(io(error)),
        };
        Ok(Self { path, memory })
    }

    /// What is remembered.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Remembers something else: on disk when this returns.
    pub fn keep(&mut self, memory: Memory) -> Result<(), StoreError> {
        if memory != self.memory {
            self.write(&memory).map_err(|error| StoreError::Io { path: self.path.clone(), error })?;
            self.memory = memory;
        }
        Ok(())
    }

    fn write(&self, memory: &Memory) -> std::io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec_pretty(memory)?)?;
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}
