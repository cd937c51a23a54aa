//! JSON of strangers. A few bytes of text can be many of memory (`[0,0,0,…]` is sixteen times as large once it is read), so what
//! is read whole is bounded by the number of its values, and what is not needed is not kept.
use serde::Deserialize;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::cell::Cell;
use std::fmt;

/// Of one object. A pod with 100 containers and 100 variables in each has 40,000.
const VALUES: usize = 65_536;

/// The head of an AdmissionReview: all that is needed before it is known that it is about a new pod.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Review {
    pub(super) api_version: String,
    pub(super) request: Request,
}

/// What is asked. Everything else in it (who asks, the old object, options) is skipped as it is read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Request {
    pub(super) uid: String,
    #[serde(default)]
    pub(super) operation: String,
    #[serde(default)]
    pub(super) resource: Resource,
    pub(super) sub_resource: Option<String>,
    pub(super) namespace: Option<String>,
    pub(super) dry_run: Option<bool>,
}

/// Of which kind the object is.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Resource {
    #[serde(default)]
    pub(super) resource: String,
}

/// The object of a review, read when it is known that it is a pod.
pub(super) fn object(review: &[u8]) -> Result<Value, serde_json::Error> {
    #[derive(Deserialize)]
    struct Whole {
        request: Of,
    }
    #[derive(Deserialize)]
    struct Of {
        #[serde(default)]
        object: Bounded,
    }
    serde_json::from_slice::<Whole>(review).map(|whole| whole.request.object.0)
}

/// A value of at most [`VALUES`] values.
#[derive(Default)]
struct Bounded(Value);

impl<'de> Deserialize<'de> for Bounded {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Counted(&Cell::new(VALUES)).deserialize(deserializer).map(Self)
    }
}

/// Reads one value, and takes one from what is left.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<usize>);

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;
    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.0.get().checked_sub(1);
        self.0.set(left.ok_or_else(|| D::Error::custom(format!("more than {VALUES} values")))?);
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(Number::from_f64(value).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = all.next_element_seed(self)? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = all.next_key::<String>()? {
            let value = all.next_value_seed(self)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}
