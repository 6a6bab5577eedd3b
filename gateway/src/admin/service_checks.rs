//! `healthCheckNodePort`: tells load balancers in front of nodes whether this one has endpoints of a Service, as
//! kube-proxy does. Opens and closes ports as the table has them; a port that cannot be had costs only itself.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use config::table::ServiceCheck;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::{Phase, Readiness};
use crate::live::Shared;

/// Whoever asks must have done so by then.
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
    let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    let addresses = addresses.unwrap_or_else(|| all.into());
    let room = Arc::new(Semaphore::new(MOST));
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
        open.retain(|address, task| wanted.get(address) == Some(&task.slot));
        failing.retain(|address, ()| wanted.contains_key(address));
        for (address, slot) in wanted {
            if open.contains_key(&address) {
                continue;
            }
            match listen(address) {
                Ok(listener) => {
                    failing.remove(&address);
                    let answers = Answers {
                        shared: Arc::clone(&shared),
                        readiness: Arc::clone(&readiness),
                        slot,
                        port: address.port(),
                    };
                    let serving = tokio::spawn(serve(listener, answers, Arc::clone(&room)));
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
    slot: u32,
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
    slot: u32,
    port: u16,
}

async fn serve(listener: TcpListener, answers: Answers, room: Arc<Semaphore>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else { continue };
                let answers = answers.clone();
                tokio::spawn(async move {
                    let _permit = permit;
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
    let mut head = Vec::with_capacity(512);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= HEAD || stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let text = {
        let live = answers.shared.load();
        let check = live.table.service_checks.at(answers.slot).filter(|check| check.port == answers.port);
        check.map(|check| response(check, answers.readiness.phase() == Phase::Ready))
    };
    let Some(text) = text else { return Ok(()) };
    stream.write_all(text.as_bytes()).await?;
    stream.shutdown().await?;
    // A close with something unread would reset what was sent.
    while stream.read(&mut [0; 256]).await? > 0 {}
    Ok(())
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
