//! What is open goes on, and what can be served is served, while queues, ports or peers fail.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::plain::{echo, endpoint};
use crate::common::{PATIENCE, eventually};
use crate::rig::{Rig, reset, try_connect};
use crate::terms::settled;

/// How long one round trip takes.
fn round_trip(client: &mut TcpStream) -> Duration {
    let started = Instant::now();
    client.write_all(b"x").unwrap();
    client.read_exact(&mut [0]).unwrap();
    started.elapsed()
}

/// L26: a flood of connections, far more than may be open.
#[test]
fn a_flood_of_connections_does_not_hold_up_those_that_are_open() {
    let rig = Rig::start_with("", ", maxConnections: 32", &[echo()], &["--workers", "1"]);
    let mut client = settled(&rig);
    let stop = Arc::new(AtomicBool::new(false));
    let floods: Vec<_> = (0..2)
        .map(|_| {
            let (stop, address) = (Arc::clone(&stop), rig.address);
            thread::spawn(move || {
                let mut count = 0_u32;
                while !stop.load(Ordering::Relaxed) {
                    if let Ok(stream) = TcpStream::connect_timeout(&address, PATIENCE) {
                        reset(stream);
                        count += 1;
                    }
                }
                count
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for _ in 0..300 {
        slowest = slowest.max(round_trip(&mut client));
    }
    stop.store(true, Ordering::Relaxed);
    let count: u32 = floods.into_iter().map(|flood| flood.join().unwrap()).sum();
    assert!(count > 100, "{count}");
    // Far above what it takes, and far below what waiting for thousands of others would.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    // What is left of the flood holds all the room for a moment: a new one may be reset, even while it connects.
    eventually("room again", || {
        let echoed = try_connect(rig.address).and_then(|mut stream| {
            stream.write_all(b"x")?;
            stream.read_exact(&mut [0])
        });
        echoed.is_ok()
    });
}

/// L26: more connections than the kernel queues.
#[test]
fn a_queue_that_overflows_costs_nothing_of_what_is_open() {
    let rig = Rig::start_with("", "", &[echo()], &["--workers", "1"]);
    let mut client = settled(&rig);
    rig.gateway.signal("STOP");
    let connect = || TcpStream::connect_timeout(&rig.address, Duration::from_millis(300));
    let queued = (0..20_000).map_while(|_| connect().ok().map(reset)).count();
    rig.gateway.signal("CONT");
    assert!((1..20_000).contains(&queued), "{queued}");
    assert!(round_trip(&mut client) < PATIENCE);
    eventually("new ones", || connect().is_ok());
    round_trip(&mut settled(&rig));
    eventually("all of the queue ended", || rig.metric("sluicegate_tcp_connections_open") <= 2);
}

/// L31: a peer that is gone without a word is asked whether it is there, on either side. What the kernel will do is in
/// its table of sockets: 02 is the timer of a quiet connection, with the time that is left in hundredths of a second.
#[test]
fn quiet_connections_are_asked_after_a_minute_on_both_sides() {
    let address = Arc::new(std::sync::Mutex::new(None));
    let seen = Arc::clone(&address);
    let backend = endpoint(move |mut stream| {
        *seen.lock().unwrap() = Some(stream.peer_addr().unwrap());
        while let Ok(1..) = stream.read(&mut [0]) {
            stream.write_all(b"x").unwrap();
        }
    });
    let rig = Rig::start("", &[backend]);
    let client = settled(&rig);
    let of_gateway = [client.peer_addr().unwrap(), address.lock().unwrap().unwrap()];
    let peers = [client.local_addr().unwrap(), backend];
    for (local, peer) in of_gateway.into_iter().zip(peers) {
        eventually("a timer", || {
            let timer = timer(local, peer);
            timer.is_some_and(|(kind, left)| kind == "02" && (5_000..=6_100).contains(&left))
        });
    }
}

/// The timer of the connection from `local` to `peer`.
fn timer(local: SocketAddr, peer: SocketAddr) -> Option<(String, u64)> {
    let hex = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => {
            format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())
        }
        SocketAddr::V6(_) => panic!("IPv4 only"),
    };
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().find_map(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let is_it = columns.get(1) == Some(&&*hex(local)) && columns.get(2) == Some(&&*hex(peer));
        let (kind, left) = columns.get(5).filter(|_| is_it)?.split_once(':')?;
        Some((kind.to_owned(), u64::from_str_radix(left, 16).unwrap()))
    })
}

/// Tells that the test runs in a network of its own.
const ALONE: &str = "L4_TEST_ALONE";
/// How many ports that network gives out.
const PORTS: usize = 100;

/// Runs `test`, which is called `name`, in a network of its own, after `setup`.
fn alone(name: &str, setup: &str, test: fn()) {
    if std::env::var_os(ALONE).is_some() {
        return test();
    }
    let is_possible = Command::new("unshare").args(["-rn", "ip", "link", "set", "lo", "up"]).output();
    if !is_possible.is_ok_and(|output| output.status.success()) {
        return eprintln!("skipped: no network of its own can be had (unshare, ip)");
    }
    let script = format!("ip link set lo up && {setup} && exec \"$0\" \"$@\"");
    let output = Command::new("unshare")
        .args(["-rn", "sh", "-c", &script])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", &format!("pressure::{name}"), "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    eprintln!("{text}");
}

/// L32: in a network whose ports run out soon.
#[test]
fn without_a_port_to_one_endpoint_connections_go_to_another() {
    let setup = format!("echo '50000 {}' > /proc/sys/net/ipv4/ip_local_port_range", 50_000 + PORTS - 1);
    alone("without_a_port_to_one_endpoint_connections_go_to_another", &setup, ports_run_out);
}

/// L26: what answers to forged addresses, which nobody takes, cost is the kernel's.
#[test]
fn a_flood_of_forged_syns_delays_nobody_and_new_clients_get_in() {
    // Answers to them have a way, and go nowhere.
    let setup = "ip route add 10.0.0.0/8 dev lo";
    alone("a_flood_of_forged_syns_delays_nobody_and_new_clients_get_in", setup, forged_syns);
}

fn forged_syns() {
    let rig = Rig::start_with("", "", &[echo()], &["--workers", "1"]);
    let SocketAddr::V4(address) = rig.address else { panic!("IPv4 only") };
    let mut clients: Vec<TcpStream> = (0..8).map(|_| settled(&rig)).collect();
    let mut ninety_nine = || {
        let mut times: Vec<Duration> =
            (0..400).flat_map(|_| clients.iter_mut().map(round_trip).collect::<Vec<_>>()).collect();
        times.sort_unstable();
        times[times.len() * 99 / 100]
    };
    let quiet = ninety_nine();
    let stop = Arc::new(AtomicBool::new(false));
    let flood = thread::spawn({
        let stop = Arc::clone(&stop);
        move || send_syns(address, &stop)
    });
    // Far more than are queued.
    eventually("cookies", || cookies() > 1_000);
    let flooded = ninety_nine();
    for _ in 0..50 {
        round_trip(&mut rig.connect());
    }
    stop.store(true, Ordering::Relaxed);
    let (sent, time) = flood.join().unwrap();
    println!("{sent} in {time:?}; 99 % of round trips within {quiet:?}, and {flooded:?} meanwhile");
    // So as not to judge a machine that does something else as well.
    assert!(flooded <= (quiet * 2).max(Duration::from_millis(50)), "{quiet:?} {flooded:?}");
    eventually("the others have ended", || rig.metric("sluicegate_tcp_connections_open") == 8);
}

/// Sends some thirty thousand a second, each from another address, until it is told to stop.
fn send_syns(to: SocketAddrV4, stop: &AtomicBool) -> (u32, Duration) {
    let whole_packets = Some(socket2::Protocol::from(255));
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, whole_packets).unwrap();
    let started = Instant::now();
    let mut sent = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..30 {
            let _full = socket.send_to(&syn(sent, to), &SocketAddr::V4(to).into());
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
    (sent, started.elapsed())
}

/// A packet with a SYN from the address with this number. The kernel completes the header of IP.
fn syn(number: u32, to: SocketAddrV4) -> [u8; 40] {
    let from = Ipv4Addr::from_bits(0x0a00_0001 + (number & 0xff_ffff));
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[8..10].copy_from_slice(&[64, 6]);
    packet[12..16].copy_from_slice(&from.octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    packet[20..22].copy_from_slice(&40_000_u16.to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&number.to_be_bytes());
    packet[32..36].copy_from_slice(&[0x50, 2, 0xff, 0xff]);
    // RFC 9293 §3.1, over addresses, protocol and length as well.
    let words = packet[12..].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let sum: u32 = words.sum::<u32>() + 6 + 20;
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    packet[36..38].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    packet
}

/// How many SYNs were answered although the queue was full.
fn cookies() -> u64 {
    let table = std::fs::read_to_string("/proc/self/net/netstat").unwrap();
    let mut lines = table.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap().split(' '), lines.next().unwrap().split(' '));
    names.zip(values).find(|(name, _)| *name == "SyncookiesSent").unwrap().1.parse().unwrap()
}

/// Says something, so that it is known which endpoint it is.
fn speaking(port: u16, text: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            thread::spawn(move || {
                let _ = stream.write_all(text);
                let _ = stream.read(&mut [0]);
            });
        }
    });
    address
}

