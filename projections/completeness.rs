//! Completeness: who writes the log, how far each says it has sent everything, and what is missing of it.
//!
//! Invariant: rows are maxima over what a producer announced, so order and repetition change nothing. A producer
//! holds back what is complete until it says `drained`; an operator retires one by announcing that in its place.

use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::watermark::Watermark;

use crate::codec::{Damaged, Reader, put_bytes, put_u64, put_varint};
use crate::ledger::Intervals;

/// How long an epoch that has said that it is done must have been silent, in milliseconds of log time, before what it
/// announced and never sent counts as lost. A live one is heard every few seconds.
pub const SETTLED_AFTER_MS: i64 = 30_000;

/// One epoch of a producer, as a shard's log tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Who.
    pub producer: Id,
    /// Which opening of its outbox.
    pub epoch: Epoch,
    /// The latest of everything it announced.
    pub watermark: Watermark,
    /// Log time of its first message, Unix milliseconds.
    pub first_seen_ms: i64,
    /// Log time of its last message, Unix milliseconds.
    pub last_seen_ms: i64,
    /// By [`Kind`]: events that were read and could not be counted; each frame with such ones has a record.
    pub refused: [u64; Kind::ALL.len()],
    /// An operator's word that nothing more will come.
    pub retired: Option<Retirement>,
}

/// An operator's word that an epoch, whose machine or disk is gone for good, will never send again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retirement {
    /// Its log time, Unix milliseconds.
    pub at_ms: i64,
    /// Why, in the operator's words.
    pub reason: String,
}

/// Row in [`crate::family::Family::Completeness`].
pub fn key(out: &mut Vec<u8>, producer: &Id, epoch: Epoch) {
    put_bytes(out, producer.as_str().as_bytes());
    put_u64(out, epoch.0);
}

impl Producer {
    /// A producer that is seen for the first time.
    pub fn new(producer: &Id, epoch: Epoch, log_time_ms: i64) -> Self {
        let watermark = Watermark {
            through_ms: i64::MIN,
            ..Watermark::default()
        };
        Self {
            producer: producer.clone(),
            epoch,
            watermark,
            first_seen_ms: log_time_ms,
            last_seen_ms: log_time_ms,
            refused: Default::default(),
            retired: None,
        }
    }

    /// Takes in what a message of its announces.
    pub fn take(&mut self, watermark: &Watermark, log_time_ms: i64) {
        self.watermark.merge(watermark);
        self.last_seen_ms = self.last_seen_ms.max(log_time_ms);
    }

    /// Takes in that an operator has retired it. The first such word in the log counts.
    pub fn retire(&mut self, reason: &str, log_time_ms: i64) {
        self.retired.get_or_insert_with(|| Retirement {
            at_ms: log_time_ms,
            reason: reason.to_owned(),
        });
    }

    /// Whether what it announced and never sent will not come any more: it is retired, or it has said that it is
    /// done and has been silent for [`SETTLED_AFTER_MS`] since. (A cloned disk says that of an epoch which its
    /// original still writes, and then it is not silent.)
    pub fn is_settled(&self, log_time_ms: i64) -> bool {
        let silent_ms = log_time_ms.saturating_sub(self.last_seen_ms);
        self.retired.is_some() || (self.watermark.drained && silent_ms >= SETTLED_AFTER_MS)
    }

    /// Appends the row's value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u64(out, self.watermark.through_ms as u64);
        self.watermark
            .acked
            .iter()
            .for_each(|n| put_varint(out, *n));
        self.watermark
            .heads
            .iter()
            .for_each(|n| put_varint(out, *n));
        out.push(u8::from(self.watermark.drained));
        put_u64(out, self.first_seen_ms as u64);
        put_u64(out, self.last_seen_ms as u64);
        self.refused.iter().for_each(|n| put_varint(out, *n));
        if let Some(retired) = &self.retired {
            put_u64(out, retired.at_ms as u64);
            put_bytes(out, retired.reason.as_bytes());
        }
    }

    /// Reads a row.
    pub fn decode(key: &[u8], value: &[u8]) -> Result<Self, Damaged> {
        let mut k = Reader::new(key, "producer");
        let producer = Id::new(k.text()?).map_err(|_| k.damaged())?;
        let epoch = Epoch(k.u64()?);
        k.end()?;
        let mut v = Reader::new(value, "producer");
        let mut watermark = Watermark {
            through_ms: v.u64()? as i64,
            ..Watermark::default()
        };
        for n in &mut watermark.acked {
            *n = v.varint()?;
        }
        for n in &mut watermark.heads {
            *n = v.varint()?;
        }
        watermark.drained = v.u8()? != 0;
        let mut row = Self {
            producer,
            epoch,
            watermark,
            first_seen_ms: v.u64()? as i64,
            last_seen_ms: v.u64()? as i64,
            refused: Default::default(),
            retired: None,
        };
        // A row that an earlier version wrote ends here.
        if !v.rest().is_empty() {
            for n in &mut row.refused {
                *n = v.varint()?;
            }
        }
        if !v.rest().is_empty() {
            row.retired = Some(Retirement {
                at_ms: v.u64()? as i64,
                reason: v.text()?.to_owned(),
            });
        }
        v.end()?;
        Ok(row)
    }
}

