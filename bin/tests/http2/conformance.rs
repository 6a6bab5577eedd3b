//! What becomes of malformed HTTP/2, row by row. H numbers are those of the list of cases that the project keeps; rows
//! that concern floods are in `abuse`.

use std::time::Duration;

use crate::frames::{
    ACK, COMPRESSION_ERROR, CONTINUATION, DATA, END_HEADERS, END_STREAM, FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR, GOAWAY, HEADERS, Outcome, PADDED, PING, PRIORITIZED, PRIORITY, PROTOCOL_ERROR,
    PUSH_PROMISE, RST_STREAM, Raw, SETTINGS, STREAM_CLOSED, WINDOW_UPDATE, block, frame, get, get_frame,
    literal, request,
};
use crate::origin::{Origin, Site};

/// What may become of stream 1.
enum Want {
    /// The connection ends with one of these codes.
    Goaway(&'static [u32]),
    /// The stream is reset with PROTOCOL_ERROR or the connection ends with it; no endpoint hears of the request.
    Malformed,
    /// The stream, or the connection, ends with one of these codes.
    Either(&'static [u32]),
    /// The gateway answers by itself.
    Refused(u16),
    /// Answered by the endpoint.
    Served,
}

struct Row {
    id: &'static str,
    bytes: Vec<u8>,
    want: Want,
}

fn row(id: &'static str, bytes: impl AsRef<[u8]>, want: Want) -> Row {
    Row { id, bytes: bytes.as_ref().to_vec(), want }
}

impl Row {
    fn run(&self, site: &Site, origin: &Origin) -> Result<(), String> {
        let before = origin.lines().len();
        let mut raw = Raw::connect(site.http);
        raw.send(&self.bytes);
        let outcome = raw.outcome(1);
        let is_right = match (&self.want, outcome) {
            (Want::Goaway(codes), Outcome::Goaway(code)) => codes.contains(&code),
            (Want::Malformed, Outcome::Reset(code) | Outcome::Goaway(code)) => code == PROTOCOL_ERROR,
            (Want::Either(codes), Outcome::Reset(code) | Outcome::Goaway(code)) => codes.contains(&code),
            (Want::Refused(want), Outcome::Status(status)) => *want == status,
            (Want::Served, Outcome::Status(200)) => true,
            _ => false,
        };
        if !is_right {
            return Err(format!("{outcome:?}"));
        }
        if let Outcome::Goaway(_) = outcome {
            raw.end(Duration::from_secs(1))?;
        } else {
            // The connection goes on.
            raw.send(get_frame(99, "/after"));
            if raw.body(99) == 0 {
                return Err(format!("{outcome:?}, and then nothing more is served"));
            }
        }
        let lines = origin.lines().split_off(before);
        let heard = lines.iter().any(|line| line.contains("/row"));
        if heard != matches!(self.want, Want::Served)
            && !matches!(self.want, Want::Goaway(_) | Want::Either(_))
        {
            return Err(format!("{outcome:?}, and the endpoint got {lines:?}"));
        }
        Ok(())
    }
}

#[track_caller]
fn check(rows: Vec<Row>) {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|row| row.run(&site, &origin).err().map(|why| format!("{}: {why}", row.id)))
        .collect();
    assert!(wrong.is_empty(), "{} of {} rows\n{}", wrong.len(), rows.len(), wrong.join("\n"));
    assert!(site.metric("sluicegate_panics_total", &[]) < 0.5);
}

/// A request whose fields are these, in their order.
fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(fields))
}

/// `GET /row` with more fields.
fn and(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = get("/row");
    all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&all))
}

/// `GET /row` with one pseudo-header field changed.
fn with(name: &str, value: &str) -> Vec<u8> {
    let mut all = get("/row");
    all.iter_mut().filter(|(known, _)| known == name).for_each(|(_, old)| *old = value.to_owned());
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&all))
}

/// `GET /row` without one pseudo-header field.
fn without(name: &str) -> Vec<u8> {
    let mut all = get("/row");
    all.retain(|(known, _)| known != name);
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&all))
}

