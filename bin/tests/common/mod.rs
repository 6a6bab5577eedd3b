//! Support for black-box tests: the built binary, tiny backends, raw HTTP over real sockets. Every wait is
//! for something that happens, with a deadline that fails the test.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "test support: a panic is a failed test"
)]

pub mod certificates;
pub mod plain;
pub mod programs;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longest wait for anything; far beyond what a loaded machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The binary that is tested: the one that was built with the tests, or another one by `SLUICEGATE_TEST_BINARY`.
pub fn binary() -> &'static str {
    static BINARY: OnceLock<String> = OnceLock::new();
    BINARY.get_or_init(|| {
        let built = || env!("CARGO_BIN_EXE_sluicegate").to_owned();
        std::env::var("SLUICEGATE_TEST_BINARY").unwrap_or_else(|_| built())
    })
}

/// Runs the binary to its end: exit code, standard output, standard error.
pub fn run(args: &[&str]) -> (i32, String, String) {
    let output = command(args).output().expect("the binary starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

fn command(args: &[&str]) -> Command {
    let mut command = without_settings(Command::new(binary()));
    command.args(args);
    command
}

fn without_settings(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICEGATE_")) {
        command.env_remove(name);
    }
    command
}

/// A loopback address that nothing listens on, and that no other test of this program was given: one that is tried here
/// is in use for a moment. It is below the ports that the kernel gives to clients.
pub fn free_address() -> SocketAddr {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let seed = std::collections::hash_map::RandomState::new();
    for attempt in 0..1_000_u32 {
        let random = std::hash::BuildHasher::hash_one(&seed, (attempt, thread::current().id()));
        let port = 10_240 + u16::try_from(random % 20_000).expect("below 20,000");
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if !given.contains(&port) && TcpListener::bind(address).is_ok() {
            given.insert(port);
            return address;
        }
    }
    panic!("no free port");
}

/// An address of this machine that an EndpointSlice may hold, which loopback is not. Nothing is sent to find it.
pub fn host_ip() -> IpAddr {
    static IP: OnceLock<IpAddr> = OnceLock::new();
    *IP.get_or_init(|| {
        let probe = |to: &str| {
            let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
            socket.connect(to).ok()?;
            Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
        };
        probe("198.51.100.1:9").unwrap_or_else(|| {
            let added =
                Command::new("ip").args(["address", "replace", "198.18.0.1/32", "dev", "lo"]).status();
            assert!(added.is_ok_and(|status| status.success()), "this machine has no address but loopback");
            IpAddr::from([198, 18, 0, 1])
        })
    })
}

/// Waits until `condition` holds.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A file of configuration in a folder of its own, which goes when this value does.
pub struct ConfigFile {
    folder: TempDir,
    name: &'static str,
}

impl ConfigFile {
    /// A file of this name, with this content.
    pub fn new(name: &'static str, text: &str) -> Self {
        let file = Self { folder: TempDir::new().unwrap(), name };
        file.write(text);
        file
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join(self.name)
    }

    /// Another content, in one step.
    pub fn write(&self, text: &str) {
        let new = self.path().with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }
}

/// A running `sluicegate run`. Killed when dropped.
pub struct Gateway {
    child: Child,
    /// listener name → address
    pub listeners: BTreeMap<String, SocketAddr>,
    /// The Ingress address, if there is one.
    pub http: SocketAddr,
    /// The Ingress address for TLS, if there is one.
    pub https: SocketAddr,
    /// The admin address.
    pub admin: SocketAddr,
    log: Arc<Log>,
}

#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    grown: Condvar,
}

impl Gateway {
    /// Starts the gateway over `config` on free ports, with two workers unless `args` say otherwise, and waits
    /// until it is ready.
    pub fn start(config: &Path, args: &[&str]) -> Self {
        Self::start_with(&[&["--config", config.to_str().expect("path is UTF-8")], args].concat())
    }

    /// Starts `sluicegate run` with `args` on free ports, with two workers unless they say otherwise, and waits until
    /// it is ready.
    pub fn start_with(args: &[&str]) -> Self {
        let mut gateway = Self::launch(args);
        gateway.wait_until_ready();
        gateway
    }

    /// The same without waiting; no address is known before [`Self::wait_until_ready`].
    pub fn launch(args: &[&str]) -> Self {
        Self::launch_by(command, args)
    }

    /// As [`Self::start`], with no more than so many file descriptors.
    pub fn start_with_files(files: u32, config: &Path, args: &[&str]) -> Self {
        let limited = |args: &[&str]| {
            let mut shell = without_settings(Command::new("sh"));
            let script = format!("ulimit -n {files} && exec \"$0\" \"$@\"");
            shell.arg("-c").arg(script).arg(binary()).args(args);
            shell
        };
        let args = [&["--config", config.to_str().expect("path is UTF-8")], args].concat();
        let mut gateway = Self::launch_by(limited, &args);
        gateway.wait_until_ready();
        gateway
    }

