//! Endpoints of TCP that are plain sockets and do as they are told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread;

use super::PATIENCE;

/// An endpoint that runs `serve` for every connection.
pub fn endpoint(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> SocketAddr {
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
pub fn echo() -> SocketAddr {
    greeting("")
}

/// An endpoint that says something, then sends back what it gets, then ends.
pub fn greeting(text: &'static str) -> SocketAddr {
    endpoint(move |mut stream| {
        if stream.write_all(text.as_bytes()).is_err() {
            return;
        }
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
pub fn named(name: &'static str) -> SocketAddr {
    endpoint(move |mut stream| {
        let _ = stream.write_all(name.as_bytes());
    })
}
