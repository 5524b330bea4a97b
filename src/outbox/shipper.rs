//! The shipper: frames by backpressure, without a timer, sent again until the broker has them.
//!
//! Each lane has a task. It cuts all that waits into a frame when the one before has landed, or sooner when a full
//! frame's worth waits: at a low rate frames are small and quick, under load they grow. The rows stay on disk until
//! they are acknowledged; only frames under way are in memory.

use std::sync::Arc;

use adtally_streams::event::Event;
use adtally_streams::frame::{EventMessage, Header, decode_events, encode};
use adtally_streams::id::frame_message_id;
use adtally_streams::lane::FrameBudget;
use adtally_streams::names::{FRAME_MAX_BYTES, FRAME_MAX_EVENTS, events_subject};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};

use super::disk::ROW_PREFIX_BYTES;
use super::epoch::EpochLanes;
use super::shared::Shared;
use super::{OutboxError, announce, quarantine, retain};
use crate::log::publisher::Outcome;

/// What headers add to a message, at most.
const MESSAGE_HEADERS_BYTES: usize = 4 << 10;
/// The first pause before a message is sent again; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(50);
/// The longest pause while it is unknown whether the broker has the message.
const RETRY_MAX: Duration = Duration::from_secs(2);
/// The longest pause while the stream takes no more.
const FULL_RETRY_MAX: Duration = Duration::from_secs(5);
/// The pause after the disk could not be read, or a message cannot be sent as it is.
const TROUBLE_PAUSE: Duration = Duration::from_secs(5);

/// Everything that runs on behalf of an outbox besides its writer.
#[derive(Debug)]
pub(super) struct Tasks {
    shared: Arc<Shared>,
    running: JoinSet<()>,
}

impl Tasks {
    /// Ends all of it and waits until it has ended.
    pub async fn stop(&mut self) {
        self.shared.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            report(ended);
        }
    }
}

/// Starts to ship this opening's lanes and those of earlier ones.
pub(super) fn spawn(shared: &Arc<Shared>, recovered: Vec<Arc<EpochLanes>>) -> Tasks {
    let mut running = JoinSet::new();
    for lane in 0..shared.current.quarantine_lane() {
        running.spawn(ship_lane(
            Arc::clone(shared),
            Arc::clone(&shared.current),
            lane,
            false,
        ));
    }
    running.spawn(quarantine::ship(
        Arc::clone(shared),
        Arc::clone(&shared.current),
        false,
    ));
    running.spawn(ship_recovered(Arc::clone(shared), recovered));
    running.spawn(announce::keep_telling(Arc::clone(shared)));
    running.spawn(retain::keep_house(Arc::clone(shared)));
    Tasks {
        shared: Arc::clone(shared),
        running,
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a task of the outbox panicked; what it had not shipped is on disk for the next start");
    }
}

/// Ships what earlier openings left, one after the other, each under its own epoch and counters.
async fn ship_recovered(shared: Arc<Shared>, recovered: Vec<Arc<EpochLanes>>) {
    for epoch in recovered {
        let left = epoch.unacked();
        if left > 0 {
            tracing::info!(epoch = %epoch.epoch, events = left, "an earlier opening of the outbox left events; they are shipped under its epoch");
        }
        let mut lanes = JoinSet::new();
        for lane in
            (0..epoch.quarantine_lane()).filter(|lane| epoch.cell(*lane).lock().unacked() > 0)
        {
            lanes.spawn(ship_lane(
                Arc::clone(&shared),
                Arc::clone(&epoch),
                lane,
                true,
            ));
        }
        lanes.spawn(quarantine::ship(
            Arc::clone(&shared),
            Arc::clone(&epoch),
            true,
        ));
        while let Some(ended) = lanes.join_next().await {
            report(ended);
        }
        if shared.stop.is_cancelled() || epoch.unacked() > 0 {
            return;
        }
        if announce::drained(&shared, &epoch, None).await {
            shared.recovered(epoch.epoch);
            tracing::info!(epoch = %epoch.epoch, "an earlier epoch is shipped and announced as drained");
        }
    }
}