    /// As [`Self::launch`], by way of a program that becomes the gateway, such as `ip netns exec NAME`.
    pub fn launch_after(before: &[&str], args: &[&str]) -> Self {
        let after = |args: &[&str]| {
            let mut program = without_settings(Command::new(before[0]));
            program.args(&before[1..]).arg(binary()).args(args);
            program
        };
        Self::launch_by(after, args)
    }

    fn launch_by(command: impl Fn(&[&str]) -> Command, args: &[&str]) -> Self {
        let mut all = vec!["run"];
        for default in
            [["--http", "127.0.0.1:0"], ["--https", "none"], ["--admin", "127.0.0.1:0"], ["--workers", "2"]]
        {
            if !args.contains(&default[0]) {
                all.extend(default);
            }
        }
        all.extend(args);
        let mut child = command(&all)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let log = Arc::new(Log::default());
        let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
        thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stdout)
        });
        thread::spawn({
            let log = Arc::clone(&log);
            move || log.collect(stderr)
        });
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self { child, listeners: BTreeMap::new(), http: nowhere, https: nowhere, admin: nowhere, log }
    }

    /// Waits until it says where it listens.
    pub fn wait_until_ready(&mut self) {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let ready = self.wait_for_log("is ready");
        let named = ready.split_whitespace().map(|word| word.trim_start_matches("listeners="));
        let separators = ["=http://", "=https://", "=tcp://", "=udp://"];
        let listed = named.filter_map(|word| separators.iter().find_map(|between| word.split_once(between)));
        self.listeners =
            listed.filter_map(|(name, address)| Some((name.to_owned(), address.parse().ok()?))).collect();
        self.admin = self.listeners.remove("admin").unwrap_or(nowhere);
        self.http = self.listeners.get("http").copied().unwrap_or(nowhere);
        self.https = self.listeners.get("https").copied().unwrap_or(nowhere);
    }

    /// Waits for a line of output (standard output or error) that contains `text`, and returns it.
    pub fn wait_for_log(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.log.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.iter().find(|line| line.contains(text)) {
                return line.clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no line with {text:?} in:\n{}", lines.join("\n"));
            lines = self.log.grown.wait_timeout(lines, left).unwrap().0;
        }
    }

    /// Everything printed so far.
    pub fn log(&self) -> String {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// GET on the Ingress address.
    pub fn get(&self, host: &str, path: &str) -> Response {
        get(self.http, host, path)
    }

    /// GET on the admin address; the body of a 200.
    pub fn admin(&self, path: &str) -> String {
        let response = get(self.admin, "localhost", path);
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        response.body
    }

    /// The value of a series of `/metrics`, with its labels if it has some.
    pub fn metric(&self, series: &str) -> u64 {
        let page = self.admin("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
    }

    /// Waits until a GET is answered with `status`.
    pub fn wait_for_status(&self, host: &str, path: &str, status: u16) {
        eventually(&format!("{status} for {host}{path}; log:\n{}", self.log()), || {
            try_get(self.http, host, path).is_ok_and(|response| response.status == status)
        });
    }

    /// Waits until the body of a GET contains `text`.
    pub fn wait_for_body(&self, host: &str, path: &str, text: &str) {
        eventually(&format!("{text:?} from {host}{path}"), || {
            try_get(self.http, host, path).is_ok_and(|response| response.body.contains(text))
        });
    }

    /// Process id, as `kill` takes it.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `HUP`, …).
    pub fn signal(&self, name: &str) {
        let status =
            Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().expect("kill runs");
        assert!(status.success(), "kill -s {name}");
    }

    /// Waits for the process to end.
    pub fn wait_for_exit(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("child can be waited for") {
                return status;
            }
            assert!(Instant::now() < deadline, "still running; log:\n{}", self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// True while the process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("child can be waited for").is_none()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- output of the gateway\n{}", self.log());
        }
    }
}

impl Log {
    fn collect(&self, from: impl Read) {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            self.lines.lock().unwrap().push(line);
            self.grown.notify_all();
        }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    /// Status code.
    pub status: u16,
    /// Head, with its status line.
    pub head: String,
    /// Body, decoded if it was chunked.
    pub body: String,
}

impl Response {
    /// The first value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// GET on a connection of its own.
pub fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    try_get(address, host, path).unwrap_or_else(|error| panic!("GET {host}{path} at {address}: {error}"))
}

/// GET on a connection of its own, which may fail.
pub fn try_get(address: SocketAddr, host: &str, path: &str) -> std::io::Result<Response> {
    let mut client = Client::connect(address)?;
    client.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"))?;
    client.response()
}

/// One client connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    pub fn connect(address: SocketAddr) -> std::io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &str) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_bytes())
    }

    /// GET that keeps the connection.
    pub fn get(&mut self, host: &str, path: &str) -> std::io::Result<Response> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"))?;
        self.response()
    }

    /// Reads one response to its end.
    pub fn response(&mut self) -> std::io::Result<Response> {
        let bad = |what: &str| std::io::Error::other(what.to_owned());
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.stream.read_line(&mut head)? == 0 {
                return Err(bad("closed before the end of a head"));
            }
        }
        let status = head.get(9..12).and_then(|code| code.parse().ok()).ok_or_else(|| bad("no status"))?;
        let mut response = Response { status, head, body: String::new() };
        let mut body = Vec::new();
        if response.header("transfer-encoding").is_some() {
            loop {
                let mut size = String::new();
                self.stream.read_line(&mut size)?;
                let size = u64::from_str_radix(size.trim(), 16).map_err(|_| bad("bad chunk size"))?;
                (&mut self.stream).take(size).read_to_end(&mut body)?;
                self.stream.read_line(&mut String::new())?;
                if size == 0 {
                    break;
                }
            }
        } else if let Some(length) = response.header("content-length") {
            let length = length.parse().map_err(|_| bad("bad length"))?;
            (&mut self.stream).take(length).read_to_end(&mut body)?;
        } else {
            self.stream.read_to_end(&mut body)?;
        }
        response.body = String::from_utf8_lossy(&body).into_owned();
        Ok(response)
    }

    /// True if the peer closes without sending anything more.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// A backend that answers `hello from NAME` to everything, after `delay`.
