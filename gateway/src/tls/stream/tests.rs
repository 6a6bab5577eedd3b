use std::future::poll_fn;
use std::io::{IoSlice, Read as _, Write as _};
use std::net::TcpListener;

use rustls::{ClientConnection, ServerConnection};

use super::super::fixture::pair;
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A connected pair: a blocking socket and one for the runtime.
fn sockets() -> (std::net::TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let ours = listener.accept().unwrap().0;
    ours.set_nonblocking(true).unwrap();
    (peer, TcpStream::from_std(ours).unwrap())
}

async fn handshake(tls: &mut TlsStream) -> io::Result<()> {
    poll_fn(|cx| tls.poll_handshake(cx)).await
}

async fn read(tls: &mut TlsStream, most: usize) -> io::Result<Vec<u8>> {
    let mut space = vec![0; most];
    poll_fn(|cx| {
        let mut space = ReadBuf::new(&mut space);
        ready!(tls.poll_read(cx, &mut space))?;
        Poll::Ready(Ok(space.filled().to_vec()))
    })
    .await
}

async fn write_all(tls: &mut TlsStream, parts: &[&[u8]]) -> io::Result<()> {
    let mut sent = 0;
    loop {
        let mut skip = sent;
        let rest: Vec<IoSlice<'_>> = parts
            .iter()
            .filter_map(|part| {
                let from = skip.min(part.len());
                skip -= from;
                (from < part.len()).then(|| IoSlice::new(&part[from..]))
            })
            .collect();
        if rest.is_empty() {
            return poll_fn(|cx| tls.poll_flush(cx)).await;
        }
        sent += poll_fn(|cx| tls.poll_write(cx, &rest)).await?;
    }
}

/// Runs `peer` as the client of a server of ours.
fn with_client(
    peer: impl FnOnce(rustls::StreamOwned<ClientConnection, std::net::TcpStream>) + Send + 'static,
    ours: impl AsyncFnOnce(TlsStream),
) {
    let (server, client) = pair();
    let runtime = runtime();
    runtime.block_on(async {
        let (socket, tcp) = sockets();
        let peer = std::thread::spawn(move || {
            let client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
            peer(rustls::StreamOwned::new(client, socket));
        });
        let buffers = Rc::new(Buffers::default());
        ours(TlsStream::server(tcp, server, buffers.resting(), &buffers).unwrap()).await;
        peer.join().unwrap();
    });
}

fn noise(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

#[test]
fn bytes_pass_both_ways_whatever_their_number() {
    for length in [1, 100, 16_384, 16_385, 3_000_000] {
        with_client(
            move |mut peer| {
                peer.write_all(&noise(length)).unwrap();
                let mut back = vec![0; length];
                peer.read_exact(&mut back).unwrap();
                assert_eq!(back, noise(length));
            },
            async move |mut tls| {
                handshake(&mut tls).await.unwrap();
                let mut seen = Vec::new();
                while seen.len() < length {
                    seen.extend(read(&mut tls, 5_000).await.unwrap());
                }
                assert_eq!(seen, noise(length));
                let (head, rest) = seen.split_at(length / 3);
                let (one, other) = head.split_at(head.len().min(10));
                write_all(&mut tls, &[one, b"", other, rest]).await.unwrap();
            },
        );
    }
}

#[test]
fn parts_leave_in_one_record() {
    with_client(
        |mut peer| {
            let mut back = [0; 6];
            peer.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"abcdef");
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            let parts = [IoSlice::new(b"ab"), IoSlice::new(b"cd"), IoSlice::new(b"ef")];
            assert_eq!(poll_fn(|cx| tls.poll_write(cx, &parts)).await.unwrap(), 6);
            assert!(tls.outgoing.is_resting());
        },
    );
}

