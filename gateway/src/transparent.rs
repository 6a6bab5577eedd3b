//! Sockets that speak to endpoints from the address of a client (`IP_TRANSPARENT`, ip(7)), so that these see who it is. It
//! needs `CAP_NET_ADMIN`, and what endpoints answer must be routed back to this host; neither is seen to here.

use std::io;
use std::net::{IpAddr, SocketAddr};

use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

/// A socket bound to `client`, at any port, from which `endpoint` can be connected to; it does not block.
///
/// # Errors
/// `AddrNotAvailable`, which is no fault of the endpoint's, if they are of different families, if nobody can be answered at
/// the client's address, or without the right to use it; else as the kernel says.
pub(crate) fn socket(kind: Type, client: IpAddr, endpoint: SocketAddr) -> io::Result<Socket> {
    if client.is_ipv4() != endpoint.is_ipv4() || !is_answered(client, endpoint.ip()) {
        return Err(Errno::ADDRNOTAVAIL.into());
    }
    let protocol = if kind == Type::DGRAM { Protocol::UDP } else { Protocol::TCP };
    let socket =
        Socket::new_raw(Domain::for_address(endpoint), kind.nonblocking().cloexec(), Some(protocol))?;
    let allowed = match client {
        IpAddr::V4(_) => socket.set_ip_transparent_v4(true),
        IpAddr::V6(_) => socket.set_ip_transparent_v6(true),
    };
    // EPERM could not be told from a firewall that keeps an endpoint from being reached.
    allowed.map_err(|_| Errno::ADDRNOTAVAIL)?;
    socket.bind(&SocketAddr::new(client, 0).into())?;
    Ok(socket)
}

/// Whether what `endpoint` sends to `client` can come back: headers of proxies may name any address.
fn is_answered(client: IpAddr, endpoint: IpAddr) -> bool {
    let is_broadcast = matches!(client, IpAddr::V4(v4) if v4.is_broadcast());
    let is_elsewhere = client.is_loopback() && !endpoint.is_loopback();
    !(client.is_multicast() || client.is_unspecified() || is_broadcast || is_elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_cannot_be_answered_is_no_client() {
        let endpoint: SocketAddr = "192.0.2.1:80".parse().unwrap();
        for client in ["224.0.0.1", "0.0.0.0", "255.255.255.255", "127.0.0.1", "2001:db8::1"] {
            let error = socket(Type::STREAM, client.parse().unwrap(), endpoint).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrNotAvailable, "{client}");
        }
        assert!(is_answered("127.0.0.1".parse().unwrap(), "127.0.0.2".parse().unwrap()));
    }
}
