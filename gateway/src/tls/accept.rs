//! The beginning of an encrypted connection: the hello is looked at, the table says what becomes of it, and the
//! handshake is seen through, all before one deadline.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{SystemTime, UNIX_EPOCH};

use config::table::{TlsHost, TlsPolicy, TlsVersion};
use rustls::{Error, HandshakeKind, ProtocolVersion};

use super::client_hello::{Assembly, ClientHello, Refused};
use super::identity::{Rejected, Secured};
use super::passthrough;
use super::stream::{TlsStream, failure};
use crate::http1::connection::{Client, linger, refuse};
use crate::live::ServerConfigs;
use crate::metrics::HandshakeFailure;
use crate::proxy::route;
use crate::record::Reason;
use crate::stream::Stream;
use crate::worker::Worker;

/// Handshakes whose signatures one worker computes before all other connections have had their turn. What waits here
/// is only computation, never a client: one that stalls keeps nobody from shaking hands.
pub(crate) const MOST_HANDSHAKES: usize = 8;

/// Alerts that are sent before there is a session (RFC 8446 §6).
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

/// A handshake that came to nothing.
#[derive(Debug)]
struct Failed {
    why: HandshakeFailure,
    /// For the log.
    detail: String,
}

impl Failed {
    fn new(why: HandshakeFailure, detail: impl ToString) -> Self {
        Self { why, detail: detail.to_string() }
    }
}

/// Makes an encrypted connection of a fresh one. `None`: it has ended.
pub(crate) async fn accept(worker: &Rc<Worker>, mut client: Box<Client>) -> Option<Box<Client>> {
    client.timer.arm(client.peer.config.limits.handshake_timeout);
    let hello = match peek(&mut client, worker).await {
        Ok(hello) => hello,
        Err(Refusal::Silent(failed)) => {
            note(worker, client.peer.address, None, &failed);
            return None;
        }
        Err(Refusal::Answered(refused)) => {
            answer(worker, &mut client, refused).await;
            return None;
        }
    };
    let name = hello.server_name;
    let current = worker.live();
    let map = route::bind(&current.live, client.peer.key).and_then(|bind| bind.tls.as_ref());
    let policy = match map.map(|map| (map, name.as_deref().and_then(|name| map.find(name)))) {
        Some((_, Some(TlsHost::Terminate(policy)))) => Arc::clone(policy),
        Some((map, None)) => Arc::clone(map.default_policy()),
        Some((_, Some(TlsHost::Passthrough(passthrough)))) => {
            let passthrough = Arc::clone(passthrough);
            passthrough::run(worker, client, name.as_deref().unwrap_or_default(), current, &passthrough)
                .await;
            return None;
        }
        None => {
            let failed = Failed::new(HandshakeFailure::NotServed, "the name is not served");
            note(worker, client.peer.address, name.as_deref(), &failed);
            alert(worker, &mut client, UNRECOGNIZED_NAME).await;
            return None;
        }
    };
    let configs = Arc::clone(&current.live.tls);
    drop(current);
    terminate(worker, client, name, policy, &configs).await
}

/// Why there is no hello.
enum Refusal {
    /// There is nobody to be answered.
    Silent(Failed),
    /// The client said something else.
    Answered(Refused),
}

/// Reads until the hello is complete; it stays in the client's buffer.
async fn peek(client: &mut Client, worker: &Worker) -> Result<ClientHello, Refusal> {
    let mut assembly = Assembly::default();
    let silent = |why, detail: &str| Err(Refusal::Silent(Failed::new(why, detail)));
    loop {
        if let Some(buf) = &mut client.buf {
            match assembly.advance(buf.unread()) {
                Ok(Some(hello)) => return Ok(hello),
                Ok(None) => {}
                Err(refused) => return Err(Refusal::Answered(refused)),
            }
            if buf.spare().is_empty() {
                buf.enlarge();
            }
            if buf.spare().is_empty() {
                return Err(Refusal::Answered(Refused::TooLarge));
            }
        } else {
            // No buffer before there is something to put into it.
            let (stream, timer) = (&mut client.stream, &client.timer);
            poll_fn(|cx| match stream.poll_read_ready(cx) {
                Poll::Pending if !timer.poll_expired(cx) => Poll::Pending,
                _ => Poll::Ready(()),
            })
            .await;
            client.buf = Some(worker.buffers.small());
        }
        match client.fill().await {
            Some(Ok(1..)) => {}
            Some(Ok(0)) => return silent(HandshakeFailure::Closed, "closed before a complete hello"),
            Some(Err(error)) => return silent(HandshakeFailure::Closed, &error.to_string()),
            None => return silent(HandshakeFailure::Timeout, "no complete hello in time"),
        }
    }
}

/// Answers what is no hello: a request in cleartext in its own language, the rest with an alert.
async fn answer(worker: &Worker, client: &mut Client, refused: Refused) {
    let (why, detail) = match refused {
        Refused::Http => (HandshakeFailure::NotTls, "a request in cleartext"),
        Refused::NotTls => (HandshakeFailure::NotTls, "not TLS"),
        Refused::TooLarge => (HandshakeFailure::Malformed, "hello too large"),
        Refused::Malformed => (HandshakeFailure::Malformed, "malformed hello"),
    };
    note(worker, client.peer.address, None, &Failed::new(why, detail));
    if refused == Refused::Http {
        refuse(worker, client, Reason::BadRequest).await;
        linger(worker, client).await;
    } else {
        alert(worker, client, refused.alert()).await;
    }
}

