//! Flat maps keyed by [`ObjectRef`]: what is known at this moment. Stores, never judges; [`Index::apply`] says
//! what a compile has to look at again.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::quality::FixedState;

use crate::endpoint_addresses::EndpointAddresses;
use crate::obscure::Obscure;
use crate::report::{Kind, ObjectRef, Problem};
use crate::resource::destination;
use crate::resource::endpoint_slice::Locality;
use crate::resource::native::EndpointHost;
use crate::resource::{Holding, Ingress, IngressClass, NativeBackend, Object, ObjectSpec, Secret, Service};
use crate::shared::Shared;

/// What happened outside.
#[derive(Clone, Debug)]
pub enum Event {
    /// The object is new or has changed.
    Apply(Object),
    /// The object is gone.
    Delete(ObjectRef),
    /// All current problems of one file or source, replacing the former ones.
    Problems {
        /// File or source.
        source: Arc<str>,
        /// Empty when all is well.
        problems: Vec<Problem>,
    },
    /// Whether all listeners of one file or source are known. If not, what they ask of clients is not known either.
    Listeners {
        /// File or source.
        source: Arc<str>,
        /// False while listeners may be missing of which no version was ever good.
        are_known: bool,
    },
    /// A DNS name has these addresses now; none if it has never resolved.
    Resolved {
        /// One of those that the compiler asked for.
        name: Arc<str>,
        /// In any order.
        addresses: Vec<IpAddr>,
    },
    /// The node that the gateway runs on is in this zone (its label `topology.kubernetes.io/zone`).
    Zone(Option<Arc<str>>),
    /// No Service may lead to these now, in any order, besides where none ever may: where the gateway itself listens, and
    /// the API server.
    Refused(Vec<SocketAddr>),
    /// Somebody gives the Service of type LoadBalancer its addresses; or (`None`) nobody does, so that it has those that it
    /// asks for, as far as anybody may ask for them.
    Assigned {
        /// The Service, which need not be known yet.
        service: ObjectRef,
        /// What it has.
        assignment: Option<Assignment>,
    },
    /// A version of the Service came that does not decode. Whatever was good of it stays, and what can be read of that
    /// version keeps its addresses from others, until there is a good one or it is gone.
    Undecoded {
        /// The Service, of which no good version need be known.
        service: ObjectRef,
        /// Its addresses; `None` if nothing can be read of any.
        holding: Option<Holding>,
    },
    /// A file that an object names has this content now, or cannot be read.
    Loaded {
        /// One of [`Index::files`].
        file: Arc<str>,
        /// The bytes, or why there are none.
        content: FileContent,
    },
}

/// What a Service of type LoadBalancer was given.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Assignment {
    /// Its addresses, and no others, in the order in which they are shown.
    pub addresses: Box<[IpAddr]>,
    /// Why it has less than it asks for: stable reason code, and a text for people.
    pub lack: Option<(&'static str, String)>,
}

/// What was read from a file of certificates or keys, which is never shown.
#[derive(Clone, Eq, PartialEq)]
pub struct FileContent(pub Result<Arc<[u8]>, String>);

impl fmt::Debug for FileContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(bytes) => write!(f, "{} bytes", bytes.len()),
            Err(error) => f.write_str(error),
        }
    }
}

/// Namespace and name of a Service.
pub(crate) type ServiceKey = (Arc<str>, Arc<str>);

/// What is to be compiled again. The default is nothing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Change {
    /// Objects other than EndpointSlices that were applied or deleted.
    pub(crate) objects: BTreeSet<ObjectRef>,
    /// Services with other endpoints.
    pub(crate) endpoints: BTreeSet<ServiceKey>,
    /// DNS names with other addresses.
    pub(crate) resolved: BTreeSet<Arc<str>>,
    /// Files with another content.
    pub(crate) files: BTreeSet<Arc<str>>,
    /// Some source has other problems.
    pub(crate) problems: bool,
    /// The gateway is in another zone.
    pub(crate) zone: bool,
    /// Services may lead elsewhere than before.
    pub(crate) refused: bool,
    /// Other sources have listeners that are not known.
    pub(crate) listeners: bool,
}