fn ports_run_out() {
    let (one, two) = (speaking(4_001, b"1"), speaking(4_002, b"2"));
    let rig = Rig::start("", &[one]);
    // Clients have addresses of their own, so as not to run out themselves.
    let connect = |number: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let ip = Ipv4Addr::new(127, 0, 1, u8::try_from(number % 200 + 1).unwrap());
        socket.bind(&SocketAddr::from((ip, 0)).into()).unwrap();
        socket.connect(&rig.address.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut name = [0];
        stream.read_exact(&mut name).map(|()| (name[0], stream))
    };
    let mut open = Vec::new();
    let error = loop {
        match connect(open.len()) {
            Ok((_, stream)) => open.push(stream),
            Err(error) => break error,
        }
        assert!(open.len() <= PORTS);
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert!(open.len() > PORTS / 2, "{}", open.len());
    rig.wait_ended("ConnectFailed", 1);
    assert!(rig.metric("sluicegate_limit_hits_total{limit=\"local_ports\"}") > 0);
    // It is no fault of the endpoint.
    let healthy = format!("sluicegate_endpoint_healthy{{backend=\"app\",endpoint=\"{one}\"}}");
    assert_eq!(rig.metric(&healthy), 1);
    rig.change("", "", &[one, two]);
    for number in 0..10 {
        let (name, stream) = connect(number).unwrap();
        assert_eq!(name, b'2');
        open.push(stream);
    }
    // With room again, the first one is used again.
    open.clear();
    eventually("the first one", || connect(0).is_ok_and(|(name, _)| name == b'1'));
}
