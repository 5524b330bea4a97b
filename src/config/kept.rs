//! How long counts are kept, and when they are sealed.
//!
//! Invariant: a coarser grain is kept at least as long as a finer one, since it is read in place of it.

use std::time::Duration;

use adtally_projections::spans;
use serde::{Deserialize, Serialize};

use super::units::{Keep, Span};
use super::{Config, ConfigError};

/// How long counts are kept, by log time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// By minute.
    pub minutes: Keep,
    /// By hour.
    pub hours: Keep,
    /// By day.
    pub days: Keep,
}

/// How long after their end counts are sealed, by log time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Sealing {
    /// Minutes, after the end of their hour.
    pub minutes_after: Span,
    /// Hours.
    pub hours_after: Span,
    /// Days.
    pub days_after: Span,
}

impl Default for Retention {
    fn default() -> Self {
        let [minutes, hours, days] = spans::Retention::default()
            .keep_ms
            .map(|ms| Keep(ms.map(|ms| Duration::from_millis(ms as u64))));
        Self {
            minutes,
            hours,
            days,
        }
    }
}

impl Default for Sealing {
    fn default() -> Self {
        let [minutes_after, hours_after, days_after] = spans::Margins::default()
            .after_ms
            .map(|ms| Span(Duration::from_millis(ms as u64)));
        Self {
            minutes_after,
            hours_after,
            days_after,
        }
    }
}

impl Config {
    /// How long each grain of counts is kept.
    pub fn kept(&self) -> spans::Retention {
        let r = &self.retention;
        spans::Retention {
            keep_ms: [r.minutes, r.hours, r.days].map(|keep| keep.0.map(|span| Span(span).ms())),
        }
    }

    /// How long after its end a section of each grain is sealed.
    pub fn sealed_after(&self) -> spans::Margins {
        let s = &self.sealing;
        spans::Margins {
            after_ms: [s.minutes_after, s.hours_after, s.days_after].map(Span::ms),
        }
    }
}

/// What the rolling windows read by minute.
const MIN_MINUTES: Keep = Keep(Some(Duration::from_secs(2 * 86_400)));
/// What trending ads read by hour: 30 days and what is before them of a day, on any clock.
const MIN_HOURS: Keep = Keep(Some(Duration::from_secs(33 * 86_400)));

/// A coarser grain is read where a finer one is gone, so it is kept as long at least.
pub(super) fn check(r: &Retention) -> Result<(), ConfigError> {
    let longest = Duration::MAX;
    let length = |keep: Keep| keep.0.unwrap_or(longest);
    for (key, keep, least, whose) in [
        (
            "retention.minutes",
            r.minutes,
            MIN_MINUTES,
            "rolling windows read",
        ),
        ("retention.hours", r.hours, MIN_HOURS, "trending ads read"),
        ("retention.hours", r.hours, r.minutes, "minutes are kept"),
        ("retention.days", r.days, r.hours, "hours are kept"),
    ] {
        if length(keep) < length(least) {
            return Err(ConfigError::BadValue {
                place: key.into(),
                detail: format!("{keep} is less than the {least} that {whose}"),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn days(n: u64) -> Keep {
        Keep(Some(Duration::from_secs(n * 86_400)))
    }

    #[test]
    fn the_defaults_are_the_folds_own_and_a_coarser_grain_is_kept_longer() {
        let config = Config::default();
        assert_eq!(config.kept(), spans::Retention::default());
        assert_eq!(config.sealed_after(), spans::Margins::default());
        let refused = |minutes, hours, days| {
            let error = check(&Retention {
                minutes,
                hours,
                days,
            });
            error.err().map(|error| error.to_string())
        };
        assert_eq!(refused(days(2), days(33), Keep(None)), None);
        assert_eq!(refused(Keep(None), Keep(None), Keep(None)), None);
        for (minutes, hours, kept, said) in [
            (days(1), days(40), Keep(None), "retention.minutes: 1d"),
            (
                days(2),
                days(32),
                Keep(None),
                "retention.hours: 32d is less than the 33d",
            ),
            (
                days(50),
                days(40),
                Keep(None),
                "retention.hours: 40d is less than the 50d",
            ),
            (
                days(50),
                Keep(None),
                days(60),
                "retention.days: 60d is less than the forever",
            ),
        ] {
            let error = refused(minutes, hours, kept).unwrap();
            assert!(error.starts_with(said), "{error}");
        }
    }
}
