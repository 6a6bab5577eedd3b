use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use config::table::{L4Key, Transport};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::record::{Reason, Record, Version};
use crate::tcp::{L4End, L4Record};

const WAIT: Duration = Duration::from_secs(10);

fn wall() -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(1_700_000_000_007)
}

fn record<'a>() -> Record<'a> {
    Record {
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        method: b"GET",
        host: b"shop.example.com",
        target: b"/cart?item=1",
        version: Version::Http11,
        request_id: b"0123456789abcdef",
        user_agent: b"curl/8.9",
        referer: b"https://example.com/",
        status: 200,
        reason: Reason::Forwarded,
        route: Some("ingress/shop/web"),
        backend: Some("shop/web:80"),
        endpoint: Some(SocketAddr::from(([10, 0, 0, 1], 8080))),
        attempts: 1,
        request_bytes: 0,
        response_bytes: 13,
        duration: Duration::from_micros(1_234),
        response_head: Some(Duration::from_micros(1_100)),
    }
}

/// Writes `records` through a real pipe and the writer thread.
fn written(format: Format, records: &[Record<'_>]) -> String {
    let (mut reader, writer) = io::pipe().unwrap();
    let log = AccessLog::start(format, Destination::Fd(writer.into()), 1).unwrap();
    let mut worker = log.worker(0);
    for record in records {
        worker.write(record, wall());
    }
    drop(worker);
    assert!(log.close(WAIT));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_json_line_has_the_documented_fields() {
    let text = written(Format::Json, &[record()]);
    assert_eq!(
        text,
        concat!(
            r#"{"time":"2023-11-14T22:13:20.007Z","client.addr":"192.0.2.7","method":"GET","#,
            r#""host":"shop.example.com","path":"/cart?item=1","http.version":"1.1","status":200,"#,
            r#""reason":"Forwarded","route":"ingress/shop/web","backend":"shop/web:80","#,
            r#""endpoint":"10.0.0.1:8080","attempts":1,"bytes.in":0,"bytes.out":13,"duration_us":1234,"#,
            r#""upstream.head_us":1100,"request_id":"0123456789abcdef","user_agent":"curl/8.9","#,
            r#""referer":"https://example.com/"}"#,
            "\n"
        )
    );
}

#[test]
fn what_is_unknown_is_left_out_of_a_json_line() {
    let mut refused = record();
    (refused.method, refused.host, refused.target) = (b"", b"", b"");
    (refused.request_id, refused.user_agent, refused.referer) = (b"", b"", b"");
    (refused.route, refused.backend, refused.endpoint, refused.response_head) = (None, None, None, None);
    (refused.status, refused.reason, refused.attempts) = (400, Reason::BadRequest, 0);
    let line: Value = serde_json::from_str(&written(Format::Json, &[refused])).unwrap();
    for absent in ["route", "backend", "endpoint", "upstream.head_us", "request_id", "user_agent", "referer"]
    {
        assert_eq!(line.get(absent), None, "{absent}");
    }
    assert_eq!(line["method"], "");
    assert_eq!(line["reason"], "BadRequest");
}

#[test]
fn a_combined_line_is_what_log_analysers_expect() {
    let mut none = record();
    (none.method, none.referer, none.user_agent, none.status) = (b"", b"", b"", 0);
    (none.client, none.response_bytes) = ("2001:db8::1".parse().unwrap(), 0);
    assert_eq!(
        written(Format::Combined, &[record(), none]),
        concat!(
            "192.0.2.7 - - [14/Nov/2023:22:13:20 +0000] \"GET /cart?item=1 HTTP/1.1\" 200 13 ",
            "\"https://example.com/\" \"curl/8.9\"\n",
            "2001:db8::1 - - [14/Nov/2023:22:13:20 +0000] \"-\" 000 0 \"-\" \"-\"\n",
        )
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_header_value_breaks_the_json_or_the_line(
        target: Vec<u8>, host: Vec<u8>, user_agent: Vec<u8>, referer: Vec<u8>, method: Vec<u8>, id: Vec<u8>,
    ) {
        let mut hostile = record();
        (hostile.target, hostile.host, hostile.user_agent) = (&target, &host, &user_agent);
        (hostile.referer, hostile.method, hostile.request_id) = (&referer, &method, &id);
        let text = written(Format::Json, &[hostile]);
        prop_assert_eq!(text.matches('\n').count(), 1);
        let line: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(line["path"].as_str().unwrap(), String::from_utf8_lossy(&target));
        prop_assert_eq!(line["status"].as_u64(), Some(200));
    }
}

#[test]
fn the_longest_possible_line_stays_within_its_bound_and_a_buffer() {
    let hostile = vec![1; 70_000];
    let name = "\u{1}".repeat(70_000);
    let name = name.as_str();
    let mut longest = record();
    (longest.target, longest.host, longest.user_agent) = (&hostile, &hostile, &hostile);
    (longest.referer, longest.method, longest.request_id) = (&hostile, &hostile, &hostile);
    (longest.route, longest.backend) = (Some(name), Some(name));
    longest.client = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
    longest.endpoint = Some("[1111:2222:3333:4444:5555:6666:7777:8888%4294967295]:65535".parse().unwrap());
    (longest.request_bytes, longest.response_bytes) = (u64::MAX, u64::MAX);
    (longest.duration, longest.response_head) = (Duration::MAX, Some(Duration::MAX));
    (longest.status, longest.version, longest.attempts) = (u16::MAX, Version::Http2, u8::MAX);
    for format in [Format::Json, Format::Combined] {
        let mut line = Vec::new();
        match format {
            Format::Json => line::json(&mut line, &mut clock::Clock::default(), &longest, wall()),
            _ => line::combined(&mut line, &mut clock::Clock::default(), &longest, wall()),
        }
        assert!(line.len() <= line::bound(&longest), "{}", line.len());
    }
    assert!(line::bound(&longest) <= BUFFER_BYTES);
}

#[test]
fn a_full_pipe_drops_lines_and_never_the_worker() {
    let (reader, writer) = io::pipe().unwrap();
    let log = AccessLog::start(Format::Json, Destination::Fd(writer.into()), 1).unwrap();
    let mut worker = log.worker(0);
    let total = 20_000;
    for _ in 0..total {
        worker.write(&record(), wall());
    }
    let stats = Arc::clone(log.stats());
    assert!(stats.dropped_lines() > 0, "nobody reads, so the buffers must run out");
    let counting = std::thread::spawn(move || BufReader::new(reader).lines().map_while(Result::ok).count());
    drop(worker);
    assert!(log.close(WAIT));
    let read = u64::try_from(counting.join().unwrap()).unwrap();
    assert_eq!(read, stats.written_lines());
    assert_eq!(read + stats.dropped_lines(), total);
}

#[test]
fn buffers_are_recycled_so_every_line_arrives_while_the_reader_keeps_up() {
    let (reader, writer) = io::pipe().unwrap();
    let log = AccessLog::start(Format::Combined, Destination::Fd(writer.into()), 2).unwrap();
    let mut lines = BufReader::new(reader).lines();
    let mut workers = [log.worker(0), log.worker(1)];
    for _ in 0..200 {
        for worker in &mut workers {
            worker.write(&record(), wall());
            worker.flush();
        }
        for _ in 0..2 {
            assert!(lines.next().unwrap().unwrap().starts_with("192.0.2.7 - - ["));
        }
    }
    assert_eq!(log.stats().dropped_lines(), 0);
}

#[test]
fn a_closed_pipe_is_an_error_that_is_counted() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let log = AccessLog::start(Format::Json, Destination::Fd(writer.into()), 1).unwrap();
    let stats = Arc::clone(log.stats());
    let mut worker = log.worker(0);
    worker.write(&record(), wall());
    drop(worker);
    assert!(log.close(WAIT));
    assert_eq!((stats.written_lines(), stats.dropped_lines(), stats.write_errors()), (0, 1, 1));
}

#[test]
fn close_does_not_wait_longer_than_told_for_a_pipe_that_nobody_reads() {
    let (_reader, writer) = io::pipe().unwrap();
    let log = AccessLog::start(Format::Json, Destination::Fd(writer.into()), 1).unwrap();
    let mut worker = log.worker(0);
    for _ in 0..1_000 {
        worker.write(&record(), wall());
    }
    drop(worker);
    assert!(!log.close(Duration::from_millis(10)));
}

#[test]
fn reopen_follows_a_rename_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (current, rotated) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let log = AccessLog::start(Format::Json, Destination::File(current.clone()), 1).unwrap();
    let mut worker = log.worker(0);
    worker.write(&record(), wall());
    worker.flush();
    while log.stats().written_lines() == 0 {
        std::thread::yield_now();
    }
    std::fs::rename(&current, &rotated).unwrap();
    log.reopen();
    worker.write(&record(), wall());
    drop(worker);
    assert!(log.close(WAIT));
    assert_eq!(std::fs::read_to_string(rotated).unwrap().lines().count(), 1);
    assert_eq!(std::fs::read_to_string(current).unwrap().lines().count(), 1);
}

#[test]
fn off_opens_nothing_and_writes_nothing() {
    let path = PathBuf::from("/nonexistent/access.log");
    let log = AccessLog::start(Format::Off, Destination::File(path), 1).unwrap();
    let mut worker = log.worker(0);
    worker.write(&record(), wall());
    worker.flush();
    drop(worker);
    assert!(log.close(WAIT));
}

#[test]
fn a_file_that_cannot_be_opened_is_said_at_once() {
    let path = PathBuf::from("/nonexistent/access.log");
    assert!(AccessLog::start(Format::Json, Destination::File(path), 1).is_err());
}

#[test]
fn format_names_are_those_of_the_command_line() {
    for (name, format) in [("off", Format::Off), ("json", Format::Json), ("combined", Format::Combined)] {
        assert_eq!(name.parse(), Ok(format));
    }
    assert_eq!("JSON".parse::<Format>(), Err(UnknownFormat));
}

#[test]
fn the_documented_keys_and_examples_are_what_is_written() {
    let page = include_str!("../../../docs/access-log.md");
    let json = written(Format::Json, &[record()]);
    let combined = written(Format::Combined, &[record()]);
    assert!(page.contains(&format!("```json\n{json}```")), "the JSON example differs from\n{json}");
    assert!(page.contains(&format!("```text\n{combined}```")), "the example differs from\n{combined}");
    let (requests, connections) = page.split_once("\n### Connections of TCP routes\n").unwrap();
    documents(requests, &json);
    let relayed = relayed(Format::Json);
    documents(connections, &relayed);
    assert!(page.contains(&format!("```json\n{relayed}```")), "the JSON example differs from\n{relayed}");
    let combined = self::relayed(Format::Combined);
    assert!(page.contains(&format!("```text\n{combined}```")), "the example differs from\n{combined}");
}

/// Writes one relayed connection through a real pipe and the writer thread.
fn relayed(format: Format) -> String {
    let (mut reader, writer) = io::pipe().unwrap();
    let log = AccessLog::start(format, Destination::Fd(writer.into()), 1).unwrap();
    let record = L4Record {
        bind: L4Key { address: SocketAddr::from(([0, 0, 0, 0], 5432)), transport: Transport::Tcp },
        client: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)),
        client_port: 40_001,
        end: L4End::Closed,
        route: Some("listener/postgres"),
        backend: Some("database"),
        endpoint: Some(SocketAddr::from(([10, 0, 0, 5], 5432))),
        attempts: 1,
        bytes_in: 2_048,
        bytes_out: 65_536,
        duration: Duration::from_millis(1_500),
    };
    let mut worker = log.worker(0);
    worker.write_l4(&record, wall());
    drop(worker);
    assert!(log.close(WAIT));
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    text
}

/// The table of `page` has the keys of `json`, in their order.
fn documents(page: &str, json: &str) {
    let documented: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key)
        .collect();
    let mut at = 0;
    for key in &documented {
        let found = json.find(&format!("\"{key}\":")).unwrap_or_else(|| panic!("{key} is not written"));
        assert!(found >= at, "{key} is not in the documented order");
        at = found;
    }
    let line: serde_json::Map<String, Value> = serde_json::from_str(json).unwrap();
    assert_eq!(documented.len(), line.len(), "an undocumented key is written");
}
