//! HAProxy: `lean` sets only two of the headers, `splice` may splice. Its log goes through its standard output to a file.

use anyhow::Result;

use super::{Launch, Ready, Setup};
use crate::compare::scenario::{Back, Front, Table};

/// A line for each request.
const LOG: &str = r#"    log global
    log-format '{"time":"%tr","client.addr":"%ci","method":"%HM","path":"%HPO","http.version":"%HV","status":%ST,"route":"%ft","backend":"%b","endpoint":"%s","bytes.in":%U,"bytes.out":%B,"duration":%Tt,"upstream.head":%Tr,"user_agent":"%[capture.req.hdr(0),json(utf8s)]","referer":"%[capture.req.hdr(1),json(utf8s)]","host":"%[capture.req.hdr(2),json(utf8s)]"}'
    capture request header User-Agent len 128
    capture request header Referer len 128
    capture request header Host len 128"#;

const MORE_HEADERS: &str = "
    http-request set-header X-Forwarded-Host %[req.hdr(host)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Real-IP %[src]
    http-request set-header X-Request-ID %[rand(4294967295),hex]%[rand(4294967295),hex]";

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let path = if setup.scenario.front == Front::Tcp { tcp(setup)? } else { http(setup)? };
    let mut launch = Launch::new(["-f".to_owned(), path], Ready::Accepts(setup.port));
    launch.stdout = setup.scenario.log.then(|| setup.log());
    Ok(launch)
}

fn splice(setup: &Setup<'_>) -> String {
    let may = setup.variant == "splice";
    if may { "    option splice-response\n    option splice-request" } else { "" }.to_owned()
}

fn tcp(setup: &Setup<'_>) -> Result<String> {
    let servers = setup.each_backend("    server s@NUMBER@ @ADDRESS@", "\n");
    setup.write("haproxy-tcp.cfg", &[("SPLICE", splice(setup)), ("SERVERS", servers)])
}

fn http(setup: &Setup<'_>) -> Result<String> {
    let scenario = setup.scenario;
    let scheme = if scenario.front.is_tls() { "https" } else { "http" };
    let more = if setup.variant == "lean" { "" } else { MORE_HEADERS };
    let headers =
        format!("    option forwardfor\n    http-request set-header X-Forwarded-Proto {scheme}{more}");
    let flags = if scenario.front.is_tls() {
        format!(" ssl crt {} alpn h2,http/1.1", setup.file("leaf.pem"))
    } else {
        String::new()
    };
    let proto = if scenario.back == Back::Http1 { "" } else { " proto h2" };
    let server = format!("    server s@NUMBER@ @ADDRESS@ pool-max-conn 600{proto}");
    let routes = match scenario.table {
        Table::Hosts => {
            std::fs::write(setup.folder.join("hosts.map"), setup.each_host("@HOST@ backends", "\n") + "\n")?;
            format!("    use_backend %[req.hdr(host),lower,map({})]", setup.file("hosts.map"))
        }
        _ => "    default_backend backends".to_owned(),
    };
    setup.write(
        "haproxy.cfg",
        &[
            ("ROUTES", routes),
            ("GLOBAL_LOG", if scenario.log { "    log stdout format raw local0" } else { "" }.to_owned()),
            ("FRONT_LOG", if scenario.log { LOG } else { "" }.to_owned()),
            ("FLAGS", flags),
            ("HEADERS", headers),
            ("SPLICE", splice(setup)),
            ("SERVERS", setup.each_backend(&server, "\n")),
        ],
    )
}