/// Ships one lane; until it is empty, or until the outbox ends.
async fn ship_lane(shared: Arc<Shared>, epoch: Arc<EpochLanes>, lane: usize, until_empty: bool) {
    // Frames fly in tasks of their own: this one may wait for room, and room comes from frames that land.
    let mut flights = JoinSet::new();
    loop {
        while !shared.stop.is_cancelled()
            && epoch.cell(lane).lock().may_cut(frame_max_bytes(&shared))
        {
            match cut(&shared, &epoch, lane).await {
                Ok(Some(frame)) => {
                    flights.spawn(fly(Arc::clone(&shared), Arc::clone(&epoch), lane, frame));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, epoch = %epoch.epoch, lane, "a lane of the outbox cannot be read and waits; its events are not lost as long as the disk holds them");
                    pause(&shared, TROUBLE_PAUSE).await;
                }
            }
        }
        if until_empty && epoch.cell(lane).lock().unacked() == 0 {
            return;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(landed) = flights.join_next(), if !flights.is_empty() => report(landed),
            () = epoch.cell(lane).work.notified() => {}
        }
    }
}

/// The largest frame that both this program and the broker take.
fn frame_max_bytes(shared: &Shared) -> usize {
    FRAME_MAX_BYTES.min(
        shared
            .broker
            .max_payload()
            .saturating_sub(MESSAGE_HEADERS_BYTES),
    )
}

/// A frame that is ready to be sent.
struct Frame {
    first: u64,
    events: u64,
    row_bytes: u64,
    message: Outgoing,
    /// Room among the frames in memory.
    _room: OwnedSemaphorePermit,
}

/// A message and the id that binds it to its content.
#[derive(Clone, Debug)]
pub(super) struct Outgoing {
    pub subject: String,
    pub id: String,
    pub payload: Bytes,
}

/// Cuts what waits in the lane into a frame; none when the outbox ends meanwhile.
async fn cut(
    shared: &Arc<Shared>,
    epoch: &Arc<EpochLanes>,
    lane: usize,
) -> Result<Option<Frame>, OutboxError> {
    let max_bytes = frame_max_bytes(shared);
    let room = Arc::clone(&shared.flight_bytes).acquire_many_owned(max_bytes as u32);
    let mut room = tokio::select! {
        () = shared.stop.cancelled() => return Ok(None),
        room = room => match room {
            Ok(room) => room,
            Err(_) => return Ok(None),
        },
    };
    let (shared, epoch) = (Arc::clone(shared), Arc::clone(epoch));
    // Reading and packing take a millisecond for a full frame, and the disk may have to be asked.
    let packed = tokio::task::spawn_blocking(move || pack(&shared, &epoch, lane, max_bytes)).await;
    match packed {
        Ok(Ok((first, events, row_bytes, message))) => {
            let spare = max_bytes.saturating_sub(message.payload.len());
            drop(room.split(spare));
            Ok(Some(Frame {
                first,
                events,
                row_bytes,
                message,
                _room: room,
            }))
        }
        Ok(Err(error)) => Err(error),
        Err(panic) if panic.is_panic() => std::panic::resume_unwind(panic.into_panic()),
        Err(_) => Ok(None),
    }
}

fn pack(
    shared: &Shared,
    epoch: &EpochLanes,
    lane: usize,
    max_bytes: usize,
) -> Result<(u64, u64, u64, Outgoing), OutboxError> {
    let damaged = |what: String| OutboxError::Damaged {
        dir: shared.disk.dir().to_owned(),
        what,
    };
    let (shard, kind) = epoch
        .shard_and_kind(lane)
        .ok_or_else(|| damaged("refused events where events were expected".to_owned()))?;
    let cell = epoch.cell(lane);
    let (from, waiting) = {
        let state = cell.lock();
        (state.next(), state.waiting())
    };
    let until = from + waiting.min(FRAME_MAX_EVENTS as u64);
    let mut budget = FrameBudget::new(max_bytes);
    let mut events: Vec<Event> = Vec::with_capacity((until - from) as usize);
    let mut row_bytes = 0;
    shared
        .disk
        .rows(epoch.epoch, epoch.key(lane), from, until, |row| {
            if !budget.admits(row.len()) {
                return Ok(false);
            }
            let counter = from + events.len() as u64;
            events.push(
                rmp_serde::from_slice(row)
                    .map_err(|e| damaged(format!("an event at {counter}: {e}")))?,
            );
            row_bytes += (row.len() + ROW_PREFIX_BYTES) as u64;
            Ok(true)
        })?;
    if events.is_empty() {
        return Err(damaged(format!(
            "no events at {from} of epoch {}, {kind} lane of shard {shard}",
            epoch.epoch
        )));
    }
    let count = events.len() as u64;
    let first = cell.lock().cut(count, row_bytes);
    let header = Header {
        kind,
        producer: shared.producer.clone(),
        epoch: epoch.epoch,
        first,
        count: count as u32,
        watermark: shared.watermark_of(epoch, shard),
    };
    let message = Outgoing {
        subject: events_subject(shard, kind),
        id: frame_message_id(epoch.epoch, kind, first, first + count - 1),
        payload: Bytes::from(encode(&header, &events)),
    };
    if epoch.epoch == shared.current.epoch {
        shared.told(shard);
    }
    Ok((first, count, row_bytes, message))
}

