//! The proxies that are compared, each as its file here configures and starts it: one worker (or as many as asked for), four
//! backends in strict rotation, both sides kept alive, the same forwarding headers, no health checks, no log unless the
//! scenario logs. Their configurations are in `benches/peers/`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::machine::first_line;
use super::scenario::{HOSTS, Scenario, Table};
use super::template;
use crate::tls::NAME;

mod caddy;
mod envoy;
mod haproxy;
mod nginx;
mod relay;
mod sluicegate;
mod traefik;

/// Where the backends listen.
pub const BACKENDS: [Ipv4Addr; 4] = [
    Ipv4Addr::new(127, 0, 0, 11),
    Ipv4Addr::new(127, 0, 0, 12),
    Ipv4Addr::new(127, 0, 0, 13),
    Ipv4Addr::new(127, 0, 0, 14),
];

/// A proxy in one of its variants.
#[derive(Debug)]
pub struct Peer {
    /// Its name in reports.
    pub name: &'static str,
    /// What differs from the plain one, such as `splice`; empty for that.
    pub variant: &'static str,
    /// The program.
    pub program: &'static str,
    /// Where the program is looked for.
    pub source: Source,
    /// How it is started.
    pub launch: fn(&Setup<'_>) -> Result<Launch>,
    /// Its speed as a share of ours, to size the first load.
    pub speed: f64,
    /// Seconds from its start until it serves, about.
    pub start: f64,
}

/// Where a program comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// It is built from this tree.
    Tree,
    /// A package of the system.
    System,
    /// `benches/peers.sh` puts it into a folder of its own.
    Folder,
}

/// What a proxy is told.
#[derive(Debug)]
pub struct Setup<'a> {
    /// What it is for.
    pub scenario: &'a Scenario,
    /// The variant of the peer.
    pub variant: &'a str,
    /// The program.
    pub program: &'a Path,
    /// Where it may write, and where the certificates are: `ca.pem`, `leaf.crt`, `leaf.key`, `leaf.pem`.
    pub folder: &'a Path,
    /// Where clients connect, on loopback.
    pub port: u16,
    /// A second port, for whoever asks how it is.
    pub admin: u16,
    /// The port of all backends.
    pub backend_port: u16,
    /// Workers, threads, or what they are called.
    pub workers: usize,
}

/// How a proxy is started.
#[derive(Debug)]
pub struct Launch {
    /// Arguments of the program.
    pub args: Vec<String>,
    /// Additions to its environment.
    pub env: Vec<(&'static str, String)>,
    /// Where its standard output goes; nowhere by default.
    pub stdout: Option<PathBuf>,
    /// When it serves.
    pub ready: Ready,
}

/// How one knows that a proxy serves.
#[derive(Debug)]
pub enum Ready {
    /// This loopback port accepts connections.
    Accepts(u16),
    /// A GET of this path on this loopback port says 200.
    Says(u16, &'static str),
}

const PLAIN: Peer = Peer {
    name: "",
    variant: "",
    program: "",
    source: Source::System,
    launch: relay::launch,
    speed: 1.0,
    start: 0.1,
};
const RELAY: Peer =
    Peer { program: "relay", source: Source::Tree, launch: relay::launch, speed: 1.3, ..PLAIN };
const SLUICEGATE: Peer =
    Peer { program: "sluicegate", source: Source::Tree, launch: sluicegate::launch, ..PLAIN };
const NGINX: Peer = Peer { program: "nginx", launch: nginx::launch, speed: 0.7, ..PLAIN };
const HAPROXY: Peer = Peer { program: "haproxy", launch: haproxy::launch, speed: 0.75, ..PLAIN };
const FOLDER: Peer = Peer { source: Source::Folder, ..PLAIN };

/// All that are known.
const ALL: &[Peer] = &[
    Peer { name: "relay", ..RELAY },
    Peer { name: "relay-splice", variant: "splice", ..RELAY },
    Peer { name: "sluicegate", ..SLUICEGATE },
    Peer { name: "sluicegate-one-route", variant: "one-route", ..SLUICEGATE },
    Peer { name: "nginx", ..NGINX },
    Peer { name: "nginx-lean", variant: "lean", ..NGINX },
    Peer { name: "nginx-stream", variant: "stream", ..NGINX },
    Peer { name: "nginx-new", variant: "new", program: "nginx-new", source: Source::Folder, ..NGINX },
    Peer { name: "haproxy", ..HAPROXY },
    Peer { name: "haproxy-lean", variant: "lean", ..HAPROXY },
    Peer { name: "haproxy-splice", variant: "splice", ..HAPROXY },
    Peer { name: "envoy", program: "envoy", launch: envoy::launch, speed: 0.4, start: 0.3, ..FOLDER },
    Peer { name: "traefik", program: "traefik", launch: traefik::launch, speed: 0.2, start: 0.6, ..FOLDER },
    Peer { name: "caddy", program: "caddy", launch: caddy::launch, speed: 0.15, start: 0.3, ..FOLDER },
    Peer { name: "hyper-proxy", program: "hyper-proxy", speed: 0.6, ..RELAY },
    Peer { name: "pingora-proxy", program: "pingora-proxy", speed: 0.5, source: Source::Folder, ..RELAY },
];

/// The peer of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Peer> {
    ALL.iter().find(|peer| peer.name == name)
}

/// The names of all of them.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|peer| peer.name)
}

