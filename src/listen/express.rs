//! The express lane: the collector's plain GETs, read and answered without hyper and the router.
//!
//! Nearly all of a collector's requests are of one form, and what a general server does for them (a map of headers,
//! layers, boxed futures) costs more than everything that adtally does. So a connection begins here, and stays for
//! as long as it sends plain heads ([`super::head`]) for the collector's paths; at the first other one it goes over
//! to hyper for good, with every byte that was read and not answered. The decision about an event is the same
//! code on both ways ([`crate::collector::Desk::keep`]).

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::CancellationToken;

use super::head::{self, Read};
use super::{HEAD_TIMEOUT, REQUEST_TIMEOUT, Served, panicked, too_late};
use crate::border::facts::Texts;
use crate::collector::{Answer, Failure, unfit};

/// Bytes for which there is room before a read.
const READ_BYTES: usize = 2 * 1024;
/// The largest body of a problem document, in bytes.
const PROBLEM_MAX_BYTES: usize = 64 * 1024;

/// How a connection's time here ended.
pub(super) enum Ended {
    /// It is to be closed.
    Closed,
    /// hyper goes on with it, from these bytes.
    Other(BytesMut),
}

/// Serves a connection until it ends or sends something that is not plain.
pub(super) async fn serve(
    stream: &mut TcpStream,
    peer: SocketAddr,
    mut serving: watch::Receiver<Served>,
    stop: &CancellationToken,
) -> io::Result<Ended> {
    let mut lane = Lane {
        stream,
        read: BytesMut::with_capacity(READ_BYTES),
        wire: Vec::new(),
        date: Date::default(),
    };
    let mut texts = Texts::default();
    let mut deadline = Deadline::new(HEAD_TIMEOUT);
    let stopped = stop.cancelled();
    tokio::pin!(stopped);
    let mut served = serving.borrow_and_update().clone();
    loop {
        // To take what is served anew for each request, all connections would count the same references up and down.
        if serving.has_changed().unwrap_or(false) {
            served = serving.borrow_and_update().clone();
        }
        let Some(desk) = served.desk() else {
            return Ok(Ended::Other(lane.read));
        };
        let visit = |target, headers: &[httparse::Header<'_>]| {
            desk.visit(target, headers, peer.ip(), &mut texts)
        };
        let read = match unpanicked(|| head::read(&lane.read, visit)) {
            Ok(read) => read,
            Err(answer) => {
                lane.wire.clear();
                lane.put_problem(*answer, true).await;
                return lane.send().await.map(|()| Ended::Closed);
            }
        };
        match read {
            Read::Other => return Ok(Ended::Other(lane.read)),
            Read::Partial => {
                lane.read.reserve(READ_BYTES);
                let read = tokio::select! {
                    biased;
                    read = lane.stream.read_buf(&mut lane.read) => read?,
                    () = deadline.passed() => return Ok(Ended::Closed),
                    // hyper closes it, or answers what has begun to come.
                    () = &mut stopped => return Ok(Ended::Other(lane.read)),
                };
                if read == 0 {
                    return Ok(Ended::Closed);
                }
            }
            Read::Plain(visit, length) => {
                lane.read.advance(length);
                deadline.set(REQUEST_TIMEOUT);
                let kept = tokio::select! {
                    biased;
                    kept = desk.keep(visit) => kept,
                    () = deadline.passed() => Err(Failure::Problem(too_late())),
                };
                let closes = stop.is_cancelled();
                lane.put(kept, closes).await;
                deadline.set(HEAD_TIMEOUT);
                tokio::select! {
                    biased;
                    sent = lane.send() => sent?,
                    () = deadline.passed() => return Ok(Ended::Closed),
                }
                if closes {
                    return Ok(Ended::Closed);
                }
            }
        }
    }
}

/// Reads a request, or answers a panic over its bytes as the router does: this request is refused and counted, and no
/// other one is touched.
fn unpanicked<T>(read: impl FnOnce() -> T) -> Result<T, Box<Response<Body>>> {
    // What it leaves half done is the connection's own, which is closed.
    std::panic::catch_unwind(AssertUnwindSafe(read)).map_err(|cause| Box::new(panicked(cause)))
}

