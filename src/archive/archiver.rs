//! One pass over a shard's stream: what is closed becomes segments, what is not stays in the stream.
//!
//! A segment holds messages of one hour of log time, up to the limits of a file. It may be closed at any message, since
//! the manifest speaks in sequences; it is closed when its hour is over, or when so much waits that a file is full.

use std::time::{Duration, Instant};

use adtally_archive::chain::Chain;
use adtally_archive::manifest::{ENTRY_VERSION, FileRef, Hour, SegmentEntry, segment_path};
use adtally_archive::segment::{FILE_MAX_BYTES, Message, SegmentWriter};
use adtally_streams::names::events_stream;
use adtally_streams::time::to_rfc3339;
use async_nats::Client;
use async_nats::jetstream::{self, stream::Info};
use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::store::sha256;
use super::{ArchiveError, Manifest, Store};
use crate::fail_points::{Point, pass};
use crate::log::reader::{LogMessage, ShardReader, message_at};
use crate::log::streams::info_of;

/// How long a stream that says there is more may give nothing.
const QUIET_MAX: Duration = Duration::from_secs(60);
/// An hour is over so long after its end by this machine's clock, when no message of a later one has come.
const GRACE_MS: i64 = 60_000;
/// So many bytes that wait are read before their hour is over: a frame shrinks to about three quarters in a file.
const WAITING_MAX_BYTES: u64 = 2 * FILE_MAX_BYTES as u64;

/// What is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// Hours that are over.
    Over,
    /// The current hour too.
    Everything,
}

/// What a pass has archived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Passed {
    /// Segments.
    pub segments: u64,
    /// Messages in them.
    pub messages: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their files.
    pub bytes: u64,
}

/// Archives one shard.
pub struct Archiver {
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) shard: u16,
    pub(super) manifest: Manifest,
    /// The stream has nothing up to here any more, as far as is known.
    pub(super) purged: u64,
    /// When projectors were last found to be behind what may leave the stream; none while they are not.
    pub(super) held: Option<Instant>,
    who: String,
    stop: CancellationToken,
}

/// A segment that is being filled.
struct Open {
    writer: SegmentWriter,
    hour: Hour,
    first: u64,
    last: u64,
    from_ms: i64,
    to_ms: i64,
}

impl Archiver {
    /// Of that shard, until `stop`.
    pub fn new(store: Store, client: Client, shard: u16, stop: CancellationToken) -> Self {
        Self {
            manifest: Manifest::new(store.clone(), shard),
            purged: 0,
            held: None,
            store,
            client,
            shard,
            who: format!("{}-{:08x}", std::process::id(), rand::random::<u32>()),
            stop,
        }
    }

    /// Archives what is closed. Blocks; must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`ArchiveError`]; what was archived before it stays.
    pub fn pass(&mut self, close: Close) -> Result<Passed, ArchiveError> {
        let runtime = tokio::runtime::Handle::current();
        let stream = events_stream(self.shard);
        let jetstream = jetstream::new(self.client.clone());
        let info = runtime.block_on(info_of(&jetstream, &stream))?;
        let mut passed = Passed::default();
        let chain = runtime.block_on(self.manifest.read_on())?;
        if !self.is_due(close, &chain, &jetstream, &info)? {
            return Ok(passed);
        }
        let next = self.next(&chain, &info)?;
        let mut running_ms = chain.log_time_ms().unwrap_or(i64::MIN);
        let last = info.state.last_sequence;
        let mut reader =
            runtime.block_on(async { ShardReader::open(self.client.clone(), &stream, next, None) });
        let mut open: Option<Open> = None;
        let (mut first, mut position) = (next, next - 1);
        while position < last {
            let message = self.next_message(&mut reader, last, position)?;
            if message.sequence > position + 1 {
                self.not_purged(&jetstream, position)?;
            }
            position = message.sequence;
            running_ms = running_ms.max(message.broker_ms);
            let hour = Hour::of(running_ms);
            if let Some(done) = open.take_if(|open| open.hour != hour) {
                first = done.last + 1;
                if !self.commit(done, &info, &mut passed)? {
                    return Ok(passed);
                }
            }
            let segment = match &mut open {
                Some(segment) => segment,
                None => open.insert(Open::begin(hour, first, running_ms)?),
            };
            segment.push(&message, running_ms)?;
            if let Some(done) = open.take_if(|open| open.writer.is_full()) {
                first = done.last + 1;
                if !self.commit(done, &info, &mut passed)? {
                    return Ok(passed);
                }
            }
        }
        if let Some(rest) = open
            && (close == Close::Everything || is_over(rest.hour))
        {
            self.commit(rest, &info, &mut passed)?;
        }
        Ok(passed)
    }

