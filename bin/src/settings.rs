//! From arguments to the settings of controller and gateway. Reads the environment as far as defaults depend
//! on it, and nothing else.

use std::net::{Ipv4Addr, SocketAddr};

use config::compile::Settings;
use config::table::{Limits, TrustedProxies};

use crate::cli::{IngressArgs, LimitArgs};

/// Encrypted binds are left out while the gateway cannot serve them.
const TLS_IN_FRONT: bool = false;
/// Backends over TLS are closed while the gateway cannot reach them.
const TLS_BEHIND: bool = false;

/// Where Ingresses are served if nothing is said: the well-known port where it can be had and is meant.
fn default_http() -> SocketAddr {
    let in_cluster = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if in_cluster || rustix::process::geteuid().is_root() {
        (Ipv4Addr::UNSPECIFIED, 80).into()
    } else {
        (Ipv4Addr::LOCALHOST, 8080).into()
    }
}

/// The address that Ingresses are served on.
pub(crate) fn http_address(args: &IngressArgs) -> Option<SocketAddr> {
    args.http.map_or_else(|| Some(default_http()), |listen| listen.0)
}

/// What the compiler must know besides the files.
pub(crate) fn compile_settings(args: &IngressArgs) -> Settings {
    Settings {
        http: http_address(args),
        proxy_protocol: args.proxy_protocol,
        trusted_proxies: TrustedProxies(args.trusted_proxy.clone()),
        limits: limits(&args.limits),
        ingress_class: args.ingress_class.as_str().into(),
        tls_in_front: TLS_IN_FRONT,
        tls_behind: TLS_BEHIND,
        ..Settings::default()
    }
}

fn limits(args: &LimitArgs) -> Limits {
    let mut limits = Limits::default();
    set(&mut limits.max_connections, args.max_connections);
    set(&mut limits.max_requests_per_connection, args.max_requests_per_connection);
    set(&mut limits.head_bytes, args.max_head_bytes);
    set(&mut limits.head_fields, args.max_head_fields);
    set(&mut limits.request_line_bytes, args.max_request_line_bytes);
    set(&mut limits.header_timeout, args.header_timeout);
    set(&mut limits.idle_timeout, args.idle_timeout);
    set(&mut limits.body_idle_timeout, args.body_idle_timeout);
    set(&mut limits.min_body_rate, args.min_body_rate);
    set(&mut limits.tunnel_idle_timeout, args.tunnel_idle_timeout);
    limits
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}
