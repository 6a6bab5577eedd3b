//! TLS in front of the real binary: `curl` and `openssl` as clients, certificates from Secrets.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "all of it is test code, where a broken assumption must fail loudly"
)]

mod clients;
#[path = "../common/mod.rs"]
mod common;
mod programs;
mod rotation;

use std::path::Path;

use common::certificates::Authority;
use common::{Backend, Gateway, ingress};
use tempfile::TempDir;

/// A folder of manifests, the gateway that serves it, and what clients need.
pub(crate) struct Setup {
    /// Clients' files are here: `ca.pem` and what tests add.
    pub(crate) client: TempDir,
    /// What the gateway reads.
    pub(crate) config: TempDir,
    pub(crate) authority: Authority,
    pub(crate) gateway: Gateway,
    pub(crate) backend: Backend,
}

impl Setup {
    /// Serves the manifests that `manifests` writes.
    pub(crate) fn new(args: &[&str], manifests: impl FnOnce(&Authority, &Backend) -> String) -> Self {
        let (client, config) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (authority, backend) = (Authority::new("root"), Backend::start("app"));
        std::fs::write(client.path().join("ca.pem"), authority.pem()).unwrap();
        write(config.path(), "all.yaml", &manifests(&authority, &backend));
        let mut all = vec!["--https", "127.0.0.1:0"];
        all.extend(args);
        let gateway = Gateway::start(config.path(), &all);
        Self { client, config, authority, gateway, backend }
    }

    /// Runs `program` in the client's folder. Its exit code, and all that it printed.
    pub(crate) fn run(&self, program: &str, args: &[&str], input: &str) -> (i32, String) {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut child = Command::new(program)
            .args(args)
            .current_dir(self.client.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        // A program that ends early does not read it.
        let _sent = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
    }

    /// `curl` for `https://HOST PATH`, which trusts the authority only. Status code (0 without an answer), and output.
    pub(crate) fn curl(&self, host: &str, path: &str, more: &[&str]) -> (u16, String) {
        let port = self.gateway.https.port();
        let (url, connect) = (format!("https://{host}:{port}{path}"), format!("::127.0.0.1:{port}"));
        let mut args = vec!["-sS", "-i", "--max-time", "20", "--cacert", "ca.pem", "--connect-to", &connect];
        args.extend(more);
        args.extend(["-w", "\n%{http_code}", &url]);
        let (_, output) = self.run("curl", &args, "");
        let status = output.lines().rev().find_map(|line| line.parse().ok());
        (status.unwrap_or(0), output)
    }

    /// `openssl s_client` for `name`, which sends one request and waits for its answer.
    pub(crate) fn openssl(&self, name: &str, more: &[&str]) -> String {
        let to = self.gateway.https.to_string();
        let mut args =
            vec!["s_client", "-connect", &to, "-CAfile", "ca.pem", "-ign_eof", "-servername", name];
        args.extend(more);
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        self.run("openssl", &args, &request).1
    }
}

/// Replaces a file of the configuration in one step.
pub(crate) fn write(folder: &Path, name: &str, text: &str) {
    let temporary = folder.join(format!(".{name}"));
    std::fs::write(&temporary, text).unwrap();
    std::fs::rename(temporary, folder.join(name)).unwrap();
}

/// An Ingress of `host` to `backend`, with a certificate from `secret` if there is one, and annotations (a YAML flow
/// map without its braces; keys without `sluicegate.dev/`).
pub(crate) fn secure(
    name: &str,
    host: &str,
    backend: &Backend,
    secret: &str,
    annotations: &[(&str, &str)],
) -> String {
    let annotations: Vec<String> =
        annotations.iter().map(|(key, value)| format!("sluicegate.dev/{key}: \"{value}\"")).collect();
    let metadata = format!("namespace: test, annotations: {{{}}}}}", annotations.join(", "));
    let spec = match secret {
        "" => "\nspec:\n".to_owned(),
        secret => format!("\nspec:\n  tls:\n  - {{hosts: [\"{host}\"], secretName: {secret}}}\n"),
    };
    let text = ingress(name, &format!("\"{host}\""), &[backend.address]);
    text.replacen("namespace: test}", &metadata, 1).replacen("\nspec:\n", &spec, 1)
}
