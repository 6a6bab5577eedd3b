//! What is left of the table of abuse: connections that stall, come and go in masses, or send what nobody expects.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;

use crate::common::plain::{echo, endpoint, named};
use crate::common::{Gateway, PATIENCE, eventually, free_address, get};
use crate::relay::pattern;
use crate::rig::{Rig, read_all, reset, try_connect};

fn descriptors(rig: &Rig) -> u64 {
    rig.metric("process_open_fds")
}

/// L27.
#[test]
fn thousands_of_connections_leave_no_descriptor_behind() {
    let rig = Rig::start("", &[named("x")]);
    assert_eq!(read_all(&mut rig.connect()).unwrap(), b"x");
    rig.wait_ended("Closed", 1);
    let before = descriptors(&rig);
    for round in 0..3_000 {
        let client = rig.connect();
        match round % 3 {
            0 => drop(client),
            1 => reset(client),
            _ => assert_eq!(read_all(&mut { client }).unwrap(), b"x"),
        }
    }
    eventually("all ended", || rig.metric("sluicegate_tcp_connections_open") == 0);
    // Pipes are kept for the next ones; a few connections of the admin port come and go.
    eventually("descriptors", || descriptors(&rig) <= before + 8);
}

/// L28: what nobody takes is bounded, and others are served meanwhile.
#[test]
fn clients_that_do_not_read_hold_nobody_up_and_get_everything_later() {
    let length = 24 << 20;
    let rig = Rig::start(
        "",
        &[endpoint(move |mut stream| {
            // The client may be gone before it has everything.
            let _ = stream.write_all(&pattern(length));
        })],
    );
    let mut stalled: Vec<TcpStream> = (0..16).map(|_| rig.connect()).collect();
    let mut reader = rig.connect();
    assert!(read_all(&mut reader).unwrap() == pattern(length));
    let memory = rig.metric("process_resident_memory_bytes");
    assert!(memory < 256 << 20, "{memory}");
    let last = stalled.pop().unwrap();
    assert!(read_all(&mut { last }).unwrap() == pattern(length));
}

/// L24: what was taken of a side that then reset is delivered, or the other side sees a reset; never a clean end.
#[test]
fn bytes_before_a_reset_are_never_followed_by_a_clean_end() {
    for size in [1, 10_000, 1 << 20] {
        let rig = Rig::start(
            "",
            &[endpoint(move |mut stream| {
                stream.read_exact(&mut [0]).unwrap();
                stream.write_all(&pattern(size)).unwrap();
                reset(stream);
            })],
        );
        let mut client = rig.connect();
        client.write_all(b"x").unwrap();
        let error = read_all(&mut client).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{size}");
    }
}

/// L29.
#[test]
fn segments_of_one_byte_arrive_in_order() {
    let rig = Rig::start("", &[echo()]);
    let mut client = rig.connect();
    client.set_nodelay(true).unwrap();
    let sent = pattern(5_000);
    let mut writer = client.try_clone().unwrap();
    let copy = sent.clone();
    let writing = thread::spawn(move || {
        copy.iter().for_each(|byte| writer.write_all(&[*byte]).unwrap());
        writer.shutdown(Shutdown::Write).unwrap();
    });
    assert!(read_all(&mut client).unwrap() == sent);
    writing.join().unwrap();
}

/// L30: the urgent byte is not part of the stream, as for any reader that does not ask for it.
#[test]
fn urgent_data_puts_nothing_out_of_order() {
    let rig = Rig::start("", &[echo()]);
    let mut client = rig.connect();
    client.write_all(b"before").unwrap();
    socket2::SockRef::from(&client).send_out_of_band(b"!").unwrap();
    client.write_all(b"after").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let got = read_all(&mut client).unwrap();
    assert!(got == b"beforeafter" || got == b"before!after", "{}", String::from_utf8_lossy(&got));
}

/// L35: large pieces, small pieces and half-close mixed, both ways at once.
#[test]
fn pieces_of_all_sizes_both_ways_are_byte_exact() {
    let rig = Rig::start(
        "",
        &[endpoint(|mut stream| {
            let mut writer = stream.try_clone().unwrap();
            let writing = thread::spawn(move || {
                for length in [3, 900_000, 20, 70_000, 1, 2_000_000] {
                    writer.write_all(&pattern(length)).unwrap();
                }
                writer.shutdown(Shutdown::Write).unwrap();
            });
            let got = read_all(&mut stream).unwrap();
            assert!(got == [pattern(50), pattern(3_000_000), pattern(7)].concat());
            writing.join().unwrap();
        })],
    );
    let client = rig.connect();
    let mut writer = client.try_clone().unwrap();
    let writing = thread::spawn(move || {
        for length in [50, 3_000_000, 7] {
            writer.write_all(&pattern(length)).unwrap();
        }
        writer.shutdown(Shutdown::Write).unwrap();
    });
    let want = [3, 900_000, 20, 70_000, 1, 2_000_000].map(pattern).concat();
    assert!(read_all(&mut { client }).unwrap() == want);
    writing.join().unwrap();
    rig.wait_ended("Closed", 1);
    assert!(rig.metric("sluicegate_spliced_bytes_total") > 1_000_000);
}