/// The head of `POST /row` with these fields, its body still to come.
fn post(more: &[(&str, &str)]) -> Vec<u8> {
    let mut all = request("POST", "/row");
    all.extend(more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    frame(HEADERS, END_HEADERS, 1, block(&all))
}

fn window_update(stream: u32, by: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, by.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, [&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

const PROTOCOL: Want = Want::Goaway(&[PROTOCOL_ERROR]);
/// RFC 9113 names FRAME_SIZE_ERROR; both end the connection.
const SIZE: Want = Want::Goaway(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]);

#[test]
fn frames_on_the_wrong_stream() {
    let open = || get_frame(1, "/row");
    check(vec![
        row("H02 DATA on idle", frame(DATA, 0, 1, "x"), PROTOCOL),
        row("H02 RST_STREAM on idle", frame(RST_STREAM, 0, 1, [0; 4]), PROTOCOL),
        row("H02 WINDOW_UPDATE on idle", window_update(1, 1), PROTOCOL),
        row("H02 CONTINUATION on idle", frame(CONTINUATION, END_HEADERS, 1, ""), PROTOCOL),
        row(
            "H03 DATA on half-closed",
            [open(), frame(DATA, 0, 1, "x")].concat(),
            Want::Either(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        row(
            "H03 HEADERS on half-closed",
            [open(), open()].concat(),
            Want::Either(&[STREAM_CLOSED, PROTOCOL_ERROR]),
        ),
        row("H04 even", get_frame(2, "/row"), PROTOCOL),
        row("H04 decreasing", [get_frame(5, "/five"), get_frame(3, "/row")].concat(), PROTOCOL),
        row("H07 PING on a stream", frame(PING, 0, 1, [0; 8]), PROTOCOL),
        row("H07 SETTINGS on a stream", frame(SETTINGS, 0, 1, ""), PROTOCOL),
        row("H07 GOAWAY on a stream", frame(GOAWAY, 0, 1, [0; 8]), PROTOCOL),
        row("H07 DATA on 0", frame(DATA, 0, 0, "x"), PROTOCOL),
        row("H07 HEADERS on 0", get_frame(0, "/row"), PROTOCOL),
        row("H07 RST_STREAM on 0", frame(RST_STREAM, 0, 0, [0; 4]), PROTOCOL),
        row("H07 PRIORITY on 0", frame(PRIORITY, 0, 0, [0; 5]), PROTOCOL),
        row("H14 PUSH_PROMISE", frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2]), PROTOCOL),
        row("H14 unknown frame", [frame(0xfa, 0xff, 1, "what"), open()].concat(), Want::Served),
        row("H14 unknown setting", [setting(0x99, 7), open()].concat(), Want::Served),
    ]);
}

#[test]
fn sizes_and_values_of_frames() {
    let body = || post(&[]);
    check(vec![
        row("H06 DATA too large", [body(), frame(DATA, 0, 1, [0; 16_385])].concat(), SIZE),
        row("H06 PING", frame(PING, 0, 0, [0; 7]), SIZE),
        row("H06 RST_STREAM", [body(), frame(RST_STREAM, 0, 1, [0; 3])].concat(), SIZE),
        row("H06 PRIORITY", frame(PRIORITY, 0, 1, [0; 4]), Want::Either(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR])),
        row("H06 WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, [0; 3]), SIZE),
        row("H06 SETTINGS", frame(SETTINGS, 0, 0, [0; 5]), SIZE),
        row("H08 ENABLE_PUSH 2", setting(2, 2), PROTOCOL),
        row("H08 window", setting(4, 1 << 31), Want::Goaway(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR])),
        row("H08 frame size 1", setting(5, 1), PROTOCOL),
        row("H08 frame size 2^24", setting(5, 1 << 24), PROTOCOL),
        row("H09 ACK with payload", frame(SETTINGS, ACK, 0, [0; 6]), SIZE),
        row("H10 connection by 0", window_update(0, 0), PROTOCOL),
        row("H10 stream by 0", [body(), window_update(1, 0)].concat(), Want::Either(&[PROTOCOL_ERROR])),
        row("H10 connection overflow", window_update(0, 0x7fff_ffff), Want::Goaway(&[FLOW_CONTROL_ERROR])),
        row(
            "H10 stream overflow",
            [body(), window_update(1, 0x7fff_ffff)].concat(),
            Want::Either(&[FLOW_CONTROL_ERROR]),
        ),
        row(
            "H10 overflow by SETTINGS",
            [body(), window_update(1, 0x7fff_0000), setting(4, 0x7fff_ffff)].concat(),
            Want::Goaway(&[FLOW_CONTROL_ERROR]),
        ),
        row("H12 DATA padding", [body(), frame(DATA, PADDED, 1, [5, 0, 0, 0, 0])].concat(), PROTOCOL),
        row("H12 HEADERS padding", frame(HEADERS, PADDED | END_HEADERS, 1, [9, 0x82]), PROTOCOL),
        row(
            "H12 all padding",
            [body(), frame(DATA, PADDED, 1, [3, 0, 0, 0]), frame(DATA, PADDED | END_STREAM, 1, [1, b'x', 0])]
                .concat(),
            Want::Served,
        ),
        row("H58 empty block", frame(HEADERS, END_STREAM | END_HEADERS, 1, ""), Want::Malformed),
        row(
            "H58 depends on itself",
            frame(
                HEADERS,
                END_STREAM | END_HEADERS | PRIORITIZED,
                1,
                [&[0, 0, 0, 1, 0][..], &block(&get("/row"))].concat(),
            ),
            Want::Malformed,
        ),
        row(
            "H58 PRIORITY on itself",
            [frame(PRIORITY, 0, 1, [0, 0, 0, 1, 0])].concat(),
            Want::Either(&[PROTOCOL_ERROR]),
        ),
    ]);
}

#[test]
fn field_blocks() {
    let open = frame(HEADERS, END_STREAM, 1, block(&get("/row")));
    let compression = || Want::Goaway(&[COMPRESSION_ERROR, PROTOCOL_ERROR]);
    let headers = |payload: &[u8]| frame(HEADERS, END_STREAM | END_HEADERS, 1, payload);
    check(vec![
        row("H11 interrupted", [&open[..], &frame(PING, 0, 0, [0; 8])].concat(), PROTOCOL),
        row("H11 other stream", [&open[..], &frame(CONTINUATION, END_HEADERS, 3, "")].concat(), PROTOCOL),
        row("H11 stream 0", [&open[..], &frame(CONTINUATION, END_HEADERS, 0, "")].concat(), PROTOCOL),
        row(
            "H11 after the end",
            [get_frame(1, "/row"), frame(CONTINUATION, END_HEADERS, 1, "")].concat(),
            PROTOCOL,
        ),
        row(
            "H11 in pieces",
            [
                &open[..],
                &frame(CONTINUATION, 0, 1, literal(b"x", b"y")),
                &frame(CONTINUATION, END_HEADERS, 1, ""),
            ]
            .concat(),
            Want::Served,
        ),
        row("H13 index 0", headers(&[0x80]), compression()),
        row("H13 index out of the table", headers(&[0xc8]), compression()),
        row("H13 endless index", headers(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f]), compression()),
        row("H13 Huffman EOS", headers(&[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'x']), compression()),
        row("H13 Huffman padding", headers(&[0x00, 0x01, b'x', 0x82, 0xff, 0xff]), compression()),
        row("H13 table larger than ours", headers(&[0x3f, 0xe2, 0x1f]), compression()),
        row("H13 table change within", headers(&[&block(&get("/row"))[..], &[0x20]].concat()), compression()),
        row("H13 cut off", headers(&[0x00, 0x05, b'x']), compression()),
    ]);
}

