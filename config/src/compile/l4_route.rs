//! Binds that relay: which route has which of them, and what native listeners say about theirs.
//!
//! Whatever object wants such a Bind says so in [`Route::l4`]; who gets it is decided here alone.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::Workshop;
use super::backend::BackendKey;
use super::route::{Outcome, Route, Share, split};
use super::slots::Keyed;
use crate::report::{Kind, ObjectRef, Problem};
use crate::resource::native::{BackendSpec, EndpointHost};
use crate::resource::native_l4::Forward;
use crate::resource::{Finding, NativeListener, Object};
use crate::table::{Chunks, L4Bind, L4Key, RouteId, SourceAddress, Transport, Unavailable};

/// All Binds that relay.
#[derive(Debug, Default)]
pub(super) struct L4Binds {
    /// key → ids of the routes that want it
    members: HashMap<L4Key, Vec<u32>, FixedState>,
    /// port → keys of one address there, which depend on who has all addresses
    single: HashMap<(Transport, u16), BTreeSet<L4Key>, FixedState>,
    /// address of Services → its keys: it is its first owner's namespace's
    owned: HashMap<IpAddr, BTreeSet<L4Key>, FixedState>,
    /// Keys to be looked at again.
    dirty: BTreeSet<L4Key>,
    /// Addresses of Services of which all keys are to be looked at again: they may have another owner.
    disputed: BTreeSet<IpAddr>,
    binds: Keyed<L4Key, L4Bind>,
}

/// A Bind that somebody else has.
#[derive(Debug)]
pub(super) struct Taken {
    pub(super) loser: ObjectRef,
    /// By whom, for people.
    pub(super) by: String,
}

/// What [`L4Binds::rebuild`] did.
#[derive(Debug, Default)]
pub(super) struct Rebuilt {
    pub(super) changed: bool,
    /// Each key that was looked at, with those that did not get it.
    pub(super) told: Vec<(L4Key, Vec<Taken>)>,
}

impl L4Binds {
    /// `is_owned` if the address is the Service's and not the host's.
    pub(super) fn join(&mut self, key: L4Key, is_owned: bool, id: u32) {
        if is_owned {
            self.owned.entry(key.address.ip()).or_default().insert(key);
        }
        let routes = self.members.entry(key).or_default();
        if !routes.contains(&id) {
            routes.push(id);
        }
        if !key.address.ip().is_unspecified() {
            self.single.entry((key.transport, key.address.port())).or_default().insert(key);
        }
        self.touch_key(key);
    }

    pub(super) fn leave(&mut self, key: L4Key, id: u32) {
        if let Some(routes) = self.members.get_mut(&key) {
            routes.retain(|route| *route != id);
            if routes.is_empty() {
                self.members.remove(&key);
                self.forget_single(key);
                self.forget_owned(key);
            }
        }
        self.touch_key(key);
    }

    fn forget_single(&mut self, key: L4Key) {
        let port = (key.transport, key.address.port());
        if let Some(keys) = self.single.get_mut(&port) {
            keys.remove(&key);
            if keys.is_empty() {
                self.single.remove(&port);
            }
        }
    }

    fn forget_owned(&mut self, key: L4Key) {
        let ip = key.address.ip();
        let Some(keys) = self.owned.get_mut(&ip) else { return };
        if keys.remove(&key) {
            self.disputed.insert(ip);
        }
        if keys.is_empty() {
            self.owned.remove(&ip);
        }
    }

    /// HTTP has come to the address, or left it.
    pub(super) fn touch(&mut self, address: SocketAddr) {
        self.touch_key(L4Key { address, transport: Transport::Tcp });
    }

    fn touch_key(&mut self, key: L4Key) {
        if key.address.ip().is_unspecified() {
            let below = self.single.get(&(key.transport, key.address.port())).into_iter().flatten();
            self.dirty.extend(below.filter(|one| one.address.is_ipv4() == key.address.is_ipv4()));
        }
        if self.keys_of_owner(key).is_some() {
            self.disputed.insert(key.address.ip());
        }
        self.dirty.insert(key);
    }