impl Change {
    /// Adds what `other` says.
    pub fn merge(&mut self, other: Self) {
        join(&mut self.objects, other.objects);
        join(&mut self.endpoints, other.endpoints);
        join(&mut self.resolved, other.resolved);
        join(&mut self.files, other.files);
        self.problems |= other.problems;
        self.zone |= other.zone;
        self.refused |= other.refused;
        self.listeners |= other.listeners;
    }

    /// Objects other than EndpointSlices that came, changed or went, in order.
    pub fn objects(&self) -> impl Iterator<Item = &ObjectRef> {
        self.objects.iter()
    }

    /// The Services with other endpoints than before, in order.
    pub fn services_with_other_endpoints(&self) -> impl Iterator<Item = ObjectRef> {
        let service = |(namespace, name): &ServiceKey| ObjectRef {
            kind: Kind::Service,
            namespace: Arc::clone(namespace),
            name: Arc::clone(name),
        };
        self.endpoints.iter().map(service)
    }

    /// True if there is nothing to compile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Adds the smaller set to the larger one, at the cost of the smaller one. (`BTreeSet::append` costs both, which for one
/// event after the other is the square of their number.)
fn join<T: Ord>(into: &mut BTreeSet<T>, mut from: BTreeSet<T>) {
    if into.len() < from.len() {
        std::mem::swap(into, &mut from);
    }
    into.extend(from);
}

/// Everything that is known.
#[derive(Debug, Default)]
pub struct Index {
    /// object → what it says; boxed, for the map has room for twice as many
    objects: HashMap<ObjectRef, Box<Object>, FixedState>,
    /// Service → its slices, sorted
    slices: HashMap<ServiceKey, Vec<ObjectRef>, FixedState>,
    /// Places of endpoints, of which there are few.
    localities: Shared<Locality>,
    /// What endpoints of Services have.
    endpoint_addresses: EndpointAddresses,
    /// IngressClasses, of which there are few.
    classes: BTreeSet<ObjectRef>,
    /// DNS name → how many objects want it
    dns_names: BTreeMap<Arc<str>, usize>,
    /// DNS name → addresses, sorted
    resolved: HashMap<Arc<str>, Arc<[IpAddr]>>,
    /// file of certificates or keys → how many objects want it
    files: BTreeMap<Arc<str>, usize>,
    /// file → its content, as far as it was read
    loaded: HashMap<Arc<str>, FileContent>,
    /// source → its problems
    problems: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Sources with listeners that are not known.
    obscure: Obscure,
    /// Where the gateway runs.
    zone: Option<Arc<str>>,
    /// Where no Service may lead, sorted.
    refused: Box<[SocketAddr]>,
    /// Service → what it was given
    assigned: HashMap<ObjectRef, Assignment, FixedState>,
    /// Service of which the last version does not decode → the addresses that it may have
    undecoded: BTreeMap<ObjectRef, Holding>,
    /// Where the API servers say that they are, sorted.
    servers: Box<[SocketAddr]>,
}

impl Index {
    /// An index of nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores what happened and says what it touches.
    pub fn apply(&mut self, event: Event) -> Change {
        let mut change = Change::default();
        match event {
            Event::Apply(object) => {
                self.hold(&object.reference, None, &mut change);
                self.store(object, &mut change);
            }
            Event::Undecoded { service, holding } => self.hold(&service, holding, &mut change),
            Event::Delete(reference) => {
                self.hold(&reference, None, &mut change);
                if let Some(old) = self.objects.remove(&reference) {
                    self.unlink(&old, &mut change);
                    self.look_at_servers(&reference, &mut change);
                }
                self.obscure.forget(&reference);
            }
            Event::Problems { source, problems } => {
                let old = if problems.is_empty() {
                    self.problems.remove(&source)
                } else {
                    self.problems.insert(source.clone(), problems)
                };
                change.problems = old.as_ref() != self.problems.get(&source);
            }
            Event::Listeners { source, are_known } => {
                let has_listeners = self.objects.keys().any(|known| known.kind == Kind::Listener);
                let routes = self.objects.values().filter_map(|object| match &object.spec {
                    ObjectSpec::Route(route) => Some((&object.reference, &**route)),
                    _ => None,
                });
                change.listeners = self.obscure.set(source, are_known, has_listeners, routes);
            }
            Event::Resolved { name, mut addresses } => {
                addresses.iter_mut().for_each(|address| *address = address.to_canonical());
                addresses.sort_unstable();
                addresses.dedup();
                let addresses: Arc<[IpAddr]> = addresses.into();
                if self.resolved.get(&name) != Some(&addresses) {
                    self.resolved.insert(Arc::clone(&name), addresses);
                    change.resolved.insert(name);
                }
            }
            Event::Zone(zone) => {
                change.zone = self.zone != zone;
                self.zone = zone;
            }
            Event::Refused(addresses) => {
                let addresses = sorted(addresses);
                let differ: BTreeSet<IpAddr> = {
                    let (old, new) = (self.refused.iter(), addresses.iter());
                    let gone = old.filter(|address| addresses.binary_search(address).is_err());
                    let come = new.filter(|address| self.refused.binary_search(address).is_err());
                    gone.chain(come).map(SocketAddr::ip).collect()
                };
                // Sockets come and go with each Service that has some; endpoints there are rare.
                change.refused = !differ.is_empty() && self.leads_to(&differ);
                self.refused = addresses;
            }
            Event::Assigned { service, assignment } => {
                let old = match assignment {
                    Some(assignment) => self.assigned.insert(service.clone(), assignment),
                    None => self.assigned.remove(&service),
                };
                if old.as_ref() != self.assigned.get(&service) {
                    change.objects.insert(service);
                }
            }
            Event::Loaded { file, content } => {
                if self.files.contains_key(&file) && self.loaded.get(&file) != Some(&content) {
                    self.loaded.insert(Arc::clone(&file), content);
                    change.files.insert(file);
                }
            }
        }
        change
    }

