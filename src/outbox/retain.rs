//! What is acknowledged stays for a while, so that it can be sent again if the broker loses it. Sent runs are deleted
//! oldest first, by age and by a byte cap; unsent ones never.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use adtally_streams::id::Epoch;

use super::disk::LaneKey;
use super::shared::{Shared, now_ms};
use crate::fail_points::{Point, pass};

/// How often evictions are looked for, and the disk is looked at.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Acknowledgements of a lane within this time are evicted together, so that there are few segments to remember.
const SEGMENT_MAX_MS: i64 = 600_000;
/// A segment of this many bytes is closed before its time.
const SEGMENT_MAX_BYTES: u64 = 16 << 20;

/// A stretch of a lane that was acknowledged at about one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Segment {
    pub epoch: Epoch,
    pub lane: LaneKey,
    /// The first counter past it.
    pub end: u64,
    pub bytes: u64,
    /// When its first acknowledgement came.
    pub at_ms: i64,
}

/// Every segment that is kept, oldest first, and the open one of each lane.
#[derive(Debug, Default)]
pub(super) struct Retained {
    closed: VecDeque<Segment>,
    open: HashMap<(Epoch, LaneKey), Segment>,
    bytes: u64,
}

impl Retained {
    /// A stretch that an earlier opening left.
    pub fn keep(&mut self, segment: Segment) {
        self.bytes += segment.bytes;
        self.closed.push_back(segment);
    }

    /// The lane is acknowledged up to `end`, and `bytes` more have landed.
    pub fn landed(&mut self, epoch: Epoch, lane: LaneKey, end: u64, bytes: u64, now_ms: i64) {
        self.bytes += bytes;
        let fresh = Segment {
            epoch,
            lane,
            end,
            bytes: 0,
            at_ms: now_ms,
        };
        let segment = self.open.entry((epoch, lane)).or_insert(fresh);
        segment.end = end;
        segment.bytes += bytes;
        if segment.bytes >= SEGMENT_MAX_BYTES || now_ms - segment.at_ms >= SEGMENT_MAX_MS {
            let done = *segment;
            self.open.remove(&(epoch, lane));
            self.closed.push_back(done);
        }
    }

    /// Bytes that are kept.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The next segment to delete, which is then no longer kept.
    pub fn evict(&mut self, now_ms: i64, max_age_ms: i64, max_bytes: u64) -> Option<Segment> {
        let idle: Vec<_> = self
            .open
            .iter()
            .filter(|(_, s)| now_ms - s.at_ms >= SEGMENT_MAX_MS)
            .map(|(key, _)| *key)
            .collect();
        for key in idle {
            self.closed.extend(self.open.remove(&key));
        }
        if self.bytes > max_bytes && self.closed.is_empty() {
            // A cap below one segment: what is open goes, too.
            self.closed.extend(self.open.drain().map(|(_, s)| s));
        }
        let due = self
            .closed
            .front()
            .is_some_and(|s| self.bytes > max_bytes || now_ms - s.at_ms >= max_age_ms);
        let segment = if due { self.closed.pop_front() } else { None };
        self.bytes = self.bytes.saturating_sub(segment.map_or(0, |s| s.bytes));
        segment
    }
}

/// Deletes what is due, and forgets epochs of which nothing is left. Blocks.
fn evict_due(shared: &Shared) {
    let max_age_ms = shared.limits.sent_max_age.as_millis() as i64;
    loop {
        let mut retained = shared
            .retained
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let due = retained.evict(now_ms(), max_age_ms, shared.limits.sent_max_bytes);
        drop(retained);
        let Some(segment) = due else { break };
        match shared.disk.evict(segment.epoch, segment.lane, segment.end) {
            Ok(()) => pass(Point::OutboxEvicted),
            Err(error) => tracing::warn!(%error, "sent events were not deleted from the outbox"),
        }
    }
    if let Err(error) = forget_empty(shared) {
        tracing::warn!(%error, "an epoch of the outbox that is done with was not forgotten");
    }
}

fn forget_empty(shared: &Shared) -> Result<(), super::OutboxError> {
    for record in shared.disk.epochs()? {
        let done = record.drained && record.epoch != shared.current.epoch;
        if done && !shared.disk.has_runs(record.epoch)? {
            shared.disk.forget_epoch(record.epoch)?;
            pass(Point::EpochForgotten);
        }
    }
    Ok(())
}

/// Watches over the disk until the outbox ends.
pub(super) async fn keep_house(shared: Arc<Shared>) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shared.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let house = Arc::clone(&shared);
        let done = tokio::task::spawn_blocking(move || {
            house.observe();
            evict_due(&house);
        });
        if done.await.is_err() {
            tracing::error!("the outbox's house-keeping panicked and is tried again");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use adtally_streams::event::Kind;

    use super::*;

    const HOUR: i64 = 3_600_000;

    #[test]
    fn sent_segments_go_oldest_first_by_bytes_and_by_age() {
        let lanes = [
            LaneKey::events(0, Kind::Click),
            LaneKey::events(1, Kind::Click),
        ];
        let mut kept = Retained::default();
        kept.landed(Epoch(1), lanes[0], 10, 12 << 20, 0);
        kept.landed(Epoch(1), lanes[0], 20, 12 << 20, 5);
        kept.landed(Epoch(1), lanes[1], 7, 1 << 20, 9);
        assert_eq!(kept.bytes(), 25 << 20);
        assert_eq!(kept.evict(10, HOUR, 1 << 30), None, "neither old nor much");
        let first = kept.evict(10, HOUR, 10 << 20).unwrap();
        assert_eq!(
            (first.lane, first.end, first.bytes),
            (lanes[0], 20, 24 << 20)
        );
        assert_eq!(kept.evict(10, HOUR, 10 << 20), None);
        assert_eq!(
            kept.evict(HOUR, HOUR, 10 << 20),
            None,
            "one minute less than its age"
        );
        let second = kept.evict(HOUR + 9, HOUR, 10 << 20).unwrap();
        assert_eq!((second.lane, second.end), (lanes[1], 7));
        assert_eq!(kept.bytes(), 0);
    }
}
