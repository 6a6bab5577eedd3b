//! The one right that the binary may take into use, as the image grants it: a file capability that is permitted and not
//! effective. Needs root and `setcap`; says so where it cannot be shown.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a panic is a failed test")]

mod common;

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use common::{binary, eventually, ingress, try_get};
use tempfile::TempDir;

/// A user that is nobody, as in the image.
const USER: &str = "65532";

/// A copy of the binary with the capability, in a folder that anybody may enter; `None` where that cannot be had.
fn image(folder: &Path) -> Option<PathBuf> {
    let program = folder.join("sluicegate");
    fs::copy(binary(), &program).unwrap();
    for path in [folder, &program] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let granted = Command::new("setcap").arg("cap_net_bind_service=p").arg(&program).output();
    if granted.is_ok_and(|granted| granted.status.success()) {
        return Some(program);
    }
    eprintln!("skipped: no file capability can be given here (needs root and setcap)");
    None
}

/// An address whose port is for root alone; `None` where there is none, as in most containers.
fn low_address() -> Option<SocketAddr> {
    let first = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or_default();
    let first = first.trim().parse().unwrap_or(1_024).min(1_024);
    let mut low = (600..first).rev().map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
    low.find(|address| TcpListener::bind(address).is_ok())
}

/// Starts `program` as a container would that grants `rights` and nothing else.
fn start(program: &Path, rights: &str, address: SocketAddr) -> Child {
    let mut container = Command::new("setpriv");
    container.args(["--reuid", USER, "--regid", USER, "--clear-groups", "--bounding-set", rights]);
    container.arg(program).args(["run", "--https", "none", "--admin", "none", "--workers", "1"]);
    container.arg("--config").arg(program.with_file_name("config")).arg("--http").arg(address.to_string());
    container.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn low_ports_are_opened_where_the_right_is_granted_and_the_binary_starts_where_it_is_not() {
    let folder = TempDir::new().unwrap();
    let Some(program) = image(folder.path()) else { return };
    let Some(address) = low_address() else { return };
    let config = folder.path().join("config");
    fs::create_dir(&config).unwrap();
    fs::write(config.join("ingress.yaml"), ingress("web", "web.example.com", &[])).unwrap();

    // It starts, and tells what it lacks: with an effective capability, the kernel would not have started it.
    let output = start(&program, "-all", address).wait_with_output().unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("permission denied"), "{error}");

    let mut gateway = start(&program, "-all,+net_bind_service", address);
    eventually("an answer at a low port", || try_get(address, "web.example.com", "/").is_ok());
    gateway.kill().unwrap();
    gateway.wait().unwrap();
}