#[test]
fn pseudo_header_fields() {
    check(vec![
        row("H15 no method", without(":method"), Want::Malformed),
        row("H15 no scheme", without(":scheme"), Want::Malformed),
        row("H15 no path", without(":path"), Want::Malformed),
        row("H15 no authority", without(":authority"), Want::Malformed),
        row("H15 two methods", and_first(":method", "GET"), Want::Malformed),
        row("H15 two schemes", and_first(":scheme", "http"), Want::Malformed),
        row("H15 two paths", and_first(":path", "/row"), Want::Malformed),
        row("H15 two authorities", and_first(":authority", "a"), Want::Malformed),
        row("H15 empty path", with(":path", ""), Want::Malformed),
        row("H16 unknown", and_first(":what", "x"), Want::Malformed),
        row("H16 status", and_first(":status", "200"), Want::Malformed),
        row(
            "H16 after a field",
            fields(&[
                (":method", "GET"),
                (":scheme", "http"),
                ("x", "y"),
                (":path", "/row"),
                (":authority", "a"),
            ]),
            Want::Malformed,
        ),
        // The library drops them without a word; what matters is that they go nowhere.
        row(
            "H16 in trailers",
            [post(&[]), frame(HEADERS, END_STREAM | END_HEADERS, 1, literal(b":path", b"/row"))].concat(),
            Want::Served,
        ),
        row("H20 no slash", with(":path", "row"), Want::Malformed),
        row("H20 asterisk", with(":path", "*"), Want::Malformed),
        row("H20 space", with(":path", "/row b"), Want::Malformed),
        row("H20 NUL", with(":path", "/row\0"), Want::Malformed),
        row("H20 absolute", with(":path", "http://b/row"), Want::Malformed),
        row("H20 query alone", with(":path", "?row"), Want::Malformed),
        row("H20 above the root", with(":path", "/../row"), Want::Refused(400)),
        row("H21 with a path", with(":scheme", "http://localhost/?"), Want::Malformed),
        row("H21 with a space", with(":scheme", "HTTPS "), Want::Malformed),
        row("H21 other", with(":scheme", "javascript"), Want::Malformed),
        row("H22 with a mark", with(":method", "GET?"), Want::Malformed),
        row("H22 with a line", with(":method", "GET /x HTTP/1.1\r\nHost: b\r\n\r\n"), Want::Malformed),
        row("H22 TRACE", with(":method", "TRACE"), Want::Refused(405)),
        row("H23 with a line", with(":authority", "a\r\nx: y"), Want::Malformed),
        row("H23 with a path", with(":authority", "a/x"), Want::Malformed),
        row("H23 with a user", with(":authority", "u@a"), Want::Malformed),
        row("H23 a list", with(":authority", "a,b"), Want::Malformed),
        row("H23 empty", with(":authority", ""), Want::Malformed),
        row("H24 another host", and(&[("host", "b")]), Want::Malformed),
        row("H24 two hosts", and(&[("host", "a"), ("host", "a")]), Want::Malformed),
        row("H24 the same host", and(&[("host", "A:80")]), Want::Served),
        row(
            "H25 host alone",
            fields(&[(":method", "GET"), (":scheme", "http"), (":path", "/row"), ("host", "a")]),
            Want::Served,
        ),
        row("H33 with scheme and path", with(":method", "CONNECT"), Want::Malformed),
        row("H33 plain", fields(&[(":method", "CONNECT"), (":authority", "a:80")]), Want::Refused(405)),
        row("H32 no path", and_connect(&[(":protocol", "websocket"), (":scheme", "http")]), Want::Malformed),
        row("H32 no scheme", and_connect(&[(":protocol", "websocket"), (":path", "/row")]), Want::Malformed),
        row("H32 protocol without CONNECT", and_first(":protocol", "websocket"), Want::Malformed),
        row(
            "H32 other protocol",
            and_connect(&[(":protocol", "h2c"), (":scheme", "http"), (":path", "/row")]),
            Want::Refused(501),
        ),
    ]);
}

