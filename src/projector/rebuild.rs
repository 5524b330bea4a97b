//! Folding a shard's stream anew into a generation that is empty or begins as a checkpoint: the projector's own fold
//! and reader, for as far as one is told.
//!
//! Invariant: it goes on at the message that comes next after where the generation ends, from the stream or from what
//! is read in the place of those that the stream has no longer, so that nothing is missing of what it comes to. It
//! neither shows nor counts anything: that is for whoever has the state in use.

use std::sync::Arc;
use std::time::Duration;

use adtally_projections::fold::{Content, Entry};
use adtally_streams::event::Kind;
use adtally_streams::names::events_stream;
use async_nats::Client;
use async_nats::jetstream;
use tokio_util::sync::CancellationToken;

use super::ProjectorError;
use super::folder::Folder;
use super::worker::{BatchLimits, Gathered, Until};
use crate::log::reader::ShardReader;
use crate::log::streams::info_of;
use crate::store::Shard;

/// How long a stream that says there is more may give nothing: longer than an election and a restart of the broker.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// What a rebuild reads before its stream: messages that the stream no longer has.
pub trait Earlier: Send {
    /// The next messages, in the order of their sequences; none after the last one. Blocks.
    ///
    /// # Errors
    /// Why there are no more, in words for an operator.
    fn next(&mut self) -> Result<Option<Vec<Entry>>, String>;

    /// The last sequence that it answers for, whether a message was ever there or not.
    fn through(&self) -> u64;
}

/// Why a fold came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The sequence that was asked for is folded.
    There,
    /// The next message is past where it is to end.
    Until,
    /// What comes next was purged: the stream begins at that sequence now.
    Purged(u64),
    /// It was told to stop.
    Stopped,
}

/// Stretches of missing sequences that are named; more are counted only.
pub const MAX_MISSING_NAMED: usize = 1_000;

/// What was read of a stream: of the messages after the one and up to the other end of a rebuild.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many messages there were.
    pub messages: u64,
    /// By [`Kind`]: how many events in frames that could be read, those that come again included.
    pub events: [u64; Kind::ALL.len()],
    /// Sequences that the stream does not hold, from and to both included, at most [`MAX_MISSING_NAMED`] stretches.
    pub missing: Vec<(u64, u64)>,
    /// How many sequences it does not hold.
    pub missing_messages: u64,
}

impl Seen {
    fn take(&mut self, after: u64, entries: &[Entry]) {
        let mut before = after;
        for entry in entries {
            self.lacks(before + 1, entry.sequence - 1);
            before = entry.sequence;
            self.messages += 1;
            if let Content::Frame(frame) = &entry.content {
                let header = &frame.header;
                self.events[header.kind as usize] += u64::from(header.count);
            }
        }
    }

    /// Notes that `first` to `last` are not there; nothing where that is none.
    pub fn lacks(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        self.missing_messages += last - first + 1;
        if self.missing.len() < MAX_MISSING_NAMED {
            self.missing.push((first, last));
        }
    }
}

/// A generation that is being folded.
pub struct Rebuild<'c> {
    number: u16,
    folder: Folder<'c>,
    client: Client,
    /// Read to its end before the stream is.
    earlier: Option<Box<dyn Earlier>>,
    /// The last sequence that what was read before the stream has answered for.
    answered: u64,
    reader: Option<ShardReader>,
    gathered: Gathered,
    seen: Seen,
    until: Until,
    stop: CancellationToken,
    runtime: tokio::runtime::Handle,
}

impl<'c> Rebuild<'c> {
    /// Begins with the generation `shard` at the next message of its stream, which was created at
    /// `stream_created_ns`. Must be called within a Tokio runtime; it then belongs to a thread of its own.
    ///
    /// # Errors
    /// [`ProjectorError`] when the generation cannot be read.
    pub fn begin(
        shard: &Arc<Shard>,
        client: &Client,
        stream_created_ns: i64,
        until: Until,
        stop: CancellationToken,
    ) -> Result<Self, ProjectorError> {
        let folder = Folder::open(Arc::clone(shard), stream_created_ns)?;
        Ok(Self::of(shard.number(), folder, client, until, stop))
    }

    /// Goes on with a fold, under the same conditions.
    pub fn of(
        number: u16,
        folder: Folder<'c>,
        client: &Client,
        until: Until,
        stop: CancellationToken,
    ) -> Self {
        Self {
            number,
            folder,
            client: client.clone(),
            earlier: None,
            answered: 0,
            reader: None,
            gathered: Gathered::default(),
            seen: Seen::default(),
            until,
            stop,
            runtime: tokio::runtime::Handle::current(),
        }
    }

    /// The same, with batches within other limits than the live fold's: the larger one is, the fewer of its rows are
    /// written again with the next one, and the more memory it takes.
    pub fn in_batches_of(self, limits: BatchLimits) -> Self {
        Self {
            gathered: Gathered::within(limits),
            ..self
        }
    }

    /// Reads that first, and then the stream from after the last of its messages.
    pub fn after(&mut self, earlier: impl Earlier + 'static) {
        self.earlier = Some(Box::new(earlier));
    }

    /// How far it is: everything up to there is folded, or was never there.
    pub fn sequence(&self) -> u64 {
        self.folder.sequence().max(self.answered)
    }

    /// What it has read.
    pub fn into_seen(self) -> Seen {
        self.seen
    }