/// A time limit that is set anew with every request and hardly ever passes. The runtime's timer is left alone until
/// it rings, and only then it is seen whether the limit has been moved meanwhile.
struct Deadline {
    due: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Deadline {
    fn new(within: Duration) -> Self {
        let due = Instant::now() + within;
        Self {
            due,
            alarm: Box::pin(tokio::time::sleep_until(due)),
        }
    }

    /// Moves the limit; it never moves back, since both limits are as long.
    fn set(&mut self, within: Duration) {
        self.due = Instant::now() + within;
    }

    async fn passed(&mut self) {
        loop {
            self.alarm.as_mut().await;
            if Instant::now() >= self.due {
                return;
            }
            self.alarm.as_mut().reset(self.due);
        }
    }
}

/// A connection and what it uses again for every request.
struct Lane<'c> {
    stream: &'c mut TcpStream,
    read: BytesMut,
    wire: Vec<u8>,
    date: Date,
}

impl Lane<'_> {
    /// Puts the answer on the wire, which is empty before it.
    async fn put(&mut self, kept: Result<Answer, Failure>, closes: bool) {
        self.wire.clear();
        let failure = match kept {
            Ok(answer) if answer.write(&mut self.wire) => {
                let content = answer.content();
                return self.finish(content, closes);
            }
            Ok(answer) => unfit(&answer),
            Err(failure) => failure,
        };
        self.put_problem(failure.into_response(), closes).await;
    }

    async fn put_problem(&mut self, response: Response<Body>, closes: bool) {
        let (parts, body) = response.into_parts();
        // A problem's body is there already: nothing is waited for.
        let body = axum::body::to_bytes(body, PROBLEM_MAX_BYTES).await;
        let reason = parts.status.canonical_reason().unwrap_or_default();
        let status = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str());
        self.wire.extend_from_slice(status.as_bytes());
        for (name, value) in &parts.headers {
            let parts: [&[u8]; 4] = [name.as_ref(), b": ", value.as_bytes(), b"\r\n"];
            self.wire.extend(parts.concat());
        }
        self.finish(Some(&body.unwrap_or_default()), closes);
    }

    /// Ends the headers with what is the connection's, and adds the content.
    fn finish(&mut self, content: Option<&[u8]>, closes: bool) {
        let wire = &mut self.wire;
        if let Some(content) = content {
            // Writing to a Vec cannot fail.
            let _ = write!(wire, "content-length: {}\r\n", content.len());
        }
        if closes {
            wire.extend_from_slice(b"connection: close\r\n");
        }
        wire.extend_from_slice(b"date: ");
        wire.extend_from_slice(self.date.now().as_bytes());
        wire.extend_from_slice(b"\r\n\r\n");
        wire.extend_from_slice(content.unwrap_or_default());
    }

    async fn send(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.wire).await
    }
}

/// The date as HTTP writes it, written once a second.
#[derive(Debug, Default)]
struct Date {
    second: u64,
    text: String,
}

impl Date {
    fn now(&mut self) -> &str {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let second = since.unwrap_or(Duration::ZERO).as_secs();
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_over_a_request_is_an_answer() {
        let bytes = b"GET /click?ad_id=a HTTP/1.1\r\n\r\n";
        let refused =
            unpanicked(|| head::read(bytes, |_, _| -> Option<()> { panic!("on purpose") }));
        assert_eq!(
            refused.err().map(|answer| answer.status().as_u16()),
            Some(503)
        );
        let read = unpanicked(|| head::read(bytes, |_, _| Some(())));
        assert!(matches!(read, Ok(Read::Plain((), length)) if length == bytes.len()));
    }

    #[tokio::test]
    async fn a_limit_that_was_moved_does_not_pass_before_its_new_time() {
        let began = Instant::now();
        let mut deadline = Deadline::new(Duration::from_millis(5));
        deadline.set(Duration::from_millis(40));
        deadline.passed().await;
        assert!(began.elapsed() >= Duration::from_millis(40));
    }
}
