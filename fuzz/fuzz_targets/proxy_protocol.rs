//! PROXY headers: what is read is decided by the header alone, however it is cut and whatever follows.
#![no_main]

use gateway::bind::proxy_protocol::{MAX_HEADER, Parsed, parse};
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
        }
        Err(_) => {}
    }
});
