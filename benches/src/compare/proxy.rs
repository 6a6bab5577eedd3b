//! A proxy that runs to be measured: on its CPUs, on ports of its own, with a folder of its own; it ends with its value.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::peers::{BACKENDS, Launch, Peer, Ready, Setup};
use super::scenario::Scenario;
use super::{cpu, stop};
use crate::{certificates, tls};

/// How long one may take until it serves, and to end.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(3));

/// One that runs.
#[derive(Debug)]
pub struct Proxy {
    name: &'static str,
    process: Process,
    folder: TempDir,
    ready: Ready,
    /// Where it serves, on loopback.
    pub port: u16,
    backend_port: u16,
}

/// A process that is ended with this value.
#[derive(Debug)]
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.0.try_wait(), Ok(Some(_))) {
            return;
        }
        // Asked first: a master that is killed leaves its workers behind.
        if let Some(pid) = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + PATIENCE.1;
        while Instant::now() < deadline {
            if matches!(self.0.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// One that is ready to be started: its ports and its folder are there.
#[derive(Debug)]
pub struct Prepared<'a> {
    peer: &'a Peer,
    program: &'a Path,
    launch: Launch,
    folder: TempDir,
    port: u16,
    backend_port: u16,
}

impl<'a> Prepared<'a> {
    /// `peer`, whose program is `program`, for `scenario` with `workers`.
    ///
    /// # Errors
    /// If there is no port, or its configuration cannot be written.
    pub fn new(peer: &'a Peer, program: &'a Path, scenario: &Scenario, workers: usize) -> Result<Self> {
        let folder = TempDir::with_prefix("compare-")?;
        if scenario.front.is_tls() {
            certificates::write(folder.path(), tls::NAME)?;
        }
        let local = [Ipv4Addr::LOCALHOST];
        let (port, admin, backend_port) = (free_port(&local)?, free_port(&local)?, free_port(&BACKENDS)?);
        let setup = Setup {
            scenario,
            variant: peer.variant,
            program,
            folder: folder.path(),
            port,
            admin,
            backend_port,
            workers,
        };
        let launch = (peer.launch)(&setup)?;
        Ok(Self { peer, program, launch, folder, port, backend_port })
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the backends are to be.
    #[must_use]
    pub fn backends(&self) -> Vec<SocketAddr> {
        backends(self.backend_port)
    }

    /// Starts it on `cpus`, and does not wait.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn spawn(self, cpus: &[usize]) -> Result<Proxy> {
        let process = Process(spawn(self.program, &self.launch, self.folder.path(), cpus)?);
        Ok(Proxy {
            name: self.peer.name,
            process,
            folder: self.folder,
            ready: self.launch.ready,
            port: self.port,
            backend_port: self.backend_port,
        })
    }
}

fn backends(port: u16) -> Vec<SocketAddr> {
    BACKENDS.into_iter().map(|host| (host, port).into()).collect()
}

impl Proxy {
    /// Starts `peer` for `scenario` on `cpus` with `workers` and waits until it serves.
    ///
    /// # Errors
    /// If it does not, with what it said.
    pub fn start(
        peer: &Peer,
        program: &Path,
        scenario: &Scenario,
        workers: usize,
        cpus: &[usize],
    ) -> Result<Self> {
        let mut proxy = Prepared::new(peer, program, scenario, workers)?.spawn(cpus)?;
        proxy.wait(|proxy| is(&proxy.ready))?;
        // Workers that a master starts once it listens.
        std::thread::sleep(Duration::from_millis(50));
        Ok(proxy)
    }

    /// Waits until a GET for `host` is answered by 200.
    ///
    /// # Errors
    /// If it is not in time, or the proxy ends.
    pub fn answers(&mut self, host: &str) -> Result<()> {
        self.wait(|proxy| says(proxy.port, host, "/").unwrap_or(false))
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.0.id()
    }

    /// Its folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the backends are to be.
    #[must_use]
    pub fn backends(&self) -> Vec<SocketAddr> {
        backends(self.backend_port)
    }

    fn wait(&mut self, what: impl Fn(&Self) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE.0;
        while !what(self) {
            stop::check()?;
            if let Some(status) = self.process.0.try_wait()? {
                bail!("{} did not start ({status}): {}", self.name, self.said());
            }
            if Instant::now() > deadline {
                bail!("{} is not ready after {:?}: {}", self.name, PATIENCE.0, self.said());
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    fn said(&self) -> String {
        let said = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
        said.chars().take(400).collect()
    }
}

/// Starts `program` on `cpus`, with `folder` for its errors.
///
/// # Errors
/// If it cannot be started.
pub fn spawn(program: &Path, launch: &Launch, folder: &Path, cpus: &[usize]) -> Result<Child> {
    let mut command = Command::new(program);
    command.args(&launch.args).envs(launch.env.iter().map(|(key, value)| (key, value)));
    command.current_dir(folder).stdin(Stdio::null()).stderr(File::create(folder.join("stderr"))?);
    match &launch.stdout {
        Some(path) => command.stdout(File::create(path)?),
        None => command.stdout(Stdio::null()),
    };
    cpu::on(cpus, || command.spawn())?.with_context(|| format!("cannot start {}", program.display()))
}

/// Whether what it is about has happened.
#[must_use]
pub fn is(ready: &Ready) -> bool {
    match *ready {
        Ready::Accepts(port) => TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok(),
        Ready::Says(port, path) => says(port, "localhost", path).unwrap_or(false),
    }
}

fn says(port: u16, host: &str, path: &str) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut head = [0; 12];
    stream.read_exact(&mut head)?;
    Ok(&head == b"HTTP/1.1 200")
}

/// A port that is free on all of `hosts`, below those that clients get, so that none takes it in between.
///
/// # Errors
/// If there is none.
pub fn free_port(hosts: &[Ipv4Addr]) -> Result<u16> {
    for _ in 0..500 {
        let port = fastrand::u16(15_000..30_000);
        // Held together: a port that is free on one of them only is none.
        let held: std::io::Result<Vec<_>> =
            hosts.iter().map(|&host| TcpListener::bind((host, port))).collect();
        if held.is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_that_is_taken_on_one_host_is_not_free() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        for _ in 0..20 {
            assert_ne!(free_port(&[Ipv4Addr::LOCALHOST]).unwrap(), taken);
        }
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let process = Process(Command::new("sleep").arg("60").spawn().unwrap());
        let proc = format!("/proc/{}", process.0.id());
        assert!(Path::new(&proc).exists());
        drop(process);
        assert!(!Path::new(&proc).exists());
    }

    #[test]
    fn a_proxy_that_ends_is_told_with_its_words() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("relay");
        fs::write(&program, "#!/bin/sh\necho no such thing >&2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let peer = super::super::peers::find("relay").unwrap();
        let scenario = super::super::scenario::find("small-get").unwrap();
        let cpus = cpu::usable().unwrap();
        let error = Proxy::start(peer, &program, scenario, 1, &cpus).unwrap_err();
        assert!(format!("{error:#}").contains("no such thing"), "{error:#}");
    }
}
