//! A gateway with one TCP listener, and endpoints that do as they are told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::common::{Gateway, PATIENCE, free_address};

/// A running gateway over one native file.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    /// Where the listener `tcp` is.
    pub(crate) address: SocketAddr,
    folder: TempDir,
}

impl Rig {
    /// One listener with `forward` besides its backend, over `endpoints`.
    pub(crate) fn start(forward: &str, endpoints: &[SocketAddr]) -> Self {
        Self::start_with("", forward, endpoints, &[])
    }

    /// The same with settings of the listener itself, and arguments.
    pub(crate) fn start_with(listener: &str, forward: &str, endpoints: &[SocketAddr], args: &[&str]) -> Self {
        let folder = TempDir::new().unwrap();
        let address = free_address();
        let file = folder.path().join("edge.yaml");
        std::fs::write(&file, text(address, listener, forward, endpoints)).unwrap();
        let gateway = Gateway::start(&file, &[&["--http", "none"], args].concat());
        Self { gateway, address, folder }
    }

    /// Other endpoints from now on; waits until they are served.
    pub(crate) fn change(&self, listener: &str, forward: &str, endpoints: &[SocketAddr]) {
        let version = self.version();
        self.write(&text(self.address, listener, forward, endpoints));
        crate::common::eventually("another table", || self.version() != version);
    }

    pub(crate) fn write(&self, text: &str) {
        let path = self.folder.path().join("edge.yaml");
        let new = self.folder.path().join("edge.new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    pub(crate) fn version(&self) -> u64 {
        self.metric("sluicegate_table_version")
    }

    /// The value of a series, with its labels if it has some.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        let page = self.gateway.admin("/metrics");
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{page}")).parse().unwrap()
    }

    /// How many connections ended in this way.
    pub(crate) fn ended(&self, reason: &str) -> u64 {
        self.metric(&format!("sluicegate_tcp_connections_total{{reason=\"{reason}\"}}"))
    }

    pub(crate) fn wait_ended(&self, reason: &str, count: u64) {
        crate::common::eventually(&format!("{count} of {reason}"), || self.ended(reason) == count);
    }

    pub(crate) fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Whether a new connection is accepted, and reset without a byte.
    pub(crate) fn resets(&self) -> bool {
        let end = try_connect(self.address).and_then(|mut stream| read_all(&mut stream));
        end.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
    }
}

/// The file of a [`Rig`].
pub(crate) fn text(address: SocketAddr, listener: &str, forward: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "listeners: [{{name: tcp, address: \"{address}\", protocol: tcp{listener}, forward: {{backend: app{forward}}}}}]\n\
         backends: [{{name: app, endpoints: [{}]}}]\n",
        endpoints.join(", ")
    )
}

pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    try_connect(address).unwrap()
}

/// A reset may be there before the connect has returned.
pub(crate) fn try_connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// An endpoint that runs `serve` for every connection.
pub(crate) fn endpoint(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let serve = serve.clone();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.set_write_timeout(Some(PATIENCE)).unwrap();
            thread::spawn(move || serve(stream));
        }
    });
    address
}

/// An endpoint that sends back what it gets, then ends.
pub(crate) fn echo() -> SocketAddr {
    endpoint(|mut stream| {
        let mut buf = vec![0; 64 * 1_024];
        while let Ok(n @ 1..) = stream.read(&mut buf) {
            if stream.write_all(&buf[..n]).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
    })
}

/// An endpoint that says its name and ends.
pub(crate) fn named(name: &'static str) -> SocketAddr {
    endpoint(move |mut stream| stream.write_all(name.as_bytes()).unwrap())
}

/// Everything until the other side ends.
pub(crate) fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).map(|_| out)
}

/// Makes the other side see a reset when the stream is dropped.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
