//! From a question's range to the cells that answer it: widened bounds, the list of buckets, and the ranges of
//! minute, hour and day cells whose sum is exactly the widened range.
//!
//! Invariant: the ranges of a plan neither overlap nor leave a gap, so every event of `[start, end)` is counted
//! once whichever levels are read. Hour and day cells stand on the advertiser's clock; another clock's hours and
//! days are put together from UTC minutes.

use std::ops::Range;

use adtally_streams::time::offset_at;
use chrono_tz::Tz;
use serde::Serialize;

use crate::buckets::{
    BucketKey, DAY_MS, Granularity, HOUR_MS, MINUTE_MS, Slot, Stretch, day_close, day_number,
    day_slots, day_start, hour_extent, hour_label, hour_slots, minute_slots, stretches,
    widen_to_days,
};
use crate::cells::Grain;
use crate::spans::Horizon;

/// The most buckets of one answer (contract).
pub const MAX_BUCKETS: i64 = 10_000;
/// The longest range that is answered by minutes when no granularity is asked for.
pub const DEFAULT_MINUTES_UP_TO_MS: i64 = 6 * HOUR_MS;
/// The longest range that is answered by hours when no granularity is asked for.
pub const DEFAULT_HOURS_UP_TO_MS: i64 = 7 * DAY_MS;

/// Which cells may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// All of them: hours and days of the cells are hours and days of the question's clock.
    Civil,
    /// UTC minutes only: the cells' hours and days are another clock's.
    Minutes,
}

/// A range that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Nothing lies between the bounds.
    #[error("`end` must be later than `start`")]
    Empty,
    /// The answer would have too many buckets.
    #[error(
        "the range has more than {MAX_BUCKETS} buckets of a {}; ask for a shorter range or for a coarser granularity{}",
        .0.name(),
        if *.0 == Granularity::Day { " (total)" } else { " (hour, day or total)" }
    )]
    TooManyBuckets(Granularity),
    /// A part of the range is past its retention, and what is still kept does not divide its buckets.
    #[error("{grain} counts are kept from {since} on; {instead}")]
    NotKept {
        /// Which counts.
        grain: &'static str,
        /// From when on: an instant for minutes, else a civil day.
        since: String,
        /// What can be asked instead.
        instead: &'static str,
    },
    /// Minutes are past their retention, and an hour of the campaign's own clock is not within one bucket.
    #[error(
        "minute counts are kept from {since} on, and the hours of the advertiser's clock, which are kept longer, do not divide this range and its buckets; ask without time_zone, begin and end at whole hours, or begin there"
    )]
    Indivisible {
        /// From when on minutes are kept.
        since: String,
    },
}

/// Hour cells with labels in `[from_ms, to_ms)` under one offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HourRange {
    /// The first label.
    pub from_ms: i64,
    /// An hour after the last label.
    pub to_ms: i64,
    /// The labels' offset, in seconds east of UTC.
    pub offset_s: i32,
}

/// A part of a range whose cells are past their retention, and for which no coarser ones can be read. It counts as
/// nothing, which is exact where coarser cells say that there was nothing, and else the question is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    /// The part, as instants.
    pub part: Range<i64>,
    /// The coarser cells that tell.
    pub told_by: Grain,
    /// The refusal.
    pub refusal: PlanError,
}

/// What to read, and where it goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The buckets' size.
    pub granularity: Granularity,
    /// The clock of the answer.
    pub zone: Tz,
    /// Which cells are read.
    pub source: Source,
    /// The first instant that is counted, after widening.
    pub start_ms: i64,
    /// The instant after the last one.
    pub end_ms: i64,
    /// Day cells to read, by civil day number.
    pub days: Range<i64>,
    /// Hour cells to read.
    pub hours: Vec<HourRange>,
    /// Minute cells to read, as instants of whole minutes.
    pub minutes: Vec<Range<i64>>,
    /// Hour cells of any clock to read in place of minutes that are not kept any more, as the instants that they lie
    /// within; see [`Plan::within`].
    pub whole_hours: Vec<Range<i64>>,
    /// The first instant of which minutes are kept.
    pub(crate) minutes_from_ms: i64,
    /// Parts of the range whose own cells are gone; see [`Plan::within`].
    pub gone: Vec<Gone>,
    /// Every bucket of the answer, in order of time.
    pub slots: Vec<Slot>,
    /// The clock over the range, where minutes are put together to its hours or days.
    pub(crate) clock: Vec<Stretch>,
    /// What of the cells is kept, as far as the plan knows; see [`Plan::within`].
    pub horizon: Horizon,
}

