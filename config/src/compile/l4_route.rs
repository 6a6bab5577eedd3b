//! Binds that relay: which route has which of them, and what native listeners say about theirs.
//!
//! Whatever object wants such a Bind says so in [`Route::l4`]; who gets it is decided here alone.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use foldhash::quality::FixedState;

use super::Workshop;
use super::backend::BackendKey;
use super::route::{Order, Outcome, Route, Share, split};
use super::slots::Slots;
use crate::report::{Kind, ObjectRef, Problem};
use crate::resource::native::{BackendSpec, EndpointHost};
use crate::resource::native_l4::Forward;
use crate::resource::{Finding, NativeListener, Object};
use crate::table::{Chunks, L4Bind, L4Key, RouteId, Transport, Unavailable};

/// All Binds that relay.
#[derive(Debug, Default)]
pub(super) struct L4Binds {
    /// key → ids of the routes that want it
    members: HashMap<L4Key, Vec<u32>, FixedState>,
    /// Keys to be looked at again.
    dirty: BTreeSet<L4Key>,
    slots: Slots<L4Key, ()>,
    pub(super) table: Chunks<L4Bind>,
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
    pub(super) fn join(&mut self, key: L4Key, id: u32) {
        let routes = self.members.entry(key).or_default();
        if !routes.contains(&id) {
            routes.push(id);
        }
        self.dirty.insert(key);
    }

    pub(super) fn leave(&mut self, key: L4Key, id: u32) {
        if let Some(routes) = self.members.get_mut(&key) {
            routes.retain(|route| *route != id);
            if routes.is_empty() {
                self.members.remove(&key);
            }
        }
        self.dirty.insert(key);
    }

    /// HTTP has come to the address, or left it.
    pub(super) fn touch(&mut self, address: SocketAddr) {
        let key = L4Key { address, transport: Transport::Tcp };
        if self.members.contains_key(&key) {
            self.dirty.insert(key);
        }
    }

    /// Gives each key that was touched to the oldest route that wants it, unless HTTP is spoken there; `http` says on
    /// which listener.
    pub(super) fn rebuild<'r>(
        &mut self,
        route: impl Fn(u32) -> Option<&'r Route>,
        http: impl Fn(SocketAddr) -> Option<String>,
    ) -> Rebuilt {
        let mut rebuilt = Rebuilt::default();
        for key in std::mem::take(&mut self.dirty) {
            let members = self.members.get(&key).map(Vec::as_slice).unwrap_or_default();
            let mut routes: Vec<&Route> = members.iter().filter_map(|id| route(*id)).collect();
            routes.sort_by(|a, b| a.order.cmp(&b.order));
            let http = http(key.address).filter(|_| key.transport == Transport::Tcp);
            let winner = routes.first().filter(|_| http.is_none()).copied();
            let by = http.or_else(|| winner.map(|route| route.order.object.to_string())).unwrap_or_default();
            let losers = routes.iter().skip(usize::from(winner.is_some()));
            let taken = losers.map(|loser| Taken { loser: loser.order.object.clone(), by: by.clone() });
            rebuilt.told.push((key, taken.collect()));
            let bind = winner.and_then(|route| route.l4.iter().find(|bind| bind.key == key));
            rebuilt.changed |= self.set(key, bind);
        }
        rebuilt
    }

    fn set(&mut self, key: L4Key, bind: Option<&Arc<L4Bind>>) -> bool {
        let Some(bind) = bind else {
            let Some(id) = self.slots.id(&key) else { return false };
            self.slots.remove(&key);
            self.table.set(id, None);
            return true;
        };
        let id = self.slots.reserve(&key);
        if self.table.at(id).is_some_and(|old| old == bind) {
            return false;
        }
        self.table.set(id, Some(Arc::clone(bind)));
        true
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
    Finding::error(field, 0, "Conflict", message).into_problem(&object.reference, object.location.as_ref())
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
        let finding = Finding::error(field, 0, reason, message);
        problems.push(finding.into_problem(&object.reference, object.location.as_ref()));
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
    let bind = L4Bind {
        key: L4Key { address: listener.config.address, transport: forward.transport },
        listener: Arc::clone(&object.reference.name),
        free_bind: listener.config.free_bind,
        route: id,
        target: split(&shares),
        policy: shop.l4_policies.intern(forward.policy.clone()),
    };
    let route = Route {
        order: Order { created: None, rank: 0, object: object.reference.clone() },
        binds: Arc::new([]),
        l4: [Arc::new(bind)].into(),
        entries: Box::new([]),
        backends: held.into_iter().collect(),
        services: services.into_iter().collect(),
        claims: Box::new([]),
        tls: Box::new([]),
        roots: Box::new([]),
        materials: Box::new([]),
        passthrough_field: "".into(),
    };
    Outcome { route: Some(route), problems }
}
