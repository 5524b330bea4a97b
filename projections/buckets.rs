//! Buckets of time on a zone's clock: which one an instant falls into, where each begins, and all of a range.
//!
//! Invariant: every instant falls into exactly one minute, one hour and one day, under the UTC offset in force
//! then. A day has 23 to 25 hours; a change of the clock by half an hour leaves a half hour under its own label.
//! All of it is computed from stretches of constant offset, so no rule is special-cased.

use std::ops::Range;

use adtally_streams::time::{civil_day, hour_bucket, offset_at};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// Milliseconds of a minute.
pub const MINUTE_MS: i64 = 60_000;
/// Milliseconds of an hour.
pub const HOUR_MS: i64 = 3_600_000;
/// Milliseconds of a day of 24 hours.
pub const DAY_MS: i64 = 86_400_000;
/// How far apart a zone's offset is looked at when its changes are searched for. No zone has ever changed its
/// clock twice within this time.
const SAMPLE_MS: i64 = 6 * HOUR_MS;
/// How far a zone's clock can be from UTC, with room for a zone that moves over the date line.
const OFFSET_REACH_MS: i64 = 27 * HOUR_MS;

/// How fine the answer's buckets are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Granularity {
    /// Minutes of UTC.
    Minute,
    /// Hours of the zone's clock.
    Hour,
    /// Days of the zone's clock.
    Day,
    /// The whole range as one bucket.
    Total,
}

impl Granularity {
    /// Every granularity, the finest first.
    pub const ALL: [Granularity; 4] = [
        Granularity::Minute,
        Granularity::Hour,
        Granularity::Day,
        Granularity::Total,
    ];

    /// The name in a question.
    pub fn name(self) -> &'static str {
        match self {
            Granularity::Minute => "minute",
            Granularity::Hour => "hour",
            Granularity::Day => "day",
            Granularity::Total => "total",
        }
    }

    /// The granularity of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|g| g.name() == name)
    }
}

/// Names a bucket of one granularity.
///
/// `at` is a minute's or an hour label's instant in milliseconds, a day's civil day number, or 0 for the total;
/// `offset_s` is the offset under which an hour is labelled, else 0. Two hours can share a label instant under
/// different offsets where a clock changes at one minute past midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey {
    /// Instant or day number.
    pub at: i64,
    /// Offset of an hour's label, in seconds east of UTC.
    pub offset_s: i32,
}

impl BucketKey {
    /// The one bucket of a total.
    pub const TOTAL: BucketKey = BucketKey { at: 0, offset_s: 0 };
}

/// A bucket of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub key: BucketKey,
    /// What is printed as its time, in milliseconds: an hour's label, a day's first instant.
    pub time_ms: i64,
    /// The offset with which it is printed, in seconds east of UTC.
    pub offset_s: i32,
}

/// A stretch of time `[from_ms, to_ms)` under one UTC offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Its first instant.
    pub from_ms: i64,
    /// The instant after its last.
    pub to_ms: i64,
    /// Seconds east of UTC.
    pub offset_s: i32,
}

/// The stretches of constant offset that make up `[from_ms, to_ms)`, in order.
pub fn stretches(zone: Tz, from_ms: i64, to_ms: i64) -> Vec<Stretch> {
    let mut out: Vec<Stretch> = Vec::new();
    if from_ms >= to_ms {
        return out;
    }
    let mut current = Stretch {
        from_ms,
        to_ms,
        offset_s: offset_at(zone, from_ms),
    };
    let mut at = from_ms;
    while zone != Tz::UTC && at < to_ms - 1 {
        let next = (at + SAMPLE_MS).min(to_ms - 1);
        let offset_s = offset_at(zone, next);
        if offset_s != current.offset_s {
            let change = first_with(zone, at, next, offset_s);
            out.push(Stretch {
                to_ms: change,
                ..current
            });
            current = Stretch {
                from_ms: change,
                to_ms,
                offset_s,
            };
        }
        at = next;
    }
    out.push(current);
    out
}

/// The first instant in `(low, high]` with the offset that holds at `high` and not at `low`.
fn first_with(zone: Tz, mut low: i64, mut high: i64, offset_s: i32) -> i64 {
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if offset_at(zone, middle) == offset_s {
            high = middle
        } else {
            low = middle
        }
    }
    high
}

/// The label of the clock hour that holds `t_ms` under an offset: the instant at which such a clock shows it.
pub fn hour_label(t_ms: i64, offset_s: i32) -> i64 {
    hour_bucket(t_ms, offset_s).0 * 1_000
}

/// The civil day number, counted from 1970-01-01, that a clock under an offset shows at `t_ms`.
pub fn day_number(t_ms: i64, offset_s: i32) -> i64 {
    i64::from(civil_day(t_ms, offset_s))
}

/// The first instant at which the zone's clock shows `local_ms` (milliseconds since 1970-01-01T00:00 of that
/// clock) or later. A time that the clock shows twice is the first one; one that it skips, the instant of the
/// change.
pub fn first_showing(zone: Tz, local_ms: i64) -> i64 {
    stretches(zone, local_ms - OFFSET_REACH_MS, local_ms + OFFSET_REACH_MS)
        .into_iter()
        .find_map(|s| {
            let t = s.from_ms.max(local_ms - i64::from(s.offset_s) * 1_000);
            (t < s.to_ms).then_some(t)
        })
        .expect("a zone's clock is never further than a day from UTC")
}

