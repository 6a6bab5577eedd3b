//! Authorities: the host is its own canonical form and nothing but a name or an address.
#![no_main]

use gateway::http1::authority::parse_authority;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let mut scratch = Vec::new();
    let Ok(authority) = parse_authority(raw, &mut scratch) else { return };
    assert_eq!(authority.raw, raw);
    assert_ne!(authority.port, Some(0));
    let host = authority.host.to_owned();
    let allowed =
        |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b':' | b'[' | b']');
    assert!(!host.is_empty() && host.bytes().all(allowed));
    let again = parse_authority(host.as_bytes(), &mut scratch);
    assert_eq!(again.map(|again| (again.host.to_owned(), again.port)), Ok((host, None)));
});
