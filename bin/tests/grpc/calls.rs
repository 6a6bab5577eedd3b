//! Calls of every shape, between tonic's clients and servers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tonic::codegen::tokio_stream::{self, Stream};
use tonic::metadata::MetadataValue;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Code, Request};

use crate::common::certificates::Authority;
use crate::common::{Gateway, eventually};
use crate::setup::{self, Backend, Client, HOST, with};

/// What is sent on a channel, as a stream.
fn stream<T: Send + 'static>(mut receiver: mpsc::Receiver<T>) -> impl Stream<Item = T> + Send + 'static {
    struct Messages<F>(F);
    impl<T, F: FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Option<T>> + Unpin> Stream for Messages<F> {
        type Item = T;
        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<T>> {
            (self.0)(cx)
        }
    }
    Messages(move |cx: &mut std::task::Context<'_>| receiver.poll_recv(cx))
}

/// All shapes of calls, once.
async fn every_shape(client: &mut Client) {
    let answer = client.unary(with(b"hello", &[])).await.unwrap();
    assert_eq!(answer.into_inner(), b"hello");
    assert_eq!(client.unary(with(b"", &[])).await.unwrap().into_inner(), b"");

    let messages = tokio_stream::iter((0..100_u8).map(|number| vec![number; 1_000]));
    let gathered = client.gather(messages).await.unwrap().into_inner();
    assert_eq!(gathered, (0..100_u8).flat_map(|number| vec![number; 1_000]).collect::<Vec<_>>());

    let mut spread = client.spread(with(b"abc", &[])).await.unwrap().into_inner();
    for expected in [&b"a"[..], b"bb", b"ccc"] {
        assert_eq!(spread.message().await.unwrap().unwrap(), expected);
    }
    assert_eq!(spread.message().await.unwrap(), None);

    // One at a time: neither side waits for the other's end.
    let (send, receive) = mpsc::channel(1);
    let mut both = client.both(stream(receive)).await.unwrap().into_inner();
    for number in 0..50_u8 {
        send.send(vec![number; 10]).await.unwrap();
        assert_eq!(both.message().await.unwrap().unwrap(), vec![number; 10]);
    }
    drop(send);
    assert_eq!(both.message().await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_of_every_shape_cross_the_gateway() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    every_shape(&mut setup::client(gateway.http).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_cross_tls_in_front() {
    let backend = Backend::start(None);
    let authority = Authority::new("front");
    let folder = tempfile::tempdir().unwrap();
    let ingress = setup::ingress(&[backend.address], "GRPC", "");
    let ingress =
        ingress.replacen("spec:\n", &format!("spec:\n  tls: [{{hosts: [{HOST}], secretName: front}}]\n"), 1);
    let secret = authority.issue(&[HOST]).secret("test", "front");
    std::fs::write(folder.path().join("echo.yaml"), format!("{ingress}---\n{secret}")).unwrap();
    let gateway = Gateway::start(folder.path(), &["--https", "127.0.0.1:0"]);
    let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority.pem())).domain_name(HOST);
    let endpoint = Endpoint::from_shared(format!("https://{}", gateway.listeners["https"])).unwrap();
    let endpoint = endpoint.origin(format!("https://{HOST}").parse().unwrap()).tls_config(tls).unwrap();
    every_shape(&mut Client::new(endpoint.connect().await.unwrap())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_cross_tls_behind() {
    let authority = Authority::new("behind");
    let backend = Backend::start(Some(&authority.issue(&["backend.test"])));
    let folder = tempfile::tempdir().unwrap();
    let annotations =
        ", sluicegate.dev/backend-tls-ca: secret/roots, sluicegate.dev/backend-tls-server-name: backend.test";
    let ingress = setup::ingress(&[backend.address], "GRPCS", annotations);
    let roots = authority.secret("test", "roots");
    std::fs::write(folder.path().join("echo.yaml"), format!("{ingress}---\n{roots}")).unwrap();
    let gateway = Gateway::start(folder.path(), &[]);
    every_shape(&mut setup::client(gateway.http).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_carried_both_ways_be_it_text_or_bytes() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut request = with(b"x", &[("x-text", "one"), ("x-text", "two")]);
    request.metadata_mut().insert_bin("x-bytes-bin", MetadataValue::from_bytes(&[0, 1, 255]));
    let answer = setup::client(gateway.http).await.unary(request).await.unwrap();
    let metadata = answer.metadata();
    assert_eq!(metadata.get_all("x-text").iter().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(&*metadata.get_bin("x-bytes-bin").unwrap().to_bytes().unwrap(), [0, 1, 255]);
    let seen = backend.seen.metadata.lock().unwrap().concat();
    assert!(seen.iter().any(|line| line == "te: trailers"), "{seen:?}");
    assert!(seen.iter().any(|line| line.starts_with("x-forwarded-for: 127.0.0.1")), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_of_the_server_arrive_as_it_made_them() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    for code in 1..=16 {
        let status = client.unary(with(b"x", &[("x-fail", &code.to_string())])).await.unwrap_err();
        assert_eq!(status.code(), Code::from_i32(code));
        assert_eq!(status.message(), "failed: ü %");
        assert_eq!(status.details(), [0, 255]);
        assert_eq!(status.metadata().get("x-why").unwrap(), "asked");
    }
    let mut spread = client.spread(with(b"ab", &[("x-fail", "9")])).await.unwrap().into_inner();
    assert_eq!(spread.message().await.unwrap().unwrap(), b"a");
    assert_eq!(spread.message().await.unwrap().unwrap(), b"bb");
    assert_eq!(spread.message().await.unwrap_err().code(), Code::FailedPrecondition);
    let status = client.call("/test.Echo/Nothing").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "no such method"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_beyond_every_window_are_carried() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let message: Vec<u8> = (0..9_000_011_u32).map(|number| (number % 251) as u8).collect();
    let answer = setup::client(gateway.http).await.unary(with(&message, &[])).await.unwrap();
    assert!(answer.into_inner() == message);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_is_cancelled_at_the_server() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.unary(with(b"x", &[("x-wait", "60000")])).await }
    });
    let spread = client.spread(with(b"a", &[("x-wait", "60000")])).await.unwrap();
    eventually("both wait", || backend.waiting() == 2);
    call.abort();
    drop(spread);
    eventually("both are cancelled", || backend.cancelled() == 2);
    // The connection serves on.
    assert!(client.unary(with(b"x", &[])).await.is_ok());
}

/// Tonic's clients and servers look at the field themselves, so that neither is used here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_clients_deadline_ends_a_call_at_the_gateway() {
    let (address, mut ends) = silent_server().await;
    let (_folder, gateway) = setup::gateway(&[address], "GRPC", "", &[]);
    let begun = Instant::now();
    let socket = tokio::net::TcpStream::connect(gateway.http).await.unwrap();
    let (mut sender, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post(format!("http://{HOST}/test.Echo/Unary"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "300m");
    let (response, mut body) = sender.send_request(request.body(()).unwrap(), false).unwrap();
    // A client that is still sending has a deadline, too.
    body.send_data(vec![0; 10].into(), false).unwrap();
    let response = response.await.unwrap();
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(250) && took < Duration::from_secs(10), "{took:?}");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["grpc-status"], "4");
    assert_eq!(response.headers()["grpc-message"], "RequestTimeout");
    assert_eq!(ends.recv().await.as_deref(), Some("300m"), "the field is passed on, and the call reset");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_timeout_is_the_servers_to_judge() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    assert!(client.unary(with(b"x", &[("grpc-timeout", "soon")])).await.is_ok());
    let seen = backend.seen.metadata.lock().unwrap().concat();
    assert!(seen.iter().any(|line| line == "grpc-timeout: soon"), "{seen:?}");
}

/// An HTTP/2 server that never answers. Tells each call's `grpc-timeout` once the call is reset.
async fn silent_server() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (tell, ends) = mpsc::channel(8);
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let tell = tell.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    let tell = tell.clone();
                    tokio::spawn(async move {
                        let _reason = std::future::poll_fn(|cx| respond.poll_reset(cx)).await;
                        let timeout = request.headers()["grpc-timeout"].to_str().unwrap().to_owned();
                        tell.send(timeout).await.unwrap();
                    });
                }
            });
        }
    });
    (address, ends)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_routes_deadline_holds_for_calls() {
    let backend = Backend::start(None);
    let (_folder, gateway) =
        setup::gateway(&[backend.address], "GRPC", ", sluicegate.dev/request-timeout: 300ms", &[]);
    let mut client = setup::client(gateway.http).await;
    let status = client.unary(with(b"x", &[("x-wait", "60000"), ("grpc-timeout", "1H")])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "RequestTimeout"));
}

