//! What is said on a socket arrives.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::common::certificates::Authority;
use crate::setup;

async fn a_whole_conversation<S>(mut socket: WebSocketStream<S>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    setup::say(&mut socket, "hello").await;
    setup::say(&mut socket, "").await;
    let large: Vec<u8> = (0..5_000_003_u32).map(|number| (number % 251) as u8).collect();
    setup::say(&mut socket, large).await;
    socket.send(Message::Ping(b"are you there".as_slice().into())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(b"are you there".as_slice().into()));
    let goodbye = CloseFrame { code: CloseCode::Library(4_321), reason: "enough".into() };
    socket.send(Message::Close(Some(goodbye.clone()))).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Close(Some(goodbye)));
    assert!(!matches!(socket.next().await, Some(Ok(_))), "something after the end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_in_cleartext_is_carried() {
    let (_folder, gateway) = setup::gateway(&[setup::echo().await], &[]);
    a_whole_conversation(setup::connect(gateway.http).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_conversation_over_tls_is_carried() {
    let authority = Authority::new("front");
    let (_folder, gateway) = setup::gateway_tls(&[setup::echo().await], &authority);
    let (socket, response) =
        setup::connect_tls(gateway.listeners["https"], &authority, b"http/1.1").await.unwrap();
    assert_eq!(response.status(), 101);
    a_whole_conversation(socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_conversations_do_not_mix() {
    let (_folder, gateway) = setup::gateway(&[setup::echo().await, setup::echo().await], &[]);
    let mut sockets = Vec::new();
    for _ in 0..50 {
        sockets.push(setup::connect(gateway.http).await);
    }
    for round in 0..10 {
        for (number, socket) in sockets.iter_mut().enumerate() {
            socket.send(Message::text(format!("{round} of {number}"))).await.unwrap();
        }
        for (number, socket) in sockets.iter_mut().enumerate() {
            assert_eq!(socket.next().await.unwrap().unwrap(), Message::text(format!("{round} of {number}")));
        }
    }
}
