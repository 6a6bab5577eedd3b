//! HTTP/1.1 read the strict way, by code that shares nothing with the gateway: the judge of what it sends.

/// What can be said of the bytes so far.
#[derive(Clone, Debug)]
pub(crate) enum Parsed<T> {
    /// More bytes are needed.
    Incomplete,
    /// A whole message and its length.
    Complete(T, usize),
    /// Bytes that no strict recipient accepts.
    Invalid(String),
}

/// Start line and fields.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    /// Without CRLF.
    pub(crate) line: String,
    /// In order; names as sent, values without surrounding white space, read as Latin-1.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Every value of the field.
    pub(crate) fn values(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of the field.
    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        match self.values(name)[..] {
            [value] => Some(value),
            _ => None,
        }
    }

    /// The status of a response; 0 if this is none.
    pub(crate) fn status(&self) -> u16 {
        let code = self.line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }
}

/// A body and how it was framed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    /// Sizes of the chunks; `None` if the body was not chunked.
    pub(crate) chunks: Option<Vec<usize>>,
    pub(crate) trailers: Vec<(String, String)>,
}

/// A whole request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) head: Head,
    pub(crate) body: Body,
}

/// Length of a message's body as its head says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Framing {
    None,
    Length(usize),
    Chunked,
    /// Until the connection ends; responses only.
    Close,
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn is_token(text: &str) -> bool {
    let is_tchar = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !text.is_empty() && text.bytes().all(is_tchar)
}

/// Position behind the empty line.
pub(crate) fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|window| window == b"\r\n\r\n").map(|at| at + 4)
}

fn parse_field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("field without colon: {line:?}"))?;
    let value = value.trim_matches([' ', '\t']);
    if !is_token(name) {
        return Err(format!("field name is no token: {name:?}"));
    }
    if value.chars().any(|c| (c < ' ' && c != '\t') || c == '\x7f') {
        return Err(format!("control character in field: {line:?}"));
    }
    Ok((name.to_owned(), value.to_owned()))
}

/// Parses start line and fields, without the empty line.
fn parse_head(bytes: &[u8]) -> Result<Head, String> {
    let text = latin1(bytes);
    let mut lines = text.split("\r\n");
    let line = lines.next().unwrap_or_default().to_owned();
    if line.contains(['\r', '\n', '\0']) {
        return Err(format!("control character in start line: {line:?}"));
    }
    let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
    Ok(Head { line, fields })
}

fn decimal(text: &str) -> Result<usize, String> {
    let is_canonical =
        text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_canonical {
        return Err(format!("length is not canonical: {text:?}"));
    }
    text.parse().map_err(|_| format!("length is no number: {text:?}"))
}

/// The framing that the fields state, if any. Anything but one canonical field is an error.
fn stated_framing(head: &Head) -> Result<Option<Framing>, String> {
    match (&head.values("content-length")[..], &head.values("transfer-encoding")[..]) {
        ([], []) => Ok(None),
        ([length], []) => decimal(length).map(|length| Some(Framing::Length(length))),
        ([], ["chunked"]) => Ok(Some(Framing::Chunked)),
        (lengths, codings) => Err(format!("ambiguous framing: {lengths:?} and {codings:?}")),
    }
}

/// Reads one request from the start of `bytes`.
pub(crate) fn parse_request(bytes: &[u8]) -> Parsed<Request> {
    let Some(end) = head_end(bytes) else { return Parsed::Incomplete };
    let head = match parse_head(&bytes[..end - 4]) {
        Ok(head) => head,
        Err(why) => return Parsed::Invalid(why),
    };
    if let Err(why) = check_request_line(&head.line) {
        return Parsed::Invalid(why);
    }
    if head.values("host").len() != 1 {
        return Parsed::Invalid(format!("Host fields: {:?}", head.values("host")));
    }
    let framing = match stated_framing(&head) {
        Ok(framing) => framing.unwrap_or(Framing::None),
        Err(why) => return Parsed::Invalid(why),
    };
    match parse_body(&bytes[end..], framing) {
        Parsed::Complete(body, length) => Parsed::Complete(Request { head, body }, end + length),
        Parsed::Incomplete => Parsed::Incomplete,
        Parsed::Invalid(why) => Parsed::Invalid(why),
    }
}

