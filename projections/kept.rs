//! A plan within what is kept: where its own grain is gone, a coarser one that divides its buckets exactly.
//!
//! Invariant: a plan that passes reads nothing before the horizon, and still every cell of its range: an answer is never
//! made of a part. A part whose own cells are gone is nothing where coarser cells, which are kept longer, say that
//! nothing was there; else the question is refused, and says from when on what is kept.

use std::ops::Range;

use crate::bounds::print;
use crate::buckets::{BucketKey, DAY_MS, Granularity, HOUR_MS, MINUTE_MS, days_of, hour_extent};
use crate::cells::{Bucket, Grain};
use crate::plan::{Gone, HourRange, Plan, PlanError, Source};
use crate::spans::{Horizon, Span};

/// How far west of UTC a clock may be: a civil day has begun everywhere so much after it has at UTC.
const FURTHEST_WEST_MS: i64 = 12 * HOUR_MS;

impl Plan {
    /// The same plan, reading only what is kept. What is not, and cannot be made of coarser cells, is noted as
    /// [`Plan::gone`].
    ///
    /// # Errors
    /// [`PlanError::NotKept`] when a part of the range is gone at every grain.
    pub fn within(mut self, horizon: &Horizon) -> Result<Self, PlanError> {
        self.horizon = *horizon;
        self.days_are_kept(horizon)?;
        for hours in std::mem::take(&mut self.hours) {
            self.keep_hours(hours, horizon)?;
        }
        if let Some(kept_ms) = horizon.first_ms(Grain::Minute) {
            self.minutes_from_ms = kept_ms;
            for minutes in std::mem::take(&mut self.minutes) {
                if minutes.start >= kept_ms {
                    self.minutes.push(minutes);
                } else {
                    self.keep_minutes(kept_ms, minutes, horizon)?;
                }
            }
        }
        Ok(self)
    }

    fn days_are_kept(&self, horizon: &Horizon) -> Result<(), PlanError> {
        let first = i32::try_from(self.days.start).unwrap_or(i32::MIN);
        if self.days.is_empty() || horizon.keeps(Span::of(Bucket::Day(first))) {
            return Ok(());
        }
        Err(self.not_kept(Grain::Day, horizon, "begin there"))
    }

    /// Divides hours into those that are gone, of whole civil days, and those that are read.
    fn keep_hours(&mut self, hours: HourRange, horizon: &Horizon) -> Result<(), PlanError> {
        let first_ms = horizon.first_ms(Grain::Hour).unwrap_or(i64::MIN);
        let seam = first_ms.saturating_sub(i64::from(hours.offset_s) * 1_000);
        let seam = seam.clamp(hours.from_ms, hours.to_ms);
        self.note_gone(hours.from_ms..seam, Grain::Hour, horizon, self.whole_days())?;
        if seam < hours.to_ms {
            self.hours.push(HourRange {
                from_ms: seam,
                ..hours
            });
        }
        Ok(())
    }

    /// Notes a part whose cells of a grain are gone.
    fn note_gone(
        &mut self,
        part: Range<i64>,
        grain: Grain,
        horizon: &Horizon,
        instead: &'static str,
    ) -> Result<(), PlanError> {
        if part.is_empty() {
            return Ok(());
        }
        let refusal = self.not_kept(grain, horizon, instead);
        let is_kept = |grain: Grain| {
            let first = horizon.first_ms(grain).unwrap_or(i64::MIN);
            part.start >= first.saturating_add(FURTHEST_WEST_MS)
        };
        let told_by = match grain {
            Grain::Minute if is_kept(Grain::Hour) => Grain::Hour,
            _ if is_kept(Grain::Day) => Grain::Day,
            _ => return Err(refusal),
        };
        self.gone.push(Gone {
            part,
            told_by,
            refusal,
        });
        Ok(())
    }

    /// The civil days that may have had something in a part of the range.
    pub fn days_about(&self, part: &Range<i64>) -> Range<i64> {
        match self.source {
            Source::Civil => days_of(self.zone, part.start, part.end),
            // Days of another clock.
            Source::Minutes => part.start.div_euclid(DAY_MS) - 1..part.end.div_euclid(DAY_MS) + 2,
        }
    }

