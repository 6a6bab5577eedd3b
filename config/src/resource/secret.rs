//! Secret and ConfigMap: certificates, keys, authorities, revocation lists, and nothing else of them. Bytes of
//! keys end here: behind this module there are parsed keys, which nothing shows.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::meta::ObjectMeta;
use super::pem::{self, Flaw, Part};
use super::reader::{self, At};
use super::syntax;
use crate::table::{Certificate, TrustRoots};

/// A trimmed Secret or ConfigMap.
#[derive(Clone, Debug, PartialEq)]
pub struct Secret {
    /// `type` of a Secret, `Opaque` when absent; empty for a ConfigMap.
    pub kind: Arc<str>,
    /// `tls.crt` with `tls.key`.
    pub certificate: Result<Arc<Certificate>, Flaw>,
    /// `ca.crt` with `ca.crl`.
    pub roots: Result<Arc<TrustRoots>, Flaw>,
    /// part → 1-based line of its value
    pub(crate) lines: Vec<(Part, u32)>,
    /// Short texts of a ConfigMap, by key; nothing of a Secret.
    pub(crate) texts: BTreeMap<Box<str>, At<Box<str>>>,
    /// Seconds since 1970.
    pub(crate) created: Option<i64>,
}

impl Secret {
    /// The line of `part`; 0 when unknown.
    pub(crate) fn line(&self, part: Part) -> u32 {
        self.lines.iter().find(|(other, _)| *other == part).map_or(0, |(_, line)| *line)
    }

