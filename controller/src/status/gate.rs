//! The last word on whether we may write: at the socket, when bytes are about to leave. A process that was stopped, or a
//! connection that took its time, must not write under a leadership that has passed meanwhile.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower::Service;

use super::clock::Moment;

/// Until when bytes may leave. Closed at first.
#[derive(Clone, Debug, Default)]
pub(super) struct Gate(Arc<AtomicU64>);

impl Gate {
    /// Lets bytes through until `end`; not at all if there is none.
    pub(super) fn set(&self, end: Option<Moment>) {
        self.0.store(end.map_or(0, Moment::as_nanos), SeqCst);
    }

    /// True if bytes may leave at this moment.
    pub(super) fn is_open(&self) -> bool {
        Moment::now().as_nanos() < self.0.load(SeqCst)
    }
}

/// Makes connections that write while their gate is open.
#[derive(Clone, Debug)]
pub(super) struct Guarded<C> {
    inner: C,
    gate: Gate,
}

impl Guarded<HttpConnector> {
    pub(super) fn new(inner: HttpConnector, gate: Gate) -> Self {
        Self { inner, gate }
    }
}

impl Service<Uri> for Guarded<HttpConnector> {
    type Response = Guarded<TokioIo<TcpStream>>;
    type Error = <HttpConnector as Service<Uri>>::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connecting = self.inner.call(uri);
        let gate = self.gate.clone();
        Box::pin(async move { connecting.await.map(|inner| Guarded { inner, gate }) })
    }
}

impl<C: Connection> Connection for Guarded<C> {
    fn connected(&self) -> Connected {
        self.inner.connected()
    }
}

impl<C: Read + Unpin> Read for Guarded<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl<C: Write + Unpin> Write for Guarded<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if !self.gate.is_open() {
            return Poll::Ready(Err(io::Error::other("the Lease is not ours any more")));
        }
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
    // Not vectored, so that every byte passes the gate.
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn nothing_leaves_when_the_time_is_over() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let uri: Uri = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let gate = Gate::default();
        let mut stream = Guarded::new(HttpConnector::new(), gate.clone()).call(uri).await.unwrap();
        let mut write = |bytes: &'static [u8]| {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            Pin::new(&mut stream).poll_write(&mut cx, bytes)
        };
        assert!(matches!(write(b"a"), Poll::Ready(Err(_))));
        gate.set(Some(Moment::now() + Duration::from_secs(60)));
        assert!(matches!(write(b"b"), Poll::Ready(Ok(1))));
        gate.set(Some(Moment::now()));
        assert!(matches!(write(b"c"), Poll::Ready(Err(_))));
        drop(stream);
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        assert_eq!(text, "b");
    }
}
