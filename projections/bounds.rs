//! Times in questions and answers: reading a bound that may leave out its offset, and printing a bucket's time.

use adtally_streams::time::{MAX_TIME_MS, MIN_TIME_MS};
use chrono::{DateTime, FixedOffset, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat};
use chrono_tz::Tz;

use crate::buckets::first_showing;

/// The longest text that is looked at, in bytes.
const BOUND_MAX_BYTES: usize = 64;

/// A bound that is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadBound {
    /// Neither form.
    #[error(
        "a time is RFC 3339, such as 2024-02-09T14:05:00Z or 2024-02-09T14:05:00+05:30 (a plus sign is written %2B in \
         a URL), or without an offset on the question's clock, such as 2024-02-09T14:00"
    )]
    Unreadable,
    /// The year is outside 0001 to 9999.
    #[error("the year of a time is 0001 to 9999")]
    OutOfRange,
}

/// A bound as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// An instant, in milliseconds of the Unix epoch.
    Instant(i64),
    /// A time on the question's clock, in milliseconds since 1970-01-01T00:00 of that clock.
    Local(i64),
}

impl Bound {
    /// Reads a bound: a date, or a date and a time of day to the minute or finer, with or without an offset.
    ///
    /// A space before four digits of an offset is the plus sign that a URL's query cannot hold unescaped.
    pub fn parse(text: &str) -> Result<Self, BadBound> {
        if text.len() > BOUND_MAX_BYTES || !text.is_ascii() {
            return Err(BadBound::Unreadable);
        }
        let (date, rest) = text.split_at_checked(10).ok_or(BadBound::Unreadable)?;
        let date = NaiveDate::parse_from_str(date, "%Y-%m-%d").map_err(|_| BadBound::Unreadable)?;
        let (time, offset) = match rest.strip_prefix(['T', 't', ' ']) {
            Some(rest) => split_offset(rest),
            None if rest.is_empty() => ("00:00", ""),
            None => return Err(BadBound::Unreadable),
        };
        let local =
            NaiveDateTime::new(date, time_of_day(time).ok_or(BadBound::Unreadable)?).and_utc();
        let local_ms = local.timestamp_millis();
        let bound = match offset {
            "" => Bound::Local(local_ms),
            offset => Bound::Instant(local_ms - offset_ms(offset).ok_or(BadBound::Unreadable)?),
        };
        let (Bound::Instant(ms) | Bound::Local(ms)) = bound;
        if (MIN_TIME_MS..=MAX_TIME_MS).contains(&ms) {
            Ok(bound)
        } else {
            Err(BadBound::OutOfRange)
        }
    }

    /// The instant of the bound on a clock. A time that the clock shows twice is the first one, and one that it
    /// skips is the instant of the change.
    pub fn instant(self, zone: Tz) -> i64 {
        match self {
            Bound::Instant(ms) => ms,
            Bound::Local(ms) => first_showing(zone, ms).clamp(MIN_TIME_MS, MAX_TIME_MS),
        }
    }
}

fn split_offset(text: &str) -> (&str, &str) {
    text.find(['Z', 'z', '+', '-', ' '])
        .map_or((text, ""), |at| text.split_at(at))
}

fn time_of_day(text: &str) -> Option<NaiveTime> {
    // Two digits each: chrono alone would take `1:5`.
    let digits = |at: usize| {
        text.as_bytes()
            .get(at..at + 2)
            .is_some_and(|d| d.iter().all(u8::is_ascii_digit))
    };
    if !digits(0) || !digits(3) || (text.len() > 5 && !digits(6)) {
        return None;
    }
    ["%H:%M", "%H:%M:%S%.f"]
        .iter()
        .find_map(|format| NaiveTime::parse_from_str(text, format).ok())
}

fn offset_ms(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, digits) = text.split_at_checked(1)?;
    let (hours, minutes) = digits.split_once(':')?;
    let number = |text: &str, below: i64| {
        let two_digits = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<i64>()
            .ok()
            .filter(|n| two_digits && *n < below)
    };
    let ms = (number(hours, 24)? * 60 + number(minutes, 60)?) * 60_000;
    Some(if sign == "-" { -ms } else { ms })
}

/// Whether a zone is UTC by one of its names.
pub fn is_utc(zone: Tz) -> bool {
    matches!(
        zone,
        Tz::UTC
            | Tz::Etc__UTC
            | Tz::Etc__UCT
            | Tz::Etc__Universal
            | Tz::Etc__Zulu
            | Tz::UCT
            | Tz::Universal
            | Tz::Zulu
    )
}

