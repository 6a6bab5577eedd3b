use config::table::{BackendPolicy, HealthPolicy};
use tokio::net::TcpListener;

use super::*;
use crate::live::Publisher;
use crate::live::fixture::{backend, table};

const PATIENCE: Duration = Duration::from_secs(20);

fn run<F: Future>(future: F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, future).await.unwrap() })
}

fn http(path: &str, expected: &[(u16, u16)]) -> ActiveProbe {
    let kind = ProbeKind::Http { path: path.into(), host: None, expected: expected.into(), port: None };
    probe(kind)
}

fn probe(kind: ProbeKind) -> ActiveProbe {
    ActiveProbe {
        kind,
        interval: Duration::from_millis(10),
        timeout: PATIENCE,
        healthy_threshold: 2,
        unhealthy_threshold: 2,
    }
}

const CLEARTEXT: Way = Way { protocol: BackendProtocol::Http1, tls: None };

/// An endpoint of nobody's.
fn state(address: SocketAddr) -> Arc<EndpointState> {
    Arc::clone(&publish(&mut Shared::new(1).1, &[address]).endpoints[0])
}

/// Listens, answers one connection with `answer` and returns what was sent to it.
async fn exchange(probe: ActiveProbe, answer: &[u8]) -> (Result<(), ProbeError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut received = Vec::new();
        while !received.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0);
        }
        stream.write_all(answer).await.ok();
        stream.shutdown().await.ok();
        String::from_utf8(received).unwrap()
    };
    let endpoint = state(address);
    tokio::join!(probe_once(&endpoint, &probe, &CLEARTEXT), serve)
}

#[test]
fn a_get_names_host_and_path_and_asks_to_close() {
    run(async {
        let kind = ProbeKind::Http {
            path: "/healthz?full=1".into(),
            host: Some("shop.example".into()),
            expected: [(200, 299)].into(),
            port: None,
        };
        let (result, request) = exchange(probe(kind), b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert!(result.is_ok(), "{result:?}");
        assert!(request.starts_with("GET /healthz?full=1 HTTP/1.1\r\nHost: shop.example\r\n"), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    });
}

#[test]
fn only_an_expected_status_is_good() {
    run(async {
        let expected = [(200, 299), (401, 401)];
        for (status, good) in
            [(200, true), (299, true), (300, false), (401, true), (404, false), (503, false)]
        {
            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
            let (result, _) = exchange(http("/", &expected), answer.as_bytes()).await;
            assert_eq!(result.is_ok(), good, "{status}: {result:?}");
        }
    });
}

#[test]
fn interim_responses_are_skipped() {
    run(async {
        let answer = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\n\r\n";
        assert!(exchange(http("/", &[(200, 200)]), answer).await.0.is_ok());
    });
}

#[test]
fn a_malformed_endless_or_cut_head_is_bad() {
    run(async {
        let long = [b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'a'; 10_000]].concat();
        assert!(matches!(exchange(http("/", &[(200, 200)]), &long).await.0, Err(ProbeError::TooLong)));
        let (cut, _) = exchange(http("/", &[(200, 200)]), b"HTTP/1.1 200 OK\r\nX:").await;
        assert!(matches!(cut, Err(ProbeError::Closed)), "{cut:?}");
        let (malformed, _) = exchange(http("/", &[(200, 200)]), b"SSH-2.0-OpenSSH\r\n").await;
        assert!(matches!(malformed, Err(ProbeError::Malformed(_))), "{malformed:?}");
    });
}

#[test]
fn a_silent_endpoint_is_bad_at_the_deadline() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = ActiveProbe { timeout: Duration::from_millis(20), ..http("/", &[(200, 200)]) };
        let result = probe_once(&state(listener.local_addr().unwrap()), &probe, &CLEARTEXT).await;
        assert!(matches!(result, Err(ProbeError::Timeout(_))), "{result:?}");
    });
}

#[test]
fn a_path_that_would_end_the_request_line_is_never_sent() {
    for path in ["/a b", "/\r\nX: y", "relative", "", "/ü"] {
        assert!(request(path, "a").is_err(), "{path:?}");
    }
    assert!(request("/", "a\r\nb").is_err());
}

#[test]
fn running_out_of_descriptors_says_nothing_about_the_endpoint() {
    assert!(is_our_own(&std::io::Error::from_raw_os_error(Errno::MFILE.raw_os_error())));
    assert!(!is_our_own(&std::io::Error::from_raw_os_error(Errno::CONNREFUSED.raw_os_error())));
    assert!(!is_our_own(&std::io::Error::other("x")));
}

/// A shared value with one backend that is probed by TCP at `addresses`.
fn publish(publisher: &mut Publisher, addresses: &[SocketAddr]) -> Arc<LiveBackend> {
    let health = Arc::new(HealthPolicy { active: Some(probe(ProbeKind::Tcp)), passive: None });
    let policy = Arc::new(BackendPolicy { health, ..BackendPolicy::default() });
    publisher.publish(table(&[Some(backend("a", addresses, &policy))]));
    Arc::clone(publisher.shared().load().backends.at(0).unwrap())
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[test]
fn a_dead_endpoint_is_found_and_its_return_too() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (shared, mut publisher) = Shared::new(1);
        let backend = publish(&mut publisher, &[address]);
        let probes = tokio::spawn(run_probes(shared));
        let endpoint = &backend.endpoints[0];
        assert!(endpoint.is_healthy());
        drop(listener);
        until(|| !endpoint.is_healthy()).await;
        let _listener = TcpListener::bind(address).await.unwrap();
        until(|| endpoint.is_healthy()).await;
        probes.abort();
    });
}

#[test]
fn probes_follow_the_table() {
    run(async {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (shared, mut publisher) = Shared::new(1);
        publish(&mut publisher, &[first.local_addr().unwrap()]);
        let probes = tokio::spawn(run_probes(Arc::clone(&shared)));
        first.accept().await.unwrap();
        publish(&mut publisher, &[second.local_addr().unwrap()]);
        second.accept().await.unwrap();
        // By now the first one's task has been stopped: its backlog runs dry.
        while let Ok(accepted) = tokio::time::timeout(Duration::from_millis(100), first.accept()).await {
            accepted.unwrap();
        }
        second.accept().await.unwrap();
        publisher.publish(Arc::default());
        while tokio::time::timeout(Duration::from_millis(100), second.accept()).await.is_ok() {}
        probes.abort();
    });
}
