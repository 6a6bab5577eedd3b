//! PROXY headers in and out: the rows L01 to L17 of the table of abuse, over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use crate::common::plain::echo;
use crate::rig::{Rig, read_all};

const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A v2 header by its command, family and what follows its length.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2, &[command, family], &length, body].concat()
}

/// 192.0.2.9:12345 to 192.0.2.1:80, and what follows.
fn v2_tcp4(more: &[u8]) -> Vec<u8> {
    v2(0x21, 0x11, &[&[192, 0, 2, 9, 192, 0, 2, 1, 0x30, 0x39, 0, 80], more].concat())
}

/// Sends `bytes` and ends; what came back, or that there was a reset.
fn exchange(rig: &Rig, bytes: &[u8]) -> Result<String, ErrorKind> {
    let mut client = crate::rig::try_connect(rig.address).map_err(|error| error.kind())?;
    // A reset may come while there is still something to send.
    let _ = client.write_all(bytes);
    let _ = client.shutdown(Shutdown::Write);
    read_all(&mut client).map(|all| String::from_utf8_lossy(&all).into_owned()).map_err(|error| error.kind())
}

/// What a client is to see who sends a header and then `hello`; the endpoint is told who it is by a v1 header and
/// sends back everything.
enum Want {
    /// The endpoint saw this client, and this after the header.
    Client(&'static str, &'static str),
    /// The client is the peer itself.
    Peer,
    /// A reset, without an endpoint being asked.
    Reset,
}

#[test]
fn every_header_is_taken_for_what_it_is() {
    use Want::{Client, Peer, Reset};
    let line = |text: &str| text.as_bytes().to_vec();
    let v4 = "192.0.2.9 192.0.2.1 12345 80";
    let rows: Vec<(&str, Vec<u8>, Want)> = vec![
        ("v1", line("PROXY TCP4 192.0.2.9 192.0.2.1 12345 80\r\n"), Client(v4, "hello")),
        (
            "v1 of IPv6",
            line("PROXY TCP6 2001:db8::7 2001:db8::1 99 80\r\n"),
            Client("2001:db8::7 2001:db8::1 99 80", "hello"),
        ),
        ("v2", v2_tcp4(b""), Client(v4, "hello")),
        ("L02 missing", line("GET / HTTP/1.1\r\n\r\n"), Reset),
        ("L04 too long", line(&format!("PROXY TCP4 {}\r\n", "1".repeat(120))), Reset),
        ("L04 LF only", line("PROXY TCP4 192.0.2.9 192.0.2.1 12345 80\n"), Reset),
        ("L04 lower case", line("proxy TCP4 192.0.2.9 192.0.2.1 12345 80\r\n"), Reset),
        ("L04 extra space", line("PROXY TCP4  192.0.2.9 192.0.2.1 12345 80\r\n"), Reset),
        ("L04 leading zero", line("PROXY TCP4 192.0.2.9 192.0.2.1 012345 80\r\n"), Reset),
        ("L04 port 65536", line("PROXY TCP4 192.0.2.9 192.0.2.1 65536 80\r\n"), Reset),
        ("L04 IPv4 in TCP6", line("PROXY TCP6 192.0.2.9 192.0.2.1 12345 80\r\n"), Reset),
        ("L05 unknown", line("PROXY UNKNOWN whatever follows\r\n"), Peer),
        ("L06 local", v2(0x20, 0x11, b"0123456789ab"), Peer),
        ("L06 local of no family", v2(0x20, 0x00, b""), Peer),
        ("L07 version", v2(0x31, 0x11, &[0; 12]), Reset),
        ("L07 command", v2(0x22, 0x11, &[0; 12]), Reset),
        ("L07 too short for its family", v2(0x21, 0x11, &[0; 11]), Reset),
        ("L08 authority", v2_tcp4(b"\x02\0\x04host"), Client(v4, "hello")),
        (
            "L09 an extension behind the end",
            [v2_tcp4(b""), b"\x02\0\x01x".to_vec()].concat(),
            Client(v4, "\u{2}\0\u{1}xhello"),
        ),
        ("L10 an extension beyond the end", v2_tcp4(b"\x02\0\x05host"), Reset),
        ("L10 half an extension", v2_tcp4(b"\x02\0"), Reset),
        ("L12 checksum", v2_tcp4(b"\x03\0\x04\0\0\0\0"), Reset),
        ("L13 unix", v2(0x21, 0x31, &[0; 216]), Peer),
        ("L13 unspecified", v2(0x21, 0x00, b"anything"), Peer),
        (
            "L14 a second header",
            [v2_tcp4(b""), line("PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n")].concat(),
            Client(v4, "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nhello"),
        ),
        ("L11 longer than is read", v2(0x21, 0x11, &[0; 4_200]), Reset),
    ];
    let rig = Rig::start_with(", proxyProtocol: true", ", sendProxyProtocol: v1", &[echo()], &[]);
    let mut resets = 0;
    for (name, header, want) in rows {
        let before = rig.metric("sluicegate_upstream_connects_total");
        let got = exchange(&rig, &[&*header, b"hello"].concat());
        match want {
            Client(addresses, rest) => {
                let family = if addresses.contains("::") { "TCP6" } else { "TCP4" };
                assert_eq!(got, Ok(format!("PROXY {family} {addresses}\r\n{rest}")), "{name}");
            }
            Peer => {
                let got = got.unwrap_or_else(|error| panic!("{name}: {error}"));
                assert!(got.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 "), "{name}: {got}");
                assert!(got.ends_with("\r\nhello"), "{name}: {got}");
            }
            Reset => {
                resets += 1;
                assert_eq!(got, Err(ErrorKind::ConnectionReset), "{name}");
                assert_eq!(rig.metric("sluicegate_upstream_connects_total"), before, "{name}");
            }
        }
    }
    assert_eq!(rig.ended("BadProxyHeader"), resets);
    assert_eq!(rig.metric("sluicegate_proxy_protocol_errors_total"), resets);
}

/// L15.
#[test]
fn a_header_may_come_in_any_pieces() {
    let rig = Rig::start_with(", proxyProtocol: true", "", &[echo()], &[]);
    for header in [b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\n".to_vec(), v2_tcp4(b"\x02\0\x04host")] {
        let all = [&*header, b"hello"].concat();
        for cut in 1..all.len() {
            let mut client = rig.connect();
            client.set_nodelay(true).unwrap();
            client.write_all(&all[..cut]).unwrap();
            // So that the pieces are two to the reader as well, most of the time.
            std::thread::yield_now();
            client.write_all(&all[cut..]).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            assert_eq!(read_all(&mut client).unwrap(), b"hello", "cut at {cut}");
        }
    }
}

/// L01.
#[test]
fn where_no_header_is_expected_it_is_payload() {
    let rig = Rig::start("", &[echo()]);
    for header in [b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\n".to_vec(), v2_tcp4(b"")] {
        let mut client = rig.connect();
        client.write_all(&header).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_all(&mut client).unwrap(), header);
    }
}

