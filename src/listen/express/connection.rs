//! One connection of an event loop: what has been read of it, what is to be written, and whose turn it is.
//!
//! Invariant: a connection waits for at most one thing: bytes of a request, the answer to one visit, or room to write
//! that answer. What is read while it waits stays unread in the system's buffer, which slows down who sends it.

use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant, SystemTime};

use axum::body::Body;
use axum::http::Response;
use axum::response::IntoResponse;
use bytes::{Buf, BytesMut};
use futures_util::FutureExt;
use mio::net::TcpStream;

use crate::border::facts::Texts;
use crate::collector::{Answer, Desk, Failure, Visit, unfit};
use crate::listen::head::{self, Read};
use crate::listen::{HEAD_TIMEOUT, Held, REQUEST_TIMEOUT, panicked, too_late};

/// Bytes that are read at once.
pub(super) const READ_BYTES: usize = 16 * 1024;
/// The largest body of a problem document, in bytes.
const PROBLEM_MAX_BYTES: usize = 64 * 1024;

/// A connection.
pub(super) struct Connection {
    pub stream: TcpStream,
    pub peer: SocketAddr,
    pub held: Held,
    /// Bytes that were read and not answered.
    pub read: BytesMut,
    wire: Vec<u8>,
    written: usize,
    texts: Texts,
    turn: Turn,
    due: Instant,
    /// There may be bytes that were not read.
    is_readable: bool,
    /// The other side sends nothing more, so that reading never waits.
    is_read_closed: bool,
}

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A request.
    Request,
    /// The answer to the visit of that number.
    Answer(u64),
    /// Room for what is on the wire, after which the connection may be closed.
    Room { closes: bool },
}

/// What an event loop is to do with a connection.
pub(super) enum Next {
    /// Nothing until it is readable, writable, or answered.
    Wait,
    /// A visit is to be kept, whose answer it waits for under that number.
    Keep(Visit),
    /// hyper goes on with it, from the bytes that were read.
    Leave,
    /// It is to be closed.
    Close,
}

/// What all connections of an event loop use.
pub(super) struct Tools {
    pub scratch: Box<[u8]>,
    pub date: Date,
    pub now: Instant,
    /// The loop is to end: what is under way is answered, and nothing more.
    pub is_stopping: bool,
}

impl Connection {
    pub fn new(stream: TcpStream, peer: SocketAddr, held: Held, now: Instant) -> Self {
        Self {
            stream,
            peer,
            held,
            read: BytesMut::new(),
            wire: Vec::new(),
            written: 0,
            texts: Texts::default(),
            turn: Turn::Request,
            due: now + HEAD_TIMEOUT,
            is_readable: true,
            is_read_closed: false,
        }
    }

    /// The system says that there may be something to read.
    pub fn became_readable(&mut self, is_read_closed: bool) {
        self.is_readable = true;
        self.is_read_closed |= is_read_closed;
    }

    /// Whether it has waited too long.
    pub fn is_late(&self, now: Instant) -> bool {
        now >= self.due
    }

    /// From now on it waits for the answer to that visit.
    pub fn wait_for(&mut self, number: u64, now: Instant) {
        self.turn = Turn::Answer(number);
        self.due = now + REQUEST_TIMEOUT;
    }

    /// Whether it waits for the answer to that visit.
    pub fn waits_for(&self, number: u64) -> bool {
        self.turn == Turn::Answer(number)
    }

