//! Response heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::http1::fuzz::response_head(bytes));
