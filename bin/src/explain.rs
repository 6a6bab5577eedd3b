//! `sluicegate explain`: where a request would go and why, as read from the same table that `run` serves and
//! with the same parser that the gateway uses.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, bail};
use config::table::explain::{
    Chosen, Connection, Explanation, Other, Request, Share, explain as explain_request,
};
use config::table::{Action, Bind, ClientPolicy, HttpsPolicy, Retry, RouteTable};
use gateway::http1::authority::parse_authority;
use gateway::http1::target::{Target, canonical_path, split_target, valid_query};
use serde_json::Value;

use crate::check::compile_once;
use crate::cli::ExplainArgs;
use crate::settings::compile_settings;
use crate::terminal::Paint;

mod explain_l4;
mod explain_service;

/// Prints where the request goes; success if a rule takes it.
pub(crate) fn explain(args: ExplainArgs) -> anyhow::Result<ExitCode> {
    let Some(url) = &args.url else { return explain_l4::explain(args) };
    if args.from.is_some() {
        bail!("--from is for tcp:// and udp://");
    }
    let headers =
        args.headers.iter().map(|header| parse_header(header)).collect::<anyhow::Result<Vec<_>>>()?;
    let url = parse_url(url)?;
    let compiled = compile_once(args.config, compile_settings(&args.ingress)?)?;
    let host_header = headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let host = match host_header {
        Some((_, value)) => parse_host(value.as_bytes()).context("the Host header")?.0,
        None => url.host,
    };
    let request = Request {
        bind: url.port.and_then(|port| bind_of(&compiled.table, port)),
        https: url.https,
        method: &args.method,
        host: &host,
        path: &url.path,
        query: url.query.as_deref(),
        headers: &headers,
    };
    if let Some(address) = request.bind {
        let is_encrypted = |bind: &Arc<Bind>| bind.config.address == address && bind.config.https;
        if compiled.table.binds.iter().any(is_encrypted) != url.https {
            let scheme = if url.https { "http" } else { "https" };
            bail!("the listener on {address} speaks {scheme}; give the URL as {scheme}://…");
        }
    }
    let mut explanation = explain_request(&compiled.table, &compiled.report, &request);
    for share in explanation.chosen.iter_mut().flat_map(|chosen| &mut chosen.backends) {
        share.left_out = share.backend.iter().flat_map(|backend| compiled.left_out(&backend.name)).collect();
    }
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &explanation)?;
        writeln!(out)?;
    } else {
        out.write_all(text(&request, &explanation, Paint::stdout()).as_bytes())?;
    }
    let is_relayed = explanation.tls.as_ref().and_then(|tls| tls.passthrough.as_ref());
    let is_relayed = is_relayed.is_some_and(|relayed| !relayed.backends.is_empty());
    Ok(if explanation.chosen.is_some() || is_relayed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Debug)]
struct Url {
    https: bool,
    host: String,
    port: Option<u16>,
    path: String,
    query: Option<String>,
}

/// Reads the URL as the gateway reads a request target.
fn parse_url(url: &str) -> anyhow::Result<Url> {
    const FORM: &str = "give the URL as http://host/path or https://host/path";
    if url.contains('#') {
        bail!("{url:?}: a fragment (#…) is never sent to a server; leave it out");
    }
    let (authority, path, query) = match split_target(url.as_bytes()) {
        Ok(Target::Absolute { authority, path, query, .. }) => (authority, path, query),
        Ok(Target::Origin { .. } | Target::Asterisk) => bail!("{url:?} has no host; {FORM}"),
        Err(error) => bail!("{url:?}: {error}; {FORM}"),
    };
    let (host, port) = parse_host(authority).with_context(|| format!("{url:?}"))?;
    let mut scratch = Vec::new();
    let path = canonical_path(path, &mut scratch)
        .map_err(|error| anyhow::anyhow!("{url:?}: the gateway would answer 400: {error}"))?;
    if !query.is_none_or(valid_query) {
        bail!("{url:?}: the gateway would answer 400: the query has bytes that must be percent-encoded");
    }
    let query = query.map(|query| String::from_utf8_lossy(query).into_owned());
    let https = url.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https:"));
    Ok(Url { https, host, port, path: path.to_owned(), query })
}

fn parse_host(raw: &[u8]) -> anyhow::Result<(String, Option<u16>)> {
    let mut scratch = Vec::new();
    let authority = parse_authority(raw, &mut scratch)
        .map_err(|error| anyhow::anyhow!("the gateway would answer 400: {error}"))?;
    Ok((authority.host.to_owned(), authority.port))
}

