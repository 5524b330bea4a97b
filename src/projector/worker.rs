//! The thread of one shard: takes what waits, folds it, writes it, says how far it is.
//!
//! Invariant: a batch is everything that waits, within limits, and is written as soon as nothing more does: under
//! load batches grow and cells are summed before they are written, at rest a message is readable at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use adtally_projections::fold::{Content, Entry};
use adtally_streams::event::Kind;
use adtally_streams::names::events_stream;
use async_nats::Client;
use async_nats::jetstream;
use tokio::sync::{mpsc, oneshot, watch};

use super::folder::Folder;
use super::{Progress, ProjectorError, check, reports, telemetry};
use crate::fail_points::{Point, pass};
use crate::log::LogError;
use crate::log::reader::{LogMessage, ReaderProgress, ShardReader};
use crate::store::Shard;

/// Messages that one batch takes at most, as the live fold cuts them.
pub const BATCH_MAX_MESSAGES: usize = 1_024;
/// Events that one batch takes at most, give or take a message.
pub const BATCH_MAX_EVENTS: usize = 131_072;
/// Bytes of messages that one batch takes at most, give or take a message.
pub const BATCH_MAX_BYTES: usize = 16 << 20;
/// How long a batch gathers at most while more keeps coming.
const BATCH_MAX_TIME: Duration = Duration::from_millis(250);
/// How long a broker that does not answer is left alone.
const RETRY: Duration = Duration::from_millis(500);
/// How long a replicated stream may end before the state does: a leader that was just elected may answer before it
/// has applied all that its log holds.
const SHORTER_FOR: Duration = Duration::from_secs(15);
/// How often gaps are counted.
const GAPS_EVERY: Duration = Duration::from_secs(10);

/// Where a fold of the log ends; by default nowhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Until {
    /// The last sequence that belongs to it.
    pub sequence: Option<u64>,
    /// The last log time that belongs to it, Unix milliseconds. Log time is the running maximum of the broker's
    /// timestamps, so the first message that bears a later one is the end.
    pub time_ms: Option<i64>,
}

impl Until {
    /// Whether it ends somewhere.
    pub fn is_somewhere(&self) -> bool {
        self.sequence.is_some() || self.time_ms.is_some()
    }

    /// Whether it ends before the message of that sequence and timestamp.
    pub fn is_before(&self, sequence: u64, broker_ms: i64) -> bool {
        self.sequence.is_some_and(|last| sequence > last)
            || self.time_ms.is_some_and(|last| broker_ms > last)
    }
}

/// What a batch takes at most, give or take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Messages.
    pub messages: usize,
    /// Events in them.
    pub events: usize,
    /// Their bytes.
    pub bytes: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self {
            messages: BATCH_MAX_MESSAGES,
            events: BATCH_MAX_EVENTS,
            bytes: BATCH_MAX_BYTES,
        }
    }
}

impl BatchLimits {
    /// So many times as much.
    pub fn times(self, many: usize) -> Self {
        Self {
            messages: self.messages * many,
            events: self.events * many,
            bytes: self.bytes * many,
        }
    }

    /// How many of the first messages make a batch.
    pub fn batch_of(&self, entries: &[Entry]) -> usize {
        let mut events = 0;
        let full = entries.iter().take(self.messages).position(|entry| {
            events += entry.events();
            events >= self.events
        });
        full.map_or(entries.len().min(self.messages), |at| at + 1)
    }
}

/// Messages gathered for a batch.
#[derive(Default)]
pub struct Gathered {
    /// What has been gathered.
    pub entries: Vec<Entry>,
    bytes: usize,
    events: usize,
    limits: BatchLimits,
}