/// An instant as RFC 3339 with an offset, `Z` for UTC; fractions of a second only where there are some.
///
/// The odd seconds of local mean time have no place in RFC 3339, so such an instant is printed in UTC.
pub fn print(ms: i64, offset_s: i32, zone: Tz) -> String {
    let utc = DateTime::from_timestamp_millis(ms).unwrap_or_default();
    match FixedOffset::east_opt(offset_s).filter(|_| offset_s % 60 == 0 && !is_utc(zone)) {
        Some(offset) => utc
            .with_timezone(&offset)
            .to_rfc3339_opts(SecondsFormat::AutoSi, false),
        None => utc.to_rfc3339_opts(SecondsFormat::AutoSi, true),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(text: &str) -> i64 {
        DateTime::parse_from_rfc3339(text)
            .unwrap()
            .timestamp_millis()
    }

    #[test]
    fn both_forms_are_read() {
        let ny = |text| Bound::parse(text).map(|b| b.instant(Tz::America__New_York));
        for (text, want) in [
            ("2024-02-09T14:05:00Z", "2024-02-09T14:05:00Z"),
            ("2024-02-09T14:05Z", "2024-02-09T14:05:00Z"),
            ("2024-02-09t14:05:07.250z", "2024-02-09T14:05:07.250Z"),
            ("2024-02-09T14:05:00+05:30", "2024-02-09T08:35:00Z"),
            ("2024-02-09T14:05:00 05:30", "2024-02-09T08:35:00Z"),
            ("2024-02-09T14:05:00-03:00", "2024-02-09T17:05:00Z"),
            ("2024-02-09T14:00", "2024-02-09T19:00:00Z"),
            ("2024-02-09 14:00:30", "2024-02-09T19:00:30Z"),
            ("2024-07-09", "2024-07-09T04:00:00Z"),
            ("2024-11-03T01:30", "2024-11-03T05:30:00Z"),
            ("2024-03-10T02:30", "2024-03-10T07:00:00Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(ny(text), Ok(ms(want)), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2024",
            "2024-2-9",
            "2024-02-30",
            "2024-02-09T",
            "2024-02-09T14",
            "2024-02-09T1:5",
            "2024-02-09T25:00",
            "2024-02-09T14:00+5",
            "2024-02-09T14:00+25:00",
            "2024-02-09T14:00Zx",
            "1707487500",
            "2024-02-09x14:00",
            "2024-02-09T14:00:00+05:3\u{e9}",
        ] {
            assert_eq!(ny(text), Err(BadBound::Unreadable), "{text}");
        }
        for text in [
            "0000-06-01T00:00:00Z",
            "0001-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
        ] {
            assert_eq!(ny(text), Err(BadBound::OutOfRange), "{text}");
        }
    }

    #[test]
    fn times_are_printed_with_the_zones_offset() {
        let t = ms("2024-02-09T14:05:00Z");
        assert_eq!(print(t, 0, Tz::UTC), "2024-02-09T14:05:00Z");
        assert_eq!(print(t, 0, Tz::Europe__London), "2024-02-09T14:05:00+00:00");
        assert_eq!(
            print(t, 19_800, Tz::Asia__Kolkata),
            "2024-02-09T19:35:00+05:30"
        );
        assert_eq!(
            print(t + 250, -18_000, Tz::America__New_York),
            "2024-02-09T09:05:00.250-05:00"
        );
        assert_eq!(
            print(t, 1_172, Tz::Europe__Amsterdam),
            "2024-02-09T14:05:00Z"
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[0-9TZ:+. -]{0,30}|.{0,80}") {
            if let Ok(bound) = Bound::parse(&text) {
                bound.instant(Tz::Pacific__Apia);
            }
        }

        #[test]
        fn whatever_chrono_prints_is_read_as_the_same_instant(t in MIN_TIME_MS..=MAX_TIME_MS, minutes in -14 * 60i32..=14 * 60) {
            let offset = FixedOffset::east_opt(minutes * 60).unwrap();
            let local = DateTime::from_timestamp_millis(t).unwrap().with_timezone(&offset);
            if (1..=9_999).contains(&chrono::Datelike::year(&local)) {
                prop_assert_eq!(Bound::parse(&local.to_rfc3339()), Ok(Bound::Instant(t)));
            }
        }
    }
}
