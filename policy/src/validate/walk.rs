//! Walking a document: every step either gives what is there or records a problem, and never stops the walk.
use super::similar::similar;
use super::{MAX_PROBLEMS, Problem, grammar};
use crate::verdict::shown;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<'v> {
    pub(super) path: String,
    pub(super) value: &'v Value,
}

/// An object and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Object<'v> {
    path: String,
    map: &'v Map<String, Value>,
}

impl<'v> Object<'v> {
    /// The field, if it is there.
    pub(super) fn get(&self, field: &str) -> Option<At<'v>> {
        self.map.get(field).map(|value| At { path: join(&self.path, field), value })
    }

    /// Which of the fields are there.
    pub(super) fn present(&self, fields: &[&'static str]) -> Vec<&'static str> {
        fields.iter().copied().filter(|field| self.map.contains_key(*field)).collect()
    }

    /// The object itself, for problems of the whole.
    pub(super) fn path(&self) -> &str {
        &self.path
    }

    pub(super) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }
}

/// The grammar of a piece of text: `Err` says what would be right.
pub(super) type Grammar = fn(&str) -> Result<(), String>;

/// The problems so far.
#[derive(Debug, Default)]
pub(super) struct Walk {
    problems: Vec<Problem>,
    left_out: usize,
}

impl Walk {
    /// Records a problem.
    pub(super) fn problem(&mut self, path: &str, found: String, want: impl Into<String>) {
        if self.problems.len() >= MAX_PROBLEMS {
            self.left_out += 1;
            return;
        }
        let path = if path.is_empty() { "document" } else { path };
        self.problems.push(Problem { path: path.to_owned(), found, want: want.into() });
    }

    /// Records that what stands there is wrong.
    pub(super) fn wrong(&mut self, at: &At<'_>, want: impl Into<String>) {
        self.problem(&at.path, found(at.value), want);
    }

    /// How many problems there are.
    pub(super) fn count(&self) -> usize {
        self.problems.len() + self.left_out
    }

    /// All problems, in the order of the document's grammar.
    pub(super) fn finish(mut self) -> Vec<Problem> {
        if self.left_out > 0 {
            self.problems.push(Problem {
                path: "document".to_owned(),
                found: format!("{} more problems", self.left_out),
                want: "those above mended first".to_owned(),
            });
        }
        self.problems
    }

    /// An object without unknown fields. Unknown fields are recorded, and the known ones can still be read.
    pub(super) fn object<'v>(&mut self, at: &At<'v>, want: &str, known: &[&str]) -> Option<Object<'v>> {
        let Value::Object(map) = at.value else {
            self.wrong(at, want);
            return None;
        };
        for field in map.keys().filter(|field| !known.contains(&field.as_str())) {
            let want = match similar(field, known) {
                Some(meant) => format!("no such field; did you mean {meant}?"),
                None => format!("no such field; known here: {}", known.join(", ")),
            };
            self.problem(&join(&at.path, field), "an unknown field".to_owned(), want);
        }
        Some(Object { path: at.path.clone(), map })
    }

    /// A field that must be there.
    pub(super) fn required<'v>(&mut self, object: &Object<'v>, field: &str, want: &str) -> Option<At<'v>> {
        let at = object.get(field);
        if at.is_none() {
            self.problem(&join(&object.path, field), "nothing".to_owned(), want);
        }
        at
    }

    /// Text of a grammar in a field that must be there.
    pub(super) fn required_text(&mut self, object: &Object<'_>, field: &str, grammar: Grammar) -> Option<String> {
        let Some(at) = object.get(field) else {
            let want = grammar("").err().unwrap_or_default();
            self.problem(&join(&object.path, field), "nothing".to_owned(), want);
            return None;
        };
        self.text(&at, grammar)
    }

    /// Text of a grammar.
    pub(super) fn text(&mut self, at: &At<'_>, grammar: Grammar) -> Option<String> {
        let Value::String(text) = at.value else {
            let want = match at.value {
                // What YAML made of a bare word or number.
                Value::Number(_) | Value::Bool(_) => format!("text; in quotes: \"{}\"", found(at.value)),
                _ => grammar("").err().unwrap_or_else(|| "text".to_owned()),
            };
            self.wrong(at, want);
            return None;
        };
        match grammar(text) {
            Ok(()) => Some(text.clone()),
            Err(want) => {
                self.wrong(at, want);
                None
            }
        }
    }

    /// A list of at most `max` entries. One that is too long is a problem, and none of its entries is looked at.
    pub(super) fn list<'v>(&mut self, at: &At<'v>, want: &str, max: usize) -> Option<Vec<At<'v>>> {
        let Value::Array(entries) = at.value else {
            self.wrong(at, format!("a list: {want}"));
            return None;
        };
        if entries.len() > max {
            self.wrong(at, format!("at most {max} entries; split it over several rules"));
            return None;
        }
        let entry = |(at_index, value)| At { path: format!("{}[{at_index}]", at.path), value };
        Some(entries.iter().enumerate().map(entry).collect())
    }

    /// Every entry of a list through `each`; `None` when one of them is wrong, but all are looked at.
    pub(super) fn each<'v, T>(
        &mut self,
        entries: &[At<'v>],
        mut each: impl FnMut(&mut Self, &At<'v>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let read: Vec<Option<T>> = entries.iter().map(|at| each(self, at)).collect();
        read.into_iter().collect()
    }

    /// Labels: at most `max`, keys and values in Kubernetes' grammar.
    pub(super) fn labels(&mut self, at: &At<'_>, max: usize) -> Option<BTreeMap<String, String>> {
        let Value::Object(map) = at.value else {
            self.wrong(at, "labels, such as {app: orders}");
            return None;
        };
        if map.len() > max {
            self.wrong(at, format!("at most {max} labels"));
            return None;
        }
        let mut read = Some(BTreeMap::new());
        for (key, value) in map {
            let at = At { path: join(&at.path, key), value };
            if let Err(want) = grammar::label_key(key) {
                self.problem(&at.path, format!("the label {}", quoted(key)), want);
                read = None;
            }
            let value = self.text(&at, grammar::label_value);
            read = read.zip(value).map(|(mut read, value)| {
                read.insert(key.clone(), value);
                read
            });
        }
        read
    }
}

fn join(path: &str, field: &str) -> String {
    let field = bounded(field, 64);
    if path.is_empty() { field } else { format!("{path}.{field}") }
}

fn bounded(text: &str, limit: usize) -> String {
    // One character becomes ten bytes at most, so this much is enough to fill the limit.
    let head: String = text.chars().take(limit + 1).collect();
    let mut escaped = shown(&head);
    if escaped.len() > limit {
        escaped.truncate(limit);
        escaped.push_str("...");
    }
    escaped
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", bounded(text, 80))
}

/// What stands there, for people.
fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing (null)".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => bounded(&number.to_string(), 40),
        Value::String(text) => quoted(text),
        Value::Array(entries) => match entries.len() {
            0 => "an empty list".to_owned(),
            1 => "a list of 1 entry".to_owned(),
            many => format!("a list of {many} entries"),
        },
        Value::Object(map) if map.is_empty() => "an empty object".to_owned(),
        Value::Object(map) => {
            let mut names: Vec<String> = map.keys().take(4).map(|key| bounded(key, 24)).collect();
            if map.len() > names.len() {
                names.push("...".to_owned());
            }
            format!("an object with {}", names.join(", "))
        }
    }
}
