//! What is wrong with a configuration file, in the words that the user needs to mend it.
use std::fmt;
use std::path::{Path, PathBuf};

/// How much of a wrong value is shown.
const SHOWN: usize = 80;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file.
    pub file: PathBuf,
    /// From 1; absent where the problem has no place, such as a missing key.
    pub line: Option<usize>,
    /// The key with its tables, `limits.connections`; empty for the file as a whole.
    pub key: String,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub want: String,
}

/// Everything that is wrong with a configuration, in the order of the file; `Display` gives one problem a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl Problem {
    pub(super) fn new(
        file: &Path,
        line: Option<usize>,
        key: impl Into<String>,
        found: impl Into<String>,
        want: impl Into<String>,
    ) -> Self {
        Self { file: file.to_path_buf(), line, key: key.into(), found: found.into(), want: want.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", plain(&self.key))?;
        }
        write!(f, " found {}; want {}", plain(&self.found), plain(&self.want))
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Without control characters: a problem is one line, whatever the file holds.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// A value as the user wrote it, bounded.
pub(super) fn shorten(text: &str) -> String {
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    text.chars().take(SHOWN).chain("...".chars()).collect()
}
