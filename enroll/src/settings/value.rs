//! Values of a configuration file, with the line they stand on, and the types that can be read from them.
use super::problem::shorten;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;
use toml::de::{DeTable, DeValue};

/// A value with its line.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Text(String),
    Integer(Option<i128>, String),
    Float(String),
    Bool(bool),
    Date(String),
    Array(Vec<Item>),
    Table(BTreeMap<String, Item>),
}

/// A value that some [`Setting`] is to be read from.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    pub(super) item: &'a Item,
    pub(super) base: &'a Path,
}

/// Why a value does not fit: nothing more to say than what was wanted, or a reason of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unfit(pub Option<String>);

/// A type that can stand in a configuration file. Implement it for a type of your own with one of [`Value`]'s functions;
/// [`Value::parsed`] serves everything that has `FromStr`.
pub trait Setting: Sized {
    /// Reads it.
    fn read(value: &Value<'_>) -> Result<Self, Unfit>;
    /// As the user would write it; for the bounds in messages.
    fn show(&self) -> String {
        String::new()
    }
}

impl<'a> Value<'a> {
    /// The text of a string.
    pub fn text(&self) -> Result<&'a str, Unfit> {
        match &self.item.kind {
            Kind::Text(text) => Ok(text),
            _ => Err(Unfit::default()),
        }
    }
    /// A string that `T` can be parsed from; its error becomes part of the message.
    pub fn parsed<T: FromStr<Err: std::fmt::Display>>(&self) -> Result<T, Unfit> {
        self.text()?.parse().map_err(|error: T::Err| Unfit(Some(error.to_string())))
    }
    /// A whole number.
    pub fn integer(&self) -> Result<i128, Unfit> {
        match &self.item.kind {
            Kind::Integer(Some(number), _) => Ok(*number),
            _ => Err(Unfit::default()),
        }
    }
    /// The directory that relative paths start from.
    pub fn base(&self) -> &'a Path {
        self.base
    }
    /// As the user wrote it, bounded.
    pub(super) fn show(&self) -> String {
        match &self.item.kind {
            Kind::Text(text) => format!("{:?}", shorten(text)),
            Kind::Integer(_, text) | Kind::Float(text) | Kind::Date(text) => shorten(text),
            Kind::Bool(value) => value.to_string(),
            Kind::Array(items) => format!("an array of {}", items.len()),
            Kind::Table(_) => "a table".to_owned(),
        }
    }
}

/// A number of bytes: a whole number, or a string with a unit: `"512B"`, `"64KiB"`, `"8MiB"`, `"1GiB"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

