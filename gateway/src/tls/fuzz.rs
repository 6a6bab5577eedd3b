//! What fuzz targets may call, in fuzzing builds and tests only: the parser is private, and its rules are asserted
//! here.

use super::client_hello::{Assembly, ClientHello, Refused};

fn whole(bytes: &[u8]) -> Result<Option<ClientHello>, Refused> {
    Assembly::default().advance(bytes)
}

/// `bytes` as the first of a connection, arriving in pieces of `piece`; and as the body of a handshake message, in
/// records of `record` bytes.
pub fn client_hello(bytes: &[u8], piece: usize, record: usize) {
    let mut assembly = Assembly::default();
    let ends = (0..bytes.len()).step_by(piece.max(1)).chain([bytes.len()]);
    let arrived = ends.map(|end| assembly.advance(bytes.get(..end).unwrap_or_default()));
    let arrived = arrived.into_iter().find(|outcome| *outcome != Ok(None)).unwrap_or(Ok(None));
    match (whole(bytes), arrived) {
        (Ok(one), Ok(other)) => assert_eq!(one, other, "the hello depends on how it arrives"),
        (Err(_), Err(_)) => {}
        // What is refused as a whole can be complete before its last byte.
        (one, other) => panic!("{one:?} as a whole, {other:?} in pieces of {piece}"),
    }
    let Ok(length) = u32::try_from(bytes.len()) else { return };
    let message = [&[1][..], length.to_be_bytes().get(1..).unwrap_or_default(), bytes].concat();
    let in_one = whole(&records(&message, 16_384));
    let in_many = whole(&records(&message, record.max(64)));
    assert_eq!(in_one, in_many, "the hello depends on its records");
    if let Ok(Some(hello)) = in_one
        && let Some(name) = hello.server_name
    {
        assert!(name.len() <= 253 && !name.ends_with('.'), "not a name: {name}");
        assert!(!name.bytes().any(|byte| byte.is_ascii_uppercase() || !byte.is_ascii_graphic()), "{name}");
    }
}

fn records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |payload: &[u8]| {
        let length = u16::try_from(payload.len()).unwrap_or(0).to_be_bytes();
        [&[22, 3, 1][..], &length, payload].concat()
    };
    message.chunks(size).flat_map(record).collect()
}