/// L03.
#[test]
fn headers_of_others_than_the_trusted_are_not_even_read() {
    let rig = Rig::start_with(", proxyProtocol: true, trustedProxies: [10.0.0.0/8]", "", &[echo()], &[]);
    assert_eq!(exchange(&rig, b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\nhi"), Err(ErrorKind::ConnectionReset));
    assert_eq!(exchange(&rig, b"hi"), Err(ErrorKind::ConnectionReset));
    rig.wait_ended("SourceDenied", 2);
    let rig = Rig::start_with(", proxyProtocol: true, trustedProxies: [127.0.0.0/8]", "", &[echo()], &[]);
    assert_eq!(exchange(&rig, b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\nhi"), Ok("hi".to_owned()));
}

/// L11.
#[test]
fn a_header_that_dribbles_in_is_not_waited_for() {
    let rig = Rig::start_with(", proxyProtocol: true", "", &[echo()], &[]);
    let started = Instant::now();
    let mut client = rig.connect();
    client.write_all(b"PROXY TCP4 192.").unwrap();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!((Duration::from_secs(3)..Duration::from_secs(8)).contains(&started.elapsed()));
    rig.wait_ended("BadProxyHeader", 1);
}

/// L16.
#[test]
fn the_client_of_the_header_is_the_one_that_source_ranges_judge() {
    let trusting = ", proxyProtocol: true, trustedProxies: [127.0.0.1]";
    let rig = Rig::start_with(trusting, ", sourceRanges: [192.0.2.0/24]", &[echo()], &[]);
    assert_eq!(exchange(&rig, b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\nhi"), Ok("hi".to_owned()));
    for spoofed in ["127.0.0.1", "198.51.100.7"] {
        let header = format!("PROXY TCP4 {spoofed} 192.0.2.1 1 80\r\nhi");
        assert_eq!(exchange(&rig, header.as_bytes()), Err(ErrorKind::ConnectionReset), "{spoofed}");
    }
    // Nor is the peer's own address let in by what it is.
    assert_eq!(exchange(&rig, b"PROXY UNKNOWN\r\nhi"), Err(ErrorKind::ConnectionReset));
    rig.wait_ended("SourceDenied", 3);
}

#[test]
fn ranges_that_headers_of_anybody_would_decide_let_nobody_in() {
    let rig = Rig::start_with(", proxyProtocol: true", ", sourceRanges: [192.0.2.0/24]", &[echo()], &[]);
    let forged = exchange(&rig, b"PROXY TCP4 192.0.2.9 192.0.2.1 1 80\r\nhi");
    assert_eq!(forged, Err(ErrorKind::ConnectionRefused));
    rig.gateway.wait_for_log("trustedProxies");
}

/// L17.
#[test]
fn an_endpoint_gets_exactly_one_header() {
    for version in ["v1", "v2"] {
        let rig = Rig::start("", &[echo()]);
        rig.change("", &format!(", sendProxyProtocol: {version}"), &[echo()]);
        let mut client = TcpStream::connect(rig.address).unwrap();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        client.write_all(b"hello").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let got = read_all(&mut client).unwrap();
        let mut want = Vec::new();
        match version {
            "v1" => gateway::bind::proxy_protocol::write_v1(&mut want, from, to),
            _ => gateway::bind::proxy_protocol::write_v2(&mut want, from, to),
        }
        want.extend_from_slice(b"hello");
        assert_eq!(got, want);
    }
}

#[test]
fn a_header_is_sent_to_an_endpoint_although_the_client_says_nothing() {
    let rig = Rig::start(", sendProxyProtocol: v1", &[echo()]);
    let mut client = rig.connect();
    let mut start = [0; 11];
    client.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"PROXY TCP4 ");
}
