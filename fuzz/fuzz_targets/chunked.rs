//! Chunked bodies, cut in two.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((cut, bytes)) = input.split_first_chunk::<2>() {
        gateway::http1::fuzz::chunked_body(bytes, usize::from(u16::from_le_bytes(*cut)));
    }
});