    /// What a version of the Service that does not decode has of addresses.
    fn hold(&mut self, service: &ObjectRef, holding: Option<Holding>, change: &mut Change) {
        let former = match holding.clone() {
            Some(holding) => self.undecoded.insert(service.clone(), holding),
            None if self.undecoded.is_empty() => return,
            None => self.undecoded.remove(service),
        };
        if former != holding {
            change.objects.insert(service.clone());
        }
    }

    fn store(&mut self, mut object: Object, change: &mut Change) {
        if self.objects.get(&object.reference).is_some_and(|known| **known == object) {
            return;
        }
        if let ObjectSpec::EndpointSlice(slice) = &mut object.spec {
            for locality in slice.endpoints.iter_mut().filter_map(|endpoint| endpoint.locality.as_mut()) {
                *locality = self.localities.share(locality);
            }
        }
        // Before the old version's are forgotten, so that what both want stays.
        for file in wanted_files(&object.spec) {
            *self.files.entry(Arc::clone(file)).or_default() += 1;
        }
        if let Some(old) = self.objects.remove(&object.reference) {
            self.unlink(&old, change);
        }
        if object.reference.kind == Kind::Listener {
            self.obscure.listener_came(|route| match &self.objects.get(route)?.spec {
                ObjectSpec::Route(route) => Some(&**route),
                _ => None,
            });
        }
        let reference = object.reference.clone();
        self.link(object, change);
        self.look_at_servers(&reference, change);
    }

    /// Where the API servers are now, if `slice` is the one that says so.
    fn look_at_servers(&mut self, slice: &ObjectRef, change: &mut Change) {
        if slice.kind != Kind::EndpointSlice || !is_of_servers(slice) {
            return;
        }
        let addresses = match self.object(slice).map(|object| &object.spec) {
            Some(ObjectSpec::EndpointSlice(slice)) => {
                let ports = || slice.ports.iter().filter_map(|port| port.port);
                let at = |ip: IpAddr| ports().map(move |port| SocketAddr::new(ip, port));
                slice.endpoints.iter().flat_map(|endpoint| at(endpoint.address)).collect()
            }
            _ => Vec::new(),
        };
        let servers = sorted(addresses);
        change.refused |= self.servers != servers;
        self.servers = servers;
    }

