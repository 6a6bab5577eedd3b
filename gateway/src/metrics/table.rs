//! Series of routes, backends and endpoints, from the runtime state of the table that is served.
//!
//! Only what saw traffic has counters, and at most [`SeriesLimits`] of each kind have series of their own;
//! the rest is summed up under `_other`. Gauges of health fill what room is left, unhealthy ones first.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;
use std::hash::Hash;
use std::net::SocketAddr;
use std::sync::Arc;

use config::table::{ClientPolicy, TlsMap};
use foldhash::fast::RandomState;

use super::families as f;
use super::registry::STATUS_CLASSES;
use super::sums::{BackendSums, EndpointSums, Folded, Folding, RouteSums, Sums};
use super::text::{Text, label};
use crate::live::{Live, LiveBackend};

/// The label value under which everything beyond the limits is summed up.
const OTHER: &str = "_other";

/// How many routes, backends and endpoints get series of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeriesLimits {
    /// Routes, 26 series each.
    pub routes: usize,
    /// Backends, 8 series each.
    pub backends: usize,
    /// Endpoints, 22 series each.
    pub endpoints: usize,
}

impl Default for SeriesLimits {
    fn default() -> Self {
        Self { routes: 1_000, backends: 1_000, endpoints: 1_000 }
    }
}

/// Backend name and address.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
struct EndpointKey(Arc<str>, SocketAddr);

#[derive(Debug, Default)]
struct BackendGauges {
    healthy: u64,
    unhealthy: u64,
    waiting: u64,
}

#[derive(Debug)]
struct EndpointGauges {
    healthy: bool,
    in_flight: u64,
}

/// What is read from [`Live`], in the order of the table's slots, each key once: no series can appear twice.
#[derive(Debug, Default)]
struct Rows {
    /// route name → values, of routes that saw traffic
    routes: Vec<(Arc<str>, RouteSums)>,
    /// backend name → values, of backends that counted anything
    backends: Vec<(Arc<str>, BackendSums)>,
    /// backend name → endpoints by health
    backend_gauges: Vec<(Arc<str>, BackendGauges)>,
    /// endpoint → values, of endpoints that saw traffic
    endpoints: Vec<(EndpointKey, EndpointSums)>,
    /// endpoint → state
    endpoint_gauges: Vec<(EndpointKey, EndpointGauges)>,
}

impl Rows {
    fn of(live: &Live) -> Self {
        let mut rows = Self::default();
        for (name, slots) in by_name(live.routes.iter().map(|(_, slot)| (&slot.info.name, slot))) {
            if let Some(sums) = total(slots.iter().map(|slot| slot.sums())) {
                rows.routes.push((name, sums));
            }
        }
        for (name, slots) in by_name(live.backends.iter().map(|(_, slot)| (&slot.config.name, slot))) {
            rows.backend(&name, &slots);
        }
        rows
    }

    fn backend(&mut self, name: &Arc<str>, slots: &[&Arc<LiveBackend>]) {
        let mut gauges = BackendGauges::default();
        let states = || distinct(slots, |slot| Arc::as_ptr(&slot.state).addr()).map(|slot| &slot.state);
        gauges.waiting = states().map(|state| u64::from(state.queued())).sum();
        if let Some(sums) = total(states().map(|state| BackendSums::over_workers(&state.counters))) {
            self.backends.push((Arc::clone(name), sums));
        }
        let mut endpoints: Vec<_> = slots.iter().flat_map(|slot| &slot.endpoints).collect();
        if slots.len() > 1 {
            endpoints.sort_by_key(|endpoint| (endpoint.address, endpoint.id));
            endpoints.dedup_by_key(|endpoint| endpoint.id);
        }
        // Several at one address differ in their health policy only: one series.
        for same in endpoints.chunk_by(|a, b| a.address == b.address) {
            let Some(first) = same.first() else { continue };
            let healthy = same.iter().all(|endpoint| endpoint.is_healthy());
            let in_flight = same.iter().map(|endpoint| u64::from(endpoint.in_flight())).sum();
            gauges.healthy += u64::from(healthy);
            gauges.unhealthy += u64::from(!healthy);
            let key = EndpointKey(Arc::clone(name), first.address);
            if let Some(sums) =
                total(same.iter().map(|endpoint| EndpointSums::over_workers(&endpoint.counters)))
            {
                self.endpoints.push((key.clone(), sums));
            }
            self.endpoint_gauges.push((key, EndpointGauges { healthy, in_flight }));
        }
        self.backend_gauges.push((Arc::clone(name), gauges));
    }
}

/// Slots by name, in the order of each name's first slot.
fn by_name<'a, T>(slots: impl Iterator<Item = (&'a Arc<str>, T)>) -> Vec<(Arc<str>, Vec<T>)> {
    let mut positions: HashMap<&Arc<str>, usize, RandomState> = HashMap::default();
    let mut groups: Vec<(Arc<str>, Vec<T>)> = Vec::new();
    for (name, slot) in slots {
        let position = *positions.entry(name).or_insert(groups.len());
        match groups.get_mut(position) {
            Some((_, group)) => group.push(slot),
            None => groups.push((Arc::clone(name), vec![slot])),
        }
    }
    groups
}

