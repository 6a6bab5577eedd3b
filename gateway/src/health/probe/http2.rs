//! Probes in HTTP/2: one request on a connection of its own, and gRPC health checking
//! (`grpc.health.v1.Health/Check`).

use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use http::{HeaderMap, Method, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{MOST_READ, ProbeError, USER_AGENT};

/// `ServingStatus.SERVING`.
const SERVING: u64 = 1;
/// gRPC status codes.
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// Status of a `GET`.
pub(super) async fn status_of(
    io: impl AsyncRead + AsyncWrite + Unpin,
    uri: String,
) -> Result<u16, ProbeError> {
    let request = Request::builder().method(Method::GET).uri(uri).header("user-agent", USER_AGENT);
    let request = request.body(()).map_err(|_| ProbeError::Request)?;
    exchange(io, request, None).await.map(|answer| answer.status.as_u16())
}

/// Whether `service` is being served.
pub(super) async fn check_grpc(
    io: impl AsyncRead + AsyncWrite + Unpin,
    origin: String,
    service: &str,
) -> Result<(), ProbeError> {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("{origin}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", USER_AGENT);
    let request = request.body(()).map_err(|_| ProbeError::Request)?;
    let answer = exchange(io, request, Some(message(service))).await?;
    if answer.status != StatusCode::OK {
        return Err(ProbeError::Status(answer.status.as_u16()));
    }
    let status = answer.last.get("grpc-status").and_then(|status| status.to_str().ok());
    match status {
        Some("0") => {}
        Some(UNIMPLEMENTED) => return Err(ProbeError::NoHealthService),
        Some(NOT_FOUND) => return Err(ProbeError::UnknownService),
        Some(other) => return Err(ProbeError::Grpc(other.to_owned())),
        None => return Err(ProbeError::Closed),
    }
    match serving_status(&answer.body) {
        Some(SERVING) => Ok(()),
        Some(other) => Err(ProbeError::NotServing(other)),
        None => Err(ProbeError::BadMessage),
    }
}

/// A response as a whole.
struct Answer {
    status: StatusCode,
    body: Vec<u8>,
    /// The trailers; the head if there is nothing after it.
    last: HeaderMap,
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Answer, ProbeError> {
    let mut builder = Builder::new();
    builder.enable_push(false).max_header_list_size(16 * 1_024);
    let (sender, connection) = builder.handshake::<_, Bytes>(io).await.map_err(ProbeError::Http2)?;
    tokio::select! {
        answer = converse(sender, request, body) => answer,
        ended = connection => Err(match ended {
            Ok(()) => ProbeError::Closed,
            Err(error) => ProbeError::Http2(error),
        }),
    }
}

async fn converse(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    body: Option<Bytes>,
) -> Result<Answer, ProbeError> {
    let mut sender = sender.ready().await.map_err(ProbeError::Http2)?;
    let wants_body = body.is_some();
    let (response, mut send) = sender.send_request(request, !wants_body).map_err(ProbeError::Http2)?;
    if let Some(body) = body {
        send.send_data(body, true).map_err(ProbeError::Http2)?;
    }
    let (head, mut stream) = response.await.map_err(ProbeError::Http2)?.into_parts();
    let mut answer = Answer { status: head.status, body: Vec::new(), last: head.headers };
    while wants_body && let Some(piece) = stream.data().await {
        let piece = piece.map_err(ProbeError::Http2)?;
        if answer.body.len() + piece.len() > MOST_READ {
            return Err(ProbeError::TooLong);
        }
        stream.flow_control().release_capacity(piece.len()).map_err(ProbeError::Http2)?;
        answer.body.extend_from_slice(&piece);
    }
    if wants_body && let Some(trailers) = stream.trailers().await.map_err(ProbeError::Http2)? {
        answer.last = trailers;
    }
    Ok(answer)
}

/// `HealthCheckRequest { service }` as a gRPC message: a prefix of flag and length, then field 1 as a string.
fn message(service: &str) -> Bytes {
    let mut field = Vec::with_capacity(service.len() + 4);
    if !service.is_empty() {
        field.push(0x0a);
        let mut rest = service.len();
        while rest > 0x7f {
            field.push(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        field.push(rest.to_le_bytes()[0]);
        field.extend_from_slice(service.as_bytes());
    }
    let mut message = vec![0];
    message.extend_from_slice(&u32::try_from(field.len()).unwrap_or(0).to_be_bytes());
    message.extend_from_slice(&field);
    message.into()
}

/// `HealthCheckResponse.status` of one uncompressed message; absent is 0 (UNKNOWN).
fn serving_status(body: &[u8]) -> Option<u64> {
    let (prefix, mut rest) = body.split_at_checked(5)?;
    let length = u32::from_be_bytes(prefix.get(1..)?.try_into().ok()?);
    if prefix.first() != Some(&0) || usize::try_from(length).ok()? != rest.len() {
        return None;
    }
    let mut status = 0;
    while !rest.is_empty() {
        let tag = varint(&mut rest)?;
        match (tag >> 3, tag & 7) {
            (1, 0) => status = varint(&mut rest)?,
            (_, 0) => drop(varint(&mut rest)?),
            (_, 1) => rest = rest.get(8..)?,
            (_, 2) => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                rest = rest.get(length..)?;
            }
            (_, 5) => rest = rest.get(4..)?,
            _ => return None,
        }
    }
    Some(status)
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service_and_an_empty_one_nothing() {
        assert_eq!(&*message(""), [0, 0, 0, 0, 0]);
        assert_eq!(&*message("shop"), b"\0\0\0\0\x06\x0a\x04shop");
        let long = "s".repeat(200);
        assert_eq!(&message(&long)[..8], [0, 0, 0, 0, 203, 0x0a, 0xc8, 0x01]);
    }

    #[test]
    fn a_status_is_found_among_unknown_fields_or_refused() {
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 8, 2]), Some(2));
        assert_eq!(serving_status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(serving_status(&[0, 0, 0, 0, 6, 0x12, 2, b'a', b'b', 8, 1]), Some(SERVING));
        for bad in [
            &[][..],
            &[0, 0, 0, 0, 2, 8],
            &[1, 0, 0, 0, 2, 8, 1],
            &[0, 0, 0, 0, 1, 8],
            &[0, 0, 0, 0, 2, 8, 0x80],
        ] {
            assert_eq!(serving_status(bad), None, "{bad:?}");
        }
        assert_eq!(serving_status(&[0, 0, 0, 0, 2, 0x12, 9]), None);
    }
}
