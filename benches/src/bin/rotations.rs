//! Certificate rotations under handshake load: the Secret of a host is replaced as fast as the proxy takes it in, while
//! clients open one TLS connection after the other, for that host and for another whose certificate stays. Claims, and exits 1
//! if they do not hold: no handshake fails, every chain is for the host that was asked for and matches the key that signed
//! (the client verifies both), and it is one of the two newest.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use benches::certificates::{Authority, Leaf};
use benches::manifest;
use benches::process::{self, Proxy};
use clap::Parser;
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{RootCertStore, StreamOwned, SupportedProtocolVersion};
use serde_json::{Value, json};

/// Replaces a host's certificate many times under handshake load; no handshake may fail or show another chain.
#[derive(Parser)]
struct Args {
    /// The sluicegate binary.
    binary: PathBuf,
    /// Certificates to see, one after the other.
    #[arg(long, default_value_t = 1_000)]
    rotations: usize,
    /// Clients that open connections, besides the one that looks for the new certificate.
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Seconds until the run is given up.
    #[arg(long, default_value_t = 900)]
    limit_seconds: u64,
}

/// The host whose certificate is replaced, and the one whose is not.
const ROTATED: &str = "rotated.test";
const STEADY: &str = "steady.test";

/// What all clients share.
struct Shared {
    address: SocketAddr,
    roots: CertificateDer<'static>,
    /// Every certificate that is, or will be, served for [`ROTATED`], in order.
    chains: Vec<CertificateDer<'static>>,
    steady: CertificateDer<'static>,
    /// How many of them have been written.
    written: AtomicUsize,
    /// How many of them are known to be served: the newest that was seen.
    served: AtomicUsize,
    stopped: AtomicBool,
    handshakes: AtomicUsize,
    /// What went wrong, the first few times.
    failures: Mutex<Vec<String>>,
    failed: AtomicUsize,
}

fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let authority = Authority::new()?;
    let leaves = (0..=args.rotations).map(|_| authority.issue(ROTATED)).collect::<Result<Vec<_>>>()?;
    let steady = authority.issue(STEADY)?;
    let backend = backend()?;
    let folder = manifest::Folder::new()?;
    write_routes(folder.path(), backend, &steady)?;
    let Some(first) = leaves.first() else { bail!("no certificate") };
    write_secret(folder.path(), first)?;
    let https = process::free_address()?;
    let proxy = Proxy::start(&args.binary, folder.path(), &["--https", &https.to_string()])?;
    let shared = Arc::new(Shared {
        address: https,
        roots: authority.der(),
        chains: leaves.iter().map(|leaf| leaf.der.clone()).collect(),
        steady: steady.der,
        written: AtomicUsize::new(1),
        served: AtomicUsize::new(1),
        stopped: AtomicBool::new(false),
        handshakes: AtomicUsize::new(0),
        failures: Mutex::default(),
        failed: AtomicUsize::new(0),
    });
    let begin = Instant::now();
    let deadline = begin + Duration::from_secs(args.limit_seconds);
    let clients: Vec<_> = (0..args.clients)
        .map(|number| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || load(&shared, number))
        })
        .collect();
    let rotated = rotate(&shared, folder.path(), &leaves, deadline);
    shared.stopped.store(true, SeqCst);
    for client in clients {
        ensure!(client.join().is_ok(), "a client ended in a panic");
    }
    rotated?;
    let failures = shared.failures.lock().unwrap_or_else(PoisonError::into_inner);
    let (handshakes, failed) = (shared.handshakes.load(SeqCst), shared.failed.load(SeqCst));
    let good = failed == 0 && handshakes > args.rotations;
    println!(
        "{}",
        json!({
            "rotations": args.rotations,
            "seconds": begin.elapsed().as_secs_f64(),
            "handshakes": handshakes,
            "failed": failed,
            "failures": *failures,
            "memory": process::pss_bytes(proxy.pid())?,
            "good": good,
        })
    );
    // By return, not by exit: the proxy ends when its value is dropped.
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Replaces the certificate, and waits until a handshake that began after that shows the new one.
fn rotate(shared: &Shared, folder: &Path, leaves: &[Leaf], deadline: Instant) -> Result<()> {
    let config = settings(shared, &[&rustls::version::TLS13])?;
    for (number, leaf) in leaves.iter().enumerate().skip(1) {
        // Said before it is done: from here on, it may be seen.
        shared.written.store(number + 1, SeqCst);
        write_secret(folder, leaf)?;
        while shared.served.load(SeqCst) <= number {
            ensure!(Instant::now() < deadline, "only {number} rotations in time");
            shared.handshake(&config, ROTATED);
        }
    }
    Ok(())
}

