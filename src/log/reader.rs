//! Reading a stream in order, from a sequence on, through whatever happens to the broker.
//!
//! The reader keeps the one thing that matters, the last sequence that it handed on, and builds a new consumer from
//! there on any doubt: an error, a missing heartbeat, a reconnect, a gap in the consumer's own numbers. Stream
//! sequences may skip, but never fall: a broker that comes back with less than was read, as nats-server does when it
//! drops a damaged block, is not read any further, since it gives the sequences that it has lost to other messages.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use adtally_streams::frame::frame_crc;
use async_nats::Client;
use async_nats::connection::State;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, ReplayPolicy, pull};
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::{LastRawMessageError, LastRawMessageErrorKind};
use async_nats::jetstream::{self, Context};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::LogError;
use super::streams::{get_stream, info_of};

/// Messages that wait for whoever reads; more wait at the broker.
pub const QUEUE_MAX_MESSAGES: usize = 256;
/// Bytes of them.
pub const QUEUE_MAX_BYTES: usize = 8 << 20;
/// Messages that are asked for at once.
const BATCH: usize = 128;
/// How long a request for messages stands before it is made again.
const EXPIRES: Duration = Duration::from_secs(20);
/// The broker says at least this often that it is there.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How often a reader that receives nothing looks whether its connection is still the one that it began with.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The broker forgets a consumer that nobody has asked for this long.
const INACTIVE_AFTER: Duration = Duration::from_secs(60);
/// The first pause before a consumer is built again; it doubles.
const REBUILD_MIN: Duration = Duration::from_millis(50);
/// The longest pause.
const REBUILD_MAX: Duration = Duration::from_secs(2);

/// A stream must have changed for this long before it is believed: a leader that has just been deposed may say less
/// than was read, and never for long.
const CHANGED_FOR: Duration = Duration::from_secs(15);

/// A message of a stream.
#[derive(Debug)]
pub struct LogMessage {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// The broker's timestamp, in milliseconds of the Unix epoch. It can step back at a failover.
    pub broker_ms: i64,
    /// Its subject.
    pub subject: String,
    /// Its payload.
    pub payload: Bytes,
    /// Room in the queue, given back when the message is dropped.
    _room: Option<OwnedSemaphorePermit>,
}

#[cfg(test)]
impl LogMessage {
    /// One that no reader has read.
    pub fn made(sequence: u64, subject: &str, payload: Bytes) -> Self {
        Self {
            sequence,
            broker_ms: sequence as i64,
            subject: subject.to_owned(),
            payload,
            _room: None,
        }
    }
}

/// Reads one stream in order. Dropped, it stops.
#[derive(Debug)]
pub struct ShardReader {
    messages: mpsc::Receiver<LogMessage>,
    progress: ReaderProgress,
    changed: Arc<OnceLock<String>>,
    task: JoinHandle<()>,
}

/// How far a reader could read; clones look at the same reader.
#[derive(Clone, Debug, Default)]
pub struct ReaderProgress {
    last: Arc<AtomicU64>,
}

impl ReaderProgress {
    /// The broker's last sequence as far as the reader has heard; 0 before it has heard anything.
    pub fn last_sequence(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }
}

impl ShardReader {
    /// Reads `stream` from sequence `from` on (0 and 1 are its beginning), only what matches `filter` where one is
    /// given. Must be called within a Tokio runtime. A stream that does not exist yet is waited for.
    pub fn open(client: Client, stream: &str, from: u64, filter: Option<&str>) -> Self {
        let (sender, messages) = mpsc::channel(QUEUE_MAX_MESSAGES);
        let progress = ReaderProgress::default();
        let reading = Reading {
            jetstream: jetstream::new(client.clone()),
            client,
            stream: stream.to_owned(),
            filter: filter.unwrap_or_default().to_owned(),
            next: from.max(1),
            sender,
            room: Arc::new(Semaphore::new(QUEUE_MAX_BYTES)),
            progress: progress.clone(),
            last: None,
            suspected: None,
            changed: Arc::default(),
        };
        let changed = Arc::clone(&reading.changed);
        let task = tokio::spawn(reading.run());
        Self {
            messages,
            progress,
            changed,
            task,
        }
    }

    /// The next message. None when the reader has been stopped, or has stopped because of [`ShardReader::changed`].
    pub async fn next(&mut self) -> Option<LogMessage> {
        self.messages.recv().await
    }

    /// The next message if one is there already.
    pub fn try_next(&mut self) -> Option<LogMessage> {
        self.messages.try_recv().ok()
    }

