//! Looks at the EVENTS streams again and again: how full they are, and whether anybody leads them.
//!
//! In a cluster a connection says little: a server that has lost the others takes connections and acknowledges
//! nothing. So the streams themselves are asked, and a server that cannot say anything of them for longer than an
//! election takes is left for another one.

use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::http::health::FillFacts;
use crate::log::LogError;
use crate::log::connect::is_connected;
use crate::log::streams::{self, Usage, WARN_AT};

/// How often the streams are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// How long the streams may be without an answer before that is said: an election takes 4 to 9 s.
const SILENT_FOR: Duration = Duration::from_secs(10);
/// How long one answer may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Connections made at most until another server is found.
const LEAVE_TRIES: usize = 4;
/// How often it is looked whether a connection is made.
const CONNECT_POLL: Duration = Duration::from_millis(20);
/// The longest pause before another server is tried; it doubles from [`SILENT_FOR`].
const LEAVE_EVERY_MAX: Duration = Duration::from_secs(120);

/// What was seen last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How full each stream was when it last answered.
    pub fills: Vec<FillFacts>,
    /// Why nothing is known of them, when that has been so for longer than an election.
    pub silent: Option<String>,
    /// Which of them is not there any more, and who makes it, after the same time.
    pub missing: Option<String>,
}

/// Looks until it is told to stop, and tells what it sees.
pub async fn watch(
    client: async_nats::Client,
    shards: u16,
    told: watch::Sender<Seen>,
    stop: CancellationToken,
) {
    let jetstream = jetstream::context::ContextBuilder::new()
        .timeout(ANSWER_WITHIN)
        .build(client.clone());
    let mut warned_full = false;
    let mut silence = Silence::new();
    loop {
        let answer = tokio::select! {
            answer = streams::usage(&jetstream, shards) => answer,
            () = stop.cancelled() => return,
        };
        match answer {
            Ok(usage) => {
                if silence.said {
                    tracing::info!("the streams answer again");
                }
                silence = Silence::new();
                warned_full = note(&usage, warned_full);
                told.send_replace(Seen {
                    fills: usage.into_iter().map(fill).collect(),
                    ..Seen::default()
                });
            }
            Err(error) => {
                tracing::debug!(%error, "how full the streams are is not known");
                // A lost connection is seen by everybody, and is not a matter of which server.
                if is_connected(&client) && silence.is_long() {
                    let why = error.to_string();
                    let is_missing = matches!(error, LogError::NoStream(_));
                    silence.say(&why, is_missing);
                    told.send_modify(|seen| {
                        let why = Some(why);
                        (seen.silent, seen.missing) = match is_missing {
                            true => (None, why),
                            false => (why, None),
                        };
                    });
                    if !is_missing {
                        silence.leave(&client).await;
                    }
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// The time since the last answer.
struct Silence {
    since: Instant,
    said: bool,
    leave_at: Instant,
    leave_every: Duration,
}

impl Silence {
    fn new() -> Self {
        let since = Instant::now();
        Self {
            since,
            said: false,
            leave_at: since + SILENT_FOR,
            leave_every: SILENT_FOR,
        }
    }

    fn is_long(&self) -> bool {
        self.since.elapsed() >= SILENT_FOR
    }

    fn say(&mut self, why: &str, is_missing: bool) {
        match (self.said, is_missing) {
            (true, _) => {}
            (false, true) => tracing::warn!(
                why,
                "a stream is gone: what is answered for it waits in the outbox"
            ),
            (false, false) => tracing::warn!(
                why,
                "the broker is connected, and its streams do not answer: a majority of its servers may be away. What is answered waits in the outbox"
            ),
        }
        self.said = true;
    }

    /// Goes to another server, where there is one: this one may be the only one that is cut off.
    async fn leave(&mut self, client: &async_nats::Client) {
        if Instant::now() < self.leave_at {
            return;
        }
        self.leave_every = (self.leave_every * 2).min(LEAVE_EVERY_MAX);
        self.leave_at = Instant::now() + self.leave_every;
        let servers = client.server_pool().await.map_or(0, |pool| pool.len());
        if servers < 2 {
            return;
        }
        let left = client.server_info();
        tracing::warn!(server = %left.server_name, "this server is left for another one");
        metrics::counter!("adtally_nats_servers_left_total").increment(1);
        // The next one is drawn at random, and may be the same.
        for _ in 0..LEAVE_TRIES {
            if !reconnect(client).await || client.server_info().server_id != left.server_id {
                return;
            }
        }
    }
}

/// Connects anew; whether that was done in time.
async fn reconnect(client: &async_nats::Client) -> bool {
    let connects = || client.statistics().connects.load(Ordering::Relaxed);
    let before = connects();
    if client.force_reconnect().await.is_err() {
        return false;
    }
    let connected = async {
        while connects() == before {
            tokio::time::sleep(CONNECT_POLL).await;
        }
    };
    tokio::time::timeout(SILENT_FOR, connected).await.is_ok()
}

/// Puts what is known into the metrics, and warns of a stream that fills up; whether one does.
fn note(usage: &[Usage], warned: bool) -> bool {
    let fullest = usage.iter().max_by(|a, b| a.share().total_cmp(&b.share()));
    let full = fullest.filter(|u| u.share() >= WARN_AT);
    if let Some(full) = full.filter(|_| !warned) {
        let (stream, percent) = (&full.stream, full.share() * 100.0);
        tracing::warn!(
            stream,
            percent,
            "a stream fills up: give it a larger max_bytes, or archive"
        );
    }
    for stream in usage {
        let labels = [("stream", stream.stream.clone())];
        metrics::gauge!("adtally_stream_bytes", &labels).set(stream.bytes as f64);
        metrics::gauge!("adtally_stream_max_bytes", &labels)
            .set(stream.max_bytes.unwrap_or(0) as f64);
    }
    full.is_some()
}

fn fill(usage: Usage) -> FillFacts {
    FillFacts {
        name: usage.stream,
        bytes: usage.bytes,
        max_bytes: usage.max_bytes.unwrap_or(0),
    }
}
