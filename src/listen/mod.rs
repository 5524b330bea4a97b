//! The HTTP listener: bounded in connections, header sizes and time, and gone without losing an answer.
//!
//! What it serves can be exchanged while it runs: before the catalogue and the streams are known it answers 503,
//! so a load balancer and a person see a server that is starting, not a refused connection.

mod express;
mod head;
mod routed;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;

use crate::collector::Desk;
use crate::http::health::STARTING;
use crate::http::problem::Problem;
use express::EventLoops;

/// How long a connection may take to send its next request's head, idle time included; then it is closed.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one request may take, its body included; then the answer is 408.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a stop waits for answers that are under way.
const CLOSE_WITHIN: Duration = Duration::from_secs(10);
/// How long accepting pauses after the system refused it (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is served: a router, and before it the collector, where this process has one.
#[derive(Clone)]
struct Served(Arc<(Router, Option<Desk>)>);

impl Served {
    fn new(router: Router, desk: Option<Desk>) -> Self {
        Self(Arc::new((guarded(router), desk)))
    }

    fn router(&self) -> Router {
        self.0.0.clone()
    }

    fn desk(&self) -> Option<&Desk> {
        self.0.1.as_ref()
    }
}

/// What holds a connection's place among those that are open, and holds up a stop until it is closed.
type Held = (OwnedSemaphorePermit, TaskTrackerToken);

/// What every connection is served with.
#[derive(Clone)]
struct Around {
    serving: watch::Receiver<Served>,
    stop: CancellationToken,
    /// The task that accepts, and every connection.
    tasks: TaskTracker,
}

impl Around {
    /// Serves a connection with hyper until it ends, from the bytes that have been read of it already.
    async fn route(self, read: Bytes, stream: io::Result<TcpStream>, peer: SocketAddr, held: Held) {
        let _held = held;
        let ended = match stream {
            Ok(stream) => routed::serve(read, stream, peer, self.serving, self.stop).await,
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "an HTTP connection ended in an error");
        }
    }
}

/// A bound listener and what it serves.
pub struct Listener {
    address: SocketAddr,
    served: watch::Sender<Served>,
    around: Around,
    /// From the first collector on.
    loops: Arc<OnceLock<EventLoops>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Binds `address` and serves 503 until [`Listener::serve`] gives something better.
    ///
    /// At most `max_connections` are open at once; more wait in the system's queue.
    pub async fn bind(address: SocketAddr, max_connections: usize) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        let (served, serving) = watch::channel(Served::new(starting(), None));
        let around = Around {
            serving,
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let permits = Arc::new(Semaphore::new(max_connections.min(Semaphore::MAX_PERMITS)));
        let loops = Arc::new(OnceLock::new());
        let accepting = accept(socket, permits, around.clone(), loops.clone());
        around.tasks.spawn(accepting);
        Ok(Self {
            address,
            served,
            around,
            loops,
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

    /// Serves `router` from now on, on connections that are open already too; the routes of `desk` must be in it. Must
    /// be called within a Tokio runtime.
    pub fn serve(&self, router: Router, desk: Option<Desk>) {
        let _former = self.served.send_replace(Served::new(router, desk.clone()));
        let (Some(desk), None) = (desk, self.loops.get()) else {
            return;
        };
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        match EventLoops::start(processors, &desk, &self.around) {
            // Where there are loops meanwhile, these end at once.
            Ok(loops) => drop(self.loops.set(loops)),
            Err(error) => {
                tracing::error!(%error, "the collector's threads do not start, so its requests are served as all others, which takes longer");
            }
        }
    }

    /// Makes every event loop panic once.
    #[cfg(test)]
    pub fn panic_in_event_loops(&self) {
        self.loops.get().expect("a collector is served").panic();
    }

    /// Stops accepting, lets requests that are under way finish, and closes.
    pub async fn close(&self) {
        let Around { stop, tasks, .. } = &self.around;
        stop.cancel();
        tasks.close();
        if let Some(loops) = self.loops.get() {
            loops.stop();
        }
        if tokio::time::timeout(CLOSE_WITHIN, tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                open = tasks.len(),
                "HTTP connections were still open; closed without an answer"
            );
        }
        if let Some(loops) = self.loops.get() {
            loops.end().await;
        }
    }
}

/// What is served before there is anything to serve.
pub fn starting() -> Router {
    Router::new().fallback(|| async { Problem::unavailable(STARTING).into_response() })
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
    too_late().into_response()
}

fn too_late() -> Problem {
    Problem::timed_out(format!(
        "the request was not complete and answered within {} s; whether it took effect is not known, so send it \
         again with the same ids",
        REQUEST_TIMEOUT.as_secs()
    ))
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
    around: Around,
    loops: Arc<OnceLock<EventLoops>>,
) {
    let Around { stop, tasks, .. } = &around;
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
                if let Err(error) = stream.set_nodelay(true) {
                    tracing::debug!(%error, "no TCP_NODELAY");
                }
                let held = (permit, tasks.token());
                match loops.get() {
                    Some(loops) => loops.take(stream, peer, held),
                    None => {
                        let served = around.clone().route(Bytes::new(), Ok(stream), peer, held);
                        tasks.spawn(served);
                    }
                }
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use tokio::sync::Notify;

    use super::*;

    async fn ask(url: &str) -> (u16, String) {
        crate::tls::provide();
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
        listener.serve(
            Router::new().route("/peer", peer).route("/panics", panics),
            None,
        );
        assert_eq!(ask(&format!("{url}/peer")).await, (200, "127.0.0.1".into()));
        assert_eq!(ask(&format!("{url}/panics")).await.0, 503);
        assert_eq!(ask(&format!("{url}/peer")).await.0, 200);
        listener.close().await;
        crate::tls::provide();
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
        let (begun, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signals = (begun.clone(), go_on.clone());
        let slow = get(async move || {
            signals.0.notify_one();
            signals.1.notified().await;
            "done"
        });
        listener.serve(Router::new().route("/slow", slow), None);
        let asking = tokio::spawn(async move { ask(&format!("{url}/slow")).await });
        begun.notified().await;
        // Closing comes first, and the answer only when it has begun.
        tokio::join!(biased; listener.close(), async { go_on.notify_one() });
        assert_eq!(asking.await.unwrap(), (200, "done".into()));
    }

    #[tokio::test]
    async fn who_sends_too_much_still_reads_why_it_was_refused() {
        let listener = Listener::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 10)
            .await
            .unwrap();
        let refuses = axum::routing::post(|| async { Problem::too_large("less, please") });
        listener.serve(Router::new().route("/", refuses), None);
        let body = vec![b'x'; 20 << 20];
        crate::tls::provide();
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
