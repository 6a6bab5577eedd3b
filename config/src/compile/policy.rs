//! Annotations and defaults → policies. Equal policies share one allocation.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::tls::{lack_message, roots_origin};
use super::vault::{Origin, Vault};
use crate::index::{Index, ServiceKey};
use crate::resource::Service;
use crate::resource::annotations::{BalanceKind, Settings};
use crate::resource::ingress::PortRef;
use crate::resource::tls::{self, Protocol};
use crate::table::{
    ActiveProbe, BackendPolicy, BackendProtocol, BackendTls, Balance, HashKey, HealthPolicy, PathMatch,
    PathModifier, Rewrite, RulePolicy,
};

/// Settings by falling precedence: the Ingress', the Service's.
pub(super) type Levels<'a> = [Option<&'a Settings>; 2];

fn pick<'a, T>(levels: Levels<'a>, field: impl Fn(&'a Settings) -> &'a Option<T>) -> Option<&'a T> {
    levels.into_iter().flatten().find_map(|settings| field(settings).as_ref())
}

fn set<T: Clone>(target: &mut T, value: Option<&T>) {
    if let Some(value) = value {
        target.clone_from(value);
    }
}

/// How a backend is treated under these settings.
pub(super) fn backend(levels: Levels<'_>, default: &BackendPolicy, speech: Speech) -> BackendPolicy {
    let mut policy = BackendPolicy { protocol: speech.protocol, tls: speech.tls, ..default.clone() };
    let hash = || pick(levels, |s| &s.hash_by).cloned().unwrap_or(HashKey::SourceIp);
    match pick(levels, |s| &s.balance) {
        Some(BalanceKind::RoundRobin) => policy.balance = Balance::RoundRobin,
        Some(BalanceKind::LeastConnection) => policy.balance = Balance::LeastConnection,
        Some(BalanceKind::ConsistentHash) => policy.balance = Balance::ConsistentHash(hash()),
        None => {}
    }
    set(&mut policy.connect_timeout, pick(levels, |s| &s.connect_timeout));
    set(&mut policy.slow_start, pick(levels, |s| &s.slow_start));
    set(&mut policy.max_requests_per_endpoint, pick(levels, |s| &s.max_requests_per_endpoint));
    set(&mut policy.queue_size, pick(levels, |s| &s.queue_size));
    set(&mut policy.queue_timeout, pick(levels, |s| &s.queue_timeout));
    set(&mut policy.panic_threshold, pick(levels, |s| &s.panic_threshold));
    let mut health = HealthPolicy::clone(&policy.health);
    if let Some(passive) = &mut health.passive {
        set(&mut passive.consecutive_failures, pick(levels, |s| &s.max_failures));
        set(&mut passive.max_ejected, pick(levels, |s| &s.max_ejected));
    }
    if let Some(kind) = pick(levels, |s| &s.health_check) {
        let interval = pick(levels, |s| &s.health_check_interval).copied();
        let timeout = pick(levels, |s| &s.health_check_timeout).copied();
        health.active = Some(ActiveProbe {
            kind: kind.clone(),
            interval: interval.unwrap_or(Duration::from_secs(5)),
            timeout: timeout.unwrap_or(Duration::from_secs(1)),
            healthy_threshold: 2,
            unhealthy_threshold: 3,
        });
    }
    if health != *policy.health {
        policy.health = Arc::new(health);
    }
    policy
}

/// Whether requests go to the Service's own address.
pub(super) fn upstream(levels: Levels<'_>) -> bool {
    pick(levels, |s| &s.service_upstream) == Some(&true)
}

/// The `appProtocol` of a Service's port, if that would decide and says nothing to us.
pub(super) fn unknown_protocol<'s>(levels: Levels<'_>, service: &'s Service, port: u16) -> Option<&'s str> {
    if pick(levels, |s| &s.backend_protocol).is_some() {
        return None;
    }
    let text = service.port(&PortRef::Number(port))?.app_protocol.as_deref()?;
    tls::app_protocol(text).is_none().then_some(text)
}

/// How a backend is spoken to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Speech {
    pub(super) protocol: BackendProtocol,
    pub(super) tls: Option<Arc<BackendTls>>,
}

impl Default for Speech {
    fn default() -> Self {
        Self { protocol: BackendProtocol::Http1, tls: None }
    }
}

