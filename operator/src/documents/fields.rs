//! Reads the fields of one document: each is taken once, and what nobody took is unknown and therefore wrong. Called by
//! `read`; problems go into one sink, so that all of them are reported at once.
use serde_json::{Map, Value};
use signet_policy::{Problem, similar};
use std::cell::RefCell;
use std::str::FromStr;

/// Where problems go.
#[derive(Default)]
pub(super) struct Sink(RefCell<Vec<Problem>>);

impl Sink {
    pub(super) fn report(&self, path: impl Into<String>, found: impl Into<String>, want: impl Into<String>) {
        self.0.borrow_mut().push(Problem { path: path.into(), found: found.into(), want: want.into() });
    }
    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.0.into_inner()
    }
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }
}

/// A mapping that is being read.
pub(super) struct Object<'a> {
    path: String,
    map: &'a Map<String, Value>,
    known: RefCell<Vec<&'static str>>,
    sink: &'a Sink,
}

impl<'a> Object<'a> {
    /// Opens a value as a mapping.
    pub(super) fn open(value: &'a Value, path: &str, sink: &'a Sink) -> Option<Self> {
        if let Value::Object(map) = value {
            Some(Self { path: path.into(), map, known: RefCell::default(), sink })
        } else {
            sink.report(path, show(value), "a mapping");
            None
        }
    }

    /// The path of a field.
    pub(super) fn path(&self, field: &str) -> String {
        if self.path.is_empty() { field.into() } else { format!("{}.{field}", self.path) }
    }

    /// Reports a problem with a field.
    pub(super) fn report(&self, field: &str, found: impl Into<String>, want: impl Into<String>) {
        self.sink.report(self.path(field), found, want);
    }

    /// A field that may be absent. Null is not absence: it is what a forgotten value looks like.
    pub(super) fn optional(&self, field: &'static str) -> Option<&'a Value> {
        self.known.borrow_mut().push(field);
        self.map.get(field)
    }

    /// A field that must be there.
    pub(super) fn required(&self, field: &'static str, want: &str) -> Option<&'a Value> {
        let value = self.optional(field);
        if value.is_none() {
            self.report(field, "nothing", want);
        }
        value
    }

    /// A text that `T` can be read from.
    pub(super) fn parse<T: FromStr>(&self, field: &'static str, value: &'a Value, want: &str) -> Option<T> {
        let parsed = value.as_str().and_then(|text| text.parse().ok());
        if parsed.is_none() {
            self.report(field, show(value), want);
        }
        parsed
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, field: &'static str, default: bool) -> Option<bool> {
        match self.optional(field) {
            None => Some(default),
            Some(Value::Bool(value)) => Some(*value),
            Some(other) => {
                self.report(field, show(other), "true or false");
                None
            }
        }
    }

    /// A mapping inside.
    pub(super) fn object(&self, field: &'static str, want: &str) -> Option<Object<'a>> {
        Object::open(self.required(field, want)?, &self.path(field), self.sink)
    }

    /// A list inside, each item with its path; absent is empty.
    pub(super) fn list(&self, field: &'static str) -> Option<Vec<(String, &'a Value)>> {
        match self.optional(field) {
            None => Some(Vec::new()),
            Some(Value::Array(items)) => {
                Some(items.iter().enumerate().map(|(i, v)| (format!("{}[{i}]", self.path(field)), v)).collect())
            }
            Some(other) => {
                self.report(field, show(other), "a list");
                None
            }
        }
    }

    /// Texts by text: labels.
    pub(super) fn labels(&self, field: &'static str) -> Option<super::kinds::Labels> {
        let Some(value) = self.optional(field) else { return Some(super::kinds::Labels::new()) };
        let Value::Object(map) = value else {
            self.report(field, show(value), "a mapping of texts, such as {app: orders}");
            return None;
        };
        let mut labels = super::kinds::Labels::new();
        let mut good = true;
        for (key, value) in map {
            if let Value::String(text) = value {
                labels.insert(key.clone(), text.clone());
            } else {
                good = false;
                self.sink.report(format!("{}.{key}", self.path(field)), show(value), "a text (quote it)");
            }
        }
        good.then_some(labels)
    }

    /// Reports every field that nobody asked for.
    pub(super) fn close(self) {
        let known = self.known.into_inner();
        for key in self.map.keys().filter(|key| !known.contains(&key.as_str())) {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let want = match similar(key, &known) {
                Some(meant) => format!("no such field; did you mean {meant}?"),
                None => format!("no such field; known here: {}", known.join(", ")),
            };
            self.sink.report(escape(&path), "an unknown field", want);
        }
    }
}

/// A port, 1 to 65535.
pub(super) fn port(value: &Value, path: &str, sink: &Sink) -> Option<u16> {
    let port = value.as_u64().and_then(|n| u16::try_from(n).ok()).filter(|n| *n != 0);
    if port.is_none() {
        sink.report(path, show(value), "a port, 1 to 65535");
    }
    port
}

/// A value as it is shown to the user: one line, no control characters, at most about 80 characters.
pub(super) fn show(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::Object(_) => "a mapping".into(),
        Value::Array(_) => "a list".into(),
        other => escape(&other.to_string()),
    }
}

/// Bounded, on one line, without control characters.
pub(super) fn escape(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(80)
        .flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] })
        .collect();
    if text.chars().nth(80).is_some() {
        shown.push('…');
    }
    shown
}

/// A name as Kubernetes gives them: RFC 1123, lower case.
pub(super) fn is_name(text: &str, longest: usize, dots: bool) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || (dots && b == b'.');
    let outer = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    bytes.len() <= longest && outer(bytes.first()) && outer(bytes.last()) && bytes.iter().all(|b| inner(*b))
}