    /// Goes on for as long as there is something to do. A visit gets `number`.
    pub fn go_on(&mut self, desk: &Desk, number: u64, tools: &mut Tools) -> Next {
        loop {
            match self.turn {
                Turn::Answer(_) => return Next::Wait,
                Turn::Room { closes } => match self.write() {
                    Ok(false) => return Next::Wait,
                    Ok(true) if closes => return Next::Close,
                    Ok(true) => self.turn = Turn::Request,
                    Err(error) => return self.broken(&error),
                },
                Turn::Request => {
                    let (peer, texts) = (self.peer.ip(), &mut self.texts);
                    let visit = |target, headers: &[httparse::Header<'_>]| {
                        desk.visit(target, headers, peer, texts)
                    };
                    match unpanicked(|| head::read(&self.read, visit)) {
                        Err(answer) => self.put_problem(*answer, true, tools),
                        Ok(Read::Other) => return Next::Leave,
                        Ok(Read::Plain(visit, length)) => {
                            self.read.advance(length);
                            self.wait_for(number, tools.now);
                            return Next::Keep(visit);
                        }
                        // hyper closes it, or answers what has begun to come.
                        Ok(Read::Partial) if tools.is_stopping => return Next::Leave,
                        Ok(Read::Partial) if !self.is_readable => return Next::Wait,
                        Ok(Read::Partial) => match self.fill(&mut tools.scratch) {
                            Ok(0) => return Next::Close,
                            Ok(_) => {}
                            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                                self.is_readable = false;
                                return Next::Wait;
                            }
                            Err(error) => return self.broken(&error),
                        },
                    }
                }
            }
        }
    }

    /// Puts the answer to its visit on the wire; [`Self::go_on`] writes it.
    pub fn answer(&mut self, kept: Result<Answer, Failure>, tools: &mut Tools) {
        let closes = tools.is_stopping;
        self.begin(tools);
        let failure = match kept {
            Ok(answer) if answer.write(&mut self.wire) => {
                return self.finish(answer.content(), closes, tools);
            }
            Ok(answer) => unfit(&answer),
            Err(failure) => failure,
        };
        self.put_problem(failure.into_response(), closes, tools);
    }

    /// What becomes of it when it is late: whose visit is not kept in time is told so, and any other is closed.
    pub fn time_out(&mut self, tools: &mut Tools) -> Next {
        match self.turn {
            Turn::Answer(_) => {
                self.answer(Err(Failure::Problem(too_late())), tools);
                Next::Wait
            }
            Turn::Request | Turn::Room { .. } => Next::Close,
        }
    }

    /// Reads once. Zero bytes are the end.
    fn fill(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.stream.read(scratch) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(length) => {
                    // Fewer bytes than there was room for are all that there were, epoll(7); an end is asked for.
                    self.is_readable = length == scratch.len() || self.is_read_closed;
                    self.read.extend_from_slice(&scratch[..length]);
                    return Ok(length);
                }
            }
        }
    }

    /// Writes what is on the wire; whether all of it is written.
    fn write(&mut self) -> io::Result<bool> {
        while self.written < self.wire.len() {
            match self.stream.write(&self.wire[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    #[cfg(test)]
    pub fn on_the_wire(&self) -> &[u8] {
        &self.wire
    }

    fn broken(&self, error: &io::Error) -> Next {
        tracing::debug!(peer = %self.peer, %error, "an HTTP connection ended in an error");
        Next::Close
    }

    fn begin(&mut self, tools: &Tools) {
        self.wire.clear();
        self.written = 0;
        self.due = tools.now + HEAD_TIMEOUT;
    }

    fn put_problem(&mut self, response: Response<Body>, closes: bool, tools: &mut Tools) {
        self.begin(tools);
        let (parts, body) = response.into_parts();
        // A problem's body is there already: nothing is waited for.
        let body = axum::body::to_bytes(body, PROBLEM_MAX_BYTES).now_or_never();
        let body = body.and_then(Result::ok).unwrap_or_default();
        let reason = parts.status.canonical_reason().unwrap_or_default();
        let status = format!("HTTP/1.1 {} {reason}\r\n", parts.status.as_str());
        self.wire.extend_from_slice(status.as_bytes());
        for (name, value) in &parts.headers {
            let parts: [&[u8]; 4] = [name.as_ref(), b": ", value.as_bytes(), b"\r\n"];
            self.wire.extend(parts.concat());
        }
        self.finish(Some(&body), closes, tools);
    }

    /// Ends the headers with what is the connection's, and adds the content.
    fn finish(&mut self, content: Option<&[u8]>, closes: bool, tools: &mut Tools) {
        let wire = &mut self.wire;
        match content {
            // Of nearly all answers.
            Some(b"") => wire.extend_from_slice(b"content-length: 0\r\n"),
            Some(content) => {
                // Writing to a Vec cannot fail.
                let _ = write!(wire, "content-length: {}\r\n", content.len());
            }
            None => {}
        }
        if closes {
            wire.extend_from_slice(b"connection: close\r\n");
        }
        wire.extend_from_slice(b"date: ");
        wire.extend_from_slice(tools.date.text.as_bytes());
        wire.extend_from_slice(b"\r\n\r\n");
        wire.extend_from_slice(content.unwrap_or_default());
        self.turn = Turn::Room { closes };
    }
}

/// Reads a request, or answers a panic over its bytes as the router does: this request is refused and counted, and no
/// other one is touched.
fn unpanicked<T>(read: impl FnOnce() -> T) -> Result<T, Box<Response<Body>>> {
    // What it leaves half done is the connection's own, which is closed.
    std::panic::catch_unwind(AssertUnwindSafe(read)).map_err(|cause| Box::new(panicked(cause)))
}

/// The date as HTTP writes it, written once a second.
#[derive(Debug, Default)]
pub(super) struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// Writes it, where another second has begun.
    pub fn refresh(&mut self) {
        let now = SystemTime::now();
        let since = now.duration_since(SystemTime::UNIX_EPOCH);
        let second = since.unwrap_or(Duration::ZERO).as_secs();
        if second != self.second || self.text.is_empty() {
            self.second = second;
            self.text = httpdate::fmt_http_date(now);
        }
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
}
