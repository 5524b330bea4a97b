//! Sections of spans: what of a span is over at once, and sealed. The minutes of a UTC hour are one section, a civil day
//! has its hours, a month its days.
//!
//! Invariant: the section of a cell is decided by its bucket alone. A section has a marker while it has rows of cells,
//! put with the first of them, so that a question and the sealing look for rows where there are some and nowhere else,
//! and pass over no tombstones of those that are sealed.

use crate::cells::{Bucket, Grain};
use crate::codec::{Damaged, Reader, put_i32, put_i64, put_u32};
use crate::spans::Span;
use crate::symbols::Symbol;

const MINUTES: i64 = 60;
const HOUR_S: i64 = 3_600;
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
/// How far from UTC a clock may be where the offset of a day's cells is not known: the furthest west that is in use.
const FURTHEST_WEST_S: i32 = -12 * 3_600;

/// A section, by its first bucket. Sections of a grain sort as the buckets in them do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Section {
    /// The grain of its cells.
    pub grain: Grain,
    /// Its first bucket: a minute's number, an hour's `start_s` or a day's number, as [`crate::cells::range`] has them.
    pub first: i64,
    /// Seconds east of UTC of an hour, else 0.
    pub offset_s: i32,
}

impl Section {
    /// The section that holds a bucket.
    pub fn of(bucket: Bucket) -> Self {
        let (first, offset_s) = match bucket {
            Bucket::Minute(minute) => (minute.div_euclid(MINUTES).saturating_mul(MINUTES), 0),
            Bucket::Hour { start_s, offset_s } => (start_s, offset_s),
            Bucket::Day(day) => (i64::from(day), 0),
        };
        Self {
            grain: bucket.grain(),
            first,
            offset_s,
        }
    }

    /// The span that it is a section of.
    pub fn span(self) -> Span {
        Span::of(match self.grain {
            Grain::Minute => Bucket::Minute(self.first),
            Grain::Hour => Bucket::Hour {
                start_s: self.first,
                offset_s: self.offset_s,
            },
            Grain::Day => Bucket::Day(clamp(self.first)),
        })
    }

    /// The one after it on the same clock.
    #[must_use]
    pub fn next(self) -> Self {
        let step = match self.grain {
            Grain::Minute => MINUTES,
            Grain::Hour => HOUR_S,
            Grain::Day => 1,
        };
        Self {
            first: self.first.saturating_add(step),
            ..self
        }
    }

    /// Whether its span has none after it on the same clock.
    pub fn is_last(self) -> bool {
        self.next().span() != self.span()
    }

    /// The bucket number after those of its buckets, as [`crate::cells::range`] takes them. Rows of hours of another clock
    /// lie among its own.
    pub fn end(self) -> i64 {
        match self.grain {
            Grain::Minute => self.next().first,
            Grain::Hour | Grain::Day => self.first.saturating_add(1),
        }
    }

    /// The instant after its last one, in Unix milliseconds. That of a day is on a clock of that offset; none: on the
    /// last clock to get there.
    pub fn end_ms(self, offset_s: Option<i32>) -> i64 {
        let next = self.next().first;
        match self.grain {
            Grain::Minute => next.saturating_mul(MINUTE_MS),
            Grain::Hour => next.saturating_mul(1_000),
            Grain::Day => {
                let offset_ms = i64::from(offset_s.unwrap_or(FURTHEST_WEST_S)) * 1_000;
                next.saturating_mul(DAY_MS).saturating_sub(offset_ms)
            }
        }
    }
}

/// A campaign's section that has rows of cells which are not sealed. Those of a campaign and grain are in the order of
/// time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OpenSection {
    /// The campaign.
    pub campaign: Symbol,
    /// The section.
    pub section: Section,
}

impl OpenSection {
    /// The last one in order.
    pub const MAX: OpenSection = OpenSection {
        campaign: Symbol::MAX,
        section: Section {
            grain: Grain::Day,
            first: i64::MAX,
            offset_s: i32::MAX,
        },
    };

    /// Appends the marker's key: grain and campaign first, because a question asks for a campaign's open sections.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&prefix(
            self.section.grain,
            self.campaign,
            self.section.first,
        ));
        put_i32(out, self.section.offset_s);
    }

    /// Reads a marker's key.
    ///
    /// # Errors
    /// [`Damaged`] when it is none.
    pub fn decode(key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "open section");
        let grain = r.u8()?;
        let grain = *Grain::ALL.get(usize::from(grain)).ok_or(r.damaged())?;
        let campaign = r.u32()?;
        let (first, offset_s) = (r.i64()?, r.i32()?);
        r.end()?;
        Ok(Self {
            campaign,
            section: Section {
                grain,
                first,
                offset_s,
            },
        })
    }
}

/// What the markers of a campaign's sections from a bucket on begin with.
fn prefix(grain: Grain, campaign: Symbol, first: i64) -> Vec<u8> {
    let mut out = vec![grain as u8];
    put_u32(&mut out, campaign);
    put_i64(&mut out, first);
    out
}

/// The half-open range of keys of the markers of a campaign's sections with buckets in `[from, to)`, which are numbers
/// as [`crate::cells::range`] takes them.
pub fn open_range(grain: Grain, campaign: Symbol, from: i64, to: i64) -> (Vec<u8>, Vec<u8>) {
    let from = match grain {
        Grain::Minute => from.div_euclid(MINUTES).saturating_mul(MINUTES),
        Grain::Hour | Grain::Day => from,
    };
    (prefix(grain, campaign, from), prefix(grain, campaign, to))
}

/// Sections of one grain and clock that follow each other: their rows are read as one range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: Section,
    /// The last of them.
    pub last: Section,
}

impl Run {
    /// Puts sections, which are in order, into as few runs as they are.
    pub fn of(sections: impl IntoIterator<Item = Section>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for section in sections {
            match runs.last_mut() {
                Some(run) if run.last.next() == section => run.last = section,
                _ => runs.push(Run {
                    first: section,
                    last: section,
                }),
            }
        }
        runs
    }

    /// The bucket numbers `[from, to)` of its rows, as [`crate::cells::range`] takes them.
    pub fn range(&self) -> (i64, i64) {
        (self.first.first, self.last.end())
    }

    /// Whether a bucket within its range is one of its own, and not one of another clock.
    pub fn holds(&self, bucket: Bucket) -> bool {
        Section::of(bucket).offset_s == self.first.offset_s
    }
}

fn clamp(number: i64) -> i32 {
    number.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

#[cfg(test)]
#[path = "sections_tests.rs"]
mod tests;
