//! What a Service of type LoadBalancer says about the addresses that it wants, and which its status says it has. Decides
//! nothing about what it gets.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::annotations::Text;
use super::meta::ObjectMeta;

/// Annotations that name the only pool that is wanted; the first that is there counts.
const POOL: [&str; 3] =
    ["sluicegate.dev/address-pool", "metallb.io/address-pool", "metallb.universe.tf/address-pool"];
/// Annotations with the key under which addresses are shared; the first that is there counts.
pub(super) const SHARING: [&str; 3] =
    ["sluicegate.dev/allow-shared-ip", "metallb.io/allow-shared-ip", "metallb.universe.tf/allow-shared-ip"];

/// What a Service of type LoadBalancer says about its addresses, besides those that it asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct AddressWish {
    /// Text among the requested addresses that is none.
    pub misread: Option<Arc<str>>,
    /// The name of the only pool that is wanted.
    pub pool: Option<Arc<str>>,
    /// Services with the same key may have the same address. Not empty.
    pub sharing_key: Option<Arc<str>>,
    /// Which Pods are its endpoints.
    pub selector: BTreeMap<String, String>,
    /// Its own labels.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `ipFamilyPolicy`.
    pub families: FamilyPolicy,
    /// `status.loadBalancer.ingress[].ip`, the first two of each family. Whoever may write the status may write anything there: no reason to serve an
    /// address before it is known to be in a pool that is for this Service.
    pub recorded: Box<[IpAddr]>,
    /// It is being deleted.
    pub is_deleting: bool,
}

/// How many families are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum FamilyPolicy {
    /// One: `SingleStack`, the default.
    #[default]
    Single,
    /// Both, or one if there is no other: `PreferDualStack`.
    Prefer,
    /// Both: `RequireDualStack`.
    Require,
}

/// `status` as far as it is read: addresses at [`RECORDED`]. It is not the user's, so that nothing in it is a mistake:
/// what is not as it should be is passed over, and costs the Service nothing.
#[derive(Debug, Default)]
pub(super) struct ServiceStatus {
    pub(super) recorded: Vec<IpAddr>,
}

/// Where the addresses are: names of fields, and an empty one for each item of a list.
const RECORDED: [&str; 4] = ["loadBalancer", "ingress", "", "ip"];

impl<'de> Deserialize<'de> for ServiceStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut recorded = Vec::new();
        Walk { path: &RECORDED, found: &mut recorded }.deserialize(deserializer)?;
        Ok(Self { recorded })
    }
}

/// Addresses of one family that are read of a status. A Service has one of each; a second one tells that somebody has added
/// to them, and more would only cost time.
const MOST_RECORDED: usize = 2;

/// Finds addresses in any value.
struct Walk<'w> {
    /// Where they are below it.
    path: &'static [&'static str],
    found: &'w mut Vec<IpAddr>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            match self.path.split_first() {
                Some((field, path)) if !field.is_empty() && *field == key => {
                    map.next_value_seed(Walk { path, found: &mut *self.found })?;
                }
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        match self.path.split_first() {
            Some((&"", path)) => {
                while seq.next_element_seed(Walk { path, found: &mut *self.found })?.is_some() {}
            }
            _ => while seq.next_element::<IgnoredAny>()?.is_some() {},
        }
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        if !self.path.is_empty() {
            return Ok(());
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            let address = address.to_canonical();
            let of_family = self.found.iter().filter(|other| other.is_ipv4() == address.is_ipv4());
            if of_family.count() < MOST_RECORDED {
                self.found.push(address);
            }
        }
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
}

/// Reads what annotations, `status` and `spec` say.
pub(super) fn read(
    meta: &ObjectMeta,
    status: &ServiceStatus,
    selector: BTreeMap<String, String>,
    family_policy: Option<&str>,
    misread: Option<Arc<str>>,
) -> AddressWish {
    AddressWish {
        misread,
        pool: text(&meta.annotations, &POOL),
        sharing_key: text(&meta.annotations, &SHARING),
        selector,
        labels: Arc::new(meta.labels.clone()),
        families: match family_policy {
            Some("PreferDualStack") => FamilyPolicy::Prefer,
            Some("RequireDualStack") => FamilyPolicy::Require,
            _ => FamilyPolicy::Single,
        },
        recorded: status.recorded.as_slice().into(),
        is_deleting: meta.deletion_timestamp.is_some(),
    }
}

fn text(annotations: &Text, keys: &[&str]) -> Option<Arc<str>> {
    let text = keys.iter().find_map(|key| annotations.get(*key))?.value.trim();
    (!text.is_empty()).then(|| text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_status_the_first_two_addresses_of_each_family_are_read() {
        let json = r#"{"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}, {"hostname": "a.example"}, {"ip": "::ffff:192.0.2.2"},
            {"ip": "192.0.2.3"}, {"ip": "2001:db8::1"}, {"ip": 7}]}}"#;
        let ServiceStatus { recorded } = serde_json::from_str(json).unwrap();
        let recorded: Vec<String> = recorded.iter().map(ToString::to_string).collect();
        assert_eq!(recorded, ["192.0.2.1", "192.0.2.2", "2001:db8::1"]);
    }
}
