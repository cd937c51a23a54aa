//! The objects of one kind, as a watch tells them. Plain and synchronous. A watch that starts anew lists everything first; what
//! it does not list is gone, however long the break was, and until the list is complete the old content stays.
use crate::documents::Key;
use std::collections::BTreeMap;

/// One piece of news of a watch.
#[derive(Debug, Clone, PartialEq)]
pub enum News<T> {
    /// A list begins.
    Start,
    /// It has this.
    Listed(Key, T),
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
}

impl<T> Default for Store<T> {
    fn default() -> Self {
        Self { current: BTreeMap::new(), next: None, complete: false }
    }
}

impl<T: PartialEq> Store<T> {
    /// Takes news; whether anything that is in force has changed.
    pub fn take(&mut self, news: News<T>) -> bool {
        match news {
            News::Start => {
                self.next = Some(BTreeMap::new());
                false
            }
            News::Listed(key, object) => {
                self.next.get_or_insert_default().insert(key, object);
                false
            }
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

    /// Whether it was listed once.
    pub fn complete(&self) -> bool {
        self.complete
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
