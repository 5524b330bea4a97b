//! The HTTP listener: bounded in connections, header sizes and time, and gone without losing an answer.
//!
//! What it serves can be exchanged while it runs: before the catalogue and the streams are known it answers 503,
//! so a load balancer and a person see a server that is starting, not a refused connection.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::http::problem::Problem;

/// The longest request line and headers together, in bytes; past it the answer is 431 or 414.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The most headers of one request; past it the answer is 431.
const MAX_HEADERS: usize = 100;
/// How long a connection may take to send its next request's head, idle time included; then it is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one request may take, its body included; then the answer is 408.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stop waits for answers that are under way.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a body that nobody wants which are still read, so that its sender gets to read the answer.
const DISCARD_MAX_BYTES: usize = 32 << 20;
/// How long that may take.
const DISCARD_WITHIN: Duration = Duration::from_secs(5);
/// How long accepting pauses after the system refused it (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound listener and the router that it serves.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddr,
    router: watch::Sender<Router>,
    stop: CancellationToken,
    /// The task that accepts, and one a connection.
    tasks: TaskTracker,
}

impl Listener {
    /// Binds `address` and serves 503 until [`Listener::serve`] gives something better.
    ///
    /// At most `max_connections` are open at once; more wait in the system's queue.
    pub async fn bind(address: SocketAddr, max_connections: usize) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let (router, serving) = watch::channel(guarded(starting()));
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        tasks.spawn(accept(
            socket,
            permits,
            serving,
            stop.clone(),
            tasks.clone(),
        ));
        Ok(Self {
            address,
            router,
            stop,
            tasks,
        })
    }

    /// Where this machine's programs reach it.
    pub fn url(&self) -> String {
        let mut reachable = self.address;
        if reachable.ip().is_unspecified() {
            let loopback: std::net::IpAddr = match reachable {
                SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            reachable.set_ip(loopback);
        }
        format!("http://{reachable}")
    }

    /// Serves `router` from now on, on connections that are open already too.
    pub fn serve(&self, router: Router) {
        let _former = self.router.send_replace(guarded(router));
    }

    /// Stops accepting, lets requests that are under way finish, and closes.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout(CLOSE_WITHIN, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                open = self.tasks.len(),
                "HTTP connections were still open; closed without an answer"
            );
        }
    }
}

/// What is served before there is anything to serve.
pub fn starting() -> Router {
    Router::new().fallback(|| async {
        Problem::unavailable("adtally is starting: it waits for its catalogue and its streams")
            .into_response()
    })
}

/// The layers around everything: a time limit, and 503 instead of a torn connection for a panic.
fn guarded(router: Router) -> Router {
    router
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            REQUEST_TIMEOUT,
        ))
        .layer(axum::middleware::map_response(explained))
        .layer(CatchPanicLayer::custom(panicked))
}

/// The time limit's answer is bare; as every other no, it leaves as a problem document.
async fn explained(response: Response) -> Response {
    if response.status() != StatusCode::REQUEST_TIMEOUT {
        return response;
    }
    Problem::timed_out(format!(
        "the request was not complete and answered within {} s; whether it took effect is not known, so send it \
         again with the same ids",
        REQUEST_TIMEOUT.as_secs()
    ))
    .into_response()
}

fn panicked(cause: Box<dyn std::any::Any + Send>) -> Response {
    let text = cause
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_string()))
        .unwrap_or_default();
    tracing::error!(cause = text, "a request handler panicked");
    metrics::counter!("adtally_http_panics_total").increment(1);
    Problem::unavailable("this request could not be answered; the operator's log says why")
        .into_response()
}

async fn accept(
    socket: TcpListener,
    permits: Arc<Semaphore>,
    serving: watch::Receiver<Router>,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    loop {
        let permit = tokio::select! {
            () = stop.cancelled() => return,
            permit = permits.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                tasks.spawn(connection(
                    stream,
                    peer,
                    permit,
                    serving.clone(),
                    stop.clone(),
                ));
            }
            Err(error) if is_the_peers(&error) => {}
            Err(error) => {
                tracing::error!(%error, "accepting an HTTP connection failed; trying again shortly");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether an accept failed because that one connection went away again.
fn is_the_peers(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    permit: OwnedSemaphorePermit,
    serving: watch::Receiver<Router>,
    stop: CancellationToken,
) {
    let _permit = permit;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "no TCP_NODELAY");
    }
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let router = serving.borrow().clone();
        async move { Ok::<_, Infallible>(answer(router, request).await) }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(serving);
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "an HTTP connection ended in an error");
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::routing::get;

    use super::*;

    async fn ask(url: &str) -> (u16, String) {
        let answer = reqwest::get(url).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    #[tokio::test]
    async fn it_answers_503_until_it_has_something_to_serve_and_survives_a_panic() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 10)
            .await
            .unwrap();
        let url = listener.url();
        assert_eq!(ask(&url).await.0, 503);
        let panics = get(|| async {
            if true {
                panic!("on purpose")
            }
        });
        let peer =
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() });
        listener.serve(Router::new().route("/peer", peer).route("/panics", panics));
        assert_eq!(ask(&format!("{url}/peer")).await, (200, "127.0.0.1".into()));
        assert_eq!(ask(&format!("{url}/panics")).await.0, 503);
        assert_eq!(ask(&format!("{url}/peer")).await.0, 200);
        listener.close().await;
        assert!(reqwest::get(&url).await.is_err());
    }

    #[tokio::test]
    async fn a_request_that_takes_too_long_is_answered_with_a_problem() {
        let bare = StatusCode::REQUEST_TIMEOUT.into_response();
        let problem = explained(bare).await;
        assert_eq!(problem.status(), 408);
        assert_eq!(
            problem.headers()["content-type"],
            crate::http::problem::PROBLEM_JSON
        );
        let other = explained("done".into_response()).await;
        assert_eq!(other.status(), 200);
    }

    #[tokio::test]
    async fn an_answer_that_is_under_way_is_finished_when_it_closes() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 10)
            .await
            .unwrap();
        let url = listener.url();
        let slow = get(|| async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            "done"
        });
        listener.serve(Router::new().route("/slow", slow));
        let asking = tokio::spawn(async move { ask(&format!("{url}/slow")).await });
        tokio::time::sleep(Duration::from_millis(100)).await;
        listener.close().await;
        assert_eq!(asking.await.unwrap(), (200, "done".into()));
    }

    #[tokio::test]
    async fn who_sends_too_much_still_reads_why_it_was_refused() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 10)
            .await
            .unwrap();
        let refuses = axum::routing::post(|| async { Problem::too_large("less, please") });
        listener.serve(Router::new().route("/", refuses));
        let body = vec![b'x'; 20 << 20];
        let answer = reqwest::Client::new()
            .post(listener.url())
            .body(body)
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status().as_u16(), 413);
        listener.close().await;
    }
}
