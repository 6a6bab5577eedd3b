//! Answers of the gateway itself: short, with the reason code and nothing else.

use crate::proxy::grpc::{self, Rpc};
use crate::record::Reason;

/// What a local answer says besides its reason.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answer<'a> {
    pub(crate) reason: Option<Reason>,
    pub(crate) status: u16,
    /// `Location` of a redirect.
    pub(crate) location: &'a [u8],
    /// `Strict-Transport-Security`, if the host asks for it and the connection is encrypted (RFC 6797 §7.2).
    pub(crate) hsts: &'a [u8],
    /// The request was HEAD: no body.
    pub(crate) is_head: bool,
    pub(crate) close: bool,
    pub(crate) http10: bool,
    /// The request was a call, so that the client looks for gRPC's status.
    pub(crate) rpc: Rpc,
}

/// Writes a complete response.
pub(crate) fn write(out: &mut Vec<u8>, answer: &Answer<'_>) {
    if let Some(reason) = answer.reason.filter(|_| answer.rpc.is_call() && answer.status >= 400) {
        return write_status(out, answer, reason);
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(itoa::Buffer::new().format(answer.status).as_bytes());
    out.push(b' ');
    out.extend_from_slice(phrase(answer.status).as_bytes());
    out.extend_from_slice(b"\r\n");
    let body = match answer.reason {
        Some(reason) if !matches!(answer.status, 204 | 304) => reason.code(),
        _ => "",
    };
    if !body.is_empty() {
        out.extend_from_slice(b"Content-Type: text/plain\r\n");
    }
    if answer.status != 204 {
        let length = if body.is_empty() { 0 } else { body.len() + 1 };
        out.extend_from_slice(b"Content-Length: ");
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    match answer.reason {
        Some(Reason::MethodNotAllowed) => {
            out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n")
        }
        Some(Reason::UpgradeRequired) => out.extend_from_slice(b"Sec-WebSocket-Version: 13\r\n"),
        Some(Reason::Local) => {
            out.extend_from_slice(b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n")
        }
        _ => {}
    }
    if !answer.location.is_empty() {
        out.extend_from_slice(b"Location: ");
        out.extend_from_slice(answer.location);
        out.extend_from_slice(b"\r\n");
    }
    write_hsts(out, answer);
    if answer.close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if answer.http10 {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    if !body.is_empty() && !answer.is_head {
        out.extend_from_slice(body.as_bytes());
        out.push(b'\n');
    }
}

/// An error as gRPC has it: without messages, the status stands in the head ("Trailers-Only").
#[cold]
fn write_status(out: &mut Vec<u8>, answer: &Answer<'_>, reason: Reason) {
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: ");
    out.extend_from_slice(answer.rpc.media_type());
    if answer.rpc.is_web() {
        out.extend_from_slice(b"+proto");
    }
    out.extend_from_slice(b"\r\nContent-Length: 0\r\ngrpc-status: ");
    out.extend_from_slice(grpc::code_of(answer.status).as_bytes());
    out.extend_from_slice(b"\r\ngrpc-message: ");
    out.extend_from_slice(reason.code().as_bytes());
    out.extend_from_slice(b"\r\n");
    write_hsts(out, answer);
    out.extend_from_slice(if answer.close { b"Connection: close\r\n\r\n" } else { b"\r\n" });
}

fn write_hsts(out: &mut Vec<u8>, answer: &Answer<'_>) {
    if !answer.hsts.is_empty() {
        out.extend_from_slice(b"Strict-Transport-Security: ");
        out.extend_from_slice(answer.hsts);
        out.extend_from_slice(b"\r\n");
    }
}

/// Reason phrase (RFC 9110 §15) of the statuses that the gateway makes.
fn phrase(status: u16) -> &'static str {
    match status {
        204 => "No Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        426 => "Upgrade Required",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        508 => "Loop Detected",
        _ => "",
    }
}