impl Gathered {
    /// Nothing yet, and no more than that.
    pub fn within(limits: BatchLimits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// What a batch takes at most.
    pub fn limits(&self) -> BatchLimits {
        self.limits
    }

    /// Takes everything that waits behind `first`, within the limits of a batch. Answers whether a message past
    /// `until` has come, which is not taken, nor anything after it.
    pub fn gather(&mut self, first: LogMessage, reader: &mut ShardReader, until: &Until) -> bool {
        self.gather_with(first, until, |_, _| reader.try_next())
    }

    /// The same, where `next` gives what comes after a sequence: for a fold that is far behind, and had rather wait
    /// for a full batch than write a small one. It is told how long the batch may still gather.
    pub fn gather_with(
        &mut self,
        first: LogMessage,
        until: &Until,
        mut next: impl FnMut(u64, Duration) -> Option<LogMessage>,
    ) -> bool {
        let began = Instant::now();
        let mut message = first;
        loop {
            if until.is_before(message.sequence, message.broker_ms) {
                return true;
            }
            let sequence = message.sequence;
            self.take(message);
            let left = BATCH_MAX_TIME.saturating_sub(began.elapsed());
            if self.is_full() || left.is_zero() {
                return false;
            }
            match next(sequence, left) {
                Some(next) => message = next,
                None => return false,
            }
        }
    }

    /// Decodes a message; its room in the reader's queue is free from then on.
    fn take(&mut self, message: LogMessage) {
        self.bytes += message.payload.len();
        let entry = Entry::decode(
            message.sequence,
            message.broker_ms,
            &message.subject,
            &message.payload,
        );
        self.events += entry.events();
        if let Content::Bad { name, subject } = &entry.content {
            tracing::warn!(
                sequence = entry.sequence,
                %subject,
                error = %name,
                "a message cannot be read; it is recorded and passed over, and what it held is a gap"
            );
        }
        self.entries.push(entry);
    }

    /// The first sequence after `position` that was not given; none where each message follows the one before. The
    /// stream has skipped it, or has purged it under its reader.
    pub fn skipped(&self, position: u64) -> Option<u64> {
        let mut next = position + 1;
        for entry in &self.entries {
            if entry.sequence > next {
                return Some(next);
            }
            next = entry.sequence + 1;
        }
        None
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= self.limits.messages
            || self.bytes >= self.limits.bytes
            || self.events >= self.limits.events
    }

    /// Empties it for the next batch.
    pub fn clear(&mut self) {
        self.entries.clear();
        (self.bytes, self.events) = (0, 0);
    }
}

/// Asks a shard's thread to stand still while its generation is replaced.
pub struct Handover {
    /// Told once it stands still: the sequence that it has folded.
    pub stands_at: oneshot::Sender<u64>,
    /// The generation from which it goes on; when the sender is dropped, it goes on with the one that it has.
    pub go_on: oneshot::Receiver<Arc<Shard>>,
}

/// What a thread does next.
enum Next {
    Message(LogMessage),
    Handover(Handover),
    /// Nothing waits, so there is time to seal.
    Seal,
    /// It is time to stop, or the reader has.
    End,
}

/// Everything that the thread of a shard needs.
pub struct Run {
    pub shard: Arc<Shard>,
    pub client: Client,
    pub stop: watch::Receiver<bool>,
    pub progress: watch::Sender<Progress>,
    pub reading: watch::Sender<ReaderProgress>,
    pub handovers: mpsc::Receiver<Handover>,
    pub failed: mpsc::UnboundedSender<ProjectorError>,
    pub runtime: tokio::runtime::Handle,
}

impl Run {
    /// Folds until it is told to stop, or cannot go on.
    pub fn run(mut self) {
        if let Err(error) = self.fold_on() {
            tracing::error!(shard = self.shard.number(), %error, "the shard is not folded any further");
            // Nobody listens once the projector is being stopped, and then it does not matter.
            let _ = self.failed.send(error);
        }
    }

    /// Folds on as long as the stream is the one that the state is of; when it is not any more, says how it differs.
    fn fold_on(&mut self) -> Result<(), ProjectorError> {
        let runtime = self.runtime.clone();
        while let Some(created_ns) = runtime.block_on(self.verify())? {
            let mut folder = Folder::open(Arc::clone(&self.shard), created_ns)?;
            self.progress.send_replace(folder.progress());
            self.tell_state(&folder)?;
            let stream = events_stream(self.shard.number());
            let from = folder.sequence() + 1;
            let mut reader = runtime
                .block_on(async { ShardReader::open(self.client.clone(), &stream, from, None) });
            self.reading.send_replace(reader.progress());
            if let Some(shard) = self.read_on(&mut reader, &mut folder, &runtime)? {
                tracing::info!(
                    shard = shard.number(),
                    generation = shard.generation(),
                    "folding on in another generation"
                );
                self.shard = shard;
                continue;
            }
            let Some(why) = reader.changed() else {
                break;
            };
            tracing::error!(shard = self.shard.number(), %why, "the stream is not the one any more that was folded");
        }
        Ok(())
    }

