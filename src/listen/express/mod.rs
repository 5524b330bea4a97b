//! The express lane: the collector's plain GETs, read and answered without hyper, the router, or a task for each
//! connection.
//!
//! Nearly all of a collector's requests are of one form, and what a general server does for them (a map of headers,
//! layers, boxed futures, a task that is woken twice a request) costs more than everything that adtally does. So a
//! connection begins at an event loop, which is a thread with its own epoll, and stays for as long as it sends plain
//! heads ([`super::head`]) for the collector's paths; at the first other one it goes over to hyper for good, with every
//! byte that was read and not answered. The decision about an event is the same code on both ways
//! ([`crate::collector::Desk::keep_group`]). It runs here, between one look at the connections and the next: handing
//! a group to another thread takes longer than a small one takes.
//!
//! Invariants: an event loop's thread never blocks but in epoll; what has come from its connections since it last
//! looked is kept as one group; an answer is written only after its group is durable.

mod connection;

use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::task::{Context, Poll, Wake};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use mio::net::TcpStream;
use mio::{Events, Interest, Token, Waker};
use slab::Slab;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::{Around, Held, panicked};
use crate::collector::{Answer, Desk, Failure, GROUP_MAX_VISITS, Visit};
use connection::{Connection, Date, Next, READ_BYTES, Tools};

/// Groups of one event loop that are under way at once: one commit takes all that are decided while the disk writes
/// the one before. With fewer, visits would wait here that the next commit could take; with more, groups would be of
/// a few visits each.
const GROUPS_AT_ONCE: usize = 4;
/// Connections whose news an event loop takes from the system at once.
const EVENTS_AT_ONCE: usize = 1_024;
/// How often it is looked for connections that have waited too long. Both limits are a minute.
const LOOK_FOR_LATE_EVERY: Duration = Duration::from_secs(1);
/// How long at its end a loop waits for what was asked by those who have gone.
const KEPT_WITHIN: Duration = Duration::from_secs(1);
/// The pause after the system has refused to wait.
const TROUBLE_PAUSE: Duration = Duration::from_millis(100);
/// Whose news is that there is a message.
const MESSAGE: Token = Token(usize::MAX);

/// What an event loop is told. Messages are bounded by connections.
enum Message {
    /// A connection that was accepted.
    Accepted(TcpStream, SocketAddr, Held),
    /// The listener closes: what is under way is answered, and nothing more.
    Stop,
    /// The listener has closed: connections that are left end now.
    End,
    #[cfg(test)]
    Panic,
}

/// Whose visit it is: the connection's key, and the number of the visit.
#[derive(Clone, Copy, Debug)]
struct Place {
    key: usize,
    number: u64,
}

/// A group under way, and what each of its visits is told.
type Keeping = BoxFuture<'static, (Vec<Place>, Vec<Result<Answer, Failure>>)>;

/// The event loops. They are stopped when this is dropped.
pub(super) struct EventLoops {
    loops: Vec<Line>,
    next: AtomicUsize,
    /// Holds a token a thread.
    threads: TaskTracker,
}

/// The way to an event loop.
#[derive(Clone)]
struct Line {
    messages: Sender<Message>,
    waker: Arc<Waker>,
}

impl Line {
    fn tell(&self, message: Message) {
        // An event loop that has ended has no connections, and nothing to be told.
        if self.messages.send(message).is_ok() {
            self.look();
        }
    }

    fn look(&self) {
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "an event loop of the collector cannot be woken; it looks by itself within a second");
        }
    }
}

/// What a group waits for has come.
impl Wake for Line {
    fn wake(self: Arc<Self>) {
        self.look();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.look();
    }
}

impl EventLoops {
    /// Starts so many, for this desk or the one that is served later. Must be called within a Tokio runtime.
    pub fn start(count: usize, desk: &Desk, around: &Around) -> io::Result<Self> {
        let mut started = Self {
            loops: Vec::with_capacity(count),
            next: AtomicUsize::new(0),
            threads: TaskTracker::new(),
        };
        for number in 0..count.max(1) {
            let poll = mio::Poll::new()?;
            let waker = Arc::new(Waker::new(poll.registry(), MESSAGE)?);
            let (messages, inbox) = mpsc::channel();
            let line = Line { messages, waker };
            let waker = std::task::Waker::from(Arc::new(line.clone()));
            let parts = (poll, inbox, waker);
            let mut event_loop = EventLoop::new(parts, desk.clone(), around.clone());
            let token = started.threads.token();
            std::thread::Builder::new()
                .name(format!("collector-{number}"))
                .spawn(move || {
                    event_loop.run_whatever_happens();
                    // By a slow end a test sees whether a stop waits for it.
                    #[cfg(test)]
                    std::thread::sleep(TROUBLE_PAUSE);
                    drop(event_loop);
                    drop(token);
                })?;
            // Where a later one does not start, those that have are stopped.
            started.loops.push(line);
        }
        Ok(started)
    }

