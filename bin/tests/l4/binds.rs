//! Which socket gets a connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};

use tempfile::TempDir;

use crate::common::plain::named;
use crate::common::{Backend, Gateway, eventually, free_address};
use crate::rig::{connect, read_all};

fn start(text: &str) -> (Gateway, TempDir) {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, text).unwrap();
    (Gateway::start(&file, &["--http", "none"]), folder)
}

fn listener(name: &str, address: SocketAddr, more: &str) -> String {
    format!("- {{name: {name}, address: \"{address}\", protocol: tcp{more}, forward: {{backend: {name}}}}}\n")
}

fn backend(name: &str, address: SocketAddr) -> String {
    format!("- {{name: {name}, endpoints: [\"{address}\"]}}\n")
}

#[test]
fn a_specific_address_goes_before_the_wildcard_of_its_port() {
    let port = free_address().port();
    let at = |ip: [u8; 4]| SocketAddr::from((ip, port));
    // Either order of opening.
    for names in [("a-any", "b-one"), ("b-any", "a-one")] {
        let text = format!(
            "listeners:\n{}{}backends:\n{}{}",
            listener(names.0, at([0, 0, 0, 0]), ""),
            listener(names.1, at([127, 0, 0, 2]), ""),
            backend(names.0, named("any")),
            backend(names.1, named("one"))
        );
        let (_gateway, _folder) = start(&text);
        for _ in 0..8 {
            assert_eq!(read_all(&mut connect(at([127, 0, 0, 2]))).unwrap(), b"one");
            assert_eq!(read_all(&mut connect(at([127, 0, 0, 1]))).unwrap(), b"any");
        }
    }
}

#[test]
fn a_port_of_another_program_is_not_shared_with_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let text = format!(
        "listeners:\n{}{}backends:\n{}{}",
        listener("a", address, ""),
        listener("b", free_address(), ""),
        backend("a", named("a")),
        backend("b", named("b"))
    );
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, text).unwrap();
    let mut gateway = Gateway::launch(&["--config", file.to_str().unwrap(), "--http", "none"]);
    gateway.wait_for_log(&address.to_string());
    assert!(!gateway.wait_for_exit().success());
}

#[test]
fn an_address_that_the_host_does_not_have_can_be_waited_for() {
    // TEST-NET-1 (RFC 5737), which is nobody's.
    let address = SocketAddr::from(([192, 0, 2, 77], free_address().port()));
    let text = format!(
        "listeners:\n{}backends:\n{}",
        listener("vip", address, ", freeBind: true"),
        backend("vip", named("vip"))
    );
    let (gateway, _folder) = start(&text);
    assert_eq!(gateway.listeners["vip"], address);
}

#[test]
fn an_address_may_change_from_http_to_tcp_and_back() {
    let (web, app) = (Backend::start("web"), named("tcp"));
    let address = free_address();
    let http = format!(
        "listeners: [{{name: l, address: \"{address}\"}}]\nroutes: [{{backend: web}}]\nbackends: [{{name: web, endpoints: [\"{}\"]}}]\n",
        web.address
    );
    let tcp = format!(
        "listeners:\n{}backends:\n{}",
        listener("l", address, "").replace("backend: l", "backend: app"),
        backend("app", app)
    );
    let (_gateway, folder) = start(&http);
    let answer = || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(crate::common::PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")?;
        let mut out = Vec::new();
        // The endpoint of TCP does not read, so its end may be a reset.
        let _ = stream.read_to_end(&mut out);
        Ok(out)
    };
    let says = |what: &str| {
        eventually(what, || answer().is_ok_and(|got| String::from_utf8_lossy(&got).contains(what)));
    };
    says("hello from web");
    let file = folder.path().join("edge.yaml");
    for _ in 0..3 {
        std::fs::write(&file, &tcp).unwrap();
        says("tcp");
        std::fs::write(&file, &http).unwrap();
        says("hello from web");
    }
}

#[test]
fn explain_says_what_becomes_of_a_connection() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("edge.yaml");
    let text = "listeners:
- {name: db, address: \"0.0.0.0:5432\", protocol: tcp, forward: {backend: db, sourceRanges: [10.0.0.0/8]}}
- {name: late, address: \"0.0.0.0:5432\", protocol: tcp, forward: {backend: db}}
- {name: one, address: \"127.0.0.9:5432\", protocol: tcp, forward: {backend: none}}
backends:
- {name: db, endpoints: [\"10.0.0.5:5432\"]}
- {name: none, endpoints: []}
";
    std::fs::write(&file, text).unwrap();
    let explain = |what: &str, from: &str| {
        let (code, out, error) =
            crate::common::run(&["explain", what, "--from", from, "--config", file.to_str().unwrap()]);
        (code, out + &error)
    };
    let (code, out) = explain("tcp://10.9.9.9:5432", "10.1.2.3");
    assert_eq!(code, 0, "{out}");
    for part in ["relayed by listener/db", "db on tcp://0.0.0.0:5432", "10.0.0.5:5432", "Listener late"] {
        assert!(out.contains(part), "{part} in\n{out}");
    }
    let (code, out) = explain("tcp://10.9.9.9:5432", "192.0.2.1");
    assert_eq!(code, 1);
    assert!(out.contains("reset: 192.0.2.1 is in none of the source ranges"), "{out}");
    let (code, out) = explain("tcp://127.0.0.9:5432", "10.1.2.3");
    assert_eq!(code, 1);
    assert!(out.contains("refused: no backend has an endpoint"), "{out}");
    let (code, out) = explain("tcp://127.0.0.9:5433", "10.1.2.3");
    assert_eq!(code, 1);
    assert!(out.contains("refused: nothing relays on tcp://127.0.0.9:5433"), "{out}");
}
