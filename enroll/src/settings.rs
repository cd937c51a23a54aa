//! The reader of TOML configuration files that every program uses. It collects **all** problems before anything starts, each
//! with file, line, key, what was found and what would be right.
//!
//! ```no_run
//! # use signet_enroll::settings; use std::{net::SocketAddr, path::Path, time::Duration};
//! # struct Config { listen: SocketAddr, workers: u16, idle: Duration }
//! # fn read(path: &Path) -> Result<Config, settings::Problems> {
//! let mut file = settings::File::open(path)?;
//! let mut root = file.root();
//! let listen = root.required("listen", "an address such as 127.0.0.1:15012");
//! let workers = root.ranged("workers", 1, 1..=64);
//! let mut limits = root.table("limits");
//! let idle = limits.or("idle", Duration::from_secs(300), "a duration such as \"5m\"");
//! file.finish(|| Some(Config { listen: listen?, workers: workers?, idle: idle? }))
//! # }
//! ```
//!
//! Every reading function returns `None` after it has recorded a problem, so that the closure of [`File::finish`] may simply
//! use `?`. Keys that nobody asked for are problems too: [`File::finish`] reports them, with the nearest known key.

mod logging;
mod nearest;
mod problem;
mod table;
mod value;

pub use logging::{LogFormat, LogSettings, OneLine, init_logging};
pub use problem::{Problem, Problems};
pub use table::Table;
pub use value::{Bytes, Setting, Unfit, Value};

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use value::{Item, Kind};

/// A configuration file is a page or two; what is larger is the wrong file.
const MAX_FILE: u64 = 1024 * 1024;

/// One configuration file, read and parsed.
pub struct File {
    path: PathBuf,
    base: PathBuf,
    root: BTreeMap<String, Item>,
    notes: RefCell<Notes>,
}

/// What was asked for, and what was wrong, so far.
#[derive(Default)]
struct Notes {
    problems: Vec<Problem>,
    /// By path of the table: which keys somebody asked for.
    asked: BTreeMap<String, BTreeSet<String>>,
}

impl File {
    /// Reads and parses. A file that cannot be read, that others than its owner may write, or that is not TOML is refused here.
    /// Paths in the file are relative to the file's own directory.
    pub fn open(path: &Path) -> Result<Self, Problems> {
        let text = read_guarded(path)?;
        Self::parse(path, &text)
    }

    /// Parses the text in an environment variable, as a pod's sidecar finds its configuration. Problems name `VARIABLE:line`;
    /// paths in it are best absolute, others are relative to the working directory.
    pub fn from_environment(variable: &str) -> Result<Self, Problems> {
        Self::from_variable(variable, std::env::var_os(variable))
    }

    fn from_variable(variable: &str, value: Option<OsString>) -> Result<Self, Problems> {
        let place = Path::new(variable);
        let refuse = |found: &str| Problems::from(Problem::new(place, None, "", found, "a configuration (TOML) in it"));
        let text = value.ok_or_else(|| refuse("no such environment variable"))?;
        let text = text.into_string().map_err(|_| refuse("an environment variable that is not UTF-8"))?;
        if text.len() as u64 > MAX_FILE {
            return Err(refuse("more than 1 MiB"));
        }
        Self::parse(place, &text)
    }

    /// Parses `text` as if it had been read from `path`. For tests, and for documents that did not come from a file.
    pub fn parse(path: &Path, text: &str) -> Result<Self, Problems> {
        let lines = value::Lines::new(text);
        let document = toml::de::DeTable::parse(text).map_err(|error| {
            let line = error.span().map(|span| lines.of(span.start));
            Problem::new(path, line, "", error.message(), "a TOML document (https://toml.io)")
        })?;
        let base = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf();
        let root = value::convert(document.get_ref(), &lines);
        Ok(Self { path: path.to_path_buf(), base, root, notes: RefCell::default() })
    }

    /// The table of the keys before the first `[header]`.
    pub fn root(&mut self) -> Table<'_> {
        Table::new(self, String::new(), Some(&self.root), None)
    }

    /// The result of `build` if nothing was wrong, otherwise every problem in the order of the file.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, Problems> {
        self.note_unknown("", &self.root);
        let Notes { mut problems, .. } = self.notes.into_inner();
        if problems.is_empty() {
            if let Some(built) = build() {
                return Ok(built);
            }
            // A reader that returns None without a recorded problem is a mistake of ours; still refuse to start.
            problems.push(Problem::new(
                &self.path,
                None,
                "",
                "a value that was not understood",
                "a report of this message",
            ));
        }
        problems.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        Err(Problems(problems))
    }

    fn note(&self, line: Option<usize>, key: &str, found: impl Into<String>, want: impl Into<String>) {
        self.notes.borrow_mut().problems.push(Problem::new(&self.path, line, key, found, want));
    }

    fn note_asked(&self, table: &str, key: &str) {
        self.notes.borrow_mut().asked.entry(table.to_owned()).or_default().insert(key.to_owned());
    }

    /// Reports the keys of `table` that nobody asked for, and descends into the tables that somebody did ask for.
    fn note_unknown(&self, path: &str, table: &BTreeMap<String, Item>) {
        let asked = self.notes.borrow().asked.get(path).cloned().unwrap_or_default();
        for (key, item) in table {
            let full = join(path, key);
            if !asked.contains(key) {
                self.note(Some(item.line), &full, "an unknown key", nearest::suggestion(key, &asked));
                continue;
            }
            match &item.kind {
                Kind::Table(inner) if self.read_as_table(&full) => self.note_unknown(&full, inner),
                Kind::Array(items) => {
                    for (index, item) in items.iter().enumerate() {
                        let element = format!("{full}[{index}]");
                        if let (Kind::Table(inner), true) = (&item.kind, self.read_as_table(&element)) {
                            self.note_unknown(&element, inner);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn read_as_table(&self, path: &str) -> bool {
        self.notes.borrow().asked.contains_key(path)
    }
}

fn join(table: &str, key: &str) -> String {
    if table.is_empty() { key.to_owned() } else { format!("{table}.{key}") }
}

/// Reads a file that only its owner may write.
fn read_guarded(path: &Path) -> Result<String, Problems> {
    let shown = path.display();
    let refuse = |found: String, want: String| Problems::from(Problem::new(path, None, "", found, want));
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => refuse("no such file".into(), "the path of a configuration file".into()),
        std::io::ErrorKind::PermissionDenied => {
            refuse("a file that may not be read".into(), format!("a readable file: chmod u+r {shown} (as its owner)"))
        }
        _ => refuse(format!("a file that cannot be read ({error})"), "a readable file".into()),
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(refuse("something that is not a file".into(), "the path of a configuration file".into()));
    }
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        let want = format!("a file that only its owner may write: chmod go-w {shown}");
        return Err(refuse(format!("mode {mode:04o}"), want));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(refuse("more than 1 MiB".into(), "a configuration file".into()));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = 1 + error.as_bytes().iter().take(at).filter(|b| **b == b'\n').count();
        Problem::new(path, Some(line), "", "bytes that are not UTF-8", "a TOML document in UTF-8").into()
    })
}

#[cfg(test)]
mod tests;
