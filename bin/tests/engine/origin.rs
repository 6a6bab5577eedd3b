//! An endpoint whose behaviour is a closure, with a record of what reached it; and the gateway in front.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use tempfile::TempDir;

use crate::common::{Gateway, PATIENCE, eventually, free_address};
use crate::wire::{Head, Message, Wire};

/// What happened at an endpoint.
#[derive(Default)]
pub(crate) struct Seen {
    /// Connections accepted.
    pub(crate) opened: usize,
    /// Connections whose closure returned.
    pub(crate) ended: usize,
    /// Request heads with the number of their connection.
    pub(crate) heads: Vec<(usize, Head)>,
    /// What the closure noted.
    pub(crate) notes: Vec<String>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Condvar,
    stopped: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl Shared {
    fn change<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        let answer = change(&mut self.seen.lock().unwrap());
        self.changed.notify_all();
        answer
    }
}

/// One connection as its closure sees it.
pub(crate) struct Conn {
    pub(crate) wire: Wire,
    /// Connections before this one.
    pub(crate) number: usize,
    shared: Arc<Shared>,
}

impl Conn {
    /// The next request's head, recorded.
    pub(crate) fn head(&mut self) -> Option<Head> {
        let head = self.wire.head()?;
        self.shared.change(|seen| seen.heads.push((self.number, head.clone())));
        Some(head)
    }

    /// The next request with its body.
    pub(crate) fn request(&mut self) -> Option<Message> {
        let head = self.head()?;
        self.wire.body(head, "")
    }

    pub(crate) fn note(&self, text: impl Into<String>) {
        self.shared.change(|seen| seen.notes.push(text.into()));
    }

    pub(crate) fn answer(&mut self, body: &str) -> bool {
        self.wire.send(ok(body))
    }

    /// Answers each request with its target and body length.
    pub(crate) fn serve(&mut self) {
        while let Some(request) = self.request() {
            let body = if request.head.line().starts_with("HEAD") { "" } else { request.head.target() };
            let text = match request.body.len() {
                0 => body.to_owned(),
                length => format!("{body} {length}"),
            };
            if !self.answer(&text) {
                return;
            }
        }
    }
}

/// A response with Content-Length.
pub(crate) fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A running endpoint; stopped when dropped.
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

impl Origin {
    pub(crate) fn start(serve: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        Self::start_at(free_address(), serve)
    }

    /// An endpoint that answers everything with the target.
    pub(crate) fn plain() -> Self {
        Self::start(Conn::serve)
    }

    pub(crate) fn start_at(address: SocketAddr, serve: impl Fn(&mut Conn) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let shared = Arc::<Shared>::default();
        let origin = Self { address, shared: Arc::clone(&shared) };
        let serve = Arc::new(serve);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if shared.stopped.load(SeqCst) {
                    return;
                }
                let number = shared.change(|seen| {
                    seen.opened += 1;
                    seen.opened - 1
                });
                shared.streams.lock().unwrap().push(stream.try_clone().unwrap());
                let (shared, serve) = (Arc::clone(&shared), Arc::clone(&serve));
                std::thread::spawn(move || {
                    let mut conn = Conn { wire: Wire::new(stream), number, shared };
                    serve(&mut conn);
                    // The record keeps a descriptor, so that the end must be said.
                    let _ = conn.wire.stream.shutdown(std::net::Shutdown::Both);
                    conn.shared.change(|seen| seen.ended += 1);
                });
            }
        });
        origin
    }

    pub(crate) fn see<T>(&self, look: impl FnOnce(&Seen) -> T) -> T {
        look(&self.shared.seen.lock().unwrap())
    }

    /// Waits until `is_so`.
    pub(crate) fn wait(&self, what: &str, is_so: impl Fn(&Seen) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut seen = self.shared.seen.lock().unwrap();
        while !is_so(&seen) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited in vain for {what}");
            seen = self.shared.changed.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Request lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.see(|seen| seen.heads.iter().map(|(_, head)| head.line().to_owned()).collect())
    }

    /// Stops listening and ends every connection.
    pub(crate) fn stop(&self) {
        if self.shared.stopped.swap(true, SeqCst) {
            return;
        }
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        eventually("listener closed", || TcpListener::bind(self.address).is_ok());
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The gateway with one native route to one backend.
pub(crate) struct Site {
    pub(crate) gateway: Gateway,
    pub(crate) http: SocketAddr,
    config: TempDir,
}

/// What the configuration says besides endpoints; YAML flow maps without their braces.
#[derive(Clone, Copy, Default)]
pub(crate) struct Setting<'a> {
    /// Of the listener; without it the Ingress address is used.
    pub(crate) listener: Option<&'a str>,
    pub(crate) route: &'a str,
    pub(crate) backend: &'a str,
    pub(crate) flags: &'a [&'a str],
}

