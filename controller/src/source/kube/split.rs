//! Bytes of an answer → one object at a time. Sans-I/O: chunks are pushed as they arrive, in any partition, and no more
//! is ever kept than one object. It finds where objects begin and end and never says what they mean; an object that is
//! no good JSON costs only itself, as long as its braces and quotes are in order.

use memchr::{memchr, memchr2};

/// No object of an API server is larger; etcd takes 1.5 MiB as a rule.
pub const MAX_OBJECT: usize = 8 * 1024 * 1024;
/// Everything of a list besides its objects.
pub const MAX_ENVELOPE: usize = 256 * 1024;

/// Why an answer cannot be taken apart.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// Not a list of objects.
    #[error("it is not a JSON object with a list of items")]
    NotAList,
    /// Too much besides objects.
    #[error("it has more than {MAX_ENVELOPE} bytes besides objects")]
    TooLarge,
    /// The end is missing.
    #[error("it ends too early")]
    Truncated,
}

/// A part of an answer.
#[derive(Debug, Eq, PartialEq)]
pub enum Part<'a> {
    /// The bytes of one object.
    Object(&'a [u8]),
    /// An object of more than [`MAX_OBJECT`] bytes, which was skipped.
    TooLarge,
}

/// What is being read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Outside of `items`.
    Envelope,
    /// Between two of `items`.
    Between,
    /// In one of `items`.
    Item,
    /// After the end.
    Done,
}

/// Takes a `…List` apart.
#[derive(Debug)]
pub struct ListSplitter {
    place: Place,
    /// Open braces and brackets: of the envelope, or of the item.
    depth: u32,
    in_string: bool,
    escaped: bool,
    /// The item is neither an object nor a list, so that it has no end of its own.
    is_bare: bool,
    /// The last string at the top level, while it may be a key.
    key: Vec<u8>,
    /// What came besides `items`: a list without them.
    envelope: Vec<u8>,
    /// The beginning of an item whose end has not come.
    pending: Vec<u8>,
    is_too_large: bool,
}

impl Default for ListSplitter {
    fn default() -> Self {
        Self {
            place: Place::Envelope,
            depth: 0,
            in_string: false,
            escaped: false,
            is_bare: false,
            key: Vec::new(),
            envelope: Vec::new(),
            pending: Vec::new(),
            is_too_large: false,
        }
    }
}

