//! Heads of HTTP/1.1: parse and encode, by the number of their fields.

use std::hint::black_box;

use anyhow::{Context, Result, ensure};
use gateway::http1::measure::Heads;

use super::{Subject, Work};

const SIZES: &[usize] = &[1, 3, 10, 30, 100];

/// See its description.
pub const PARSE: Subject = Subject {
    name: "head-parse",
    about: "Finds the end of a request head in HTTP/1.1 and parses it.",
    counts: "fields",
    sizes: SIZES,
    at_most: 1.25,
    prepare: parse,
};

/// See its description.
pub const ENCODE: Subject = Subject {
    name: "head-encode",
    about: "Writes a parsed request head as an endpoint gets it, with forwarding fields.",
    counts: "fields",
    sizes: SIZES,
    at_most: 1.25,
    prepare: encode,
};

/// A head with `Host` and others like those of browsers, about as long.
fn head(fields: usize) -> Vec<u8> {
    let mut head = String::from("GET /shop/items/4711 HTTP/1.1\r\nHost: www.example.com\r\n");
    for number in 1..fields {
        let value = "text/html,application/xhtml+xml,q=0.9".get(number % 20..).unwrap_or_default();
        head.push_str(&format!("X-Field-{number}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head.into_bytes()
}

/// Parsed, and checked: every field of the head is in what is written, and what we add is, too.
fn checked(fields: usize) -> Result<(Heads, Vec<u8>)> {
    let (mut heads, bytes) = (Heads::default(), head(fields));
    let parsed = heads.parse(&bytes).map_err(|reason| anyhow::anyhow!("refused: {reason:?}"))?;
    ensure!(parsed == fields, "{parsed} fields instead of {fields}");
    let written = std::str::from_utf8(heads.encode(&bytes))?;
    let sent = std::str::from_utf8(&bytes)?.strip_suffix("\r\n").context("no end")?;
    ensure!(sent.lines().all(|line| written.contains(line)), "a line is missing in:\n{written}");
    ensure!(
        written.contains("\r\nX-Forwarded-For: 192.0.2.1\r\n") && written.ends_with("\r\n\r\n"),
        "{written}"
    );
    ensure!(heads.parse(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n").is_err(), "two hosts are accepted");
    heads.parse(&bytes).map_err(|reason| anyhow::anyhow!("refused: {reason:?}"))?;
    Ok((heads, bytes))
}

fn parse(fields: usize) -> Result<Work> {
    let (mut heads, bytes) = checked(fields)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            let _ = black_box(heads.parse(black_box(&bytes)));
        }
    }))
}

fn encode(fields: usize) -> Result<Work> {
    let (mut heads, bytes) = checked(fields)?;
    Ok(Box::new(move |times| {
        for _ in 0..times {
            black_box(heads.encode(black_box(&bytes)));
        }
    }))
}