fn parse_header(header: &str) -> anyhow::Result<(String, String)> {
    let (name, value) =
        header.split_once(':').with_context(|| format!("-H {header:?}: expected 'name: value'"))?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

/// The bind on `port`. A port on which nothing listens says nothing: most URLs are seen from outside, through
/// some port mapping.
fn bind_of(table: &RouteTable, port: u16) -> Option<SocketAddr> {
    table.binds.iter().map(|bind| bind.config.address).find(|address| address.port() == port)
}

fn text(request: &Request<'_>, explanation: &Explanation, paint: Paint) -> String {
    let mut out = String::new();
    let query = request.query.map(|query| format!("?{query}")).unwrap_or_default();
    line(&mut out, "request", &format!("{} {}{}{query}", request.method, request.host, request.path));
    if let Some(bind) = explanation.bind {
        line(&mut out, "listener", &format!("{} on {bind}", explanation.listeners.join(", ")));
    }
    if let Some(host) = &explanation.host {
        line(&mut out, "host", host);
    }
    if let Some(tls) = &explanation.tls {
        tls_text(&mut out, tls);
    }
    let verdict = match explanation.chosen {
        Some(_) => paint.good(&explanation.verdict),
        None => paint.error(&explanation.verdict),
    };
    line(&mut out, "verdict", &verdict);
    if let Some(chosen) = &explanation.chosen {
        chosen_text(&mut out, chosen);
    }
    if !explanation.others.is_empty() {
        let _ = writeln!(out, "\n{}", paint.strong("not taken"));
        explanation.others.iter().for_each(|other| other_text(&mut out, other, paint));
    }
    if explanation.omitted > 0 {
        let _ = writeln!(out, "  … and {} more", explanation.omitted);
    }
    out
}

fn tls_text(out: &mut String, tls: &Connection) {
    let name = tls.name.as_deref().unwrap_or("any (default)");
    line(out, "tls", name);
    if let Some(relayed) = &tls.passthrough {
        line(out, "  passthrough", &format!("by {}", relayed.route));
        return relayed.backends.iter().for_each(|share| share_text(out, share));
    }
    let Some(policy) = &tls.policy else { return };
    for certificate in &policy.certificates {
        let names = certificate.names.join(", ");
        let time = |seconds: i64| {
            let at = UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
            humantime::format_rfc3339_seconds(at).to_string()
        };
        let validity = format!("{} to {}", time(certificate.not_before), time(certificate.not_after));
        line(out, "  certificate", &format!("{}, for {names}, valid from {validity}", certificate.name));
    }
    let client = match &policy.client {
        ClientPolicy::None => "nothing".to_owned(),
        ClientPolicy::Require(roots) => format!("a certificate of {}", roots.name),
        ClientPolicy::Optional(roots) => format!("a certificate of {}, or none", roots.name),
        ClientPolicy::OptionalNoCa => "any certificate, or none".to_owned(),
        ClientPolicy::Closed => "something that cannot be checked: every request is answered 503".to_owned(),
    };
    line(out, "  of clients", &client);
    json_line(out, "  from TLS", &policy.min_version);
    if !policy.cipher_suites.is_empty() {
        line(out, "  suites", &policy.cipher_suites.join(" "));
    }
}

fn chosen_text(out: &mut String, chosen: &Chosen) {
    line(out, "route", &format!("{}, rule {}", chosen.route, chosen.rule));
    if let Some(object) = &chosen.object {
        line(out, "object", &object.to_string());
    }
    line(out, "path", chosen.path.as_deref().unwrap_or("any (default backend)"));
    if let Some(conditions) = &chosen.conditions {
        json_line(out, "conditions", &**conditions);
    }
    match &chosen.action {
        Action::Forward(_) => line(out, "action", "forward"),
        Action::Redirect(redirect) => json_line(out, "redirect", &**redirect),
        Action::Unavailable(why) => line(out, "action", &format!("answer 503 ({why:?})")),
    }
    json_line(out, "filters", &chosen.policy.filters);
    if chosen.policy.https != HttpsPolicy::default() {
        json_line(out, "https", &chosen.policy.https);
    }
    let timeouts = &chosen.policy.timeouts;
    let shown = |duration: Duration| {
        if duration.is_zero() { "off".to_owned() } else { humantime::format_duration(duration).to_string() }
    };
    line(
        out,
        "timeouts",
        &format!(
            "response head {}, idle {}, total {}",
            shown(timeouts.response_head),
            shown(timeouts.idle),
            shown(timeouts.total)
        ),
    );
    line(out, "retry", &retry_text(&chosen.policy.retry));
    chosen.backends.iter().for_each(|share| share_text(out, share));
}

/// The policy as a sentence; retries that are always safe are no part of it.
fn retry_text(retry: &Retry) -> String {
    let times = match retry.attempts {
        0 => return "none".to_owned(),
        1 => "once".to_owned(),
        times => format!("up to {times} times"),
    };
    let mut causes = Vec::new();
    if retry.on_empty_response {
        causes.push("ends without an answer".to_owned());
    }
    if retry.on_timeout {
        causes.push("does not answer in time".to_owned());
    }
    if !retry.codes.is_empty() {
        let codes: Vec<String> = retry.codes.iter().map(ToString::to_string).collect();
        causes.push(format!("answers {}", codes.join(", ")));
    }
    let rest = match causes.split_last() {
        None => String::new(),
        Some((last, [])) => format!("; idempotent requests also when it {last}"),
        Some((last, others)) => format!("; idempotent requests also when it {} or {last}", others.join(", ")),
    };
    format!("{times}, elsewhere, when an endpoint cannot be reached{rest}")
}

pub(super) fn share_text(out: &mut String, share: &Share) {
    let Some(backend) = &share.backend else {
        return line(
            out,
            "backend",
            &format!("weight {}: answer 503 ({:?})", share.weight, share.unavailable),
        );
    };
    line(out, "backend", &format!("{} (weight {})", backend.name, share.weight));
    json_line(out, "  balance", &backend.policy.balance);
    json_line(out, "  protocol", &backend.policy.protocol);
    if let Some(tls) = &backend.policy.tls {
        json_line(out, "  tls", &**tls);
    }
    if backend.endpoints.is_empty() {
        line(out, "  endpoints", "none: the gateway would answer 503");
    }
    for endpoint in &*backend.endpoints {
        let name = endpoint.dns_name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        line(out, "  endpoint", &format!("{}{name}, weight {}", endpoint.address, endpoint.weight));
    }
    for left in &share.left_out {
        line(out, "  left out", &format!("{}: {}", left.address, left.why));
    }
}

fn other_text(out: &mut String, other: &Other, paint: Paint) {
    let rule = other.rule.map(|rule| format!(", rule {rule}")).unwrap_or_default();
    let path = if other.path.is_empty() { "default backend" } else { &other.path };
    let _ = writeln!(out, "  {}{rule}: {} {path}", other.route, other.host);
    let _ = writeln!(out, "      {}", paint.faint(&other.why));
}

pub(super) fn line(out: &mut String, name: &str, value: &str) {
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{name:<12} {value}");
}

/// For settings that are rarely long: their JSON is their shortest exact form.
pub(super) fn json_line(out: &mut String, name: &str, value: &impl serde::Serialize) {
    let value = serde_json::to_value(value).ok().and_then(without_empty);
    match value {
        Some(Value::String(text)) => line(out, name, &text),
        Some(value) => line(out, name, &value.to_string()),
        None => line(out, name, "none"),
    }
}

/// The value without null, empty lists and empty objects at any depth.
fn without_empty(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Array(values) => {
            let values: Vec<Value> = values.into_iter().filter_map(without_empty).collect();
            (!values.is_empty()).then_some(Value::Array(values))
        }
        Value::Object(fields) => {
            let fields: serde_json::Map<String, Value> =
                fields.into_iter().filter_map(|(name, value)| Some((name, without_empty(value)?))).collect();
            (!fields.is_empty()).then_some(Value::Object(fields))
        }
        value => Some(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_is_read_as_the_gateway_reads_it() {
        let url = parse_url("http://Shop.Example.com:8080/a/../b%41?x=1").unwrap();
        assert_eq!(
            (&*url.host, url.port, &*url.path, url.query.as_deref()),
            ("shop.example.com", Some(8080), "/bA", Some("x=1"))
        );
        assert_eq!(parse_url("http://shop.example.com").unwrap().path, "/");
    }

    #[test]
    fn url_that_the_gateway_refuses_is_an_error_that_says_why() {
        for url in
            ["/cart", "shop.example.com/cart", "http:///x", "http://a b/", "http://a/#x", "http://a/%zz"]
        {
            assert!(parse_url(url).is_err(), "{url}");
        }
    }

    #[test]
    fn the_retry_policy_is_a_sentence() {
        assert_eq!(
            retry_text(&Retry::default()),
            "up to 2 times, elsewhere, when an endpoint cannot be reached; idempotent requests also when it ends without an \
             answer"
        );
        let all = Retry { attempts: 1, codes: vec![502, 503], on_empty_response: true, on_timeout: true };
        assert_eq!(
            retry_text(&all),
            "once, elsewhere, when an endpoint cannot be reached; idempotent requests also when it ends without an answer, does \
             not answer in time or answers 502, 503"
        );
        let least = Retry { attempts: 3, codes: Vec::new(), on_empty_response: false, on_timeout: false };
        assert_eq!(retry_text(&least), "up to 3 times, elsewhere, when an endpoint cannot be reached");
        assert_eq!(retry_text(&Retry { attempts: 0, ..all }), "none");
    }

    #[test]
    fn header_needs_a_colon() {
        assert_eq!(parse_header("X-Canary: yes").unwrap(), ("x-canary".to_owned(), "yes".to_owned()));
        assert!(parse_header("X-Canary").is_err());
    }
}