    /// Folds until `last`, a sequence that the stream holds, is folded. After each batch `told` hears how far it
    /// is. Blocks.
    ///
    /// # Errors
    /// [`ProjectorError`] when the stream falls silent or changes, or the state cannot be written. The generation
    /// is then one of an earlier position, and of no use.
    pub fn fold_to(
        &mut self,
        last: u64,
        told: &mut dyn FnMut(u64),
    ) -> Result<Ended, ProjectorError> {
        if let Some(ended) = self.fold_earlier(told)? {
            return Ok(ended);
        }
        let mut reader = match self.reader.take() {
            Some(reader) => reader,
            None => {
                let from = self.sequence() + 1;
                if let Some(first) = self.purged(from)? {
                    return Ok(Ended::Purged(first));
                }
                let (client, stream) = (self.client.clone(), events_stream(self.number));
                let opening = async { ShardReader::open(client, &stream, from, None) };
                self.runtime.block_on(opening)
            }
        };
        let ended = self.fold_stream(&mut reader, last, told)?;
        if !matches!(ended, Ended::Purged(_)) {
            self.reader = Some(reader);
        }
        Ok(ended)
    }

    /// Where the stream begins, when that is past `sequence`: then what was there is gone from it.
    fn purged(&self, sequence: u64) -> Result<Option<u64>, ProjectorError> {
        let jetstream = jetstream::new(self.client.clone());
        let stream = events_stream(self.number);
        let info = self.runtime.block_on(info_of(&jetstream, &stream));
        let info = info.map_err(|source| ProjectorError::Log {
            shard: self.number,
            source,
        })?;
        let first = info.state.first_sequence;
        Ok((first > sequence).then_some(first))
    }

    /// Folds what comes before the stream; answers why the whole fold ends there, none when it goes on.
    fn fold_earlier(&mut self, told: &mut dyn FnMut(u64)) -> Result<Option<Ended>, ProjectorError> {
        let Some(mut earlier) = self.earlier.take() else {
            return Ok(None);
        };
        let shard = self.number;
        while let Some(entries) = earlier
            .next()
            .map_err(|why| ProjectorError::Earlier { shard, why })?
        {
            let until = &self.until;
            let end = entries
                .iter()
                .position(|e| until.is_before(e.sequence, e.broker_ms));
            let mut rest = &entries[..end.unwrap_or(entries.len())];
            while !rest.is_empty() {
                if self.stop.is_cancelled() {
                    return Ok(Some(Ended::Stopped));
                }
                let (batch, later) = rest.split_at(self.gathered.limits().batch_of(rest));
                self.apply(batch, told)?;
                rest = later;
            }
            if end.is_some() {
                return Ok(Some(Ended::Until));
            }
        }
        self.answered = self.answered.max(earlier.through());
        Ok(None)
    }

    fn fold_stream(
        &mut self,
        reader: &mut ShardReader,
        last: u64,
        told: &mut dyn FnMut(u64),
    ) -> Result<Ended, ProjectorError> {
        while self.sequence() < last {
            if self
                .until
                .sequence
                .is_some_and(|end| self.sequence() >= end)
            {
                return Ok(Ended::Until);
            }
            let runtime = self.runtime.clone();
            let next = runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = self.stop.cancelled() => None,
                    next = tokio::time::timeout(QUIET_MAX, reader.next()) => Some(next),
                }
            });
            let first = match next {
                None => return Ok(Ended::Stopped),
                Some(Ok(Some(first))) => first,
                Some(Ok(None)) => return Err(self.changed(reader)),
                Some(Err(_)) => match self.purged(self.sequence() + 1)? {
                    Some(first) => return Ok(Ended::Purged(first)),
                    None => return Err(self.silent(last)),
                },
            };
            // What is certain to come is waited for: a full batch writes each row once where small ones write it
            // again and again.
            let ends = self
                .gathered
                .gather_with(first, &self.until, |sequence, left| {
                    reader.try_next().or_else(|| {
                        let next = async { tokio::time::timeout(left, reader.next()).await };
                        (sequence < last).then(|| runtime.block_on(next))?.ok()?
                    })
                });
            if let Some(skipped) = self.gathered.skipped(self.sequence())
                && let Some(first) = self.purged(skipped)?
            {
                self.gathered.clear();
                return Ok(Ended::Purged(first));
            }
            if !self.gathered.entries.is_empty() {
                let mut gathered = std::mem::take(&mut self.gathered);
                self.apply(&gathered.entries, told)?;
                gathered.clear();
                self.gathered = gathered;
            }
            if ends {
                return Ok(Ended::Until);
            }
        }
        Ok(Ended::There)
    }

    /// Folds a batch, wherever it was read, and seals what it closes, as the live fold would have: what is switched to
    /// is sealed, and its rows do not pile up meanwhile.
    fn apply(&mut self, batch: &[Entry], told: &mut dyn FnMut(u64)) -> Result<(), ProjectorError> {
        self.seen.take(self.folder.sequence(), batch);
        self.folder.apply(batch)?;
        while self.folder.is_sealing_due() && !self.stop.is_cancelled() {
            self.folder.seal()?;
        }
        told(self.sequence());
        Ok(())
    }

    fn changed(&self, reader: &ShardReader) -> ProjectorError {
        ProjectorError::Changed {
            shard: self.number,
            why: reader.changed().unwrap_or("it has ended").to_owned(),
        }
    }

    fn silent(&self, last: u64) -> ProjectorError {
        ProjectorError::Silent {
            stream: events_stream(self.number),
            last,
            position: self.sequence(),
            quiet: QUIET_MAX,
        }
    }
}
