//! ClientHellos: what is read does not depend on how the bytes arrive, nor on how records cut the message.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    if let Some((sizes, bytes)) = input.split_first_chunk::<2>() {
        gateway::tls::fuzz::client_hello(bytes, usize::from(sizes[0]), usize::from(sizes[1]));
    }
});
