//! Envoy, with static configuration: an HTTP connection manager, or its proxies for TCP and UDP.

use anyhow::Result;

use super::{Launch, Ready, Setup};
use crate::compare::scenario::{Back, Front, Table};

const BACKEND: &str = r#"            {"endpoint": {"address": {"socket_address": {"address": "@HOST@", "port_value": @PORT@}}}}"#;

const TCP: &str = r#""filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": {
          "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
          "stat_prefix": "bench", "cluster": "backends", "idle_timeout": "3600s"}}]}]"#;

const UDP: &str = r#""listener_filters": [{"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": {
          "@type": "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig",
          "stat_prefix": "bench", "idle_timeout": "60s",
          "matcher": {"on_no_match": {"action": {"name": "route", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route", "cluster": "backends"}}}}}}]"#;

/// Backends that speak HTTP/2.
const HTTP2: &str = r#",
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
          "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
          "explicit_http_config": {"http2_protocol_options": {}}}}"#;

const VIRTUAL_HOST: &str = r#"              {"name": "@HOST@", "domains": ["@HOST@"], "routes": [
                {"name": "bench", "match": {"prefix": "/"}, "route": {"cluster": "backends", "timeout": "0s"}}]}"#;

const LOG: &str = r#""access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "@FILE@",
            "log_format": {"json_format": {
              "time": "%START_TIME%", "client.addr": "%DOWNSTREAM_REMOTE_ADDRESS%", "method": "%REQ(:METHOD)%",
              "host": "%REQ(:AUTHORITY)%", "path": "%REQ(:PATH)%", "http.version": "%PROTOCOL%",
              "status": "%RESPONSE_CODE%", "route": "%ROUTE_NAME%", "endpoint": "%UPSTREAM_HOST%",
              "bytes.in": "%BYTES_RECEIVED%", "bytes.out": "%BYTES_SENT%", "duration": "%DURATION%",
              "upstream.head": "%RESPONSE_DURATION%", "request_id": "%REQ(X-REQUEST-ID)%",
              "user_agent": "%REQ(USER-AGENT)%", "referer": "%REQ(REFERER)%"}}}}],"#;

const TLS: &str = r#""transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
          "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
          "common_tls_context": {
            "alpn_protocols": ["h2", "http/1.1"],
            "tls_certificates": [{
              "certificate_chain": {"filename": "@CRT@"}, "private_key": {"filename": "@KEY@"}}]}}},"#;

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let http2 = if setup.scenario.back == Back::Http1 { "" } else { HTTP2 };
    let common = [("BACKENDS", setup.each_backend(BACKEND, ",\n")), ("HTTP2", http2.to_owned())];
    let path = match setup.scenario.front {
        Front::Tcp => layer4(setup, TCP, "TCP", &common)?,
        Front::Udp => layer4(setup, UDP, "UDP", &common)?,
        _ => http(setup, &common)?,
    };
    let args =
        ["-c", &path, "--concurrency", &setup.workers.to_string(), "--disable-hot-restart", "-l", "error"];
    Ok(Launch::new(args, Ready::Says(setup.admin, "/ready")))
}

fn layer4(setup: &Setup<'_>, proxy: &str, protocol: &str, common: &[(&str, String)]) -> Result<String> {
    let own = [("PROXY", proxy.to_owned()), ("PROTOCOL", protocol.to_owned())];
    setup.write("envoy-l4.json", &[&own, common].concat())
}

fn http(setup: &Setup<'_>, common: &[(&str, String)]) -> Result<String> {
    let scenario = setup.scenario;
    let tls = if scenario.front.is_tls() {
        TLS.replace("@CRT@", &setup.file("leaf.crt")).replace("@KEY@", &setup.file("leaf.key"))
    } else {
        String::new()
    };
    let log =
        if scenario.log { LOG.replace("@FILE@", &setup.log().display().to_string()) } else { String::new() };
    let upgrade =
        if scenario.upgrade { r#""upgrade_configs": [{"upgrade_type": "websocket"}],"# } else { "" };
    let hosts = match scenario.table {
        Table::Hosts => setup.each_host(VIRTUAL_HOST, ",\n"),
        _ => VIRTUAL_HOST.replace("@HOST@", "*"),
    };
    let own = [("TLS", tls), ("LOG", log), ("UPGRADE", upgrade.to_owned()), ("HOSTS", hosts)];
    setup.write("envoy.json", &[&own, common].concat())
}