pub struct Backend {
    /// Its name.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<BackendState>,
}

#[derive(Default)]
struct BackendState {
    stopped: AtomicBool,
    heads: Mutex<VecDeque<String>>,
    connections: Mutex<Vec<TcpStream>>,
    delay: Mutex<Duration>,
}

impl Backend {
    /// Starts a backend on a free address.
    pub fn start(name: &str) -> Self {
        Self::start_at(name, free_address())
    }

    /// Starts a backend that an EndpointSlice of a cluster may name.
    pub fn start_in_cluster(name: &str) -> Self {
        Self::start_at(name, SocketAddr::new(host_ip(), 0))
    }

    /// Starts a backend on `address`; port 0 is any free one.
    pub fn start_at(name: &str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("address is free");
        let address = listener.local_addr().expect("bound");
        let state = Arc::new(BackendState::default());
        let backend = Self { name: name.to_owned(), address, state: Arc::clone(&state) };
        let name = name.to_owned();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if state.stopped.load(SeqCst) {
                    return;
                }
                let (name, state) = (name.clone(), Arc::clone(&state));
                state.connections.lock().unwrap().push(stream.try_clone().expect("descriptor"));
                thread::spawn(move || serve(stream, &name, &state));
            }
        });
        backend
    }

    /// Answers come this much later from now on.
    pub fn set_delay(&self, delay: Duration) {
        *self.state.delay.lock().unwrap() = delay;
    }

    /// Heads of the requests received so far.
    pub fn requests(&self) -> Vec<String> {
        self.state.heads.lock().unwrap().iter().cloned().collect()
    }

    /// Stops listening and resets every connection.
    pub fn stop(&self) {
        self.state.stopped.store(true, SeqCst);
        // Wakes the accept loop, which then drops its listener.
        let _ = TcpStream::connect(self.address);
        for stream in self.state.connections.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        eventually("listener closed", || TcpListener::bind(self.address).is_ok());
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if !self.state.stopped.load(SeqCst) {
            self.stop();
        }
    }
}

fn serve(stream: TcpStream, name: &str, state: &BackendState) {
    let mut stream = BufReader::new(stream);
    loop {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if !matches!(stream.read_line(&mut head), Ok(length) if length > 0) {
                return;
            }
        }
        state.heads.lock().unwrap().push_back(head);
        thread::sleep(*state.delay.lock().unwrap());
        let body = format!("hello from {name}\n");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        if stream.get_mut().write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

/// An Ingress for `host` with its Service and EndpointSlice over `backends`.
pub fn ingress(name: &str, host: &str, backends: &[SocketAddr]) -> String {
    let mut text = format!(
        "apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: test}}
spec:
  rules:
  - host: {host}
    http:
      paths:
      - {{path: /, pathType: Prefix, backend: {{service: {{name: {name}, port: {{number: 80}}}}}}}}
---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: test}}
spec: {{ports: [{{name: http, port: 80}}]}}
"
    );
    for (index, backend) in backends.iter().enumerate() {
        write!(
            text,
            "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{index}, namespace: test, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {}}}]
endpoints: [{{addresses: ['{}'], conditions: {{ready: true}}}}]
",
            backend.port(),
            backend.ip()
        )
        .expect("writing to a String");
    }
    text
}