/// Descriptors are the process's: relayed connections have a quarter of them in number, one listener not all of those,
/// and HTTP goes on.
#[test]
fn relayed_connections_leave_descriptors_for_http() {
    const FILES: u32 = 400;
    const MOST: usize = 100;
    let web = crate::common::Backend::start("web");
    let (one, two, http) = (free_address(), free_address(), free_address());
    let tcp = |name: &str, address| {
        format!(
            "- {{name: {name}, address: \"{address}\", protocol: tcp, forward: {{backend: app, maxConnections: 0}}}}\n"
        )
    };
    let text = format!(
        "listeners:\n{}{}- {{name: web, address: \"{http}\"}}\nroutes: [{{backend: web}}]\nbackends:\n\
         - {{name: app, endpoints: [\"{}\"]}}\n- {{name: web, endpoints: [\"{}\"]}}\n",
        tcp("one", one),
        tcp("two", two),
        echo(),
        web.address
    );
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("edge.yaml");
    std::fs::write(&file, text).unwrap();
    let gateway = Gateway::start_with_files(FILES, &file, &["--http", "none"]);
    let open_at = |from, address| exchange(connect_from(from, address)?);
    let fill = |from, address, most: usize| {
        std::iter::from_fn(|| open_at(from, address).ok()).take(most).collect::<Vec<_>>()
    };
    let mut open = fill(1, one, MOST);
    assert_eq!(open.len(), MOST / 2, "a client has no more than is free");
    let beyond = open_at(1, two).map(|_| ()).unwrap_err();
    assert!(matches!(beyond.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{beyond}");
    // Others get in at the same listener, until it has most of all.
    for from in 2..20 {
        open.extend(fill(from, one, MOST));
    }
    assert_eq!(open.len(), MOST * 4 / 5, "four times what is free");
    // What is left is for others.
    open.extend((0..4).map(|_| open_at(1, two).unwrap_err()).map(|_| open_at(20, two).unwrap()));
    assert!(open_at(21, one).is_err());
    assert_eq!(get(http, "any", "/").status, 200);
    let page = gateway.admin("/metrics");
    // Twice for the first client alone, once for each that came later, four times and once at the end.
    for line in [
        "sluicegate_tcp_connections_total{reason=\"TooMany\"} 25",
        "sluicegate_limit_hits_total{limit=\"descriptors\"} 25",
    ] {
        assert!(page.lines().any(|known| known == line), "{line}: {page}");
    }
    open.clear();
    eventually("room again", || open_at(1, one).is_ok());
}

/// Connects from this address of loopback.
fn connect_from(last: u8, address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.bind(&SocketAddr::from(([127, 0, 9, last], 0)).into())?;
    socket.connect_timeout(&address.into(), PATIENCE)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Whether a byte comes back from the endpoint.
fn exchange(mut client: TcpStream) -> std::io::Result<TcpStream> {
    client.write_all(b"x")?;
    client.read_exact(&mut [0]).map(|()| client)
}

#[test]
fn one_client_leaves_connections_of_a_listener_to_others() {
    const MOST: usize = 40;
    let rig = Rig::start(&format!(", maxConnections: {MOST}"), &[echo()]);
    let open_from = |from| exchange(connect_from(from, rig.address)?);
    let mut greedy: Vec<TcpStream> = std::iter::from_fn(|| open_from(1).ok()).take(MOST).collect();
    assert_eq!(greedy.len(), MOST / 2, "no more than is free");
    let others: Vec<TcpStream> = (2..7).map(|from| open_from(from).unwrap()).collect();
    assert!(open_from(1).is_err(), "it has more than is free");
    greedy.truncate(5);
    eventually("room again for it", || open_from(1).is_ok());
    drop(others);
}

/// The client is the one of the header, not the proxy.
#[test]
fn one_client_behind_a_proxy_leaves_connections_to_others() {
    const MOST: usize = 40;
    let rig = Rig::start_with(", proxyProtocol: true", &format!(", maxConnections: {MOST}"), &[echo()], &[]);
    let open_for = |client: &str| {
        let mut stream = try_connect(rig.address)?;
        stream.write_all(format!("PROXY TCP6 {client} 2001:db8::1 12345 80\r\n").as_bytes())?;
        exchange(stream)
    };
    let host = |number: usize| format!("2001:db8:0:1::{number:x}");
    let greedy: Vec<TcpStream> = (1..).map_while(|number| open_for(&host(number)).ok()).take(MOST).collect();
    assert_eq!(greedy.len(), MOST / 2, "a network of 64 bits is one client");
    let others: Vec<TcpStream> =
        (2..7).map(|network| open_for(&format!("2001:db8:0:{network}::1")).unwrap()).collect();
    assert_eq!(rig.ended("TooMany"), 1);
    drop((greedy, others));
}
