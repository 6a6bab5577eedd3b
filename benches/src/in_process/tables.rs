//! Lookup, compile and swap of a route table.

use std::hint::black_box;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use config::compile::{Compiler, Settings};
use config::index::{Change, Event, Index};
use config::resource::Object;
use config::table::{Candidate, HostMap, PathMatch, RouteTable, Rule};
use gateway::live::{Publisher, Shared};

use super::objects::{apply, endpoints_of, host, index, ingress, object, request, slice};
use super::{Subject, Work};

/// Services of a table that is about Ingresses.
const SERVICES: usize = 10;
/// Endpoints of each Service.
const ENDPOINTS: usize = 10;
/// Objects that change one after the other.
const CHANGING: usize = 64;

const TO_100_000: &[usize] = &[10, 100, 1_000, 10_000, 100_000];
const TO_10_000: &[usize] = &[10, 100, 1_000, 10_000];

/// See its description.
pub const HOST_LOOKUP: Subject = Subject {
    name: "host-lookup",
    about: "Finds the rule of a host among all of one socket, each host in turn, in no order.",
    counts: "hosts",
    sizes: TO_100_000,
    at_most: 0.5,
    prepare: host_lookup,
};

/// See its description.
pub const PATH_LOOKUP: Subject = Subject {
    name: "path-lookup",
    about: "Finds the rule of a path among all of one host, each path in turn, in no order.",
    counts: "paths",
    sizes: TO_100_000,
    at_most: 0.5,
    prepare: path_lookup,
};

/// See its description.
pub const COMPILE: Subject = Subject {
    name: "compile",
    about: "Compiles all Ingresses (one host and path each) to a table, and frees it.",
    counts: "Ingresses",
    sizes: TO_100_000,
    at_most: 1.25,
    prepare: compile,
};

/// See its description.
pub const ROUTE_CHANGE: Subject = Subject {
    name: "route-change",
    about: "Applies an Ingress whose path is another one, and compiles what changed.",
    counts: "Ingresses",
    sizes: TO_100_000,
    at_most: 0.5,
    prepare: route_change,
};

/// See its description.
pub const ENDPOINT_CHANGE: Subject = Subject {
    name: "endpoint-change",
    about: "Applies an EndpointSlice with another endpoint, compiles what changed, builds the live value and swaps it.",
    counts: "Services of 10 endpoints",
    sizes: TO_10_000,
    at_most: 0.5,
    prepare: endpoint_change,
};

/// See its description.
pub const SWAP: Subject = Subject {
    name: "swap",
    about: "Builds the live value of a compiled table in which one Service has another endpoint, and swaps it.",
    counts: "Services of 10 endpoints",
    sizes: TO_10_000,
    at_most: 0.5,
    prepare: swap,
};

/// `list` in an order that no cache foresees, the same each time.
fn shuffled<T>(mut list: Vec<T>) -> Vec<T> {
    fastrand::Rng::with_seed(7).shuffle(&mut list);
    list
}

fn compiled(index: &Index) -> Result<(Compiler, Arc<RouteTable>)> {
    let mut compiler = Compiler::new(Settings::default());
    let (table, report) = compiler.compile(index, &Change::default(), 0);
    ensure!(!report.has_errors(), "{:?}", report.problems.first());
    Ok((compiler, table))
}

fn host_lookup(hosts: usize) -> Result<Work> {
    let (_, table) = compiled(&index(SERVICES, ENDPOINTS, hosts)?)?;
    let names = shuffled((0..hosts).map(host).collect());
    for name in &names {
        ensure!(endpoints_of(&table, name, "/x") == Some(ENDPOINTS), "{name} has no route");
    }
    ensure!(endpoints_of(&table, "nobody.example.com", "/x").is_none(), "an unknown host has a route");
    let bind = Arc::clone(table.binds.first().context("no bind")?);
    let mut next = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(name) = names.get(next) else { return };
            let name = name.as_str();
            black_box(bind.hosts.route(black_box(name), "/x", &request(name, "/x")));
            next = if next + 1 == names.len() { 0 } else { next + 1 };
        }
    }))
}

/// The paths of one host. Ingresses would have to share it; here its rules are filed by hand, as compile does it.
fn path_lookup(paths: usize) -> Result<Work> {
    let (_, table) = compiled(&index(1, 1, 1)?)?;
    let hosts = &table.binds.first().context("no bind")?.hosts;
    let (name, long) = (host(0), "x".repeat(12));
    let one = hosts.find(&name).context("no host")?;
    let rule = hosts.route(&name, "/", &request(&name, "/")).context("no rule")?;
    let mut rules = (**one).clone();
    let path = |number: usize| format!("/team-{}/service-{number}", number % 100);
    for number in 0..paths {
        let matching = PathMatch::Prefix(path(number).into());
        let rule = Arc::new(Rule { path: Box::new(matching), ..(**rule).clone() });
        rules.paths.push(Candidate { rule, matcher: None });
    }
    let mut map = HostMap::default();
    map.set(&rules.hostname.clone(), Some(Arc::new(rules)));
    let asked = shuffled((0..paths).map(|number| format!("{}/{long}", path(number))).collect());
    for asked in &asked {
        let found = map.route(&name, asked, &request(&name, asked)).context("no rule")?;
        ensure!(found.path.matches(asked) && !Arc::ptr_eq(found, rule), "{asked} has another rule");
    }
    let mut next = 0;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(asked) = asked.get(next) else { return };
            black_box(map.route(&name, black_box(asked), &request(&name, asked)));
            next = if next + 1 == paths { 0 } else { next + 1 };
        }
    }))
}