    /// Whether there is anything that is closed.
    fn is_due(
        &self,
        close: Close,
        chain: &Chain,
        jetstream: &jetstream::Context,
        info: &Info,
    ) -> Result<bool, ArchiveError> {
        let next = self.next(chain, info)?;
        if next > info.state.last_sequence {
            return Ok(false);
        }
        if close == Close::Everything {
            return Ok(true);
        }
        let runtime = tokio::runtime::Handle::current();
        let stream = events_stream(self.shard);
        let first = runtime.block_on(message_at(jetstream, &stream, next))?;
        // A sequence that the stream has skipped says nothing.
        Ok(first.is_none_or(|first| {
            let before = chain.log_time_ms().unwrap_or(i64::MIN);
            is_due(Hour::of(before.max(first.broker_ms)), next, info)
        }))
    }

    /// The first sequence that is not archived.
    fn next(&self, chain: &Chain, info: &Info) -> Result<u64, ArchiveError> {
        let (place, stream) = (|| self.store.place().to_owned(), events_stream(self.shard));
        let Some(archived) = chain.last() else {
            return Ok(info.state.first_sequence.max(1));
        };
        let (found, of) = (created_ns(info), chain.stream_created_ns());
        if of != Some(found) {
            return Err(ArchiveError::OtherStream {
                place: place(),
                stream,
                archived: of.unwrap_or_default(),
                found,
            });
        }
        let (first, last) = (info.state.first_sequence, info.state.last_sequence);
        if first > archived + 1 {
            return Err(ArchiveError::Gap {
                place: place(),
                stream,
                first,
                last: archived,
            });
        }
        if last < archived {
            return Err(ArchiveError::Shorter {
                place: place(),
                stream,
                last,
                archived,
            });
        }
        Ok(archived + 1)
    }

    /// Refuses to go on where what follows `position` was purged under the reader, by hand say. A stream may skip
    /// sequences by itself.
    fn not_purged(
        &self,
        jetstream: &jetstream::Context,
        position: u64,
    ) -> Result<(), ArchiveError> {
        let stream = events_stream(self.shard);
        let runtime = tokio::runtime::Handle::current();
        let first = runtime
            .block_on(info_of(jetstream, &stream))?
            .state
            .first_sequence;
        match first > position + 1 {
            true => Err(ArchiveError::Gap {
                place: self.store.place().to_owned(),
                stream,
                first,
                last: position,
            }),
            false => Ok(()),
        }
    }

