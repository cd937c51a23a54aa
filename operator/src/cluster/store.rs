//! The objects of one kind, as a watch tells them. Plain and synchronous. A watch that starts anew lists everything first; what
//! it does not list is gone, however long the break was, and until the list is complete the old content stays. Each piece of news
//! has the version that the API server gave it: a watch tells in their order, so the greatest says how far this one has come.
use crate::documents::Key;
use std::collections::{BTreeMap, HashSet};

/// One piece of news of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum News<T> {
    /// A list begins.
    Start,
    /// It has this.
    Listed(Key, T),
    /// It has something that is of no interest.
    Passed,
    /// It is complete.
    Done,
    /// Made or changed.
    Set(Key, T),
    /// Deleted, or no longer of interest.
    Gone(Key),
}

/// What is known of one kind.
#[derive(Debug)]
pub struct Store<T> {
    current: BTreeMap<Key, T>,
    next: Option<BTreeMap<Key, T>>,
    complete: bool,
    seen: u64,
    /// The greatest version of the list that is not complete yet.
    coming: u64,
}

/// What is the same for stores of every kind.
pub trait Kind {
    /// Whether it was listed once.
    fn complete(&self) -> bool;
    /// The newest version of an object of this kind that has arrived; everything older has too.
    fn seen(&self) -> u64;
    /// Whether everything that is held is one of these.
    fn within(&self, keys: &HashSet<Key>) -> bool;
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), next: None, complete: false, seen: 0, coming: 0 }
    }
}

impl<T: PartialEq> Store<T> {
    /// Takes news of this version; whether anything that is in force has changed.
    pub fn take(&mut self, news: News<T>, version: u64) -> bool {
        match &news {
            News::Start => self.coming = 0,
            News::Listed(..) | News::Passed => self.coming = self.coming.max(version),
            News::Done => self.seen = self.seen.max(std::mem::take(&mut self.coming)),
            News::Set(..) | News::Gone(_) => self.seen = self.seen.max(version),
        }
        match news {
            News::Start => {
                self.next = Some(BTreeMap::new());
                false
            }
            News::Listed(key, object) => {
                self.next.get_or_insert_default().insert(key, object);
                false
            }
            News::Passed => false,
            News::Done => {
                let next = self.next.take().unwrap_or_default();
                let changed = !self.complete || next != self.current;
                (self.current, self.complete) = (next, true);
                changed
            }
            News::Set(key, object) => {
                let changed = self.current.get(&key) != Some(&object);
                if changed {
                    self.current.insert(key, object);
                }
                changed
            }
            News::Gone(key) => self.current.remove(&key).is_some(),
        }
    }

    /// One of them.
    pub fn get(&self, key: &Key) -> Option<&T> {
        self.current.get(key)
    }

    /// Everything, by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &T)> {
        self.current.iter()
    }
}

impl<T> Kind for Store<T> {
    fn complete(&self) -> bool {
        self.complete
    }
    fn seen(&self) -> u64 {
        self.seen
    }
    fn within(&self, keys: &HashSet<Key>) -> bool {
        self.current.keys().all(|key| keys.contains(key))
    }
}