    /// In what way the stream is not the one any more that was read; such a stream is not read any further.
    pub fn changed(&self) -> Option<&str> {
        self.changed.get().map(String::as_str)
    }

    /// How far it could read, for others to look at.
    pub fn progress(&self) -> ReaderProgress {
        self.progress.clone()
    }
}

impl Drop for ShardReader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Reading {
    client: Client,
    jetstream: Context,
    stream: String,
    filter: String,
    next: u64,
    sender: mpsc::Sender<LogMessage>,
    room: Arc<Semaphore>,
    progress: ReaderProgress,
    /// Sequence and checksum of the message that was handed on last.
    last: Option<(u64, u32)>,
    /// Since when the stream has been another one.
    suspected: Option<Instant>,
    /// Told once that is certain.
    changed: Arc<OnceLock<String>>,
}

/// Why a consumer is given up.
enum Ended {
    /// Nobody reads any more.
    Stopped,
    /// Another one is needed.
    Again(String),
}

impl Reading {
    async fn run(mut self) {
        let mut pause = REBUILD_MIN;
        loop {
            let before = self.next;
            match self.read().await {
                Ended::Stopped => return,
                Ended::Again(why) => {
                    tracing::debug!(stream = %self.stream, next = self.next, %why, "reading begins again");
                }
            }
            pause = if self.next > before {
                REBUILD_MIN
            } else {
                (pause * 2).min(REBUILD_MAX)
            };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.sender.closed() => return,
            }
        }
    }

    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Reads with one consumer for as long as nothing is wrong with it.
    async fn read(&mut self) -> Ended {
        if self.client.connection_state() != State::Connected {
            return Ended::Again("not connected".to_owned());
        }
        let connects = self.connects();
        match self.difference().await {
            Err(why) => return Ended::Again(why),
            Ok(None) => self.suspected = None,
            Ok(Some(why)) => {
                let since = *self.suspected.get_or_insert_with(Instant::now);
                if since.elapsed() < CHANGED_FOR {
                    return Ended::Again(why);
                }
                // The first word stays, and this is it.
                let _ = self.changed.set(why);
                return Ended::Stopped;
            }
        }
        let mut messages = match self.consume().await {
            Ok(messages) => messages,
            Err(why) => return Ended::Again(why),
        };
        metrics::counter!("adtally_reader_rebuilds_total", "stream" => self.stream.clone())
            .increment(1);
        let mut consumed = 0;
        loop {
            let message = tokio::select! {
                () = self.sender.closed() => return Ended::Stopped,
                message = tokio::time::timeout(LOOK_EVERY, messages.next()) => message,
            };
            let message = match message {
                Err(_) if self.connects() == connects => continue,
                Err(_) => return Ended::Again("reconnected".to_owned()),
                Ok(None) => return Ended::Again("the broker ended the consumer".to_owned()),
                Ok(Some(Err(error))) => return Ended::Again(error.to_string()),
                Ok(Some(Ok(message))) => message,
            };
            let (sequence, broker_ms) = match message.info() {
                Ok(info) => {
                    consumed += 1;
                    if info.consumer_sequence != consumed {
                        return Ended::Again(format!(
                            "message {} of the consumer came after {}",
                            info.consumer_sequence,
                            consumed - 1
                        ));
                    }
                    self.progress
                        .last
                        .fetch_max(info.stream_sequence + info.pending, Ordering::Relaxed);
                    (
                        info.stream_sequence,
                        (info.published.unix_timestamp_nanos() / 1_000_000) as i64,
                    )
                }
                Err(error) => return Ended::Again(error.to_string()),
            };
            if sequence < self.next {
                return Ended::Again(format!("sequence {sequence} came again"));
            }
            let crc = frame_crc(&message.payload);
            if !self.hand_on(sequence, broker_ms, message.message).await {
                return Ended::Stopped;
            }
            self.next = sequence + 1;
            self.last = Some((sequence, crc));
        }
    }

    /// How the stream differs from what has been read of it; none when it does not, or nothing has been read.
    async fn difference(&self) -> Result<Option<String>, String> {
        let Some((sequence, crc)) = self.last else {
            return Ok(None);
        };
        let info = info_of(&self.jetstream, &self.stream)
            .await
            .map_err(|e| e.to_string())?;
        let end = info.state.last_sequence;
        if end < sequence {
            return Ok(Some(format!(
                "{} ends at sequence {end}, and was read up to {sequence}",
                self.stream
            )));
        }
        let there = message_at(&self.jetstream, &self.stream, sequence)
            .await
            .map_err(|e| e.to_string())?;
        let same = there.is_none_or(|message| frame_crc(&message.payload) == crc);
        Ok((!same).then(|| {
            format!(
                "message {sequence} of {} is another one than was read",
                self.stream
            )
        }))
    }

    async fn consume(&self) -> Result<pull::Stream, String> {
        let stream = get_stream(&self.jetstream, &self.stream)
            .await
            .map_err(|e| e.to_string())?;
        let info = info_of(&self.jetstream, &self.stream)
            .await
            .map_err(|e| e.to_string())?;
        self.progress
            .last
            .fetch_max(info.state.last_sequence, Ordering::Relaxed);
        let config = pull::Config {
            deliver_policy: DeliverPolicy::ByStartSequence {
                start_sequence: self.next,
            },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            filter_subject: self.filter.clone(),
            replay_policy: ReplayPolicy::Instant,
            inactive_threshold: INACTIVE_AFTER,
            num_replicas: 1,
            memory_storage: true,
            ..pull::Config::default()
        };
        let consumer = stream
            .create_consumer(config)
            .await
            .map_err(|e| e.to_string())?;
        let messages = consumer
            .stream()
            .max_messages_per_batch(BATCH)
            .expires(EXPIRES)
            .heartbeat(HEARTBEAT);
        messages.messages().await.map_err(|e| e.to_string())
    }

    /// Waits for room and hands the message on; false when nobody reads any more.
    async fn hand_on(&self, sequence: u64, broker_ms: i64, message: async_nats::Message) -> bool {
        let bytes = message.payload.len().clamp(1, QUEUE_MAX_BYTES);
        let Ok(room) = Arc::clone(&self.room)
            .acquire_many_owned(bytes as u32)
            .await
        else {
            return false;
        };
        let subject = message.subject.to_string();
        let message = LogMessage {
            sequence,
            broker_ms,
            subject,
            payload: message.payload,
            _room: Some(room),
        };
        self.sender.send(message).await.is_ok()
    }
}