fn compile(ingresses: usize) -> Result<Work> {
    let index = index(SERVICES, ENDPOINTS, ingresses)?;
    let (_, table) = compiled(&index)?;
    for number in 0..ingresses {
        ensure!(endpoints_of(&table, &host(number), "/") == Some(ENDPOINTS), "{} has no route", host(number));
    }
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let mut compiler = Compiler::new(Settings::default());
            black_box(compiler.compile(&index, &Change::default(), 0));
        }
    }))
}

/// Two states of each of some objects: those that are there, and those that they change to.
struct Changes {
    states: [Vec<Object>; 2],
    next: usize,
}

impl Changes {
    fn new(count: usize, of: impl Fn(usize, usize) -> String) -> Result<Self> {
        let list =
            |state| (0..count.min(CHANGING)).map(|number| object(&of(number, state))).collect::<Result<_>>();
        Ok(Self { states: [list(1)?, list(0)?], next: 0 })
    }

    /// The next change; there is no end of them.
    fn next(&mut self) -> Option<Event> {
        let [other, first] = &self.states;
        let state = if self.next < other.len() { other } else { first };
        let object = state.get(self.next % other.len())?.clone();
        self.next = (self.next + 1) % (2 * other.len());
        Some(Event::Apply(object))
    }
}

fn route_change(ingresses: usize) -> Result<Work> {
    let mut index = index(SERVICES, ENDPOINTS, ingresses)?;
    let (mut compiler, _) = compiled(&index)?;
    let path = |state| if state == 0 { "/" } else { "/changed" };
    let mut changes = Changes::new(ingresses, |number, state| ingress(number, SERVICES, path(state)))?;
    let change = index.apply(changes.next().context("no change")?);
    let (table, _) = compiler.compile(&index, &change, 0);
    ensure!(endpoints_of(&table, &host(0), "/other").is_none(), "the path before is still there");
    ensure!(endpoints_of(&table, &host(0), "/changed") == Some(ENDPOINTS), "the new path is not there");
    ensure!(endpoints_of(&table, &host(1), "/other") == Some(ENDPOINTS), "another path is gone");
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(event) = changes.next() else { return };
            let change = index.apply(event);
            black_box(compiler.compile(&index, &change, 0));
        }
    }))
}

/// What serves a table.
struct Served {
    shared: Arc<Shared>,
    publisher: Publisher,
}

impl Served {
    fn new(table: Arc<RouteTable>) -> Self {
        let (shared, mut publisher) = Shared::new(1);
        publisher.publish(table);
        Self { shared, publisher }
    }

    /// Publishes, and checks that one backend is another one, which has `endpoints`.
    fn check(&mut self, table: Arc<RouteTable>, endpoints: usize) -> Result<()> {
        let before = Arc::clone(&self.shared.load());
        self.publisher.publish(table);
        let mut changed = Vec::new();
        self.shared
            .load()
            .backends
            .changes(&before.backends, |_, _, backend| changed.extend(backend.cloned()));
        let sizes: Vec<usize> = changed.iter().map(|backend| backend.endpoints.len()).collect();
        ensure!(sizes == [endpoints], "changed backends have {sizes:?} endpoints");
        Ok(())
    }
}

fn more_endpoints(services: usize) -> Result<Changes> {
    Changes::new(services, |number, state| slice(number, ENDPOINTS, state))
}

fn endpoint_change(services: usize) -> Result<Work> {
    let mut index = index(services, ENDPOINTS, services)?;
    let (mut compiler, table) = compiled(&index)?;
    let mut changes = more_endpoints(services)?;
    let mut served = Served::new(table);
    let change = index.apply(changes.next().context("no change")?);
    let (table, _) = compiler.compile(&index, &change, 0);
    ensure!(endpoints_of(&table, &host(0), "/") == Some(ENDPOINTS + 1), "the new endpoint is not there");
    served.check(table, ENDPOINTS + 1)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let Some(event) = changes.next() else { return };
            let change = index.apply(event);
            let (table, _) = compiler.compile(&index, &change, 0);
            served.publisher.publish(table);
        }
    }))
}

fn swap(services: usize) -> Result<Work> {
    let mut index = index(services, ENDPOINTS, services)?;
    let (mut compiler, first) = compiled(&index)?;
    let change = apply(&mut index, &slice(0, ENDPOINTS, 1))?;
    let (second, _) = compiler.compile(&index, &change, 0);
    let mut served = Served::new(Arc::clone(&first));
    served.check(Arc::clone(&second), ENDPOINTS + 1)?;
    served.check(Arc::clone(&first), ENDPOINTS)?;
    let mut is_first = true;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            is_first = !is_first;
            served.publisher.publish(Arc::clone(if is_first { &first } else { &second }));
        }
    }))
}