    fn link(&mut self, object: Object, change: &mut Change) {
        if let ObjectSpec::EndpointSlice(slice) = &object.spec {
            if let Some(service) = &slice.service {
                let key = (Arc::clone(&object.reference.namespace), Arc::clone(service));
                let slices = self.slices.entry(key.clone()).or_default();
                if let Err(at) = slices.binary_search(&object.reference) {
                    slices.insert(at, object.reference.clone());
                }
                self.endpoint_addresses.come(slice);
                change.endpoints.insert(key);
            }
        } else {
            change.objects.insert(object.reference.clone());
        }
        if object.reference.kind == Kind::IngressClass {
            self.classes.insert(object.reference.clone());
        }
        for name in wanted_names(&object.spec) {
            *self.dns_names.entry(Arc::clone(name)).or_default() += 1;
        }
        self.objects.insert(object.reference.clone(), Box::new(object));
    }

    fn unlink(&mut self, old: &Object, change: &mut Change) {
        if let ObjectSpec::EndpointSlice(slice) = &old.spec {
            if let Some(service) = &slice.service {
                self.endpoint_addresses.go(slice);
                let key = (Arc::clone(&old.reference.namespace), Arc::clone(service));
                if let Some(slices) = self.slices.get_mut(&key) {
                    slices.retain(|slice| *slice != old.reference);
                    if slices.is_empty() {
                        self.slices.remove(&key);
                    }
                }
                change.endpoints.insert(key);
            }
        } else {
            change.objects.insert(old.reference.clone());
        }
        self.classes.remove(&old.reference);
        for name in wanted_names(&old.spec) {
            let count = self.dns_names.get_mut(name).map(|count| {
                *count = count.saturating_sub(1);
                *count
            });
            if count == Some(0) {
                self.dns_names.remove(name);
                self.resolved.remove(name);
            }
        }
        for file in wanted_files(&old.spec) {
            self.forget_file(file);
        }
    }

    fn forget_file(&mut self, file: &str) {
        let count = self.files.get_mut(file).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if count == Some(0) {
            self.files.remove(file);
            self.loaded.remove(file);
        }
    }

    /// Files of certificates and keys that want reading, and reading again when they change.
    #[must_use]
    pub fn files(&self) -> BTreeSet<Arc<str>> {
        self.files.keys().cloned().collect()
    }

    /// Those of [`Self::files`] of which no content is known.
    #[must_use]
    pub fn unread_files(&self) -> BTreeSet<Arc<str>> {
        self.files.keys().filter(|file| !self.loaded.contains_key(*file)).cloned().collect()
    }

    /// `None` if the file was never read.
    pub(crate) fn file(&self, file: &str) -> Option<&FileContent> {
        self.loaded.get(file)
    }

    /// The object of that name.
    #[must_use]
    pub fn object(&self, reference: &ObjectRef) -> Option<&Object> {
        self.objects.get(reference).map(|object| &**object)
    }

    /// Every object, in no particular order.
    pub fn objects(&self) -> impl Iterator<Item = &Object> {
        self.objects.values().map(|object| &**object)
    }

    pub(crate) fn ingress(&self, reference: &ObjectRef) -> Option<(&Object, &Ingress)> {
        match self.object(reference)? {
            object @ Object { spec: ObjectSpec::Ingress(ingress), .. } => Some((object, ingress)),
            _ => None,
        }
    }

    pub(crate) fn service(&self, key: &ServiceKey) -> Option<(&Object, &Service)> {
        let (namespace, name) = (Arc::clone(&key.0), Arc::clone(&key.1));
        match self.object(&ObjectRef { kind: Kind::Service, namespace, name })? {
            object @ Object { spec: ObjectSpec::Service(service), .. } => Some((object, service)),
            _ => None,
        }
    }

