//! Series of routes, backends and endpoints, from the runtime state of the table that is served.
//!
//! Only what saw traffic has counters, and at most [`SeriesLimits`] of each kind have series of their own;
//! the rest is summed up under `_other`. Gauges of health fill what room is left, unhealthy ones first.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;

use super::families as f;
use super::registry::STATUS_CLASSES;
use super::sums::{BackendSums, EndpointSums, Folded, Folding, RouteSums, Sums};
use super::text::{Text, label};
use crate::live::Live;

/// The label value under which everything beyond the limits is summed up.
const OTHER: &str = "_other";

/// How many routes, backends and endpoints get series of their own.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SeriesLimits {
    /// Routes, 26 series each.
    pub routes: usize,
    /// Backends, 7 series each.
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
}

#[derive(Debug)]
struct EndpointGauges {
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
        for (_, route) in live.routes.iter() {
            if let Some(sums) = RouteSums::over_workers(&route.counters) {
                merge(&mut rows.routes, Arc::clone(&route.info.name), &sums);
            }
        }
        for (_, backend) in live.backends.iter() {
            let name = &backend.config.name;
            if let Some(sums) = BackendSums::over_workers(&backend.state.counters) {
                merge(&mut rows.backends, Arc::clone(name), &sums);
            }
            for endpoint in &backend.endpoints {
                let gauges = EndpointGauges {
                    healthy: endpoint.is_healthy(),
                    in_flight: u64::from(endpoint.in_flight()),
                };
                let sums = EndpointSums::over_workers(&endpoint.counters);
                rows.endpoint(name, endpoint.address, gauges, sums.as_ref());
            }
        }
        rows
    }

    fn endpoint(
        &mut self,
        backend: &Arc<str>,
        address: SocketAddr,
        gauges: EndpointGauges,
        sums: Option<&EndpointSums>,
    ) {
        let of_backend = self.backend_gauges.entry(Arc::clone(backend)).or_default();
        if gauges.healthy {
            of_backend.healthy += 1;
        } else {
            of_backend.unhealthy += 1;
        }
        let key = EndpointKey(Arc::clone(backend), address);
        if let Some(sums) = sums {
            merge(&mut self.endpoints, key.clone(), sums);
        }
        self.endpoint_gauges.insert(key, gauges);
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