/// Sends a frame until the broker has it.
async fn fly(shared: Arc<Shared>, epoch: Arc<EpochLanes>, lane: usize, frame: Frame) {
    let bytes = frame.message.payload.len() as u64;
    if !deliver(&shared, frame.message, same_frame).await {
        return;
    }
    shared.framed(frame.events, bytes);
    shared.landed(&epoch, lane, frame.first, frame.row_bytes);
}

/// Whether a stored message holds what ours does: the same events under the same counters. Its watermark may be
/// another one, since a frame that is cut again after a crash has a new one.
fn same_frame(stored: &[u8], ours: &[u8]) -> bool {
    match (decode_events(stored), decode_events(ours)) {
        (Ok(EventMessage::Frame(stored)), Ok(EventMessage::Frame(ours))) => {
            (stored.header.epoch, stored.header.kind, stored.header.first)
                == (ours.header.epoch, ours.header.kind, ours.header.first)
                && stored.events == ours.events
        }
        _ => false,
    }
}

/// Counts a lane as full while it lives.
struct FullLane<'a>(&'a Shared);

impl<'a> FullLane<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.lane_full(true);
        Self(shared)
    }
}

impl Drop for FullLane<'_> {
    fn drop(&mut self) {
        self.0.lane_full(false);
    }
}

/// Publishes until the broker has the message; false when the outbox ends before. `same` tells whether a stored
/// message that bears our id holds what ours does.
pub(super) async fn deliver(
    shared: &Shared,
    message: Outgoing,
    same: fn(&[u8], &[u8]) -> bool,
) -> bool {
    let mut id = message.id.clone();
    let mut ours_may_be_there = false;
    let mut retry = RETRY_MIN;
    let mut renamed = 0_u32;
    let mut full = None;
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return false,
            () = shared.broker.connected() => {}
        }
        let outcome = shared.broker.publish(
            message.subject.clone(),
            Some(id.clone()),
            message.payload.clone(),
        );
        let outcome = tokio::select! {
            () = shared.stop.cancelled() => return false,
            outcome = outcome => outcome,
        };
        let longest = match outcome {
            Outcome::Stored {
                duplicate: false, ..
            } => return true,
            Outcome::Stored { .. } if ours_may_be_there => return true,
            Outcome::Stored {
                stream, sequence, ..
            } => {
                match shared.broker.stored(stream, sequence).await {
                    Ok(Some(stored))
                        if stored == message.payload || same(&stored, &message.payload) =>
                    {
                        return true;
                    }
                    Ok(_) => {
                        renamed += 1;
                        metrics::counter!("adtally_message_id_taken_total").increment(1);
                        tracing::error!(%id, subject = %message.subject, sequence, "the broker holds another message under this id, so a disk may have been cloned; it is sent under a new one");
                        id = format!("{}-r{renamed}", message.id);
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, %id, "a duplicate could not be read back yet")
                    }
                }
                RETRY_MAX
            }
            Outcome::Unknown(why) => {
                metrics::counter!("adtally_publish_retries_total", "why" => "unknown").increment(1);
                tracing::debug!(%id, %why, "sent again, since it is not known whether the broker has it");
                ours_may_be_there = true;
                RETRY_MAX
            }
            Outcome::Full(why) => {
                metrics::counter!("adtally_publish_retries_total", "why" => "full").increment(1);
                if full.is_none() {
                    tracing::warn!(subject = %message.subject, %why, "the stream takes no more; events wait in the outbox until it does");
                    full = Some(FullLane::new(shared));
                }
                FULL_RETRY_MAX
            }
            Outcome::TooLarge(why) | Outcome::Refused(why) | Outcome::Conflict(why) => {
                metrics::counter!("adtally_publish_retries_total", "why" => "refused").increment(1);
                tracing::error!(subject = %message.subject, %id, %why, "the broker refuses a message; it is kept and tried again: see the server's limits and permissions");
                retry = TROUBLE_PAUSE;
                TROUBLE_PAUSE
            }
        };
        pause(shared, retry).await;
        retry = (retry * 2).min(longest);
    }
}

/// Waits, or until the outbox ends.
pub(super) async fn pause(shared: &Shared, length: Duration) {
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}
