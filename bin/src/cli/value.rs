//! What flags take besides plain text and numbers, and what is said of anything else.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use controller::status::Address;
use gateway::announce::Pattern;
use ipnet::IpNet;

/// Where something is kept, or that nothing is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct StateDir(pub(crate) Option<PathBuf>);

impl FromStr for StateDir {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("expected a folder, or \"none\"".to_owned()),
            "none" => Ok(Self(None)),
            path => Ok(Self(Some(path.into()))),
        }
    }
}

/// An address to listen on, or none. Port 0 is any free port; the ready line says which.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Listen(pub(crate) Option<SocketAddr>);

impl FromStr for Listen {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let advice = || "expected ADDRESS:PORT such as 127.0.0.1:8080 or [::]:80, or \"none\"".to_owned();
        text.parse().map(|address| Self(Some(address))).map_err(|_| advice())
    }
}

/// Namespace and name of a Secret.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct SecretName(pub(crate) String, pub(crate) String);

impl FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self(namespace.to_owned(), name.to_owned()))
            }
            _ => Err("expected NAMESPACE/NAME of a Secret, such as default/wildcard".to_owned()),
        }
    }
}

impl SecretName {
    /// As the compiler takes them.
    pub(crate) fn pair(&self) -> (Arc<str>, Arc<str>) {
        (self.0.as_str().into(), self.1.as_str().into())
    }
}

/// Namespace and name of a Service.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct ServiceName(pub(crate) String, pub(crate) String);

impl FromStr for ServiceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "expected NAMESPACE/NAME of a Service, such as sluicegate/sluicegate";
        let (space, name) = text.split_once('/').ok_or(advice)?;
        match (namespace(space), object_name(name)) {
            (Ok(space), Ok(name)) => Ok(Self(space, name)),
            _ => Err(advice.to_owned()),
        }
    }
}

/// Namespace and name of a ConfigMap.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct MapName(pub(crate) String, pub(crate) String);

impl FromStr for MapName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let advice = "expected NAMESPACE/NAME of a ConfigMap, such as ingress-nginx/tcp-services";
        let ServiceName(space, name) = text.parse().map_err(|_| advice.to_owned())?;
        Ok(Self(space, name))
    }
}

impl MapName {
    /// As the compiler takes them.
    pub(crate) fn pair(&self) -> (Arc<str>, Arc<str>) {
        (self.0.as_str().into(), self.1.as_str().into())
    }
}

/// The name of an object: a DNS name.
pub(crate) fn object_name(text: &str) -> Result<String, String> {
    match Address::hostname(text) {
        Some(Address::Hostname(name)) if *name == *text => Ok(text.to_owned()),
        _ => Err("expected the name of an object: lower-case letters, digits, `-` and `.`".to_owned()),
    }
}

/// An address that can stand in a status.
pub(crate) fn published(text: &str) -> Result<Address, String> {
    let address = Address::ip(text).or_else(|| Address::hostname(text));
    address.ok_or_else(|| "expected an IP address or a DNS name".to_owned())
}

/// The name of a namespace (RFC 1123 label).
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if text.is_empty()
        || text.len() > 63
        || !text.chars().all(is_inner)
        || text.starts_with('-')
        || text.ends_with('-')
    {
        return Err("expected the name of a namespace: lower-case letters, digits and `-`".to_owned());
    }
    Ok(text.to_owned())
}

/// The name of an IngressClass. A controller's name is taken for one easily.
pub(crate) fn class_name(text: &str) -> Result<String, String> {
    if text.contains('/') {
        return Err(format!(
            "a class is meant, such as `nginx`; the name of a controller is --controller-class {text}"
        ));
    }
    if text.is_empty() {
        return Err("expected the name of a class, such as sluicegate".to_owned());
    }
    Ok(text.to_owned())
}

pub(crate) fn positive_duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be more than zero".to_owned()),
        other => other.map_err(|error| error.to_string()),
    }
}

/// A network, or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    text.parse::<IpNet>()
        .or_else(|_| text.parse().map(|address: IpAddr| IpNet::from(address)))
        .map_err(|_| "expected a network such as 10.0.0.0/8 or an address".to_owned())
}

/// An interface, or several by the beginning of their names.
pub(super) fn interface(text: &str) -> Result<Pattern, String> {
    Pattern::new(text)
        .ok_or_else(|| "expected the name of an interface such as eth0, or its beginning and *".to_owned())
}

/// A time that the kernel and Leases can express.
pub(super) fn lease(text: &str) -> Result<Duration, String> {
    let time = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    let is_whole = time.subsec_nanos() == 0 && (1..=300).contains(&time.as_secs());
    if is_whole { Ok(time) } else { Err("expected whole seconds, from 1s to 5m".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_address_is_an_address_or_none() {
        assert_eq!("none".parse(), Ok(Listen(None)));
        assert_eq!("[::1]:80".parse(), Ok(Listen(Some("[::1]:80".parse().unwrap()))));
        assert!("8080".parse::<Listen>().is_err());
    }

    #[test]
    fn secret_is_named_with_its_namespace() {
        assert_eq!("a/b".parse(), Ok(SecretName("a".to_owned(), "b".to_owned())));
        for bad in ["", "a", "/a", "a/", "a/b/c"] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn name_of_a_controller_is_no_class() {
        assert_eq!(class_name("nginx").as_deref(), Ok("nginx"));
        assert!(
            class_name("k8s.io/ingress-nginx")
                .unwrap_err()
                .contains("--controller-class k8s.io/ingress-nginx")
        );
        assert!(class_name("").is_err());
    }

    #[test]
    fn network_may_be_a_single_address() {
        assert_eq!(network("10.1.2.3"), Ok("10.1.2.3/32".parse().unwrap()));
        assert_eq!(network("10.0.0.0/8"), Ok("10.0.0.0/8".parse().unwrap()));
        assert!(network("ten").is_err());
    }
}
