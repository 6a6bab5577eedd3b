//! Values of the native format that are written as text: durations, networks, endpoints. Each knows how to be
//! read and how the JSON Schema shows it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::native::{EndpointHost, ListenerSpec, RegexSpec, ValueSpec};
use super::{annotations, syntax};
use crate::table::HashKey;

/// Reads text and turns it into `Self`.
macro_rules! from_text {
    ($type:ty, $parse:expr, $name:literal, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = Cow::<'de, str>::deserialize(deserializer)?;
                $parse(&text).map_err(D::Error::custom)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                $name.into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

/// `10s`, `500ms`, `1h 30m`; `0` for off.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Time(pub(crate) Duration);

from_text!(Time, |text: &str| syntax::duration(text).map(Time), "Time", {
    "type": "string",
    "description": "A time with its unit, as in `10s`, `500ms` or `1h 30m`; `0` where zero means off.",
    "examples": ["10s", "500ms"],
});

/// `10.0.0.0/8`, or one address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Cidr(pub(crate) IpNet);

fn cidr(text: &str) -> Result<Cidr, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Cidr(IpNet::from(address.to_canonical())));
    }
    let net: IpNet =
        text.parse().map_err(|_| format!("`{text}` is not a network such as `10.0.0.0/8` or `fd00::/8`"))?;
    Ok(Cidr(net.trunc()))
}

from_text!(Cidr, cidr, "Cidr", {
    "type": "string",
    "description": "A network such as `10.0.0.0/8`, or one address.",
    "examples": ["10.0.0.0/8"],
});

/// `source-ip`, `uri`, `header:NAME` or `cookie:NAME`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct HashBy(pub(crate) HashKey);

from_text!(HashBy, |text: &str| annotations::hash_key(text).map(HashBy), "HashBy", {
    "type": "string",
    "pattern": "^(source-ip|uri|header:.+|cookie:.+)$",
});

/// `200` or `200-399`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct StatusRange(pub(crate) u16, pub(crate) u16);

fn status_range(text: &str) -> Result<StatusRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.trim().parse(), last.trim().parse()) {
        (Ok(first @ 100..=599), Ok(last @ 100..=599)) if first <= last => Ok(StatusRange(first, last)),
        _ => Err(format!("`{text}` is not a status code or range such as `200-399`")),
    }
}

