//! How the lanes of an epoch are numbered: by shard and kind, and last the one of refused events.

use crate::event::Kind;

const KINDS: usize = Kind::ALL.len();

/// The lanes of an epoch of so many shards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes {
    /// Shards of the deployment when the epoch was opened.
    pub shards: u16,
}

impl Lanes {
    /// The lane of a shard's events of a kind.
    pub fn of(self, shard: u16, kind: Kind) -> usize {
        usize::from(shard) * KINDS + kind as usize
    }

    /// The lane of refused events, which is the last.
    pub fn quarantine(self) -> usize {
        usize::from(self.shards) * KINDS
    }

    /// How many there are.
    pub fn count(self) -> usize {
        self.quarantine() + 1
    }

    /// Shard and kind of a lane; none for that of refused events.
    pub fn shard_and_kind(self, lane: usize) -> Option<(u16, Kind)> {
        (lane < self.quarantine()).then(|| ((lane / KINDS) as u16, Kind::ALL[lane % KINDS]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_has_a_number_of_its_own() {
        let lanes = Lanes { shards: 3 };
        let numbers: Vec<_> = (0..3)
            .flat_map(|shard| Kind::ALL.map(|kind| lanes.of(shard, kind)))
            .collect();
        assert_eq!(numbers, (0..9).collect::<Vec<_>>());
        assert_eq!((lanes.quarantine(), lanes.count()), (9, 10));
        assert_eq!(lanes.shard_and_kind(7), Some((2, Kind::Click)));
        assert_eq!(lanes.shard_and_kind(9), None);
    }
}
