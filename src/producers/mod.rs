//! Who writes the log: what every producer's epochs announced, beside what is applied of it.
//!
//! A counter that the broker acknowledged and that is not there is lost data; this is where an operator sees it. The
//! same rows come from a projector's state ([`list`]) and from the log itself ([`from_log`]).

pub mod from_log;
pub mod holders;

use std::collections::BTreeMap;

use adtally_projections::completeness::Retirement;
use adtally_streams::event::Kind;
use adtally_streams::id::{Epoch, Id};
use adtally_streams::time::to_rfc3339;
use serde::{Deserialize, Serialize};

use crate::projector::reports::{self, ProducerReport};
use crate::store::{Shards, StoreError};
use crate::stretch::Stretch;

/// Gaps that are named one by one, over all epochs, those that are lost first; the figures count the others too.
pub const MAX_GAPS: usize = 10_000;

/// Events of one kind under one epoch, over all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lane {
    /// Answered, as far as announced.
    pub accepted: u64,
    /// Acknowledged by the broker, as announced.
    pub acknowledged: u64,
    /// Applied by the shards.
    pub applied: u64,
    /// Acknowledged and not applied, or announced by an epoch that is over: lost.
    pub missing: u64,
    /// Answered, and on their way.
    pub outstanding: u64,
    /// Read and not countable; of each frame with such ones there is a record.
    #[serde(default)]
    pub refused: u64,
}

/// How an epoch stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It may send more, and holds completeness back.
    Open,
    /// It said that nothing more will come.
    Drained,
    /// An operator said so in its place.
    Retired,
}

impl State {
    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Drained => "drained",
            State::Retired => "retired",
        }
    }
}

/// What became of a gap's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// Lost, unless an outbox still holds them.
    Lost,
    /// Answered, and on their way.
    InFlight,
}

/// Counters that are not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// Which.
    #[serde(flatten)]
    pub stretch: Stretch,
    /// Why.
    pub fate: Fate,
    /// How many of them an outbox that answered still holds.
    #[serde(default)]
    pub healable: u64,
    /// Those outboxes.
    #[serde(default)]
    pub held_by: Vec<String>,
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
    /// Whether it no longer holds back completeness.
    pub drained: bool,
    /// Why it does or does not.
    pub state: State,
    /// When an operator retired it; RFC 3339, log time.
    pub retired_at: Option<String>,
    /// And why.
    pub retired_reason: Option<String>,
    /// Log time of its first message.
    pub first_seen: String,
    /// Log time of its last message.
    pub last_seen: String,
    /// The same, Unix milliseconds.
    pub last_seen_ms: i64,
    /// By kind.
    pub kinds: BTreeMap<String, Lane>,
    /// What is not there, at most [`MAX_GAPS`] of all rows.
    pub gaps: Vec<Gap>,
}

impl Row {
    /// The sums over all kinds.
    pub fn total(&self) -> Lane {
        self.kinds.values().fold(Lane::default(), |mut sum, lane| {
            sum.add(lane);
            sum
        })
    }

    /// Its lost stretches, as far as they are named.
    pub fn lost(&self) -> impl Iterator<Item = &Stretch> {
        let lost = |gap: &&Gap| gap.fate == Fate::Lost;
        self.gaps.iter().filter(lost).map(|gap| &gap.stretch)
    }
}

impl Lane {
    fn add(&mut self, other: &Lane) {
        self.accepted += other.accepted;
        self.acknowledged += other.acknowledged;
        self.applied += other.applied;
        self.missing += other.missing;
        self.outstanding += other.outstanding;
        self.refused += other.refused;
    }
}

/// What is gathered of one epoch over the shards.
struct Sum {
    through_ms: i64,
    drained: bool,
    retired: Option<Retirement>,
    first_seen_ms: i64,
    last_seen_ms: i64,
    lanes: [Lane; Kind::ALL.len()],
    gaps: Vec<Gap>,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            through_ms: i64::MAX,
            drained: true,
            retired: None,
            first_seen_ms: i64::MAX,
            last_seen_ms: i64::MIN,
            lanes: Default::default(),
            gaps: Vec::new(),
        }
    }
}

/// Adds up what shards report.
#[derive(Default)]
pub struct Sums(BTreeMap<(Id, Epoch), Sum>);

impl Sums {
    /// Takes in what a shard reports of an epoch.
    pub fn add(&mut self, shard: u16, report: ProducerReport) {
        let producer = report.producer;
        let sum = self
            .0
            .entry((producer.producer, producer.epoch))
            .or_default();
        sum.through_ms = sum.through_ms.min(producer.watermark.through_ms);
        sum.drained &= producer.watermark.drained;
        sum.first_seen_ms = sum.first_seen_ms.min(producer.first_seen_ms);
        sum.last_seen_ms = sum.last_seen_ms.max(producer.last_seen_ms);
        sum.retired = sum.retired.take().or(producer.retired);
        for kind in Kind::ALL {
            let (k, gap) = (kind as usize, &report.gaps[kind as usize]);
            sum.lanes[k].add(&Lane {
                accepted: producer.watermark.heads[k],
                acknowledged: producer.watermark.acked[k],
                applied: report.applied[k],
                missing: gap.lost_events(),
                outstanding: gap.outstanding_events(),
                refused: producer.refused[k],
            });
            for (fate, stretches) in [(Fate::Lost, &gap.lost), (Fate::InFlight, &gap.outstanding)] {
                sum.gaps.extend(stretches.iter().map(|(from, until)| Gap {
                    stretch: Stretch {
                        epoch: producer.epoch,
                        shard,
                        kind,
                        first: *from,
                        last: *until - 1,
                    },
                    fate,
                    healable: 0,
                    held_by: Vec::new(),
                }));
            }
        }
    }

    /// Every epoch of every producer, those that are open first, then the newest.
    pub fn rows(self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.0.into_iter().map(row).collect();
        rows.sort_by_key(|row| (row.state, std::cmp::Reverse(row.last_seen_ms)));
        let mut room = MAX_GAPS;
        for row in &mut rows {
            row.gaps.sort_by_key(|gap| (gap.fate, gap.stretch));
            row.gaps.truncate(room);
            room -= row.gaps.len();
        }
        rows
    }
}

fn row(((producer, epoch), sum): ((Id, Epoch), Sum)) -> Row {
    Row {
        producer: producer.to_string(),
        epoch: epoch.to_string(),
        through: (sum.through_ms > 0).then(|| to_rfc3339(sum.through_ms)),
        drained: sum.drained,
        state: match (&sum.retired, sum.drained) {
            (Some(_), _) => State::Retired,
            (None, true) => State::Drained,
            (None, false) => State::Open,
        },
        retired_at: sum.retired.as_ref().map(|r| to_rfc3339(r.at_ms)),
        retired_reason: sum.retired.map(|r| r.reason),
        first_seen: to_rfc3339(sum.first_seen_ms),
        last_seen: to_rfc3339(sum.last_seen_ms),
        last_seen_ms: sum.last_seen_ms,
        kinds: Kind::ALL
            .into_iter()
            .map(|k| (k.name().to_string(), sum.lanes[k as usize]))
            .collect(),
        gaps: sum.gaps,
    }
}

/// Every epoch of every producer, as the shards' state has it. Blocks.
pub fn list(shards: &Shards) -> Result<Vec<Row>, StoreError> {
    let mut sums = Sums::default();
    for shard in shards.set().iter() {
        for report in reports::producers(&shard.snapshot()?)? {
            sums.add(shard.number(), report);
        }
    }
    Ok(sums.rows())
}
