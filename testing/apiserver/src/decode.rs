//! From what a client sends to what is stored: types are checked, unknown fields are found, and what says nothing is
//! dropped or filled in as the field has it. Judges the form, never what it means.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::Deserializer;
use serde::de::{DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::schema::{Empty, Fields, Type};

/// What was found on the way, besides the value.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// Paths of fields that the schema does not have.
    pub(crate) unknown: Vec<String>,
    /// Paths of fields that stand twice.
    pub(crate) duplicates: Vec<String>,
}

/// Reads JSON; fields that stand twice are found.
pub(crate) fn read(text: &[u8]) -> Result<(Value, Vec<String>), serde_json::Error> {
    let mut duplicates = Vec::new();
    let mut input = serde_json::Deserializer::from_slice(text);
    let value = Reader { path: String::new(), duplicates: &mut duplicates }.deserialize(&mut input)?;
    input.end()?;
    Ok((value, duplicates))
}

/// Reads one value, and remembers where it is.
struct Reader<'a> {
    path: String,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, input: D) -> Result<Value, D::Error> {
        input.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Value;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a JSON value")
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

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        let place = |index: usize| format!("{}[{index}]", self.path);
        while let Some(item) =
            items.next_element_seed(Reader { path: place(list.len()), duplicates: &mut *self.duplicates })?
        {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = format!("{}.{key}", self.path);
            let value =
                entries.next_value_seed(Reader { path: path.clone(), duplicates: &mut *self.duplicates })?;
            if map.insert(key, value).is_some() {
                self.duplicates.push(path.trim_start_matches('.').to_owned());
            }
        }
        Ok(map.into())
    }
}

/// `value` in the form in which it is stored, or what is wrong with its form.
pub(crate) fn decode(value: Value, is: &Type, findings: &mut Findings) -> Result<Value, String> {
    let mut path = String::new();
    convert(value, is, &mut path, findings)
}

fn convert(value: Value, is: &Type, path: &mut String, findings: &mut Findings) -> Result<Value, String> {
    let wrong = |value: &Value, wanted: &str| {
        let what = name_of(value);
        Err(format!(
            "json: cannot unmarshal {what} into Go struct field {} of type {wanted}",
            path.trim_start_matches('.')
        ))
    };
    match (is, &value) {
        (Type::Any, _) => Ok(value),
        (_, Value::Null) => Ok(Value::Null),
        (Type::String, Value::String(_))
        | (Type::Bool, Value::Bool(_))
        | (Type::Number, Value::Number(_))
        | (Type::IntOrString, Value::String(_))
        | (Type::Quantity, Value::String(_) | Value::Number(_)) => Ok(value),
        (Type::Int32 | Type::IntOrString, Value::Number(number)) => {
            let fits = number.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            if fits { Ok(value) } else { wrong(&value, "int32") }
        }
        (Type::Int64, Value::Number(number)) => {
            if number.is_i64() {
                Ok(value)
            } else {
                wrong(&value, "int64")
            }
        }
        (Type::Bytes, Value::String(text)) => match STANDARD.decode(text) {
            Ok(_) => Ok(value),
            Err(_) => Err("illegal base64 data at input byte 0".to_owned()),
        },
        (Type::Time | Type::MicroTime, Value::String(text)) => time(text, is),
        (Type::List { of, .. }, Value::Array(_)) => {
            let Value::Array(items) = value else { return Ok(Value::Null) };
            items.into_iter().map(|item| entry(item, of, path, findings)).collect()
        }
        (Type::Map { of, .. }, Value::Object(_)) => {
            let Value::Object(map) = value else { return Ok(Value::Null) };
            let map: Result<Map<_, _>, String> =
                map.into_iter().map(|(key, value)| Ok((key, entry(value, of, path, findings)?))).collect();
            map.map(Value::Object)
        }
        (Type::Struct { is, .. }, Value::Object(_)) => {
            let Value::Object(map) = value else { return Ok(Value::Null) };
            fields(map, is.fields(), path, findings).map(Value::Object)
        }
        (is, _) => wrong(&value, go_name(is)),
    }
}

/// An entry of a list or map: null is what the type has for nothing.
fn entry(value: Value, of: &Type, path: &mut String, findings: &mut Findings) -> Result<Value, String> {
    let value = match (value, of) {
        (Value::Null, Type::String | Type::Bytes) => Value::String(String::new()),
        (Value::Null, Type::Struct { .. }) => Value::Object(Map::new()),
        (value, _) => value,
    };
    convert(value, of, path, findings)
}

