//! Request heads.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| gateway::http1::fuzz::request_head(bytes));
