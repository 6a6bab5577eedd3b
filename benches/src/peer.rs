//! A proxy that is told of other endpoints while it runs, each in the way that it has for it: a file that it watches, a signal, or
//! a command. Its configuration is that of the comparison ([`crate::compare`]), with what it needs to be told.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::compare::peers::{self, BACKENDS, Launch, Setup};
use crate::compare::proxy::{Process, free_port, is, spawn};
use crate::compare::{cpu, scenario};

/// The names of those that are known here.
pub const NAMES: [&str; 7] = ["sluicegate", "nginx", "nginx-new", "haproxy", "envoy", "traefik", "caddy"];

/// A proxy with one worker, which ends with this value.
#[derive(Debug)]
pub struct Running {
    process: Process,
    peer: &'static peers::Peer,
    program: PathBuf,
    folder: TempDir,
    admin: u16,
    ready: peers::Ready,
    /// Where it serves.
    pub address: SocketAddr,
}

impl Running {
    /// Starts the peer called `name` on `cpus` (none: those that this process may use), whose endpoints are [`endpoints`] of
    /// `port`, and does not wait.
    ///
    /// # Errors
    /// If there is no such peer or it cannot be started.
    pub fn start(name: &str, program: &Path, port: u16, cpus: &[usize]) -> Result<Self> {
        ensure!(NAMES.contains(&name), "no peer is called {name}; there are {}", NAMES.join(", "));
        let peer = peers::find(name).with_context(|| format!("no peer is called {name}"))?;
        let program =
            fs::canonicalize(program).with_context(|| format!("{} is missing", program.display()))?;
        let folder = TempDir::with_prefix("bench-")?;
        let own = [Ipv4Addr::LOCALHOST];
        let (listen, admin) = (free_port(&own)?, free_port(&own)?);
        let launch = write(peer, &program, folder.path(), [listen, admin, port])?;
        let cpus = if cpus.is_empty() { cpu::usable()? } else { cpus.to_vec() };
        let process = Process(spawn(&program, &launch, folder.path(), &cpus)?);
        let address = (Ipv4Addr::LOCALHOST, listen).into();
        Ok(Self { process, peer, program, folder, admin, ready: launch.ready, address })
    }

