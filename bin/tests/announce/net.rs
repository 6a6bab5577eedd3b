//! Hosts on a link: network namespaces, a bridge between them, and what can be asked inside of each. Nothing of the machine
//! itself is touched, and everything goes with the value.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::common::Gateway;

/// Addresses of host `n` on the link are `10.77.0.n` and `fd77::n`; those of the client's host are these.
pub const CLIENT: &str = "10.77.0.100";
/// The client's port where its answering service listens.
pub const ANSWERING: u16 = 7_000;

/// A link with a client on it, and hosts.
pub struct Net {
    tag: String,
    /// How many, besides the client's.
    pub hosts: u8,
}

/// False, with a word on standard error, where namespaces cannot be made.
pub fn can_run() -> bool {
    let probe = format!("sg-probe-{}", fastrand::u32(..));
    let is_made = ip(&["netns", "add", &probe]).is_ok();
    if is_made {
        let _ = ip(&["netns", "del", &probe]);
    } else {
        eprintln!("skipped: no network namespaces can be made here (needs root and ip)");
    }
    is_made
}

impl Net {
    /// So many hosts, and the client with its answering service.
    pub fn new(hosts: u8) -> Self {
        let net = Self { tag: format!("sg{:06x}", fastrand::u32(..0x100_0000)), hosts };
        let lan = net.lan();
        must(&["netns", "add", &lan]);
        must(&["-n", &lan, "link", "set", "lo", "up"]);
        for (bridge, address, address6) in
            [("br0", "10.77.0.100/24", "fd77::100/64"), ("br1", "10.78.0.100/24", "fd78::100/64")]
        {
            must(&["-n", &lan, "link", "add", bridge, "type", "bridge"]);
            must(&["-n", &lan, "link", "set", bridge, "up"]);
            must(&["-n", &lan, "addr", "add", address, "dev", bridge]);
            must(&["-n", &lan, "addr", "add", address6, "dev", bridge, "nodad"]);
        }
        for host in 1..=hosts {
            net.add_host(host);
        }
        net.inside(&lan, || {
            let listener = TcpListener::bind((CLIENT, ANSWERING)).unwrap();
            thread::spawn(move || answer(&listener));
        });
        net
    }

    /// `eth0` is the link that is tested, `eth1` another one, for management.
    fn add_host(&self, n: u8) {
        let (host, lan) = (self.host(n), self.lan());
        must(&["netns", "add", &host]);
        must(&["-n", &host, "link", "set", "lo", "up"]);
        for (own, other, bridge, net) in
            [("eth0", format!("a{n}"), "br0", "77"), ("eth1", format!("b{n}"), "br1", "78")]
        {
            must(&["-n", &lan, "link", "add", &other, "type", "veth", "peer", "name", own, "netns", &host]);
            must(&["-n", &lan, "link", "set", &other, "master", bridge, "up"]);
            must(&["-n", &host, "link", "set", own, "up"]);
            must(&["-n", &host, "addr", "add", &format!("10.{net}.0.{n}/24"), "dev", own]);
            must(&["-n", &host, "addr", "add", &format!("fd{net}::{n}/64"), "dev", own, "nodad"]);
        }
    }

    /// The namespace with the client and the bridges.
    pub fn lan(&self) -> String {
        format!("{}-lan", self.tag)
    }

    /// The namespace of a host.
    pub fn host(&self, n: u8) -> String {
        format!("{}-h{n}", self.tag)
    }

    /// What `work` returns in the namespace.
    pub fn inside<T: Send>(&self, namespace: &str, work: impl FnOnce() -> T + Send) -> T {
        let file = File::open(format!("/run/netns/{namespace}")).expect("namespace");
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A gateway on a host, not waited for.
    pub fn gateway(&self, n: u8, args: &[&str]) -> Gateway {
        let host = self.host(n);
        Gateway::launch_after(&["ip", "netns", "exec", &host], args)
    }

    /// Whether the host has the address.
    pub fn has(&self, n: u8, address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        let all = self.inside(&self.host(n), || {
            let all = getifaddrs().unwrap().filter_map(|one| one.address);
            let ips = all.filter_map(|one| {
                let v4 = one.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
                v4.or_else(|| one.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
            });
            ips.collect::<Vec<_>>()
        });
        all.contains(&address)
    }

    /// What the client gets at an address within `limit`.
    pub fn ask(&self, address: SocketAddr, limit: Duration) -> io::Result<String> {
        self.inside(&self.lan(), || ask(address, limit))
    }

    /// A command of `ip` in a host's namespace.
    pub fn ip(&self, n: u8, args: &[&str]) {
        let host = self.host(n);
        must(&[&["-n", &host], args].concat());
    }

    /// What a command of `ip` says in a host's namespace.
    pub fn ip_says(&self, n: u8, args: &[&str]) -> String {
        let output = Command::new("ip").args(["-n", &self.host(n)]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// A command of `ip` in the client's namespace.
    pub fn ip_of_client(&self, args: &[&str]) {
        must(&[&["-n", &self.lan()], args].concat());
    }

    /// Sends a frame from a host's `eth0`, so many times.
    pub fn send(&self, n: u8, frame: &[u8], times: u32) {
        self.inside(&self.host(n), || {
            let kind = i32::from(0x0806_u16.to_be());
            let socket =
                socket2::Socket::new(socket2::Domain::PACKET, socket2::Type::RAW, Some(kind.into())).unwrap();
            let all = getifaddrs().unwrap().filter(|one| one.interface_name == "eth0");
            let link = all.filter_map(|one| one.address?.as_link_addr().copied()).next().unwrap();
            nix::sys::socket::bind(socket.as_raw_fd(), &link).unwrap();
            for _ in 0..times {
                socket.send(frame).unwrap();
            }
        });
    }

    /// A page of a gateway's admin port, which is on the loopback of its host.
    pub fn admin(&self, n: u8, gateway: &Gateway, path: &str) -> String {
        self.inside(&self.host(n), || gateway.admin(path))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in (1..=self.hosts).map(|n| self.host(n)).chain([self.lan()]) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

/// What is read from `address`, in the namespace of the calling thread.
pub fn ask(address: SocketAddr, limit: Duration) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn answer(listener: &TcpListener) {
    for mut stream in listener.incoming().map_while(Result::ok) {
        let _ = io::Write::write_all(&mut stream, b"served");
    }
}

fn ip(args: &[&str]) -> Result<(), String> {
    let output = Command::new("ip").args(args).output().map_err(|error| error.to_string())?;
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn must(args: &[&str]) {
    ip(args).unwrap_or_else(|error| panic!("ip {}: {error}", args.join(" ")));
}
