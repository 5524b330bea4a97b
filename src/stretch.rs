//! Stretches of counters: how a gap of the log, what an outbox still holds and what is sent again are named.
//!
//! A message id ends in `<first>-<last>`, so a stretch has both ends in it wherever people read or type it.

use std::str::FromStr;

use adtally_streams::event::Kind;
use adtally_streams::id::Epoch;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Counters `first` to `last`, both included, of one lane of an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Stretch {
    /// The epoch, in JSON as people see it: sixteen hexadecimal digits.
    #[serde(serialize_with = "put_epoch", deserialize_with = "read_epoch")]
    pub epoch: Epoch,
    /// The lane's shard.
    pub shard: u16,
    /// The lane's kind.
    pub kind: Kind,
    /// First counter.
    pub first: u64,
    /// Last counter, at least `first`.
    pub last: u64,
}

impl Stretch {
    /// How many counters it holds.
    pub fn events(&self) -> u64 {
        self.last - self.first + 1
    }

    /// The same lane from one counter up to another; none when that is empty.
    pub fn part(&self, from: u64, until: u64) -> Option<Stretch> {
        (from < until).then(|| Stretch {
            first: from,
            last: until - 1,
            ..*self
        })
    }

    fn same_lane(&self, other: &Stretch) -> bool {
        (self.epoch, self.shard, self.kind) == (other.epoch, other.shard, other.kind)
    }

    /// What of it none of `held` has, ascending.
    pub fn without(&self, held: &[Stretch]) -> Vec<Stretch> {
        let mut held: Vec<_> = held
            .iter()
            .filter(|h| h.same_lane(self) && h.last >= self.first && h.first <= self.last)
            .collect();
        held.sort();
        let (mut left, mut next) = (Vec::new(), self.first);
        for h in held {
            left.extend(self.part(next, h.first));
            next = next.max(h.last.saturating_add(1));
        }
        left.extend(self.part(next, self.last.saturating_add(1)));
        left
    }
}

impl std::fmt::Display for Stretch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} {} to {} of shard {}",
            self.kind, self.first, self.last, self.shard
        )
    }
}

/// How many counters they hold together.
pub fn events(stretches: &[Stretch]) -> u64 {
    stretches.iter().map(Stretch::events).sum()
}

fn put_epoch<S: Serializer>(epoch: &Epoch, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(epoch)
}

fn read_epoch<'de, D: Deserializer<'de>>(d: D) -> Result<Epoch, D::Error> {
    Epoch::from_str(&String::deserialize(d)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn stretch(shard: u16, first: u64, last: u64) -> Stretch {
        Stretch {
            epoch: Epoch(0xab),
            shard,
            kind: Kind::Click,
            first,
            last,
        }
    }

    #[test]
    fn what_is_held_is_taken_out_and_other_lanes_are_not() {
        let gap = stretch(1, 10, 20);
        assert_eq!(gap.events(), 11);
        assert_eq!(gap.without(&[]), [gap]);
        assert_eq!(gap.without(&[stretch(2, 0, 99)]), [gap]);
        assert_eq!(gap.without(&[stretch(1, 0, 99)]), []);
        let held = [stretch(1, 18, 30), stretch(1, 12, 12), stretch(1, 3, 9)];
        let left = [stretch(1, 10, 11), stretch(1, 13, 17)];
        assert_eq!(gap.without(&held), left);
        let to_the_end = stretch(1, 5, u64::MAX);
        assert_eq!(
            to_the_end.without(&[stretch(1, 7, u64::MAX)]),
            [stretch(1, 5, 6)]
        );
    }

    #[test]
    fn an_epoch_is_its_digits_in_json() {
        let text = serde_json::to_string(&stretch(3, 1, 2)).unwrap();
        assert_eq!(
            text,
            r#"{"epoch":"00000000000000ab","shard":3,"kind":"click","first":1,"last":2}"#
        );
        assert_eq!(
            serde_json::from_str::<Stretch>(&text).unwrap(),
            stretch(3, 1, 2)
        );
    }
}