/// One connection after the other, with both versions of TLS and for both hosts.
fn load(shared: &Shared, number: usize) {
    let versions: &[&'static SupportedProtocolVersion] =
        if number.is_multiple_of(2) { &[&rustls::version::TLS13] } else { &[&rustls::version::TLS12] };
    let Ok(config) = settings(shared, versions) else { return shared.fail("no settings".to_owned()) };
    for turn in 0_usize.. {
        if shared.stopped.load(SeqCst) {
            return;
        }
        shared.handshake(&config, if turn % 4 == 3 { STEADY } else { ROTATED });
    }
}

fn settings(shared: &Shared, versions: &[&'static SupportedProtocolVersion]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(shared.roots.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // A resumed session shows no certificate.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

impl Shared {
    /// A full handshake and a request for `host`.
    fn handshake(&self, config: &Arc<ClientConfig>, host: &'static str) {
        let served = self.served.load(SeqCst);
        match exchange(self.address, config, host) {
            Err(error) => self.fail(format!("{host}: {error:#}")),
            Ok(chain) if host == STEADY && chain == self.steady => {}
            Ok(chain) => {
                let written = self.written.load(SeqCst);
                let shown = self.chains.iter().position(|other| *other == chain);
                match shown {
                    // What was known to be served when the handshake began, or the one before it, or anything newer.
                    Some(at) if host == ROTATED && at + 2 >= served && at < written => {
                        self.served.fetch_max(at + 1, SeqCst);
                    }
                    shown => {
                        self.fail(format!("{host}: chain {shown:?}, {served} served, {written} written"))
                    }
                }
            }
        }
        self.handshakes.fetch_add(1, SeqCst);
    }

    fn fail(&self, what: String) {
        self.failed.fetch_add(1, SeqCst);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() < 10 {
            failures.push(what);
        }
    }
}

/// The leaf that was shown, after an answer was read.
fn exchange(
    address: SocketAddr,
    config: &Arc<ClientConfig>,
    host: &'static str,
) -> Result<CertificateDer<'static>> {
    let connection = ClientConnection::new(Arc::clone(config), ServerName::try_from(host)?)?;
    let socket = TcpStream::connect(address)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(connection, socket);
    write!(stream, "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.starts_with(b"HTTP/1.1 200") && answer.ends_with(b"\r\n\r\nok"), "a wrong answer");
    let chain = stream.conn.peer_certificates().and_then(<[_]>::first);
    chain.map(|leaf| leaf.clone().into_owned()).context("no certificate")
}

/// Answers `ok` to everything, on threads of its own.
fn backend() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.11:0")?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        for mut socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buf = [0; 4_096];
                let mut filled = 0;
                while let Ok(count) = socket.read(buf.get_mut(filled..).unwrap_or_default()) {
                    filled += count;
                    if count == 0 {
                        return;
                    }
                    // A request at a time is all that a proxy sends on a connection.
                    if buf.get(..filled).is_some_and(|head| head.ends_with(b"\r\n\r\n")) {
                        filled = 0;
                        if socket.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                            return;
                        }
                    }
                }
            });
        }
    });
    Ok(address)
}

fn write_routes(folder: &Path, backend: SocketAddr, steady: &Leaf) -> Result<()> {
    let mut objects = manifest::service("ok", &[backend]);
    for host in [ROTATED, STEADY] {
        let name = host.trim_end_matches(".test");
        let mut ingress = manifest::ingress(name, &[host.to_owned()], &["/".to_owned()], "ok");
        if let Some(spec) = ingress.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("tls".to_owned(), json!([{"hosts": [host], "secretName": name}]));
        }
        objects.push(ingress);
    }
    objects.push(manifest::secret("steady", steady));
    manifest::write(folder, "routes.json", &objects)
}

fn write_secret(folder: &Path, leaf: &Leaf) -> Result<()> {
    manifest::write(folder, "secret.json", &[manifest::secret("rotated", leaf)])
}