/// The granularity of a question that names none.
pub fn default_granularity(start_ms: i64, end_ms: i64) -> Granularity {
    match end_ms.saturating_sub(start_ms) {
        length if length <= DEFAULT_MINUTES_UP_TO_MS => Granularity::Minute,
        length if length <= DEFAULT_HOURS_UP_TO_MS => Granularity::Hour,
        // Two days less than the limit, since widening adds up to two.
        length if length <= (MAX_BUCKETS - 2) * DAY_MS => Granularity::Day,
        _ => Granularity::Total,
    }
}

impl Plan {
    /// Plans `[start_ms, end_ms)`, widened to whole buckets.
    pub fn new(
        start_ms: i64,
        end_ms: i64,
        granularity: Granularity,
        zone: Tz,
        source: Source,
    ) -> Result<Self, PlanError> {
        if start_ms >= end_ms {
            return Err(PlanError::Empty);
        }
        let mut plan = Plan {
            granularity,
            zone,
            source,
            start_ms: floor_minute(start_ms),
            end_ms: ceil_minute(end_ms),
            days: 0..0,
            hours: Vec::new(),
            minutes: Vec::new(),
            whole_hours: Vec::new(),
            minutes_from_ms: i64::MIN,
            horizon: Horizon::default(),
            gone: Vec::new(),
            slots: Vec::new(),
            clock: Vec::new(),
        };
        match granularity {
            Granularity::Minute => plan.by_minutes()?,
            Granularity::Hour => plan.by_hours(start_ms, end_ms)?,
            Granularity::Day => plan.by_days(start_ms, end_ms)?,
            Granularity::Total => plan.total(),
        }
        if plan.slots.len() as i64 > MAX_BUCKETS {
            return Err(PlanError::TooManyBuckets(granularity));
        }
        Ok(plan)
    }

    fn by_minutes(&mut self) -> Result<(), PlanError> {
        self.at_most((self.end_ms - self.start_ms) / MINUTE_MS)?;
        self.slots = minute_slots(self.zone, self.start_ms, self.end_ms);
        self.minutes.push(self.start_ms..self.end_ms);
        Ok(())
    }

    fn by_hours(&mut self, start_ms: i64, end_ms: i64) -> Result<(), PlanError> {
        self.at_most((end_ms - start_ms) / HOUR_MS)?;
        (self.start_ms, self.end_ms) = (
            hour_extent(self.zone, start_ms).start,
            hour_extent(self.zone, end_ms - 1).end,
        );
        self.slots = hour_slots(self.zone, self.start_ms, self.end_ms);
        match self.source {
            Source::Civil => self.hours = hour_ranges(self.zone, self.start_ms, self.end_ms),
            Source::Minutes => self.read_minutes_on_clock(),
        }
        Ok(())
    }

    fn by_days(&mut self, start_ms: i64, end_ms: i64) -> Result<(), PlanError> {
        self.at_most((end_ms - start_ms) / DAY_MS - 2)?;
        let (days, extent) = widen_to_days(self.zone, start_ms, end_ms);
        (self.start_ms, self.end_ms) = (extent.start, extent.end);
        self.slots = day_slots(self.zone, &days);
        match self.source {
            Source::Civil => self.days = days,
            Source::Minutes => self.read_minutes_on_clock(),
        }
        Ok(())
    }

    fn total(&mut self) {
        let offset_s = offset_at(self.zone, self.start_ms);
        self.slots.push(Slot {
            key: BucketKey::TOTAL,
            time_ms: self.start_ms,
            offset_s,
        });
        let (start, end) = (self.start_ms, self.end_ms);
        if self.source == Source::Minutes {
            self.minutes.push(start..end);
        } else if let Some((days, inner)) = whole_days(self.zone, start, end) {
            self.days = days;
            self.read_edge(start, inner.start);
            self.read_edge(inner.end, end);
        } else {
            self.read_edge(start, end);
        }
    }

    /// Reads `[from, to)` by whole hours, and by minutes what is left at both ends.
    fn read_edge(&mut self, from: i64, to: i64) {
        if from >= to {
            return;
        }
        let (first, last) = (hour_extent(self.zone, from), hour_extent(self.zone, to - 1));
        let begin = if first.start == from { from } else { first.end };
        let close = if last.end == to { to } else { last.start };
        if begin >= close || begin % MINUTE_MS != 0 || close % MINUTE_MS != 0 {
            self.minutes.push(from..to);
            return;
        }
        self.hours.extend(hour_ranges(self.zone, begin, close));
        self.minutes.extend(
            [from..begin, close..to]
                .into_iter()
                .filter(|r| !r.is_empty()),
        );
    }

