//! Series of routes, backends and endpoints, from the runtime state of the table that is served.
//!
//! Only what saw traffic has counters, and at most [`SeriesLimits`] of each kind have series of their own;
//! the rest is summed up under `_other`. Gauges of health fill what room is left, unhealthy ones first.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use super::families as f;
use super::registry::STATUS_CLASSES;
use super::sums::{BackendSums, EndpointSums, Folded, Folding, RouteSums, Sums};
use super::text::{Text, label};
use crate::live::{EndpointState, Live};

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
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
struct EndpointKey(Arc<str>, SocketAddr);

#[derive(Debug, Default)]
struct BackendGauges {
    healthy: u64,
    unhealthy: u64,
    waiting: u64,
}

#[derive(Debug)]
struct EndpointGauges {
    /// See [`EndpointState::id`].
    id: u64,
    healthy: bool,
    in_flight: u64,
}

/// What is read from [`Live`], merged by label so that no series can appear twice.
#[derive(Debug, Default)]
struct Rows {
    /// route name → values, of routes that saw traffic
    routes: BTreeMap<Arc<str>, RouteSums>,
    /// backend name → values, of backends that counted anything
    backends: BTreeMap<Arc<str>, BackendSums>,
    /// backend name → endpoints by health
    backend_gauges: BTreeMap<Arc<str>, BackendGauges>,
    /// endpoint → values, of endpoints that saw traffic
    endpoints: BTreeMap<EndpointKey, EndpointSums>,
    /// endpoint → state
    endpoint_gauges: BTreeMap<EndpointKey, EndpointGauges>,
}

impl Rows {
    fn of(live: &Live) -> Self {
        let mut rows = Self::default();
        // Two slots of one name may share their state, which then counts once.
        let mut seen = HashSet::new();
        for (_, route) in live.routes.iter() {
            if let Some(sums) = RouteSums::over_workers(&route.counters)
                && seen.insert(Arc::as_ptr(route).addr())
            {
                merge(&mut rows.routes, Arc::clone(&route.info.name), &sums);
            }
        }
        for (_, backend) in live.backends.iter() {
            let name = &backend.config.name;
            if let Some(sums) = BackendSums::over_workers(&backend.state.counters)
                && seen.insert(Arc::as_ptr(&backend.state).addr())
            {
                merge(&mut rows.backends, Arc::clone(name), &sums);
            }
            let gauges = rows.backend_gauges.entry(Arc::clone(name)).or_default();
            gauges.waiting = u64::from(backend.state.queued());
            for endpoint in &backend.endpoints {
                rows.endpoint(name, endpoint);
            }
        }
        rows
    }

    fn endpoint(&mut self, backend: &Arc<str>, endpoint: &EndpointState) {
        let key = EndpointKey(Arc::clone(backend), endpoint.address);
        let before = self.endpoint_gauges.get(&key);
        if before.is_some_and(|before| before.id == endpoint.id) {
            return;
        }
        let healthy = endpoint.is_healthy();
        let of_backend = self.backend_gauges.entry(Arc::clone(backend)).or_default();
        if healthy {
            of_backend.healthy += 1;
        } else {
            of_backend.unhealthy += 1;
        }
        if let Some(sums) = EndpointSums::over_workers(&endpoint.counters) {
            merge(&mut self.endpoints, key.clone(), &sums);
        }
        let in_flight = u64::from(endpoint.in_flight());
        self.endpoint_gauges.insert(key, EndpointGauges { id: endpoint.id, healthy, in_flight });
    }
}

fn merge<K: Ord, S: Sums>(rows: &mut BTreeMap<K, S>, key: K, sums: &S) {
    rows.entry(key).or_default().add(sums);
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
        render_backend_gauges(
            text,
            &with_room(&backends, rows.backend_gauges, self.backends.room(), |g| g.unhealthy == 0),
        );
        let other = label("backend", OTHER);
        render_backends(text, &labelled(&backends, |name| label("backend", name), &other));
        render_endpoint_gauges(
            text,
            &with_room(&endpoints, rows.endpoint_gauges, self.endpoints.room(), |g| g.healthy),
        );
        let other = endpoint_label(OTHER, &OTHER);
        render_endpoints(text, &labelled(&endpoints, |key| endpoint_label(&key.0, &key.1), &other));
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
/// are not `fine` first, then in order.
fn with_room<K: Ord, S, G>(
    folded: &Folded<K, S>,
    gauges: BTreeMap<K, G>,
    room: usize,
    fine: impl Fn(&G) -> bool,
) -> Vec<(K, G)> {
    let has_series = |key: &K| folded.own.binary_search_by(|(own, _)| own.cmp(key)).is_ok();
    let (mut shown, rest): (Vec<_>, Vec<_>) = gauges.into_iter().partition(|(key, _)| has_series(key));
    let (good, bad): (Vec<_>, Vec<_>) = rest.into_iter().partition(|(_, gauge)| fine(gauge));
    shown.extend(bad.into_iter().chain(good).take(room));
    shown.sort_by(|a, b| a.0.cmp(&b.0));
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