    /// Gives a connection to an event loop, each in turn.
    pub fn take(&self, stream: tokio::net::TcpStream, peer: SocketAddr, held: Held) {
        let stream = match stream.into_std() {
            Ok(stream) => TcpStream::from_std(stream),
            Err(error) => {
                tracing::error!(%peer, %error, "an HTTP connection cannot be taken over and is closed");
                return;
            }
        };
        let next = self.next.fetch_add(1, Ordering::Relaxed) % self.loops.len();
        self.loops[next].tell(Message::Accepted(stream, peer, held));
    }

    /// Lets what is under way be answered, and ends every connection and then the loops.
    pub fn stop(&self) {
        for line in &self.loops {
            line.tell(Message::Stop);
        }
    }

    /// After a stop: ends connections that are left, and waits until the threads have ended. With them goes their part
    /// of the outbox, which must not be closed while the process exits.
    pub async fn end(&self) {
        for line in &self.loops {
            line.tell(Message::End);
        }
        self.threads.close();
        self.threads.wait().await;
    }
}

#[cfg(test)]
impl EventLoops {
    /// Makes each of them panic once.
    pub fn panic(&self) {
        for line in &self.loops {
            line.tell(Message::Panic);
        }
    }
}

impl Drop for EventLoops {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An event loop, as its thread has it.
struct EventLoop {
    poll: mio::Poll,
    inbox: Receiver<Message>,
    around: Around,
    /// What a group waits for is told by the runtime's tasks.
    runtime: Handle,
    desk: Desk,
    connections: Slab<Connection>,
    /// Visits that wait for a group, and whose they are: each connection's last one at most.
    waiting: Vec<(Place, Visit)>,
    groups: FuturesUnordered<Keeping>,
    waker: std::task::Waker,
    next_number: u64,
    tools: Tools,
    look_for_late_at: Instant,
    /// When it ends whatever is under way.
    end_at: Option<Instant>,
}

impl EventLoop {
    fn new(
        (poll, inbox, waker): (mio::Poll, Receiver<Message>, std::task::Waker),
        desk: Desk,
        around: Around,
    ) -> Self {
        let now = Instant::now();
        Self {
            poll,
            inbox,
            around,
            runtime: Handle::current(),
            desk,
            connections: Slab::new(),
            waiting: Vec::new(),
            groups: FuturesUnordered::new(),
            waker,
            next_number: 0,
            tools: Tools {
                scratch: vec![0; READ_BYTES].into_boxed_slice(),
                date: Date::default(),
                now,
                is_stopping: false,
            },
            look_for_late_at: now + LOOK_FOR_LATE_EVERY,
            end_at: None,
        }
    }

    /// Runs, and goes on after a panic: the connections of then are closed, and those that come are served.
    fn run_whatever_happens(&mut self) {
        let runtime = self.runtime.clone();
        let _within = runtime.enter();
        while let Err(cause) = catch_unwind(AssertUnwindSafe(|| self.run())) {
            panicked(cause);
            self.connections.clear();
            self.waiting.clear();
        }
    }

    /// Runs until the listener is closed, every connection is, and what has come is kept.
    fn run(&mut self) {
        let mut events = Events::with_capacity(EVENTS_AT_ONCE);
        while !self.has_ended() {
            let waits = self.waiting.is_empty() || self.groups.len() >= GROUPS_AT_ONCE;
            let at_most = if waits {
                LOOK_FOR_LATE_EVERY
            } else {
                Duration::ZERO
            };
            match self.poll.poll(&mut events, Some(at_most)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    tracing::error!(%error, "an event loop of the collector cannot wait for its connections; trying again shortly");
                    std::thread::sleep(TROUBLE_PAUSE);
                    continue;
                }
            }
            self.tools.now = Instant::now();
            self.tools.date.refresh();
            if self.around.serving.has_changed().unwrap_or(false) {
                let served = self.around.serving.borrow_and_update();
                self.desk = served.desk().unwrap_or(&self.desk).clone();
            }
            self.take_messages();
            for event in &events {
                let key = event.token().0;
                if let Some(connection) = self.connections.get_mut(key) {
                    if event.is_readable() || event.is_read_closed() {
                        connection.became_readable(event.is_read_closed());
                    }
                    self.go_on(key);
                }
            }
            self.form_groups();
            self.go_on_with_groups();
            if self.tools.now >= self.look_for_late_at {
                self.look_for_late_at = self.tools.now + LOOK_FOR_LATE_EVERY;
                self.end_late();
            }
        }
    }

    fn has_ended(&self) -> bool {
        let is_idle = self.connections.is_empty() && self.waiting.is_empty();
        let is_due = self.end_at.is_some_and(|at| self.tools.now >= at);
        is_due || self.tools.is_stopping && is_idle && self.groups.is_empty()
    }