    fn read_minutes_on_clock(&mut self) {
        let (from, to) = (floor_minute(self.start_ms), ceil_minute(self.end_ms));
        self.clock = stretches(self.zone, from, to);
        self.minutes.push(from..to);
    }

    fn at_most(&self, buckets: i64) -> Result<(), PlanError> {
        if buckets > MAX_BUCKETS {
            Err(PlanError::TooManyBuckets(self.granularity))
        } else {
            Ok(())
        }
    }

    /// The bucket of a day cell that the plan reads.
    pub fn place_day(&self, day: i64) -> BucketKey {
        match self.granularity {
            Granularity::Total => BucketKey::TOTAL,
            _ => BucketKey {
                at: day,
                offset_s: 0,
            },
        }
    }

    /// The bucket of an hour cell that the plan reads.
    pub fn place_hour(&self, label_ms: i64, offset_s: i32) -> BucketKey {
        match self.granularity {
            Granularity::Total => BucketKey::TOTAL,
            _ => BucketKey {
                at: label_ms,
                offset_s,
            },
        }
    }

    /// The bucket of a minute cell; none outside the plan's ranges. `hint` is the caller's own and starts at 0;
    /// it makes minutes in order cheap.
    pub fn place_minute(&self, minute_ms: i64, hint: &mut usize) -> Option<BucketKey> {
        match (self.granularity, self.source) {
            (Granularity::Total, _) => return Some(BucketKey::TOTAL),
            (Granularity::Minute, _) => {
                return Some(BucketKey {
                    at: minute_ms,
                    offset_s: 0,
                });
            }
            _ => {}
        }
        let holds = |s: &Stretch| s.from_ms <= minute_ms && minute_ms < s.to_ms;
        if !self.clock.get(*hint).is_some_and(holds) {
            *hint = self.clock.partition_point(|s| s.to_ms <= minute_ms);
        }
        let offset_s = self.clock.get(*hint).filter(|s| holds(s))?.offset_s;
        // A minute across the seam of a bucket, as old local mean times have them, goes where it begins.
        let begins_ms = minute_ms.max(self.start_ms);
        Some(match self.granularity {
            Granularity::Hour => BucketKey {
                at: hour_label(begins_ms, offset_s),
                offset_s,
            },
            _ => BucketKey {
                at: day_number(begins_ms, offset_s),
                offset_s: 0,
            },
        })
    }
}

fn floor_minute(ms: i64) -> i64 {
    ms.div_euclid(MINUTE_MS) * MINUTE_MS
}

fn ceil_minute(ms: i64) -> i64 {
    floor_minute(ms + MINUTE_MS - 1)
}

/// The hour cells of `[from_ms, to_ms)`, whose bounds are those of hours.
fn hour_ranges(zone: Tz, from_ms: i64, to_ms: i64) -> Vec<HourRange> {
    stretches(zone, from_ms, to_ms)
        .into_iter()
        .map(|s| HourRange {
            from_ms: hour_label(s.from_ms, s.offset_s),
            to_ms: hour_label(s.to_ms - 1, s.offset_s) + HOUR_MS,
            offset_s: s.offset_s,
        })
        .collect()
}

/// The civil days all of whose instants lie in `[start, end)`, and their extent; none when there is no such day.
///
/// Only days whose seams are whole minutes of UTC, and at which no clock is set back over midnight, are cut at:
/// what is left over must be a plain interval of whole minutes.
fn whole_days(zone: Tz, start: i64, end: i64) -> Option<(Range<i64>, Range<i64>)> {
    let seam = |day: i64| {
        let at = day_start(zone, day);
        (at % MINUTE_MS == 0 && day_close(zone, day) == at).then_some((day, at))
    };
    let first = day_number(start, offset_at(zone, start));
    let last = day_number(end, offset_at(zone, end));
    let (from, from_ms) = (first..=first + 2)
        .filter_map(seam)
        .find(|(_, at)| *at >= start)?;
    let (to, to_ms) = (last - 1..=last + 1)
        .rev()
        .filter_map(seam)
        .find(|(_, at)| *at <= end)?;
    (from < to).then_some((from..to, from_ms..to_ms))
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
