//! The outbox: durable before answered, and shipped to the log until the broker has said that it holds it.
//!
//! One RocksDB per owner. One writer thread puts everything that waits into one batch with one fsync, then answers
//! all of it; the shipper cuts what is on disk into frames and sends them again until they are acknowledged. The
//! invariants: an answered event is on disk (a failed fsync ends the process), a message id is bound to its events,
//! an epoch is never reopened, and nothing is announced before its acknowledgement.

mod accept;
mod announce;
mod disk;
mod disk_names;
mod epoch;
mod kept;
mod quarantine;
mod recover;
mod retain;
mod salvage;
mod shared;
mod shipper;
mod writer;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::Event;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::refusal::QuarantineRecord;

pub use accept::Arrival;
pub use kept::{KeptOutbox, ResendError, Resent};
pub use salvage::{SalvageOptions, Salvaged, SalvagedLane, salvage};

use crate::log::publisher::Broker;
use crate::stretch::Stretch;
use shared::Shared;

/// Whose outbox it is. An intake's may take events with arrival times of its own choosing, so it announces nothing
/// before [`OutboxHandle::limit_arrival`] has been called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// The HTTP side: events arrive when they are read from a request.
    Collector,
    /// The reader of INTAKE: events arrived when the broker took them.
    Intake,
}

impl Owner {
    /// The name in metrics and producer ids.
    pub fn name(self) -> &'static str {
        match self {
            Owner::Collector => "collector",
            Owner::Intake => "intake",
        }
    }
}

/// How much an outbox may hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxLimits {
    /// Bytes that the broker has not acknowledged; past it, [`OutboxError::Full`].
    pub unsent_max_bytes: u64,
    /// Bytes of acknowledged events that are kept, so that they can be sent again.
    pub sent_max_bytes: u64,
    /// How long acknowledged events are kept.
    pub sent_max_age: Duration,
    /// Bytes of the disk that are left free; below it, [`OutboxError::Full`].
    pub disk_reserve_bytes: u64,
}

impl Default for OutboxLimits {
    fn default() -> Self {
        Self {
            unsent_max_bytes: 4 << 30,
            sent_max_bytes: 1 << 30,
            sent_max_age: Duration::from_secs(24 * 3_600),
            disk_reserve_bytes: 256 << 20,
        }
    }
}

/// What an outbox is opened with.
#[derive(Clone, Debug)]
pub struct OutboxOptions {
    /// Its folder; made when it is not there.
    pub dir: PathBuf,
    /// Whose it is.
    pub owner: Owner,
    /// First part of the producer's id, which gets a random end when the folder is made; at most 48 bytes of an
    /// id's alphabet. [`Owner::name`] where nobody chose another.
    pub producer_name: String,
    /// Shards of the deployment.
    pub shards: u16,
    /// How much it may hold.
    pub limits: OutboxLimits,
}

/// What goes into the outbox.
#[derive(Clone, Debug)]
pub enum Item {
    /// A stamped event, for the shard that [`adtally_streams::names::shard_of`] names.
    Event {
        /// The shard.
        shard: u16,
        /// The event.
        event: Event,
    },
    /// The record of an event that was refused.
    Refused(QuarantineRecord),
}

/// Why the outbox does not take events.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// It holds as much as it may. Nothing was taken; HTTP answers 503.
    #[error(
        "the outbox is full: {unsent_bytes} bytes wait for the broker and {limit_bytes} may; see whether the broker can be reached and its streams have room"
    )]
    Full {
        /// Bytes that wait.
        unsent_bytes: u64,
        /// Bytes that may wait.
        limit_bytes: u64,
    },
    /// Its disk is nearly full. Nothing was taken; HTTP answers 503.
    #[error(
        "the disk of the outbox has {free_bytes} bytes left, below the reserve of {reserve_bytes}: make room"
    )]
    DiskFull {
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that are kept free.
        reserve_bytes: u64,
    },
    /// It is being drained. Nothing was taken; HTTP answers 503.
    #[error("the outbox is closing and takes no more events")]
    Closed,
    /// The event names a shard that the deployment does not have: nothing was taken.
    #[error(
        "shard {shard} does not exist, there are {shards}: whoever placed the event used another number of shards"
    )]
    NoSuchShard {
        /// The shard named.
        shard: u16,
        /// Shards that there are.
        shards: u16,
    },
    /// The folder cannot be opened or read.
    #[error(
        "the outbox in {dir} cannot be used: {source}. Its unsent events are in there, so keep the folder: mend the disk or its permissions; `adtally producers salvage` says what can be read of it, and makes a new one of that"
    )]
    Disk {
        /// The folder.
        dir: PathBuf,
        /// What RocksDB says.
        source: rocksdb::Error,
    },
    /// The folder holds something that this program did not write.
    #[error(
        "the outbox in {dir} holds {what}: it was written by another version, or is damaged. Keep the folder; `adtally producers salvage` says what can be read of it, and makes a new one of that"
    )]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// An option is not usable.
    #[error("the outbox cannot be opened: {0}")]
    Options(String),
}

