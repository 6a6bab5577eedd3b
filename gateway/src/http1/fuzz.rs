//! What fuzz targets may call, in fuzzing builds only: the parsers are private, and their rules are asserted here.

use config::table::Limits;

use super::authority::parse_authority;
use super::chunked::{BadChunk, Decoder, Step};
use super::head::{self, Framing};
use super::scan::HeadScan;
use super::{fields, response};

/// Where the head ends, if it does and its line ends are all right; the same however the bytes arrive.
fn head_of(bytes: &[u8]) -> Option<&[u8]> {
    let whole = HeadScan::default().advance(bytes).ok();
    let mut scan = HeadScan::default();
    let mut in_parts = None;
    for end in 1..=bytes.len() {
        match scan.advance(bytes.get(..end)?) {
            Ok(None) => {}
            Ok(Some(length)) => {
                in_parts = Some(length);
                break;
            }
            Err(_) => {
                // Found earlier than the end of the head, or not at all.
                assert!(!matches!(whole, Some(Some(length)) if length <= end), "a head of bare line breaks");
                return None;
            }
        }
    }
    assert_eq!(whole.flatten(), in_parts, "the end of the head depends on how it arrives");
    bytes.get(..in_parts?)
}

/// A request head: parts that are what they are called, whatever the bytes.
pub fn request_head(bytes: &[u8]) {
    let limits = Limits::default();
    let _ = head::refuse_early(bytes, bytes.contains(&b'\n'), &limits);
    let Some(bytes) = head_of(bytes) else { return };
    let mut list = Vec::new();
    let Ok(head) = head::parse(bytes, &limits, &mut list) else { return };
    assert!(fields::is_token(head.method.get(bytes)), "method is no token");
    assert!(!head.target.get(bytes).iter().any(|byte| *byte <= b' '), "target has a space or control");
    assert!(head.minor_version <= 1 && list.len() <= usize::from(limits.head_fields));
    assert!(head.minor_version == 1 || head.framing != Framing::Chunked, "chunked in HTTP/1.0");
    for field in &list {
        assert!(fields::is_token(field.name.get(bytes)), "field name is no token");
        let value = field.value.get(bytes);
        assert!(!value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')), "field value breaks a line");
    }
    let named =
        |name: &[u8]| list.iter().filter(|field| field.name.get(bytes).eq_ignore_ascii_case(name)).count();
    let (lengths, codings) = (named(b"content-length"), named(b"transfer-encoding"));
    assert!(lengths + codings <= 1, "two statements of the length");
    assert_eq!(head.framing == Framing::Chunked, codings == 1);
    assert_eq!(matches!(head.framing, Framing::Length(_)), lengths == 1);
    assert!(named(b"host") == 1 || (named(b"host") == 0 && head.minor_version == 0), "host is ambiguous");
    let _ = parse_authority(head.host.get(bytes), &mut Vec::new());
}

/// A response head, as answer to HEAD and to another method.
pub fn response_head(bytes: &[u8]) {
    let Some(bytes) = head_of(bytes) else { return };
    for to_head in [false, true] {
        let mut list = Vec::new();
        let Ok(Some(head)) = response::parse(bytes, to_head, &mut list) else { continue };
        assert!((100..=999).contains(&head.status));
        for field in &list {
            assert!(fields::is_token(field.name.get(bytes)), "field name is no token");
        }
        let bodyless = to_head || head.status < 200 || head.status == 204 || head.status == 304;
        assert!(!bodyless || head.framing == Framing::None, "a body where none can be");
    }
}

/// A chunked body that arrives in two parts, cut at `cut`: its data and its end do not depend on the cut.
pub fn chunked_body(bytes: &[u8], cut: usize) {
    let (first, second) = bytes.split_at(cut.min(bytes.len()));
    let whole = decode(&[bytes]);
    let in_parts = decode(&[first, second]);
    match (&whole, &in_parts) {
        (Ok(whole), Ok(in_parts)) => assert_eq!(whole, in_parts),
        (Err(_), Err(_)) => {}
        _ => panic!("{whole:?} as a whole, {in_parts:?} cut at {cut}"),
    }
}

/// Data, and the length of the body if it ended.
fn decode(parts: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), BadChunk> {
    let mut decoder = Decoder::default();
    let (mut data, mut taken) = (Vec::new(), 0);
    for part in parts {
        let mut rest = *part;
        loop {
            let step = decoder.next(rest)?;
            let length = match step {
                Step::NeedMore => break,
                Step::Skip(length) | Step::Data(length) | Step::End(length) => length,
            };
            assert!(length <= rest.len(), "step beyond the input");
            let (now, later) = rest.split_at(length);
            taken += length;
            match step {
                Step::End(_) => return Ok((data, Some(taken))),
                Step::Data(_) => data.extend(now),
                Step::Skip(_) | Step::NeedMore => {}
            }
            assert!(length > 0, "no progress");
            rest = later;
        }
        assert!(rest.is_empty(), "input left over while more is wanted");
    }
    Ok((data, None))
}

/// HTTP/2 frames are counted alike however their bytes arrive.
pub fn http2_frames(bytes: &[u8]) {
    use crate::http2::guard::Guard;
    let mut whole = Guard::new(0);
    let mut in_parts = Guard::new(0);
    let want = whole.read(bytes, 0);
    let got = bytes.chunks(1).try_for_each(|byte| in_parts.read(byte, 0));
    assert_eq!(want, got, "a budget depends on how frames arrive");
    assert_eq!(whole.block_since(), in_parts.block_since());
}
