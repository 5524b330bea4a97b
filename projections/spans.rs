//! Spans: what blocks are made of, and how long it is kept. A span of minutes is a UTC hour, one of hours a civil day,
//! one of days a civil month. What of a span is over at once, and sealed, is a [`crate::sections::Section`] of it.
//!
//! Invariant: the span of a cell is decided by its bucket alone, and what is kept by the log time alone: spans before
//! the [`Horizon`] are in no answer and no dump, whether or not their rows are still stored.

use serde::{Deserialize, Serialize};

use crate::cells::{Bucket, Grain};
use crate::codec::{Damaged, Reader, put_signed, put_varint};

const DAY_S: i64 = 86_400;
const DAY_MS: i64 = 86_400_000;
const HOUR_MS: i64 = 3_600_000;
/// The furthest that a stamped offset may be from UTC, either way. [`hot_range`] reads that much more on both sides.
const OFFSET_REACH_S: i64 = DAY_S;

/// A grain's span, by its number: hours of the Unix epoch, days of it, or months of the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The grain of its cells.
    pub grain: Grain,
    /// Its number.
    pub number: i32,
}

impl Span {
    /// The span that holds a bucket.
    pub fn of(bucket: Bucket) -> Self {
        let number = match bucket {
            Bucket::Minute(minute) => minute.div_euclid(60),
            Bucket::Hour { start_s, offset_s } => start_s
                .saturating_add(i64::from(offset_s))
                .div_euclid(DAY_S),
            Bucket::Day(day) => month_of(i64::from(day)),
        };
        Self {
            grain: bucket.grain(),
            number: clamp(number),
        }
    }

    /// The first of its buckets: a minute number, a day in seconds of its own clock, or a day number.
    fn first(self) -> i64 {
        let number = i64::from(self.number);
        match self.grain {
            Grain::Minute => number * 60,
            Grain::Hour => number * DAY_S,
            Grain::Day => first_day_of(number),
        }
    }

    /// A bucket's place in its span: minutes or days from the first one, or seconds from the UTC day of the span's
    /// number, which a clock's offset makes negative or more than a day. Places sort as keys of cells do.
    pub fn place(self, bucket: Bucket) -> Place {
        let (at, offset_s) = match bucket {
            Bucket::Minute(minute) => (minute, 0),
            Bucket::Hour { start_s, offset_s } => (start_s, offset_s),
            Bucket::Day(day) => (i64::from(day), 0),
        };
        Place {
            at: clamp(at.saturating_sub(self.first())),
            offset_s,
        }
    }

    /// The bucket at a place; none when it is not one of the span's.
    pub fn bucket(self, place: Place) -> Option<Bucket> {
        let at = self.first() + i64::from(place.at);
        let bucket = match self.grain {
            Grain::Minute => Bucket::Minute(at),
            Grain::Hour => Bucket::Hour {
                start_s: at,
                offset_s: place.offset_s,
            },
            Grain::Day => Bucket::Day(i32::try_from(at).ok()?),
        };
        let is_whole =
            self.grain != Grain::Hour || (at + i64::from(place.offset_s)).rem_euclid(3_600) == 0;
        (Span::of(bucket) == self && is_whole && self.place(bucket) == place).then_some(bucket)
    }

    /// The range of bucket numbers, as [`crate::cells::range`] takes them, outside of which no row of the span lies.
    /// For hours it holds rows of the neighbouring days too.
    pub fn hot_range(self) -> (i64, i64) {
        let number = i64::from(self.number);
        match self.grain {
            Grain::Minute => (number * 60, (number + 1) * 60),
            Grain::Hour => (
                number * DAY_S - OFFSET_REACH_S,
                (number + 1) * DAY_S + OFFSET_REACH_S,
            ),
            Grain::Day => (first_day_of(number), first_day_of(number + 1)),
        }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, format, first_s) = match self.grain {
            Grain::Minute => ("minutes of", "%Y-%m-%dT%HZ", self.first() * 60),
            Grain::Hour => ("hours of", "%Y-%m-%d", self.first()),
            Grain::Day => ("days of", "%Y-%m", self.first() * DAY_S),
        };
        match chrono::DateTime::from_timestamp(first_s, 0) {
            Some(time) => write!(f, "{name} {}", time.format(format)),
            None => write!(f, "{name} span {}", self.number),
        }
    }
}

/// Where a bucket stands in its span, see [`Span::place`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Buckets or seconds from the span's beginning.
    pub at: i32,
    /// Seconds east of UTC of an hour's label, else 0.
    pub offset_s: i32,
}

