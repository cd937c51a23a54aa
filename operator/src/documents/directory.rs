//! Reads a directory of documents: every `*.yaml` and `*.yml` in it, by name, not below it. Called by `files` at every change
//! and by the command line.
use super::read::Reading;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One file may hold this much; 100,000 rules of usual size take about 30 MB and belong in several.
const MAX_FILE: u64 = 16 * 1024 * 1024;
/// Others may write.
const TOO_OPEN: u32 = 0o002;

/// A directory as it was at one moment.
#[derive(Debug, Clone)]
pub struct Directory {
    /// What its files say.
    pub reading: Reading,
    /// Changes whenever a file is added, removed, renamed or written: tells whether another look is needed.
    pub state: Vec<Stamp>,
    /// Microseconds since 1970 of the latest change of a file, or of the directory itself (which a deletion changes).
    pub newest: u64,
}

/// The bits of a mode that tell the type of a file, and the type of a regular one (inode(7)).
const TYPE_BITS: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;

/// What shows that a file is still the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Reads the whole directory. Never fails: what cannot be read is a finding.
///
/// A file without a single byte is refused: an editor that writes in place empties the file first, and reading that as "no
/// rules" would open guarded ports for a moment. The same for a directory without any file.
pub fn read_directory(directory: &Path) -> Directory {
    let mut found = Directory { reading: Reading::default(), state: Vec::new(), newest: 0 };
    let shown: Arc<str> = directory.display().to_string().into();
    match stamp(directory) {
        Ok((stamp, mode)) => {
            found.newest = stamp.micros();
            found.state.push(stamp);
            if mode & TOO_OPEN != 0 {
                found.reading.refuse_file(&shown, "a directory that anybody may write", format!("chmod o-w {shown}"));
            }
        }
        Err(error) => {
            found.reading.refuse_file(&shown, error.to_string(), "a directory of YAML files");
            return found;
        }
    }
    let paths = match list(directory) {
        Ok(paths) => paths,
        Err(error) => {
            found.reading.refuse_file(&shown, error.to_string(), "a directory that this program may read");
            return found;
        }
    };
    if paths.is_empty() {
        found.reading.refuse_file(
            &shown,
            "no *.yaml file",
            "at least one; for a mesh without documents, one with a comment",
        );
    }
    for path in paths {
        file(&path, &mut found);
    }
    found.reading.finish();
    found
}

/// What shows whether the directory has changed, without reading a file: the directory itself first, then its files. Empty
/// when it cannot be looked at.
pub fn look(directory: &Path) -> Vec<Stamp> {
    let Ok((own, _)) = stamp(directory) else { return Vec::new() };
    let files = list(directory).unwrap_or_default();
    std::iter::once(own).chain(files.iter().filter_map(|path| Some(stamp(path).ok()?.0))).collect()
}

/// The files of a directory that hold documents, by name.
pub fn list(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let yaml = path.extension().is_some_and(|e| e == "yaml" || e == "yml");
        // A sub-directory named `x.yaml` is listed too, and then refused by name: better than to leave it out in silence.
        if yaml && !hidden {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn file(path: &Path, found: &mut Directory) {
    let shown: Arc<str> = path.display().to_string().into();
    match stamp(path) {
        Ok((stamp, mode)) => {
            found.newest = found.newest.max(stamp.micros());
            found.state.push(stamp);
            if mode & TYPE_BITS != REGULAR {
                // Opening a pipe would wait for a writer for ever.
                found.reading.refuse_file(&shown, "no regular file", "a regular file, or another name");
                return;
            }
            if mode & TOO_OPEN != 0 {
                found.reading.refuse_file(&shown, "a file that anybody may write", format!("chmod o-w {shown}"));
            }
        }
        Err(error) => {
            found.reading.refuse_file(&shown, error.to_string(), "a file that this program may read");
            return;
        }
    }
    read_file(path, &shown, &mut found.reading);
}

fn read_file(path: &Path, shown: &Arc<str>, reading: &mut Reading) {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        reading.refuse_file(shown, error.to_string(), "a file that this program may read");
    } else if bytes.len() as u64 > MAX_FILE {
        reading.refuse_file(shown, "more than 16 MiB", "several smaller files");
    } else if bytes.is_empty() {
        reading.refuse_file(shown, "an empty file", "documents, or a comment, or no such file (is it being written?)");
    } else {
        match std::str::from_utf8(&bytes) {
            Ok(text) => reading.add(shown, text),
            Err(error) => reading.refuse_file(shown, format!("no UTF-8 at byte {}", error.valid_up_to()), "UTF-8 text"),
        }
    }
}

fn stamp(path: &Path) -> std::io::Result<(Stamp, u32)> {
    let metadata = fs::metadata(path)?;
    let changed = (metadata.ctime(), metadata.ctime_nsec());
    Ok((Stamp { path: path.into(), inode: metadata.ino(), size: metadata.size(), changed }, metadata.mode()))
}

impl Stamp {
    fn micros(&self) -> u64 {
        let (seconds, nanos) = self.changed;
        u64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000) + u64::try_from(nanos / 1000).unwrap_or(0)
    }
}