/// The instant after the last one at which the zone's clock shows less than `local_ms`. It differs from
/// [`first_showing`] only where a clock was set back over that very time.
fn last_before(zone: Tz, local_ms: i64) -> i64 {
    stretches(zone, local_ms - OFFSET_REACH_MS, local_ms + OFFSET_REACH_MS)
        .into_iter()
        .rev()
        .find_map(|s| {
            let t = s.to_ms.min(local_ms - i64::from(s.offset_s) * 1_000);
            (t > s.from_ms).then_some(t)
        })
        .expect("a zone's clock is never further than a day from UTC")
}

/// The first instant of a civil day.
pub fn day_start(zone: Tz, day: i64) -> i64 {
    first_showing(zone, day * DAY_MS)
}

/// The instant after the last one of the civil days before `day`.
pub fn day_close(zone: Tz, day: i64) -> i64 {
    last_before(zone, day * DAY_MS)
}

/// The real extent `[from, to)` of the clock hour that holds `t_ms`: an hour, or what a change of the clock left
/// of it.
pub fn hour_extent(zone: Tz, t_ms: i64) -> Range<i64> {
    let offset_s = offset_at(zone, t_ms);
    let label = hour_label(t_ms, offset_s);
    let end = label + HOUR_MS;
    let from = if offset_at(zone, label) == offset_s {
        label
    } else {
        first_with(zone, label, t_ms, offset_s)
    };
    let after = offset_at(zone, end - 1);
    let to = if after == offset_s {
        end
    } else {
        first_with(zone, t_ms, end - 1, after)
    };
    from..to
}

/// The civil days that have an instant in `[from_ms, to_ms)`, as a range of day numbers.
pub fn days_of(zone: Tz, from_ms: i64, to_ms: i64) -> Range<i64> {
    let mut first = day_number(from_ms, offset_at(zone, from_ms));
    if day_close(zone, first) > from_ms {
        // The clock is about to be set back over midnight, into the day before.
        first -= 1;
    }
    let mut end = day_number(to_ms - 1, offset_at(zone, to_ms - 1)) + 1;
    if day_start(zone, end) < to_ms {
        // It was, after the first minutes of the day after.
        end += 1;
    }
    first..end
}

/// `[from_ms, to_ms)` widened to whole civil days: their numbers, and their extent.
///
/// Where a clock was set back over midnight the days on both sides are interleaved, so neither is whole without
/// the other.
pub fn widen_to_days(zone: Tz, from_ms: i64, to_ms: i64) -> (Range<i64>, Range<i64>) {
    let mut days = days_of(zone, from_ms, to_ms);
    loop {
        let extent = day_start(zone, days.start)..day_close(zone, days.end);
        let within = days_of(zone, extent.start, extent.end);
        if within == days {
            return (days, extent);
        }
        days = within;
    }
}

/// The hours of `[from_ms, to_ms)`, in order of time. The bounds are those of hours.
pub fn hour_slots(zone: Tz, from_ms: i64, to_ms: i64) -> Vec<Slot> {
    let mut out = Vec::new();
    for s in stretches(zone, from_ms, to_ms) {
        let mut label = hour_label(s.from_ms, s.offset_s);
        while label < s.to_ms {
            let key = BucketKey {
                at: label,
                offset_s: s.offset_s,
            };
            out.push(Slot {
                key,
                time_ms: label,
                offset_s: s.offset_s,
            });
            label += HOUR_MS;
        }
    }
    out
}

/// The civil days of a range of day numbers, in order, without those that the zone's calendar skipped.
pub fn day_slots(zone: Tz, days: &Range<i64>) -> Vec<Slot> {
    let mut out: Vec<Slot> = Vec::new();
    let mut next = days.start;
    for s in stretches(zone, day_start(zone, days.start), day_close(zone, days.end)) {
        let shift = i64::from(s.offset_s) * 1_000;
        next = next.max(day_number(s.from_ms, s.offset_s));
        while next < days.end && next * DAY_MS - shift < s.to_ms {
            let time_ms = s.from_ms.max(next * DAY_MS - shift);
            out.push(Slot {
                key: BucketKey {
                    at: next,
                    offset_s: 0,
                },
                time_ms,
                offset_s: s.offset_s,
            });
            next += 1;
        }
    }
    out
}

/// The UTC minutes of `[from_ms, to_ms)`, printed on the zone's clock.
pub fn minute_slots(zone: Tz, from_ms: i64, to_ms: i64) -> Vec<Slot> {
    let mut out = Vec::new();
    let mut at = from_ms;
    for s in stretches(zone, from_ms, to_ms) {
        while at < s.to_ms {
            out.push(Slot {
                key: BucketKey { at, offset_s: 0 },
                time_ms: at,
                offset_s: s.offset_s,
            });
            at += MINUTE_MS;
        }
    }
    out
}

#[cfg(test)]
#[path = "buckets_tests.rs"]
mod tests;