    /// A Secret or ConfigMap.
    pub(crate) fn secret(&self, reference: &ObjectRef) -> Option<(&Object, &Secret)> {
        match self.object(reference)? {
            object @ Object { spec: ObjectSpec::Secret(secret) | ObjectSpec::ConfigMap(secret), .. } => {
                Some((object, secret))
            }
            _ => None,
        }
    }

    pub(crate) fn native_backend(&self, name: &str) -> Option<(&Object, &NativeBackend)> {
        let reference = ObjectRef { kind: Kind::Backend, namespace: "".into(), name: name.into() };
        match self.object(&reference)? {
            object @ Object { spec: ObjectSpec::Backend(backend), .. } => Some((object, backend)),
            _ => None,
        }
    }

    pub(crate) fn slices(&self, key: &ServiceKey) -> impl Iterator<Item = &Object> {
        self.slices.get(key).into_iter().flatten().filter_map(|reference| self.object(reference))
    }

    pub(crate) fn class(&self, reference: &ObjectRef) -> Option<(&Object, &IngressClass)> {
        match self.object(reference)? {
            object @ Object { spec: ObjectSpec::IngressClass(class), .. } => Some((object, class)),
            _ => None,
        }
    }

    pub(crate) fn classes(&self) -> impl Iterator<Item = (&ObjectRef, &IngressClass)> {
        self.classes.iter().filter_map(|reference| Some((reference, self.class(reference)?.1)))
    }

    /// What the Service was given; `None` if nobody gives it anything.
    pub(crate) fn assigned(&self, service: &ObjectRef) -> Option<&Assignment> {
        self.assigned.get(service)
    }

    /// The addresses of the Service, if its last version does not decode.
    #[must_use]
    pub fn undecoded(&self, service: &ObjectRef) -> Option<&Holding> {
        self.undecoded.get(service)
    }

    /// `None` if the name has never resolved.
    pub(crate) fn addresses(&self, name: &str) -> Option<&Arc<[IpAddr]>> {
        self.resolved.get(name)
    }

    /// Where the gateway runs, as far as the source knows.
    pub(crate) fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// Whether `address` is one that the gateway itself listens on, or an API server's.
    pub(crate) fn refuses(&self, address: SocketAddr) -> bool {
        let is_refused = |at: SocketAddr| {
            self.refused.binary_search(&at).is_ok() || self.servers.binary_search(&at).is_ok()
        };
        let at_port = |ip: IpAddr| SocketAddr::new(ip, address.port());
        is_refused(address) || destination::translated(address.ip()).any(|ip| is_refused(at_port(ip)))
    }

    /// Whether an API server is at `address`.
    pub(crate) fn is_server(&self, address: SocketAddr) -> bool {
        self.servers.binary_search(&address).is_ok()
    }

    /// Whether some endpoint has one of these addresses. With 100,000 endpoints, to look at all of them for each Service that
    /// comes would take longer than all else that it costs.
    fn leads_to(&self, addresses: &BTreeSet<IpAddr>) -> bool {
        let is_one = |ip: IpAddr| {
            addresses.contains(&ip) || destination::translated(ip).any(|ip| addresses.contains(&ip))
        };
        let slices = self.slices.values().flatten().filter_map(|reference| self.object(reference));
        let mut endpoints = slices.flat_map(|object| match &object.spec {
            ObjectSpec::EndpointSlice(slice) => &*slice.endpoints,
            _ => &[],
        });
        addresses.iter().any(|ip| self.endpoint_addresses.may_have(*ip))
            && endpoints.any(|endpoint| is_one(endpoint.address))
            || self.resolved.values().flat_map(|all| all.iter()).any(|ip| is_one(ip.to_canonical()))
    }

    /// The source that has, or may have, listeners of which nothing is known, and so keeps the native `route` from the
    /// addresses of Ingresses.
    pub(crate) fn obscure_source(&self, route: &ObjectRef) -> Option<&Arc<str>> {
        self.obscure.source(route)
    }

    /// What is wrong with files and other sources, as they tell it: above all, what cannot be read.
    pub fn source_problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values().flatten()
    }
}

