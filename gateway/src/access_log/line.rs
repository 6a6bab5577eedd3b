//! One record as one line. Field names and order are documented in `docs/access-log.md`.

use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use config::table::Transport;

use super::BUFFER_BYTES;
use super::clock::Clock;
use super::escape::{self, WORST_GROWTH};
use crate::record::Record;
use crate::tcp::L4Record;

/// Longest logged request target in bytes.
const MAX_TARGET: usize = 4_096;
/// Longest logged host, `Referer` and `User-Agent`.
const MAX_FIELD: usize = 1_024;
/// Longest logged method, request ID, route and backend name.
const MAX_NAME: usize = 256;

/// Everything of a line that is not a text from outside: keys, numbers, addresses, punctuation.
const FIXED_BYTES: usize = 768;

/// No line is longer: all texts at their bound, every byte of them escaped.
const MAX_LINE: usize = FIXED_BYTES + WORST_GROWTH * (MAX_TARGET + 3 * MAX_FIELD + 4 * MAX_NAME);

const _: () = assert!(MAX_LINE <= BUFFER_BYTES, "a line must always fit into an empty buffer");

/// An upper bound of the line's length, cheap to compute.
#[inline]
pub(super) fn bound(record: &Record<'_>) -> usize {
    let name = |name: Option<&str>| name.map_or(0, str::len).min(MAX_NAME);
    let texts = record.target.len().min(MAX_TARGET)
        + record.host.len().min(MAX_FIELD)
        + record.user_agent.len().min(MAX_FIELD)
        + record.referer.len().min(MAX_FIELD)
        + record.method.len().min(MAX_NAME)
        + record.request_id.len().min(MAX_NAME)
        + name(record.route)
        + name(record.backend);
    FIXED_BYTES + WORST_GROWTH * texts
}

/// Appends `record` as one JSON object and a line end.
pub(super) fn json(out: &mut Vec<u8>, clock: &mut Clock, record: &Record<'_>, wall: SystemTime) {
    opening(out, clock, record.client, wall);
    out.extend_from_slice(b"\",\"method\":\"");
    escape::json(out, record.method, MAX_NAME);
    out.extend_from_slice(b"\",\"host\":\"");
    escape::json(out, record.host, MAX_FIELD);
    out.extend_from_slice(b"\",\"path\":\"");
    escape::json(out, record.target, MAX_TARGET);
    out.extend_from_slice(b"\",\"http.version\":\"");
    out.extend_from_slice(record.version.number().as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    number(out, u64::from(record.status));
    ending(
        out,
        &Ending {
            code: record.reason.code(),
            route: record.route,
            backend: record.backend,
            endpoint: record.endpoint,
            attempts: record.attempts,
            bytes: (record.request_bytes, record.response_bytes),
            duration: record.duration,
        },
    );
    if let Some(head) = record.response_head {
        out.extend_from_slice(b",\"upstream.head_us\":");
        number(out, micros(head));
    }
    optional(out, b",\"request_id\":\"", record.request_id, MAX_NAME);
    optional(out, b",\"user_agent\":\"", record.user_agent, MAX_FIELD);
    optional(out, b",\"referer\":\"", record.referer, MAX_FIELD);
    out.extend_from_slice(b"}\n");
}

/// Appends `record` in the combined format and a line end.
pub(super) fn combined(out: &mut Vec<u8>, clock: &mut Clock, record: &Record<'_>, wall: SystemTime) {
    clock.set(wall);
    ip(out, record.client);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(clock.clf());
    out.extend_from_slice(b"] \"");
    if record.method.is_empty() {
        // The head never parsed, so there is no request line to show.
        out.push(b'-');
    } else {
        escape::combined(out, record.method, MAX_NAME);
        out.push(b' ');
        escape::combined(out, record.target, MAX_TARGET);
        out.extend_from_slice(b" HTTP/");
        out.extend_from_slice(record.version.number().as_bytes());
    }
    out.extend_from_slice(b"\" ");
    three_digits(out, u32::from(record.status));
    out.push(b' ');
    number(out, record.response_bytes);
    out.extend_from_slice(b" \"");
    escape::combined(out, record.referer, MAX_FIELD);
    out.extend_from_slice(b"\" \"");
    escape::combined(out, record.user_agent, MAX_FIELD);
    out.extend_from_slice(b"\"\n");
}

/// As [`bound`].
pub(super) fn bound_l4(record: &L4Record<'_>) -> usize {
    let name = |name: Option<&str>| name.map_or(0, str::len).min(MAX_NAME);
    FIXED_BYTES + WORST_GROWTH * (name(record.route) + name(record.backend))
}

/// As [`json`], for a connection that was relayed as it was.
pub(super) fn json_l4(out: &mut Vec<u8>, clock: &mut Clock, record: &L4Record<'_>, wall: SystemTime) {
    opening(out, clock, record.client, wall);
    out.extend_from_slice(b"\",\"client.port\":");
    number(out, u64::from(record.client_port));
    out.extend_from_slice(match record.bind.transport {
        Transport::Tcp => b",\"protocol\":\"tcp\",\"bind\":\"",
        Transport::Udp => b",\"protocol\":\"udp\",\"bind\":\"",
    });
    socket_address(out, record.bind.address);
    out.push(b'"');
    ending(
        out,
        &Ending {
            code: record.end.code(),
            route: record.route,
            backend: record.backend,
            endpoint: record.endpoint,
            attempts: record.attempts,
            bytes: (record.bytes_in, record.bytes_out),
            duration: record.duration,
        },
    );
    out.extend_from_slice(b"}\n");
}

/// As [`combined`], for a connection that was relayed as it was: there is no request and no status.
pub(super) fn combined_l4(out: &mut Vec<u8>, clock: &mut Clock, record: &L4Record<'_>, wall: SystemTime) {
    clock.set(wall);
    ip(out, record.client);
    out.extend_from_slice(b" - - [");
    out.extend_from_slice(clock.clf());
    out.extend_from_slice(match record.bind.transport {
        Transport::Tcp => b"] \"TCP ",
        Transport::Udp => b"] \"UDP ",
    });
    socket_address(out, record.bind.address);
    out.extend_from_slice(b"\" 000 ");
    number(out, record.bytes_out);
    out.extend_from_slice(b" \"-\" \"-\"\n");
}

/// The beginning of every JSON line, up to the open text of the client's address.
#[inline]
fn opening(out: &mut Vec<u8>, clock: &mut Clock, client: IpAddr, wall: SystemTime) {
    let millis = clock.set(wall);
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(clock.rfc3339());
    three_digits(out, millis);
    out.extend_from_slice(b"Z\",\"client.addr\":\"");
    ip(out, client);
}

/// How something ended: what requests and relayed connections have in common.
struct Ending<'a> {
    code: &'a str,
    route: Option<&'a str>,
    backend: Option<&'a str>,
    endpoint: Option<SocketAddr>,
    attempts: u8,
    /// In, and out.
    bytes: (u64, u64),
    duration: Duration,
}