/// How long after its end a section of a span of each grain is sealed, by log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Margins {
    /// By grain, finest first, in milliseconds.
    pub after_ms: [i64; Grain::ALL.len()],
}

impl Margins {
    /// Past these little comes late: what does is a row again until the next sealing.
    pub const USUAL: Margins = Margins {
        after_ms: [10 * 60_000, HOUR_MS, DAY_MS],
    };
}

impl Default for Margins {
    fn default() -> Self {
        Self::USUAL
    }
}

/// How long cells of each grain are kept, by log time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// By grain, finest first, in milliseconds; none: forever.
    pub keep_ms: [Option<i64>; Grain::ALL.len()],
}

impl Default for Retention {
    /// Everything is kept: an event of any past time counts in its own minute, also when it arrives today, and a
    /// horizon that is a function of log time alone would refuse to tell of it.
    fn default() -> Self {
        Self::ALL
    }
}

impl Retention {
    /// Minutes for 90 days, hours for two years, days forever.
    #[cfg(test)]
    pub(crate) const OF_QUARTERS: Retention = Retention {
        keep_ms: [Some(90 * DAY_MS), Some(730 * DAY_MS), None],
    };

    /// Everything, forever.
    pub const ALL: Retention = Retention {
        keep_ms: [None; Grain::ALL.len()],
    };

    /// What is kept at a log time (Unix milliseconds).
    pub fn horizon(&self, log_time_ms: i64) -> Horizon {
        let first = |grain: Grain| {
            let at_ms = log_time_ms.saturating_sub(self.keep_ms[grain as usize]?);
            Some(Span::of(Bucket::of(grain, at_ms.div_euclid(1_000), 0)).number)
        };
        Horizon {
            first: Grain::ALL.map(first),
        }
    }
}

/// The first spans that are kept, by grain; none where everything is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Horizon {
    first: [Option<i32>; Grain::ALL.len()],
}

/// Row in [`crate::family::Family::Meta`]: the horizon up to which rows were deleted. It outlives a setting that is
/// made longer again: what is gone stays unanswered.
pub const DELETED_KEY: &[u8] = b"deleted_before";

impl Horizon {
    /// The number of a grain's first span that is kept; none when all are.
    pub fn first(&self, grain: Grain) -> Option<i32> {
        self.first[grain as usize]
    }

    /// Whether a span is kept.
    pub fn keeps(&self, span: Span) -> bool {
        self.first(span.grain)
            .is_none_or(|first| span.number >= first)
    }

    /// The stricter of two, grain by grain.
    #[must_use]
    pub fn and(&self, other: &Horizon) -> Horizon {
        // None is less than every number.
        Horizon {
            first: [0, 1, 2].map(|at| self.first[at].max(other.first[at])),
        }
    }

    /// The first instant that a grain keeps, in Unix milliseconds; for hours and days on a clock at UTC.
    pub fn first_ms(&self, grain: Grain) -> Option<i64> {
        let number = self.first(grain)?;
        let span = Span { grain, number };
        Some(match grain {
            Grain::Minute => span.first() * 60_000,
            Grain::Hour => span.first() * 1_000,
            Grain::Day => span.first() * DAY_MS,
        })
    }

    /// Appends the row's value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for first in self.first {
            put_varint(out, u64::from(first.is_some()));
            put_signed(out, i64::from(first.unwrap_or(0)));
        }
    }

    /// Reads the row's value.
    ///
    /// # Errors
    /// [`Damaged`] when it is none.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "horizon");
        let mut out = Self::default();
        for first in &mut out.first {
            let (is_some, number) = (r.varint()?, r.signed()?);
            let number = i32::try_from(number).map_err(|_| r.damaged())?;
            *first = (is_some == 1).then_some(number);
        }
        r.end()?;
        Ok(out)
    }
}

fn clamp(number: i64) -> i32 {
    number.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// The month, counted from that of January of the year 0, of a day of the Unix epoch: days since 0000-03-01 in
/// eras of 400 years, as Hinnant's `civil_from_days` has it, which is total over all numbers.
fn month_of(day: i64) -> i64 {
    let days = day + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // 0 is March; from January on it is the next year.
    let month = (5 * of_year + 2) / 153;
    (era * 400 + year_of_era) * 12 + month + 2
}

/// The first day of such a month: the inverse of [`month_of`].
fn first_day_of(month: i64) -> i64 {
    let from_march = month - 2;
    let (year, month) = (from_march.div_euclid(12), from_march.rem_euclid(12));
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
#[path = "spans_tests.rs"]
mod tests;
