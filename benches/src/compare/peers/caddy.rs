//! Caddy, with a Caddyfile. It relays neither connections nor datagrams.

use anyhow::Result;

use super::{Launch, Ready, Setup};
use crate::compare::scenario::{Back, Table};

pub(super) fn launch(setup: &Setup<'_>) -> Result<Launch> {
    let scenario = setup.scenario;
    let (scheme, tls) = if scenario.front.is_tls() {
        ("https", format!("tls {} {}", setup.file("leaf.crt"), setup.file("leaf.key")))
    } else {
        ("http", String::new())
    };
    let log = if scenario.log {
        format!(
            "log {{\n        output file {} {{\n            roll_disabled\n        }}\n        format json\n    }}",
            setup.log().display()
        )
    } else {
        String::new()
    };
    let site = |host: &str| format!("{scheme}://{host}:{} {{\n    import bench\n}}", setup.port);
    let sites = match scenario.table {
        Table::Hosts => setup.each_host(&site("@HOST@"), "\n"),
        _ => site(""),
    };
    let config = setup.write(
        "Caddyfile",
        &[
            ("SITES", sites),
            ("TLS", tls),
            ("LOG", log),
            ("VERSIONS", if scenario.back == Back::Http1 { "1.1" } else { "h2c 2" }.to_owned()),
            ("BACKENDS", setup.each_backend("@ADDRESS@", " ")),
        ],
    )?;
    let mut launch =
        Launch::new(["run", "--adapter", "caddyfile", "--config", &config], Ready::Accepts(setup.port));
    let home = setup.folder.display().to_string();
    launch.env = vec![
        ("GOMAXPROCS", setup.workers.to_string()),
        // Whatever it keeps goes to the folder.
        ("HOME", home.clone()),
        ("XDG_DATA_HOME", home.clone()),
        ("XDG_CONFIG_HOME", home),
    ];
    Ok(launch)
}
