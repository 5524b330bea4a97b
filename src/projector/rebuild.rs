//! Folding a shard's stream anew into a generation that is empty or begins as a checkpoint: the projector's own fold
//! and reader, for as far as one is told.
//!
//! Invariant: it begins at a message that the stream still has next after where the generation ends, so that nothing
//! is missing of what it comes to. It neither shows nor counts anything: that is for whoever has the state in use.

use std::sync::Arc;
use std::time::Duration;

use adtally_projections::fold::{Content, Entry};
use adtally_streams::event::Kind;
use adtally_streams::names::events_stream;
use async_nats::Client;
use tokio_util::sync::CancellationToken;

use super::ProjectorError;
use super::worker::{Folder, Gathered, Until};
use crate::log::reader::ShardReader;
use crate::store::Shard;

/// How long a stream that says there is more may give nothing: longer than an election and a restart of the broker.
const QUIET_MAX: Duration = Duration::from_secs(60);

/// Why a fold came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The sequence that was asked for is folded.
    There,
    /// The next message is past where it is to end.
    Until,
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
pub struct Rebuild {
    number: u16,
    folder: Folder,
    reader: ShardReader,
    gathered: Gathered,
    seen: Seen,
    until: Until,
    stop: CancellationToken,
    runtime: tokio::runtime::Handle,
}

impl Rebuild {
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
        let number = shard.number();
        let folder = Folder::open(Arc::clone(shard), stream_created_ns)?;
        let from = folder.sequence() + 1;
        let runtime = tokio::runtime::Handle::current();
        let reader = ShardReader::open(client.clone(), &events_stream(number), from, None);
        Ok(Self {
            number,
            folder,
            reader,
            gathered: Gathered::default(),
            seen: Seen::default(),
            until,
            stop,
            runtime,
        })
    }

    /// How far it is.
    pub fn sequence(&self) -> u64 {
        self.folder.sequence()
    }

    /// What it has read.
    pub fn seen(&self) -> &Seen {
        &self.seen
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
                    next = tokio::time::timeout(QUIET_MAX, self.reader.next()) => Some(next),
                }
            });
            let first = match next {
                None => return Ok(Ended::Stopped),
                Some(Ok(Some(first))) => first,
                Some(Ok(None)) => return Err(self.changed()),
                Some(Err(_)) => return Err(self.silent(last)),
            };
            let ends = self.gathered.gather(first, &mut self.reader, &self.until);
            if !self.gathered.entries.is_empty() {
                self.seen.take(self.sequence(), &self.gathered.entries);
                self.folder.apply(&self.gathered.entries)?;
                self.gathered.clear();
                // As the live fold would have: what is switched to is sealed, and its rows do not pile up meanwhile.
                while self.folder.is_sealing_due() && !self.stop.is_cancelled() {
                    self.folder.seal()?;
                }
                told(self.sequence());
            }
            if ends {
                return Ok(Ended::Until);
            }
        }
        Ok(Ended::There)
    }

    fn changed(&self) -> ProjectorError {
        ProjectorError::Changed {
            shard: self.number,
            why: self.reader.changed().unwrap_or("it has ended").to_owned(),
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