/// The arrival time up to which a shard holds everything that was answered, in Unix milliseconds: the least
/// watermark of producers that are not drained; where all are, the greatest. None before the first message.
///
/// Of several shards the least counts.
pub fn complete_through<'a>(producers: impl Iterator<Item = &'a Producer> + Clone) -> Option<i64> {
    let open = producers
        .clone()
        .filter(|p| !p.watermark.drained)
        .map(|p| p.watermark.through_ms)
        .min();
    open.or_else(|| producers.map(|p| p.watermark.through_ms).max())
}

/// What is missing of one lane of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gap {
    /// Counters that the broker acknowledged to the producer and that the log does not have: lost data.
    pub lost: Vec<(u64, u64)>,
    /// Counters that were answered and are on their way.
    pub outstanding: Vec<(u64, u64)>,
}

impl Gap {
    /// How many counters are lost.
    pub fn lost_events(&self) -> u64 {
        self.lost.iter().map(|(a, b)| b - a).sum()
    }

    /// How many are on their way.
    pub fn outstanding_events(&self) -> u64 {
        self.outstanding.iter().map(|(a, b)| b - a).sum()
    }
}

/// What is missing of a lane, given what the ledger has of it.
///
/// A frame that came after the watermark was cut is no gap; a frame that failed its checksum is one. Of an epoch
/// that is settled at `log_time_ms`, what was on its way is lost.
pub fn gap(producer: &Producer, kind: Kind, applied: &Intervals, log_time_ms: i64) -> Gap {
    let (acked, head) = (
        producer.watermark.acked[kind as usize],
        producer.watermark.heads[kind as usize],
    );
    let head = head.max(acked);
    let lost_below = if producer.is_settled(log_time_ms) {
        head
    } else {
        acked
    };
    Gap {
        lost: applied.missing(0, lost_below),
        outstanding: applied.missing(lost_below, head),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{gap as missing, *};

    fn producer(through_ms: i64, drained: bool) -> Producer {
        let mut p = Producer::new(&Id::new("collector-1").unwrap(), Epoch(7), 50);
        p.take(
            &Watermark {
                through_ms,
                acked: [4, 0, 0],
                heads: [6, 2, 0],
                drained,
            },
            60,
        );
        p
    }

    #[test]
    fn the_least_open_watermark_counts_and_the_greatest_once_all_are_drained() {
        let through = |all: &[Producer]| complete_through(all.iter());
        assert_eq!(through(&[]), None);
        assert_eq!(
            through(&[producer(5, true), producer(9, false), producer(12, false)]),
            Some(9)
        );
        assert_eq!(through(&[producer(5, true), producer(9, true)]), Some(9));
    }

    #[test]
    fn what_is_acked_and_missing_is_lost_and_the_rest_is_on_its_way() {
        let mut applied = Intervals::default();
        applied.insert(0, 2);
        applied.insert(3, 5);
        let gap = missing(&producer(0, false), Kind::Impression, &applied, 60);
        assert_eq!(
            gap,
            Gap {
                lost: vec![(2, 3)],
                outstanding: vec![(5, 6)]
            }
        );
        assert_eq!(
            missing(&producer(0, false), Kind::Click, &Intervals::default(), 60)
                .outstanding_events(),
            2
        );
    }

    #[test]
    fn a_row_returns_and_later_announcements_only_raise_it() {
        let mut p = producer(5, false);
        p.take(
            &Watermark {
                through_ms: 3,
                acked: [1, 1, 0],
                heads: [9, 0, 0],
                drained: false,
            },
            40,
        );
        assert_eq!(
            p.watermark,
            Watermark {
                through_ms: 5,
                acked: [4, 1, 0],
                heads: [9, 2, 0],
                drained: false
            }
        );
        let (mut k, mut v) = (Vec::new(), Vec::new());
        key(&mut k, &p.producer, p.epoch);
        p.encode(&mut v);
        assert_eq!(Producer::decode(&k, &v), Ok(p.clone()));
        let earlier_version = &v[..v.len() - 3];
        assert_eq!(Producer::decode(&k, earlier_version), Ok(p.clone()));
        p.refused = [0, 300, 1];
        p.retire("the machine burned", 70);
        p.retire("a second word", 80);
        v.clear();
        p.encode(&mut v);
        assert_eq!(Producer::decode(&k, &v), Ok(p.clone()));
        let first = Retirement {
            at_ms: 70,
            reason: "the machine burned".to_owned(),
        };
        assert_eq!(p.retired, Some(first));
    }

    #[test]
    fn what_a_settled_epoch_had_on_its_way_is_lost() {
        let mut applied = Intervals::default();
        applied.insert(0, 4);
        let lost = |p: &Producer, at_ms| missing(p, Kind::Impression, &applied, at_ms).lost;
        let on_its_way = producer(0, false);
        assert_eq!(lost(&on_its_way, 1_000_000), []);
        let mut retired = on_its_way.clone();
        retired.retire("gone", 70);
        assert_eq!(lost(&retired, 70), [(4, 6)]);
        let drained = producer(0, true);
        assert_eq!(lost(&drained, 30_059), [], "it may be a clone's word");
        assert_eq!(lost(&drained, 30_060), [(4, 6)]);
    }
}