impl Peer {
    /// What would install it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self.source {
            Source::Tree => "cargo build --release -p sluicegate && cargo build --release -p benches",
            Source::System | Source::Folder => "benches/peers.sh",
        }
    }

    /// Whether it is a control of ours that parses nothing.
    #[must_use]
    pub fn is_relay(&self) -> bool {
        self.program == "relay"
    }
}

impl Setup<'_> {
    /// The addresses of the backends.
    pub fn backends(&self) -> impl Iterator<Item = SocketAddr> {
        let port = self.backend_port;
        BACKENDS.into_iter().map(move |host| (host, port).into())
    }

    /// `line` for each backend, with `@NUMBER@` and `@ADDRESS@`, `@HOST@` and `@PORT@` filled in.
    fn each_backend(&self, line: &str, between: &str) -> String {
        let lines = self.backends().enumerate().map(|(number, address)| {
            line.replace("@NUMBER@", &number.to_string())
                .replace("@ADDRESS@", &address.to_string())
                .replace("@HOST@", &address.ip().to_string())
                .replace("@PORT@", &address.port().to_string())
        });
        lines.collect::<Vec<_>>().join(between)
    }

    /// `line` for each of the hosts that are routed, with `@HOST@` filled in; empty if all are routed alike.
    fn each_host(&self, line: &str, between: &str) -> String {
        if self.scenario.table != Table::Hosts {
            return String::new();
        }
        let lines = (0..HOSTS).map(|number| line.replace("@HOST@", &format!("h{number}.{NAME}")));
        lines.collect::<Vec<_>>().join(between)
    }

    /// Where it listens.
    fn listen(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The access log.
    fn log(&self) -> PathBuf {
        self.folder.join("access.log")
    }

    /// A file in its folder, as text.
    fn file(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Fills `benches/peers/NAME` in, writes it to the folder, and says where.
    fn write(&self, name: &str, values: &[(&str, String)]) -> Result<String> {
        let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(name);
        let text = std::fs::read_to_string(&template)
            .with_context(|| format!("cannot read {}", template.display()))?;
        let own = [
            ("DIR", self.folder.display().to_string()),
            ("LISTEN", self.listen()),
            ("PORT", self.port.to_string()),
            ("ADMIN", self.admin.to_string()),
            ("WORKERS", self.workers.to_string()),
        ];
        let text = template::fill(&text, &[values, &own].concat()).with_context(|| name.to_owned())?;
        let path = self.folder.join(name);
        std::fs::write(&path, text)?;
        Ok(path.display().to_string())
    }
}

impl Launch {
    fn new<I>(args: I, ready: Ready) -> Self
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Self { args: args.into_iter().map(Into::into).collect(), env: Vec::new(), stdout: None, ready }
    }
}

/// Where programs are.
#[derive(Debug, Clone)]
pub struct Programs {
    /// What is built from this tree.
    binaries: PathBuf,
    /// What `benches/peers.sh` installed.
    installed: PathBuf,
}

