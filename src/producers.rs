//! Who writes the log: what every producer's epochs announced, beside what the shards have applied of it.
//!
//! A counter that the broker acknowledged and that no shard has is lost data; this is where an operator sees it.

use std::collections::BTreeMap;

use adtally_streams::event::Kind;
use adtally_streams::time::to_rfc3339;
use serde::{Deserialize, Serialize};

use crate::projector::reports::{self, ProducerReport};
use crate::store::{Shards, StoreError};

/// Events of one kind under one epoch, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Answered, as far as announced.
    pub accepted: u64,
    /// Acknowledged by the broker, as announced.
    pub acknowledged: u64,
    /// Applied by the shards.
    pub applied: u64,
    /// Acknowledged and not applied: lost.
    pub missing: u64,
    /// Answered, and on their way.
    pub outstanding: u64,
}

/// One epoch of one producer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The producer.
    pub producer: String,
    /// Its epoch.
    pub epoch: String,
    /// Everything that it accepted up to here is acknowledged; RFC 3339.
    pub through: Option<String>,
    /// Whether it is closed, so that it no longer holds back completeness.
    pub drained: bool,
    /// Log time of its first message.
    pub first_seen: String,
    /// Log time of its last message.
    pub last_seen: String,
    /// By kind.
    pub kinds: BTreeMap<String, Lane>,
}

impl Row {
    /// The sums over all kinds.
    pub fn total(&self) -> Lane {
        self.kinds.values().fold(Lane::default(), |mut sum, lane| {
            sum.add(lane);
            sum
        })
    }
}

impl Lane {
    fn add(&mut self, other: &Lane) {
        self.accepted += other.accepted;
        self.acknowledged += other.acknowledged;
        self.applied += other.applied;
        self.missing += other.missing;
        self.outstanding += other.outstanding;
    }
}

/// What is gathered of one epoch over the shards.
struct Sum {
    through_ms: i64,
    drained: bool,
    first_seen_ms: i64,
    last_seen_ms: i64,
    lanes: [Lane; Kind::ALL.len()],
}

/// Every epoch of every producer, those that are open first, then the newest. Blocks.
pub fn list(shards: &Shards) -> Result<Vec<Row>, StoreError> {
    let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
    for shard in shards.iter() {
        let snapshot = shard.snapshot()?;
        for report in reports::producers(&snapshot)? {
            let lanes = lanes(&report);
            let producer = report.producer;
            let name = (producer.producer.to_string(), producer.epoch.to_string());
            match sums.entry(name) {
                std::collections::btree_map::Entry::Vacant(entry) => {
                    entry.insert(Sum {
                        through_ms: producer.watermark.through_ms,
                        drained: producer.watermark.drained,
                        first_seen_ms: producer.first_seen_ms,
                        last_seen_ms: producer.last_seen_ms,
                        lanes,
                    });
                }
                std::collections::btree_map::Entry::Occupied(mut entry) => {
                    let sum = entry.get_mut();
                    sum.through_ms = sum.through_ms.min(producer.watermark.through_ms);
                    sum.drained &= producer.watermark.drained;
                    sum.first_seen_ms = sum.first_seen_ms.min(producer.first_seen_ms);
                    sum.last_seen_ms = sum.last_seen_ms.max(producer.last_seen_ms);
                    sum.lanes.iter_mut().zip(&lanes).for_each(|(a, b)| a.add(b));
                }
            }
        }
    }
    let mut sums: Vec<_> = sums.into_iter().collect();
    sums.sort_by_key(|(_, sum)| (sum.drained, std::cmp::Reverse(sum.last_seen_ms)));
    Ok(sums.into_iter().map(row).collect())
}

fn row(((producer, epoch), sum): ((String, String), Sum)) -> Row {
    Row {
        producer,
        epoch,
        through: (sum.through_ms > i64::MIN).then(|| to_rfc3339(sum.through_ms)),
        drained: sum.drained,
        first_seen: to_rfc3339(sum.first_seen_ms),
        last_seen: to_rfc3339(sum.last_seen_ms),
        kinds: Kind::ALL
            .into_iter()
            .map(|k| (k.name().to_string(), sum.lanes[k as usize]))
            .collect(),
    }
}

fn lanes(report: &ProducerReport) -> [Lane; Kind::ALL.len()] {
    Kind::ALL.map(|kind| Lane {
        accepted: report.producer.watermark.heads[kind as usize],
        acknowledged: report.producer.watermark.acked[kind as usize],
        applied: report.applied[kind as usize],
        missing: report.gaps[kind as usize].lost_events(),
        outstanding: report.gaps[kind as usize].outstanding_events(),
    })
}