/// `GET /row` with one more pseudo-header field at its head.
fn and_first(name: &str, value: &str) -> Vec<u8> {
    let all = [vec![(name.to_owned(), value.to_owned())], get("/row")].concat();
    frame(HEADERS, END_STREAM | END_HEADERS, 1, block(&all))
}

fn and_connect(more: &[(&str, &str)]) -> Vec<u8> {
    fields(&[&[(":method", "CONNECT"), (":authority", "a")], more].concat())
}

#[test]
fn fields_of_requests() {
    let hundred = |more: usize| {
        let names: Vec<String> = (0..99 + more).map(|index| format!("x-{index}")).collect();
        let all: Vec<(&str, &str)> = names.iter().map(|name| (&**name, "y")).collect();
        and(&all)
    };
    check(vec![
        row("H17 upper case", and(&[("X-Up", "y")]), Want::Malformed),
        row("H17 empty", and(&[("", "y")]), Want::Malformed),
        row("H17 control", and(&[("x\x01", "y")]), Want::Malformed),
        row("H17 space", and(&[("x y", "y")]), Want::Malformed),
        row("H17 colon", and(&[("x:y", "y")]), Want::Malformed),
        row("H18 CRLF", and(&[("x", "y\r\nz: 1")]), Want::Malformed),
        row("H18 LF", and(&[("x", "y\nz: 1")]), Want::Malformed),
        row("H18 NUL", and(&[("x", "y\0")]), Want::Malformed),
        row("H18 white space around", and(&[("x", " y\t")]), Want::Served),
        row("H19 connection", and(&[("connection", "close")]), Want::Malformed),
        row("H19 transfer-encoding", and(&[("transfer-encoding", "chunked")]), Want::Malformed),
        row("H19 upgrade", and(&[("upgrade", "h2c")]), Want::Malformed),
        row("H19 keep-alive", and(&[("keep-alive", "x")]), Want::Malformed),
        row("H19 proxy-connection", and(&[("proxy-connection", "x")]), Want::Malformed),
        row("H19 te", and(&[("te", "gzip")]), Want::Malformed),
        row("H19 te: trailers", and(&[("te", "trailers")]), Want::Served),
        row("H27 length without body", and(&[("content-length", "5")]), Want::Malformed),
        row(
            "H27 more than the length",
            [post(&[("content-length", "1")]), frame(DATA, 0, 1, "xy")].concat(),
            Want::Either(&[PROTOCOL_ERROR]),
        ),
        row(
            "H27 less than the length",
            [post(&[("content-length", "3")]), frame(DATA, END_STREAM, 1, "xy")].concat(),
            Want::Either(&[PROTOCOL_ERROR]),
        ),
        row("H27 two lengths", post(&[("content-length", "1"), ("content-length", "2")]), Want::Malformed),
        row(
            "H27 the same twice",
            post(&[("content-length", "1"), ("content-length", "1")]),
            Want::Refused(400),
        ),
        row("H27 letters", post(&[("content-length", "x")]), Want::Malformed),
        row("H27 sign", post(&[("content-length", "+5")]), Want::Malformed),
        row("H60 as many fields as may be", hundred(0), Want::Served),
        row("H60 one more", hundred(1), Want::Refused(431)),
    ]);
}