impl ListSplitter {
    /// Takes in `bytes`, and calls `each` for every item that is complete.
    ///
    /// # Errors
    /// If this is no list. What follows is not to be pushed any more.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Part<'_>)) -> Result<(), SplitError> {
        while let Some(first) = bytes.first().copied() {
            let used = match self.place {
                Place::Envelope => {
                    self.envelope(first)?;
                    1
                }
                Place::Between => {
                    match first {
                        b']' => {
                            self.place = Place::Envelope;
                            self.envelope(first)?;
                        }
                        b',' | b' ' | b'\t' | b'\r' | b'\n' => {}
                        _ => {
                            self.place = Place::Item;
                            self.depth_of_item(first);
                            continue;
                        }
                    }
                    1
                }
                Place::Item => self.item(bytes, &mut each),
                Place::Done if first.is_ascii_whitespace() => 1,
                Place::Done => return Err(SplitError::NotAList),
            };
            bytes = bytes.get(used..).unwrap_or_default();
        }
        Ok(())
    }

    /// Everything came. The list without its items, as JSON.
    ///
    /// # Errors
    /// If the end is missing.
    pub fn finish(self) -> Result<Vec<u8>, SplitError> {
        if self.place == Place::Done { Ok(self.envelope) } else { Err(SplitError::Truncated) }
    }

    fn envelope(&mut self, byte: u8) -> Result<(), SplitError> {
        if self.envelope.len() >= MAX_ENVELOPE {
            return Err(SplitError::TooLarge);
        }
        if self.envelope.is_empty() && byte != b'{' {
            return if byte.is_ascii_whitespace() { Ok(()) } else { Err(SplitError::NotAList) };
        }
        self.envelope.push(byte);
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ if self.depth == 1 && self.key.len() <= ITEMS.len() => self.key.push(byte),
                _ => {}
            }
            return Ok(());
        }
        match byte {
            b'"' => {
                self.in_string = true;
                self.key.clear();
            }
            b'[' if self.depth == 1 && self.key == ITEMS && is_value_of_key(&self.envelope) => {
                self.place = Place::Between;
                self.depth = 2;
            }
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth = self.depth.checked_sub(1).ok_or(SplitError::NotAList)?;
                if self.depth == 0 {
                    self.place = Place::Done;
                }
            }
            b',' => self.key.clear(),
            _ => {}
        }
        Ok(())
    }

    fn depth_of_item(&mut self, first: u8) {
        self.depth = 0;
        self.is_bare = !matches!(first, b'{' | b'[');
        self.is_too_large = false;
        self.pending.clear();
    }

    /// Reads on in an item; returns how many of `bytes` are its.
    fn item(&mut self, bytes: &[u8], each: &mut impl FnMut(Part<'_>)) -> usize {
        let end = self.end_of_item(bytes);
        let (mine, used) = match end {
            Some(end) => (bytes.get(..end).unwrap_or_default(), end),
            None => (bytes, bytes.len()),
        };
        if self.pending.len() + mine.len() > MAX_OBJECT {
            self.is_too_large = true;
            self.pending = Vec::new();
        }
        match end {
            Some(_) => {
                if self.is_too_large {
                    each(Part::TooLarge);
                } else if self.pending.is_empty() {
                    each(Part::Object(mine));
                } else {
                    self.pending.extend_from_slice(mine);
                    each(Part::Object(&self.pending));
                }
                shrink(&mut self.pending);
                self.place = Place::Between;
                self.depth = 2;
            }
            None if self.is_too_large => {}
            None => self.pending.extend_from_slice(mine),
        }
        used
    }

    /// Where the item ends, if that is in `bytes`.
    fn end_of_item(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at).copied() {
            if self.in_string {
                if self.escaped {
                    self.escaped = false;
                } else {
                    at += memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default())?;
                    match bytes.get(at) {
                        Some(b'\\') => self.escaped = true,
                        _ => self.in_string = false,
                    }
                }
                at += 1;
                continue;
            }
            match byte {
                b',' | b']' if self.is_bare && self.depth == 0 => return Some(at),
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth = self.depth.saturating_add(1),
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
            at += 1;
        }
        None
    }
}

const ITEMS: &[u8] = b"items";

/// True if the bracket at the end of `envelope` follows a colon.
fn is_value_of_key(envelope: &[u8]) -> bool {
    let mut before = envelope.iter().rev().skip(1).filter(|byte| !byte.is_ascii_whitespace());
    before.next() == Some(&b':')
}

/// One large object must not make its room last.
fn shrink(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(64 * 1024);
}

/// Takes a watch apart: one event on each line.
#[derive(Debug, Default)]
pub struct LineSplitter {
    pending: Vec<u8>,
    is_too_large: bool,
}

