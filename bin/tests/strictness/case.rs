//! One case of a table, and how it is judged.

use crate::backend::{Received, Step};
use crate::client::{Client, End, Response};
use crate::gateway::{Setup, Which};
use crate::wire::{Framing, Request};

/// A request that must not be served if it follows a refused one.
const PIPELINED: &[u8] = b"GET /pipelined HTTP/1.1\r\nHost: a\r\n\r\n";

/// Name of a row and how it went.
pub(crate) type Outcome = (String, Result<(), String>);

/// A request as sent, and what must become of it.
pub(crate) struct Case {
    pub(crate) id: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) want: Want,
}

pub(crate) enum Want {
    /// One of these statuses and `Connection: close`; nothing reaches a backend, nothing after it is served.
    Reject(&'static [u16]),
    /// The same, but found while the body was forwarded: the backend sees no whole request, and its connection
    /// ends.
    RejectBody(&'static [u16]),
    /// Closed without an answer, nothing reaches a backend.
    Close,
    /// Either.
    RejectOrClose,
    /// Answered by the gateway itself.
    Local(&'static [u16]),
    Forward(Box<Forward>),
}

/// What follows on the client's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Then {
    /// The next request is served.
    Open,
    /// The gateway closes it.
    Close,
    /// What else the client sent is refused with this status.
    Reject(u16),
}

/// What a backend must have received.
pub(crate) struct Forward {
    which: Which,
    line: String,
    has: Vec<(&'static str, String)>,
    lacks: Vec<&'static str>,
    body: Vec<u8>,
    is_chunked: Option<bool>,
    then: Then,
}

/// The request is forwarded with this request line.
pub(crate) fn forward(line: &str) -> Forward {
    Forward {
        which: Which::Main,
        line: line.into(),
        has: Vec::new(),
        lacks: Vec::new(),
        body: Vec::new(),
        is_chunked: None,
        then: Then::Open,
    }
}

impl Forward {
    pub(crate) fn to(mut self, which: Which) -> Self {
        self.which = which;
        self
    }

    /// Has the field exactly once, with this value.
    pub(crate) fn has(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.has.push((name, value.into()));
        self
    }

    pub(crate) fn lacks(mut self, names: &[&'static str]) -> Self {
        self.lacks.extend(names);
        self
    }

    /// Has this body, framed by its length.
    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.is_chunked = Some(false);
        self
    }

    /// Has this body, chunked.
    pub(crate) fn chunked(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self.is_chunked = Some(true);
        self
    }

    pub(crate) fn then(mut self, then: Then) -> Self {
        self.then = then;
        self
    }

    fn check(&self, request: &Request) -> Result<(), String> {
        let Request { head, body } = request;
        if head.line != self.line {
            return Err(format!("backend got {:?}, wanted {:?}", head.line, self.line));
        }
        for (name, value) in &self.has {
            if head.value(name) != Some(value) {
                return Err(format!("backend got {name}: {:?}, wanted {value:?}", head.values(name)));
            }
        }
        for name in &self.lacks {
            if !head.values(name).is_empty() {
                return Err(format!("backend got {name}: {:?}, wanted none", head.values(name)));
            }
        }
        if body.bytes != self.body {
            let [got, want] = [&body.bytes, &self.body].map(|bytes| crate::client::shown(bytes));
            return Err(format!("backend got body {got}, wanted {want}"));
        }
        if let Some(chunked) = self.is_chunked
            && body.chunks.is_some() != chunked
        {
            return Err(format!("backend got chunks {:?}, wanted chunked = {chunked}", body.chunks));
        }
        if !body.trailers.is_empty() {
            return Err(format!("backend got trailers {:?}", body.trailers));
        }
        Ok(())
    }
}

impl From<Forward> for Want {
    fn from(forward: Forward) -> Self {
        Self::Forward(Box::new(forward))
    }
}

pub(crate) const BAD: Want = Want::Reject(&[400]);

pub(crate) fn case(id: &str, bytes: impl AsRef<[u8]>, want: impl Into<Want>) -> Case {
    Case { id: id.into(), bytes: bytes.as_ref().to_vec(), want: want.into() }
}

/// `GET / HTTP/1.1` with `Host: a` and these field lines, each with its CRLF.
pub(crate) fn with_fields(fields: impl AsRef<[u8]>) -> Vec<u8> {
    [b"GET / HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n"].concat()
}

/// `POST /` with `Host: a`, these field lines and this body.
pub(crate) fn post(fields: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Vec<u8> {
    [b"POST / HTTP/1.1\r\nHost: a\r\n", fields.as_ref(), b"\r\n", body.as_ref()].concat()
}

/// `POST /`, chunked, with this body as sent.
pub(crate) fn post_chunked(body: impl AsRef<[u8]>) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

impl Case {
    pub(crate) fn run(&self, setup: &Setup) -> Outcome {
        let marks = setup.marks();
        let mut client = setup.client();
        client.send(&self.bytes);
        let result = match &self.want {
            Want::Reject(statuses) => {
                client.send(PIPELINED);
                expect_refusal(&mut client, statuses)
            }
            Want::RejectBody(statuses) => {
                client.send(PIPELINED);
                expect_refusal(&mut client, statuses).and_then(|()| setup.await_aborts(&marks))
            }
            Want::Close => expect_close(&mut client),
            Want::RejectOrClose => {
                client.send(PIPELINED);
                client.read_to_end();
                if client.buffer.is_empty() { Ok(()) } else { expect_refusal(&mut client, &[400]) }
            }
            Want::Local(statuses) => expect_local(&mut client, self.method(), statuses),
            Want::Forward(forward) => expect_answer(&mut client, self.method(), forward.then),
        };
        // Also after a failure, so that what it left behind is not taken for the next row's.
        let flushed = setup.sentinel();
        let result = result.and_then(|()| {
            flushed?;
            self.check_backends(setup.since(&marks))
        });
        (self.id.clone(), result)
    }

    fn method(&self) -> &str {
        let word = self.bytes.trim_ascii_start().split(|byte| *byte == b' ').next().unwrap_or_default();
        std::str::from_utf8(word).unwrap_or_default()
    }

    fn check_backends(&self, mut received: Vec<(Which, Received)>) -> Result<(), String> {
        match &self.want {
            Want::Forward(forward) => {
                for (_, received) in &mut received {
                    received.requests.retain(|request| !request.head.line.contains("/next"));
                }
                received.retain(|(_, received)| !received.requests.is_empty() || !received.rest.is_empty());
                let [(which, received)] = &received[..] else {
                    return Err(format!("backends got {received:?}, wanted one request"));
                };
                let ([request], [], None) = (&received.requests[..], &received.rest[..], &received.invalid)
                else {
                    return Err(format!("backend got {received:?}, wanted one request"));
                };
                if *which != forward.which {
                    return Err(format!("went to {which:?}, wanted {:?}", forward.which));
                }
                forward.check(request)
            }
            Want::RejectBody(_) => {
                match received.iter().find(|(_, received)| !received.requests.is_empty()) {
                    None => Ok(()),
                    Some(received) => Err(format!("backend got a whole request: {received:?}")),
                }
            }
            _ if received.is_empty() => Ok(()),
            _ => Err(format!("backend got {received:?}, wanted nothing")),
        }
    }
}

/// The refusal is the last thing on the connection.
pub(crate) fn expect_refusal(client: &mut Client, statuses: &[u16]) -> Result<(), String> {
    let response = client.read_response("GET")?;
    let line = &response.head.line;
    if !statuses.contains(&response.head.status()) {
        return Err(format!("answered {line:?}, wanted {statuses:?}"));
    }
    if response.head.value("connection") != Some("close") {
        return Err(format!("{line:?} without Connection: close"));
    }
    expect_end(client).map_err(|why| format!("after {line:?}: {why}"))
}

/// Nothing more comes and the gateway closes.
pub(crate) fn expect_end(client: &mut Client) -> Result<(), String> {
    let end = client.read_to_end();
    if !client.buffer.is_empty() {
        return Err(format!("more bytes: {}", client.shown()));
    }
    if end == End::Open { Err("connection stays open".into()) } else { Ok(()) }
}

fn expect_close(client: &mut Client) -> Result<(), String> {
    expect_end(client)
}

/// The gateway answers by itself and serves what follows.
fn expect_local(client: &mut Client, method: &str, statuses: &[u16]) -> Result<(), String> {
    let response = client.read_response(method)?;
    if !statuses.contains(&response.head.status()) {
        return Err(format!("answered {:?}, wanted {statuses:?}", response.head.line));
    }
    Ok(())
}

fn expect_answer(client: &mut Client, method: &str, then: Then) -> Result<(), String> {
    expect_ok(&client.read_response(method)?)?;
    match then {
        Then::Close => expect_end(client),
        Then::Reject(status) => expect_refusal(client, &[status]).map_err(|why| format!("then: {why}")),
        Then::Open => {
            client.send(b"GET /next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            let next = client.read_response("GET").map_err(|why| format!("next request: {why}"))?;
            expect_ok(&next).map_err(|why| format!("next request: {why}"))
        }
    }
}

fn expect_ok(response: &Response) -> Result<(), String> {
    match response.head.status() {
        200 => Ok(()),
        _ => Err(format!("answered {:?}, wanted 200", response.head.line)),
    }
}

/// A response as the backend sends it, and what the client must get.
pub(crate) struct ResponseCase {
    pub(crate) id: String,
    pub(crate) request: Vec<u8>,
    pub(crate) script: Vec<Step>,
    pub(crate) want: ResponseWant,
}

pub(crate) enum ResponseWant {
    /// 502, at most 16 informational responses before it; the connection is not used again.
    BadGateway,
    Answer(Box<Answer>),
    /// The head and these bytes arrive, then the connection ends so that the client sees that more was meant; or
    /// it was noticed in time for a 502.
    Truncated(&'static [u8]),
}

/// The final response that the client must get.
pub(crate) struct Answer {
    status: u16,
    informational: Vec<u16>,
    has: Vec<(&'static str, String)>,
    lacks: Vec<&'static str>,
    body: Vec<u8>,
    framing: Option<Framing>,
    /// `None`: either will do.
    is_pooled: Option<bool>,
}

pub(crate) fn answer(status: u16) -> Answer {
    Answer {
        status,
        informational: Vec::new(),
        has: Vec::new(),
        lacks: Vec::new(),
        body: Vec::new(),
        framing: None,
        is_pooled: Some(true),
    }
}

impl Answer {
    pub(crate) fn after(mut self, informational: &[u16]) -> Self {
        self.informational = informational.to_vec();
        self
    }

    pub(crate) fn has(mut self, name: &'static str, value: &str) -> Self {
        self.has.push((name, value.into()));
        self
    }

    pub(crate) fn lacks(mut self, names: &[&'static str]) -> Self {
        self.lacks.extend(names);
        self
    }

    pub(crate) fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub(crate) fn framing(mut self, framing: Framing) -> Self {
        self.framing = Some(framing);
        self
    }

    /// The connection to the backend must not be used again.
    pub(crate) fn not_pooled(mut self) -> Self {
        self.is_pooled = Some(false);
        self
    }

    /// The connection to the backend may be used again or not.
    pub(crate) fn pooled_or_not(mut self) -> Self {
        self.is_pooled = None;
        self
    }

    fn check(&self, client: &mut Client, method: &str) -> Result<(), String> {
        for status in &self.informational {
            let head = client.read_head()?;
            if head.status() != *status || !head.values("content-length").is_empty() {
                return Err(format!("got {head:?}, wanted {status}"));
            }
        }
        let response = client.read_response(method)?;
        let Response { head, body, framing } = &response;
        if head.status() != self.status {
            return Err(format!("answered {:?}, wanted {}", head.line, self.status));
        }
        for (name, value) in &self.has {
            if head.value(name) != Some(value) {
                return Err(format!("client got {name}: {:?}, wanted {value:?}", head.values(name)));
            }
        }
        if let Some(name) = self.lacks.iter().find(|name| !head.values(name).is_empty()) {
            return Err(format!("client got {name}: {:?}, wanted none", head.values(name)));
        }
        if body.bytes != self.body {
            return Err(format!("client got body {}", crate::client::shown(&body.bytes)));
        }
        match self.framing {
            Some(want) if want != *framing => Err(format!("client got framing {framing:?}, wanted {want:?}")),
            _ => Ok(()),
        }
    }
}

impl From<Answer> for ResponseWant {
    fn from(answer: Answer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl ResponseCase {
    pub(crate) fn run(&self, setup: &Setup) -> Outcome {
        let marks = setup.marks();
        setup.main.script(self.script.clone());
        let mut client = setup.client();
        client.send(&self.request);
        let result = self.judge(&mut client).and_then(|()| {
            setup.clear();
            let received = setup.since(&marks);
            let [(Which::Main, first)] = &received[..] else {
                return Err(format!("backends got {received:?}, wanted one request"));
            };
            let is_pooled = match &self.want {
                ResponseWant::Answer(answer) => answer.is_pooled,
                _ => Some(false),
            };
            let is_reused = setup.sentinel()? == first.connection;
            match is_pooled {
                Some(want) if want != is_reused => {
                    Err(format!("connection to the backend reused = {is_reused}, wanted {want}"))
                }
                _ => Ok(()),
            }
        });
        setup.clear();
        let flushed = setup.sentinel().map(|_| ());
        let result = result.and(flushed);
        (self.id.clone(), result)
    }

    fn judge(&self, client: &mut Client) -> Result<(), String> {
        let method = self.request.split(|byte| *byte == b' ').next().unwrap_or_default();
        let method = std::str::from_utf8(method).unwrap_or_default();
        match &self.want {
            ResponseWant::Answer(answer) => answer.check(client, method),
            ResponseWant::BadGateway => {
                let mut informational = 0;
                let head = loop {
                    match client.read_head()? {
                        head if head.status() / 100 == 1 => informational += 1,
                        head => break head,
                    }
                };
                if informational > 16 {
                    return Err(format!("{informational} informational responses"));
                }
                match client.read_body(head, method)? {
                    response if response.head.status() == 502 => Ok(()),
                    response => Err(format!("answered {:?}, wanted 502", response.head.line)),
                }
            }
            ResponseWant::Truncated(bytes) => {
                let head = client.read_head()?;
                if head.status() == 502 {
                    return client.read_body(head, method).map(|_| ());
                }
                if head.status() != 200 {
                    return Err(format!("answered {:?}, wanted 200", head.line));
                }
                match client.read_body(head, method) {
                    Ok(response) => return Err(format!("client takes this for whole: {response:?}")),
                    Err(_) if client.end == End::Open => return Err("connection stays open".into()),
                    Err(_) => {}
                }
                let got = &client.buffer;
                let arrived = got.windows(bytes.len().max(1)).any(|window| window == *bytes);
                if arrived || bytes.is_empty() {
                    Ok(())
                } else {
                    Err(format!("client got only {}", client.shown()))
                }
            }
        }
    }
}