    /// True if there is nothing in it for us.
    pub(crate) fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

/// True if the value of `key` in `data` of a Secret or ConfigMap is read; those of all others are of no use.
#[must_use]
pub fn is_material_key(key: &str) -> bool {
    PARTS.into_iter().any(|part| part.key() == key)
}

/// True if the value of `key` in `data` of a ConfigMap may say where a port leads to.
#[must_use]
pub fn is_port_key(key: &str) -> bool {
    key.parse::<u16>().is_ok()
}

/// Longest text of a ConfigMap that is kept: a Service's name, its namespace and more.
const MOST_TEXT_BYTES: usize = 512;
/// Texts of a ConfigMap that are kept: one for each port.
const MOST_TEXTS: usize = 65_536;

const PARTS: [Part; 4] = [Part::Certificate, Part::Key, Part::Roots, Part::RevocationList];

/// The values of `data` that concern us; those of all other keys are not even kept for a moment.
#[derive(Default)]
struct Data(BTreeMap<&'static str, At<String>>);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

/// A text of which an error never shows anything.
struct Hidden(String);

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Hidden;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_i64<E: Error>(self, _: i64) -> Result<Hidden, E> {
                Err(E::custom("expected a string, found a number"))
            }
            fn visit_f64<E: Error>(self, _: f64) -> Result<Hidden, E> {
                Err(E::custom("expected a string, found a number"))
            }
            fn visit_str<E>(self, text: &str) -> Result<Hidden, E> {
                Ok(Hidden(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Data;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_str<E: Error>(self, _: &str) -> Result<Data, E> {
                Err(E::custom("expected a map, found a text"))
            }
            fn visit_i64<E: Error>(self, _: i64) -> Result<Data, E> {
                Err(E::custom("expected a map, found a number"))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Data, A::Error> {
                let mut data = Data::default();
                while let Some(key) = map.next_key::<String>()? {
                    match PARTS.into_iter().find(|part| part.key() == key) {
                        Some(part) => {
                            let At { line, value: Hidden(value) } = map.next_value()?;
                            data.0.insert(part.key(), At { line, value });
                        }
                        None => {
                            map.next_value::<IgnoredAny>()?;
                        }
                    }
                }
                Ok(data)
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct SecretObject {
    pub(super) metadata: ObjectMeta,
    #[serde(rename = "type")]
    kind: Option<Arc<str>>,
    #[serde(default, deserialize_with = "reader::absent")]
    data: Data,
    #[serde(default, deserialize_with = "reader::absent")]
    string_data: Data,
}

/// A text, or whatever else stands where one should, as nothing.
#[derive(Default)]
struct Lenient(Option<String>);

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Anything;
        impl<'de> Visitor<'de> for Anything {
            type Value = Lenient;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_bool<E: Error>(self, _: bool) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_i64<E: Error>(self, _: i64) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_u64<E: Error>(self, _: u64) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_f64<E: Error>(self, _: f64) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_unit<E: Error>(self) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_none<E: Error>(self) -> Result<Lenient, E> {
                Ok(Lenient(None))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Lenient, E> {
                Ok(Lenient(Some(text.to_owned())))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Lenient, A::Error> {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Lenient(None))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Lenient, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Lenient(None))
            }
        }
        deserializer.deserialize_any(Anything)
    }
}

/// The values of a ConfigMap's `data` that concern us.
#[derive(Debug, Default)]
struct MapData(BTreeMap<String, At<String>>);

impl<'de> Deserialize<'de> for MapData {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = MapData;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<MapData, A::Error> {
                let mut data = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if is_material_key(&key) {
                        let At { line, value: Hidden(value) } = map.next_value()?;
                        data.insert(key, At { line, value });
                        continue;
                    }
                    let At { line, value: Lenient(value) } = map.next_value()?;
                    let is_kept = |text: &String| text.len() <= MOST_TEXT_BYTES && data.len() < MOST_TEXTS;
                    if let Some(value) = value.filter(is_kept) {
                        data.insert(key, At { line, value });
                    }
                }
                Ok(MapData(data))
            }
        }
        deserializer.deserialize_any(Fields)
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ConfigMapObject {
    pub(super) metadata: ObjectMeta,
    #[serde(default, deserialize_with = "reader::absent")]
    data: MapData,
}

/// The bytes of each part that is there, or that they are not base64.
#[derive(Default)]
struct Parts(Vec<(Part, u32, Result<Vec<u8>, Flaw>)>);

impl Parts {
    fn take(&mut self, part: Part) -> Option<Result<Vec<u8>, Flaw>> {
        let at = self.0.iter().position(|(other, ..)| *other == part)?;
        Some(self.0.swap_remove(at).2)
    }
}

impl SecretObject {
    pub(super) fn trim(mut self) -> Secret {
        let mut parts = Parts::default();
        for part in PARTS {
            // `stringData` goes before `data`, as the API server has it.
            if let Some(text) = self.string_data.0.remove(part.key()) {
                parts.0.push((part, text.line, Ok(text.value.into_bytes())));
            } else if let Some(text) = self.data.0.remove(part.key()) {
                parts.0.push((part, text.line, from_base64(part, text.value)));
            }
        }
        secret(self.kind.unwrap_or_else(|| "Opaque".into()), &self.metadata, parts)
    }
}

impl ConfigMapObject {
    pub(super) fn trim(mut self) -> Secret {
        let mut parts = Parts::default();
        for part in [Part::Roots, Part::RevocationList] {
            if let Some(text) = self.data.0.remove(part.key()) {
                parts.0.push((part, text.line, Ok(text.value.into_bytes())));
            }
        }
        let mut map = secret("".into(), &self.metadata, parts);
        let texts = self.data.0.into_iter();
        map.texts =
            texts.map(|(key, At { line, value })| (key.into(), At { line, value: value.into() })).collect();
        map.created = self.metadata.creation_timestamp.as_deref().and_then(syntax::timestamp);
        map
    }
}

fn from_base64(part: Part, mut text: String) -> Result<Vec<u8>, Flaw> {
    text.retain(|c| !c.is_ascii_whitespace());
    STANDARD.decode(text).map_err(|_| {
        let message = "not base64; plain text goes below `stringData`";
        Flaw::new(part, "InvalidBase64", message)
    })
}

fn secret(kind: Arc<str>, metadata: &ObjectMeta, mut parts: Parts) -> Secret {
    let namespace = metadata.namespace.as_deref().filter(|name| !name.is_empty()).unwrap_or("default");
    let name: Arc<str> = format!("{namespace}/{}", metadata.name.as_deref().unwrap_or_default()).into();
    let lines = parts.0.iter().map(|(part, line, _)| (*part, *line)).collect();
    let certificate = match (parts.take(Part::Certificate), parts.take(Part::Key)) {
        (Some(chain), Some(key)) => {
            chain.and_then(|chain| key.and_then(|key| pem::certificate(&name, &chain, &key)))
        }
        (Some(_), None) => Err(Flaw::new(Part::Key, "NoKey", "there is no `tls.key`")),
        (None, Some(_)) => Err(Flaw::new(Part::Certificate, "NoCertificate", "there is no `tls.crt`")),
        (None, None) => {
            let message =
                format!("a Secret of type `{kind}` without `tls.crt` and `tls.key` is no certificate");
            Err(Flaw::new(Part::Certificate, "WrongType", message))
        }
    };
    let roots = match (parts.take(Part::Roots), parts.take(Part::RevocationList)) {
        (Some(roots), lists) => roots.and_then(|roots| {
            let lists = lists.transpose()?;
            pem::trust_roots(&name, &roots, lists.as_deref())
        }),
        (None, _) => Err(Flaw::new(Part::Roots, "NoCertificate", "there is no `ca.crt`")),
    };
    Secret { kind, certificate, roots, lines, texts: BTreeMap::new(), created: None }
}
