//! Certificates of clients: what is asked, what is told to endpoints, and that nobody can forge it.

use std::io::{Read as _, Write as _};
use std::sync::Arc;

use config::table::{ClientPolicy, TlsMap};

use crate::certificates::{Authority, Leaf, Wanted};
use crate::rig::{Client, Connection, Rig, exact, exchange, policy, roots, socket, status, terminate};

/// What a client may show.
struct Cast {
    authority: Authority,
    server: Leaf,
    good: Leaf,
    expired: Leaf,
    foreign: Leaf,
}

impl Cast {
    fn new() -> Self {
        let (authority, other) = (Authority::new("root"), Authority::new("other"));
        let wanted = || Wanted::of(&["alice.example", "bob.example"]).client();
        Self {
            server: authority.issue(&["shop.example"]),
            good: authority.issue_as(&wanted()),
            expired: authority.issue_as(&wanted().expired()),
            foreign: other.issue_as(&wanted()),
            authority,
        }
    }

    fn rig(&self, client: ClientPolicy) -> Rig {
        let mut policy = policy(&[&self.server]);
        policy.client = client;
        let mut map = TlsMap::new(Arc::new(crate::rig::policy(&[&self.server])));
        map.set(&exact("shop.example"), terminate(&Arc::new(policy)));
        Rig::new(map)
    }

    fn connect(&self, rig: &Rig, shown: Option<&Leaf>) -> Connection {
        let client = match shown {
            None => Client::new(&self.authority),
            Some(leaf) => Client::with_certificate(&self.authority, leaf.chain.clone(), leaf.key_der()),
        };
        client.connect(rig.https, "shop.example")
    }

    /// What the endpoint is told of the client, or `None` without a connection.
    fn verified(&self, rig: &Rig, shown: Option<&Leaf>) -> Option<String> {
        let response = self.connect(rig, shown).get("shop.example", "/").ok()?;
        assert_eq!(status(&response), 200, "{response}");
        let field = response.lines().find_map(|line| line.strip_prefix("X-Client-Cert-Verified: "));
        Some(field.unwrap_or("").to_owned())
    }
}

#[test]
fn each_mode_admits_whom_it_says() {
    let cast = Cast::new();
    let (good, expired, foreign) = (Some(&cast.good), Some(&cast.expired), Some(&cast.foreign));
    let rig = cast.rig(ClientPolicy::Require(roots(&cast.authority)));
    assert_eq!(cast.verified(&rig, good).as_deref(), Some("success"));
    assert_eq!([None, expired, foreign].map(|shown| cast.verified(&rig, shown)), [const { None }; 3]);
    rig.await_failures("client_certificate", 3);
    let rig = cast.rig(ClientPolicy::Optional(roots(&cast.authority)));
    assert_eq!(cast.verified(&rig, good).as_deref(), Some("success"));
    assert_eq!(cast.verified(&rig, None).as_deref(), Some("none"));
    assert_eq!([expired, foreign].map(|shown| cast.verified(&rig, shown)), [const { None }; 2]);
    let rig = cast.rig(ClientPolicy::OptionalNoCa);
    assert_eq!(cast.verified(&rig, None).as_deref(), Some("none"));
    for shown in [good, expired, foreign] {
        assert_eq!(cast.verified(&rig, shown).as_deref(), Some("unverified"));
    }
    let rig = cast.rig(ClientPolicy::None);
    assert_eq!(cast.verified(&rig, good).as_deref(), Some(""));
}

#[test]
fn a_closed_host_answers_503_to_everybody() {
    let cast = Cast::new();
    let rig = cast.rig(ClientPolicy::Closed);
    for shown in [None, Some(&cast.good)] {
        let response = cast.connect(&rig, shown).get("shop.example", "/").unwrap();
        assert_eq!(status(&response), 503);
        assert!(response.ends_with("InvalidSetting\n"), "{response}");
    }
}

#[test]
fn endpoints_are_told_who_the_client_is() {
    use base64::Engine as _;
    let cast = Cast::new();
    let rig = cast.rig(ClientPolicy::Require(roots(&cast.authority)));
    let response = cast.connect(&rig, Some(&cast.good)).get("shop.example", "/").unwrap();
    let field = |name: &str| {
        let mut found = response.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let value = found.next().unwrap_or_else(|| panic!("no {name} in {response}")).to_owned();
        assert_eq!(found.next(), None, "{name} twice");
        value
    };
    let der = base64::engine::general_purpose::STANDARD.encode(&cast.good.chain[0]);
    assert_eq!(field("Client-Cert"), format!(":{der}:"));
    assert!(field("X-Client-Cert-Subject").ends_with("CN=alice.example"));
    assert!(field("X-Client-Cert-Issuer").ends_with("CN=root"));
    assert_eq!(field("X-Client-Cert-SAN"), "DNS:alice.example, DNS:bob.example");
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &cast.good.chain[0]);
    let hex: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(field("X-Client-Cert-Fingerprint"), hex);
}

