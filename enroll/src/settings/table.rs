//! A table of a configuration file, from which settings are read by name.
use super::value::{Item, Kind, Setting, Unfit, Value};
use super::{File, join};
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// A table that may be absent: then its required keys are missing and all others take their defaults.
pub struct Table<'a> {
    file: &'a File,
    path: String,
    items: Option<&'a BTreeMap<String, Item>>,
    line: Option<usize>,
    /// The place held something else, which has been reported: missing keys are no further news.
    broken: bool,
}

impl<'a> Table<'a> {
    pub(super) fn new(
        file: &'a File,
        path: String,
        items: Option<&'a BTreeMap<String, Item>>,
        line: Option<usize>,
    ) -> Self {
        file.notes.borrow_mut().asked.entry(path.clone()).or_default();
        Self { file, path, items, line, broken: false }
    }

    /// Whether the file has this table.
    pub fn present(&self) -> bool {
        self.items.is_some()
    }

    /// A key that must be there. `want` says what would be right: `"an address such as 127.0.0.1:15012"`.
    pub fn required<T: Setting>(&mut self, key: &str, want: &str) -> Option<T> {
        let value = self.optional(key, want)?;
        if value.is_none() && !self.broken {
            self.file.note(self.line, &join(&self.path, key), "no such key", want);
        }
        value
    }

    /// A key with a default.
    pub fn or<T: Setting>(&mut self, key: &str, default: T, want: &str) -> Option<T> {
        Some(self.optional(key, want)?.unwrap_or(default))
    }

    /// A key that may be absent. `Some(None)` when it is, `None` when it is wrong.
    pub fn optional<T: Setting>(&mut self, key: &str, want: &str) -> Option<Option<T>> {
        let Some(item) = self.take(key) else { return Some(None) };
        let value = Value { item, base: &self.file.base };
        match T::read(&value) {
            Ok(read) => Some(Some(read)),
            Err(Unfit(reason)) => {
                let reason = reason.map(|r| format!(" ({r})")).unwrap_or_default();
                self.file.note(Some(item.line), &join(&self.path, key), format!("{}{reason}", value.show()), want);
                None
            }
        }
    }

    /// A key with a default and bounds, both included.
    pub fn ranged<T: Setting + PartialOrd>(&mut self, key: &str, default: T, bounds: RangeInclusive<T>) -> Option<T> {
        let want = format!("{} to {}", bounds.start().show(), bounds.end().show());
        let value = self.or(key, default, &want)?;
        self.check(key, bounds.contains(&value), &want).then_some(value)
    }

    /// A rule about a key that a type cannot express, or about several keys: unless `holds`, `key` is reported with `want`.
    /// Gives `holds` back.
    pub fn check(&mut self, key: &str, holds: bool, want: &str) -> bool {
        if !holds {
            let found = self.take(key).map(|item| (item.line, Value { item, base: &self.file.base }.show()));
            let (line, found) = found.map_or((self.line, "no such key".to_owned()), |(l, f)| (Some(l), f));
            self.file.note(line, &join(&self.path, key), found, want);
        }
        holds
    }

    /// Reports `key` with what was found there, in the caller's words: for contents that a key only points to, such as a file.
    pub fn refuse(&mut self, key: &str, found: &str, want: &str) {
        let line = self.take(key).map(|item| item.line).or(self.line);
        self.file.note(line, &join(&self.path, key), found, want);
    }

    /// Keys that may be there and are for somebody else: neither read nor reported.
    pub fn leave(&mut self, keys: &[&str]) {
        for key in keys {
            self.file.note_asked(&self.path, key);
        }
    }

    /// The table `[key]` below this one.
    #[must_use]
    pub fn table(&mut self, key: &str) -> Table<'a> {
        let path = join(&self.path, key);
        match self.take(key) {
            None => Table { broken: self.broken, ..Table::new(self.file, path, None, self.line) },
            Some(Item { line, kind: Kind::Table(items) }) => Table::new(self.file, path, Some(items), Some(*line)),
            Some(item) => {
                let found = Value { item, base: &self.file.base }.show();
                self.file.note(Some(item.line), &path, found, format!("a table, [{path}]"));
                Table { broken: true, ..Table::new(self.file, path, None, Some(item.line)) }
            }
        }
    }

    /// The tables `[[key]]`, possibly none.
    pub fn tables(&mut self, key: &str) -> Vec<Table<'a>> {
        let path = join(&self.path, key);
        let Some(item) = self.take(key) else { return Vec::new() };
        let Kind::Array(items) = &item.kind else {
            let found = Value { item, base: &self.file.base }.show();
            self.file.note(Some(item.line), &path, found, format!("tables, [[{path}]]"));
            return Vec::new();
        };
        let mut tables = Vec::new();
        for (index, item) in items.iter().enumerate() {
            let element = format!("{path}[{index}]");
            if let Kind::Table(inner) = &item.kind {
                tables.push(Table::new(self.file, element, Some(inner), Some(item.line)));
            } else {
                let found = Value { item, base: &self.file.base }.show();
                self.file.note(Some(item.line), &element, found, format!("a table, [[{path}]]"));
            }
        }
        tables
    }

    /// A table whose keys are the user's own: identity to DNS names, for example. Absent is empty; `None` after a problem.
    pub fn map<T: Setting>(&mut self, key: &str, want: &str) -> Option<BTreeMap<String, T>> {
        let mut inner = self.table(key);
        let keys: Vec<String> = inner.items.map(|items| items.keys().cloned().collect()).unwrap_or_default();
        let mut map = BTreeMap::new();
        let mut good = !inner.broken;
        for key in keys {
            match inner.required(&key, want) {
                Some(value) => _ = map.insert(key, value),
                None => good = false,
            }
        }
        good.then_some(map)
    }

    /// The item under a key, which is known from now on.
    fn take(&self, key: &str) -> Option<&'a Item> {
        self.file.note_asked(&self.path, key);
        self.items.and_then(|items| items.get(key))
    }
}