/// Limits that would end an upload say nothing about a call whose client listens.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quiet_stream_outlives_the_limits_of_uploads() {
    let backend = Backend::start(None);
    let args = ["--body-idle-timeout", "200ms"];
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &args);
    let mut client = setup::client(gateway.http).await;
    let (send, receive) = mpsc::channel(1);
    let mut both = client.both(stream(receive)).await.unwrap().into_inner();
    send.send(b"a".to_vec()).await.unwrap();
    assert_eq!(both.message().await.unwrap().unwrap(), b"a");
    let quiet = tokio::time::timeout(Duration::from_secs(1), both.message()).await;
    assert!(quiet.is_err(), "the stream ended: {quiet:?}");
    send.send(b"b".to_vec()).await.unwrap();
    assert_eq!(both.message().await.unwrap().unwrap(), b"b");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_survive_changes_of_the_table() {
    let (backend, other) = (Backend::start(None), Backend::start(None));
    let (folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    let (send, receive) = mpsc::channel(1);
    let mut both = client.both(stream(receive)).await.unwrap().into_inner();
    for number in 0..6_u8 {
        // The endpoint of the stream comes and goes.
        let endpoints = if number % 2 == 0 { [other.address] } else { [backend.address] };
        let manifest = setup::ingress(&endpoints, "GRPC", "");
        std::fs::write(folder.path().join("echo.yaml"), manifest).unwrap();
        let serving = if number % 2 == 0 { &other } else { &backend };
        let before = serving.seen.metadata.lock().unwrap().len();
        let mut probe = setup::client(gateway.http).await;
        for _ in 0..2_000 {
            probe.unary(Request::new(Vec::new())).await.unwrap();
            if serving.seen.metadata.lock().unwrap().len() > before {
                break;
            }
        }
        assert!(serving.seen.metadata.lock().unwrap().len() > before, "the change was not seen");
        send.send(vec![number]).await.unwrap();
        assert_eq!(both.message().await.unwrap().unwrap(), [number]);
    }
}
