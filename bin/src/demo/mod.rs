//! `sluicegate demo`: the gateway with three backends on this machine, and a show of what it does. Everything
//! is on loopback and in a temporary folder, and goes when the demo ends.

mod backend;
mod manifest;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::Parser;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use self::backend::Backend;
use self::manifest::{HOST, NEW_PATH, PATH};
use crate::cli::{Cli, Command, DemoArgs, RunArgs};
use crate::run::{Running, Signals};
use crate::terminal::Paint;

/// Longest wait for anything in the show.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests sent while a backend is dead.
const REQUESTS_WHILE_DEAD: usize = 60;

/// Starts the demo; with `--once` it ends after the show.
pub(crate) fn demo(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    crate::run::start_log("warn", crate::cli::LogFormat::Text)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let mut demo = Demo::start().await?;
        demo.introduce();
        let show = async {
            demo.show().await?;
            demo.farewell(args.once);
            if args.once { Ok(()) } else { std::future::pending::<anyhow::Result<()>>().await }
        };
        let outcome = tokio::select! {
            outcome = show => outcome,
            _ = signals.end() => {
                println!("\nStopping; nothing is left behind.");
                Ok(())
            }
        };
        demo.stop().await;
        outcome.map(|()| ExitCode::SUCCESS)
    })
}

#[derive(Debug)]
struct Demo {
    gateway: Running,
    http: SocketAddr,
    https: SocketAddr,
    admin: SocketAddr,
    backends: Vec<Backend>,
    folder: TempDir,
    paint: Paint,
}

impl Demo {
    async fn start() -> anyhow::Result<Self> {
        let mut backends = Vec::new();
        for number in 1..=3 {
            backends
                .push(Backend::start(format!("backend-{number}")).await.context("cannot start a backend")?);
        }
        let folder = tempfile::Builder::new().prefix("sluicegate-demo-").tempdir()?;
        let path = manifest_path(&folder);
        std::fs::write(&path, manifest::first(&addresses(&backends)))?;
        let gateway = Running::start(&run_args(&path)?).await?;
        let addresses = gateway.addresses();
        let listener = |https| {
            let listener = addresses.listeners.iter().find(|listener| (listener.scheme == "https") == https);
            listener.map(|listener| listener.address).context("the gateway listens")
        };
        let (http, https) = (listener(false)?, listener(true)?);
        let admin = addresses.admin.context("the admin port is open")?;
        Ok(Self { gateway, http, https, admin, backends, folder, paint: Paint::stdout() })
    }

    fn introduce(&self) {
        let Self { http, https, admin, backends, paint, .. } = self;
        println!("{}", paint.strong("Sluicegate demo"));
        println!("  gateway    http://{http}, https://{https} (self-signed)");
        println!("  admin      http://{admin}  (/metrics, /debug/table, /readyz)");
        for backend in backends {
            println!("  {}  http://{}", backend.name, backend.address);
        }
        println!("  manifest   {}", manifest_path(&self.folder).display());
        println!("\n{}", paint.strong("Try it in another terminal"));
        println!("  curl -H 'Host: {HOST}' http://{http}{PATH}");
        println!("  curl -k -H 'Host: {HOST}' https://{https}{PATH}");
        println!("  curl -i -H 'Host: other.example.com' http://{http}{PATH}     # no rule: 404");
        println!("  for i in 1 2 3 4 5 6; do curl -s -H 'Host: {HOST}' http://{http}{PATH}; done");
        println!("  curl -s http://{admin}/metrics | grep sluicegate_");
    }

    async fn show(&mut self) -> anyhow::Result<()> {
        self.show_balancing().await?;
        self.show_death().await?;
        self.show_edit().await
    }

    async fn show_balancing(&self) -> anyhow::Result<()> {
        self.title("1. Requests are balanced over three backends");
        let mut shares = Shares::default();
        for _ in 0..6 {
            let answer = self.get(PATH).await?;
            println!("  {}", answer.line());
            shares.add(&answer);
        }
        if shares.by_backend.len() != self.backends.len() || shares.failed > 0 {
            bail!("expected answers of all backends, got {shares:?}");
        }
        Ok(())
    }

