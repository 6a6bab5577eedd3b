//! The status of an object as an API server tells it. Reads and writes its text; never decides what should stand there.

use std::net::IpAddr;
use std::sync::Arc;

use config::report::{Kind, ObjectRef};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// What an API server says of an object, as far as its status is concerned.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Observed {
    /// Who it is.
    pub object: ObjectRef,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.resourceVersion`, opaque.
    pub resource_version: Arc<str>,
    /// `status.loadBalancer.ingress`, in the order of the object.
    pub entries: Box<[Entry]>,
    /// The field manager that changed the entries last, if there are any and the server says so.
    pub writer: Option<Arc<str>>,
    /// What is read of a Service besides.
    pub service: Option<Box<Balancer>>,
}

/// What is read of a Service besides its addresses.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Balancer {
    /// It is of type LoadBalancer: a server takes no addresses for any other.
    pub is_asked: bool,
    /// It is being deleted.
    pub is_deleting: bool,
    /// `metadata.finalizers`.
    pub finalizers: Box<[Arc<str>]>,
    /// The field manager that put the finalizer of load balancers there, if the server says so.
    pub finalizer_by: Option<Arc<str>>,
    /// The condition that we write, if it is there and can be read.
    pub condition: Option<Condition>,
    /// The JSON of all other conditions, which are kept as they are.
    pub others: Box<[Arc<str>]>,
}

/// Whether a Service has the addresses that it asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Condition {
    /// `status`: `True` or `False`.
    pub is_true: bool,
    /// `reason`.
    pub reason: Arc<str>,
    /// `message`.
    pub message: Arc<str>,
    /// `lastTransitionTime`; `None` for now.
    pub since: Option<Arc<str>>,
}

/// `type` of the condition that we write to Services.
pub(super) const CONDITION: &str = "sluicegate.dev/AddressAssigned";
/// The finalizer of Services with a load balancer: they are there until it has let go of them.
pub(super) const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";

/// One entry of `status.loadBalancer.ingress`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// What it names, if it names one thing only and says nothing else. We write no other entries.
    pub address: Option<Address>,
    /// Its JSON, if it is not what we would write for `address`. It is somebody else's then, and kept as it is.
    pub text: Option<Arc<str>>,
}

/// Where clients reach what an Ingress serves.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Address {
    /// `ip`, in canonical form: an IPv4 address is never written as IPv6.
    Ip(IpAddr),
    /// The same with `ipMode: Proxy`, as Services have it: nodes must not take a shortcut.
    Proxy(IpAddr),
    /// `hostname`, in lower case.
    Hostname(Arc<str>),
}

impl Observed {
    /// Reads an Ingress from its JSON. `None` if it has no name or version; a status that is not understood is kept in
    /// entries without an address.
    #[must_use]
    pub fn from_json(json: &[u8]) -> Option<Self> {
        let Object { metadata, status, .. } = serde_json::from_slice(json).ok()?;
        let entries = status.and_then(entries).unwrap_or_default();
        let writer = metadata.managed_fields.filter(|_| !entries.is_empty()).and_then(writer);
        Some(Self::new(Kind::Ingress, metadata, entries, writer))
    }

    /// Reads a Service from its JSON. `None` also if there is nothing of a load balancer about it.
    #[must_use]
    pub fn from_service(json: &[u8]) -> Option<Self> {
        let Object { mut metadata, status, spec } = serde_json::from_slice(json).ok()?;
        let entries = status.and_then(entries).unwrap_or_default();
        let mut balancer = Balancer::read(metadata.finalizers.take(), status);
        let is_asked = spec.is_some_and(|spec| spec.kind.as_deref() == Some("LoadBalancer"));
        balancer.is_asked = is_asked;
        balancer.is_deleting = metadata.deletion_timestamp.is_some();
        let leaves_traces = !entries.is_empty() || balancer.has_finalizer() || balancer.condition.is_some();
        if !is_asked && !leaves_traces {
            return None;
        }
        let managed = metadata.managed_fields;
        if balancer.is_deleting {
            balancer.finalizer_by = managed.and_then(finalizer_by);
        }
        let writer = match entries.is_empty() {
            false => managed.and_then(writer),
            true => managed.filter(|_| leaves_traces).and_then(tracer),
        };
        let service = Some(Box::new(balancer));
        Some(Self { service, ..Self::new(Kind::Service, metadata, entries, writer) })
    }

    fn new(kind: Kind, metadata: Metadata<'_>, entries: Box<[Entry]>, writer: Option<Arc<str>>) -> Self {
        Self {
            object: ObjectRef { kind, namespace: metadata.namespace, name: metadata.name },
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            entries,
            writer,
            service: None,
        }
    }
}

impl Balancer {
    /// The finalizer of load balancers is there.
    pub(super) fn has_finalizer(&self) -> bool {
        self.finalizers.iter().any(|finalizer| **finalizer == *FINALIZER)
    }

    fn read(finalizers: Option<Vec<Arc<str>>>, status: Option<&RawValue>) -> Self {
        let conditions = status.and_then(|status| {
            let status: ServiceStatus<'_> = serde_json::from_str(status.get()).ok()?;
            status.conditions
        });
        let mut balancer = Self { finalizers: finalizers.unwrap_or_default().into(), ..Self::default() };
        let mut others = Vec::new();
        for text in conditions.into_iter().flatten() {
            match serde_json::from_str::<ConditionFields>(text.get()) {
                Ok(fields) if fields.kind == CONDITION => balancer.condition = Some(fields.into()),
                Ok(_) | Err(_) => others.push(Arc::from(text.get())),
            }
        }
        balancer.others = others.into();
        balancer
    }
}

impl Condition {
    /// True if `other` says the same, since whenever.
    pub(super) fn says(&self, other: &Self) -> bool {
        (self.is_true, &self.reason, &self.message) == (other.is_true, &other.reason, &other.message)
    }

    /// Its JSON; `now` is when it is, as an API server writes times.
    pub(super) fn to_json(&self, now: &str) -> String {
        let since = self.since.as_deref().unwrap_or(now);
        let status = if self.is_true { "True" } else { "False" };
        serde_json::json!({"type": CONDITION, "status": status, "reason": &*self.reason,
            "message": &*self.message, "lastTransitionTime": since})
        .to_string()
    }
}

impl From<ConditionFields> for Condition {
    fn from(fields: ConditionFields) -> Self {
        Self {
            is_true: fields.status == "True",
            reason: fields.reason,
            message: fields.message,
            since: fields.last_transition_time,
        }
    }
}

impl Address {
    /// Reads an IP address, in whatever form.
    #[must_use]
    pub fn ip(text: &str) -> Option<Self> {
        text.parse().ok().map(|ip: IpAddr| Self::Ip(ip.to_canonical()))
    }

    /// Reads a DNS name. `None` if an API server would refuse it as a hostname.
    #[must_use]
    pub fn hostname(text: &str) -> Option<Self> {
        let name = text.to_ascii_lowercase();
        let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        let is_label = |label: &str| {
            let bytes = label.as_bytes();
            bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
                && is_edge(bytes.first())
                && is_edge(bytes.last())
        };
        let is_name = name.len() <= 253 && name.split('.').all(is_label) && name.parse::<IpAddr>().is_err();
        is_name.then(|| Self::Hostname(name.into()))
    }
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) | Self::Proxy(ip) => ip.fmt(f),
            Self::Hostname(name) => f.write_str(name),
        }
    }
}

impl Entry {
    /// The entry that we write for `address`.
    #[must_use]
    pub fn of(address: Address) -> Self {
        Self { address: Some(address), text: None }
    }

    /// The address that it names, whatever else it says.
    pub(super) fn named(&self) -> Option<Address> {
        #[derive(Deserialize)]
        struct Named {
            ip: Option<String>,
            hostname: Option<String>,
        }
        let Some(text) = &self.text else { return self.address.clone() };
        let Named { ip, hostname } = serde_json::from_str(text).ok()?;
        ip.as_deref().and_then(Address::ip).or_else(|| hostname.as_deref().and_then(Address::hostname))
    }

    fn read(text: &RawValue) -> Self {
        let Ok(fields) = serde_json::from_str::<Fields<'_>>(text.get()) else {
            return Self { address: None, text: Some(text.get().into()) };
        };
        let (address, is_canonical) = match fields {
            Fields { ip: Some(ip), hostname: None, ip_mode: Some(mode) } => {
                let address = ip.parse().ok().map(|ip: IpAddr| Address::Proxy(ip.to_canonical()));
                let address = address.filter(|_| mode == "Proxy");
                let is_canonical = address.as_ref().is_some_and(|address| address.to_string() == ip);
                (address, is_canonical)
            }
            Fields { ip: Some(ip), hostname: None, ip_mode: None } => {
                let address = Address::ip(&ip);
                let is_canonical = address.as_ref().is_some_and(|address| address.to_string() == ip);
                (address, is_canonical)
            }
            Fields { ip: None, hostname: Some(name), ip_mode: None } => {
                let address = Address::hostname(&name);
                let is_canonical =
                    matches!(&address, Some(Address::Hostname(canonical)) if **canonical == name);
                (address, is_canonical)
            }
            Fields { .. } => (None, false),
        };
        Self { address, text: (!is_canonical).then(|| text.get().into()) }
    }

    /// Its JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        match self {
            Self { text: Some(text), .. } => text.as_ref().to_owned(),
            // Neither an address nor a name of DNS has anything to be escaped.
            Self { address: Some(Address::Ip(ip)), .. } => format!(r#"{{"ip":"{ip}"}}"#),
            Self { address: Some(Address::Proxy(ip)), .. } => format!(r#"{{"ip":"{ip}","ipMode":"Proxy"}}"#),
            Self { address: Some(Address::Hostname(name)), .. } => format!(r#"{{"hostname":"{name}"}}"#),
            Self { address: None, text: None } => "{}".to_owned(),
        }
    }
}

#[derive(Deserialize)]
struct Object<'j> {
    #[serde(borrow)]
    metadata: Metadata<'j>,
    #[serde(borrow)]
    status: Option<&'j RawValue>,
    spec: Option<ServiceSpec>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'j> {
    name: Arc<str>,
    #[serde(default = "nothing")]
    namespace: Arc<str>,
    #[serde(default = "nothing")]
    uid: Arc<str>,
    resource_version: Arc<str>,
    #[serde(borrow)]
    managed_fields: Option<&'j RawValue>,
    finalizers: Option<Vec<Arc<str>>>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// Who has changed what, as the server keeps book of it.
#[derive(Deserialize)]
struct Managed<'j> {
    #[serde(default)]
    manager: Arc<str>,
    #[serde(borrow, default, rename = "fieldsV1")]
    fields: Option<&'j RawValue>,
}

fn nothing() -> Arc<str> {
    Arc::from("")
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Status<'j> {
    #[serde(borrow)]
    load_balancer: Option<LoadBalancer<'j>>,
}

#[derive(Deserialize)]
struct LoadBalancer<'j> {
    #[serde(borrow)]
    ingress: Option<Vec<&'j RawValue>>,
}

/// The fields of an entry that we write; with any other it is not ours.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields<'j> {
    #[serde(borrow)]
    ip: Option<std::borrow::Cow<'j, str>>,
    #[serde(borrow)]
    hostname: Option<std::borrow::Cow<'j, str>>,
    #[serde(borrow, rename = "ipMode")]
    ip_mode: Option<std::borrow::Cow<'j, str>>,
}

/// Of a Service's status.
#[derive(Deserialize)]
struct ServiceStatus<'j> {
    #[serde(borrow)]
    conditions: Option<Vec<&'j RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ConditionFields {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: Arc<str>,
    #[serde(default = "nothing")]
    message: Arc<str>,
    last_transition_time: Option<Arc<str>>,
}

/// Of a Service's spec.
#[derive(Deserialize)]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
}

fn entries(status: &RawValue) -> Option<Box<[Entry]>> {
    let status: Status<'_> = serde_json::from_str(status.get()).ok()?;
    let entries = status.load_balancer?.ingress?;
    Some(entries.into_iter().map(Entry::read).collect())
}

/// The manager of `status.loadBalancer.ingress`, which is one value to the server and so has one writer.
fn writer(managed: &RawValue) -> Option<Arc<str>> {
    let managers: Vec<Managed<'_>> = serde_json::from_str(managed.get()).ok()?;
    let wrote = |one: &&Managed<'_>| {
        let fields = one
            .fields
            .filter(|text| text.get().contains("f:ingress"))
            .and_then(|text| serde_json::from_str::<serde_json::Value>(text.get()).ok());
        fields.is_some_and(|fields| fields.pointer("/f:status/f:loadBalancer/f:ingress").is_some())
    };
    managers.iter().find(wrote).map(|one| Arc::clone(&one.manager))
}

/// The manager of the finalizer of load balancers.
fn finalizer_by(managed: &RawValue) -> Option<Arc<str>> {
    let managers: Vec<Managed<'_>> = serde_json::from_str(managed.get()).ok()?;
    let finalizer = format!("\"v:\\\"{FINALIZER}\\\"\"");
    let wrote = |one: &&Managed<'_>| one.fields.is_some_and(|text| text.get().contains(&finalizer));
    managers.iter().find(wrote).map(|one| Arc::clone(&one.manager))
}

/// The manager of what else a load balancer leaves on a Service: its finalizer, or our condition.
fn tracer(managed: &RawValue) -> Option<Arc<str>> {
    let managers: Vec<Managed<'_>> = serde_json::from_str(managed.get()).ok()?;
    let finalizer = format!("\"v:\\\"{FINALIZER}\\\"\"");
    let condition = format!("\"k:{{\\\"type\\\":\\\"{CONDITION}\\\"}}\"");
    let wrote = |one: &&Managed<'_>| {
        one.fields.is_some_and(|text| text.get().contains(&finalizer) || text.get().contains(&condition))
    };
    managers.iter().find(wrote).map(|one| Arc::clone(&one.manager))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &str) -> Vec<Entry> {
        let json = format!(
            r#"{{"metadata":{{"name":"a","namespace":"n","uid":"u","resourceVersion":"7"}},
                "status":{{"loadBalancer":{{"ingress":{entries}}}}}}}"#
        );
        Observed::from_json(json.as_bytes()).unwrap().entries.into_vec()
    }

    #[test]
    fn of_a_service_addresses_condition_and_finalizer_are_read() {
        let json = br#"{"metadata":{"name":"a","namespace":"n","uid":"u","resourceVersion":"7","finalizers":
            ["x/y","service.kubernetes.io/load-balancer-cleanup"],"managedFields":[{"manager":"kubectl","fieldsV1":{"f:spec":{}}},
            {"manager":"us","fieldsV1":{"f:metadata":{"f:finalizers":{".":{},"v:\"service.kubernetes.io/load-balancer-cleanup\"":{}}}}}]},
            "spec":{"type":"ClusterIP"},"status":{"conditions":[{"type":"other","status":"True"},
            {"type":"sluicegate.dev/AddressAssigned","status":"False","reason":"NoPool","message":"m",
            "lastTransitionTime":"2026-01-02T03:04:05Z"}],"loadBalancer":{}}}"#;
        let observed = Observed::from_service(json).unwrap();
        assert_eq!(observed.writer.as_deref(), Some("us"));
        let service = observed.service.unwrap();
        assert!(service.has_finalizer());
        assert_eq!(service.others.len(), 1);
        let condition = service.condition.unwrap();
        assert!(!condition.is_true && &*condition.reason == "NoPool");
        assert!(condition.to_json("now").contains("2026-01-02T03:04:05Z"));
        let plain =
            br#"{"metadata":{"name":"a","namespace":"n","resourceVersion":"7"},"spec":{"type":"ClusterIP"}}"#;
        assert_eq!(Observed::from_service(plain), None);
        let entries = read(r#"[{"ip":"192.0.2.1","ipMode":"Proxy"},{"ip":"192.0.2.1","ipMode":"VIP"}]"#);
        assert_eq!(entries[0], Entry::of(Address::Proxy("192.0.2.1".parse().unwrap())));
        assert_eq!(entries[0].to_json(), r#"{"ip":"192.0.2.1","ipMode":"Proxy"}"#);
        assert_eq!(entries[1].address, None);
    }

    #[test]
    fn entry_with_one_address_is_read_in_canonical_form() {
        let ip = |text| Entry::of(Address::ip(text).unwrap());
        assert_eq!(
            read(r#"[{"ip":"192.0.2.1"},{"ip":"2001:db8::1"}]"#),
            [ip("192.0.2.1"), ip("2001:db8::1")]
        );
        assert_eq!(
            read(r#"[{"hostname":"lb.example"}]"#),
            [Entry::of(Address::hostname("lb.example").unwrap())]
        );
        let other = read(r#"[{"ip":"2001:DB8:0::1"}]"#);
        assert_eq!(other[0].address, Address::ip("2001:db8::1"));
        assert_eq!(other[0].to_json(), r#"{"ip":"2001:DB8:0::1"}"#);
    }

    #[test]
    fn entry_that_says_more_is_kept_as_it_is_and_never_ours() {
        let texts = [
            r#"{"ip":"192.0.2.1","ports":[{"port":80,"protocol":"TCP"}]}"#,
            r#"{"ip":"192.0.2.1","hostname":"a.example"}"#,
            r#"{"ip":"nonsense"}"#,
            "{}",
            "7",
        ];
        for text in texts {
            let entries = read(&format!("[{text}]"));
            assert_eq!(entries[0].address, None, "{text}");
            assert_eq!(entries[0].to_json(), text);
        }
    }

    #[test]
    fn object_without_status_has_no_entries() {
        for json in [
            r#"{"metadata":{"name":"a","resourceVersion":"7"}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"7"},"status":{"loadBalancer":{}}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"7"},"status":{"loadBalancer":{"ingress":null}}}"#,
            r#"{"metadata":{"name":"a","resourceVersion":"7"},"status":7}"#,
        ] {
            assert!(Observed::from_json(json.as_bytes()).unwrap().entries.is_empty(), "{json}");
        }
        assert_eq!(Observed::from_json(br#"{"metadata":{"name":"a"}}"#), None);
    }

    #[test]
    fn writer_of_the_entries_is_read() {
        let json = br#"{"metadata":{"name":"a","resourceVersion":"7","managedFields":[
            {"manager":"kubectl","operation":"Apply","fieldsV1":{"f:spec":{"f:rules":{}}}},
            {"manager":"one","operation":"Apply","subresource":"status","fieldsV1":{"f:status":{}}},
            {"manager":"two","operation":"Update","subresource":"status","fieldsV1":{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}}]},
            "status":{"loadBalancer":{"ingress":[{"ip":"192.0.2.1"}]}}}"#;
        assert_eq!(Observed::from_json(json).unwrap().writer.as_deref(), Some("two"));
    }

    #[test]
    fn ipv4_address_in_an_ipv6_coat_is_the_ipv4_address() {
        assert_eq!(Address::ip("::ffff:192.0.2.1"), Address::ip("192.0.2.1"));
        assert_eq!(Address::ip("fe80::1%eth0"), None);
    }

    #[test]
    fn hostname_is_what_an_api_server_accepts() {
        for good in ["a", "lb.example", "LB.example", "a-b.c1"] {
            assert!(Address::hostname(good).is_some(), "{good}");
        }
        for bad in ["", ".", "a.", "-a", "a_b", "*.example", "192.0.2.1", "a..b", "é.example"] {
            assert_eq!(Address::hostname(bad), None, "{bad}");
        }
    }
}
