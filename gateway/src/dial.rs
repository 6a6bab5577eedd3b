//! Connections of TCP to endpoints, and what is set on their sockets. Knows neither whom they are for nor what is sent on
//! them, and bounds no time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::SetStruct;
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A connection to `address`.
///
/// # Errors
/// What the kernel says: refused, unreachable, out of descriptors or ports.
pub(crate) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new_raw(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    connect_from(socket, address).await
}

/// The same by a socket that does not block, and may be bound.
pub(crate) async fn connect_from(socket: Socket, address: SocketAddr) -> io::Result<TcpStream> {
    match socket.connect(&address.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => return Err(error),
        _ => {}
    }
    let tcp = TcpStream::from_std(socket.into())?;
    // Which error it was has to be asked for only where the reactor has heard of one: whatever ends a connection that is
    // being made closes it for writing as well (EPOLLERR and EPOLLHUP).
    if tcp.ready(Interest::WRITABLE).await?.is_write_closed()
        && let Some(error) = tcp.take_error()?
    {
        return Err(error);
    }
    Ok(tcp)
}

/// Whoever is gone without a word while nothing waits for them is noticed within a minute and a half of silence.
pub(crate) fn keepalive() -> TcpKeepalive {
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(10));
    keepalive.with_retries(3)
}

/// Sets [`keepalive`] and [`give_up_soon`]; the kernel counts what time the connection was quiet before.
pub(crate) fn keep_alive(tcp: &impl AsFd) {
    // Fails only for a socket that is gone already.
    let _set = SockRef::from(tcp).set_tcp_keepalive(&keepalive());
    give_up_soon(tcp);
}

/// How long the kernel waits at most before it sends once more what was not acknowledged, or asks for room once more. With
/// `net.ipv4.tcp_retries2` as it is by default, it does so fifteen times, so that a peer that acknowledges nothing has some
/// 25 s, and less than 30 s. (RFC 6298 §2.5 would have a minute at least between the last ones, and so a quarter of an hour.)
const MAX_RTO_MS: u32 = 1_800;

/// Milliseconds, as `u32`; accepted sockets inherit it. Linux 6.15 and later, `linux/tcp.h`.
const TCP_RTO_MAX_MS: libc::c_int = 44;

#[derive(Clone, Copy, Debug)]
struct RtoMax;

nix::setsockopt_impl!(RtoMax, libc::IPPROTO_TCP, TCP_RTO_MAX_MS, u32, SetStruct<'_, u32>);

/// Whoever is gone without a word while bytes wait to be acknowledged is noticed within half a minute; before Linux 6.15,
/// when `net.ipv4.tcp_retries2` says so.
///
/// This is not TCP_USER_TIMEOUT: it would also end the connection of a peer that is there and reads nothing for so long
/// (`tcp_probe_timer` counts the time since there was room, whatever is answered). That is up to idle limits.
pub(crate) fn give_up_soon(socket: &impl AsFd) {
    // A kernel that does not know it, or a socket that is gone.
    let _set = setsockopt(socket, RtoMax, &MAX_RTO_MS);
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn who_listens_is_connected() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let tcp = connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut other, _) = listener.accept().unwrap();
            other.write_all(b"hello").unwrap();
            tcp.readable().await.unwrap();
            let mut space = [0; 8];
            assert_eq!(tcp.try_read(&mut space).unwrap(), 5);
            drop(tcp);
            assert_eq!(other.read(&mut space).unwrap(), 0);
        }
    }

    #[tokio::test]
    async fn nobody_is_no_connection() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert_eq!(connect(address).await.unwrap_err().kind(), ErrorKind::ConnectionRefused);
    }

    /// An address to which nothing may be sent fails before there is anything to wait for.
    #[tokio::test]
    async fn nowhere_is_no_connection() {
        let error = connect(([255, 255, 255, 255], 9).into()).await.unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied),
            "{error}"
        );
    }
}
