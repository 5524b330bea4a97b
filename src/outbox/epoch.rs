//! The lanes of one opening: each a pure [`Lane`] behind a lock of its own, with what others look at often beside it.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use adtally_streams::lane::Lane;
use adtally_streams::lanes::Lanes;
use tokio::sync::Notify;

use super::disk::LaneKey;

const KINDS: usize = Kind::ALL.len();

/// One lane, and the wake-up of whoever ships it.
#[derive(Debug)]
pub(super) struct LaneCell {
    state: Mutex<Lane>,
    /// [`Lane::oldest_ms`], readable without the lock; `i64::MAX` for none.
    oldest_ms: AtomicI64,
    /// Something waits in the lane.
    pub work: Notify,
}

impl LaneCell {
    fn new(lane: Lane) -> Self {
        let oldest_ms = AtomicI64::new(lane.oldest_ms().unwrap_or(i64::MAX));
        Self {
            state: Mutex::new(lane),
            oldest_ms,
            work: Notify::new(),
        }
    }

    /// The lane. A lane is whole between any two of its own calls, so a poisoned lock is taken as it is.
    pub fn lock(&self) -> MutexGuard<'_, Lane> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Rows of that many events and bytes are on disk.
    pub fn accepted(&self, count: u64, row_bytes: u64, oldest_ms: i64) {
        let mut lane = self.lock();
        lane.accepted(count, row_bytes, oldest_ms);
        self.oldest_ms
            .store(lane.oldest_ms().unwrap_or(i64::MAX), Ordering::SeqCst);
        drop(lane);
        self.work.notify_one();
    }

    /// The broker holds the frame that begins at `first`; returns the counter up to which it holds everything, and
    /// how many events that is more than before.
    pub fn landed(&self, first: u64) -> (u64, u64) {
        let mut lane = self.lock();
        let before = lane.acked();
        let acked = lane.landed(first);
        self.oldest_ms
            .store(lane.oldest_ms().unwrap_or(i64::MAX), Ordering::SeqCst);
        (acked, acked - before)
    }
}

/// Every lane of an epoch: by shard and kind, and last the one of refused events.
#[derive(Debug)]
pub(super) struct EpochLanes {
    pub epoch: Epoch,
    pub shards: u16,
    /// Another part of the epoch follows, past what of it is lost: this one does not end it.
    pub is_followed: bool,
    cells: Vec<LaneCell>,
}

impl EpochLanes {
    /// An epoch with the lanes that `lane` gives for each index.
    pub fn new(epoch: Epoch, shards: u16, lane: impl FnMut(usize) -> Lane) -> Self {
        let count = Lanes { shards }.count();
        Self {
            epoch,
            shards,
            is_followed: false,
            cells: (0..count).map(lane).map(LaneCell::new).collect(),
        }
    }

    /// The same lanes, as a part that another one follows.
    pub fn before_another(self) -> Self {
        Self {
            is_followed: true,
            ..self
        }
    }

    /// Bytes of rows that are in no frame yet.
    pub fn waiting_bytes(&self) -> u64 {
        let bytes = self.cells.iter().map(|c| c.lock().waiting_bytes() as u64);
        bytes.sum()
    }

    fn lanes(&self) -> Lanes {
        Lanes {
            shards: self.shards,
        }
    }

    pub fn lane_of(&self, shard: u16, kind: Kind) -> usize {
        self.lanes().of(shard, kind)
    }

    pub fn quarantine_lane(&self) -> usize {
        self.lanes().quarantine()
    }

    pub fn count(&self) -> usize {
        self.cells.len()
    }

    pub fn cell(&self, lane: usize) -> &LaneCell {
        &self.cells[lane]
    }

    /// Shard and kind of a lane; none for that of refused events.
    pub fn shard_and_kind(&self, lane: usize) -> Option<(u16, Kind)> {
        self.lanes().shard_and_kind(lane)
    }

    /// How the lane is named on disk.
    pub fn key(&self, lane: usize) -> LaneKey {
        match self.shard_and_kind(lane) {
            Some((shard, kind)) => LaneKey::events(shard, kind),
            None => LaneKey::QUARANTINE,
        }
    }

    /// No unacknowledged event arrived before this. Refused events count for nothing here.
    pub fn oldest_ms(&self) -> Option<i64> {
        let events = &self.cells[..self.quarantine_lane()];
        events
            .iter()
            .map(|c| c.oldest_ms.load(Ordering::SeqCst))
            .min()
            .filter(|ms| *ms != i64::MAX)
    }

    /// The acknowledged counters and the heads of a shard's lanes.
    pub fn counters(&self, shard: u16) -> ([u64; KINDS], [u64; KINDS]) {
        let (mut acked, mut heads) = ([0; KINDS], [0; KINDS]);
        for kind in Kind::ALL {
            let lane = self.cell(self.lane_of(shard, kind)).lock();
            acked[kind as usize] = lane.acked();
            heads[kind as usize] = lane.head();
        }
        (acked, heads)
    }

    /// Events and records that the broker has not acknowledged.
    pub fn unacked(&self) -> u64 {
        self.cells.iter().map(|c| c.lock().unacked()).sum()
    }

    /// Wakes whoever ships any of the lanes.
    pub fn wake(&self) {
        for cell in &self.cells {
            cell.work.notify_one();
        }
    }
}
