use rustls::ClientConnection;

use super::super::fixture::pair;
use super::*;

/// What rustls sends for `name`, offering `protocols`.
fn real(name: &'static str, protocols: &[&[u8]]) -> Vec<u8> {
    let mut config = (*pair().1).clone();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let mut client = ClientConnection::new(config.into(), name.try_into().unwrap()).unwrap();
    let mut out = Vec::new();
    client.write_tls(&mut out).unwrap();
    out
}

/// A hello with these extensions, as one record.
fn made(extensions: &[(u16, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (kind, data) in extensions {
        list.extend(kind.to_be_bytes());
        list.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        list.extend(*data);
    }
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(u16::try_from(list.len()).unwrap().to_be_bytes());
    body.extend(list);
    record(&message(&body))
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[1][..], &length[1..], body].concat()
}

fn record(payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[22, 3, 1][..], &length, payload].concat()
}

/// The extension's data for `name`.
fn named(name: &[u8]) -> Vec<u8> {
    let length = u16::try_from(name.len()).unwrap();
    let mut out = Vec::from((length + 3).to_be_bytes());
    out.push(0);
    out.extend(length.to_be_bytes());
    out.extend(name);
    out
}

fn whole(bytes: &[u8]) -> Result<Option<ClientHello>, Refused> {
    Assembly::default().advance(bytes)
}

/// The name that a hello for `name` asks for.
fn name_of(name: &[u8]) -> Option<Box<str>> {
    whole(&made(&[(0, &named(name))])).unwrap().unwrap().server_name
}

#[test]
fn name_and_protocols_are_read() {
    let hello = whole(&real("shop.example", &[b"h2", b"http/1.1"])).unwrap().unwrap();
    assert_eq!(hello.server_name.as_deref(), Some("shop.example"));
    assert_eq!(hello.protocols, [Box::from(*b"h2"), Box::from(*b"http/1.1") as Box<[u8]>]);
    assert_eq!(whole(&real("127.0.0.1", &[])).unwrap().unwrap(), ClientHello::default());
}

#[test]
fn a_hello_is_complete_with_its_last_byte_and_not_before() {
    let bytes = real("shop.example", &[b"h2"]);
    let mut assembly = Assembly::default();
    for end in 0..bytes.len() {
        assert_eq!(assembly.advance(&bytes[..end]), Ok(None), "{end}");
    }
    assert!(assembly.advance(&bytes).unwrap().is_some());
}

#[test]
fn records_of_any_size_make_the_same_hello() {
    let bytes = real("shop.example", &[b"h2"]);
    let expected = whole(&bytes).unwrap();
    for size in [1, 2, 3, 4, 7, 100] {
        let records: Vec<u8> = bytes[5..].chunks(size).flat_map(record).collect();
        assert_eq!(whole(&records).unwrap(), expected, "{size}");
        let mut assembly = Assembly::default();
        let arrived = (1..=records.len()).find_map(|end| assembly.advance(&records[..end]).unwrap());
        assert_eq!(arrived, expected, "{size}, byte by byte");
    }
}

#[test]
fn names_are_brought_to_the_form_of_the_table() {
    assert_eq!(name_of(b"Shop.EXAMPLE").as_deref(), Some("shop.example"));
    assert_eq!(name_of(b"shop.example.").as_deref(), Some("shop.example"));
    assert_eq!(name_of(b"xn--bcher-kva.example").as_deref(), Some("xn--bcher-kva.example"));
    let long = vec![b'a'; 300];
    let junk: [&[u8]; 9] = [
        b"10.0.0.1",
        b"::1",
        b"",
        b".",
        b"a..b",
        b"a\0b.example",
        b"*.example",
        "é.example".as_bytes(),
        &long,
    ];
    for name in junk {
        assert_eq!(name_of(name), None, "{name:?}");
    }
}

#[test]
fn what_means_two_things_is_malformed() {
    let (a, b) = (named(b"a.example"), named(b"b.example"));
    let both = [&[0, 24][..], &a[2..], &b[2..]].concat();
    for extensions in [
        &[(0, &a[..]), (0, &b[..])][..],
        &[(0, &both[..])],
        &[(0, b"")],
        &[(0, b"\0\0")],
        &[(16, b"\0\x01\0")],
    ] {
        assert_eq!(whole(&made(extensions)), Err(Refused::Malformed), "{extensions:?}");
    }
    let mut trailing = made(&[(0, &a)]);
    trailing[8] += 1;
    trailing[4] += 1;
    trailing.push(0);
    assert_eq!(whole(&trailing), Err(Refused::Malformed));
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0, 5, 1, 0]].concat();
    assert_eq!(whole(&record(&message(&body))).unwrap().unwrap(), ClientHello::default());
}

#[test]
fn what_is_not_tls_is_refused_with_its_first_byte() {
    assert_eq!(whole(b"GET / HTTP/1.1\r\n"), Err(Refused::Http));
    assert_eq!(whole(b"PO"), Err(Refused::Http));
    assert_eq!(whole(b"SSH-2.0-x"), Err(Refused::NotTls));
    assert_eq!(whole(b"\0"), Err(Refused::NotTls));
    // SSLv2, an alert, an empty record, another message than ClientHello.
    assert_eq!(whole(&[0x80, 0x2e, 1, 3, 1]), Err(Refused::NotTls));
    assert_eq!(whole(&[22, 2]), Err(Refused::Malformed));
    assert_eq!(whole(&[22, 3, 1, 0, 0]), Err(Refused::Malformed));
    assert_eq!(whole(&record(&[2, 0, 0, 0])), Err(Refused::Malformed));
    let hello = real("shop.example", &[]);
    let mixed = [record(&hello[5..9]), vec![21, 3, 1, 0, 2, 1, 0]].concat();
    assert_eq!(whole(&mixed), Err(Refused::Malformed));
}

#[test]
fn more_than_64_kib_are_refused_when_announced() {
    assert_eq!(whole(&[22, 3, 1, 0x40, 0, 1, 1, 0, 1]), Err(Refused::TooLarge));
    let largest = message(&vec![0; MOST]);
    let records: Vec<u8> = largest.chunks(16_384).flat_map(record).collect();
    assert_eq!(whole(&records[..records.len() - 1]), Ok(None));
    let tiny: Vec<u8> = largest.chunks(1).take(40_000).flat_map(record).collect();
    assert_eq!(whole(&tiny), Err(Refused::TooLarge));
}

proptest::proptest! {
    /// What the fuzz target asserts, for hellos with a few bytes changed.
    #[test]
    fn no_change_of_a_hello_makes_it_depend_on_how_it_arrives(
        changes in proptest::collection::vec((0_usize..400, 0_u8..=255), 0..6),
        cut in 0_usize..400,
        piece in 1_usize..300,
        record in 1_usize..300,
    ) {
        let bytes = real("shop.example", &[b"h2", b"http/1.1"]);
        let mut changed = bytes[..bytes.len() - cut.min(bytes.len() / 2)].to_vec();
        for (at, byte) in changes {
            let at = at % changed.len();
            changed[at] = byte;
        }
        super::super::fuzz::client_hello(&changed, piece, record);
        super::super::fuzz::client_hello(&changed[9..], piece, record);
    }
}