/// The one slice of the API servers' own Service, which they write themselves.
fn is_of_servers(reference: &ObjectRef) -> bool {
    *reference.namespace == *"default" && *reference.name == *"kubernetes"
}

/// Whether it is the API servers' own Service.
pub(crate) fn is_service_of_servers((namespace, name): &ServiceKey) -> bool {
    **namespace == *"default" && **name == *"kubernetes"
}

/// In canonical form, sorted.
fn sorted(mut addresses: Vec<SocketAddr>) -> Box<[SocketAddr]> {
    addresses.iter_mut().for_each(|address| *address = (address.ip().to_canonical(), address.port()).into());
    addresses.sort_unstable();
    addresses.dedup();
    addresses.into()
}

fn wanted_names(spec: &ObjectSpec) -> Vec<&Arc<str>> {
    match spec {
        ObjectSpec::Service(Service { external_name: Some(Ok(name)), .. }) => vec![name],
        ObjectSpec::Backend(backend) => {
            let hosts = backend.spec.endpoints.iter().map(|endpoint| &endpoint.host);
            let names = hosts.filter_map(|host| match host {
                EndpointHost::Name(name) => Some(name),
                EndpointHost::Address(_) => None,
            });
            names.collect()
        }
        _ => Vec::new(),
    }
}

fn wanted_files(spec: &ObjectSpec) -> Vec<&Arc<str>> {
    match spec {
        ObjectSpec::Listener(listener) => listener.tls.iter().flat_map(|tls| tls.files()).collect(),
        ObjectSpec::Backend(backend) => backend.speech.tls.iter().flat_map(|tls| tls.files()).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resource::decode_json;

    fn servers(address: &str, zone: &str) -> Event {
        let json = format!(
            r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {{"name": "kubernetes",
                "namespace": "default", "labels": {{"kubernetes.io/service-name": "kubernetes"}}}}, "addressType": "IPv4",
                "ports": [{{"port": 6443}}], "endpoints": [{{"addresses": ["{address}"], "zone": "{zone}"}}]}}"#
        );
        Event::Apply(decode_json(Kind::EndpointSlice, json.as_bytes()).object.unwrap())
    }

    #[test]
    fn sockets_of_ours_matter_to_services_only_where_endpoints_are() {
        let slice = |address: &str| {
            let json = format!(
                r#"{{"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {{"name": "s", "namespace": "d",
                    "labels": {{"kubernetes.io/service-name": "s"}}}}, "addressType": "IPv4", "ports": [{{"port": 80}}],
                    "endpoints": [{{"addresses": ["{address}"]}}]}}"#
            );
            Event::Apply(decode_json(Kind::EndpointSlice, json.as_bytes()).object.unwrap())
        };
        let ours = |address: &str| Event::Refused(vec![format!("{address}:80").parse().unwrap()]);
        let mut index = Index::new();
        index.apply(slice("10.0.0.1"));
        assert!(!index.apply(ours("10.0.0.2")).refused);
        assert!(index.apply(ours("10.0.0.1")).refused, "it comes");
        assert!(index.apply(ours("10.0.0.2")).refused, "it goes");
        index.apply(slice("10.0.0.2"));
        assert!(index.apply(ours("10.0.0.1")).refused, "from where there is one");
        index.apply(slice("10.0.0.3"));
        assert!(!index.apply(ours("10.0.0.2")).refused, "there was one");
    }

    #[test]
    fn only_other_addresses_of_api_servers_are_looked_at_for_all_services() {
        let mut index = Index::new();
        let at: SocketAddr = "10.0.0.1:6443".parse().unwrap();
        assert!(index.apply(servers("10.0.0.1", "a")).refused);
        assert!(!index.apply(servers("10.0.0.1", "b")).refused);
        assert!(index.refuses(at));
        assert!(index.apply(servers("10.0.0.2", "b")).refused);
        assert!(!index.refuses(at));
        let (namespace, name) = ("default".into(), "kubernetes".into());
        let gone = Event::Delete(ObjectRef { kind: Kind::EndpointSlice, namespace, name });
        assert!(index.apply(gone.clone()).refused);
        assert!(!index.apply(gone).refused);
    }
}
