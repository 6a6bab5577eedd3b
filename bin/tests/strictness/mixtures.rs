//! Requests put together at random from good and bad parts. Whatever they are, what a backend receives is strict
//! HTTP/1.1, and it receives as many requests as the client gets answers from it: the two sides never disagree on
//! where a request ends.

use crate::case::Outcome;
use crate::client::{End, shown};
use crate::gateway::Setup;
use crate::wire::{self, Parsed};

/// Which pieces are put together; the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(bound).unwrap()).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        of[self.below(of.len())]
    }

    /// Mostly the first, which is the good one.
    fn good_or<'a>(&mut self, of: &[&'a [u8]]) -> &'a [u8] {
        if self.below(4) > 0 { of[0] } else { self.one(of) }
    }
}

const LINES: &[&[u8]] = &[
    b"POST / HTTP/1.1",
    b"GET / HTTP/1.1",
    b"GET / HTTP/1.0",
    b"POST /a/../b?c HTTP/1.1",
    b"GET http://a/ HTTP/1.1",
    b"GET  / HTTP/1.1",
    b"GET / HTTP/1.1 ",
    b"GET /\x80 HTTP/1.1",
    b"GET / HTTP/1.2",
    b"",
];
const ENDS: &[&[u8]] = &[b"\r\n", b"\n", b"\r", b"\r\r\n", b"\r\n ", b" \r\n", b"\0\r\n"];
const HOSTS: &[&[u8]] =
    &[b"Host: a", b"Host: a\r\nHost: b", b"X: y", b"Host : a", b"Host: a:80", b"Host:\ta"];
const FIELDS: &[&[u8]] = &[
    b"X: y",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 31",
    b"Content-Length: +5",
    b"Content-Length: 5, 5",
    b"Content-Length : 5",
    b"Content_Length: 3",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: Chunked ",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \r\n chunked",
    b"Transfer_Encoding: chunked",
    b"Connection: content-length",
    b"Connection: keep-alive, x",
    b"Connection: close",
    b"Trailer: content-length",
    b"X\xff: y",
    b"X: \xff",
    b": v",
    b"no colon",
];
const BODIES: &[&[u8]] = &[
    b"5\r\nhello\r\n0\r\n\r\n",
    b"",
    b"hello",
    b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n1234",
    b"0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nContent-Length: 5\r\n\r\n",
    b"5 \r\nhello\r\n0\r\n\r\n",
    b"5\nhello\n0\n\n",
    b"6\r\nhello\r\n0\r\n\r\n",
    b"4\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello\r\n0\r\nX: y\n\r\n",
    b"ffffffffffffffff\r\n",
    b"5\r\nhel",
];

fn mixture(dice: &mut Dice) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..=dice.below(3) {
        let mut lines = vec![dice.good_or(LINES), dice.good_or(HOSTS)];
        for _ in 0..dice.below(3) {
            lines.push(dice.one(FIELDS));
        }
        // A body mostly goes with a length.
        if dice.below(3) > 0 {
            lines.push(FIELDS[[1, 8][dice.below(2)]]);
        }
        for line in lines {
            bytes.extend(line);
            bytes.extend(if dice.below(12) > 0 { b"\r\n" } else { dice.one(ENDS) });
        }
        bytes.extend(dice.good_or(ENDS));
        bytes.extend(dice.good_or(BODIES));
    }
    bytes
}

/// Tries so many mixtures, each on a connection of its own.
pub(crate) fn run(setup: &Setup, count: u64) -> Vec<Outcome> {
    let one = |seed| {
        let bytes = mixture(&mut Dice(seed));
        let result = try_one(setup, &bytes).map_err(|why| format!("{why}\n  sent {}", shown(&bytes)));
        (format!("mixture {seed}"), result)
    };
    (0..count).map(one).collect()
}

fn try_one(setup: &Setup, bytes: &[u8]) -> Result<(), String> {
    let marks = setup.marks();
    let mut client = setup.client();
    client.send(bytes);
    client.fin();
    if client.read_to_end() == End::Open {
        return Err("connection stays open".into());
    }
    let answered = answers(&client.buffer)?;
    setup.sentinel()?;
    setup.await_aborts(&marks)?;
    let mut arrived = 0;
    for (_, received) in setup.since(&marks) {
        if let Some(why) = received.invalid {
            return Err(format!("backend got no strict HTTP: {why}; {}", shown(&received.rest)));
        }
        arrived += received.requests.len();
    }
    if arrived == answered {
        Ok(())
    } else {
        Err(format!("{arrived} requests arrived, {answered} were answered: {}", client.shown()))
    }
}

/// How many answers came from a backend. At most one other one follows, and ends the connection.
fn answers(mut bytes: &[u8]) -> Result<usize, String> {
    let mut count = 0;
    while !bytes.is_empty() {
        let Parsed::Complete(head, length) = wire::parse_response_head(bytes) else {
            return Err(format!("client got no strict HTTP: {}", shown(bytes)));
        };
        bytes = &bytes[length..];
        let framing = wire::response_framing(&head, "GET")?;
        let Parsed::Complete(_, length) = wire::parse_body(bytes, framing) else {
            return Err(format!("client got no whole body: {}", shown(bytes)));
        };
        bytes = &bytes[length..];
        if head.status() == 200 {
            count += 1;
        } else if !bytes.is_empty() {
            return Err(format!("more after {:?}: {}", head.line, shown(bytes)));
        }
    }
    Ok(count)
}