fn fields(
    mut map: Map<String, Value>,
    is: &Fields,
    path: &mut String,
    findings: &mut Findings,
) -> Result<Map<String, Value>, String> {
    let mut converted = Map::new();
    let length = path.len();
    for (name, field) in &is.fields {
        path.push('.');
        path.push_str(name);
        let value = match (map.remove(name).unwrap_or_default(), &field.empty, &field.is) {
            // A struct that is always there has its own fields that are.
            (Value::Null, Empty::Always(_), Type::Struct { .. }) => Value::Object(Map::new()),
            (value, ..) => value,
        };
        let value = convert(value, &field.is, path, findings)?;
        path.truncate(length);
        let value = match &field.empty {
            Empty::Always(nothing) if says_nothing(&value, &field.is) && !value.is_object() => {
                nothing.clone()
            }
            Empty::Always(_) => value,
            Empty::Kept if value.is_null() => continue,
            Empty::Dropped if says_nothing(&value, &field.is) => continue,
            Empty::Kept | Empty::Dropped => value,
        };
        converted.insert(name.clone(), value);
    }
    for (name, value) in map {
        if is.open {
            converted.insert(name, value);
        } else {
            findings.unknown.push(format!("{path}.{name}").trim_start_matches('.').to_owned());
        }
    }
    Ok(converted)
}

fn says_nothing(value: &Value, is: &Type) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Bool(true) => false,
        // 0 of a port by number or name is a value.
        Value::Number(number) => number.as_f64() == Some(0.0) && !matches!(is, Type::IntOrString),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty() && !matches!(is, Type::Struct { .. }),
    }
}

fn time(text: &str, is: &Type) -> Result<Value, String> {
    let micro = matches!(is, Type::MicroTime);
    let form = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let fraction = text.split_once('.').map(|(_, rest)| rest.bytes().take_while(u8::is_ascii_digit).count());
    let wrong = |rest: &str| format!("parsing time {text:?} as {form:?}: cannot parse {rest:?}");
    let shaped = text.len() >= 20 && text.as_bytes().get(10) == Some(&b'T');
    let time: Timestamp = text.parse().ok().filter(|_| shaped).ok_or_else(|| wrong(text))?;
    if micro && fraction != Some(6) {
        return Err(wrong(text));
    }
    let form = if micro { "%Y-%m-%dT%H:%M:%S.%6fZ" } else { "%Y-%m-%dT%H:%M:%SZ" };
    Ok(time.strftime(form).to_string().into())
}

fn name_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn go_name(is: &Type) -> &'static str {
    match is {
        Type::String => "string",
        Type::Bool => "bool",
        Type::Int32 => "int32",
        Type::Int64 => "int64",
        Type::Number => "float64",
        Type::Bytes => "[]byte",
        Type::Time => "Time",
        Type::MicroTime => "MicroTime",
        Type::Quantity => "Quantity",
        Type::IntOrString => "IntOrString",
        Type::Any => "any",
        Type::Struct { .. } => "struct",
        Type::List { .. } => "slice",
        Type::Map { .. } => "map",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::of_kind;

    fn decoded(group: &str, kind: &str, value: Value) -> (Result<Value, String>, Vec<String>) {
        let mut findings = Findings::default();
        (decode(value, &of_kind(group, kind), &mut findings), findings.unknown)
    }

    #[test]
    fn what_says_nothing_is_dropped_or_always_there() {
        let (value, _) = decoded("networking.k8s.io", "Ingress", json!({"spec": {"tls": [], "rules": null}}));
        assert_eq!(value.unwrap(), json!({"metadata": {}, "spec": {}, "status": {"loadBalancer": {}}}));
        let (value, _) =
            decoded("discovery.k8s.io", "EndpointSlice", json!({"endpoints": [], "ports": null}));
        let wanted = json!({"metadata": {}, "addressType": "", "endpoints": null, "ports": null});
        assert_eq!(value.unwrap(), wanted);
    }

    #[test]
    fn unknown_fields_are_found_with_their_path() {
        let (_, unknown) =
            decoded("", "ConfigMap", json!({"metadata": {"foo": 1}, "spec": {}, "data": {"a": "b"}}));
        assert_eq!(unknown, ["metadata.foo", "spec"]);
    }

    #[test]
    fn fields_that_stand_twice_are_found() {
        let (value, duplicates) = read(br#"{"a": {"b": 1, "b": 2}, "c": [{"d": 1, "d": 1}]}"#).unwrap();
        assert_eq!(value, json!({"a": {"b": 2}, "c": [{"d": 1}]}));
        assert_eq!(duplicates, ["a.b", "c[0].d"]);
        assert!(read(b"{} {}").is_err());
    }

    #[test]
    fn a_wrong_type_is_refused() {
        for value in [
            json!({"spec": {"ports": [{"port": "80"}]}}),
            json!({"spec": []}),
            json!({"spec": {"ports": {}}}),
        ] {
            assert!(decoded("", "Service", value.clone()).0.is_err(), "{value}");
        }
        let times = ["2026-01-01T00:00:00Z", "x", "2026-01-01 00:00:00.000000Z"];
        for time in times {
            let lease = json!({"spec": {"renewTime": time}});
            assert!(decoded("coordination.k8s.io", "Lease", lease).0.is_err(), "{time}");
        }
        let lease = json!({"spec": {"renewTime": "2026-01-01T01:00:00.000001+01:00"}});
        let (lease, _) = decoded("coordination.k8s.io", "Lease", lease);
        assert_eq!(lease.unwrap()["spec"]["renewTime"], "2026-01-01T00:00:00.000001Z");
    }
}