fn check_request_line(line: &str) -> Result<(), String> {
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else {
        return Err(format!("request line is malformed: {line:?}"));
    };
    let is_clean = target.bytes().all(|byte| matches!(byte, 0x21..=0x7e) && byte != b'#');
    if !is_token(method) || !target.starts_with('/') || !is_clean {
        return Err(format!("request line is malformed: {line:?}"));
    }
    Ok(())
}

/// How a response's body is framed, given the request's method.
pub(crate) fn response_framing(head: &Head, method: &str) -> Result<Framing, String> {
    let stated = stated_framing(head)?;
    let status = head.status();
    if status / 100 == 1 || status == 204 {
        return match stated {
            None => Ok(Framing::None),
            Some(_) => Err(format!("framing fields in a {status}")),
        };
    }
    if method == "HEAD" || status == 304 {
        return Ok(Framing::None);
    }
    Ok(stated.unwrap_or(Framing::Close))
}

/// Reads a response's head from the start of `bytes`.
pub(crate) fn parse_response_head(bytes: &[u8]) -> Parsed<Head> {
    let Some(end) = head_end(bytes) else { return Parsed::Incomplete };
    match parse_head(&bytes[..end - 4]) {
        Ok(head) if head.status() < 100 => {
            Parsed::Invalid(format!("status line is malformed: {:?}", head.line))
        }
        Ok(head) => Parsed::Complete(head, end),
        Err(why) => Parsed::Invalid(why),
    }
}

/// Reads a body from the start of `bytes`; one that ends with the connection is never complete.
pub(crate) fn parse_body(bytes: &[u8], framing: Framing) -> Parsed<Body> {
    match framing {
        Framing::None => Parsed::Complete(Body::default(), 0),
        Framing::Close => Parsed::Incomplete,
        Framing::Length(length) => match bytes.get(..length) {
            Some(bytes) => Parsed::Complete(Body { bytes: bytes.to_vec(), ..Body::default() }, length),
            None => Parsed::Incomplete,
        },
        Framing::Chunked => parse_chunked(bytes),
    }
}

fn line_at(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let rest = bytes.get(at..)?;
    let end = rest.windows(2).position(|window| window == b"\r\n")?;
    rest.get(..end)
}

fn parse_chunked(bytes: &[u8]) -> Parsed<Body> {
    let mut body = Body { chunks: Some(Vec::new()), ..Body::default() };
    let mut at = 0;
    loop {
        let Some(line) = line_at(bytes, at) else { return Parsed::Incomplete };
        at += line.len() + 2;
        let is_canonical = !line.is_empty()
            && line.iter().all(u8::is_ascii_hexdigit)
            && (line == b"0" || line.first() != Some(&b'0'));
        let size = usize::from_str_radix(&latin1(line), 16).ok().filter(|_| is_canonical);
        let Some(size) = size else {
            return Parsed::Invalid(format!("chunk size is not canonical: {:?}", latin1(line)));
        };
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at + size + 2) else { return Parsed::Incomplete };
        let Some(data) = data.strip_suffix(b"\r\n") else {
            return Parsed::Invalid("chunk does not end with CRLF".into());
        };
        body.bytes.extend(data);
        body.chunks.get_or_insert_default().push(size);
        at += size + 2;
    }
    loop {
        let Some(line) = line_at(bytes, at) else { return Parsed::Incomplete };
        at += line.len() + 2;
        if line.is_empty() {
            return Parsed::Complete(body, at);
        }
        match parse_field(&latin1(line)) {
            Ok(field) => body.trailers.push(field),
            Err(why) => return Parsed::Invalid(why),
        }
    }
}