impl LineSplitter {
    /// Takes in `bytes`, and calls `each` for every line that is complete.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Part<'_>)) {
        while let Some(end) = memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end);
            bytes = rest.get(1..).unwrap_or_default();
            if self.is_too_large || self.pending.len() + line.len() > MAX_OBJECT {
                each(Part::TooLarge);
            } else if self.pending.is_empty() {
                if !line.trim_ascii().is_empty() {
                    each(Part::Object(line));
                }
            } else {
                self.pending.extend_from_slice(line);
                each(Part::Object(&self.pending));
            }
            self.is_too_large = false;
            shrink(&mut self.pending);
        }
        if self.pending.len() + bytes.len() > MAX_OBJECT {
            self.is_too_large = true;
            self.pending = Vec::new();
        } else if !self.is_too_large {
            self.pending.extend_from_slice(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &[u8] = br#" {"kind":"IngressList","metadata":{"items":["x"],"resourceVersion":"7"},
        "items" : [ {"metadata":{"name":"a\"]}"},"x":[1,{"y":"\\"}]}, null ,12, "te,xt",{"z":}, []],"after":{"items":[{}]}} "#;

    fn split(bytes: &[u8], step: usize) -> Result<(Vec<String>, String), SplitError> {
        let mut splitter = ListSplitter::default();
        let mut items = Vec::new();
        for chunk in bytes.chunks(step) {
            splitter.push(chunk, |part| {
                let Part::Object(bytes) = part else { panic!("too large") };
                items.push(String::from_utf8(bytes.to_vec()).unwrap());
            })?;
        }
        Ok((items, String::from_utf8(splitter.finish()?).unwrap()))
    }

    #[test]
    fn list_is_the_same_in_whatever_chunks_it_comes() {
        let (items, envelope) = split(LIST, LIST.len()).unwrap();
        let items: Vec<&str> = items.iter().map(|item| item.trim()).collect();
        assert_eq!(
            items,
            [
                r#"{"metadata":{"name":"a\"]}"},"x":[1,{"y":"\\"}]}"#,
                "null",
                "12",
                r#""te,xt""#,
                r#"{"z":}"#,
                "[]"
            ]
        );
        let envelope: serde_json::Value = serde_json::from_str(&envelope).unwrap();
        assert_eq!(envelope["items"], serde_json::json!([]));
        assert_eq!(envelope["metadata"]["resourceVersion"], "7");
        assert_eq!(envelope["after"]["items"], serde_json::json!([{}]));
        for step in 1..LIST.len() {
            assert_eq!(split(LIST, step), split(LIST, LIST.len()), "{step}");
        }
    }

    #[test]
    fn list_without_items_has_none() {
        for text in [r#"{"items":null,"metadata":{}}"#, r#"{"items":[]}"#, "{}", r#"{"a":"items","b":[{}]}"#]
        {
            assert_eq!(split(text.as_bytes(), 3).unwrap(), (Vec::new(), text.to_owned()), "{text}");
        }
    }

    #[test]
    fn list_that_is_cut_anywhere_is_no_list() {
        let text = LIST.trim_ascii();
        for end in 0..text.len() {
            assert!(split(&text[..end], 16).is_err(), "{end}");
        }
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in ["[]", "x", "<html>", r#"{"items":[]}{}"#, "{}}"] {
            assert_eq!(split(text.as_bytes(), 64), Err(SplitError::NotAList), "{text}");
        }
        let endless = [b"{\"x\":\"".as_slice(), &vec![b'a'; MAX_ENVELOPE]].concat();
        assert_eq!(split(&endless, 4096), Err(SplitError::TooLarge));
    }

    #[test]
    fn object_that_is_too_large_is_skipped_and_costs_only_itself() {
        let large = format!(r#"{{"data":"{}"}}"#, "a".repeat(MAX_OBJECT));
        let text = format!(r#"{{"items":[{{"a":1}},{large},{{"b":2}}]}}"#);
        let (mut splitter, mut seen, mut most) = (ListSplitter::default(), Vec::new(), 0);
        for chunk in text.as_bytes().chunks(100_000) {
            splitter.push(chunk, |part| seen.push(format!("{part:?}").len() > 10)).unwrap();
            most = most.max(splitter.pending.capacity());
        }
        assert_eq!(seen.len(), 3);
        assert!(most <= 2 * MAX_OBJECT && splitter.pending.capacity() <= 64 * 1024, "{most}");
        splitter.finish().unwrap();

        let (mut lines, mut seen) = (LineSplitter::default(), Vec::new());
        for chunk in format!("{{1}}\n{large}\n\n{{2}}\n{{3").as_bytes().chunks(100_000) {
            lines.push(chunk, |part| seen.push(matches!(part, Part::TooLarge)));
        }
        assert_eq!(seen, [false, true, false]);
    }

    #[test]
    fn lines_are_the_same_in_whatever_chunks_they_come() {
        let text = b"{\"a\":1}\n\r\n{\"b\":2}\n{\"c\":3}\n{\"torn";
        for step in 1..text.len() {
            let (mut lines, mut seen) = (LineSplitter::default(), Vec::new());
            for chunk in text.chunks(step) {
                lines.push(chunk, |part| {
                    let Part::Object(line) = part else { panic!("too large") };
                    seen.push(String::from_utf8(line.trim_ascii().to_vec()).unwrap());
                });
            }
            seen.retain(|line| !line.is_empty());
            assert_eq!(seen, ["{\"a\":1}", "{\"b\":2}", "{\"c\":3}"], "{step}");
        }
    }
}
