//! One epoch of an outbox: its lanes, and when each is to be cut, which is the lane's own decision in virtual time.

use std::time::Duration;

use adtally_streams::id::Epoch;
use adtally_streams::lane::Lane;
use adtally_streams::lanes::Lanes;

/// One epoch of an outbox that is open: this opening's, or an earlier one that is being shipped.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Its epoch.
    pub epoch: Epoch,
    /// Its lanes; the last one is that of refused events.
    pub lanes: Vec<Lane>,
    /// By lane: when its last frame was cut, in true time.
    pub cut_ms: Vec<Option<i64>>,
    /// By shard: it has been told that nothing more comes from the epoch.
    pub told_end: Vec<bool>,
    /// When that was last said, in true time.
    pub said_end_ms: i64,
}

impl Opening {
    pub fn new(epoch: Epoch, names: Lanes, lane: impl FnMut(usize) -> Lane) -> Self {
        Self {
            epoch,
            lanes: (0..names.count()).map(lane).collect(),
            cut_ms: vec![None; names.count()],
            told_end: vec![false; usize::from(names.shards)],
            said_end_ms: i64::MIN,
        }
    }

    /// Events and records that the broker has not acknowledged.
    pub fn unacked(&self) -> u64 {
        self.lanes.iter().map(Lane::unacked).sum()
    }

    /// When a lane's next frame is to be cut, in true time; none before something lands or comes.
    pub fn due_ms(&self, lane: usize, max_bytes: usize, true_ms: i64) -> Option<i64> {
        let since = self.cut_ms[lane].map(|at| Duration::from_millis(true_ms.abs_diff(at)));
        let left = self.lanes[lane].cut_in(max_bytes, since)?;
        Some(true_ms + left.as_millis() as i64)
    }
}
