//! A server that sends back what it gets, clients for it, and the gateway between them.

use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::common::certificates::Authority;
use crate::common::{self, Gateway};

/// The host of all sockets.
pub(crate) const HOST: &str = "socket.test";

fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(64 << 20)).max_frame_size(Some(64 << 20))
}

/// Starts a server that sends back every message, and returns where.
pub(crate) async fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let accepted = tokio_tungstenite::accept_async_with_config(socket, Some(config())).await;
                let Ok(mut socket) = accepted else { return };
                while let Some(Ok(message)) = socket.next().await {
                    // Pings and closes are answered by the library.
                    if (message.is_text() || message.is_binary()) && socket.send(message).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    address
}

/// The gateway in front of `backends`.
pub(crate) fn gateway(backends: &[SocketAddr], args: &[&str]) -> (TempDir, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    write(&folder, backends);
    let gateway = Gateway::start(folder.path(), args);
    (folder, gateway)
}

pub(crate) fn write(folder: &TempDir, backends: &[SocketAddr]) {
    let manifest = common::ingress("echo", HOST, backends);
    std::fs::write(folder.path().join("echo.yaml"), manifest).unwrap();
}

/// The same with a certificate for [`HOST`].
pub(crate) fn gateway_tls(backends: &[SocketAddr], authority: &Authority) -> (TempDir, Gateway) {
    let folder = tempfile::tempdir().unwrap();
    let ingress = common::ingress("echo", HOST, backends);
    let ingress =
        ingress.replacen("spec:\n", &format!("spec:\n  tls: [{{hosts: [{HOST}], secretName: front}}]\n"), 1);
    let secret = authority.issue(&[HOST]).secret("test", "front");
    std::fs::write(folder.path().join("echo.yaml"), format!("{ingress}---\n{secret}")).unwrap();
    let gateway = Gateway::start(folder.path(), &["--https", "127.0.0.1:0"]);
    (folder, gateway)
}

/// A socket in cleartext.
pub(crate) async fn connect(address: SocketAddr) -> WebSocketStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    client_async_with_config(format!("ws://{HOST}/chat"), stream, Some(config())).await.unwrap().0
}

/// A socket over TLS, which offers `alpn`.
pub(crate) async fn connect_tls(
    address: SocketAddr,
    authority: &Authority,
    alpn: &[u8],
) -> Result<(WebSocketStream<tokio_rustls::client::TlsStream<TcpStream>>, Response), Error> {
    let stream = tls(address, authority, alpn).await;
    client_async_with_config(format!("wss://{HOST}/chat"), stream, Some(config())).await
}

/// A TLS connection.
pub(crate) async fn tls(
    address: SocketAddr,
    authority: &Authority,
    alpn: &[u8],
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from(HOST).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

/// Sends a message and expects it back.
pub(crate) async fn say<S>(socket: &mut WebSocketStream<S>, message: impl Into<Message>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let message = message.into();
    socket.send(message.clone()).await.unwrap();
    assert!(socket.next().await.unwrap().unwrap() == message, "another message came back");
}
