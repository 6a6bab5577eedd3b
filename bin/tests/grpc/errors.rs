//! Errors that the gateway makes, as tonic's client and the metrics see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use tonic::Code;
use tonic::transport::Endpoint;

use crate::common::{self, Gateway};
use crate::setup::{self, Backend, Client, with};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_a_route_is_unimplemented() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let endpoint = Endpoint::from_shared(format!("http://{}", gateway.http)).unwrap();
    let endpoint = endpoint.origin("http://other.test".parse().unwrap());
    let status = Client::new(endpoint.connect().await.unwrap()).unary(with(b"x", &[])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unimplemented, "NoRoute"));
    // What is counted is what happened, not how it was put.
    let metrics = gateway.admin("/metrics");
    let counted = metrics.lines().find(|line| line.contains("NoRoute") && !line.starts_with('#'));
    assert!(counted.is_some_and(|line| line.ends_with(" 1")), "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_without_an_endpoint_is_unavailable() {
    let (_folder, gateway) = setup::gateway(&[], "GRPC", "", &[]);
    let status = setup::client(gateway.http).await.unary(with(b"x", &[])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "NoEndpoint"));
    let (_folder, gateway) = setup::gateway(&[common::free_address()], "GRPC", "", &[]);
    let status = setup::client(gateway.http).await.unary(with(b"x", &[])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unavailable, "ConnectFailed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_does_not_speak_http2_is_unavailable() {
    let backend = common::Backend::start("http1");
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let status = setup::client(gateway.http).await.unary(with(b"x", &[])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_answer_exceeds_the_deadline_that_the_route_sets_for_it() {
    let backend = Backend::start(None);
    let (_folder, gateway) =
        setup::gateway(&[backend.address], "GRPC", ", sluicegate.dev/response-timeout: 300ms", &[]);
    let status =
        setup::client(gateway.http).await.unary(with(b"x", &[("x-wait", "60000")])).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::DeadlineExceeded, "ResponseTimeout"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_keeps_the_meaning_in_http() {
    let (folder, log) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("echo.yaml"), setup::ingress(&[], "GRPC", "")).unwrap();
    let file = log.path().join("access.log");
    let file = file.to_str().unwrap();
    let gateway = Gateway::start(folder.path(), &["--access-log", "json", "--access-log-file", file]);
    let _status = setup::client(gateway.http).await.unary(with(b"x", &[])).await.unwrap_err();
    let mut text = String::new();
    common::eventually("the line is written", || {
        text = std::fs::read_to_string(file).unwrap_or_default();
        text.contains('\n')
    });
    assert!(text.contains("\"status\":503") && text.contains("NoEndpoint"), "{text}");
}

/// A call is never repeated, unless it provably was not processed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_failed_is_not_repeated() {
    let backend = Backend::start(None);
    let (_folder, gateway) = setup::gateway(&[backend.address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    client.unary(with(b"x", &[("x-fail", "14")])).await.unwrap_err();
    tokio::time::timeout(Duration::from_secs(20), client.unary(with(b"y", &[]))).await.unwrap().unwrap();
    assert_eq!(backend.seen.metadata.lock().unwrap().len(), 2);
}

/// RFC 9113 §8.7: what was refused was not processed, so that a call that was sent with its message may be sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_call_is_sent_again_with_its_message() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let calls = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let calls = Arc::clone(&calls);
        async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(refuse_every_other(socket, Arc::clone(&calls)));
            }
        }
    });
    let (_folder, gateway) = setup::gateway(&[address], "GRPC", "", &[]);
    let mut client = setup::client(gateway.http).await;
    for length in [0, 10, 1_000, 6_000] {
        let message = vec![b'm'; length];
        let answer = client.unary(with(&message, &[])).await.unwrap();
        assert!(answer.into_inner() == message, "{length}");
    }
    assert_eq!(calls.load(SeqCst), 8);
}

/// Reads calls to their end; refuses the first, sends the message of the second back, and so on.
async fn refuse_every_other(socket: tokio::net::TcpStream, calls: Arc<AtomicUsize>) {
    let Ok(mut connection) = h2::server::handshake(socket).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let calls = Arc::clone(&calls);
        tokio::spawn(async move {
            let mut body = request.into_body();
            let mut message = bytes::BytesMut::new();
            while let Some(chunk) = body.data().await {
                let chunk = chunk.unwrap();
                body.flow_control().release_capacity(chunk.len()).unwrap();
                message.extend_from_slice(&chunk);
            }
            if calls.fetch_add(1, SeqCst).is_multiple_of(2) {
                return respond.send_reset(h2::Reason::REFUSED_STREAM);
            }
            let response =
                http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
            let mut send = respond.send_response(response, false).unwrap();
            send.send_data(message.freeze(), false).unwrap();
            let mut trailers = http::HeaderMap::new();
            trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
            send.send_trailers(trailers).unwrap();
        });
    }
}
