//! TLS that is passed on as it is, beside TLS that ends here.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use config::table::{Limits, Passthrough, RouteId, Split, TlsHost, TlsMap, Unavailable};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::certificates::{Authority, Leaf};
use crate::rig::{Client, Rig, backend, exact, policy, provider, socket, status, terminate};

/// Serves each connection with `serve`, in a thread of its own.
fn server(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = Arc::new(serve);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let serve = Arc::clone(&serve);
            std::thread::spawn(move || serve(stream.unwrap()));
        }
    });
    address
}

/// A backend that ends TLS itself, sends back all that it gets, and ends when the client does.
fn echo(leaf: &Leaf) -> SocketAddr {
    let config =
        ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(leaf.chain.clone(), leaf.key_der()).unwrap();
    let config = Arc::new(config);
    server(move |stream| {
        let mut tls = StreamOwned::new(ServerConnection::new(Arc::clone(&config)).unwrap(), stream);
        let mut seen = [0; 16_384];
        while let Ok(n @ 1..) = tls.read(&mut seen) {
            tls.write_all(&seen[..n]).unwrap();
        }
        tls.conn.send_close_notify();
        tls.flush().unwrap();
    })
}

/// `through.example` goes to `endpoints`; everything else ends here.
fn rig(authority: &Authority, limits: Limits, endpoints: &[SocketAddr]) -> Rig {
    let leaf = authority.issue(&["shop.example"]);
    let list: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    let backends = format!("- {{name: raw, endpoints: [{}]}}\n", list.join(", "));
    Rig::with(limits, &backends, |table| {
        let through = |split| TlsHost::Passthrough(Arc::new(Passthrough { route: RouteId(0), split }));
        let mut map = TlsMap::new(Arc::new(policy(&[&leaf])));
        map.set(&exact("shop.example"), terminate(&Arc::new(policy(&[&leaf]))));
        map.set(&exact("through.example"), through(Ok(Split::One(backend(table, "raw")))));
        map.set(&exact("nowhere.example"), through(Err(Unavailable::BackendNotFound)));
        map
    })
}

fn requests(rig: &Rig, reason: &str) -> u64 {
    rig.metric(&format!("sluicegate_requests_total{{reason=\"{reason}\"}}"))
}

fn noise(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

#[test]
fn both_kinds_of_hosts_share_a_bind() {
    let authority = Authority::new("root");
    let rig = rig(&authority, Limits::default(), &[echo(&authority.issue(&["through.example"]))]);
    let mut ended = Client::new(&authority).connect(rig.https, "shop.example");
    assert_eq!(status(&ended.get("shop.example", "/").unwrap()), 200);
    // The host behind is not to be had on a connection that ends here.
    assert_eq!(status(&ended.get("through.example", "/").unwrap()), 421);
    let mut through = Client::new(&authority).connect(rig.https, "through.example");
    let sent = noise(3_000_000);
    let mut back = vec![0; sent.len()];
    std::thread::scope(|scope| {
        // In pieces, so that neither side waits for the other with full buffers.
        scope.spawn(|| {
            for (piece, back) in sent.chunks(10_000).zip(back.chunks_mut(10_000)) {
                through.0.write_all(piece).unwrap();
                through.0.read_exact(back).unwrap();
            }
        });
    });
    assert_eq!(back, sent);
    through.0.conn.send_close_notify();
    through.0.flush().unwrap();
    assert_eq!(through.0.read(&mut [0]).unwrap(), 0);
    drop(through);
    rig.await_metric("sluicegate_requests_total{reason=\"PassedThrough\"}", 1);
    assert_eq!(rig.metric("sluicegate_tunnels_open"), 0);
    assert_eq!(rig.metric("sluicegate_tls_handshakes_total{version=\"1.3\",kind=\"full\"}"), 1);
}

/// A hello for `name`.
fn hello(authority: &Authority, name: &'static str) -> Vec<u8> {
    let config = Arc::new(Client::new(authority).config);
    let mut client = rustls::ClientConnection::new(config, name.try_into().unwrap()).unwrap();
    let mut out = Vec::new();
    client.write_tls(&mut out).unwrap();
    out
}

#[test]
fn every_byte_passes_as_it_is_in_large_and_small_pieces() {
    let authority = Authority::new("root");
    let backend = server(|mut stream| {
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).unwrap();
        stream.write_all(&seen).unwrap();
    });
    let rig = rig(&authority, Limits::default(), &[backend]);
    let hello = hello(&authority, "through.example");
    // The hello in records of one byte, and then what is no TLS at all.
    let fragments: Vec<u8> = hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
    for first in [hello, fragments] {
        let mut client = socket(rig.https);
        client.write_all(&first).unwrap();
        let rest = noise(2_000_000);
        let (small, large) = rest.split_at(3_000);
        small.chunks(10).for_each(|piece| client.write_all(piece).unwrap());
        client.write_all(large).unwrap();
        // Half-closed: the answer still comes, and then its end.
        client.shutdown(Shutdown::Write).unwrap();
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert!(back == [first, rest].concat());
    }
    assert!(rig.metric("sluicegate_spliced_bytes_total") > 1_000_000);
}