    /// Waits until it listens.
    ///
    /// # Errors
    /// If it ends, or does not listen within `patience`.
    pub fn listens_within(&mut self, patience: Duration) -> Result<()> {
        let deadline = Instant::now() + patience;
        while !is(&self.ready) {
            self.still_runs()?;
            ensure!(
                Instant::now() < deadline,
                "{} is not ready after {patience:?}: {}",
                self.peer.name,
                self.said()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Nothing, while it runs.
    ///
    /// # Errors
    /// What it said before it ended.
    pub fn still_runs(&mut self) -> Result<()> {
        if let Some(status) = self.process.0.try_wait()? {
            bail!("{} ended: {status}: {}", self.peer.name, self.said());
        }
        Ok(())
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// How it is told of changes.
    #[must_use]
    pub fn way(&self) -> &'static str {
        match self.peer.program {
            "nginx" | "nginx-new" => "file and SIGHUP",
            "haproxy" => "file and SIGUSR2 to the master",
            "caddy" => "file and `caddy reload`",
            _ => "file that it watches",
        }
    }

    /// Tells it that its endpoints are [`endpoints`] of `port` now. A command that tells it may still run then.
    ///
    /// # Errors
    /// Those of the file system, and if it has ended.
    pub fn change(&mut self, port: u16) -> Result<Option<Child>> {
        self.still_runs()?;
        let ports = [self.address.port(), self.admin, port];
        write(self.peer, &self.program, self.folder.path(), ports)?;
        match self.peer.program {
            "nginx" | "nginx-new" => self.signal(Signal::HUP)?,
            "haproxy" => self.signal(Signal::USR2)?,
            "caddy" => return self.reload().map(Some),
            _ => {}
        }
        Ok(None)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    fn reload(&self) -> Result<Child> {
        let config = self.folder.path().join("Caddyfile");
        let mut command = Command::new(&self.program);
        command.arg("reload").args(["--adapter", "caddyfile", "--config"]).arg(config);
        command.args(["--address", &format!("127.0.0.1:{}", self.admin)]).env("HOME", self.folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().context("caddy reload")
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        said.chars().take(600).collect()
    }
}

/// The endpoints that a table has for a port.
pub fn endpoints(port: u16) -> impl Iterator<Item = SocketAddr> {
    BACKENDS.into_iter().map(move |host| (host, port).into())
}

/// A port that is free where [`endpoints`] are.
///
/// # Errors
/// If there is none.
pub fn free_endpoints() -> Result<u16> {
    free_port(&BACKENDS)
}

/// Puts the configuration into `folder`, each file that is not as it was in one step; `ports` are those of clients, of questions
/// and of endpoints. Says how the proxy is started.
fn write(
    peer: &peers::Peer,
    program: &Path,
    folder: &Path,
    [port, admin, backend_port]: [u16; 3],
) -> Result<Launch> {
    let scenario = scenario::find("small-get").context("no plain scenario")?;
    let next = folder.join(".next");
    fs::create_dir(&next)?;
    let (variant, workers) = (peer.variant, 1);
    let setup = Setup { scenario, variant, program, folder: &next, port, admin, backend_port, workers };
    let mut launch = (peer.launch)(&setup)?;
    // What it writes there tells of itself.
    let (from, to) = (next.display().to_string(), folder.display().to_string());
    for arg in launch.args.iter_mut().chain(launch.env.iter_mut().map(|(_, value)| value)) {
        *arg = arg.replace(&from, &to);
    }
    if peer.program == "haproxy" {
        // Without a master nobody can be told.
        launch.args.insert(0, "-W".to_owned());
    }
    for path in files(&next)? {
        let text = fs::read_to_string(&path)?.replace(&from, &to);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let place = path.strip_prefix(&next)?;
        let adapted = adapt(name, &text, &to, admin).with_context(|| format!("{name} of {}", peer.name))?;
        for (name, text) in adapted {
            put(&next, folder, &place.with_file_name(name), &text)?;
        }
    }
    fs::remove_dir_all(&next)?;
    Ok(launch)
}

/// Puts `text` into `folder/place`, by way of `next/place`, unless it is there.
fn put(next: &Path, folder: &Path, place: &Path, text: &str) -> Result<()> {
    let (new, old) = (next.join(place), folder.join(place));
    if fs::read_to_string(&old).is_ok_and(|there| there == text) {
        return Ok(());
    }
    if let Some(parent) = old.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(&new, text)?;
    Ok(fs::rename(new, old)?)
}

/// The files in `folder` and in the folders in it.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { all.extend(files(&path)?) } else { all.push(path) }
    }
    Ok(all)
}

/// What becomes of the file called `name` with `text`, so that its proxy can be told of changes: names and texts of files.
fn adapt(name: &str, text: &str, folder: &str, admin: u16) -> Result<Vec<(String, String)>> {
    let text = match name {
        "envoy.json" => return envoy(text, folder),
        // Traefik watches no file with another name; what is JSON is YAML too.
        "dynamic.json" => return Ok(vec![("dynamic.yaml".to_owned(), text.to_owned())]),
        "traefik.yaml" => {
            replace(&replace(text, "watch: false", "watch: true")?, "/dynamic.json", "/dynamic.yaml")?
        }
        // Where `caddy reload` says what is new.
        "Caddyfile" => replace(text, "admin off", &format!("admin 127.0.0.1:{admin}"))?,
        _ => text.to_owned(),
    };
    Ok(vec![(name.to_owned(), text)])
}

fn replace(text: &str, what: &str, by: &str) -> Result<String> {
    ensure!(text.contains(what), "no {what}");
    Ok(text.replace(what, by))
}

/// Endpoints in a file of their own, which is watched.
fn envoy(text: &str, folder: &str) -> Result<Vec<(String, String)>> {
    let mut config: Value = serde_json::from_str(text)?;
    let path = format!("{folder}/endpoints.json");
    let cluster = config.pointer_mut("/static_resources/clusters/0").and_then(Value::as_object_mut);
    let cluster = cluster.context("no cluster")?;
    let mut endpoints = cluster.remove("load_assignment").context("no endpoints")?;
    let kind = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    endpoints.as_object_mut().context("no endpoints")?.insert("@type".to_owned(), kind.into());
    cluster.insert("type".to_owned(), "EDS".into());
    let source = json!({"eds_config": {"resource_api_version": "V3", "path_config_source": {"path": path}}});
    cluster.insert("eds_cluster_config".to_owned(), source);
    let top = config.as_object_mut().context("no object")?;
    top.insert("node".to_owned(), json!({"id": "bench", "cluster": "bench"}));
    let endpoints = json!({"resources": [endpoints]}).to_string();
    Ok(vec![("endpoints.json".to_owned(), endpoints), ("envoy.json".to_owned(), config.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_rewrites_what_names_endpoints_and_nothing_else() {
        for name in NAMES {
            let peer = peers::find(name).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let mut before = Vec::new();
            for port in [18_003, 18_004, 18_004] {
                write(peer, Path::new(name), folder.path(), [18_001, 18_002, port]).unwrap();
                let read = |path: PathBuf| (fs::read_to_string(&path).unwrap(), path);
                let now: Vec<_> = files(folder.path()).unwrap().into_iter().map(read).collect();
                let named = now.iter().filter(|(text, _)| text.contains(&port.to_string())).count();
                assert_eq!(named, 1, "{name}");
                assert!(!now.iter().any(|(text, _)| text.contains(".next")), "{name}");
                let changed = now.iter().filter(|file| !before.contains(*file)).count();
                assert!(before.is_empty() || changed <= 1, "{name}");
                before = now;
            }
        }
    }
}
