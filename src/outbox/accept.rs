//! The way in: an event becomes a row before it queues, so that the one writer only copies bytes.
//!
//! A caller that goes away while it waits changes nothing: what it handed over is written, counted and held against
//! the watermark all the same.

use std::sync::Arc;

use adtally_streams::commit::Row;
use adtally_streams::row::{ROW_PREFIX_BYTES, event_row, refused_row};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::shared::Shared;
use super::{Item, OutboxError};
use crate::fail_points::{Point, pass};

/// Bytes of rows that may queue for the writer; more wait their turn.
pub(super) const QUEUE_MAX_BYTES: usize = 32 << 20;
/// Requests that may queue for the writer; more wait their turn.
pub(super) const QUEUE_MAX_REQUESTS: usize = 16_384;
/// The unit in which queued bytes are counted.
const QUEUE_UNIT: usize = 1_024;

/// An event between the border and the disk. While it lives, nothing from its time on is announced as complete.
#[derive(Debug)]
pub struct Arrival {
    shared: Arc<Shared>,
    ms: i64,
}

impl Arrival {
    pub(super) fn registered(shared: &Arc<Shared>, ms: i64) -> Self {
        Self {
            shared: Arc::clone(shared),
            ms,
        }
    }

    /// When it arrived, in milliseconds of the Unix epoch: what the event is to be stamped with.
    pub fn ms(&self) -> i64 {
        self.ms
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        self.shared.leave(self.ms);
    }
}

/// What one call hands to the writer.
#[derive(Debug)]
pub(super) struct Request {
    pub rows: Vec<Row>,
    /// Held until the lanes hold the rows, whatever becomes of the caller.
    pub arrival: Option<Arrival>,
    pub answer: oneshot::Sender<()>,
    /// Room in the queue.
    pub permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// Bytes counted as unsent until they are either written or given up.
struct Reservation<'a> {
    shared: &'a Shared,
    bytes: u64,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.shared.release_unsent(self.bytes);
    }
}

pub(super) async fn accept(shared: &Arc<Shared>, rows: Vec<Row>) -> Result<(), OutboxError> {
    if rows.is_empty() {
        return Ok(());
    }
    let bytes: u64 = rows
        .iter()
        .map(|r| (r.bytes.len() + ROW_PREFIX_BYTES) as u64)
        .sum();
    shared.reserve_unsent(bytes)?;
    let mut reservation = Reservation { shared, bytes };
    // A closed queue means that the writer has finished.
    let closed = |_| OutboxError::Closed;
    let units = (bytes as usize)
        .div_ceil(QUEUE_UNIT)
        .min(QUEUE_MAX_BYTES / QUEUE_UNIT);
    let one = Arc::clone(&shared.queue_requests)
        .acquire_owned()
        .await
        .map_err(closed)?;
    let room = Arc::clone(&shared.queue_bytes)
        .acquire_many_owned(units as u32)
        .await
        .map_err(closed)?;
    let oldest = rows
        .iter()
        .map(|r| r.arrival_ms)
        .min()
        .filter(|ms| *ms != i64::MAX);
    let arrival = oldest.map(|ms| shared.arrive_at(ms));
    let (answer, answered) = oneshot::channel();
    shared.submit(Request {
        rows,
        arrival,
        answer,
        permits: (one, room),
    })?;
    pass(Point::OutboxQueued);
    // From here on the writer answers for the bytes.
    reservation.bytes = 0;
    answered.await.map_err(|_| OutboxError::Closed)
}

/// Semaphores that count what queues.
pub(super) fn queue_units() -> usize {
    QUEUE_MAX_BYTES / QUEUE_UNIT
}

/// The items as rows, each read where it lies: items are large, and a group of them fills the processor's caches.
pub(super) fn encode(
    shared: &Shared,
    items: impl IntoIterator<Item = Item>,
) -> Result<Vec<Row>, OutboxError> {
    let shards = shared.current.shards;
    let items = items.into_iter();
    let mut rows = Vec::with_capacity(items.size_hint().0);
    for item in items {
        rows.push(match item {
            Item::Event { shard, .. } if shard >= shards => {
                return Err(OutboxError::NoSuchShard { shard, shards });
            }
            Item::Event { shard, event } => Row {
                lane: shared.current.lane_of(shard, event.kind()),
                arrival_ms: event.arrival_ms,
                bytes: event_row(&event),
            },
            Item::Refused(record) => Row {
                lane: shared.current.quarantine_lane(),
                arrival_ms: i64::MAX,
                bytes: refused_row(record.reason.name(), &record.to_json_bytes()),
            },
        });
    }
    Ok(rows)
}
