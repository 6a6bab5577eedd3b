//! The real binary in front of three recording backends.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use tempfile::TempDir;

use crate::backend::{Backend, Mark, Received};
use crate::client::Client;
use crate::common::Gateway;

/// What the gateway answers [`Setup::sentinel`] from; never part of a case.
pub(crate) const SENTINEL: &str = "/sentinel";

/// Which backend a request belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Which {
    /// Host `a`, all paths but those of `Other`; host `b`, path `/only`.
    Main,
    /// Host `a`, paths `/admin` and `/foo`.
    Other,
    /// Every host that has no rules of its own.
    Fallback,
}

pub(crate) struct Setup {
    pub(crate) http: SocketAddr,
    pub(crate) main: Backend,
    pub(crate) other: Backend,
    pub(crate) fallback: Backend,
    /// Sent before a sentinel.
    pub(crate) preamble: &'static [u8],
    gateway: Gateway,
    _config: TempDir,
}

/// Lengths of all three records.
pub(crate) struct Marks([Mark; 3]);

impl Setup {
    /// Starts the gateway with one worker and these further flags.
    pub(crate) fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, "")
    }

    /// Starts the gateway with these annotations on its Ingress, one YAML line each.
    pub(crate) fn start_with(flags: &[&str], annotations: &str) -> Self {
        let [main, other, fallback] = [(); 3].map(|()| Backend::start());
        let config = tempfile::tempdir().unwrap();
        write_config(
            config.path(),
            annotations,
            [("main", &main), ("other", &other), ("fallback", &fallback)],
        );
        let gateway = Gateway::start(config.path(), &[&["--workers", "1"], flags].concat());
        Self { http: gateway.http, main, other, fallback, preamble: b"", gateway, _config: config }
    }

    /// What the gateway has printed.
    pub(crate) fn log(&self) -> String {
        self.gateway.log()
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.http)
    }

    pub(crate) fn backend(&self, which: Which) -> &Backend {
        match which {
            Which::Main => &self.main,
            Which::Other => &self.other,
            Which::Fallback => &self.fallback,
        }
    }

    /// Sends a plain request over a connection of its own; once it is answered, everything sent before has
    /// reached its backend. Gives the connection to the backend on which it arrived.
    pub(crate) fn sentinel(&self) -> Result<usize, String> {
        let mark = self.main.mark();
        let mut client = self.client();
        client.send(self.preamble);
        client.send(format!("GET {SENTINEL} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").as_bytes());
        let response = client.read_response("GET").map_err(|why| format!("sentinel: {why}"))?;
        if response.head.status() != 200 {
            return Err(format!("sentinel: {}", response.head.line));
        }
        let received = self.main.since(&mark);
        let is_it = |received: &&Received| {
            received.requests.iter().any(|request| request.head.line.contains(SENTINEL))
        };
        received
            .iter()
            .find(is_it)
            .map(|received| received.connection)
            .ok_or_else(|| "sentinel did not arrive".into())
    }

    pub(crate) fn marks(&self) -> Marks {
        Marks([self.main.mark(), self.other.mark(), self.fallback.mark()])
    }

    /// What the backends received after `marks`, without sentinels.
    pub(crate) fn since(&self, marks: &Marks) -> Vec<(Which, Received)> {
        let [main, other, fallback] = &marks.0;
        let mut all = Vec::new();
        for (which, mark) in [(Which::Main, main), (Which::Other, other), (Which::Fallback, fallback)] {
            for mut received in self.backend(which).since(mark) {
                received.requests.retain(|request| !request.head.line.contains(SENTINEL));
                if !received.requests.is_empty() || !received.rest.is_empty() {
                    all.push((which, received));
                }
            }
        }
        all
    }

    /// Waits until no backend has an open connection with an unfinished request.
    pub(crate) fn await_aborts(&self, marks: &Marks) -> Result<(), String> {
        for (backend, mark) in [&self.main, &self.other, &self.fallback].into_iter().zip(&marks.0) {
            let is_unfinished = |received: &Received| !received.rest.is_empty() && received.end.is_none();
            if backend.since(mark).iter().any(is_unfinished) {
                backend.await_ends(mark)?;
            }
        }
        Ok(())
    }

    /// Waits until every connection that received something after `marks` has ended.
    pub(crate) fn await_all_ends(&self, marks: &Marks) -> Result<(), String> {
        for (backend, mark) in [&self.main, &self.other, &self.fallback].into_iter().zip(&marks.0) {
            backend.await_ends(mark)?;
        }
        Ok(())
    }

    /// Forgets unused scripts.
    pub(crate) fn clear(&self) {
        for backend in [&self.main, &self.other, &self.fallback] {
            backend.clear();
        }
    }
}

fn write_config(folder: &Path, annotations: &str, backends: [(&str, &Backend); 3]) {
    let mut text = String::new();
    for (name, backend) in backends {
        let port = backend.address.port();
        write!(
            text,
            "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: test}}
spec:
  ports: [{{name: http, port: 80, targetPort: {port}}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: test
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints:
- addresses: [127.0.0.1]
  conditions: {{ready: true}}
---
"
        )
        .unwrap();
    }
    let indented: String = annotations.lines().fold(String::new(), |all, line| all + "    " + line + "\n");
    let path = |path: &str, kind: &str, service: &str| {
        format!(
            "      - path: {path}
        pathType: {kind}
        backend: {{service: {{name: {service}, port: {{number: 80}}}}}}
"
        )
    };
    write!(
        text,
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata:
  name: test
  namespace: test
  annotations:
    example.com/unrelated: \"\"
{indented}spec:
  rules:
  - host: a
    http:
      paths:
{}{}{}  - host: b
    http:
      paths:
{}  - http:
      paths:
{}",
        path("/", "Prefix", "main"),
        path("/admin", "Prefix", "other"),
        path("/foo", "Prefix", "other"),
        path("/only", "Exact", "main"),
        path("/", "Prefix", "fallback"),
    )
    .unwrap();
    std::fs::write(folder.join("ingress.yaml"), text).unwrap();
    std::fs::write(folder.join("native.yaml"), NATIVE.replace("MAIN", &backends[0].1.address.to_string()))
        .unwrap();
}

/// Hosts with what an Ingress cannot say.
const NATIVE: &str = r"
routes:
  - {name: strip, hosts: n, pathPrefix: /strip, backend: main, filters: {rewrite: {prefix: /}}}
  - {name: strip-deep, hosts: n, pathPrefix: /deep/er, backend: main, filters: {rewrite: {prefix: /x/y/}}}
  - {name: regex, hosts: n, pathRegex: '/(a+)+b', backend: main}
  - {name: redirect, hosts: r, filters: {redirect: {scheme: https, status: 308}}}
backends:
  - {name: main, endpoints: [MAIN]}
";
