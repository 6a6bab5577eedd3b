//! nginx: of the system (`nginx`) and a newer one (`nginx-new`). `lean` sets only two of the headers, `stream` does not
//! buffer bodies on disk. Connections and datagrams are its `stream` module's.

use std::path::Path;

use anyhow::Result;

use super::{Launch, Ready, Setup};
use crate::compare::scenario::{Back, Front};

/// Where Debian has it as a module; elsewhere it is compiled in.
const STREAM_MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let (path, ready) = match setup.scenario.front {
        Front::Tcp => (stream(setup, "nginx-tcp.conf")?, setup.port),
        Front::Udp => (stream(setup, "nginx-udp.conf")?, setup.admin),
        _ => (http(setup)?, setup.port),
    };
    let args = ["-c".to_owned(), path, "-p".to_owned(), setup.folder.display().to_string()];
    Ok(Launch::new(args, Ready::Accepts(ready)))
}

fn stream(setup: &Setup<'_>, name: &str) -> Result<String> {
    let module = if setup.variant != "new" && Path::new(STREAM_MODULE).exists() {
        format!("load_module {STREAM_MODULE};")
    } else {
        String::new()
    };
    let servers = setup.each_backend("        server @ADDRESS@ max_fails=0;", "\n");
    setup.write(name, &[("MODULE", module), ("SERVERS", servers)])
}

fn http(setup: &Setup<'_>) -> Result<String> {
    let scenario = setup.scenario;
    let tls = if scenario.front.is_tls() {
        format!(
            "        ssl_certificate {};\n        ssl_certificate_key {};\n        ssl_protocols TLSv1.2 TLSv1.3;",
            setup.file("leaf.crt"),
            setup.file("leaf.key")
        )
    } else {
        String::new()
    };
    // How it is said has changed between the two.
    let (http2_flag, http2_line) = match (scenario.front.is_http2(), setup.variant) {
        (true, "new") => ("", "        http2 on;\n"),
        (true, _) => (" http2", ""),
        (false, _) => ("", ""),
    };
    let bodies = if setup.variant == "stream" {
        "            proxy_request_buffering off;\n            proxy_max_temp_file_size 0;"
    } else {
        ""
    };
    let log = if scenario.log {
        format!("{} json buffer=64k flush=1s", setup.log().display())
    } else {
        "off".to_owned()
    };
    let upstream = upstream(setup).map(|line| format!("            {line}")).collect::<Vec<_>>().join("\n");
    setup.write(
        "nginx.conf",
        &[
            ("LOG", log),
            ("FLAGS", format!("{}{http2_flag}", if scenario.front.is_tls() { " ssl" } else { "" })),
            ("TLS", format!("{http2_line}{tls}")),
            ("KEEPALIVE", if scenario.front.is_http2() { "1024" } else { "600" }.to_owned()),
            ("HEADERS", upstream.clone()),
            ("BODIES", bodies.to_owned()),
            ("SERVERS", setup.each_backend("        server @ADDRESS@ max_fails=0;", "\n")),
            ("HOSTS", hosts(setup, &upstream)),
        ],
    )
}

/// A server for each host.
fn hosts(setup: &Setup<'_>, upstream: &str) -> String {
    let server = format!(
        "    server {{\n        listen {};\n        server_name @HOST@;\n        location / {{\n{upstream}\n        }}\n    }}",
        setup.listen()
    );
    setup.each_host(&server, "\n")
}

/// How backends are spoken to, and which headers are set.
fn upstream(setup: &Setup<'_>) -> impl Iterator<Item = String> + use<> {
    let (mut pass, set) = match setup.scenario.back {
        Back::Grpc => (vec!["grpc_pass grpc://backends;"], "grpc_set_header"),
        Back::Http1 => (vec!["proxy_pass http://backends;", "proxy_http_version 1.1;"], "proxy_set_header"),
        Back::Http2 => (vec!["proxy_pass http://backends;", "proxy_http_version 2;"], "proxy_set_header"),
    };
    if setup.scenario.upgrade {
        pass.extend(["proxy_set_header Connection upgrade;", "proxy_set_header Upgrade $http_upgrade;"]);
        pass.push("proxy_set_header Host $http_host;");
    } else if setup.scenario.back != Back::Grpc {
        pass.extend(["proxy_set_header Connection \"\";", "proxy_set_header Host $http_host;"]);
    }
    let always = ["X-Forwarded-For $remote_addr", "X-Forwarded-Proto $scheme"];
    let more = [
        "X-Forwarded-Host $http_host",
        "X-Forwarded-Port $server_port",
        "X-Real-IP $remote_addr",
        "X-Request-ID $request_id",
    ];
    let all = setup.variant != "lean";
    let more = more.into_iter().filter(move |_| all);
    let headers = always.into_iter().chain(more).map(move |header| format!("{set} {header};"));
    pass.into_iter().map(str::to_owned).chain(headers)
}