/// The first message from `sequence` on whose subject matches; none when the stream has none.
///
/// # Errors
/// [`LogError`] when the broker does not answer, or refuses.
pub async fn next_of_subject(
    jetstream: &Context,
    stream: &str,
    subject: &str,
    sequence: u64,
) -> Result<Option<LogMessage>, LogError> {
    let asked = || format!("what {stream} has of {subject} from {sequence} on");
    let found = get_stream(jetstream, stream)
        .await?
        .get_first_raw_message_by_subject(subject, sequence)
        .await;
    found_or_none(found, stream, asked)
}

/// The message that a stream holds at a sequence; none when it holds none there. Asks the stream's leader.
pub async fn message_at(
    jetstream: &Context,
    stream: &str,
    sequence: u64,
) -> Result<Option<LogMessage>, LogError> {
    let asked = || format!("message {sequence} of {stream}");
    let found = get_stream(jetstream, stream)
        .await?
        .get_raw_message(sequence)
        .await;
    found_or_none(found, stream, asked)
}

/// The last message whose subject matches; none when the stream has none.
///
/// # Errors
/// [`LogError`] when the broker does not answer, or refuses.
pub async fn last_of_subject(
    jetstream: &Context,
    stream: &str,
    subject: &str,
) -> Result<Option<LogMessage>, LogError> {
    let asked = || format!("the last message of {stream} on {subject}");
    let found = get_stream(jetstream, stream)
        .await?
        .get_last_raw_message_by_subject(subject)
        .await;
    found_or_none(found, stream, asked)
}

fn found_or_none(
    found: Result<StreamMessage, LastRawMessageError>,
    stream: &str,
    asked: impl Fn() -> String,
) -> Result<Option<LogMessage>, LogError> {
    match found {
        Ok(message) => Ok(Some(LogMessage {
            sequence: message.sequence,
            broker_ms: (message.time.unix_timestamp_nanos() / 1_000_000) as i64,
            subject: message.subject.to_string(),
            payload: message.payload,
            _room: None,
        })),
        Err(error) => match error.kind() {
            LastRawMessageErrorKind::NoMessageFound => Ok(None),
            LastRawMessageErrorKind::JetStream(e)
                if e.error_code() == jetstream::ErrorCode::NO_MESSAGE_FOUND =>
            {
                Ok(None)
            }
            LastRawMessageErrorKind::JetStream(e)
                if e.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND =>
            {
                Err(LogError::NoStream(stream.to_owned()))
            }
            LastRawMessageErrorKind::JetStream(e) => Err(LogError::refused(asked(), e)),
            _ => Err(LogError::unreachable(asked(), error)),
        },
    }
}