#[test]
fn trailers_that_end_nothing_are_malformed() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let mut raw = Raw::connect(site.http);
    raw.send(
        [post(&[]), frame(DATA, 0, 1, "x"), frame(HEADERS, END_HEADERS, 1, literal(b"x", b"y"))].concat(),
    );
    assert!(matches!(raw.outcome(1), Outcome::Reset(PROTOCOL_ERROR) | Outcome::Goaway(PROTOCOL_ERROR)));
}

/// H60: the limit counts names, values and 32 bytes each (RFC 9113 §6.5.2).
#[test]
fn a_list_of_fields_may_have_exactly_the_limit() {
    let origin = Origin::plain();
    let site = Site::plain(&origin);
    let sizes: usize = get("/row").iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    for (more, want) in [(0, 200), (1, 431)] {
        let mut left = 65_536 - sizes + more;
        let mut all = get("/row");
        while left > 0 {
            let size = if left > 10_000 { 8_000 } else { left };
            all.push(("x".to_owned(), "y".repeat(size - 33)));
            left -= size;
        }
        let bytes = block(&all);
        let mut raw = Raw::connect(site.http);
        let pieces: Vec<&[u8]> = bytes.chunks(16_384).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let flags = if index + 1 == pieces.len() { END_HEADERS } else { 0 };
            let bytes = if index == 0 {
                frame(HEADERS, flags | END_STREAM, 1, piece)
            } else {
                frame(CONTINUATION, flags, 1, piece)
            };
            raw.send(bytes);
        }
        assert_eq!(raw.outcome(1), Outcome::Status(want));
    }
}
