//! Bytes of the file: a header, and then records. Pure.
//!
//! ```text
//! header  "SLGSTATE" | format u32 | length of what follows u32 | CRC-32 of it u32 | JSON: whose objects these are
//! record  F5 'S' 'G' 'R' | length of what follows the CRC u32 | CRC-32 of it u32
//!         | operation u8 | kind u8 | length of the namespace u16 | length of the name u16 | namespace | name | JSON
//! ```
//!
//! Numbers are little-endian. The last record of an object counts. Each record begins with a mark, so that a damaged one
//! does not cost those behind it.

use std::sync::Arc;

use config::report::{Kind, ObjectRef};
use memchr::memmem;
use serde::{Deserialize, Serialize};

use super::super::split::MAX_OBJECT;

const MAGIC: &[u8; 8] = b"SLGSTATE";
/// Written by other versions than this one, a file is not used.
const FORMAT: u32 = 1;
const MARK: &[u8; 4] = b"\xF5SGR";
/// Mark, length, CRC.
const FRAME: usize = 12;
/// Operation, kind, two lengths.
const KEY: usize = 6;
/// Namespace and name have 253 bytes at most.
const MAX_BODY: usize = MAX_OBJECT + 4_096;
const MAX_SCOPE: usize = 64 * 1024;

/// Whose objects these are. Those of another cluster, or of other namespaces, must never be served for ours.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub(in super::super) struct Scope {
    /// The API server's URL.
    pub(in super::super) cluster: String,
    /// Which of its objects.
    pub(in super::super) selection: String,
}

/// Why a file is not used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub(in super::super) enum HeaderError {
    #[error("it is not a file of ours")]
    NotOurs,
    #[error("it was written by another version (format {0}, not {FORMAT})")]
    OtherFormat(u32),
    #[error("its header is damaged")]
    Damaged,
    #[error("it is of another cluster or of other objects ({} {})", .0.cluster, .0.selection)]
    OtherScope(Scope),
}

/// The header of a file.
pub(super) fn header(scope: &Scope) -> Vec<u8> {
    // A struct of two strings is always written.
    let scope = serde_json::to_vec(scope).unwrap_or_default();
    let mut out = Vec::with_capacity(MAGIC.len() + 12 + scope.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&u32::try_from(scope.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(&crc32fast::hash(&scope).to_le_bytes());
    out.extend_from_slice(&scope);
    out
}

/// Checks the header of a file of `scope`; returns where the records begin.
pub(super) fn read_header(bytes: &[u8], scope: &Scope) -> Result<usize, HeaderError> {
    let (magic, rest) = bytes.split_at_checked(MAGIC.len()).ok_or(HeaderError::NotOurs)?;
    if magic != MAGIC {
        return Err(HeaderError::NotOurs);
    }
    let (format, rest) = number(rest).ok_or(HeaderError::Damaged)?;
    if format != FORMAT {
        return Err(HeaderError::OtherFormat(format));
    }
    let (length, rest) = number(rest).ok_or(HeaderError::Damaged)?;
    let (crc, rest) = number(rest).ok_or(HeaderError::Damaged)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_SCOPE);
    let text = length.and_then(|length| rest.get(..length)).ok_or(HeaderError::Damaged)?;
    if crc32fast::hash(text) != crc {
        return Err(HeaderError::Damaged);
    }
    let found: Scope = serde_json::from_slice(text).map_err(|_| HeaderError::Damaged)?;
    if found != *scope {
        return Err(HeaderError::OtherScope(found));
    }
    Ok(bytes.len() - rest.len() + text.len())
}

/// Appends a record: the object as it is now, or that it is gone. False if it cannot be kept.
pub(super) fn write_record(out: &mut Vec<u8>, object: &ObjectRef, json: Option<&[u8]>) -> bool {
    let Some(kind) = code(object.kind) else { return false };
    let (namespace, name) = (object.namespace.as_bytes(), object.name.as_bytes());
    let lengths = (u16::try_from(namespace.len()), u16::try_from(name.len()));
    let (Ok(namespace_length), Ok(name_length)) = lengths else { return false };
    let body = KEY + namespace.len() + name.len() + json.map_or(0, <[u8]>::len);
    let Some(length) = u32::try_from(body).ok().filter(|_| body <= MAX_BODY) else { return false };
    let start = out.len();
    out.extend_from_slice(MARK);
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[u8::from(json.is_some()), kind]);
    out.extend_from_slice(&namespace_length.to_le_bytes());
    out.extend_from_slice(&name_length.to_le_bytes());
    out.extend_from_slice(namespace);
    out.extend_from_slice(name);
    out.extend_from_slice(json.unwrap_or_default());
    let crc = crc32fast::hash(out.get(start + FRAME..).unwrap_or_default());
    if let Some(place) = out.get_mut(start + 8..start + FRAME) {
        place.copy_from_slice(&crc.to_le_bytes());
    }
    true
}

/// One record of a file.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Record<'a> {
    pub(super) object: ObjectRef,
    /// `None` if it is gone.
    pub(super) json: Option<&'a [u8]>,
}

/// Reads records, and over what is damaged.
#[derive(Debug)]
pub(super) struct Records<'a> {
    rest: &'a [u8],
    /// Places that could not be read.
    pub(super) damaged: usize,
}

impl<'a> Records<'a> {
    /// The records in `bytes`, which follow the header.
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, damaged: 0 }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let mut is_lost = false;
        while !self.rest.is_empty() {
            if let Some((record, rest)) = record(self.rest) {
                self.rest = rest;
                return Some(record);
            }
            self.damaged += usize::from(!std::mem::replace(&mut is_lost, true));
            let behind = self.rest.get(1..).unwrap_or_default();
            let next = memmem::find(behind, MARK).unwrap_or(behind.len());
            self.rest = behind.get(next..).unwrap_or_default();
        }
        None
    }
}