#[test]
fn a_reset_arrives_as_a_reset() {
    let authority = Authority::new("root");
    let backend = server(|mut stream| {
        stream.read_exact(&mut [0; 100]).unwrap();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    });
    let rig = rig(&authority, Limits::default(), &[backend]);
    let mut client = socket(rig.https);
    client.write_all(&hello(&authority, "through.example")).unwrap();
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    rig.await_metric("sluicegate_requests_total{reason=\"ResponseTruncated\"}", 1);
}

/// Whoever closes a socket in which something is unread resets it, a goodbye of the client that came too late included.
#[test]
fn a_reset_after_the_end_of_an_answer_truncates_nothing() {
    let authority = Authority::new("root");
    let (go, gone) = (Arc::new(std::sync::Barrier::new(2)), Arc::new(std::sync::Barrier::new(2)));
    let (when, done) = (Arc::clone(&go), Arc::clone(&gone));
    let backend = server(move |mut stream| {
        assert!(stream.read(&mut [0; 16_384]).unwrap() > 100);
        stream.write_all(b"all of it").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        when.wait();
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        drop(stream);
        done.wait();
    });
    let rig = rig(&authority, Limits::default(), &[backend]);
    let mut client = socket(rig.https);
    client.write_all(&hello(&authority, "through.example")).unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"all of it");
    go.wait();
    gone.wait();
    client.write_all(b"goodbye").unwrap();
    rig.await_metric("sluicegate_requests_total{reason=\"PassedThrough\"}", 1);
    assert_eq!(requests(&rig, "ResponseTruncated"), 0);
}

#[test]
fn other_endpoints_are_tried_while_connecting() {
    let authority = Authority::new("root");
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = rig(&authority, Limits::default(), &[refused, echo(&authority.issue(&["through.example"]))]);
    for _ in 0..4 {
        let mut through = Client::new(&authority).connect(rig.https, "through.example");
        through.0.write_all(b"x").unwrap();
        through.0.read_exact(&mut [0]).unwrap();
    }
    assert!(rig.metric("sluicegate_upstream_connect_failures_total") > 0);
}

#[test]
fn without_an_endpoint_the_connection_ends_and_the_reason_is_told() {
    let authority = Authority::new("root");
    let refused = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rig = rig(&authority, Limits::default(), &[refused]);
    for (name, reason) in [("through.example", "ConnectFailed"), ("nowhere.example", "BackendNotFound")] {
        let mut client = socket(rig.https);
        client.write_all(&hello(&authority, name)).unwrap();
        assert!(client.read_to_end(&mut Vec::new()).is_err(), "{name}");
        rig.await_metric(&format!("sluicegate_requests_total{{reason=\"{reason}\"}}"), 1);
    }
}

#[test]
fn swaps_touch_no_tunnel_and_idle_ones_end() {
    let authority = Authority::new("root");
    let limits = Limits { tunnel_idle_timeout: Duration::from_millis(500), ..Limits::default() };
    let mut rig = rig(&authority, limits, &[echo(&authority.issue(&["through.example"]))]);
    let mut through = Client::new(&authority).connect(rig.https, "through.example");
    for at in 0..20_u8 {
        through.0.write_all(&[at]).unwrap();
        let mut back = [0];
        through.0.read_exact(&mut back).unwrap();
        assert_eq!(back, [at]);
        rig.publish(TlsMap::new(Arc::new(policy(&[&authority.issue(&["through.example"])]))));
    }
    assert_eq!(requests(&rig, "IdleTimeout"), 0);
    assert!(matches!(through.0.read(&mut [0]), Err(_) | Ok(0)));
    rig.await_metric("sluicegate_requests_total{reason=\"IdleTimeout\"}", 1);
}