impl Programs {
    /// Those in `binaries`, in `installed`, and in the folders of the system.
    #[must_use]
    pub fn new(binaries: &Path, installed: &Path) -> Self {
        Self { binaries: binaries.to_owned(), installed: installed.to_owned() }
    }

    /// The program of that name.
    #[must_use]
    pub fn find(&self, name: &str, source: Source) -> Option<PathBuf> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let system = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
        let mut folders: Vec<PathBuf> = match source {
            Source::Tree => vec![self.binaries.clone()],
            Source::System => system.collect(),
            Source::Folder => {
                [self.installed.clone(), self.binaries.clone()].into_iter().chain(system).collect()
            }
        };
        // A program is started in a folder of its own.
        folders.retain(|folder| folder.is_absolute());
        folders.into_iter().map(|folder| folder.join(name)).find(|path| path.is_file())
    }

    /// The program of `peer`.
    #[must_use]
    pub fn of(&self, peer: &Peer) -> Option<PathBuf> {
        self.find(peer.program, peer.source)
    }

    /// What each program that is there says of its version.
    #[must_use]
    pub fn versions(&self) -> BTreeMap<String, String> {
        let asked: [(&str, Source, &[&str]); 8] = [
            ("sluicegate", Source::Tree, &["--version"]),
            ("nginx", Source::System, &["-v"]),
            ("nginx-new", Source::Folder, &["-v"]),
            ("haproxy", Source::System, &["-v"]),
            ("envoy", Source::Folder, &["--version"]),
            ("traefik", Source::Folder, &["version"]),
            ("caddy", Source::Folder, &["version"]),
            ("h2load", Source::System, &["--version"]),
        ];
        let version = |(name, source, args): (&str, Source, &[&str])| {
            let said = first_line(Command::new(self.find(name, source)?).args(args))?;
            Some((name.to_owned(), without_path(&said)))
        };
        asked.into_iter().filter_map(version).collect()
    }
}

/// Some say first where they are, which is this machine's own matter.
fn without_path(said: &str) -> String {
    match said.split_once(char::is_whitespace) {
        Some((path, rest)) if path.starts_with('/') => rest.trim_start().to_owned(),
        _ => said.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::compare::scenario;

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = names().collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    #[test]
    fn every_peer_of_every_scenario_has_a_configuration() {
        for scenario in scenario::ALL {
            for peer in scenario.peers {
                let peer = find(peer).unwrap();
                let folder = tempfile::tempdir().unwrap();
                crate::certificates::write(folder.path(), NAME).unwrap();
                let setup = Setup {
                    scenario,
                    variant: peer.variant,
                    program: Path::new(peer.program),
                    folder: folder.path(),
                    port: 18_000,
                    admin: 18_001,
                    backend_port: 18_002,
                    workers: 1,
                };
                let launch = (peer.launch)(&setup)
                    .unwrap_or_else(|error| panic!("{} of {}: {error:#}", peer.name, scenario.name));
                assert!(!launch.args.is_empty());
                for file in fs::read_dir(folder.path()).unwrap() {
                    let path = file.unwrap().path();
                    if path.extension().is_some_and(|extension| extension == "json") {
                        let text = fs::read_to_string(&path).unwrap();
                        serde_json::from_str::<serde_json::Value>(&text)
                            .unwrap_or_else(|error| panic!("{} of {}: {error}", peer.name, scenario.name));
                    }
                }
            }
        }
    }

    #[test]
    fn a_program_that_is_not_there_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let programs = Programs::new(folder.path(), folder.path());
        assert_eq!(programs.of(find("relay").unwrap()), None);
        fs::write(folder.path().join("relay"), "").unwrap();
        assert_eq!(programs.of(find("relay").unwrap()), Some(folder.path().join("relay")));
        assert_eq!(programs.find("relay", Source::System), None);
    }

    #[test]
    fn a_version_does_not_tell_where_the_program_is() {
        assert_eq!(without_path("/opt/bin/envoy  version: 1.40.0"), "version: 1.40.0");
        assert_eq!(without_path("nginx version: nginx/1.22.1"), "nginx version: nginx/1.22.1");
    }
}
