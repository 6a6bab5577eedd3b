//! Where no Service may lead because this process or the API server is there. Reads the addresses of this host and
//! resolves the API server's name, again and again; judges no endpoint.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use gateway::live::Shared;
use tokio::sync::watch;

use crate::families::host_addresses;

/// How often it is looked: hosts gain and lose addresses while we run.
const INTERVAL: Duration = Duration::from_secs(15);
/// How long it is waited for more to be opened before that is told.
const GATHER: Duration = Duration::from_millis(500);
/// For the API server's name.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(2);

/// Looks once, and goes on looking on this runtime for as long as somebody wants to know where no Service may lead.
/// `server` is the API server's host, if there is one, and its port; a name is resolved by and by, for a start must not
/// wait for it. `fixed` are addresses of this process besides those that the gateway has open; the gateway is told the
/// addresses of this host.
pub(super) fn follow(
    server: Option<(String, u16)>,
    fixed: Vec<SocketAddr>,
    shared: Arc<Shared>,
) -> watch::Receiver<Vec<SocketAddr>> {
    let listens = shared.occupied().subscribe();
    let mut look = Look { server, fixed, listens, shared, hosts: BTreeSet::new(), servers: BTreeSet::new() };
    let literal = look.server.as_ref().and_then(|(host, port)| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(host.parse().ok()?, *port))
    });
    look.servers.extend(literal);
    let (found, refused) = watch::channel(look.here());
    tokio::spawn(async move {
        let mut pause = if literal.is_some() { INTERVAL } else { Duration::ZERO };
        loop {
            tokio::select! {
                () = found.closed() => return,
                // All routes are looked at again after it, so many changes in a row are told once; meanwhile the
                // gateway itself connects to none of them.
                Ok(()) = look.listens.changed() => tokio::time::sleep(GATHER).await,
                () = tokio::time::sleep(pause) => {}
            }
            pause = INTERVAL;
            let now = look.again().await;
            found.send_if_modified(|known| {
                let is_other = *known != now;
                if is_other {
                    tracing::debug!(
                        addresses = now.len(),
                        "no Service may lead to where this process listens"
                    );
                    *known = now;
                }
                is_other
            });
        }
    });
    refused
}

/// What was seen last, which stays where nothing can be seen.
#[derive(Debug)]
struct Look {
    server: Option<(String, u16)>,
    fixed: Vec<SocketAddr>,
    /// Where the gateway listens now.
    listens: watch::Receiver<Vec<SocketAddr>>,
    shared: Arc<Shared>,
    hosts: BTreeSet<IpAddr>,
    servers: BTreeSet<SocketAddr>,
}

impl Look {
    async fn again(&mut self) -> Vec<SocketAddr> {
        if let Some((host, port)) = &self.server {
            let lookup = tokio::net::lookup_host((host.as_str(), *port));
            match tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
                Ok(Ok(found)) => self.servers = found.collect(),
                Ok(Err(error)) => tracing::debug!(%error, host, "the API server's name does not resolve"),
                Err(_) => tracing::debug!(host, "the API server's name takes too long to resolve"),
            }
        }
        self.here()
    }

    /// Without asking for names.
    fn here(&mut self) -> Vec<SocketAddr> {
        match host_addresses() {
            Ok(hosts) => {
                self.shared.occupied().hosts(hosts.iter().copied());
                self.hosts = hosts.into_iter().filter(|ip| !ip.is_loopback() && !is_of_a_link(*ip)).collect();
            }
            Err(error) => tracing::debug!(%error, "the addresses of this host cannot be read"),
        }
        let mut listens: BTreeSet<SocketAddr> = self.fixed.iter().copied().collect();
        listens.extend(self.listens.borrow_and_update().iter());
        occupied(listens.iter(), &self.hosts).chain(self.servers.iter().copied()).collect()
    }
}

/// What a socket on `address` listens on if it is not told to keep to its family: the admin port's. Those of listeners are
/// told (`IPV6_V6ONLY`).
pub(super) fn of_both_families(address: SocketAddr) -> impl Iterator<Item = SocketAddr> {
    let is_any = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let v4 = is_any.then(|| SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port()));
    v4.into_iter().chain([address])
}

/// The addresses that sockets on `listens` can be reached at, given those of the host.
fn occupied<'a>(
    listens: impl Iterator<Item = &'a SocketAddr>,
    hosts: &BTreeSet<IpAddr>,
) -> impl Iterator<Item = SocketAddr> {
    let known = listens.filter(|address| address.port() != 0);
    known.flat_map(|address| {
        let is_any = address.ip().is_unspecified();
        let all = hosts.iter().filter(move |host| is_any && host.is_ipv4() == address.is_ipv4());
        let one = (!is_any).then(|| address.ip());
        all.copied().chain(one).map(|host| SocketAddr::new(host, address.port()))
    })
}

/// Such addresses lead nowhere in any case, and come and go with each Pod.
fn is_of_a_link(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use config::table::{L4Key, Transport};

    use super::*;

    fn all(listens: &[&str]) -> Vec<String> {
        let hosts = ["10.0.0.1", "192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap());
        let listens: Vec<SocketAddr> = listens.iter().map(|address| address.parse().unwrap()).collect();
        occupied(listens.iter(), &BTreeSet::from(hosts)).map(|address| address.to_string()).collect()
    }

    #[test]
    fn a_socket_of_all_addresses_occupies_each_of_its_family() {
        assert_eq!(all(&["0.0.0.0:80"]), ["10.0.0.1:80", "192.0.2.1:80"]);
        assert_eq!(all(&["[::]:80"]), ["[2001:db8::1]:80"]);
        assert_eq!(all(&["10.0.0.1:9901", "127.0.0.1:80"]), ["10.0.0.1:9901", "127.0.0.1:80"]);
        assert!(all(&["0.0.0.0:0"]).is_empty(), "its port is not known yet");
    }

    #[test]
    fn the_admin_port_on_all_addresses_of_ipv6_has_those_of_ipv4() {
        let of = |address: &str| {
            of_both_families(address.parse().unwrap()).map(|one| one.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(of("[::]:9901"), ["0.0.0.0:9901", "[::]:9901"]);
        assert_eq!(of("[::1]:9901"), ["[::1]:9901"]);
        assert_eq!(of("0.0.0.0:9901"), ["0.0.0.0:9901"]);
    }

    #[tokio::test]
    async fn what_is_listened_on_later_is_told() {
        let (shared, _publisher) = Shared::new(1);
        let server = Some(("127.0.0.1".to_owned(), 6443));
        let fixed = vec!["127.0.0.1:9901".parse().unwrap()];
        let mut refused = follow(server, fixed, Arc::clone(&shared));
        let shown = |refused: &watch::Receiver<Vec<SocketAddr>>| {
            refused.borrow().iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(&refused), ["127.0.0.1:9901", "127.0.0.1:6443"]);
        for port in [80, 81] {
            refused.borrow_and_update();
            let address = SocketAddr::from(([198, 51, 100, 1], port));
            shared.occupied().listens(std::iter::once(L4Key { address, transport: Transport::Udp }));
            refused.changed().await.unwrap();
            let own = format!("198.51.100.1:{port}");
            assert_eq!(shown(&refused), ["127.0.0.1:9901", &own, "127.0.0.1:6443"]);
        }
    }
}