    /// What the state holds already, in the log of the process.
    fn tell_state(&self, folder: &Folder) -> Result<(), ProjectorError> {
        for (kind, t) in Kind::ALL
            .iter()
            .zip(reports::totals(&self.shard.snapshot()?)?)
        {
            tracing::debug!(
                shard = self.shard.number(),
                sequence = folder.sequence(),
                %kind,
                applied = t.applied,
                duplicates = t.duplicates_ledger + t.duplicates_id,
                conflicts = t.conflicts,
                refused = t.refused,
                "folding on"
            );
        }
        Ok(())
    }

    /// Folds what comes; answers the generation in which it is to go on, none when it is time to stop.
    fn read_on(
        &mut self,
        reader: &mut ShardReader,
        folder: &mut Folder,
        runtime: &tokio::runtime::Handle,
    ) -> Result<Option<Arc<Shard>>, ProjectorError> {
        let telemetry = telemetry::ShardMetrics::new(self.shard.number());
        telemetry.restore(&self.shard)?;
        let mut gathered = Gathered::default();
        let mut gaps_counted: Option<Instant> = None;
        loop {
            let first = match runtime.block_on(self.next(reader, folder.is_sealing_due())) {
                Next::Message(message) => message,
                Next::Seal => {
                    telemetry.sealed(&folder.seal()?, folder.spans_behind());
                    continue;
                }
                Next::Handover(handover) => {
                    let sequence = folder.sequence();
                    match runtime.block_on(stand_still(handover, sequence, &mut self.stop)) {
                        Some(shard) => return Ok(Some(shard)),
                        None => continue,
                    }
                }
                Next::End => return Ok(None),
            };
            let began = Instant::now();
            gathered.gather(first, reader, &Until::default());
            if gathered.skipped(folder.sequence()).is_some()
                && runtime.block_on(self.verify())?.is_none()
            {
                return Ok(None);
            }
            let folded = folder.apply(&gathered.entries)?;
            gathered.clear();
            let progress = folder.progress();
            self.progress.send_replace(progress);
            pass(Point::FoldShown);
            let lag = reader
                .progress()
                .last_sequence()
                .saturating_sub(progress.sequence);
            telemetry.batch(&folded, progress, lag, began.elapsed());
            // Under load there is always a message: a portion after each batch keeps up with what it closes.
            if folder.is_sealing_due() {
                telemetry.sealed(&folder.seal()?, folder.spans_behind());
            }
            if gaps_counted.is_none_or(|at| at.elapsed() >= GAPS_EVERY) {
                telemetry.gaps(&self.shard)?;
                gaps_counted = Some(Instant::now());
            }
        }
    }

    async fn next(&mut self, reader: &mut ShardReader, is_sealing_due: bool) -> Next {
        tokio::select! {
            biased;
            _ = self.stop.wait_for(|stop| *stop) => Next::End,
            Some(handover) = self.handovers.recv() => Next::Handover(handover),
            message = reader.next() => message.map_or(Next::End, Next::Message),
            () = std::future::ready(()), if is_sealing_due => Next::Seal,
        }
    }

    /// Waits for the broker, and checks that its stream is the one that was folded. Answers when the stream was
    /// created; none when it is time to stop.
    async fn verify(&mut self) -> Result<Option<i64>, ProjectorError> {
        let shard = self.shard.number();
        let position = self.shard.snapshot()?.position();
        let jetstream = jetstream::new(self.client.clone());
        let until = Instant::now() + SHORTER_FOR;
        loop {
            match check::facts(&jetstream, shard, position).await {
                Ok(facts) => match check::check(shard, position, &facts) {
                    Ok(()) => return Ok(Some(facts.created_ns)),
                    Err(error @ ProjectorError::Shorter { .. })
                        if facts.replicas > 1 && Instant::now() < until =>
                    {
                        tracing::warn!(shard, %error, "the stream's leader may have just changed; asking again");
                    }
                    Err(error) => return Err(error),
                },
                Err(source @ LogError::Refused { .. }) => {
                    return Err(ProjectorError::Log { shard, source });
                }
                Err(error) => tracing::debug!(shard, %error, "waiting for the stream"),
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                _ = self.stop.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }
}

/// Says where the thread stands and waits for the generation in which it is to go on; none when it is to go on in
/// the one that it has.
async fn stand_still(
    handover: Handover,
    sequence: u64,
    stop: &mut watch::Receiver<bool>,
) -> Option<Arc<Shard>> {
    // Who has asked may have been interrupted meanwhile.
    handover.stands_at.send(sequence).ok()?;
    tokio::select! {
        _ = stop.wait_for(|stop| *stop) => None,
        shard = handover.go_on => shard.ok(),
    }
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