fn record(bytes: &[u8]) -> Option<(Record<'_>, &[u8])> {
    let rest = bytes.strip_prefix(MARK)?;
    let (length, rest) = number(rest)?;
    let (crc, rest) = number(rest)?;
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_BODY)?;
    let (body, rest) = rest.split_at_checked(length)?;
    if crc32fast::hash(body) != crc {
        return None;
    }
    let ([operation, kind, a, b, c, d], body) = body.split_first_chunk::<KEY>()?;
    let (namespace, body) = body.split_at_checked(u16::from_le_bytes([*a, *b]).into())?;
    let (name, json) = body.split_at_checked(u16::from_le_bytes([*c, *d]).into())?;
    let text = |bytes| std::str::from_utf8(bytes).ok().map(Arc::<str>::from);
    let object = ObjectRef { kind: kind_of(*kind)?, namespace: text(namespace)?, name: text(name)? };
    let json = match operation {
        0 => None,
        1 => Some(json),
        _ => return None,
    };
    Some((Record { object, json }, rest))
}

fn number(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = bytes.split_first_chunk::<4>()?;
    Some((u32::from_le_bytes(*number), rest))
}

const KINDS: [(u8, Kind); 10] = [
    (1, Kind::Ingress),
    (2, Kind::IngressClass),
    (3, Kind::Service),
    (4, Kind::EndpointSlice),
    (5, Kind::Secret),
    (6, Kind::ConfigMap),
    (7, Kind::Namespace),
    (8, Kind::AddressPool),
    (9, Kind::IPAddressPool),
    (10, Kind::L2Advertisement),
];

fn code(kind: Kind) -> Option<u8> {
    KINDS.iter().find(|(_, one)| *one == kind).map(|(code, _)| *code)
}

fn kind_of(code: u8) -> Option<Kind> {
    KINDS.iter().find(|(one, _)| *one == code).map(|(_, kind)| *kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> ObjectRef {
        ObjectRef { kind: Kind::Service, namespace: "n".into(), name: name.into() }
    }

    fn scope() -> Scope {
        Scope { cluster: "https://a".to_owned(), selection: "all".to_owned() }
    }

    fn three() -> Vec<u8> {
        let mut bytes = Vec::new();
        assert!(write_record(&mut bytes, &object("a"), Some(b"{\"x\":1}")));
        assert!(write_record(&mut bytes, &object("b"), None));
        assert!(write_record(&mut bytes, &object("c"), Some(b"")));
        bytes
    }

    fn names(bytes: &[u8]) -> (String, usize) {
        let mut records = Records::new(bytes);
        let names = records.by_ref().map(|record| record.object.name.to_string()).collect();
        (names, records.damaged)
    }

    #[test]
    fn records_are_read_as_they_were_written() {
        let bytes = three();
        let records: Vec<Record<'_>> = Records::new(&bytes).collect();
        assert_eq!(records.len(), 3);
        assert_eq!(records[0], Record { object: object("a"), json: Some(b"{\"x\":1}") });
        assert_eq!(records[1], Record { object: object("b"), json: None });
    }

    #[test]
    fn torn_tail_costs_only_the_last_record() {
        let bytes = three();
        let whole = bytes.len();
        let mut last = Vec::new();
        write_record(&mut last, &object("c"), Some(b""));
        for end in whole - last.len() + 1..whole {
            assert_eq!(names(&bytes[..end]), ("ab".to_owned(), 1), "{end}");
        }
        assert_eq!(names(&bytes[..whole - last.len()]), ("ab".to_owned(), 0));
    }

    #[test]
    fn damaged_byte_costs_only_the_record_that_it_is_in() {
        let bytes = three();
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            let (found, count) = names(&damaged);
            assert_eq!((found.len(), count), (2, 1), "{at}: {found}");
        }
    }

    #[test]
    fn noise_is_never_taken_for_records() {
        for length in 0..200 {
            let noise: Vec<u8> = (0..length).map(|at| if at % 5 == 0 { 0xF5 } else { b'S' }).collect();
            assert_eq!(names(&noise).0, "");
        }
        let huge = [MARK.as_slice(), &u32::MAX.to_le_bytes(), &[0; 64]].concat();
        assert_eq!(names(&huge), (String::new(), 1));
    }

    #[test]
    fn file_of_others_is_not_read() {
        let good = header(&scope());
        assert_eq!(read_header(&good, &scope()), Ok(good.len()));
        assert_eq!(read_header(b"", &scope()), Err(HeaderError::NotOurs));
        assert_eq!(read_header(b"{\"kind\":\"List\"}", &scope()), Err(HeaderError::NotOurs));
        let other = Scope { cluster: "https://b".to_owned(), ..scope() };
        assert_eq!(read_header(&header(&other), &scope()), Err(HeaderError::OtherScope(other)));
        let mut newer = good.clone();
        newer[8] = 2;
        assert_eq!(read_header(&newer, &scope()), Err(HeaderError::OtherFormat(2)));
        for end in 12..good.len() {
            assert_eq!(read_header(&good[..end], &scope()), Err(HeaderError::Damaged), "{end}");
        }
        let mut damaged = good.clone();
        damaged[good.len() - 3] ^= 1;
        assert_eq!(read_header(&damaged, &scope()), Err(HeaderError::Damaged));
    }
}