/// What a backend must be verified by is not to be had.
#[derive(Debug)]
pub(super) struct Speechless {
    /// Where to tell it: the annotation.
    pub(super) annotation: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// How the endpoints of a Service's port are spoken to, which needs what is noted in `materials`.
pub(super) fn speech(
    index: &Index,
    vault: &mut Vault,
    levels: Levels<'_>,
    (key, service, port): (&ServiceKey, &Service, u16),
    materials: &mut BTreeSet<Origin>,
) -> Result<Speech, Speechless> {
    let app_protocol = || service.port(&PortRef::Number(port)).and_then(|port| port.app_protocol.as_deref());
    let protocol = pick(levels, |s| &s.backend_protocol).copied();
    let protocol = protocol.or_else(|| tls::app_protocol(app_protocol()?)).unwrap_or(Protocol::Http);
    let wire = if protocol.is_http2() { BackendProtocol::Http2 } else { BackendProtocol::Http1 };
    if !protocol.is_encrypted() {
        return Ok(Speech { protocol: wire, tls: None });
    }
    let lack = |annotation, origin: &Origin, lack| {
        let (reason, message) = lack_message(origin, lack);
        Speechless { annotation, reason, message }
    };
    let roots = match pick(levels, |s| &s.backend_tls_ca) {
        None => None,
        Some(roots) => {
            let origin = roots_origin(&key.0, roots);
            materials.insert(origin.clone());
            vault.ensure(index, &origin);
            Some(Arc::clone(vault.roots(&origin).map_err(|why| lack("backend-tls-ca", &origin, why))?))
        }
    };
    let certificate = match pick(levels, |s| &s.backend_tls_secret) {
        None => None,
        Some(name) => {
            let origin = Origin::secret(&key.0, name);
            materials.insert(origin.clone());
            vault.ensure(index, &origin);
            Some(Arc::clone(
                vault.certificate(&origin).map_err(|why| lack("backend-tls-secret", &origin, why))?,
            ))
        }
    };
    let own_name = || match &service.external_name {
        Some(Ok(name)) => name.trim_end_matches('.').into(),
        _ => format!("{}.{}.svc", key.1, key.0).into(),
    };
    let tls = BackendTls {
        insecure: pick(levels, |s| &s.backend_tls_verify) == Some(&false),
        roots,
        server_name: Some(pick(levels, |s| &s.backend_tls_server_name).cloned().unwrap_or_else(own_name)),
        certificate,
    };
    Ok(Speech { protocol: wire, tls: Some(Arc::new(tls)) })
}

/// What applies to requests of a rule with this path under these settings.
pub(super) fn rule(levels: Levels<'_>, default: &RulePolicy, path: Option<&PathMatch>) -> RulePolicy {
    let mut policy = default.clone();
    set(&mut policy.timeouts.response_head, pick(levels, |s| &s.response_timeout));
    set(&mut policy.timeouts.idle, pick(levels, |s| &s.idle_timeout));
    set(&mut policy.timeouts.total, pick(levels, |s| &s.request_timeout));
    policy.timeouts.set.response_head |= pick(levels, |s| &s.response_timeout).is_some();
    policy.timeouts.set.idle |= pick(levels, |s| &s.idle_timeout).is_some();
    set(&mut policy.retry.attempts, pick(levels, |s| &s.retries));
    if let Some(on) = pick(levels, |s| &s.retry_on) {
        policy.retry.codes.clone_from(&on.codes);
        policy.retry.on_timeout = on.timeout;
        policy.retry.on_empty_response = on.empty_response;
    }
    if pick(levels, |s| &s.ssl_redirect) == Some(&true) {
        policy.https.redirect = Some(pick(levels, |s| &s.ssl_redirect_port).copied().unwrap_or(443));
    }
    if let Some(hsts) = pick(levels, |s| &s.hsts) {
        policy.https.hsts = Some(Arc::clone(hsts));
    }
    // A default backend takes what matched no path, so there is nothing to replace.
    if let (Some(path), Some(replacement)) = (path, pick(levels, |s| &s.rewrite_prefix)) {
        let path = match (path, replacement) {
            (PathMatch::Exact(_), PathModifier::ReplacePrefixMatch(whole)) => {
                PathModifier::ReplaceFullPath(Arc::clone(whole))
            }
            _ => replacement.clone(),
        };
        policy.filters.rewrite = Some(Rewrite { hostname: None, path: Some(path) });
    }
    policy
}
