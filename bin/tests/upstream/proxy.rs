//! The gateway over a table made by hand.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use config::report::{Kind, ObjectRef};
use config::table::{
    Action, Backend, BackendId, BackendPolicy, BackendProtocol, Bind, BindConfig, Endpoint, HostMap,
    HostRules, Hostname, Limits, PathMap, PathMatch, RouteId, RouteInfo, RouteTable, Rule, RulePolicy, Split,
    WildcardDepth,
};
use gateway::Gateway;
use gateway::access_log::{AccessLog, Destination, Format};
use gateway::health::probe::run_probes;
use gateway::live::{Publisher, Shared};
use gateway::metrics::Registry;

use crate::client::Client;

/// Longest wait for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` holds.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// host → its backend's endpoints and policy.
pub(crate) type Routes<'a> = &'a [(&'a str, &'a [SocketAddr], BackendPolicy)];

/// HTTP/1.1, and nothing that would hide an endpoint after a failure.
pub(crate) fn http1() -> BackendPolicy {
    BackendPolicy { protocol: BackendProtocol::Http1, ..http2() }
}

/// HTTP/2, and nothing that would hide an endpoint after a failure.
pub(crate) fn http2() -> BackendPolicy {
    let health = config::table::HealthPolicy { active: None, passive: None };
    BackendPolicy { protocol: BackendProtocol::Http2, health: Arc::new(health), ..BackendPolicy::default() }
}

/// A running gateway with one worker.
pub(crate) struct Proxy {
    gateway: Option<Gateway>,
    publisher: Publisher,
    shared: Arc<Shared>,
    pub(crate) address: SocketAddr,
    _log: AccessLog,
}

impl Proxy {
    pub(crate) fn start(routes: Routes<'_>) -> Self {
        let registry = Registry::new(1);
        let log = AccessLog::start(Format::Off, Destination::Stdout, 1).unwrap();
        let (shared, publisher) = Shared::new(1);
        let gateway = Gateway::start(1, &shared, &registry, &log).unwrap();
        let mut proxy = Self {
            gateway: Some(gateway),
            publisher,
            shared,
            address: ([127, 0, 0, 1], 0).into(),
            _log: log,
        };
        proxy.publish(routes);
        proxy.address = proxy.gateway.as_ref().unwrap().bound().next().unwrap().1;
        proxy
    }

    /// Replaces the table.
    pub(crate) fn publish(&mut self, routes: Routes<'_>) {
        let table = Arc::new(table(routes));
        assert!(self.gateway.as_mut().unwrap().open_binds(&table).is_empty());
        self.publisher.publish(table);
    }

    /// Sends the probes that policies ask for, until the test's process ends.
    pub(crate) fn probe(&self) {
        let probes = run_probes(Arc::clone(&self.shared));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(probes);
        });
    }

    /// Whether the first backend's only endpoint takes requests.
    pub(crate) fn is_healthy(&self) -> bool {
        self.shared.load().backends.at(0).unwrap().endpoints[0].is_healthy()
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            gateway.stop();
        }
    }
}

fn table(routes: Routes<'_>) -> RouteTable {
    let mut table = RouteTable::default();
    let mut hosts = HostMap::default();
    for (slot, (host, addresses, policy)) in (0..).zip(routes) {
        let name: Arc<str> = (*host).into();
        let object = ObjectRef { kind: Kind::Ingress, namespace: "test".into(), name: Arc::clone(&name) };
        table.routes.set(slot, Some(Arc::new(RouteInfo { object, name: Arc::clone(&name) })));
        let endpoint =
            |address: &SocketAddr| Endpoint { address: *address, weight: 1, identity: None, dns_name: None };
        let backend = Backend {
            name: Arc::clone(&name),
            endpoints: addresses.iter().map(endpoint).collect(),
            policy: Arc::new(policy.clone()),
        };
        table.backends.set(slot, Some(Arc::new(backend)));
        let rule = Rule {
            route: RouteId(slot),
            index: 0,
            path: Box::new(PathMatch::Prefix("/".into())),
            policy: Arc::new(RulePolicy::default()),
            action: Action::Forward(Split::One(BackendId(slot))),
        };
        let hostname = Hostname::Exact(name);
        let rules = HostRules {
            hostname: hostname.clone(),
            depth: WildcardDepth::OneLabel,
            paths: PathMap::default(),
            fallback: Some(Arc::new(rule)),
            hsts: None,
        };
        hosts.set(&hostname, Some(Arc::new(rules)));
    }
    let config = BindConfig {
        address: ([127, 0, 0, 1], 0).into(),
        listeners: Vec::new(),
        https: false,
        proxy_protocol: false,
        trusted_proxies: config::table::TrustedProxies::default(),
        limits: Limits::default(),
        abort_on_half_close: false,
        free_bind: false,
    };
    table.binds.push(Arc::new(Bind { config: Arc::new(config), hosts: Arc::new(hosts), tls: None }));
    table
}
