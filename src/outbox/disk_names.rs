//! How an outbox names its rows: lanes, runs and positions in keys, and what is remembered of an epoch.

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use serde::{Deserialize, Serialize};

/// A lane as keys name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct LaneKey {
    shard: u16,
    kind: u8,
}

impl LaneKey {
    /// The lane of refused events, which no shard has.
    pub const QUARANTINE: LaneKey = LaneKey {
        shard: u16::MAX,
        kind: u8::MAX,
    };

    pub fn events(shard: u16, kind: Kind) -> Self {
        Self {
            shard,
            kind: kind as u8,
        }
    }

    /// Its shard; none for refused events.
    pub fn shard(self) -> Option<u16> {
        (self != Self::QUARANTINE).then_some(self.shard)
    }

    /// Its kind; none for refused events.
    pub fn kind(self) -> Option<Kind> {
        Kind::from_number(self.kind)
    }
}

impl std::fmt::Display for LaneKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind() {
            Some(kind) => write!(f, "{kind} lane of shard {}", self.shard),
            None => f.write_str("lane of refused events"),
        }
    }
}

/// Counters of a lane that are lost for good: a salvage could not read them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LostRun {
    shard: u16,
    kind: u8,
    /// The first one.
    first: u64,
    /// The first one past them.
    end: u64,
}

impl LostRun {
    pub fn of(lane: LaneKey, first: u64, end: u64) -> Self {
        Self {
            shard: lane.shard,
            kind: lane.kind,
            first,
            end,
        }
    }
}

/// What is remembered of an opening.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EpochRecord {
    pub epoch: Epoch,
    pub shards: u16,
    pub opened_ms: i64,
    /// The log has been told that nothing more will come from it.
    #[serde(default)]
    pub drained: bool,
    /// What of it is lost for good.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostRun>,
}

impl EpochRecord {
    /// What of a lane is lost for good: half-open, ascending.
    pub fn lost_of(&self, lane: LaneKey) -> Vec<(u64, u64)> {
        let of_lane = |l: &&LostRun| (l.shard, l.kind) == (lane.shard, lane.kind);
        self.lost
            .iter()
            .filter(of_lane)
            .map(|l| (l.first, l.end))
            .collect()
    }
}

pub(super) fn lane_key(epoch: Epoch, lane: LaneKey) -> [u8; 11] {
    let mut key = [0; 11];
    key[..8].copy_from_slice(&epoch.0.to_be_bytes());
    key[8..10].copy_from_slice(&lane.shard.to_be_bytes());
    key[10] = lane.kind;
    key
}

pub(super) fn run_key(epoch: Epoch, lane: LaneKey, first: u64) -> [u8; 19] {
    let mut key = [0; 19];
    key[..11].copy_from_slice(&lane_key(epoch, lane));
    key[11..].copy_from_slice(&first.to_be_bytes());
    key
}

pub(super) fn first_of(key: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(key.get(11..19)?.try_into().ok()?))
}

/// The lane of a position's key.
pub(super) fn parse_lane_key(key: &[u8]) -> Option<(Epoch, LaneKey)> {
    let (epoch, rest) = key.split_first_chunk()?;
    let ([a, b, kind], []) = rest.split_first_chunk()? else {
        return None;
    };
    let lane = LaneKey {
        shard: u16::from_be_bytes([*a, *b]),
        kind: *kind,
    };
    let is_lane = lane == LaneKey::QUARANTINE || lane.kind().is_some();
    is_lane.then_some((Epoch(u64::from_be_bytes(*epoch)), lane))
}

/// The lane and the first counter of a run's key.
pub(super) fn parse_run_key(key: &[u8]) -> Option<(Epoch, LaneKey, u64)> {
    let first = first_of(key).filter(|_| key.len() == 19)?;
    let (epoch, lane) = parse_lane_key(&key[..11])?;
    Some((epoch, lane, first))
}

pub(super) fn epoch_range(epoch: Epoch) -> (Vec<u8>, Vec<u8>) {
    let from = epoch.0.to_be_bytes().to_vec();
    let mut to = from.clone();
    // Longer than any key of the epoch.
    to.extend_from_slice(&[0xff; 20]);
    (from, to)
}
