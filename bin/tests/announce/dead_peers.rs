//! Peers that are gone without a word while bytes wait to be acknowledged, and peers that are there and do not read.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::Gateway;
use crate::net::{Net, can_run};

/// Where the link stays.
const LIVING: &str = "10.77.0.100";
/// Where it is cut.
const DEAD: &str = "10.77.0.2";
const LIMIT: Duration = Duration::from_secs(35);
/// More than all buffers on the way have room for.
const MUCH: usize = 32 << 20;

fn config() -> String {
    let listener = |port: u16, backend: &str| {
        format!(
            "- {{name: l{port}, address: '10.77.0.1:{port}', protocol: tcp, forward: {{backend: {backend}}}}}\n"
        )
    };
    let backend = |name: &str, at: &str| format!("- {{name: {name}, endpoints: ['{at}']}}\n");
    ["listeners:\n- {name: web, address: '10.77.0.1:8080'}\n".to_owned()]
        .into_iter()
        .chain([listener(7001, "drips"), listener(7002, "floods"), listener(7003, "dead")])
        .chain(["routes:\n- {listeners: web, backend: web}\nbackends:\n".to_owned()])
        .chain([backend("drips", &format!("{LIVING}:7101")), backend("floods", &format!("{LIVING}:7102"))])
        .chain([backend("dead", &format!("{DEAD}:7103")), backend("web", &format!("{LIVING}:7104"))])
        .collect()
}

/// The gateway's connection.
fn accepted(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().unwrap();
    stream
}

/// Sends something each half second, until the other side is found to be gone.
fn drip(mut stream: TcpStream, piece: &[u8]) {
    let began = Instant::now();
    while stream.write_all(piece).is_ok() {
        assert!(began.elapsed() < 2 * LIMIT, "nobody has ended it");
        thread::sleep(Duration::from_millis(500));
    }
}

fn start(net: &Net) -> (Gateway, TempDir) {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("config.yaml");
    std::fs::write(&path, config()).unwrap();
    let mut gateway = net.gateway(1, &["--config", path.to_str().unwrap(), "--http", "none"]);
    gateway.wait_until_ready();
    (gateway, folder)
}

/// A connection through the gateway, on which something has come if `reads`.
fn connected(port: u16, request: &[u8], reads: bool) -> TcpStream {
    let mut stream = TcpStream::connect(SocketAddr::new([10, 77, 0, 1].into(), port)).unwrap();
    stream.set_read_timeout(Some(2 * LIMIT)).unwrap();
    stream.write_all(request).unwrap();
    if reads {
        assert!(stream.read(&mut [0; 512]).unwrap() > 0);
    }
    stream
}

/// It takes as long as the gateway takes, half a minute.
#[test]
fn who_is_gone_with_bytes_on_the_way_is_noticed_in_half_a_minute_and_who_does_not_read_is_kept() {
    if !can_run() || !Path::new("/proc/sys/net/ipv4/tcp_rto_max_ms").exists() {
        eprintln!("skipped: no network namespaces, or a kernel before Linux 6.15");
        return;
    }
    let net = Net::new(2);
    let listen = |namespace: &str, ip: &str, port: u16| {
        net.inside(namespace, || TcpListener::bind((ip, port)).unwrap())
    };
    let (lan, host) = (net.lan(), net.host(2));
    let [drips, floods, web] = [7101, 7102, 7104].map(|port| listen(&lan, LIVING, port));
    let dead = listen(&host, DEAD, 7103);
    let (_gateway, _folder) = start(&net);

    let to_dead_client = thread::spawn(move || drip(accepted(&drips), b"drip"));
    let to_dead_web_client = thread::spawn(move || {
        let mut stream = accepted(&web);
        assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
        drip(stream, b"4\r\ndrip\r\n");
    });
    let flood = thread::spawn(move || accepted(&floods).write_all(&vec![b'x'; MUCH]).unwrap());
    let gone = net.inside(&host, || {
        [connected(7001, b"", true), connected(8080, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", true)]
    });
    let (mut slow, to_dead_endpoint) =
        net.inside(&lan, || (connected(7002, b"", false), connected(7003, b"hello", false)));
    let mut at_dead = accepted(&dead);
    assert!(at_dead.read(&mut [0; 16]).unwrap() > 0);
    // The endpoint's socket has its options once the connection is some seconds old.
    thread::sleep(Duration::from_secs(4));

    // No host hears of it: only this one's frames go nowhere.
    net.ip_of_client(&["link", "set", "a2", "down"]);
    let began = Instant::now();
    let from_dead_endpoint = thread::spawn(move || drip(to_dead_endpoint, b"drip"));
    for (who, thread) in [
        ("a client", to_dead_client),
        ("a client of HTTP", to_dead_web_client),
        ("an endpoint", from_dead_endpoint),
    ] {
        thread.join().unwrap();
        assert!(began.elapsed() < LIMIT, "{who} was noticed after {:?}", began.elapsed());
    }
    drop((gone, at_dead));

    // No room for all that time, and nothing was lost.
    thread::sleep(LIMIT.saturating_sub(began.elapsed()));
    let mut all = Vec::new();
    slow.read_to_end(&mut all).unwrap();
    assert_eq!(all.len(), MUCH);
    flood.join().unwrap();
}
