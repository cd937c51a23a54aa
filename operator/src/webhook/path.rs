//! The webhook's path, whose last element is a secret: so a review is known to come from the API server, which shows no
//! certificate, or from somebody who may read webhook configurations or the control namespace's Secrets. Pods may read neither.
//!
//! `certificate` makes it once, keeps it in the Secret that every replica reads, and writes it beside `caBundle`; `server`
//! compares. It is never logged.
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::error::Unspecified;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

const BEFORE: &str = "/inject/";
/// Of the secret: 256 bits, in hexadecimal.
const DIGITS: usize = 64;

/// `/inject/` and the secret.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Path(String);

impl Path {
    /// A new one.
    pub(super) fn random() -> Result<Self, Unspecified> {
        let mut secret = [0; DIGITS / 2];
        aws_lc_rs::rand::fill(&mut secret)?;
        Ok(Self(secret.iter().fold(BEFORE.to_owned(), |path, byte| format!("{path}{byte:02x}"))))
    }

    /// One that was kept; nothing if it is none of ours.
    pub(super) fn read(text: &str) -> Option<Self> {
        let secret = text.strip_prefix(BEFORE)?;
        let good = secret.len() == DIGITS && secret.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        good.then(|| Self(text.to_owned()))
    }

    /// For the Secret and the webhooks alone.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Path(..)")
    }
}

/// The path that is answered at the moment: none before the Secret was read.
#[derive(Debug, Clone, Default)]
pub(super) struct Answered(Arc<Mutex<Option<Path>>>);

impl Answered {
    /// From now on this one.
    pub(super) fn set(&self, path: &Path) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(path.clone());
    }

    /// Whether this is the path; how long that takes says nothing about how much of it is right.
    pub(super) fn is(&self, asked: &str) -> bool {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        path.is_some_and(|path| verify_slices_are_equal(path.0.as_bytes(), asked.as_bytes()).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::{Answered, DIGITS, Path};

    #[test]
    fn only_the_whole_path_is_answered_and_nothing_before_there_is_one() {
        let answered = Answered::default();
        let path = Path::random().unwrap();
        assert!(!answered.is(path.as_str()) && !answered.is(""));
        answered.set(&path);
        assert!(answered.is(path.as_str()));
        let other = Path::random().unwrap();
        let short = &path.as_str()[..path.as_str().len() - 1];
        let (long, double) = (format!("{}0", path.as_str()), format!("/{}", path.as_str()));
        for wrong in ["", "/", "/inject", "/inject/", other.as_str(), short, &long, &double] {
            assert!(!answered.is(wrong), "{wrong}");
        }
        answered.set(&other);
        assert!(answered.is(other.as_str()) && !answered.is(path.as_str()));
    }

    #[test]
    fn a_path_that_was_kept_is_taken_again_and_no_shorter_one() {
        let path = Path::random().unwrap();
        assert_eq!(Path::read(path.as_str()), Some(path));
        let digits = |count: usize| format!("/inject/{}", "a".repeat(count));
        assert!(Path::read(&digits(DIGITS)).is_some());
        for wrong in [digits(DIGITS - 1), digits(DIGITS + 1), digits(0), "a".repeat(72), digits(DIGITS).to_uppercase()]
        {
            assert_eq!(Path::read(&wrong), None, "{wrong}");
        }
        assert_eq!(Path::read(&format!("/inject/{}/{}", "a".repeat(31), "a".repeat(32))), None);
    }

    #[test]
    fn f14_the_secret_is_in_no_debug_output() {
        let path = Path::random().unwrap();
        let answered = Answered::default();
        answered.set(&path);
        assert!(!format!("{path:?} {answered:?}").contains(path.as_str().rsplit('/').next().unwrap()));
    }
}
