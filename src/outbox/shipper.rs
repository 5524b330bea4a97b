//! The shipper: frames by backpressure, sent again until the broker has them.
//!
//! Each lane has a task. It cuts all that waits into a frame when the one before has landed, or sooner when a full
//! frame's worth waits: at a low rate frames are small and quick, under load they grow. Where the broker is quicker
//! than the events are many, `LEAST_INTERVAL` of [`adtally_streams::lane`] makes them grow. The rows stay on disk until they are acknowledged;
//! only frames under way are in memory.

use std::sync::Arc;

use adtally_streams::delivery::{Delivery, Step, same_frame};
use adtally_streams::packing::{self, Outgoing, Packing};
use bytes::Bytes;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::epoch::EpochLanes;
use super::shared::Shared;
use super::{OutboxError, announce, quarantine, retain};
use crate::fail_points::{Point, pass};
use crate::log::publisher::Outcome;

/// The pause after the disk could not be read.
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
pub(super) fn spawn(
    shared: &Arc<Shared>,
    recovered: Vec<Arc<EpochLanes>>,
    settled: Vec<Arc<EpochLanes>>,
) -> Tasks {
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
    running.spawn(announce::keep_telling(Arc::clone(shared), settled));
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
        if epoch.is_followed {
            shared.recovered(&epoch);
            continue;
        }
        if announce::drained(&shared, &epoch, None).await {
            shared.recovered(&epoch);
            tracing::info!(epoch = %epoch.epoch, "an earlier epoch is shipped and announced as drained");
        }
    }
}

/// Ships one lane; until it is empty, or until the outbox ends.
async fn ship_lane(shared: Arc<Shared>, epoch: Arc<EpochLanes>, lane: usize, until_empty: bool) {
    // Frames fly in tasks of their own: this one may wait for room, and room comes from frames that land.
    let mut flights = JoinSet::new();
    let mut last_cut = None;
    loop {
        let due = loop {
            let due = next_cut(&shared, &epoch, lane, last_cut);
            if shared.stop.is_cancelled() || due.is_none_or(|due| due > Instant::now()) {
                break due;
            }
            match cut(&shared, &epoch, lane).await {
                Ok(Some(frame)) => {
                    last_cut = Some(Instant::now());
                    flights.spawn(fly(Arc::clone(&shared), Arc::clone(&epoch), lane, frame));
                }
                Ok(None) => return,
                Err(error) => {
                    tracing::error!(%error, epoch = %epoch.epoch, lane, "a lane of the outbox cannot be read and waits; its events are not lost as long as the disk holds them");
                    pause(&shared, TROUBLE_PAUSE).await;
                }
            }
        };
        if until_empty && epoch.cell(lane).lock().unacked() == 0 {
            return;
        }
        tokio::select! {
            () = shared.stop.cancelled() => return,
            Some(landed) = flights.join_next(), if !flights.is_empty() => report(landed),
            () = epoch.cell(lane).work.notified() => {}
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
        }
    }
}

/// When the lane's next frame is to be cut, the last one having been cut at `last_cut`; none before something lands or
/// comes.
fn next_cut(
    shared: &Shared,
    epoch: &EpochLanes,
    lane: usize,
    last_cut: Option<Instant>,
) -> Option<Instant> {
    let now = Instant::now();
    let lane = epoch.cell(lane).lock();
    let cut_in = lane.cut_in(frame_max_bytes(shared), last_cut.map(|at| now - at));
    cut_in.map(|left| now + left)
}

/// The largest frame that both this program and the broker take.
fn frame_max_bytes(shared: &Shared) -> usize {
    packing::frame_max_bytes(shared.broker.max_payload())
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
    let Ok(turn) = shared.packers.acquire().await else {
        return Ok(None);
    };
    let (packer, of) = (Arc::clone(shared), Arc::clone(epoch));
    // Reading and packing take a millisecond for a full frame, and the disk may have to be asked.
    let packed = tokio::task::spawn_blocking(move || pack(&packer, &of, lane, max_bytes)).await;
    drop(turn);
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
    let mut packing = Packing::begin(&cell.lock(), max_bytes);
    let (from, until) = (packing.from(), packing.until());
    shared
        .disk
        .rows(epoch.epoch, epoch.key(lane), from, until, |row| {
            let counter = packing.next();
            packing
                .take(row)
                .map_err(|e| damaged(format!("at {counter}: {e}")))
        })?;
    let nothing = || {
        damaged(format!(
            "no events at {from} of epoch {}, {kind} lane of shard {shard}",
            epoch.epoch
        ))
    };
    let watermark = shared.watermark_of(epoch, shard);
    let message = packing
        .message(shard, kind, &shared.producer, epoch.epoch, watermark)
        .map_err(|e| damaged(format!("from {from} on: {e}")))?
        .ok_or_else(nothing)?;
    let cut = packing.cut(&mut cell.lock()).ok_or_else(nothing)?;
    if epoch.epoch == shared.current.epoch {
        shared.told(shard);
    }
    pass(Point::ShipperCut);
    Ok((cut.first, cut.rows.len() as u64, cut.row_bytes, message))
}