impl Setting for String {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        value.text().map(str::to_owned)
    }
    fn show(&self) -> String {
        format!("{self:?}")
    }
}
impl Setting for bool {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        match value.item.kind {
            Kind::Bool(value) => Ok(value),
            _ => Err(Unfit::default()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {$(
        impl Setting for $type {
            fn read(value: &Value<'_>) -> Result<Self, Unfit> {
                let number = value.integer()?;
                Self::try_from(number).map_err(|_| Unfit(Some(format!("not from {} to {}", Self::MIN, Self::MAX))))
            }
            fn show(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers!(u8 u16 u32 u64 usize i64);

macro_rules! texts {
    ($($type:ty)*) => {$(
        impl Setting for $type {
            fn read(value: &Value<'_>) -> Result<Self, Unfit> {
                value.parsed()
            }
            fn show(&self) -> String {
                format!("\"{self}\"")
            }
        }
    )*};
}
texts!(SocketAddr IpAddr Ipv4Addr Ipv6Addr ipnet::IpNet);
texts!(signet_identity::TrustDomain signet_identity::SpiffeId signet_identity::WorkloadUid);

impl Setting for f64 {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        match &value.item.kind {
            Kind::Float(text) | Kind::Integer(_, text) => {
                text.parse().ok().filter(|f: &f64| f.is_finite()).ok_or_else(Unfit::default)
            }
            _ => Err(Unfit::default()),
        }
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Setting for PathBuf {
    /// Relative paths start from the configuration file's directory, whatever the working directory is.
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        let text = value.text()?;
        if text.is_empty() || text.contains('\0') {
            return Err(Unfit(Some("not a path".into())));
        }
        Ok(value.base().join(text))
    }
    fn show(&self) -> String {
        format!("\"{}\"", self.display())
    }
}

impl Setting for Duration {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        let text = value.text().map_err(|_| Unfit(Some("a duration has a unit".into())))?;
        let unit = |name: &str| match name {
            "ms" => Some(1),
            "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            "d" => Some(86_400_000),
            _ => None,
        };
        quantity(text, unit).map(Duration::from_millis).ok_or_else(|| Unfit(Some("units are ms, s, m, h, d".into())))
    }
    fn show(&self) -> String {
        let ms = self.as_millis();
        let (per, unit) = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")]
            .into_iter()
            .find(|(per, _)| ms > 0 && ms.is_multiple_of(*per))
            .unwrap_or((1, "ms"));
        format!("\"{}{unit}\"", ms / per)
    }
}

impl Setting for Bytes {
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        if value.text().is_err() {
            return u64::read(value).map(Self);
        }
        let unit = |name: &str| match name {
            "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        quantity(value.text()?, unit).map(Self).ok_or_else(|| Unfit(Some("units are B, KiB, MiB, GiB".into())))
    }
    fn show(&self) -> String {
        let (per, unit) = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")]
            .into_iter()
            .find(|(per, _)| self.0 > 0 && self.0.is_multiple_of(*per))
            .unwrap_or((1, "B"));
        format!("\"{}{unit}\"", self.0 / per)
    }
}

/// A whole number directly followed by a unit.
fn quantity(text: &str, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, name) = text.split_at_checked(digits)?;
    number.parse::<u64>().ok()?.checked_mul(unit(name)?)
}

impl<T: Setting> Setting for Vec<T> {
    /// Fails at the first element that does not fit, and says which.
    fn read(value: &Value<'_>) -> Result<Self, Unfit> {
        let Kind::Array(items) = &value.item.kind else { return Err(Unfit::default()) };
        let element = |(index, item): (usize, &Item)| {
            let value = Value { item, base: value.base };
            T::read(&value).map_err(|unfit| {
                let reason = unfit.0.map(|r| format!(": {r}")).unwrap_or_default();
                Unfit(Some(format!("element {}, {}, does not fit{reason}", index + 1, value.show())))
            })
        };
        items.iter().enumerate().map(element).collect()
    }
    fn show(&self) -> String {
        format!("[{}]", self.iter().map(Setting::show).collect::<Vec<_>>().join(", "))
    }
}

/// Turns byte offsets into lines.
pub(super) struct Lines(Vec<usize>);

impl Lines {
    pub(super) fn new(text: &str) -> Self {
        Self(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(at, _)| at).collect())
    }
    /// From 1.
    pub(super) fn of(&self, offset: usize) -> usize {
        1 + self.0.partition_point(|newline| *newline < offset)
    }
}

/// Copies a parsed table, keeping the line of every key.
pub(super) fn convert(table: &DeTable<'_>, lines: &Lines) -> BTreeMap<String, Item> {
    let entry = |(key, value): (&toml::Spanned<std::borrow::Cow<'_, str>>, &toml::Spanned<DeValue<'_>>)| {
        let item = Item { line: lines.of(key.span().start), kind: kind(value.get_ref(), lines) };
        (key.get_ref().to_string(), item)
    };
    table.iter().map(entry).collect()
}

fn kind(value: &DeValue<'_>, lines: &Lines) -> Kind {
    match value {
        DeValue::String(text) => Kind::Text(text.to_string()),
        DeValue::Integer(number) => {
            let digits = number.as_str().replace('_', "");
            Kind::Integer(i128::from_str_radix(&digits, number.radix()).ok(), number.to_string())
        }
        DeValue::Float(number) => Kind::Float(number.as_str().to_owned()),
        DeValue::Boolean(value) => Kind::Bool(*value),
        DeValue::Datetime(date) => Kind::Date(date.to_string()),
        DeValue::Array(items) => Kind::Array(
            items
                .iter()
                .map(|item| Item { line: lines.of(item.span().start), kind: kind(item.get_ref(), lines) })
                .collect(),
        ),
        DeValue::Table(table) => Kind::Table(convert(table, lines)),
    }
}
