//! A gateway with one TCP listener, and its clients.

use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::{ConfigFile, Gateway, PATIENCE, free_address};

/// A running gateway over one native file.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    /// Where the listener `tcp` is.
    pub(crate) address: SocketAddr,
    file: ConfigFile,
}

impl Rig {
    /// One listener with `forward` besides its backend, over `endpoints`.
    pub(crate) fn start(forward: &str, endpoints: &[SocketAddr]) -> Self {
        Self::start_with("", forward, endpoints, &[])
    }

    /// The same with settings of the listener itself, and arguments.
    pub(crate) fn start_with(listener: &str, forward: &str, endpoints: &[SocketAddr], args: &[&str]) -> Self {
        let address = free_address();
        let file = ConfigFile::new("edge.yaml", &text(address, listener, forward, endpoints));
        let gateway = Gateway::start(&file.path(), &[&["--http", "none"], args].concat());
        Self { gateway, address, file }
    }

    /// Other endpoints from now on; waits until they are served.
    pub(crate) fn change(&self, listener: &str, forward: &str, endpoints: &[SocketAddr]) {
        let version = self.version();
        self.write(&text(self.address, listener, forward, endpoints));
        crate::common::eventually("another table", || self.version() != version);
    }

    pub(crate) fn write(&self, text: &str) {
        self.file.write(text);
    }

    pub(crate) fn version(&self) -> u64 {
        self.metric("sluicegate_table_version")
    }

    /// The value of a series, with its labels if it has some.
    pub(crate) fn metric(&self, series: &str) -> u64 {
        self.gateway.metric(series)
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

/// Everything until the other side ends.
pub(crate) fn read_all(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    stream.read_to_end(&mut out).map(|_| out)
}

/// Makes the other side see a reset when the stream is dropped.
pub(crate) fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}
