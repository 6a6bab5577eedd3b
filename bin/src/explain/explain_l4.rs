//! `sluicegate explain tcp://ADDRESS:PORT`: what becomes of a connection that is relayed as it is.

use std::io::{self, Write as _};
use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use config::table::explain_l4::{L4Explanation, explain_l4};
use config::table::{L4Key, L4Policy, SourceAddress, Transport};

use super::{explain_service, json_line, line, share_text};
use crate::check::compile_once;
use crate::cli::ExplainArgs;
use crate::settings::compile_settings;
use crate::terminal::Paint;

/// Prints where the connection goes; success if a backend takes it.
pub(super) fn explain(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    if let Some(service) = args.method.strip_prefix("service/") {
        return explain_service::explain(&args, service);
    }
    let key = parse(&args.method)?;
    if !args.headers.is_empty() {
        bail!("{key}: what is relayed as it is has no header");
    }
    let compiled = compile_once(args.config, compile_settings(&args.ingress)?)?;
    let mut explanation = explain_l4(&compiled.table, key, args.from);
    explanation.others = compiled.losers(explanation.bind.unwrap_or(key));
    for share in &mut explanation.backends {
        share.left_out = share.backend.iter().flat_map(|backend| compiled.left_out(&backend.name)).collect();
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &explanation)?;
        writeln!(out)?;
    } else {
        out.write_all(text((&args.method, args.from), &explanation, Paint::stdout()).as_bytes())?;
    }
    Ok(if explanation.is_served { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn parse(url: &str) -> anyhow::Result<L4Key> {
    const FORM: &str = "give a method and a URL, tcp://address:port, or service/namespace/name";
    let (scheme, address) = url.split_once("://").with_context(|| format!("{url:?} has no URL: {FORM}"))?;
    let transport = match scheme {
        "tcp" => Transport::Tcp,
        "udp" => Transport::Udp,
        _ => bail!("{url:?}: {FORM}"),
    };
    let address = address.trim_end_matches('/');
    let address = address.parse().with_context(|| format!("{address:?} is not an address with a port"))?;
    Ok(L4Key { address, transport })
}

fn text((url, from): (&str, Option<IpAddr>), explanation: &L4Explanation, paint: Paint) -> String {
    let mut out = String::new();
    let from = from.map(|from| format!(" from {from}")).unwrap_or_default();
    line(&mut out, "connection", &format!("{url}{from}"));
    if let (Some(listener), Some(bind)) = (&explanation.listener, explanation.bind) {
        line(&mut out, "listener", &format!("{listener} on {bind}"));
    }
    let verdict = match explanation.is_served {
        true => paint.good(&explanation.verdict),
        false => paint.error(&explanation.verdict),
    };
    line(&mut out, "verdict", &verdict);
    if let Some(route) = &explanation.route {
        line(&mut out, "route", route);
    }
    if let Some(object) = &explanation.object {
        line(&mut out, "object", &object.to_string());
    }
    if let Some(policy) = &explanation.policy {
        policy_text(&mut out, policy);
    }
    explanation.backends.iter().for_each(|share| share_text(&mut out, share));
    if !explanation.others.is_empty() {
        line(&mut out, &format!("\n{}", paint.strong("not served")), "");
        explanation.others.iter().for_each(|other| line(&mut out, "  problem", &other.to_string()));
    }
    out
}

fn policy_text(out: &mut String, policy: &L4Policy) {
    let shown = |time: std::time::Duration| {
        if time.is_zero() { "off".to_owned() } else { humantime::format_duration(time).to_string() }
    };
    let (idle, lifetime) = (shown(policy.idle_timeout), shown(policy.lifetime));
    line(out, "timeouts", &format!("idle {idle}, lifetime {lifetime}"));
    line(out, "tries", &policy.tries.to_string());
    let cap = |most: u32| if most == 0 { "any number".to_owned() } else { most.to_string() };
    let (all, each) = (cap(policy.max_connections), cap(policy.max_connections_per_endpoint));
    line(out, "connections", &format!("{all}, {each} per endpoint"));
    if policy.max_amplification > 0 {
        let text =
            format!("{} bytes at most for each of a client that has not gone on", policy.max_amplification);
        line(out, "answers", &text);
    }
    match &policy.source_ranges {
        Some(ranges) => json_line(out, "sources", &**ranges),
        None => line(out, "sources", "any"),
    }
    json_line(out, "PROXY in", &policy.proxy_protocol_in);
    json_line(out, "PROXY out", &policy.proxy_protocol_out);
    if policy.source_address == SourceAddress::Client {
        line(out, "source", "the client's address: only endpoints of its family are used");
    }
    json_line(out, "removed", &policy.on_removed);
    if let Some(affinity) = policy.affinity {
        line(out, "affinity", &shown(affinity));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_transport_and_port() {
        assert_eq!(parse("tcp://[::1]:53").unwrap().to_string(), "tcp://[::1]:53");
        assert_eq!(parse("udp://10.0.0.1:53/").unwrap().to_string(), "udp://10.0.0.1:53");
        for wrong in ["GET", "tcp://10.0.0.1", "http://10.0.0.1:80", "tcp://name:80"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