/// Names under which endpoints may look for a client's certificate.
const NAMES: [&str; 13] = [
    "Client-Cert",
    "Client-Cert-Chain",
    "X-Client-Cert",
    "X-Client-Cert-Verified",
    "X-Client-Cert-Subject",
    "X-Client-Cert-Issuer",
    "X-Client-Cert-Fingerprint",
    "X-Client-Cert-SAN",
    "ssl-client-verify",
    "ssl-client-subject-dn",
    "ssl-client-issuer-dn",
    "ssl-client-cert",
    "X_Client_Cert_Verified",
];

#[test]
fn nobody_can_forge_an_identity() {
    let cast = Cast::new();
    let rig = cast.rig(ClientPolicy::Optional(roots(&cast.authority)));
    let mut fields = String::new();
    for name in NAMES {
        let spellings =
            [name.to_owned(), name.to_uppercase(), name.replace('-', "_"), name.replace('-', ".")];
        for spelling in spellings {
            fields.push_str(&format!("{spelling}: forged\r\n"));
        }
    }
    let request = format!("GET / HTTP/1.1\r\nHost: shop.example\r\n{fields}\r\n");
    let mut responses = vec![exchange(&mut socket(rig.http), &request).unwrap()];
    for shown in [None, Some(&cast.good)] {
        responses.push(cast.connect(&rig, shown).exchange(&request).unwrap());
    }
    for response in responses {
        assert_eq!(status(&response), 200);
        assert!(!response.contains("forged"), "{response}");
    }
}

/// Whoever keeps the connection would be refused forever, so that it ends.
fn refused_for_good(outdated: &mut Connection) {
    let response = outdated.get("shop.example", "/").unwrap();
    assert_eq!(status(&response), 421);
    assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
}

#[test]
fn what_is_asked_now_decides_not_what_was_asked_then() {
    let cast = Cast::new();
    let with = |client: ClientPolicy| {
        let mut policy = policy(&[&cast.server]);
        policy.client = client;
        TlsMap::new(Arc::new(policy))
    };
    let mut rig = Rig::new(with(ClientPolicy::None));
    let connect = |rig: &Rig| {
        let mut connection = cast.connect(rig, Some(&cast.good));
        assert_eq!(status(&connection.get("shop.example", "/").unwrap()), 200);
        connection
    };
    let (mut before, mut outdated) = (connect(&rig), connect(&rig));
    rig.publish(with(ClientPolicy::Require(roots(&cast.authority))));
    refused_for_good(&mut outdated);
    let (mut verified, mut outdated) = (connect(&rig), connect(&rig));
    // The same authority, as another object.
    rig.publish(with(ClientPolicy::Optional(roots(&cast.authority))));
    assert!(verified.get("shop.example", "/").unwrap().contains("Verified: success"));
    assert!(before.get("shop.example", "/").unwrap().contains("Verified: none"));
    rig.publish(with(ClientPolicy::Require(roots(&Authority::new("another")))));
    refused_for_good(&mut outdated);
    rig.publish(with(ClientPolicy::OptionalNoCa));
    assert!(verified.get("shop.example", "/").unwrap().contains("Verified: none"));
    rig.publish(with(ClientPolicy::None));
    assert!(!verified.get("shop.example", "/").unwrap().contains("Client-Cert"));
    rig.publish(with(ClientPolicy::Closed));
    assert_eq!(status(&verified.get("shop.example", "/").unwrap()), 503);
}

/// A request for `/` as stream `id`, with fields that stand in the static table (RFC 7541).
fn request_frame(id: u8) -> Vec<u8> {
    let fields = [&[0x82, 0x87, 0x84, 0x41, 12][..], b"shop.example"].concat();
    let length = u8::try_from(fields.len()).unwrap();
    [&[0, 0, length, 1, 5, 0, 0, 0, id][..], &fields].concat()
}

/// Payload of the next frame of type `wanted`.
fn next_frame(connection: &mut Connection, wanted: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        connection.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        connection.0.read_exact(&mut payload).unwrap();
        if head[3] == wanted {
            return payload;
        }
    }
}

#[test]
fn a_connection_of_http2_that_was_asked_for_something_else_is_left() {
    let cast = Cast::new();
    let with = |client: ClientPolicy| {
        let mut policy = policy(&[&cast.server]);
        (policy.client, policy.http2) = (client, true);
        TlsMap::new(Arc::new(policy))
    };
    let mut rig = Rig::new(with(ClientPolicy::None));
    let mut client = Client::new(&cast.authority);
    client.config.alpn_protocols = vec![b"h2".to_vec()];
    let mut connection = client.connect(rig.https, "shop.example");
    connection.0.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
    connection.0.write_all(&request_frame(1)).unwrap();
    // HEADERS: the response.
    next_frame(&mut connection, 1);
    rig.publish(with(ClientPolicy::Require(roots(&cast.authority))));
    connection.0.write_all(&request_frame(3)).unwrap();
    // GOAWAY, without an error.
    assert_eq!(next_frame(&mut connection, 7)[4..8], [0; 4]);
}