#[test]
fn an_announced_end_is_an_end_and_data_may_still_be_sent() {
    with_client(
        |mut peer| {
            peer.write_all(b"question").unwrap();
            peer.conn.send_close_notify();
            peer.conn.write_tls(&mut peer.sock).unwrap();
            let mut answer = String::new();
            peer.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "answer");
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            assert_eq!(read(&mut tls, 100).await.unwrap(), b"question");
            assert_eq!(read(&mut tls, 100).await.unwrap(), b"");
            write_all(&mut tls, &[b"answer"]).await.unwrap();
            poll_fn(|cx| tls.poll_shutdown(cx)).await.unwrap();
            assert_eq!(read(&mut tls, 100).await.unwrap(), b"");
        },
    );
}

#[test]
fn an_end_that_was_not_announced_is_an_error() {
    with_client(
        |mut peer| {
            peer.write_all(b"half").unwrap();
            peer.sock.shutdown(std::net::Shutdown::Write).unwrap();
            let _ended = peer.sock.read(&mut [0; 100]);
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            assert_eq!(read(&mut tls, 100).await.unwrap(), b"half");
            assert_eq!(read(&mut tls, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        },
    );
}

#[test]
fn an_idle_connection_owns_no_buffer() {
    with_client(
        |mut peer| {
            peer.write_all(b"x").unwrap();
            let _ended = peer.read(&mut [0; 100]);
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            assert_eq!(read(&mut tls, 100).await.unwrap(), b"x");
            assert!(poll_fn(|cx| Poll::Ready(tls.poll_read_ready(cx).is_pending())).await);
            assert!(tls.incoming.is_resting() && tls.outgoing.is_resting());
            assert_eq!(tls.plain.capacity(), 0);
        },
    );
}

#[test]
fn a_part_of_a_record_holds_no_more_than_itself() {
    let (looked, on) = std::sync::mpsc::channel();
    with_client(
        move |mut peer| {
            let mut record = Vec::new();
            peer.conn.writer().write_all(&noise(16_384)).unwrap();
            peer.conn.complete_io(&mut peer.sock).unwrap();
            peer.conn.writer().write_all(&noise(16_384)).unwrap();
            peer.conn.write_tls(&mut record).unwrap();
            peer.sock.write_all(&record[..16_000]).unwrap();
            on.recv().unwrap();
            peer.sock.write_all(&record[16_000..]).unwrap();
            let _ended = peer.read(&mut [0; 100]);
        },
        async move |mut tls| {
            handshake(&mut tls).await.unwrap();
            assert_eq!(read(&mut tls, 20_000).await.unwrap(), noise(16_384));
            loop {
                assert!(poll_fn(|cx| Poll::Ready(tls.poll_read_ready(cx).is_pending())).await);
                if tls.incoming.unread().len() == 16_000 {
                    break;
                }
                tokio::task::yield_now().await;
            }
            assert!(tls.incoming.spare().is_empty());
            looked.send(()).unwrap();
            assert_eq!(read(&mut tls, 20_000).await.unwrap(), noise(16_384));
        },
    );
}

#[test]
fn readiness_counts_what_was_decrypted() {
    with_client(
        |mut peer| {
            peer.write_all(b"ab").unwrap();
            let _ended = peer.read(&mut [0; 100]);
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            poll_fn(|cx| tls.poll_read_ready(cx)).await.unwrap();
            // Data stands in the way of sending, and is not lost by it.
            write_all(&mut tls, &[b"answer"]).await.unwrap();
            assert_eq!(read(&mut tls, 1).await.unwrap(), b"a");
            assert!(poll_fn(|cx| Poll::Ready(tls.poll_read_ready(cx).is_ready())).await);
            assert_eq!(read(&mut tls, 1).await.unwrap(), b"b");
            assert!(poll_fn(|cx| Poll::Ready(tls.poll_read_ready(cx).is_pending())).await);
        },
    );
}

#[test]
fn key_updates_are_answered_and_a_flood_of_them_ends_the_connection() {
    with_client(
        |mut peer| {
            peer.write_all(b"a").unwrap();
            let refused = (0..200).any(|_| {
                // Data in between does not help.
                peer.conn.refresh_traffic_keys().is_err() || peer.write_all(b"b").is_err()
            });
            assert!(refused || peer.read(&mut [0; 100]).is_err());
        },
        async |mut tls| {
            handshake(&mut tls).await.unwrap();
            let mut seen = 0;
            let error = loop {
                match read(&mut tls, 100).await {
                    Ok(data) => seen += data.len(),
                    Err(error) => break error,
                }
            };
            assert!(failure(&error).is_some(), "{error}");
            assert!((usize::from(MOST_CONTROL)..=usize::from(MOST_CONTROL) + 2).contains(&seen), "{seen}");
        },
    );
}

#[test]
fn a_hello_in_records_of_one_byte_is_taken() {
    let (server, client) = pair();
    runtime().block_on(async {
        let (mut socket, tcp) = sockets();
        let peer = std::thread::spawn(move || {
            let mut client = ClientConnection::new(client, "localhost".try_into().unwrap()).unwrap();
            let mut hello = Vec::new();
            client.write_tls(&mut hello).unwrap();
            for byte in &hello[HEADER..] {
                socket.write_all(&[22, 3, 1, 0, 1, *byte]).unwrap();
            }
            client.complete_io(&mut socket).unwrap();
        });
        let buffers = Rc::new(Buffers::default());
        let mut tls = TlsStream::server(tcp, server, buffers.resting(), &buffers).unwrap();
        handshake(&mut tls).await.unwrap();
        peer.join().unwrap();
    });
}

#[test]
fn an_endless_handshake_message_is_refused() {
    let (server, _) = pair();
    runtime().block_on(async {
        let (mut socket, tcp) = sockets();
        let peer = std::thread::spawn(move || {
            let mut message = vec![1, 0xff, 0xff, 0xff];
            message.resize(16_000, 0);
            for _ in 0..100 {
                let record = [&[22, 3, 1, 0x3e, 0x80][..], &message].concat();
                if socket.write_all(&record).is_err() {
                    return;
                }
                message.fill(0);
            }
            panic!("1.6 MB were taken");
        });
        let buffers = Rc::new(Buffers::default());
        let mut tls = TlsStream::server(tcp, server, buffers.resting(), &buffers).unwrap();
        let error = handshake(&mut tls).await.unwrap_err();
        assert!(failure(&error).is_some(), "{error}");
        drop(tls);
        let _refused = peer.join();
    });
}

#[test]
fn garbage_is_answered_with_an_alert() {
    let (server, _) = pair();
    runtime().block_on(async {
        let (mut socket, tcp) = sockets();
        socket.write_all(b"SSH-2.0-OpenSSH\r\n").unwrap();
        let buffers = Rc::new(Buffers::default());
        let mut tls = TlsStream::server(tcp, server, buffers.resting(), &buffers).unwrap();
        assert!(failure(&handshake(&mut tls).await.unwrap_err()).is_some());
        let mut alert = [0; 7];
        socket.read_exact(&mut alert).unwrap();
        assert_eq!(alert[0], 21);
    });
}

#[test]
fn the_clients_end_works_as_the_servers() {
    let (server, client) = pair();
    runtime().block_on(async {
        let (socket, tcp) = sockets();
        let peer = std::thread::spawn(move || {
            let server = ServerConnection::new(server).unwrap();
            let mut peer = rustls::StreamOwned::new(server, socket);
            let mut question = [0; 8];
            peer.read_exact(&mut question).unwrap();
            peer.write_all(&noise(100_000)).unwrap();
            peer.conn.send_close_notify();
            peer.conn.write_tls(&mut peer.sock).unwrap();
        });
        let buffers = Rc::new(Buffers::default());
        let name = "localhost".try_into().unwrap();
        let mut tls = TlsStream::client(tcp, client, name, &buffers).unwrap();
        handshake(&mut tls).await.unwrap();
        write_all(&mut tls, &[b"question"]).await.unwrap();
        let mut seen = Vec::new();
        loop {
            let data = read(&mut tls, 100_000).await.unwrap();
            if data.is_empty() {
                break;
            }
            seen.extend(data);
        }
        assert_eq!(seen, noise(100_000));
        peer.join().unwrap();
    });
}
