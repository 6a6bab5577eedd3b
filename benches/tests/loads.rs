//! The loads and controls with each other: every load must come through a proxy that is right, and must see one that is not.

#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A control that ends with this value.
struct Control {
    child: Child,
    address: SocketAddr,
}

impl Control {
    fn start(binary: &str, upstreams: &[SocketAddr]) -> Self {
        let address = free(Ipv4Addr::LOCALHOST);
        let mut command = Command::new(binary);
        command.args(["--listen", &address.to_string()]);
        for upstream in upstreams {
            command.args(["--upstream", &upstream.to_string()]);
        }
        let child = command.stdin(Stdio::null()).spawn().unwrap();
        let control = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "{binary} does not listen");
            std::thread::sleep(Duration::from_millis(2));
        }
        control
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free(address: Ipv4Addr) -> SocketAddr {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap()
}

fn backends() -> Vec<SocketAddr> {
    (11..=14).map(|host| free(Ipv4Addr::new(127, 0, 0, host))).collect()
}

fn run(load: &str, control: &Control, backends: &[SocketAddr], more: &[&str]) -> Output {
    let mut command = Command::new(load);
    command.args(["--target", &control.address.to_string(), "--pid", &control.child.id().to_string()]);
    for backend in backends {
        command.args(["--backend", &backend.to_string()]);
    }
    command.args(["--warmup", "10", "--limit-seconds", "30"]).args(more).output().unwrap()
}

/// The report of a load that found everything right.
fn right(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["good"], true, "{report}");
    assert!(report["cpu_us_per_request"].is_number(), "{report}");
    report
}

#[test]
fn hyper_proxy_passes_on_in_turn_and_says_for_whom() {
    let backends = backends();
    let control = Control::start(env!("CARGO_BIN_EXE_hyper-proxy"), &backends);
    let loadgen = env!("CARGO_BIN_EXE_loadgen");
    let report = right(&run(loadgen, &control, &backends, &["--requests", "390", "--expect-forwarded"]));
    assert_eq!(report["backend_requests"], serde_json::json!([100, 100, 100, 100]));
    // Both sides are kept alive.
    assert!(report["backend_connections"].as_u64().unwrap() <= 4 * 64, "{report}");
    let upload = ["--requests", "20", "--connections", "4", "--upload", "300000", "--chunked"];
    right(&run(loadgen, &control, &backends, &upload));
}

#[test]
fn websockets_are_echoed_in_every_byte() {
    let backends = backends();
    let relay = Control::start(env!("CARGO_BIN_EXE_relay"), &backends);
    let echo = env!("CARGO_BIN_EXE_websocket-echo");
    let report = right(&run(echo, &relay, &backends, &["--requests", "2000"]));
    assert!(report["backend_connections"].as_u64().unwrap() >= 64, "{report}");
    assert_eq!(report["backend_requests"].as_array().unwrap().len(), 4);
    let large = ["--requests", "20", "--connections", "4", "--size", "100000", "--rate", "1000"];
    right(&run(echo, &relay, &backends, &large));
}

#[test]
fn a_websocket_that_is_not_opened_gives_no_figure() {
    let backends = backends();
    // It passes no upgrade on.
    let control = Control::start(env!("CARGO_BIN_EXE_hyper-proxy"), &backends);
    let output = run(env!("CARGO_BIN_EXE_websocket-echo"), &control, &backends, &[]);
    assert!(!output.status.success() && output.stdout.is_empty());
}

#[test]
fn streams_carry_calls_and_gets() {
    let backends = backends();
    let relay = Control::start(env!("CARGO_BIN_EXE_relay"), &backends);
    let streams = env!("CARGO_BIN_EXE_streams");
    let few = ["--requests", "500", "--connections", "4", "--streams", "4"];
    for kind in [&["--grpc"][..], &["--grpc", "--stream-messages", "7"], &["--backend-h2", "--body", "70000"]]
    {
        let report = right(&run(streams, &relay, &backends, &[&few, kind].concat()));
        assert_eq!(report["requests"], 500, "{kind:?}");
        assert!(report["backend_connections"].as_u64().unwrap() >= 4, "{kind:?}");
    }
}

/// The sluicegate that was built with these, if one was.
fn sluicegate() -> Option<String> {
    let beside = Path::new(env!("CARGO_BIN_EXE_relay")).with_file_name("sluicegate");
    let built = beside.is_file().then(|| beside.display().to_string());
    std::env::var("SLUICEGATE_TEST_BINARY").ok().or(built)
}

fn measure(tool: &str, args: &[&str]) -> Value {
    let output = Command::new(tool).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn changes_are_taken_up_and_fail_no_request() {
    let Some(binary) = sluicegate() else { return };
    let args = ["--peer", "sluicegate", "--binary", &binary, "--rate", "500", "--before-seconds", "0.2"];
    let few = ["--changes", "3", "--settle-ms", "100"];
    let report = measure(env!("CARGO_BIN_EXE_config-change"), &[&args[..], &few].concat());
    assert_eq!((&report["changes"], &report["failed"]), (&3.into(), &0.into()), "{report}");
    assert!(report["first_new_ms"]["max"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn a_proxy_that_does_not_run_gives_no_figure() {
    let args = ["--peer", "nginx", "--binary", "/bin/false"];
    let output = Command::new(env!("CARGO_BIN_EXE_config-change")).args(args).output().unwrap();
    assert!(!output.status.success() && output.stdout.is_empty());
}