    /// The keys of the address of `key`, if that is a Service's.
    fn keys_of_owner(&self, key: L4Key) -> Option<&BTreeSet<L4Key>> {
        self.owned.get(&key.address.ip()).filter(|keys| keys.contains(&key))
    }

    /// The oldest Service with one of `keys`, which have one address: those of other namespaces have none of its ports,
    /// since whoever has one port of an address could ask for certificates in the name of whoever has another.
    fn owner<'r>(
        &self,
        keys: &BTreeSet<L4Key>,
        of: &impl Fn(u32) -> Option<&'r Route>,
    ) -> Option<&'r ObjectRef> {
        let routes = keys.iter().filter_map(|key| self.members.get(key)).flatten().filter_map(|id| of(*id));
        let services = routes.filter(|route| route.order.object.kind == Kind::Service);
        Some(&services.min_by(|a, b| a.order.cmp(&b.order))?.order.object)
    }

    /// Who has the port of `key` on all addresses: HTTP, or the first route. Who was not written by the operator must not
    /// take it on one of them: the kernel would give that address to it.
    fn has_all<'r>(
        &self,
        key: L4Key,
        of: &impl Fn(u32) -> Option<&'r Route>,
        http: &impl Fn(SocketAddr) -> Option<String>,
    ) -> (Option<String>, Option<&'r Route>) {
        if key.address.ip().is_unspecified() {
            return (None, None);
        }
        let all = key.on_all();
        let by_http = Some(all.address).filter(|_| key.transport == Transport::Tcp).and_then(http);
        let members = self.members.get(&all).into_iter().flatten().filter_map(|id| of(*id));
        let is_later = |route: &Route| route.order.object.kind != Kind::Listener;
        let first = members.min_by(|a, b| (is_later(a), &a.order).cmp(&(is_later(b), &b.order)));
        (by_http, first)
    }

    /// Gives each key that was touched to the oldest route that wants it and may have it, unless HTTP is spoken there;
    /// `http` says on which listener.
    pub(super) fn rebuild<'r>(
        &mut self,
        route: impl Fn(u32) -> Option<&'r Route>,
        http: impl Fn(SocketAddr) -> Option<String>,
    ) -> Rebuilt {
        let mut rebuilt = Rebuilt::default();
        let disputed = std::mem::take(&mut self.disputed);
        self.dirty.extend(disputed.iter().filter_map(|ip| self.owned.get(ip)).flatten());
        // address → its owner: many keys of one address are looked at together
        let mut owners: HashMap<IpAddr, Option<&ObjectRef>, FixedState> = HashMap::default();
        for key in std::mem::take(&mut self.dirty) {
            let members = self.members.get(&key).map(Vec::as_slice).unwrap_or_default();
            let mut routes: Vec<&Route> = members.iter().filter_map(|id| route(*id)).collect();
            routes.sort_by(|a, b| a.order.cmp(&b.order));
            let here = http(key.address).filter(|_| key.transport == Transport::Tcp);
            let (http_on_all, first_on_all) = self.has_all(key, &route, &http);
            let owner = self
                .keys_of_owner(key)
                .and_then(|keys| *owners.entry(key.address.ip()).or_insert_with(|| self.owner(keys, &route)));
            let refusal = |route: &Route| {
                let object = &route.order.object;
                let is_operators = object.kind == Kind::Listener;
                let goes_first = |other: &&Route| {
                    let theirs = &other.order.object;
                    theirs != object && (theirs.kind == Kind::Listener || other.order < route.order)
                };
                let is_other =
                    |owner: &&ObjectRef| object.kind == Kind::Service && owner.namespace != object.namespace;
                here.clone()
                    .or_else(|| http_on_all.clone().filter(|_| !is_operators))
                    .or_else(|| {
                        let other = first_on_all.filter(|_| !is_operators).filter(goes_first);
                        other.map(|other| other.order.object.to_string())
                    })
                    .or_else(|| owner.filter(is_other).map(ToString::to_string))
            };
            let mut winner: Option<&Route> = None;
            let mut taken = Vec::new();
            for route in routes {
                let first = winner.map(|winner| winner.order.object.to_string());
                match first.or_else(|| refusal(route)) {
                    Some(by) => taken.push(Taken { loser: route.order.object.clone(), by }),
                    None => winner = Some(route),
                }
            }
            rebuilt.told.push((key, taken));
            let bind = winner.and_then(|route| route.l4.iter().find(|bind| bind.key == key));
            rebuilt.changed |= self.binds.set(&key, bind.cloned());
        }
        rebuilt
    }

    /// Each Bind with its route.
    pub(super) fn table(&self) -> &Chunks<L4Bind> {
        self.binds.table()
    }
}

