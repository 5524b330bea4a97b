//! hyper and the router: every request that the express lane does not know.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use axum::response::Response;
use bytes::{Buf, Bytes};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::{HEAD_TIMEOUT, Served};

/// The longest request line and headers together, in bytes; past it the answer is 431 or 414.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most headers of one request; past it the answer is 431.
const MAX_HEADERS: usize = 100;
/// Bytes of a body that nobody wants which are still read, so that its sender gets to read the answer.
const DISCARD_MAX_BYTES: usize = 32 << 20;
/// How long that may take.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);

/// Serves a connection of which `read` has been read already, until it ends.
pub(super) async fn serve(
    read: Bytes,
    stream: TcpStream,
    peer: SocketAddr,
    serving: watch::Receiver<Served>,
    stop: CancellationToken,
) -> Result<(), String> {
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = serving.borrow().router();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(Rewound { read, stream }), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        // First what has been read: hyper closes a connection of which it has seen nothing when it is to end.
        biased;
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(|error| error.to_string())
}

/// A stream of which the beginning has been read already.
struct Rewound {
    read: Bytes,
    stream: TcpStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.read.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, into);
        }
        let length = self.read.len().min(into.remaining());
        into.put_slice(&self.read[..length]);
        self.read.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

async fn answer(router: Router, request: Request<Incoming>) -> Response {
    let (back, mut left) = oneshot::channel();
    let lend = |body| {
        Body::new(Lent {
            body: Some(body),
            back: Some(back),
        })
    };
    let response = match router.oneshot(request.map(lend)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    // A client that is still sending would find its connection torn instead of reading why it was refused.
    if let Ok(body) = left.try_recv() {
        discard(body).await;
    }
    response
}

/// A request's body that comes back when whoever got it lets go of it before its end.
struct Lent {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(hyper::body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body
            .as_ref()
            .map(hyper::body::Body::size_hint)
            .unwrap_or_default()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take())
            && !hyper::body::Body::is_end_stream(&body)
        {
            // Nobody waits for it when the connection is gone.
            let _ = back.send(body);
        }
    }
}

/// Reads the rest of a body and forgets it, within limits.
async fn discard(mut body: Incoming) {
    let mut room = DISCARD_MAX_BYTES;
    let reading = async {
        while let Some(Ok(frame)) =
            poll_fn(|context| hyper::body::Body::poll_frame(Pin::new(&mut body), context)).await
        {
            room = room.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if room == 0 {
                return;
            }
        }
    };
    if tokio::time::timeout(DISCARD_WITHIN, reading).await.is_err() {
        tracing::debug!("a refused body took too long and is cut");
    }
}