    fn whole_days(&self) -> &'static str {
        match self.granularity {
            Granularity::Total => "begin and end at whole days, or begin there",
            _ => "ask for granularity=day or total, or begin there",
        }
    }

    /// Reads by hours what is before the minutes that are kept, where the answer's buckets are made of whole hours.
    fn keep_minutes(
        &mut self,
        kept_ms: i64,
        minutes: Range<i64>,
        horizon: &Horizon,
    ) -> Result<(), PlanError> {
        let by_hours = self.source == Source::Minutes && self.granularity != Granularity::Minute;
        let seam = match by_hours {
            // The first hour of the answer's clock of which every minute is kept.
            true => hour_extent(self.zone, kept_ms - 1).end.max(kept_ms),
            false => kept_ms,
        };
        let seam = (seam + MINUTE_MS - 1).div_euclid(MINUTE_MS) * MINUTE_MS;
        let seam = seam.min(minutes.end);
        if seam < minutes.end {
            self.minutes.push(seam..minutes.end);
        }
        if !by_hours {
            let instead = match self.granularity {
                Granularity::Minute => "ask for granularity=hour or coarser, or begin there",
                _ => "begin and end at whole hours, or begin there",
            };
            return self.note_gone(minutes.start..seam, Grain::Minute, horizon, instead);
        }
        let first_ms = horizon.first_ms(Grain::Hour).unwrap_or(i64::MIN);
        let hours_from = first_ms
            .saturating_add(FURTHEST_WEST_MS)
            .clamp(minutes.start, seam);
        let instead = "ask without time_zone for days, or begin a day after it";
        self.note_gone(minutes.start..hours_from, Grain::Hour, horizon, instead)?;
        if hours_from < seam {
            self.whole_hours.push(hours_from..seam);
        }
        Ok(())
    }

    fn not_kept(&self, grain: Grain, horizon: &Horizon, instead: &'static str) -> PlanError {
        let since_ms = horizon.first_ms(grain).unwrap_or(i64::MIN);
        let since = print(since_ms, 0, chrono_tz::Tz::UTC);
        PlanError::NotKept {
            grain: grain.name(),
            // Hours and days are kept by civil days.
            since: match grain {
                Grain::Minute => since,
                Grain::Hour | Grain::Day => since.split('T').next().unwrap_or_default().to_owned(),
            },
            instead,
        }
    }

    /// The bucket of an hour cell of any clock that is read in place of minutes; none outside `hours`, which is one of
    /// [`Plan::whole_hours`].
    ///
    /// # Errors
    /// [`PlanError::Indivisible`] when the hour is not within one bucket.
    pub fn place_whole_hour(
        &self,
        hours: &Range<i64>,
        start_ms: i64,
    ) -> Result<Option<BucketKey>, PlanError> {
        let end_ms = start_ms.saturating_add(HOUR_MS);
        if end_ms <= hours.start || start_ms >= hours.end {
            return Ok(None);
        }
        let bucket = (hours.start <= start_ms && end_ms <= hours.end)
            .then(|| self.one_bucket(start_ms, end_ms))
            .flatten();
        let indivisible = || PlanError::Indivisible {
            since: print(self.minutes_from_ms, 0, chrono_tz::Tz::UTC),
        };
        bucket.map(Some).ok_or_else(indivisible)
    }

    /// The bucket of an interval of which no part is of another.
    fn one_bucket(&self, start_ms: i64, end_ms: i64) -> Option<BucketKey> {
        if self.granularity == Granularity::Total {
            return Some(BucketKey::TOTAL);
        }
        // Under one offset buckets follow each other, so both ends decide.
        let is_steady = |s: &crate::buckets::Stretch| s.from_ms <= start_ms && end_ms <= s.to_ms;
        self.clock.iter().any(is_steady).then_some(())?;
        let first = self.place_minute(start_ms, &mut 0)?;
        (self.place_minute(end_ms - MINUTE_MS, &mut 0)? == first).then_some(first)
    }
}

#[cfg(test)]
#[path = "kept_tests.rs"]
mod tests;
