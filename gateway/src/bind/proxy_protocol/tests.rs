use proptest::prelude::*;

use super::*;

const IPV4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0x01, 0xbb];

fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let mut header = V2_SIGNATURE.to_vec();
    header.extend([command, family]);
    header.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    header.extend(body);
    header
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut tlv = vec![kind];
    tlv.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
    tlv.extend(value);
    tlv
}

fn address(text: &str) -> Option<SocketAddr> {
    Some(text.parse().unwrap())
}

/// Parses the header followed by payload, which must make no difference.
#[track_caller]
fn addresses(header: &[u8]) -> (Option<SocketAddr>, Option<SocketAddr>) {
    let Ok(Parsed::Done { consumed, source, destination }) = parse(header) else {
        panic!("{:?}", parse(header));
    };
    assert_eq!(consumed, header.len());
    for end in 0..header.len() {
        assert_eq!(parse(&header[..end]), Ok(Parsed::Incomplete), "cut at {end}");
    }
    for payload in [&b"GET / HTTP/1.1\r\n"[..], header, b"\n", b"\x03\x00\x04abcd"] {
        let parsed = parse(&[header, payload].concat());
        assert_eq!(parsed, Ok(Parsed::Done { consumed, source, destination }));
    }
    (source, destination)
}

#[track_caller]
fn refused(bytes: &[u8], why: InvalidProxyHeader) {
    assert_eq!(parse(bytes), Err(why), "{}", bytes.escape_ascii());
}

#[test]
fn v1_gives_source_and_destination() {
    assert_eq!(
        addresses(b"PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\r\n"),
        (address("192.0.2.1:12345"), address("198.51.100.2:443"))
    );
    assert_eq!(
        addresses(b"PROXY TCP6 2001:db8::1 2001:db8::2 0 65535\r\n"),
        (address("[2001:db8::1]:0"), address("[2001:db8::2]:65535"))
    );
}

