//! From arguments to the settings of controller and gateway. Reads the environment as far as defaults depend
//! on it, and nothing else.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use config::compile::{ClassSettings, Classless, EndpointSettings, ServiceSettings, Settings};
use config::table::{Certificate, Limits, TrustedProxies};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::cli::{IngressArgs, LimitArgs, MapName, RunArgs, SecretName, ServiceArgs, ServiceType};
use crate::families::{Families, host_addresses};

/// Name of the certificate that is made at start, in logs and metrics.
pub(crate) const SELF_SIGNED: &str = "(self-signed)";
/// How long it is valid; nobody renews it while the process runs.
const SELF_SIGNED_DAYS: u32 = 3_650;

/// True in a Pod.
pub(crate) fn in_cluster() -> bool {
    std::env::var_os("KUBERNETES_SERVICE_HOST").is_some()
}

/// In a Pod, where the API server is: host and port.
pub(crate) fn api_server() -> Option<(String, u16)> {
    let host = std::env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty())?;
    let port = std::env::var("KUBERNETES_SERVICE_PORT").ok().and_then(|port| port.parse().ok());
    Some((host, port.unwrap_or(443)))
}

/// Where Ingresses are served if nothing is said: the well-known port where it can be had and is meant.
fn default_address(well_known: u16, other: u16) -> SocketAddr {
    if in_cluster() || rustix::process::geteuid().is_root() {
        (Ipv4Addr::UNSPECIFIED, well_known).into()
    } else {
        (Ipv4Addr::LOCALHOST, other).into()
    }
}

/// The address that Ingresses are served on over HTTP.
pub(crate) fn http_address(args: &IngressArgs) -> Option<SocketAddr> {
    args.http.map_or_else(|| Some(default_address(80, 8080)), |listen| listen.0)
}

/// The address that Ingresses are served on over HTTPS.
pub(crate) fn https_address(args: &IngressArgs) -> Option<SocketAddr> {
    args.https.map_or_else(|| Some(default_address(443, 8443)), |listen| listen.0)
}

/// What the compiler must know besides the objects that are served.
pub(crate) fn run_settings(args: &RunArgs) -> anyhow::Result<Settings> {
    let mut settings = Settings { classes: run_classes(args), ..compile_settings(&args.ingress)? };
    // Tenants write EndpointSlices.
    settings.endpoints.is_shared = args.cluster.kubernetes;
    if args.cluster.kubernetes {
        let given = &args.ingress.services;
        settings.services.classless = given.default_load_balancer;
        settings.services.requestable = given.load_balancer_addresses.clone();
    }
    Ok(settings)
}

/// By what an Ingress is ours.
pub(crate) fn run_classes(args: &RunArgs) -> ClassSettings {
    let mut classes = classes(&args.ingress);
    // In a cluster, what is without a class may be another controller's, also where no class exists yet.
    if args.cluster.kubernetes && classes.classless == Classless::IfAlone {
        classes.classless = Classless::IfDefault;
    }
    classes
}

fn classes(args: &IngressArgs) -> ClassSettings {
    ClassSettings {
        name: args.ingress_class.as_str().into(),
        controller: args.controller_class.as_str().into(),
        classless: if args.watch_ingress_without_class { Classless::Always } else { Classless::IfAlone },
    }
}

/// What the compiler must know besides the files.
pub(crate) fn compile_settings(args: &IngressArgs) -> anyhow::Result<Settings> {
    let http = http_address(args);
    let mut https = https_address(args);
    if https.is_some() && http == https {
        // Binds are told apart by their address, also where it leaves the port to the kernel.
        https = match https.filter(|address| address.port() == 0) {
            Some(any) => Some(free_address(any)?),
            None => {
                anyhow::bail!("--http and --https cannot have the same address; write `none` for one of them")
            }
        };
    }
    Ok(Settings {
        http,
        https,
        default_certificate: Some(self_signed()?),
        default_secret: args.default_certificate.as_ref().map(SecretName::pair),
        proxy_protocol: args.proxy_protocol,
        trusted_proxies: TrustedProxies(args.trusted_proxy.clone()),
        limits: limits(&args.limits),
        classes: classes(args),
        endpoints: endpoints(args),
        services: services(&args.services)?,
        transparent: args.services.transparent,
        ..Settings::default()
    })
}

/// Which Services are served at addresses of their own, as whoever writes files for us means it.
fn services(args: &ServiceArgs) -> anyhow::Result<ServiceSettings> {
    let is = |kind| args.service_types.contains(&kind);
    let all = || vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let asked = &args.load_balancer_addresses;
    Ok(ServiceSettings {
        load_balancer: is(ServiceType::LoadBalancer),
        node_port: is(ServiceType::NodePort),
        cluster_ip: is(ServiceType::ClusterIp),
        classless: true,
        requestable: if asked.is_empty() { all() } else { asked.clone() },
        node_addresses: node_addresses(&args.nodeport_addresses)?,
        tcp_map: args.tcp_services_configmap.as_ref().map(MapName::pair),
        udp_map: args.udp_services_configmap.as_ref().map(MapName::pair),
    })
}

/// The addresses of this host within `networks`; `None` for all, if there are no networks.
pub(crate) fn node_addresses(networks: &[IpNet]) -> anyhow::Result<Option<Box<[IpAddr]>>> {
    if networks.is_empty() {
        return Ok(None);
    }
    let all = host_addresses().context("--nodeport-addresses: the addresses of this host cannot be read")?;
    let chosen: Box<[IpAddr]> =
        all.into_iter().filter(|ip| networks.iter().any(|net| net.contains(ip))).collect();
    if chosen.is_empty() {
        anyhow::bail!("--nodeport-addresses: this host has no address in these networks");
    }
    Ok(Some(chosen))
}

fn endpoints(args: &IngressArgs) -> EndpointSettings {
    let named = |name: &Option<String>| name.as_deref().map(Into::into);
    let families = Families::probe();
    EndpointSettings {
        node: named(&args.node_name),
        zone: named(&args.zone),
        ipv4: families.ipv4,
        ipv6: families.ipv6,
        external_names: !args.disable_svc_external_name,
        is_shared: false,
    }
}

/// An address with a port that nothing listens on at this moment.
fn free_address(any: SocketAddr) -> anyhow::Result<SocketAddr> {
    let probe = std::net::TcpListener::bind(any).context("--https: no free port")?;
    Ok(probe.local_addr()?)
}

/// The certificate for names that no other one is for: encryption, and no proof of anything.
fn self_signed() -> anyhow::Result<Arc<Certificate>> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = Duration::from_secs(24 * 3_600);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    let mut params = rcgen::CertificateParams::new(vec!["sluicegate.invalid".to_owned()])?;
    // A day back, for clients whose clocks are behind.
    params.not_before = epoch + now.saturating_sub(day);
    params.not_after = epoch + now + day * SELF_SIGNED_DAYS;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = params.self_signed(&key)?;
    let (chain, key) = (certificate.pem(), key.serialize_pem());
    config::resource::certificate(SELF_SIGNED, chain.as_bytes(), key.as_bytes())
        .map_err(|flaw| anyhow::anyhow!("cannot make a self-signed certificate: {flaw}"))
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
    set(&mut limits.handshake_timeout, args.handshake_timeout);
    set(&mut limits.max_concurrent_streams, args.max_concurrent_streams);
    limits
}

fn set<T>(setting: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *setting = value;
    }
}