/// What an outbox says of itself.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct OutboxStatus {
    /// Who writes.
    pub producer: Id,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Events, and records of refused ones, that the broker has not acknowledged; those of earlier epochs too.
    pub unsent_events: u64,
    /// Their bytes.
    pub unsent_bytes: u64,
    /// Bytes that may wait.
    pub capacity_bytes: u64,
    /// Bytes of acknowledged events that are kept.
    pub sent_bytes: u64,
    /// No unacknowledged event arrived before this, in Unix milliseconds; none when all are acknowledged.
    pub oldest_unacked_ms: Option<i64>,
    /// Epochs of earlier openings that are still being shipped.
    pub recovering_epochs: usize,
    /// Lanes whose stream takes no more at present.
    pub full_lanes: u64,
    /// Its disk is below its reserve, so it takes nothing.
    pub disk_full: bool,
    /// Whether [`OutboxHandle::accept`] refuses at present.
    pub refusing: bool,
    /// Writes with fsync since the opening.
    pub fsyncs: u64,
    /// Events, and records of refused ones, accepted since the opening.
    pub accepted_events: u64,
    /// Frames acknowledged since the opening.
    pub frames: u64,
    /// Events in them.
    pub framed_events: u64,
    /// Bytes of them.
    pub framed_bytes: u64,
}

/// What a drain left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainReport {
    /// Everything is acknowledged and the epoch is announced as drained, to every shard.
    pub drained: bool,
    /// Events that stay on disk for the next opening.
    pub left_events: u64,
}

/// An open outbox. Ends by [`Outbox::drain`]; dropped without it, it stops as if the process had been killed, and
/// loses nothing.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    tasks: shipper::Tasks,
    writer: Option<writer::WriterThread>,
}

/// The way into an outbox. Clones share it.
#[derive(Clone, Debug)]
pub struct OutboxHandle {
    shared: Arc<Shared>,
}

impl Outbox {
    /// Opens the outbox, under a new epoch, and begins to ship what earlier epochs left. Must be called within a
    /// Tokio runtime of several threads; it blocks while RocksDB recovers.
    pub fn open(options: OutboxOptions, broker: Arc<dyn Broker>) -> Result<Outbox, OutboxError> {
        let opened = recover::open(options, broker)?;
        let writer = writer::spawn(Arc::clone(&opened.shared), opened.requests);
        shipper::begin_at_zero();
        let tasks = shipper::spawn(&opened.shared, opened.recovered, opened.settled);
        Ok(Outbox {
            shared: opened.shared,
            tasks,
            writer: Some(writer),
        })
    }

    /// The way in.
    pub fn handle(&self) -> OutboxHandle {
        OutboxHandle {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Takes no more events, ships what there is, says so on the log and closes. What is not acknowledged when
    /// `deadline` has passed stays on disk and is not called drained.
    pub async fn drain(mut self, deadline: Duration) -> DrainReport {
        let until = tokio::time::Instant::now() + deadline;
        self.shared.close();
        if let Some(writer) = self.writer.take() {
            // What has been taken is answered before anything else ends.
            writer.finish().await;
        }
        let drained = announce::drain(&self.shared, until).await;
        self.tasks.stop().await;
        let left_events = self.shared.unsent_events();
        self.shared.close_disk().await;
        DrainReport {
            drained,
            left_events,
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.shared.close();
        self.shared.stop.cancel();
    }
}

impl OutboxHandle {
    /// An event reaches the border now. Keep the guard until [`OutboxHandle::accept`] has returned: while it lives,
    /// nothing past its time is announced as complete.
    pub fn arrive(&self) -> Arrival {
        self.shared.arrive()
    }

    /// An event reached the border at a time that somebody else has fixed, in Unix milliseconds. Keep the guard as
    /// for [`OutboxHandle::arrive`]; its time is the one that counts, and another one only where a time past it has
    /// been announced, because the clock of that somebody has stepped back.
    pub fn arrive_at(&self, at_ms: i64) -> Arrival {
        self.shared.arrive_at(at_ms)
    }

    /// Writes the items and returns once they are on disk; all of them, or none with an error. An error concerns
    /// these items only, never those of another call.
    pub async fn accept(&self, items: impl IntoIterator<Item = Item>) -> Result<(), OutboxError> {
        let rows = accept::encode(&self.shared, items)?;
        accept::accept(&self.shared, rows).await
    }

    /// Events that arrived at `ms` or later may still come by [`OutboxHandle::arrive_at`], so nothing from there on
    /// is announced as complete; `None` lifts that. INTAKE's reader sets it from its acknowledgement floor.
    pub fn limit_arrival(&self, ms: Option<i64>) {
        self.shared.limit_arrival(ms);
    }

    /// What the outbox says of itself.
    pub fn status(&self) -> OutboxStatus {
        self.shared.status()
    }

    /// Epochs of earlier openings that it still ships.
    pub fn recovering(&self) -> Vec<Epoch> {
        self.shared.recovering().iter().map(|e| e.epoch).collect()
    }

    /// What of the stretches it still holds. Blocks.
    ///
    /// # Errors
    /// [`OutboxError`] when the disk cannot be read.
    pub fn holds(&self, wanted: &[Stretch]) -> Result<Vec<Stretch>, OutboxError> {
        kept::holds(&self.shared.disk, wanted)
    }

    /// Sends again what it holds of the stretches, whatever has become of it before.
    ///
    /// # Errors
    /// [`ResendError`] when the disk cannot be read or the broker does not take it.
    pub async fn resend(&self, wanted: &[Stretch]) -> Result<Resent, ResendError> {
        let shared = &self.shared;
        kept::resend(&shared.disk, &shared.producer, &*shared.broker, wanted).await
    }
}