/// Sends a frame until the broker has it.
async fn fly(shared: Arc<Shared>, epoch: Arc<EpochLanes>, lane: usize, frame: Frame) {
    let bytes = frame.message.payload.len() as u64;
    if !deliver(&shared, frame.message, same_frame).await {
        return;
    }
    pass(Point::ShipperAcknowledged);
    shared.framed(frame.events, bytes);
    shared.landed(&epoch, lane, frame.first, frame.row_bytes);
    pass(Point::ShipperNoted);
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
    let Outgoing {
        subject,
        id,
        payload,
    } = message;
    let payload = Bytes::from(payload);
    let mut delivery = Delivery::new(id);
    let mut full = None;
    loop {
        let Some(outcome) = publish(shared, &subject, delivery.id(), &payload).await else {
            return false;
        };
        note(&outcome, &subject, delivery.id());
        let step = delivery.answered(&outcome);
        if delivery.is_full() && full.is_none() {
            tracing::warn!(%subject, ?outcome, "the stream takes no more; events wait in the outbox until it does");
            full = Some(FullLane::new(shared));
        }
        let length = match step {
            Step::Done => return true,
            Step::Publish(length) => length,
            Step::ReadBack { stream, sequence } => {
                let is_same = match shared.broker.stored(stream, sequence).await {
                    Ok(stored) => Some(stored.is_some_and(|stored| same(&stored, &payload))),
                    Err(error) => {
                        tracing::debug!(%error, id = delivery.id(), "a duplicate could not be read back yet");
                        None
                    }
                };
                if is_same == Some(false) {
                    metrics::counter!("adtally_message_id_taken_total").increment(1);
                    tracing::error!(id = delivery.id(), %subject, sequence, "the broker holds another message under this id, so a disk may have been cloned; it is sent under a new one");
                }
                match delivery.read_back(is_same) {
                    None => return true,
                    Some(length) => length,
                }
            }
        };
        pause(shared, length).await;
    }
}

/// Publishes once, when the broker can be reached; none when the outbox ends before.
async fn publish(shared: &Shared, subject: &str, id: &str, payload: &Bytes) -> Option<Outcome> {
    tokio::select! {
        () = shared.stop.cancelled() => return None,
        () = shared.broker.connected() => {}
    }
    let outcome = shared
        .broker
        .publish(subject.to_owned(), Some(id.to_owned()), payload.clone());
    tokio::select! {
        () = shared.stop.cancelled() => None,
        outcome = outcome => Some(outcome),
    }
}

/// Why a message is sent again, as the metric says it.
const UNKNOWN: &str = "unknown";
const FULL: &str = "full";
const REFUSED: &str = "refused";

/// Shows the counters of [`note`] from the start, so that the first one is an increase too.
pub(super) fn begin_at_zero() {
    for why in [UNKNOWN, FULL, REFUSED] {
        metrics::counter!("adtally_publish_retries_total", "why" => why).increment(0);
    }
}

/// Counts an outcome after which the message is sent again, and says why.
fn note(outcome: &Outcome, subject: &str, id: &str) {
    let why = match outcome {
        Outcome::Stored { .. } => return,
        Outcome::Unknown(why) => {
            tracing::debug!(%id, %why, "sent again, since it is not known whether the broker has it");
            UNKNOWN
        }
        Outcome::Full(_) => FULL,
        Outcome::TooLarge(why) | Outcome::Refused(why) | Outcome::Conflict(why) => {
            tracing::error!(%subject, %id, %why, "the broker refuses a message; it is kept and tried again: see the server's limits and permissions");
            REFUSED
        }
    };
    metrics::counter!("adtally_publish_retries_total", "why" => why).increment(1);
}

/// Waits, or until the outbox ends.
pub(super) async fn pause(shared: &Shared, length: Duration) {
    tokio::select! {
        () = shared.stop.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}
