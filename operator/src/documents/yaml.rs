//! YAML text to values, and where each value stands. Called by `read` alone.
//!
//! A file is first cut at its document markers (a line that starts with `---` always is one, even inside a block scalar:
//! YAML 1.2.2, section 9.1.2), so that one broken document does not hide what is wrong with its neighbours.
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use serde_saphyr::{DuplicateKeyPolicy, MergeKeyPolicy, NonFiniteFloatPolicy, Spanned};
use std::collections::{HashMap, HashSet};
use std::fmt::{self, Write as _};

/// Nesting deeper than this is refused; the deepest document of ours needs 8.
const MAX_DEPTH: usize = 64;

/// One document: its value, and the line of every field.
pub(super) struct Located {
    /// As JSON would hold it.
    pub(super) value: Value,
    lines: HashMap<String, u64>,
}

/// A document that is no YAML.
pub(super) struct Broken {
    /// From 1.
    pub(super) line: u64,
    /// What the parser says.
    pub(super) message: String,
}

impl Located {
    /// The line of a field, or of the nearest one above it that exists.
    pub(super) fn line(&self, path: &str) -> u64 {
        let mut path = path;
        loop {
            if let Some(line) = self.lines.get(path) {
                return *line;
            }
            match path.rfind(['.', '[']) {
                Some(at) => path = &path[..at],
                None => return self.lines.get("").copied().unwrap_or(0),
            }
        }
    }
}

/// Every document of a text. Documents with nothing but comments are left out.
pub(super) fn split(text: &str) -> Vec<Result<Located, Broken>> {
    let mut found = Vec::new();
    for (offset, part) in parts(text) {
        match serde_saphyr::from_multiple_with_options::<Spanned<Node>>(part, options()) {
            Ok(nodes) => found.extend(nodes.into_iter().map(|node| Ok(locate(node, offset)))),
            Err(error) => found.push(Err(broken(part, offset, &error))),
        }
    }
    found
}

/// What is wrong with a part. Its messages name lines within the part, so it is parsed once more with as many lines before it
/// as the file has.
fn broken(part: &str, offset: u64, error: &serde_saphyr::Error) -> Broken {
    let before = usize::try_from(offset).unwrap_or(0);
    let whole = "\n".repeat(before) + part;
    let again = serde_saphyr::from_multiple_with_options::<Spanned<Node>>(&whole, options()).err();
    let (error, offset) = again.as_ref().map_or((error, offset), |again| (again, 0));
    let line = offset + error.location().map_or(1, |l| l.line());
    Broken { line, message: error.without_snippet().to_string() }
}

/// The text cut before each document marker, each with the number of lines before it.
fn parts(text: &str) -> Vec<(u64, &str)> {
    let mut parts = Vec::new();
    let (mut start, mut start_line, mut at) = (0, 0, 0);
    for (line, content) in (0_u64..).zip(text.split_inclusive('\n')) {
        if content.strip_prefix("---").is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
        {
            parts.push((start_line, &text[start..at]));
            (start, start_line) = (at, line);
        }
        at += content.len();
    }
    parts.push((start_line, &text[start..]));
    parts
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_depth: MAX_DEPTH },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        non_finite_float_policy: NonFiniteFloatPolicy::AsString,
        with_snippet: false,
    }
}

fn locate(node: Spanned<Node>, offset: u64) -> Located {
    let mut located = Located { value: Value::Null, lines: HashMap::new() };
    let first = offset + node.referenced.line().max(1);
    located.lines.insert(String::new(), first);
    located.value = plain(node.value, &mut String::new(), offset, &mut located.lines);
    located
}

/// Turns a node into a plain value and notes the line of every field: for an entry of a mapping that of its key.
fn plain(node: Node, path: &mut String, offset: u64, lines: &mut HashMap<String, u64>) -> Value {
    let length = path.len();
    match node {
        Node::Scalar(value) => value,
        Node::List(items) => {
            let mut list = Vec::with_capacity(items.len());
            for (index, item) in items.into_iter().enumerate() {
                let _writing_to_a_string_cannot_fail = write!(path, "[{index}]");
                lines.insert(path.clone(), offset + item.referenced.line());
                list.push(plain(item.value, path, offset, lines));
                path.truncate(length);
            }
            Value::Array(list)
        }
        Node::Map(entries) => {
            let mut map = Map::new();
            for (key, item) in entries {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(&key.value);
                lines.insert(path.clone(), offset + key.referenced.line());
                let value = plain(item, path, offset, lines);
                path.truncate(length);
                map.insert(key.value, value);
            }
            Value::Object(map)
        }
    }
}

/// A value with the places of its parts.
enum Node {
    Scalar(Value),
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Null))
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Scalar(Value::Bool(value)))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(Node::Scalar(value.into()))
    }
    fn visit_i128<E: serde::de::Error>(self, value: i128) -> Result<Node, E> {
        Err(E::custom(format!("{value} is larger than any number that belongs here")))
    }
    fn visit_u128<E: serde::de::Error>(self, value: u128) -> Result<Node, E> {
        Err(E::custom(format!("{value} is larger than any number that belongs here")))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Scalar(Number::from_f64(value).map_or(Value::Null, Value::Number)))
    }
    fn visit_str<E>(self, value: &str) -> Result<Node, E> {
        Ok(Node::Scalar(Value::String(value.into())))
    }
    fn visit_bytes<E: serde::de::Error>(self, _value: &[u8]) -> Result<Node, E> {
        Err(E::custom("bytes belong nowhere here"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Node::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Node, A::Error> {
        let mut entries: Vec<(Spanned<String>, Node)> = Vec::new();
        // The parser refuses equal keys, but takes `1` and `"1"` for different ones; here both are the same text.
        let mut seen = HashSet::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            if !seen.insert(key.value.clone()) {
                return Err(A::Error::custom(format!("key {:?} stands twice in one mapping", key.value)));
            }
            entries.push((key, access.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}
