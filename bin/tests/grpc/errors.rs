//! Errors that the gateway makes, as tonic's client and the metrics see them.

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
