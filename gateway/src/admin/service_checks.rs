//! `healthCheckNodePort`: tells load balancers in front of nodes whether this one has endpoints of a Service, as
//! kube-proxy does. Opens and closes ports as the table has them; a port that cannot be had costs only itself.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use config::table::{ALL_ADDRESSES, ServiceCheck};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

use super::{Phase, Readiness};
use crate::live::Shared;
use crate::udp::host_of;

/// Whoever asks must have done so by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);
/// And must have taken the answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Ports that could not be opened are tried again after this.
const AGAIN: Duration = Duration::from_secs(15);
/// Connections at a time, over all Services: everybody can reach these ports.
const MOST: usize = 256;
/// Longest head of a request.
const HEAD: usize = 4_096;

/// Answers for every Service of the table, at these addresses of the host or at all; never returns.
pub async fn serve_service_checks(
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    addresses: Option<Box<[IpAddr]>>,
) {
    let addresses = addresses.unwrap_or_else(|| ALL_ADDRESSES.into());
    let guests = Arc::<Guests>::default();
    let mut open: BTreeMap<SocketAddr, Task> = BTreeMap::new();
    let mut failing: BTreeMap<SocketAddr, ()> = BTreeMap::new();
    let mut versions = shared.subscribe();
    loop {
        let wanted: BTreeMap<SocketAddr, u32> = {
            let live = shared.load();
            let checks = live.table.service_checks.iter();
            let at = |slot, check: &ServiceCheck| {
                let port = check.port;
                addresses.iter().map(move |ip| (SocketAddr::new(*ip, port), slot))
            };
            checks.flat_map(|(slot, check)| at(slot, check)).collect()
        };
        open.retain(|address, _| wanted.contains_key(address));
        failing.retain(|address, ()| wanted.contains_key(address));
        for (address, slot) in wanted {
            if let Some(task) = open.get(&address) {
                task.slot.store(slot, Ordering::Relaxed);
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    failing.remove(&address);
                    let slot = Arc::new(AtomicU32::new(slot));
                    let answers = Answers {
                        shared: Arc::clone(&shared),
                        readiness: Arc::clone(&readiness),
                        slot: Arc::clone(&slot),
                        port: address.port(),
                    };
                    let serving = tokio::spawn(serve(listener, answers, Arc::clone(&guests)));
                    open.insert(address, Task { slot, serving: serving.abort_handle() });
                }
                // Without IPv6, its wildcard is nothing to tell about.
                Err(error) if address.is_ipv6() && is_without_family(&error) => {}
                Err(error) => {
                    if failing.insert(address, ()).is_none() {
                        tracing::warn!(%address, %error, "cannot answer health checks of a Service (healthCheckNodePort)");
                    }
                }
            }
        }
        tokio::select! {
            changed = versions.changed() => if changed.is_err() { std::future::pending::<()>().await },
            () = tokio::time::sleep(AGAIN), if !failing.is_empty() => {}
        }
    }
}

/// A port that is served; closed when dropped.
struct Task {
    /// Whose it is: it may go from one Service to another.
    slot: Arc<AtomicU32>,
    serving: AbortHandle,
}

impl Drop for Task {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn is_without_family(error: &io::Error) -> bool {
    // EAFNOSUPPORT, EADDRNOTAVAIL
    matches!(error.raw_os_error(), Some(97 | 99))
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(
        socket2::Domain::for_address(address),
        socket2::Type::STREAM,
        Some(socket2::Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(128)?;
    TcpListener::from_std(socket.into())
}

/// Where the answers for one Service come from.
#[derive(Clone)]
struct Answers {
    shared: Arc<Shared>,
    readiness: Arc<Readiness>,
    slot: Arc<AtomicU32>,
    port: u16,
}

/// Who is connected, over all Services; the oldest first.
#[derive(Default)]
struct Guests(Mutex<Vec<Guest>>);

struct Guest {
    /// See [`host_of`].
    host: IpAddr,
    task: AbortHandle,
}

impl Guests {
    /// Serves one more. If there are too many, the host with the most connections loses its oldest: whoever holds many
    /// keeps nobody else from being answered.
    fn serve(&self, peer: SocketAddr, answering: impl Future<Output = ()> + Send + 'static) {
        let mut guests = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guests.retain(|guest| !guest.task.is_finished());
        if guests.len() >= MOST {
            let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
            for guest in guests.iter() {
                *counts.entry(guest.host).or_default() += 1;
            }
            let most = counts.values().copied().max().unwrap_or_default();
            let oldest = guests.iter().position(|guest| counts.get(&guest.host) == Some(&most));
            if let Some(oldest) = oldest {
                guests.remove(oldest).task.abort();
            }
        }
        guests.push(Guest { host: host_of(peer.ip()), task: tokio::spawn(answering).abort_handle() });
    }
}

async fn serve(listener: TcpListener, answers: Answers, guests: Arc<Guests>) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let answers = answers.clone();
                guests.serve(peer, async move {
                    // Whoever asks and does not listen has nothing to be told.
                    let _ = tokio::time::timeout(TIMEOUT, answer(stream, &answers)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// One request, one answer; whatever is asked, it is about the Service.
async fn answer(mut stream: TcpStream, answers: &Answers) -> io::Result<()> {
    let asked = tokio::time::timeout(HEAD_TIMEOUT, has_asked(&mut stream)).await;
    if !matches!(asked, Ok(Ok(true))) {
        return Ok(());
    }
    let text = {
        let live = answers.shared.load();
        let check = live
            .table
            .service_checks
            .at(answers.slot.load(Ordering::Relaxed))
            .filter(|check| check.port == answers.port);
        check.map(|check| response(check, answers.readiness.phase() == Phase::Ready))
    };
    let Some(text) = text else { return Ok(()) };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // A close with something unread would reset what was sent.
    while stream.read(&mut [0; 256]).await? > 0 {}
    Ok(())
}

/// Whether a whole head has come.
async fn has_asked(stream: &mut TcpStream) -> io::Result<bool> {
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// As kube-proxy answers: <https://kubernetes.io/docs/reference/networking/virtual-ips/>.
fn response(check: &ServiceCheck, is_healthy: bool) -> String {
    let count = check.local_endpoints;
    let status = if count > 0 && is_healthy { "200 OK" } else { "503 Service Unavailable" };
    let body = serde_json::json!({
        "service": {"namespace": &*check.namespace, "name": &*check.name},
        "localEndpoints": count,
        "serviceProxyHealthy": is_healthy,
    })
    .to_string();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nx-content-type-options: nosniff\r\n\
         x-load-balancing-endpoint-weight: {count}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_those_of_kube_proxy() {
        let check = |local_endpoints| ServiceCheck {
            port: 1,
            namespace: "n".into(),
            name: "s".into(),
            local_endpoints,
        };
        let with = response(&check(2), true);
        assert!(with.starts_with("HTTP/1.1 200 OK\r\n"), "{with}");
        assert!(with.contains("\r\nx-load-balancing-endpoint-weight: 2\r\n"), "{with}");
        let body: serde_json::Value = serde_json::from_str(with.split("\r\n\r\n").nth(1).unwrap()).unwrap();
        let expected = serde_json::json!({"service": {"namespace": "n", "name": "s"}, "localEndpoints": 2,
            "serviceProxyHealthy": true});
        assert_eq!(body, expected);
        assert!(response(&check(0), true).starts_with("HTTP/1.1 503 "));
        assert!(response(&check(2), false).starts_with("HTTP/1.1 503 "));
    }
}