impl<'de> Deserialize<'de> for StatusRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = StatusRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a status code or range")
            }
            fn visit_i64<E: Error>(self, code: i64) -> Result<StatusRange, E> {
                status_range(&code.to_string()).map_err(E::custom)
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<StatusRange, E> {
                status_range(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for StatusRange {
    fn schema_name() -> Cow<'static, str> {
        "StatusRange".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "anyOf": [
                {"type": "integer", "minimum": 100, "maximum": 599},
                {"type": "string", "pattern": "^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$"},
            ],
        })
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct OneOrMany<T>(pub(crate) Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<'de, T: Deserialize<'de> + for<'a> From<&'a str>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + for<'a> From<&'a str>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<OneOrMany<T>, E> {
                Ok(OneOrMany(vec![T::from(text)]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<OneOrMany<T>, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = seq.next_element()? {
                    all.push(item);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<T> JsonSchema for OneOrMany<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "OneOrMany".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

impl<'de> Deserialize<'de> for ValueSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ValueSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, or a map with `regex`")
            }
            fn visit_str<E>(self, text: &str) -> Result<ValueSpec, E> {
                Ok(ValueSpec::Exact(text.into()))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ValueSpec, A::Error> {
                match map.next_entry::<String, String>()? {
                    Some((key, regex)) if key == "regex" => Ok(ValueSpec::Regex(RegexSpec { regex })),
                    _ => Err(A::Error::custom("expected a string, or a map with `regex`")),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// An endpoint of a native backend.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct EndpointSpec {
    pub(crate) host: EndpointHost,
    pub(crate) port: u16,
    pub(crate) weight: u16,
}

fn endpoint(text: &str, weight: u16) -> Result<EndpointSpec, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        if address.port() == 0 {
            return Err(format!("`{text}`: port 0 is not a port"));
        }
        let host = EndpointHost::Address(address.ip().to_canonical());
        return Ok(EndpointSpec { host, port: address.port(), weight });
    }
    let wanted = "write `address:port` or `dns-name:port`, as in `10.0.0.1:80`";
    let (name, port) = text.rsplit_once(':').ok_or_else(|| format!("`{text}` has no port: {wanted}"))?;
    let port = match port.parse::<u16>() {
        Ok(port) if port != 0 => port,
        _ => return Err(format!("`{port}` is not a port (1 to 65535)")),
    };
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let numeric = name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if numeric || syntax::dns_subdomain(&name.replace('_', "-")).is_err() {
        return Err(format!("`{text}` is neither an address nor a DNS name: {wanted}"));
    }
    Ok(EndpointSpec { host: EndpointHost::Name(name.into()), port, weight })
}

impl<'de> Deserialize<'de> for EndpointSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = EndpointSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`address:port`, or a map with `address` and `weight`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<EndpointSpec, E> {
                endpoint(text, 1).map_err(E::custom)
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EndpointSpec, A::Error> {
                let (mut address, mut weight) = (None, 1_i64);
                while let Some(key) = map.next_key::<String>()? {
                    match &*key {
                        "address" => address = Some(map.next_value::<String>()?),
                        "weight" => weight = map.next_value()?,
                        other => return Err(A::Error::unknown_field(other, &["address", "weight"])),
                    }
                }
                let address = address.ok_or_else(|| A::Error::missing_field("address"))?;
                let weight = u16::try_from(weight).ok().filter(|weight| *weight > 0);
                let weight = weight.ok_or_else(|| A::Error::custom("`weight` must be from 1 to 65535"))?;
                endpoint(&address, weight).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for EndpointSpec {
    fn schema_name() -> Cow<'static, str> {
        "Endpoint".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let address = "`address:port` or `dns-name:port`; names are resolved again as they expire.";
        json_schema!({
            "anyOf": [
                {"type": "string", "description": address, "examples": ["10.0.0.1:80", "db.internal:8080"]},
                {
                    "type": "object",
                    "properties": {
                        "address": {"type": "string", "description": address},
                        "weight": {"type": "integer", "minimum": 1, "maximum": 65535},
                    },
                    "required": ["address"],
                    "additionalProperties": false,
                },
            ],
        })
    }
}

/// `0.0.0.0:80` or `[::]:80`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ListenAddress(pub(crate) SocketAddr);

fn listen_address(text: &str) -> Result<ListenAddress, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| format!("`{text}` is not an address with a port, such as `0.0.0.0:80`"))?;
    if address.port() == 0 {
        return Err(format!("`{text}`: choose a port other than 0"));
    }
    Ok(ListenAddress(address))
}

from_text!(ListenAddress, listen_address, "ListenAddress", {
    "type": "string",
    "description": "Address and port, as in `0.0.0.0:80` or `[::]:80`.",
    "examples": ["127.0.0.1:8080"],
});

/// A listener as written: its address alone, or everything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ListenerEntry(pub(crate) ListenerSpec);

impl<'de> Deserialize<'de> for ListenerEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = ListenerEntry;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`address:port`, or a map with `address`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<ListenerEntry, E> {
                let address = listen_address(text).map_err(E::custom)?;
                Ok(ListenerEntry(ListenerSpec::at(address)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<ListenerEntry, A::Error> {
                ListenerSpec::deserialize(MapAccessDeserializer::new(map)).map(ListenerEntry)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

impl JsonSchema for ListenerEntry {
    fn schema_name() -> Cow<'static, str> {
        "ListenerEntry".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let address = generator.subschema_for::<ListenAddress>();
        let full = generator.subschema_for::<ListenerSpec>();
        json_schema!({"anyOf": [address, full]})
    }
}

/// A name of a native object.
pub(crate) fn is_name(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// A name made up where the user gave none: the file's stem and the position.
pub(crate) fn made_up_name(file: &str, position: u32) -> Arc<str> {
    let stem = file.rsplit('/').next().unwrap_or(file).split('.').next().unwrap_or(file);
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' };
    let stem: String = stem.chars().map(clean).take(40).collect();
    format!("{}-{position}", if stem.is_empty() { "route" } else { &stem }).into()
}