/// What the loser of a Bind is told.
pub(super) fn conflict(object: &Object, key: L4Key, taken: &Taken) -> Problem {
    let message = format!("{key} is not served by this: {} goes first and has the same address", taken.by);
    let field = match object.reference.kind {
        Kind::Service => "spec.ports",
        Kind::ConfigMap => "data",
        _ => "address",
    };
    object.problem(Finding::error(field, 0, "Conflict", message))
}

/// Whether an endpoint is the listener itself, as far as addresses tell.
fn leads_back(listener: SocketAddr, backend: &BackendSpec) -> bool {
    let is_any = listener.ip().is_unspecified();
    backend.endpoints.iter().filter(|endpoint| endpoint.port == listener.port()).any(
        |endpoint| match endpoint.host {
            EndpointHost::Address(address) => {
                address == listener.ip()
                    || address.is_unspecified()
                    || (is_any && address.is_loopback() && address.is_ipv4() == listener.is_ipv4())
            }
            EndpointHost::Name(_) => false,
        },
    )
}

/// Compiles a native listener that relays.
pub(super) fn compile(
    shop: &mut Workshop<'_>,
    object: &Object,
    (listener, forward): (&NativeListener, &Forward),
    id: RouteId,
) -> Outcome {
    let mut problems = Vec::new();
    let mut tell = |at: &str, reason, message: String| {
        let field = format!("{}.{at}", forward.field);
        problems.push(object.problem(Finding::error(field, 0, reason, message)));
    };
    let mut held = BTreeSet::new();
    let mut services = BTreeSet::new();
    let mut shares: Vec<Share> = Vec::new();
    for (name, weight) in &forward.shares {
        let key = (Arc::clone(&shop.native_namespace), shop.intern(name));
        shares.push(match shop.index.native_backend(name) {
            Some((_, backend)) if backend.spec.protocol.is_some() => {
                let message = format!(
                    "backend `{name}` has a `protocol`, and bytes are relayed as they are; connections to it are refused"
                );
                tell("forward.backend", "InvalidBackend", message);
                (Err(Unavailable::InvalidSetting), *weight)
            }
            Some((_, backend)) if leads_back(listener.config.address, &backend.spec) => {
                let message =
                    format!("backend `{name}` leads back to this listener; connections to it are refused");
                tell("forward.backend", "Loop", message);
                (Err(Unavailable::InvalidSetting), *weight)
            }
            Some(_) => {
                let backend = BackendKey::Native { name: Arc::clone(&key.1) };
                (Ok(shop.acquire(backend, &mut held)), *weight)
            }
            None => {
                let message = format!("there is no backend `{name}`, so connections to it are refused");
                tell("forward.backend", "BackendNotFound", message);
                (Err(Unavailable::BackendNotFound), *weight)
            }
        });
        services.insert(key);
    }
    let needs_right = forward.policy.source_address == SourceAddress::Client;
    let target = if needs_right && !shop.settings.transparent {
        let (reason, message) = super::service::NOT_TRANSPARENT;
        tell("forward.sourceAddress", reason, message.to_owned());
        Err(Unavailable::InvalidSetting)
    } else {
        split(&shares)
    };
    let bind = L4Bind {
        key: L4Key { address: listener.config.address, transport: forward.transport },
        listener: Arc::clone(&object.reference.name),
        free_bind: listener.config.free_bind,
        local_route: false,
        route: id,
        target,
        policy: shop.l4_policies.intern(forward.policy.clone()),
    };
    let route = Route::of_binds(object, None, vec![Arc::new(bind)], held, services.into_iter().collect());
    Outcome { route: Some(route), problems }
}
