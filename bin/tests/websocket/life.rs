//! How long a socket lives: beyond changes of the table, until a drain is over, and as long as something is said.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use crate::setup;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_socket_outlives_its_endpoint_in_the_table() {
    let (first, second) = (setup::echo().await, setup::echo().await);
    let (folder, gateway) = setup::gateway(&[first], &[]);
    let mut socket = setup::connect(gateway.http).await;
    for number in 0..10 {
        let endpoint = if number % 2 == 0 { second } else { first };
        setup::write(&folder, &[endpoint]);
        crate::common::eventually("the table is served", || {
            gateway.admin(&format!("/debug/table?host={}", setup::HOST)).contains(&endpoint.to_string())
        });
        setup::say(&mut socket, format!("after change {number}")).await;
    }
    std::fs::remove_file(folder.path().join("echo.yaml")).unwrap();
    gateway.wait_for_status(setup::HOST, "/", 404);
    setup::say(&mut socket, "without any route").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_waits_for_sockets_as_long_as_it_may() {
    let (_folder, mut gateway) = setup::gateway(&[setup::echo().await], &["--drain-timeout", "20s"]);
    let mut socket = setup::connect(gateway.http).await;
    setup::say(&mut socket, "before").await;
    gateway.signal("TERM");
    gateway.wait_for_log("drain");
    setup::say(&mut socket, "meanwhile").await;
    assert!(gateway.is_running());
    socket.close(None).await.unwrap();
    while let Some(Ok(_)) = socket.next().await {}
    drop(socket);
    let begun = Instant::now();
    assert_eq!(gateway.wait_for_exit().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(10), "it waited for nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_sockets_when_its_time_is_over() {
    let (_folder, mut gateway) = setup::gateway(&[setup::echo().await], &["--drain-timeout", "500ms"]);
    let mut socket = setup::connect(gateway.http).await;
    setup::say(&mut socket, "before").await;
    gateway.signal("TERM");
    gateway.wait_for_exit();
    assert!(!matches!(socket.next().await, Some(Ok(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_socket_ends_by_its_own_timeout_alone() {
    let args = ["--tunnel-idle-timeout", "1s", "--idle-timeout", "100ms", "--body-idle-timeout", "100ms"];
    let (_folder, gateway) = setup::gateway(&[setup::echo().await], &args);
    let mut socket = setup::connect(gateway.http).await;
    let begun = Instant::now();
    // Something is said more often than that.
    while begun.elapsed() < Duration::from_secs(2) {
        setup::say(&mut socket, "still here").await;
        let silence = tokio::time::timeout(Duration::from_millis(300), socket.next()).await;
        assert!(silence.is_err(), "the socket ended: {silence:?}");
    }
    let begun = Instant::now();
    assert!(!matches!(socket.next().await, Some(Ok(_))));
    let silent = begun.elapsed();
    assert!(silent < Duration::from_secs(10), "{silent:?}");
}