#[test]
fn mapped_addresses_come_out_as_ipv4() {
    let (source, _) = addresses(b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n");
    assert_eq!(source, address("192.0.2.1:1"));
    let mut body = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets().to_vec();
    body.extend(Ipv6Addr::LOCALHOST.octets());
    body.extend([0, 1, 0, 2]);
    assert_eq!(addresses(&v2(0x21, 0x21, &body)), (address("192.0.2.1:1"), address("[::1]:2")));
}

#[test]
fn v1_unknown_is_the_peer_itself() {
    assert_eq!(addresses(b"PROXY UNKNOWN\r\n"), (None, None));
    assert_eq!(addresses(b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n"), (None, None));
}

#[test]
fn a_connection_without_header_is_refused() {
    for bytes in
        [&b"GET / HTTP/1.1\r\n"[..], b"proxy TCP4", b"\x16\x03\x01", b"PROXYX", b"\r\n\r\n\0\r\nQUIX"]
    {
        refused(bytes, InvalidProxyHeader::Missing);
    }
}

#[test]
fn v1_line_has_one_form_only() {
    for line in [
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 443 x\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.2 12345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 012345 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 12345 00\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 \r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2\r\n",
        "PROXY TCP4 ::1 ::2 1 2\r\n",
        "PROXY TCP6 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n",
        "PROXY UNKNOWN\rx\r\n",
        "PROXY UNKNOWNX\r\n",
        "PROXY \r\n",
    ] {
        refused(line.as_bytes(), InvalidProxyHeader::Line);
    }
}

#[test]
fn v1_line_ends_within_107_bytes() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(91));
    assert_eq!(longest.len(), 107);
    assert_eq!(addresses(longest.as_bytes()), (None, None));
    let longer = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    refused(longer.as_bytes(), InvalidProxyHeader::TooLong);
    refused(&longer.as_bytes()[..107], InvalidProxyHeader::TooLong);
}

#[test]
fn v2_gives_source_and_destination() {
    let want = (address("192.0.2.1:12345"), address("198.51.100.2:443"));
    assert_eq!(addresses(&v2(0x21, 0x11, IPV4)), want);
    assert_eq!(addresses(&v2(0x21, 0x12, IPV4)), want);
}

#[test]
fn v2_local_is_the_peer_itself_whatever_the_family() {
    for (family, body) in [(0x00, &b""[..]), (0x11, IPV4), (0x21, b"x"), (0xff, b"garbage"), (0x31, b"")] {
        assert_eq!(addresses(&v2(0x20, family, body)), (None, None), "{family:#x}");
    }
}

#[test]
fn v2_families_without_ip_addresses_are_the_peer_itself() {
    assert_eq!(addresses(&v2(0x21, 0x31, &[0; 216])), (None, None));
    assert_eq!(addresses(&v2(0x21, 0x00, b"")), (None, None));
    assert_eq!(addresses(&v2(0x21, 0x00, b"ignored")), (None, None));
    assert_eq!(addresses(&v2(0x21, 0x10, IPV4)), (None, None));
}

#[test]
fn v2_unknown_version_command_and_family_are_refused() {
    for (command, family) in
        [(0x11, 0x11), (0x31, 0x11), (0x22, 0x11), (0x2f, 0x11), (0x21, 0x41), (0x21, 0x13)]
    {
        refused(&v2(command, family, &[0; 216]), InvalidProxyHeader::Unknown);
    }
    refused(&[V2_SIGNATURE, &b"\x31"[..]].concat(), InvalidProxyHeader::Unknown);
}

#[test]
fn v2_length_holds_the_addresses() {
    refused(&v2(0x21, 0x11, &IPV4[..11]), InvalidProxyHeader::Length);
    refused(&v2(0x21, 0x21, &[0; 35]), InvalidProxyHeader::Length);
    refused(&v2(0x21, 0x31, &[0; 215]), InvalidProxyHeader::Length);
}

#[test]
fn v2_extensions_are_skipped_within_the_declared_length() {
    let body = [IPV4, &tlv(0x02, b"shop.example.com"), &tlv(0x04, b""), &tlv(0xee, &[0; 300])].concat();
    assert_eq!(addresses(&v2(0x21, 0x11, &body)).0, address("192.0.2.1:12345"));
}

#[test]
fn v2_extensions_end_exactly_with_the_header() {
    for tail in [&b"\x02"[..], b"\x02\x00", b"\x02\x00\x05abcd", b"\x02\x00\x01ab"] {
        refused(&v2(0x21, 0x11, &[IPV4, tail].concat()), InvalidProxyHeader::Length);
    }
}

#[test]
fn v2_checksum_must_be_right() {
    let mut header = v2(0x21, 0x11, &[IPV4, &tlv(TLV_CRC32C, &[0; 4]), &tlv(0x04, b"pad")].concat());
    let at = V2_FIXED + IPV4.len() + 3;
    refused(&header, InvalidProxyHeader::Checksum);
    let crc = checksum(&header, at);
    header[at..at + 4].copy_from_slice(&crc.to_be_bytes());
    assert_eq!(addresses(&header).0, address("192.0.2.1:12345"));
    header[V2_FIXED] ^= 1;
    refused(&header, InvalidProxyHeader::Checksum);
    refused(&v2(0x21, 0x11, &[IPV4, &tlv(TLV_CRC32C, &[0; 3])].concat()), InvalidProxyHeader::Checksum);
}

#[test]
fn checksum_is_crc32c() {
    assert_eq!(checksum(b"123456789", 100), 0xe306_9283);
}

#[test]
fn v2_header_has_a_bound() {
    assert_eq!(addresses(&v2(0x20, 0, &vec![0; MAX_HEADER - V2_FIXED])), (None, None));
    let long = v2(0x20, 0, &vec![0; MAX_HEADER - V2_FIXED + 1]);
    refused(&long, InvalidProxyHeader::TooLong);
    refused(&long[..V2_FIXED], InvalidProxyHeader::TooLong);
}

#[test]
fn the_text_that_is_written_is_that_of_the_specification() {
    let mut out = Vec::new();
    write_v1(&mut out, "192.168.0.1:56324".parse().unwrap(), "192.168.0.11:443".parse().unwrap());
    assert_eq!(out, b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n");
    out.clear();
    write_v1(&mut out, "[2001:db8::1]:1".parse().unwrap(), "[2001:db8::2]:65535".parse().unwrap());
    assert_eq!(out, b"PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n");
}

#[test]
fn a_binary_header_has_nothing_behind_the_addresses() {
    let mut out = Vec::new();
    write_v2(&mut out, "10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
    assert_eq!(out.len(), 16 + 12);
    assert_eq!(out[12..16], [0x21, 0x11, 0, 12]);
    out.clear();
    write_v2(&mut out, "[fd00::1]:1".parse().unwrap(), "[fd00::2]:2".parse().unwrap());
    assert_eq!(out.len(), 16 + 36);
    assert_eq!(out[12..16], [0x21, 0x21, 0, 36]);
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let v4 = any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from_bits(bits)));
    let v6 = any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from_bits(bits)));
    let mapped = any::<u32>().prop_map(|bits| IpAddr::V6(Ipv4Addr::from_bits(bits).to_ipv6_mapped()));
    (prop_oneof![v4, v6, mapped], any::<u16>()).prop_map(|(ip, port)| SocketAddr::new(ip, port))
}

proptest! {
    #[test]
    fn what_is_written_is_read_as_it_was(
        source in any_address(),
        destination in any_address(),
        payload in prop::collection::vec(any::<u8>(), 0..16),
    ) {
        let canonical = |address: SocketAddr| Some(SocketAddr::new(address.ip().to_canonical(), address.port()));
        for write in [write_v1, write_v2] {
            let mut out = Vec::new();
            write(&mut out, source, destination);
            let length = out.len();
            for end in 0..length {
                prop_assert_eq!(parse(&out[..end]), Ok(Parsed::Incomplete));
            }
            out.extend_from_slice(&payload);
            let (source, destination) = (canonical(source), canonical(destination));
            prop_assert_eq!(parse(&out), Ok(Parsed::Done { consumed: length, source, destination }));
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn any_v2_body_is_survived(
        command in 0x20_u8..0x22,
        family in any::<u8>(),
        body in prop::collection::vec(any::<u8>(), 0..300),
        payload in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let header = v2(command, family, &body);
        let parsed = parse(&header);
        if let Ok(Parsed::Done { consumed, source, destination }) = parsed {
            prop_assert_eq!(consumed, header.len());
            prop_assert_eq!(source.is_some(), destination.is_some());
        }
        prop_assert_ne!(parsed, Ok(Parsed::Incomplete));
        prop_assert_eq!(parse(&[header, payload].concat()), parsed);
    }

    #[test]
    fn any_v1_line_is_survived(rest in "[ -~]{0,100}") {
        let line = format!("PROXY {rest}\r\n");
        if let Ok(Parsed::Done { consumed, .. }) = parse(line.as_bytes()) {
            prop_assert_eq!(consumed, line.len());
        }
    }
}