#[inline]
fn ending(out: &mut Vec<u8>, ending: &Ending<'_>) {
    out.extend_from_slice(b",\"reason\":\"");
    out.extend_from_slice(ending.code.as_bytes());
    out.push(b'"');
    optional(out, b",\"route\":\"", ending.route.unwrap_or_default().as_bytes(), MAX_NAME);
    optional(out, b",\"backend\":\"", ending.backend.unwrap_or_default().as_bytes(), MAX_NAME);
    if let Some(endpoint) = ending.endpoint {
        out.extend_from_slice(b",\"endpoint\":\"");
        socket_address(out, endpoint);
        out.push(b'"');
    }
    out.extend_from_slice(b",\"attempts\":");
    number(out, u64::from(ending.attempts));
    out.extend_from_slice(b",\"bytes.in\":");
    number(out, ending.bytes.0);
    out.extend_from_slice(b",\"bytes.out\":");
    number(out, ending.bytes.1);
    out.extend_from_slice(b",\"duration_us\":");
    number(out, micros(ending.duration));
}

/// `key` (with its opening quote), text and closing quote; nothing at all for an empty text.
#[inline]
fn optional(out: &mut Vec<u8>, key: &[u8], text: &[u8], max: usize) {
    if !text.is_empty() {
        out.extend_from_slice(key);
        escape::json(out, text, max);
        out.push(b'"');
    }
}

#[inline]
fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// At least three digits.
#[inline]
fn three_digits(out: &mut Vec<u8>, value: u32) {
    if value < 100 {
        out.push(b'0');
    }
    if value < 10 {
        out.push(b'0');
    }
    number(out, u64::from(value));
}

#[inline]
fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            number(out, u64::from(a));
            for octet in [b, c, d] {
                out.push(b'.');
                number(out, u64::from(octet));
            }
        }
        // Writing to a vector cannot fail.
        IpAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

#[inline]
fn socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(v4) => {
            ip(out, IpAddr::V4(*v4.ip()));
            out.push(b':');
            number(out, u64::from(v4.port()));
        }
        SocketAddr::V6(v6) => drop(write!(out, "{v6}")),
    }
}

#[inline]
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