/// The first slot of each `identity`. Nearly always there is one slot.
fn distinct<T>(slots: &[T], identity: impl Fn(&T) -> usize) -> impl Iterator<Item = &T> {
    let mut seen = Vec::with_capacity(slots.len());
    slots.iter().filter(move |slot| {
        let identity = identity(slot);
        let new = !seen.contains(&identity);
        seen.push(identity);
        new
    })
}

/// The sum of whatever counted anything.
fn total<S: Sums>(parts: impl Iterator<Item = Option<S>>) -> Option<S> {
    parts.flatten().reduce(|mut sum, part| {
        sum.add(&part);
        sum
    })
}

/// What is remembered from scrape to scrape.
#[derive(Debug)]
pub(super) struct TableSeries {
    routes: Folding<Arc<str>, RouteSums>,
    backends: Folding<Arc<str>, BackendSums>,
    endpoints: Folding<EndpointKey, EndpointSums>,
}

impl TableSeries {
    pub(super) fn new(limits: SeriesLimits) -> Self {
        Self {
            routes: Folding::new(limits.routes),
            backends: Folding::new(limits.backends),
            endpoints: Folding::new(limits.endpoints),
        }
    }

    pub(super) fn render(&mut self, live: &Live, text: &mut Text<'_>) {
        text.single(&f::TABLE_VERSION, live.table.version);
        let rows = Rows::of(live);
        text.family(&f::TABLE_OBJECTS);
        for (kind, count) in [
            ("bind", live.table.binds.len()),
            ("route", live.table.routes.iter().count()),
            ("backend", live.table.backends.iter().count()),
            ("endpoint", rows.endpoint_gauges.len()),
        ] {
            text.sample(&f::TABLE_OBJECTS, &label("kind", kind), count);
        }
        render_certificates(live, text);
        render_authorities(live, text);
        self.render_rows(rows, text);
    }

    fn render_rows(&mut self, rows: Rows, text: &mut Text<'_>) {
        let routes = self.routes.fold(rows.routes);
        let backends = self.backends.fold(rows.backends);
        let endpoints = self.endpoints.fold(rows.endpoints);
        text.family(&f::FOLDED);
        for (kind, count) in
            [("route", routes.folded), ("backend", backends.folded), ("endpoint", endpoints.folded)]
        {
            text.sample(&f::FOLDED, &label("kind", kind), count);
        }
        render_routes(text, &labelled(&routes, |name| label("route", name), &label("route", OTHER)));
        let shown = with_room(&self.backends, rows.backend_gauges, |gauges| gauges.unhealthy == 0);
        render_backend_gauges(text, &shown);
        let other = label("backend", OTHER);
        render_backends(text, &labelled(&backends, |name| label("backend", name), &other));
        let shown = with_room(&self.endpoints, rows.endpoint_gauges, |gauges| gauges.healthy);
        render_endpoint_gauges(text, &shown);
        let other = endpoint_label(OTHER, &OTHER);
        render_endpoints(text, &labelled(&endpoints, |key| endpoint_label(&key.0, &key.1), &other));
    }
}

/// Every certificate that the encrypted Binds serve; of several with one name, the one that expires first.
fn render_certificates(live: &Live, text: &mut Text<'_>) {
    let binds = live.table.binds.iter().filter(|bind| bind.config.https);
    let policies = binds.filter_map(|bind| bind.tls.as_deref()).flat_map(TlsMap::policies);
    let mut expiries: BTreeMap<&str, i64> = BTreeMap::new();
    for certificate in policies.flat_map(|policy| &policy.certificates) {
        let expiry = expiries.entry(&certificate.name).or_insert(certificate.not_after);
        *expiry = certificate.not_after.min(*expiry);
    }
    text.family(&f::CERTIFICATE_EXPIRY);
    for (name, expiry) in expiries {
        text.sample(&f::CERTIFICATE_EXPIRY, &label("certificate", name), expiry);
    }
}

/// All authorities that clients are verified against.
fn render_authorities(live: &Live, text: &mut Text<'_>) {
    let binds = live.table.binds.iter().filter(|bind| bind.config.https);
    let policies = binds.filter_map(|bind| bind.tls.as_deref()).flat_map(TlsMap::policies);
    let mut ends: BTreeMap<&str, (i64, Option<i64>)> = BTreeMap::new();
    for policy in policies {
        let (ClientPolicy::Require(roots) | ClientPolicy::Optional(roots)) = &policy.client else { continue };
        ends.insert(&roots.name, (roots.not_after, roots.next_update));
    }
    text.family(&f::CLIENT_CA_EXPIRY);
    for (name, (expiry, _)) in &ends {
        text.sample(&f::CLIENT_CA_EXPIRY, &label("ca", name), *expiry);
    }
    text.family(&f::CLIENT_CRL_UPDATE);
    for (name, due) in ends.iter().filter_map(|(name, (_, due))| Some((name, (*due)?))) {
        text.sample(&f::CLIENT_CRL_UPDATE, &label("ca", name), due);
    }
}