impl Setting<'_> {
    /// The configuration file.
    pub(crate) fn file(&self, listener: SocketAddr, origins: &[SocketAddr]) -> String {
        let comma = |text: &str| if text.is_empty() { String::new() } else { format!(", {text}") };
        let listeners = self.listener.map_or_else(String::new, |settings| {
            format!("listeners:\n- {{name: edge, address: '{listener}'{}}}\n", comma(settings))
        });
        let endpoints: Vec<String> = origins.iter().map(|address| format!("'{address}'")).collect();
        format!(
            "{listeners}routes:\n- {{name: all, backend: main{}}}\nbackends:\n- {{name: main, endpoints: [{}]{}}}\n",
            comma(self.route),
            endpoints.join(", "),
            comma(self.backend)
        )
    }
}

impl Site {
    pub(crate) fn start(setting: Setting<'_>, origins: &[&Origin]) -> Self {
        let addresses: Vec<SocketAddr> = origins.iter().map(|origin| origin.address).collect();
        Self::at(setting, &addresses)
    }

    /// One endpoint, default settings.
    pub(crate) fn plain(origin: &Origin) -> Self {
        Self::start(Setting::default(), &[origin])
    }

    pub(crate) fn at(setting: Setting<'_>, origins: &[SocketAddr]) -> Self {
        let config = TempDir::new().unwrap();
        let listener = free_address();
        std::fs::write(config.path().join("edge.yaml"), setting.file(listener, origins)).unwrap();
        let mut flags = vec!["--workers", "1"];
        if setting.listener.is_some() {
            flags.extend(["--http", "none"]);
        }
        let flags: Vec<&str> = match setting.flags.contains(&"--workers") {
            true => flags[2..].iter().chain(setting.flags).copied().collect(),
            false => flags.iter().chain(setting.flags).copied().collect(),
        };
        let gateway = Gateway::start(config.path(), &flags);
        let http = if setting.listener.is_some() { gateway.listeners["edge"] } else { gateway.http };
        Self { gateway, http, config }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.config.path()
    }

    pub(crate) fn client(&self) -> Wire {
        Wire::connect(self.http)
    }

    /// Sum of the metric's series whose labels contain all of `labels`.
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.gateway.admin("/metrics");
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Waits until the metric has `value`.
    pub(crate) fn wait_for_metric(&self, name: &str, labels: &[&str], value: f64) {
        eventually(&format!("{name}{labels:?} = {value}"), || {
            (self.metric(name, labels) - value).abs() < 0.5
        });
    }

    /// Memory of the gateway's own in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.gateway.pid())).unwrap();
        // Not the pages of the binary, which come with whatever is run for the first time, many at once or one by one as the
        // kernel has them.
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1_024
    }
}

/// A WebSocket handshake (RFC 6455 §1.3).
pub(crate) fn upgrade() -> &'static str {
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
}

/// The answer to [`upgrade`].
pub(crate) fn switch() -> &'static str {
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
}
