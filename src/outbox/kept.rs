//! What an outbox still holds of what the log has lost, and sending that again.
//!
//! What is sent again keeps its epoch and counters, so that the ledger counts it at most once. Its message ids are
//! new ones, because the broker would take a message for a duplicate of the damaged one while it remembers that one's
//! id; and it raises no watermark, except that of an epoch of which the log has forgotten everything.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use adtally_streams::event_row::BadRow;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::lane::Lane;
use adtally_streams::packing::{Outgoing, Packing, frame_max_bytes};
use adtally_streams::watermark::Watermark;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::OutboxError;
use super::disk::{Disk, EpochRecord, LaneKey};
use crate::log::publisher::{Broker, Outcome};
use crate::stretch::Stretch;

/// Times that a message is sent before its sending is given up: with the pauses between, about half a minute.
const ATTEMPTS: u32 = 16;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_secs(2);

/// Why something is not sent again.
#[derive(Debug, thiserror::Error)]
pub enum ResendError {
    /// The outbox cannot be read.
    #[error(transparent)]
    Outbox(#[from] OutboxError),
    /// The broker does not take it.
    #[error(
        "{stretch} was not sent again: {why}. What was sent before it counts; ask for the rest again"
    )]
    Broker {
        /// What was being sent.
        stretch: Stretch,
        /// What the broker says.
        why: String,
    },
}

/// What has been sent again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// Which counters.
    pub sent: Vec<Stretch>,
    /// In how many frames.
    pub frames: u64,
    /// By shard: the greatest sequence that one of them has in its stream.
    pub sequences: BTreeMap<u16, u64>,
}

/// An outbox that no process has open, for reading.
#[derive(Debug)]
pub struct KeptOutbox {
    disk: Disk,
    producer: Id,
}

impl KeptOutbox {
    /// Opens it; none where the folder has never been one. Blocks.
    ///
    /// # Errors
    /// [`OutboxError`] when it is damaged or cannot be read.
    pub fn open(dir: &Path) -> Result<Option<Self>, OutboxError> {
        if !dir.join("CURRENT").is_file() {
            return Ok(None);
        }
        let disk = Disk::open_read_only(dir)?;
        let producer = disk.known_producer()?;
        Ok(producer.map(|producer| Self { disk, producer }))
    }

    /// Who writes it.
    pub fn producer(&self) -> &Id {
        &self.producer
    }

    /// What of the stretches it still holds. Blocks.
    ///
    /// # Errors
    /// [`OutboxError`] when it cannot be read.
    pub fn holds(&self, wanted: &[Stretch]) -> Result<Vec<Stretch>, OutboxError> {
        holds(&self.disk, wanted)
    }

    /// Sends again what it holds of the stretches.
    ///
    /// # Errors
    /// [`ResendError`] when it cannot be read or the broker does not take it.
    pub async fn resend(
        &self,
        broker: &dyn Broker,
        wanted: &[Stretch],
    ) -> Result<Resent, ResendError> {
        resend(&self.disk, &self.producer, broker, wanted).await
    }
}

/// What of the stretches is kept there.
pub(super) fn holds(disk: &Disk, wanted: &[Stretch]) -> Result<Vec<Stretch>, OutboxError> {
    let mut held = Vec::new();
    for stretch in wanted {
        let lane = LaneKey::events(stretch.shard, stretch.kind);
        let until = stretch.last.saturating_add(1);
        let kept = disk.kept(stretch.epoch, lane, stretch.first, until)?;
        held.extend(kept.iter().filter_map(|(a, b)| stretch.part(*a, *b)));
    }
    Ok(held)
}

/// Sends what is kept of the stretches again, frame by frame.
pub(super) async fn resend(
    disk: &Disk,
    producer: &Id,
    broker: &dyn Broker,
    wanted: &[Stretch],
) -> Result<Resent, ResendError> {
    let mut resending = Resending {
        disk,
        producer,
        broker,
        epochs: disk.epochs()?,
        // The same for all tries of one request, another for the next request.
        nonce: rand::random(),
        resent: Resent::default(),
    };
    for stretch in tokio::task::block_in_place(|| holds(disk, wanted))? {
        resending.stretch(stretch).await?;
    }
    Ok(resending.resent)
}

struct Resending<'a> {
    disk: &'a Disk,
    producer: &'a Id,
    broker: &'a dyn Broker,
    epochs: Vec<EpochRecord>,
    nonce: u32,
    resent: Resent,
}

impl Resending<'_> {
    async fn stretch(&mut self, stretch: Stretch) -> Result<(), ResendError> {
        let mut at = stretch.first;
        while let Some(rest) = stretch.part(at, stretch.last.saturating_add(1)) {
            let packed = tokio::task::block_in_place(|| self.pack(rest))?;
            let Some((message, next)) = packed else {
                break;
            };
            self.frame(rest, message).await?;
            at = next;
        }
        self.resent.sent.extend(stretch.part(stretch.first, at));
        Ok(())
    }

    /// A message of the stretch from its beginning, as far as it fits, and the counter after it; none when it has been
    /// evicted meanwhile. Blocks.
    fn pack(&self, stretch: Stretch) -> Result<Option<(Outgoing, u64)>, OutboxError> {
        let damaged = |error: BadRow| OutboxError::Damaged {
            dir: self.disk.dir().to_owned(),
            what: format!("among {stretch}, {error}"),
        };
        // A lane of which nothing but the stretch waits.
        let mut lane = Lane::starting_at(stretch.first);
        lane.accepted(stretch.events(), 0, 0);
        let mut packing = Packing::begin(&lane, frame_max_bytes(self.broker.max_payload()));
        let key = LaneKey::events(stretch.shard, stretch.kind);
        let (from, until) = (packing.from(), packing.until());
        self.disk.rows(stretch.epoch, key, from, until, |row| {
            packing.take(row).map_err(damaged)
        })?;
        let watermark = Watermark {
            drained: self.is_drained(stretch.epoch),
            ..Watermark::default()
        };
        let (shard, kind) = (stretch.shard, stretch.kind);
        let message = packing
            .message(shard, kind, self.producer, stretch.epoch, watermark)
            .map_err(damaged)?;
        Ok(message.map(|message| (message, packing.next())))
    }

    async fn frame(&mut self, stretch: Stretch, message: Outgoing) -> Result<(), ResendError> {
        let (subject, payload) = (message.subject, Bytes::from(message.payload));
        let id = format!("{}-again-{:08x}", message.id, self.nonce);
        let mut why = String::new();
        for _ in 0..ATTEMPTS {
            let outcome = self
                .broker
                .publish(subject.clone(), Some(id.clone()), payload.clone());
            match outcome.await {
                Outcome::Stored { sequence, .. } => {
                    self.resent.frames += 1;
                    let greatest = self.resent.sequences.entry(stretch.shard).or_default();
                    *greatest = sequence.max(*greatest);
                    return Ok(());
                }
                Outcome::TooLarge(said) | Outcome::Refused(said) | Outcome::Conflict(said) => {
                    return Err(ResendError::Broker { stretch, why: said });
                }
                Outcome::Unknown(said) | Outcome::Full(said) => why = said,
            }
            tokio::time::sleep(PAUSE).await;
        }
        Err(ResendError::Broker { stretch, why })
    }

    /// Whether the log has been told that the epoch is over. Said again, so that a log which has forgotten the epoch
    /// does not wait for it.
    fn is_drained(&self, epoch: Epoch) -> bool {
        self.epochs.iter().any(|r| r.epoch == epoch && r.drained)
    }
}
