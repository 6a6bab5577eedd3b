//! A gateway with one UDP listener, and endpoints and clients that are plain sockets.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::common::{ConfigFile, Gateway, PATIENCE, eventually};

/// A running gateway over one native file with the UDP listener `dns`.
pub(crate) struct UdpRig {
    pub(crate) gateway: Gateway,
    pub(crate) address: SocketAddr,
    file: ConfigFile,
}

impl UdpRig {
    pub(crate) fn start(forward: &str, endpoints: &[SocketAddr]) -> Self {
        Self::start_on(free_udp(Ipv4Addr::LOCALHOST.into()), forward, endpoints, &[])
    }

    pub(crate) fn start_on(
        address: SocketAddr,
        forward: &str,
        endpoints: &[SocketAddr],
        args: &[&str],
    ) -> Self {
        let file = ConfigFile::new("edge.yaml", &text(address, forward, endpoints));
        let gateway = Gateway::start(&file.path(), &[&["--http", "none"], args].concat());
        Self { gateway, address, file }
    }

    /// Listeners over `text`, of which one is at `address`, by one worker that has no more than so many descriptors.
    pub(crate) fn start_with_files(files: u32, address: SocketAddr, text: &str) -> Self {
        let file = ConfigFile::new("edge.yaml", text);
        let gateway = Gateway::start_with_files(files, &file.path(), &["--http", "none", "--workers", "1"]);
        Self { gateway, address, file }
    }

    /// Other endpoints from now on; waits until they are served.
    pub(crate) fn change(&self, forward: &str, endpoints: &[SocketAddr]) {
        self.write(&text(self.address, forward, endpoints));
    }

    /// Another file; waits until it is served.
    pub(crate) fn write(&self, text: &str) {
        let version = self.metric("sluicegate_table_version");
        self.file.write(text);
        eventually("another table", || self.metric("sluicegate_table_version") != version);
    }

    pub(crate) fn metric(&self, series: &str) -> u64 {
        self.gateway.metric(series)
    }

    pub(crate) fn ended(&self, reason: &str) -> u64 {
        self.metric(&format!("sluicegate_udp_flows_ended_total{{reason=\"{reason}\"}}"))
    }

    pub(crate) fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!("sluicegate_udp_dropped_total{{reason=\"{reason}\"}}"))
    }

    pub(crate) fn open(&self) -> u64 {
        self.metric("sluicegate_udp_flows_open")
    }

    pub(crate) fn client(&self) -> UdpSocket {
        client(self.address)
    }
}

pub(crate) fn text(address: SocketAddr, forward: &str, endpoints: &[SocketAddr]) -> String {
    let endpoints: Vec<String> = endpoints.iter().map(|address| format!("\"{address}\"")).collect();
    format!(
        "listeners: [{{name: dns, address: \"{address}\", protocol: udp, forward: {{backend: app{forward}}}}}]\n\
         backends: [{{name: app, endpoints: [{}]}}]\n",
        endpoints.join(", ")
    )
}

/// An address on which nobody receives datagrams.
pub(crate) fn free_udp(ip: IpAddr) -> SocketAddr {
    let tcp = crate::common::free_address();
    let mut address = SocketAddr::new(ip, tcp.port());
    while UdpSocket::bind(address).is_err() {
        address.set_port(crate::common::free_address().port());
    }
    address
}

/// A client that is connected to the gateway: it hears nobody else.
pub(crate) fn client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// The same from this address of loopback.
pub(crate) fn client_from(last: u8, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::new(127, 0, 9, last), 0)).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Sends, and waits for the answer.
pub(crate) fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.send(question).unwrap();
    let mut answer = vec![0; 65_536];
    let length = client.recv(&mut answer).unwrap();
    answer.truncate(length);
    answer
}

/// Asks until there is an answer; clients of UDP do.
pub(crate) fn ask_again(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut answer = vec![0; 65_536];
    for _ in 0..100 {
        let _refused = client.send(question);
        if let Ok(length) = client.recv(&mut answer) {
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            answer.truncate(length);
            return answer;
        }
    }
    panic!("no answer");
}

/// An endpoint that puts its name in front of what it sends back, and knows who has asked.
pub(crate) struct Echo {
    pub(crate) address: SocketAddr,
    pub(crate) peers: Arc<Mutex<HashSet<SocketAddr>>>,
}

pub(crate) fn echo(name: &'static str) -> Echo {
    echo_on("127.0.0.1:0", name)
}

pub(crate) fn echo_on(address: &str, name: &'static str) -> Echo {
    let socket = UdpSocket::bind(address).unwrap();
    let _large = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    let address = socket.local_addr().unwrap();
    let peers: Arc<Mutex<HashSet<SocketAddr>>> = Arc::default();
    let seen = Arc::clone(&peers);
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        let prefix = name.len();
        buffer[..prefix].copy_from_slice(name.as_bytes());
        while let Ok((length, peer)) = socket.recv_from(&mut buffer[prefix..]) {
            seen.lock().unwrap().insert(peer);
            let _refused = socket.send_to(&buffer[..prefix + length], peer);
        }
    });
    Echo { address, peers }
}

/// An endpoint that sends a datagram back as often as its first byte says.
pub(crate) fn repeating() -> Echo {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            for _ in 0..buffer[0] {
                let _refused = socket.send_to(&buffer[..length], peer);
            }
        }
    });
    Echo { address, peers: Arc::default() }
}
