//! Counts of a window that moves minute by minute: one sum for each of the last whole minutes' ends.
//!
//! Invariant: a window is the sum of whole UTC minutes, `[end - length, end)`, so it is as exact as the minutes
//! are, and the minute that is still going on is no part of any.

use std::ops::Range;

use crate::buckets::MINUTE_MS;
use crate::metrics::Metrics;

/// How many windows an answer has: the contract's "each of the last 60 minutes".
pub const WINDOWS: i64 = 60;
/// The length of a window when none is asked for, in milliseconds.
pub const DEFAULT_WINDOW_MS: i64 = 60 * MINUTE_MS;
/// The shortest window.
pub const MIN_WINDOW_MS: i64 = MINUTE_MS;
/// The longest window, 24 hours: with the hour that it moves through, 1,499 minutes are read for an answer.
pub const MAX_WINDOW_MS: i64 = 24 * 60 * MINUTE_MS;

/// A length that no window has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a window is a whole number of minutes from 1m to 24h, such as 15m, 60m or 1h")]
pub struct BadWindow;

/// The windows of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Windows {
    last_end_ms: i64,
    length_ms: i64,
}

impl Windows {
    /// The windows of a length that end at each of the last [`WINDOWS`] whole minutes before `now_ms`, the last
    /// one at the beginning of the minute that holds `now_ms`.
    ///
    /// # Errors
    /// [`BadWindow`] for a length that is no whole minute or out of bounds.
    pub fn until(now_ms: i64, length_ms: i64) -> Result<Self, BadWindow> {
        let allowed = (MIN_WINDOW_MS..=MAX_WINDOW_MS).contains(&length_ms);
        if !allowed || length_ms % MINUTE_MS != 0 {
            return Err(BadWindow);
        }
        Ok(Self {
            last_end_ms: now_ms.div_euclid(MINUTE_MS) * MINUTE_MS,
            length_ms,
        })
    }

    /// The length of each window in minutes.
    pub fn minutes(&self) -> i64 {
        self.length_ms / MINUTE_MS
    }

    /// The instants at which the windows end, ascending.
    pub fn ends(&self) -> impl Iterator<Item = i64> {
        let last = self.last_end_ms;
        (0..WINDOWS).rev().map(move |back| last - back * MINUTE_MS)
    }

    /// The instants that any of the windows holds.
    pub fn span(&self) -> Range<i64> {
        let first_end = self.last_end_ms - (WINDOWS - 1) * MINUTE_MS;
        first_end - self.length_ms..self.last_end_ms
    }

    /// Each window's end and sum. `minutes` are counts by the first instant of their minute, in any order; a
    /// minute without events may be absent.
    pub fn sums(&self, minutes: &[(i64, Metrics)]) -> Vec<(i64, Metrics)> {
        self.ends()
            .map(|end| {
                let window = end - self.length_ms..end;
                let mut sum = Metrics::default();
                minutes
                    .iter()
                    .filter(|(minute, _)| window.contains(minute))
                    .for_each(|(_, counted)| sum.add(counted));
                (end, sum)
            })
            .collect()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn clicks(n: i64) -> Metrics {
        Metrics {
            gross_clicks: n,
            ..Metrics::default()
        }
    }

    #[test]
    fn lengths_are_whole_minutes_up_to_a_day() {
        for ms in [60_000, 900_000, 3_600_000, 86_400_000] {
            assert_eq!(Windows::until(0, ms).unwrap().minutes(), ms / 60_000);
        }
        for ms in [i64::MIN, -60_000, 0, 59_999, 90_000, 86_460_000, i64::MAX] {
            assert_eq!(Windows::until(0, ms), Err(BadWindow), "{ms}");
        }
    }

    #[test]
    fn the_last_window_ends_where_the_minute_that_goes_on_began() {
        // 2024-02-09T14:05:59.999Z and 14:06:00.000Z, windows of five minutes.
        let before = Windows::until(1_707_487_559_999, 300_000).unwrap();
        let after = Windows::until(1_707_487_560_000, 300_000).unwrap();
        let ends: Vec<i64> = before.ends().collect();
        assert_eq!(
            (ends.len(), ends[0], ends[59]),
            (60, 1_707_483_960_000, 1_707_487_500_000)
        );
        assert_eq!(after.ends().last(), Some(1_707_487_560_000));
        assert_eq!(before.span(), 1_707_483_660_000..1_707_487_500_000);
    }

    #[test]
    fn a_minute_enters_a_window_when_it_is_over_and_leaves_when_it_is_too_old() {
        let windows = Windows::until(100 * MINUTE_MS, 3 * MINUTE_MS).unwrap();
        let of = |minute: i64| {
            let sums = windows.sums(&[(minute * MINUTE_MS, clicks(7))]);
            let with: Vec<i64> = sums
                .iter()
                .filter(|(_, sum)| sum.clicks() == 7)
                .map(|(end, _)| end / MINUTE_MS)
                .collect();
            with
        };
        assert_eq!(of(90), [91, 92, 93]);
        assert_eq!(of(99), [100]);
        assert!(of(100).is_empty());
        assert_eq!(of(38), [41]);
        assert!(of(37).is_empty());
    }

    proptest! {
        #[test]
        fn every_window_is_the_number_of_its_events(
            now_ms in -200_000_000i64..200_000_000,
            length in prop_oneof![1i64..=1_440, 1i64..=5],
            ago in proptest::collection::vec(-120_000i64..100_000_000, 0..200),
        ) {
            let windows = Windows::until(now_ms, length * MINUTE_MS).unwrap();
            let times: Vec<i64> = ago.iter().map(|a| now_ms - a).collect();
            let mut minutes: BTreeMap<i64, i64> = BTreeMap::new();
            for t in &times {
                *minutes.entry(t - t.rem_euclid(60_000)).or_default() += 1;
            }
            let minutes: Vec<_> = minutes.into_iter().map(|(at, n)| (at, clicks(n))).collect();
            let sums = windows.sums(&minutes);
            prop_assert_eq!(sums.len(), 60);
            for (n, (end, sum)) in sums.iter().enumerate() {
                prop_assert_eq!(*end, now_ms - now_ms.rem_euclid(60_000) - (59 - n as i64) * 60_000);
                let within = times.iter().filter(|t| **t >= end - length * 60_000 && **t < *end).count();
                prop_assert_eq!(sum.clicks(), within as i64);
            }
        }
    }
}
