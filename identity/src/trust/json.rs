//! The SPIFFE trust bundle format: a JWK Set (SPIFFE Trust Domain and Bundle section 4; rules B1 to B9 of the checklist).
//!
//! serde_json keeps the last of two equal keys and says nothing, and two readers that keep different ones trust different
//! roots: duplicate keys are an error here (B9).
use super::{Bundle, MAX_BUNDLE_TEXT, TrustError};
use crate::TrustDomain;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fmt;

/// A JSON value in which no object has a key twice.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON without duplicate keys")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(value)) = access.next_element()? {
            list.push(value);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            if map.contains_key(&key) {
                let shown: String = key.chars().take(60).collect();
                return Err(A::Error::custom(format!("the key {shown:?} stands twice in one object")));
            }
            let Strict(value) = access.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

fn parse(text: &str) -> Result<Value, TrustError> {
    if text.len() > MAX_BUNDLE_TEXT {
        return Err(TrustError::TooLong(text.len()));
    }
    let Strict(value) = serde_json::from_str(text).map_err(|error| TrustError::Json(error.to_string()))?;
    Ok(value)
}

fn shape(field: impl Into<String>, want: &'static str) -> TrustError {
    TrustError::Shape { field: field.into(), want }
}

/// Reads one bundle: roots, sequence, refresh hint.
pub(super) fn read_bundle(text: &str) -> Result<(Bundle, Option<u64>, Option<u64>), TrustError> {
    bundle(&parse(text)?)
}

/// Reads a bundle map. Refresh hints inside are dropped (B9).
pub(super) fn read_map(text: &str) -> Result<BTreeMap<TrustDomain, (Bundle, Option<u64>)>, TrustError> {
    let value = parse(text)?;
    let map = value.get("trust_domains").and_then(Value::as_object);
    let map = map.ok_or_else(|| shape("trust_domains", "an object of bundles by trust domain"))?;
    map.iter()
        .map(|(name, value)| {
            let shown = || name.chars().take(60).collect();
            let td: TrustDomain = name.parse().map_err(|problem| TrustError::TrustDomain(shown(), problem))?;
            let (bundle, sequence, _) = bundle(value)?;
            Ok((td, (bundle, sequence)))
        })
        .collect()
}

fn bundle(value: &Value) -> Result<(Bundle, Option<u64>, Option<u64>), TrustError> {
    let object = value.as_object().ok_or_else(|| shape("the bundle", "an object"))?;
    let number = |field: &str| match object.get(field) {
        None => Ok(None),
        Some(value) => value.as_u64().map(Some).ok_or_else(|| shape(field, "a whole number, not negative")),
    };
    let sequence = number("spiffe_sequence")?;
    let refresh_hint = number("spiffe_refresh_hint")?;
    let keys = object.get("keys").and_then(Value::as_array).ok_or_else(|| shape("keys", "a list"))?;
    let mut roots = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        // B4, B6: an entry without kty, use or x5c, or for another use, is not for us and is passed over.
        let text = |field: &str| key.get(field).and_then(Value::as_str);
        if text("kty").is_none() || text("use") != Some("x509-svid") {
            continue;
        }
        let Some(first) = key.get("x5c").and_then(Value::as_array).and_then(|list| list.first()) else { continue };
        let der = first.as_str().and_then(|text| STANDARD.decode(text).ok());
        let der = der.ok_or_else(|| shape(format!("keys[{index}].x5c[0]"), "standard base64"))?;
        roots.push(der.into());
    }
    let bundle = Bundle { roots };
    bundle.authorities()?;
    Ok((bundle, sequence, refresh_hint))
}

/// Writes one bundle: every root as one entry with exactly one certificate and no `kid` (B5).
pub(super) fn write_bundle(bundle: &Bundle, sequence: u64, refresh_hint: u64) -> String {
    use crate::rejection::At;
    use crate::verify::authority;
    let keys: Vec<Value> = bundle
        .roots
        .iter()
        .filter_map(|der| {
            let authority = authority::read(der, At::Root).ok()?;
            let (x, y) = authority.point.get(1..)?.split_at_checked(32)?;
            Some(json!({
                "kty": "EC",
                "use": "x509-svid",
                "crv": "P-256",
                "x": URL_SAFE_NO_PAD.encode(x),
                "y": URL_SAFE_NO_PAD.encode(y),
                "x5c": [STANDARD.encode(der)],
            }))
        })
        .collect();
    json!({ "spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint, "keys": keys }).to_string()
}