/// Label text → values, `_other` last.
fn labelled<'a, K, S>(
    folded: &'a Folded<K, S>,
    label: impl Fn(&K) -> String,
    other: &str,
) -> Vec<(String, &'a S)> {
    let own = folded.own.iter().map(|(key, sums)| (label(key), sums));
    own.chain(folded.other.as_ref().map(|sums| (other.to_owned(), sums))).collect()
}

fn endpoint_label(backend: &str, endpoint: &dyn Display) -> String {
    format!("{},{}", label("backend", backend), label("endpoint", &endpoint.to_string()))
}

/// The gauges of whatever has a series of its own, and of as many others as there is room for: the ones that
/// are not `fine` first.
fn with_room<K: Clone + Eq + Hash, S: Sums, G>(
    folding: &Folding<K, S>,
    gauges: Vec<(K, G)>,
    fine: impl Fn(&G) -> bool,
) -> Vec<(K, G)> {
    let (mut shown, rest): (Vec<_>, Vec<_>) = gauges.into_iter().partition(|(key, _)| folding.has(key));
    let (good, bad): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, gauge)| fine(gauge));
    shown.extend(bad.into_iter().chain(good).take(folding.room()));
    shown
}

fn render_routes(text: &mut Text<'_>, rows: &[(String, &RouteSums)]) {
    if rows.is_empty() {
        return;
    }
    text.family(&f::ROUTE_RESPONSES);
    for (labels, sums) in rows {
        for (class, count) in STATUS_CLASSES.into_iter().zip(sums.responses) {
            text.sample(&f::ROUTE_RESPONSES, &format!("{labels},{}", label("class", class)), count);
        }
    }
    text.family(&f::ROUTE_DURATION);
    rows.iter().for_each(|(labels, sums)| text.histogram(&f::ROUTE_DURATION, labels, &sums.duration));
    counters(text, &f::ROUTE_REQUEST_BYTES, rows, |sums| sums.request_bytes);
    counters(text, &f::ROUTE_RESPONSE_BYTES, rows, |sums| sums.response_bytes);
}

fn render_backend_gauges(text: &mut Text<'_>, rows: &[(Arc<str>, BackendGauges)]) {
    if rows.is_empty() {
        return;
    }
    text.family(&f::BACKEND_ENDPOINTS);
    for (name, gauges) in rows {
        for (state, count) in [("healthy", gauges.healthy), ("unhealthy", gauges.unhealthy)] {
            let labels = format!("{},{}", label("backend", name), label("state", state));
            text.sample(&f::BACKEND_ENDPOINTS, &labels, count);
        }
    }
    text.family(&f::BACKEND_WAITING);
    for (name, gauges) in rows {
        text.sample(&f::BACKEND_WAITING, &label("backend", name), gauges.waiting);
    }
}

fn render_backends(text: &mut Text<'_>, rows: &[(String, &BackendSums)]) {
    counters(text, &f::BACKEND_RETRIES, rows, |sums| sums.retries);
    counters(text, &f::BACKEND_RETRIES_DENIED, rows, |sums| sums.retries_denied);
    counters(text, &f::BACKEND_NO_ENDPOINT, rows, |sums| sums.no_endpoint);
    counters(text, &f::BACKEND_QUEUED, rows, |sums| sums.queued);
    counters(text, &f::BACKEND_QUEUE_REJECTED, rows, |sums| sums.queue_rejected);
}

fn render_endpoint_gauges(text: &mut Text<'_>, rows: &[(EndpointKey, EndpointGauges)]) {
    if rows.is_empty() {
        return;
    }
    text.family(&f::ENDPOINT_HEALTHY);
    for (key, gauges) in rows {
        text.sample(&f::ENDPOINT_HEALTHY, &endpoint_label(&key.0, &key.1), u8::from(gauges.healthy));
    }
    text.family(&f::ENDPOINT_IN_FLIGHT);
    for (key, gauges) in rows {
        text.sample(&f::ENDPOINT_IN_FLIGHT, &endpoint_label(&key.0, &key.1), gauges.in_flight);
    }
}

fn render_endpoints(text: &mut Text<'_>, rows: &[(String, &EndpointSums)]) {
    counters(text, &f::ENDPOINT_REQUESTS, rows, |sums| sums.requests);
    counters(text, &f::ENDPOINT_FAILURES, rows, |sums| sums.failures);
    counters(text, &f::ENDPOINT_CONNECTS, rows, |sums| sums.connects);
    if !rows.is_empty() {
        text.family(&f::ENDPOINT_HEAD);
    }
    rows.iter().for_each(|(labels, sums)| text.histogram(&f::ENDPOINT_HEAD, labels, &sums.response_head));
}

fn counters<S>(text: &mut Text<'_>, family: &f::Family, rows: &[(String, &S)], value: impl Fn(&S) -> u64) {
    if rows.is_empty() {
        return;
    }
    text.family(family);
    for (labels, sums) in rows {
        text.sample(family, labels, value(sums));
    }
}
