//! A civil month, as statements are made of: parsed once, and its instants on a clock.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use chrono::{Datelike, Months, NaiveDate};
use chrono_tz::Tz;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::buckets::{day_close, day_start};

/// A month of the civil calendar, printed as `2024-02`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Month {
    first: NaiveDate,
}

/// A text that is no month.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a month is written YYYY-MM, such as 2024-02, with a year from 1970 to 9998")]
pub struct BadMonth;

impl FromStr for Month {
    type Err = BadMonth;

    fn from_str(text: &str) -> Result<Self, BadMonth> {
        let (year, month) = text.split_once('-').ok_or(BadMonth)?;
        let number = |text: &str, digits: usize| {
            let plain = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit());
            plain
                .then(|| text.parse::<u32>().ok())
                .flatten()
                .ok_or(BadMonth)
        };
        let (year, month) = (number(year, 4)?, number(month, 2)?);
        if !(1970..=9998).contains(&year) {
            return Err(BadMonth);
        }
        let first = NaiveDate::from_ymd_opt(year as i32, month, 1).ok_or(BadMonth)?;
        Ok(Self { first })
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.first.year(), self.first.month())
    }
}

impl fmt::Debug for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Month {
    /// Its civil days, as day numbers.
    pub fn days(self) -> Range<i64> {
        let next = self
            .first
            .checked_add_months(Months::new(1))
            .expect("years end at 9998");
        let number = |date: NaiveDate| i64::from(date.to_epoch_days());
        number(self.first)..number(next)
    }

    /// Its first instant on a zone's clock, and the one after its last, in Unix milliseconds.
    pub fn extent(self, zone: Tz) -> Range<i64> {
        let days = self.days();
        day_start(zone, days.start)..day_close(zone, days.end)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn ms(text: &str) -> i64 {
        chrono::DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_millis()
    }

    #[test]
    fn a_month_is_read_strictly_and_printed_again() {
        for text in ["2024-02", "1970-01", "9998-12"] {
            assert_eq!(text.parse::<Month>().unwrap().to_string(), text);
        }
        for text in [
            "2024-13",
            "2024-00",
            "2024-2",
            "24-02",
            "2024-02-01",
            "2024/02",
            "",
            "1969-12",
            "9999-01",
            "+024-01",
        ] {
            assert_eq!(text.parse::<Month>(), Err(BadMonth), "{text}");
        }
    }

    #[test]
    fn its_instants_are_those_of_the_clock() {
        let of = |text: &str, zone| text.parse::<Month>().unwrap().extent(zone);
        // March 2024 in New York begins in winter and ends in summer.
        let march = of("2024-03", chrono_tz::America::New_York);
        assert_eq!(
            march,
            ms("2024-03-01T00:00:00-05:00")..ms("2024-04-01T00:00:00-04:00")
        );
        assert_eq!(
            of("2024-02", Tz::UTC),
            ms("2024-02-01T00:00:00Z")..ms("2024-03-01T00:00:00Z")
        );
        let kolkata = of("2024-12", chrono_tz::Asia::Kolkata);
        assert_eq!(
            kolkata,
            ms("2024-12-01T00:00:00+05:30")..ms("2025-01-01T00:00:00+05:30")
        );
    }
}
