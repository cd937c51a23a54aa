//! Quantities of Kubernetes resources: `100m`, `0.5`, `64Mi`. Kept as the user wrote them, compared by value.
use super::pod;
use serde_json::Value;
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// An amount of CPU or memory, more than none.
#[derive(Debug, Clone)]
pub struct Quantity {
    text: String,
    /// Thousandths: of a processor, of a byte.
    milli: u128,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no quantity such as 100m or 64Mi")]
pub struct QuantityError(String);

impl FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let milli = (text.len() <= 32).then(|| milli(text)).flatten().filter(|milli| *milli > 0);
        milli
            .map(|milli| Self { text: text.to_owned(), milli })
            .ok_or_else(|| QuantityError(super::refusal::shorten(text)))
    }
}

/// Digits with at most one point among them, and a suffix. Exponents (`1e3`) are a third way to write the same: left out.
fn milli(text: &str) -> Option<u128> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(end)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |digits: &str| digits.len() <= 18 && digits.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits(whole) || !digits(fraction) {
        return None;
    }
    let unit: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1000_u128.pow(2),
        "M" => 1000_u128.pow(3),
        "G" => 1000_u128.pow(4),
        "T" => 1000_u128.pow(5),
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        _ => return None,
    };
    let number = |digits: &str| if digits.is_empty() { Some(0) } else { digits.parse::<u128>().ok() };
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    number(whole)?.checked_mul(unit)?.checked_add(number(fraction)?.checked_mul(unit)? / scale)
}

impl Quantity {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.milli == other.milli
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.milli.cmp(&other.milli)
    }
}

/// Whether the pod, without our containers, has the quality of service Guaranteed: CPU and memory limits in every container,
/// and no requests that differ from them.
pub(super) fn is_guaranteed(pod: &Value) -> bool {
    let mut containers = pod::list(&pod["spec"]["containers"]).iter().chain(pod::list(&pod["spec"]["initContainers"]));
    !pod::list(&pod["spec"]["containers"]).is_empty()
        && containers.all(|container| {
            let resources = &container["resources"];
            ["cpu", "memory"].iter().all(|what| {
                let (limit, request) = (&resources["limits"][what], &resources["requests"][what]);
                !limit.is_null() && (request.is_null() || same(limit, request))
            })
        })
}

/// Numbers may stand there without quotation marks.
fn same(a: &Value, b: &Value) -> bool {
    let read = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    match (read(a).parse::<Quantity>(), read(b).parse::<Quantity>()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}
