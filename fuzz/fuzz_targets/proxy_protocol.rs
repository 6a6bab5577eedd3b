//! PROXY headers: what is read is decided by the header alone, however it is cut and whatever follows; what was read can
//! be written, and reads the same again.
#![no_main]

use gateway::bind::proxy_protocol::{MAX_HEADER, Parsed, parse, write_v1, write_v2};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse(bytes) {
        Ok(Parsed::Incomplete) => assert!(bytes.len() < MAX_HEADER),
        Ok(Parsed::Done { consumed, source, destination }) => {
            assert!(consumed <= bytes.len() && consumed <= MAX_HEADER);
            assert_eq!(source.is_some(), destination.is_some());
            let header = bytes.get(..consumed).unwrap_or_default();
            assert_eq!(parse(header), parse(bytes));
            assert_eq!(parse(header.get(..consumed - 1).unwrap_or_default()), Ok(Parsed::Incomplete));
            if let (Some(from), Some(to)) = (source, destination) {
                for write in [write_v1, write_v2] {
                    let mut out = Vec::new();
                    write(&mut out, from, to);
                    assert_eq!(parse(&out), Ok(Parsed::Done { consumed: out.len(), source, destination }));
                }
            }
        }
        Err(_) => {}
    }
});