    async fn show_death(&mut self) -> anyhow::Result<()> {
        self.title("2. A backend dies without warning, and no request fails");
        let victim = self.backends.get_mut(1).context("there are three backends")?;
        let name = victim.name.clone();
        victim.kill().await;
        println!("  {name} is dead; {REQUESTS_WHILE_DEAD} requests:");
        let mut shares = Shares::default();
        for _ in 0..REQUESTS_WHILE_DEAD {
            shares.add(&self.get(PATH).await?);
        }
        println!("  {}", shares.line());
        if shares.failed > 0 || shares.by_backend.contains_key(&name) {
            bail!("expected no failed request and none to {name}, got {shares:?}");
        }
        let victim = self.backends.get_mut(1).context("there are three backends")?;
        victim.revive().await.context("cannot start the backend again")?;
        let since = Instant::now();
        while !self.get(PATH).await?.body.contains(&name) {
            if since.elapsed() > PATIENCE {
                bail!("{name} got no request within {PATIENCE:?} of its return");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        println!("  {name} is back, and gets requests again {:.1} s later", since.elapsed().as_secs_f64());
        Ok(())
    }

    async fn show_edit(&self) -> anyhow::Result<()> {
        self.title("3. An edit of the manifest is served at once");
        let before = self.get(NEW_PATH).await?;
        println!("  before: GET {NEW_PATH} gives {}", before.line());
        let path = manifest_path(&self.folder);
        let addresses = addresses(&self.backends);
        let since = Instant::now();
        replace(&path, &manifest::edited(&addresses)).context("cannot edit the manifest")?;
        let after = loop {
            let answer = self.get(NEW_PATH).await?;
            if answer.status == 200 {
                break answer;
            }
            if since.elapsed() > PATIENCE {
                bail!("the edit was not served within {PATIENCE:?}");
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        };
        println!("  added the path {NEW_PATH} to {}", path.display());
        println!(
            "  after:  GET {NEW_PATH} gives {} ({} ms after the edit)",
            after.line(),
            since.elapsed().as_millis()
        );
        if before.status != 404 {
            bail!("expected 404 before the edit, got {}", before.status);
        }
        Ok(())
    }

    fn farewell(&self, is_over: bool) {
        println!("\n{}", self.paint.good("Everything went as it should."));
        if !is_over {
            println!("The gateway keeps running: edit the manifest, try the lines above. Ctrl-C ends it.");
        }
    }

    fn title(&self, text: &str) {
        println!("\n{}", self.paint.strong(text));
    }

    async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let answer = tokio::time::timeout(PATIENCE, get(self.http, path)).await;
        answer.context("no answer in time")?.context("the gateway cannot be reached")
    }

    async fn stop(self) {
        let Self { gateway, mut backends, folder, .. } = self;
        gateway.shutdown(Duration::ZERO, Duration::from_secs(1)).await;
        for backend in &mut backends {
            backend.kill().await;
        }
        if let Err(error) = folder.close() {
            eprintln!("cannot remove the demo's folder: {error}");
        }
    }
}

fn run_args(manifest: &Path) -> anyhow::Result<RunArgs> {
    let any = "127.0.0.1:0";
    let fixed = [
        "sluicegate",
        "run",
        "--http",
        any,
        "--https",
        any,
        "--admin",
        any,
        "--access-log",
        "off",
        "--config",
    ];
    let args = fixed.iter().map(OsStr::new).chain([manifest.as_os_str()]);
    match Cli::try_parse_from(args)?.command {
        Command::Run(args) => Ok(*args),
        _ => bail!("`run` was asked for"),
    }
}

fn manifest_path(folder: &TempDir) -> PathBuf {
    folder.path().join("demo.yaml")
}

fn addresses(backends: &[Backend]) -> Vec<SocketAddr> {
    backends.iter().map(|backend| backend.address).collect()
}

/// Writes a file as a careful editor does: beside the old one, then over it.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let beside = path.with_extension("yaml.new");
    std::fs::write(&beside, text)?;
    std::fs::rename(beside, path)
}

/// How many requests each backend answered.
#[derive(Debug, Default)]
struct Shares {
    /// backend → answers
    by_backend: BTreeMap<String, usize>,
    failed: usize,
}

impl Shares {
    fn add(&mut self, answer: &Answer) {
        let name = answer.body.strip_prefix("hello from ").and_then(|rest| rest.split_once(':'));
        match name {
            Some((name, _)) if answer.status == 200 => {
                *self.by_backend.entry(name.to_owned()).or_default() += 1
            }
            _ => self.failed += 1,
        }
    }

    fn line(&self) -> String {
        let mut parts: Vec<String> =
            self.by_backend.iter().map(|(name, count)| format!("{name} {count}")).collect();
        parts.push(format!("failed {}", self.failed));
        parts.join(", ")
    }
}

/// An answer of the gateway.
#[derive(Debug)]
struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn line(&self) -> String {
        format!("{} {}", self.status, self.body.trim_end())
    }
}

async fn get(gateway: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(gateway).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {HOST}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let status = answer.get(9..12).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    match (status, body) {
        (Some(status), Some(body)) => Ok(Answer { status, body }),
        _ => Err(io::Error::other("not an HTTP answer")),
    }
}
