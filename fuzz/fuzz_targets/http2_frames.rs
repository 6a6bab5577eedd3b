//! The counter of HTTP/2 frames: what exceeds a budget does not depend on how bytes arrive.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| gateway::http1::fuzz::http2_frames(bytes));