    fn take_messages(&mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(Message::Accepted(stream, peer, held)) => self.accept(stream, peer, held),
                Ok(Message::Stop) => self.stop(),
                Ok(Message::End) => {
                    self.connections.clear();
                    self.end_at = Some(self.tools.now + KEPT_WITHIN);
                }
                #[cfg(test)]
                Ok(Message::Panic) => panic!("on purpose"),
                // The loop has a way to itself, so that this never disconnects.
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
            }
        }
    }

    fn accept(&mut self, mut stream: TcpStream, peer: SocketAddr, held: Held) {
        let slot = self.connections.vacant_entry();
        let key = slot.key();
        // By edges: news come once, so that nothing is registered anew for each request.
        let both = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = self.poll.registry().register(&mut stream, Token(key), both) {
            tracing::error!(%peer, %error, "an HTTP connection cannot be waited for and is closed");
            return;
        }
        slot.insert(Connection::new(stream, peer, held, self.tools.now));
        self.go_on(key);
    }

    fn answer(&mut self, places: &[Place], answers: Vec<Result<Answer, Failure>>) {
        for (place, answer) in places.iter().zip(answers) {
            // Who has gone, or was told that it took too long, needs none.
            if let Some(connection) = self.connections.get_mut(place.key)
                && connection.waits_for(place.number)
            {
                connection.answer(answer, &mut self.tools);
                self.go_on(place.key);
            }
        }
    }

    fn stop(&mut self) {
        self.tools.is_stopping = true;
        let keys: Vec<usize> = self.connections.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.go_on(key);
        }
    }

    /// Goes on with a connection until it waits for something.
    fn go_on(&mut self, key: usize) {
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        match connection.go_on(&self.desk, self.next_number, &mut self.tools) {
            Next::Wait => {}
            Next::Keep(visit) => {
                let number = self.next_number;
                self.next_number += 1;
                self.waiting.push((Place { key, number }, visit));
            }
            Next::Leave => self.leave(key),
            Next::Close => drop(self.connections.remove(key)),
        }
    }

    /// Gives a connection to hyper.
    fn leave(&mut self, key: usize) {
        let mut connection = self.connections.remove(key);
        let peer = connection.peer;
        if let Err(error) = self.poll.registry().deregister(&mut connection.stream) {
            tracing::error!(%peer, %error, "an HTTP connection cannot be given on and is closed");
            return;
        }
        let stream = std::net::TcpStream::from(connection.stream);
        let (held, read) = (connection.held, connection.read.freeze());
        let around = self.around.clone();
        let routed = async move {
            let stream = tokio::net::TcpStream::from_std(stream);
            around.route(read, stream, peer, held).await;
        };
        self.around.tasks.spawn_on(routed, &self.runtime);
    }

    /// Sends what waits on its way, as groups; more than may be under way wait for those.
    fn form_groups(&mut self) {
        while self.groups.len() < GROUPS_AT_ONCE && !self.waiting.is_empty() {
            let length = self.waiting.len().min(GROUP_MAX_VISITS);
            let (places, visits) = self.waiting.drain(..length).unzip();
            let desk = self.desk.clone();
            let keeping = async move { desk.keep_group(visits).await };
            self.groups.push(kept(keeping, places).boxed());
        }
    }

    /// Goes on with the groups whose wait has ended, and answers those that are kept.
    fn go_on_with_groups(&mut self) {
        let waker = self.waker.clone();
        let mut context = Context::from_waker(&waker);
        while let Poll::Ready(Some((places, answers))) = self.groups.poll_next_unpin(&mut context) {
            self.answer(&places, answers);
        }
    }

    fn end_late(&mut self) {
        let now = self.tools.now;
        let late = |(key, connection): (usize, &Connection)| connection.is_late(now).then_some(key);
        let late: Vec<usize> = self.connections.iter().filter_map(late).collect();
        if late.is_empty() {
            return;
        }
        for key in late {
            match self.connections[key].time_out(&mut self.tools) {
                Next::Close => drop(self.connections.remove(key)),
                _ => self.go_on(key),
            }
        }
        forget_late(&mut self.waiting, &self.connections);
    }
}

/// Forgets visits that have come into no group and whose connections wait for them no more. They were answered 408, and
/// while the disk stands still each connection would leave another one every minute.
fn forget_late<T>(waiting: &mut Vec<(Place, T)>, connections: &Slab<Connection>) {
    waiting.retain(|(place, _)| {
        let connection = connections.get(place.key);
        connection.is_some_and(|connection| connection.waits_for(place.number))
    });
}

/// Waits for a group. A panic ends it and nothing else: those who wait are answered 503, as for every request that
/// panics.
async fn kept(
    keeping: impl Future<Output = Vec<Result<Answer, Failure>>>,
    places: Vec<Place>,
) -> (Vec<Place>, Vec<Result<Answer, Failure>>) {
    let kept = AssertUnwindSafe(keeping).catch_unwind().await;
    let answers = kept.unwrap_or_else(|_| places.iter().map(|_| Err(Failure::ended())).collect());
    (places, answers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