    fn next_message(
        &self,
        reader: &mut ShardReader,
        last: u64,
        position: u64,
    ) -> Result<LogMessage, ArchiveError> {
        let runtime = tokio::runtime::Handle::current();
        let next = runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(ArchiveError::Interrupted),
                next = tokio::time::timeout(QUIET_MAX, reader.next()) => Ok(next.ok().flatten()),
            }
        })?;
        next.ok_or_else(|| ArchiveError::Silent {
            stream: events_stream(self.shard),
            last,
            position,
        })
    }

    /// Writes a segment's file, reads it back, and puts its entry. False when another archiver was first.
    fn commit(
        &mut self,
        open: Open,
        info: &Info,
        passed: &mut Passed,
    ) -> Result<bool, ArchiveError> {
        let segment = open.writer.finish()?;
        let bytes = Bytes::from(segment.bytes);
        let unique = format!("{:016x}", rand::random::<u64>());
        let file = FileRef {
            path: segment_path(self.shard, open.hour, open.first, 0, &unique),
            bytes: bytes.len() as u64,
            sha256: sha256(&bytes),
        };
        let entry = SegmentEntry {
            version: ENTRY_VERSION,
            shard: self.shard,
            stream_created_ns: created_ns(info),
            first: open.first,
            last: open.last,
            revision: 0,
            messages: segment.messages,
            rows: segment.rows,
            log_time_from_ms: open.from_ms,
            log_time_to_ms: open.to_ms,
            file,
            written_at: to_rfc3339(now_ms()),
            archiver: self.who.clone(),
            erasures: Vec::new(),
        };
        let runtime = tokio::runtime::Handle::current();
        let committed = runtime.block_on(put_segment(
            &self.store,
            &mut self.manifest,
            entry.clone(),
            bytes,
        ))?;
        if committed {
            passed.segments += 1;
            passed.messages += entry.messages;
            passed.events += entry.rows.events();
            passed.bytes += entry.file.bytes;
        } else {
            tracing::info!(
                shard = self.shard,
                first = entry.first,
                "another archiver was first; going on behind it"
            );
        }
        Ok(committed)
    }
}

/// Puts a file where none is, reads it back, and then its entry. False, and nothing is left of it, where the entry of
/// that sequence and revision is another one.
pub(super) async fn put_segment(
    store: &Store,
    manifest: &mut Manifest,
    entry: SegmentEntry,
    bytes: Bytes,
) -> Result<bool, ArchiveError> {
    let file = entry.file.clone();
    pass(Point::ArchiveBuilt);
    store.put_new(&file.path, bytes.clone()).await?;
    pass(Point::ArchivePut);
    store.get_verified(&file).await?;
    pass(Point::ArchiveVerified);
    if !manifest.put(entry).await? {
        store.remove(&file.path).await?;
        return Ok(false);
    }
    pass(Point::ArchiveCommitted);
    // One that took very long for this may have been taken for left over.
    if store.get(&file.path).await?.is_none() {
        store.put_new(&file.path, bytes).await?;
    }
    Ok(true)
}

impl Open {
    fn begin(hour: Hour, first: u64, from_ms: i64) -> Result<Self, ArchiveError> {
        Ok(Self {
            writer: SegmentWriter::new()?,
            hour,
            first,
            last: first,
            from_ms,
            to_ms: from_ms,
        })
    }

    fn push(&mut self, message: &LogMessage, log_time_ms: i64) -> Result<(), ArchiveError> {
        self.last = message.sequence;
        self.to_ms = log_time_ms;
        self.writer.push(Message {
            sequence: message.sequence,
            broker_ms: message.broker_ms,
            subject: &message.subject,
            payload: &message.payload,
        })?;
        Ok(())
    }
}

/// Whether it is worth reading on from `next`, whose hour is known.
fn is_due(hour: Hour, next: u64, info: &Info) -> bool {
    let state = &info.state;
    let newest_ms = (state.last_timestamp.unix_timestamp_nanos() / 1_000_000) as i64;
    let waiting = state.last_sequence - next + 1;
    let bytes = state.bytes / state.messages.max(1) * waiting;
    Hour::of(newest_ms) > hour || is_over(hour) || bytes >= WAITING_MAX_BYTES
}

fn is_over(hour: Hour) -> bool {
    now_ms() >= hour.end_ms().saturating_add(GRACE_MS)
}

pub(super) fn created_ns(info: &Info) -> i64 {
    info.created.unix_timestamp_nanos() as i64
}

pub(super) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
