//! The side of the sockets: how many clients there may be at a time, and how long each of them may take.
use std::future::Future;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::{pin, Pin};
use std::sync::Arc;
use std::task::{ready, Context, Poll};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, Sleep};

const HEAD: usize = 32 << 10; // bytes of a request's head

/// What clients may take.
#[derive(Clone, Copy, Debug)]
pub struct Clients {
    /// Most connections at a time; further ones wait.
    pub most: usize,
    /// How long one may take for the head of a request, connections that say nothing included, and how long it may not take
    /// what it is sent.
    pub patience: Duration,
}

/// Answers until `stop` is done, and then until the requests under way are answered.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    clients: Clients,
    stop: impl Future<Output = ()>,
) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(clients.patience).max_buf_size(HEAD);
    let slots = Arc::new(Semaphore::new(clients.most));
    let (connections, mut stop) = (GracefulShutdown::new(), pin!(stop));
    let accept = || async {
        let slot = Arc::clone(&slots).acquire_owned().await.expect("nothing closes it");
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return (slot, stream),
                // Out of descriptors, say: some may become free. A client that is gone already does no harm either.
                Err(_) => sleep(Duration::from_millis(50)).await,
            }
        }
    };
    loop {
        let (slot, stream) = tokio::select! {
            accepted = accept() => accepted,
            () = &mut stop => break,
        };
        let _ = stream.set_nodelay(true); // events are small, and must not wait for each other
        let stream = TokioIo::new(Patient::new(stream, clients.patience));
        let service = TowerToHyperService::new(router.clone());
        let connection = connections.watch(http.serve_connection(stream, service));
        tokio::spawn(async move {
            let _ = connection.await; // what a client does wrong here concerns nobody else
            drop(slot);
        });
    }
    drop(listener);
    connections.shutdown().await;
}

/// A connection that fails when the other side takes nothing for too long.
struct Patient<S> {
    inner: S,
    patience: Duration,
    waits: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(inner: S, patience: Duration) -> Self {
        Self { inner, patience, waits: None }
    }

    fn until_patience_ends<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.waits = None;
            return result;
        }
        let patience = self.patience;
        ready!(self.waits.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx));
        Poll::Ready(Err(ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, to)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write(cx, data);
        self.until_patience_ends(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.inner).poll_write_vectored(cx, data);
        self.until_patience_ends(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_flush(cx);
        self.until_patience_ends(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.until_patience_ends(cx, result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{duplex, AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn who_takes_nothing_is_not_waited_for() {
        let (near, mut far) = duplex(8);
        let mut near = Patient::new(near, Duration::from_millis(200));
        // Slow, but not too slow each time.
        let reads = tokio::spawn(async move {
            for _ in 0..4 {
                sleep(Duration::from_millis(100)).await;
                far.read_exact(&mut [0; 8]).await.unwrap();
            }
            far
        });
        near.write_all(&[7; 40]).await.unwrap();
        let far = reads.await.unwrap(); // and takes nothing any more
        let error = near.write_all(&[7; 8]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
        drop(far);
    }
}
