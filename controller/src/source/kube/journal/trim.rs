//! Objects as they are kept: without what nobody reads.

use std::borrow::Cow;
use std::fmt;

use config::resource::{is_material_key, is_port_key};
use serde::de::{MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

/// The annotation in which kubectl keeps the whole object once more.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// A JSON object whose values are not looked into.
struct Fields<'a>(Vec<(Cow<'a, str>, Cow<'a, RawValue>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Fields<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Fields<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                #[derive(Deserialize)]
                struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
                let mut fields = Vec::new();
                while let Some(Key(key)) = map.next_key()? {
                    let value: &RawValue = map.next_value()?;
                    fields.push((key, Cow::Borrowed(value)));
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

impl Serialize for Fields<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

/// `json` without metadata of no use and without its status, but for the addresses of a Service, if it is one; as it is if it
/// is no JSON object.
pub(in super::super) fn trim(json: &[u8], is_service: bool) -> Box<[u8]> {
    trimmed(json, is_service).unwrap_or_else(|| json.into())
}

/// What is read of a Secret or ConfigMap, and nothing else: it may be anybody's password.
pub(in super::super) fn trim_material(json: &[u8]) -> Option<Box<[u8]>> {
    let mut object: Fields<'_> = serde_json::from_slice(json).ok()?;
    object.0.retain(|(key, _)| matches!(&**key, "kind" | "apiVersion" | "metadata" | "type" | "data"));
    edit(&mut object, "metadata", |metadata| {
        let is_kept =
            |key: &str| matches!(key, "name" | "namespace" | "uid" | "resourceVersion" | "creationTimestamp");
        metadata.0.retain(|(key, _)| is_kept(key));
    });
    let is_map = object.0.iter().any(|(key, value)| key == "kind" && value.get() == r#""ConfigMap""#);
    edit(&mut object, "data", |data| {
        data.0.retain(|(key, _)| is_material_key(key) || (is_map && is_port_key(key)));
    });
    serde_json::to_vec(&object).ok().map(Vec::into_boxed_slice)
}

fn trimmed(json: &[u8], is_service: bool) -> Option<Box<[u8]>> {
    let mut object: Fields<'_> = serde_json::from_slice(json).ok()?;
    object.0.retain(|(key, _)| key != "status" || is_service);
    edit(&mut object, "status", |status| status.0.retain(|(key, _)| key == "loadBalancer"));
    edit(&mut object, "metadata", |metadata| {
        metadata.0.retain(|(key, _)| {
            !matches!(&**key, "managedFields" | "ownerReferences" | "generateName" | "selfLink")
        });
        edit(metadata, "annotations", |annotations| annotations.0.retain(|(key, _)| key != LAST_APPLIED));
    });
    serde_json::to_vec(&object).ok().map(Vec::into_boxed_slice)
}

/// Changes the object that is the value of `key`, if it is one.
fn edit<'a>(fields: &mut Fields<'a>, key: &str, change: impl FnOnce(&mut Fields<'_>)) {
    let Some((_, value)) = fields.0.iter_mut().find(|(name, _)| name == key) else { return };
    let Ok(mut inner) = serde_json::from_str::<Fields<'_>>(value.get()) else { return };
    change(&mut inner);
    let new: Option<Box<RawValue>> =
        serde_json::to_string(&inner).ok().and_then(|text| RawValue::from_string(text).ok());
    if let Some(new) = new {
        *value = Cow::Owned(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_reads_is_left_out_and_the_rest_stays() {
        let json = br#"{"kind":"Ingress","metadata":{"name":"a","managedFields":[{"status":1}],"annotations":
            {"kubectl.kubernetes.io/last-applied-configuration":"{}","sluicegate.dev/x":"\u00e9\"1"},"resourceVersion":"7"},
            "spec":{"status":{"managedFields":[1.50]}},"status":{"loadBalancer":{}}}"#;
        let kept: serde_json::Value = serde_json::from_slice(&trim(json, false)).unwrap();
        let expected = serde_json::json!({"kind":"Ingress","metadata":{"name":"a","annotations":{"sluicegate.dev/x":"é\"1"},
            "resourceVersion":"7"},"spec":{"status":{"managedFields":[1.50]}}});
        assert_eq!(kept, expected);
    }

    #[test]
    fn the_addresses_of_a_service_are_kept() {
        let json = br#"{"metadata":{"name":"a"},"status":{"conditions":[],"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
        let kept = trim(json, true);
        let expected =
            r#"{"metadata":{"name":"a"},"status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
        assert_eq!(std::str::from_utf8(&kept), Ok(expected));
    }

    #[test]
    fn of_a_secret_only_what_is_read_is_kept() {
        let json = br#"{"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"n","uid":"u","labels":{"x":"y"},
            "annotations":{"pass":"hidden"}},"type":"kubernetes.io/tls","immutable":true,
            "data":{"tls.crt":"YQ==","tls.key":"Yg==","ca.crt":"Yw==","ca.crl":"ZA==","password":"hidden"}}"#;
        let kept: serde_json::Value = serde_json::from_slice(&trim_material(json).unwrap()).unwrap();
        let expected = serde_json::json!({"kind":"Secret","apiVersion":"v1","metadata":{"name":"a","namespace":"n",
            "uid":"u"},"type":"kubernetes.io/tls",
            "data":{"tls.crt":"YQ==","tls.key":"Yg==","ca.crt":"Yw==","ca.crl":"ZA=="}});
        assert_eq!(kept, expected);
        assert_eq!(trim_material(b"{\"data\":"), None);
    }

    #[test]
    fn what_is_no_object_is_kept_as_it_is() {
        for text in ["null", "[1]", "{\"a\":", "{\"metadata\":7}", "{\"metadata\":{\"annotations\":null}}"] {
            assert_eq!(&*trim(text.as_bytes(), true), text.as_bytes());
        }
    }
}
