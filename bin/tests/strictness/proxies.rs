//! PROXY headers, where they are required and where they are not. Their forms have their tests with the parser.
//! L03, L16–L20 need a list of peers that may send one, or binds that are not built.

use std::time::Duration;

use crate::case::{expect_end, expect_refusal, with_fields};
use crate::gateway::Setup;
use crate::scenarios::{Scenario, expect_status, has, no_request, only_request};

/// L11 with a deadline of a few hundred milliseconds.
pub(crate) const SLOW_PROXIES: &[(&str, Scenario)] = &[
    ("L11.stall", |setup| {
        let mut client = setup.client();
        client.send(b"PROXY TCP4 192.0.2.1");
        expect_end(&mut client)
    }),
    ("L11.dribble", |setup| {
        let mut client = setup.client();
        for byte in PROXY_V2.iter().take(20).chain([&0; 80]) {
            client.send(&[*byte]);
            if !client.is_quiet_for(Duration::from_millis(40)) {
                return expect_end(&mut client);
            }
        }
        Err("header may dribble for ever".into())
    }),
];

/// L02–L15 on a bind that requires a PROXY header.
pub(crate) const PROXY: &[(&str, Scenario)] = &[
    ("L02", |setup| proxy_refused(setup, &with_fields(""))),
    ("L04", |setup| proxy_refused(setup, b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n")),
    ("L04.long", |setup| proxy_refused(setup, format!("PROXY UNKNOWN {}\r\n", "x".repeat(100)).as_bytes())),
    ("L07", |setup| proxy_refused(setup, b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c............")),
    ("L05", |setup| proxied(setup, b"PROXY UNKNOWN\r\n", "127.0.0.1")),
    ("L05.v1", |setup| proxied(setup, b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n", "192.0.2.1")),
    ("L06", |setup| proxied(setup, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\x05xxxxx", "127.0.0.1")),
    ("L08", |setup| proxied(setup, PROXY_V2, "192.0.2.1")),
    ("L09", |setup| proxy_then_bad(setup, b"\x02\0\x01a")),
    ("L10", |setup| {
        let header =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x11\xc0\0\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb\x02\0\x09ab";
        proxy_refused(setup, header)
    }),
    ("L11", |setup| proxy_refused(setup, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff")),
    ("L12", |setup| {
        let header =
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x13\xc0\0\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb\x03\0\x04abcd";
        proxy_refused(setup, header)
    }),
    ("L13", |setup| {
        proxied(setup, &[b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8", &[b'/'; 216][..]].concat(), "127.0.0.1")
    }),
    ("L14", |setup| proxy_then_bad(setup, b"PROXY UNKNOWN\r\n")),
    ("L15", |setup| {
        for cut in 1..PROXY_V2.len() {
            let marks = setup.marks();
            let mut client = setup.client();
            client.send(&PROXY_V2[..cut]);
            client.is_quiet_for(Duration::from_millis(2));
            client.send(&PROXY_V2[cut..]);
            client.send(&with_fields(""));
            expect_status(&mut client, 200).map_err(|why| format!("cut at {cut}: {why}"))?;
            has(&only_request(setup, &marks)?.head, &[("x-real-ip", "192.0.2.1")])?;
        }
        Ok(())
    }),
];

/// TCP over IPv4 from 192.0.2.1, with an authority.
const PROXY_V2: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x10\xc0\0\x02\x01\xc6\x33\x64\x02\x30\x39\x01\xbb\x02\0\x01a";

fn proxy_refused(setup: &Setup, header: &[u8]) -> Result<(), String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(header);
    client.send(&with_fields(""));
    expect_end(&mut client)?;
    no_request(setup, &marks)
}

fn proxied(setup: &Setup, header: &[u8], address: &str) -> Result<(), String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(&[header, &with_fields("X-Forwarded-For: 6.6.6.6\r\n")].concat());
    expect_status(&mut client, 200)?;
    has(&only_request(setup, &marks)?.head, &[("x-forwarded-for", address), ("x-real-ip", address)])
}

/// What follows the header is payload.
fn proxy_then_bad(setup: &Setup, payload: &[u8]) -> Result<(), String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(&[PROXY_V2, payload, &with_fields("")].concat());
    expect_refusal(&mut client, &[400])?;
    no_request(setup, &marks)
}

/// L01: without the setting, the header is payload.
pub(crate) const NO_PROXY: &[(&str, Scenario)] = &[
    ("L01.v1", |setup| {
        let mut client = setup.client();
        client.send(&[&b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"[..], &with_fields("")].concat());
        expect_refusal(&mut client, &[400])
    }),
    ("L01.v2", |setup| {
        let mut client = setup.client();
        client.send(&[PROXY_V2, &with_fields("")].concat());
        expect_refusal(&mut client, &[400])
    }),
];