/// Sends a fatal alert in a record of its own, and closes such that it arrives.
async fn alert(worker: &Worker, client: &mut Client, description: u8) {
    if client.write_all(&[21, 3, 3, 0, 2, 2, description], false).await {
        linger(worker, client).await;
    }
}

/// Sees the handshake through under `policy`.
async fn terminate(
    worker: &Rc<Worker>,
    mut client: Box<Client>,
    name: Option<Box<str>>,
    policy: Arc<TlsPolicy>,
    configs: &ServerConfigs,
) -> Option<Box<Client>> {
    let address = client.peer.address;
    let Some(config) = configs.of(&policy).cloned() else {
        note(
            worker,
            address,
            name.as_deref(),
            &Failed::new(HandshakeFailure::NotServed, "unusable settings"),
        );
        alert(worker, &mut client, INTERNAL_ERROR).await;
        return None;
    };
    let received = client.buf.take().unwrap_or_else(|| worker.buffers.resting());
    let Stream::Tcp(tcp) = client.stream else { return None };
    let mut tls = match TlsStream::server(tcp, config, received, &worker.buffers) {
        Ok(tls) => Box::new(tls),
        Err(error) => {
            note(worker, address, name.as_deref(), &Failed::new(HandshakeFailure::NotServed, error));
            return None;
        }
    };
    let timer = &client.timer;
    let shaken = shake(worker, &mut tls, |cx| timer.poll_expired(cx)).await;
    let secured = shaken.and_then(|()| secured(&tls, name.clone(), policy));
    match secured {
        Ok(secured) => {
            let facts = tls.facts();
            let is_tls13 = facts.protocol_version() == Some(ProtocolVersion::TLSv1_3);
            worker.metrics.handshake_done(is_tls13, facts.handshake_kind() == Some(HandshakeKind::Resumed));
            client.peer.tls = Some(Rc::new(secured));
            client.stream = Stream::Tls(tls);
            Some(client)
        }
        Err(failed) => {
            note(worker, address, name.as_deref(), &failed);
            client.stream = Stream::Tcp(tls.into_tcp());
            if !matches!(failed.why, HandshakeFailure::Timeout | HandshakeFailure::Closed) {
                // Else the alert could be lost to a reset.
                linger(worker, &mut client).await;
            }
            None
        }
    }
}

/// The handshake, in turn with other connections.
async fn shake(
    worker: &Worker,
    tls: &mut TlsStream,
    expired: impl Fn(&std::task::Context<'_>) -> bool,
) -> Result<(), Failed> {
    let late = || Failed::new(HandshakeFailure::Timeout, "not over in time");
    let mut turn = pin!(worker.handshakes.acquire());
    let turn = poll_fn(|cx| match turn.as_mut().poll(cx) {
        Poll::Ready(turn) => Poll::Ready(Some(turn)),
        Poll::Pending if expired(cx) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let turn = turn.await.ok_or_else(late)?;
    // The first step computes our signature.
    let mut result = poll_fn(|cx| Poll::Ready(tls.poll_handshake(cx))).await;
    tokio::task::yield_now().await;
    drop(turn);
    if result.is_pending() {
        result = poll_fn(|cx| match tls.poll_handshake(cx) {
            Poll::Pending if !expired(cx) => Poll::Pending,
            other => Poll::Ready(other),
        })
        .await;
    }
    match result {
        Poll::Ready(result) => result.map_err(|error| classified(&error)),
        Poll::Pending => Err(late()),
    }
}

/// What the connection is from now on.
fn secured(tls: &TlsStream, name: Option<Box<str>>, policy: Arc<TlsPolicy>) -> Result<Secured, Failed> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let chain = tls.facts().peer_certificates().unwrap_or_default();
    let is_tls13 = tls.facts().protocol_version() == Some(ProtocolVersion::TLSv1_3);
    let version = if is_tls13 { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    Secured::new(name, (policy, version), chain, i64::try_from(now).unwrap_or(i64::MAX)).map_err(|Rejected| {
        Failed::new(HandshakeFailure::ClientCertificate, "the session's certificate is no longer valid")
    })
}

fn classified(error: &io::Error) -> Failed {
    let Some(protocol) = failure(error) else { return Failed::new(HandshakeFailure::Closed, error) };
    let why = match protocol {
        Error::PeerIncompatible(_) | Error::NoApplicationProtocol => HandshakeFailure::Incompatible,
        Error::NoCertificatesPresented
        | Error::InvalidCertificate(_)
        | Error::InvalidCertRevocationList(_)
        | Error::UnsupportedNameType => HandshakeFailure::ClientCertificate,
        Error::AlertReceived(_) => HandshakeFailure::ClientAlert,
        _ => HandshakeFailure::Malformed,
    };
    Failed::new(why, protocol)
}

/// Counts and logs a handshake that failed.
fn note(worker: &Worker, address: SocketAddr, name: Option<&str>, failed: &Failed) {
    worker.metrics.handshake_failed(failed.why);
    let (cause, error) = (failed.why.name(), &failed.detail);
    tracing::debug!(client.addr = %address, tls.server_name = name, cause, error, "TLS handshake failed");
}
