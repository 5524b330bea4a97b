//! Time as the contract reads it: texts and numbers into milliseconds, and instants into civil buckets.
//!
//! Nothing here asks what time it is. Buckets are computed from an instant and the offset in force at it, by
//! Euclidean division, so that they hold for instants before 1970 and for offsets that are not whole hours.

use chrono::{DateTime, Offset, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;

/// The earliest time that is accepted: 0001-01-01T00:00:00.000Z, in milliseconds of the Unix epoch.
pub const MIN_TIME_MS: i64 = -62_135_596_800_000;
/// The latest time that is accepted: 9999-12-31T23:59:59.999Z, likewise.
pub const MAX_TIME_MS: i64 = 253_402_300_799_999;
/// A number whose absolute value is below this counts seconds; from here on it counts milliseconds (contract).
pub const SECONDS_BELOW: i64 = 100_000_000_000;

/// A text or number that is not a time of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadTime {
    /// The text is not RFC 3339.
    #[error(
        "a time is RFC 3339, such as 2024-02-09T14:05:00Z, or an integer of seconds or milliseconds"
    )]
    Unreadable,
    /// The year is outside 0001 to 9999, UTC.
    #[error("the year of a time is 0001 to 9999, UTC")]
    OutOfRange,
}

/// Reads RFC 3339 into milliseconds of the Unix epoch; finer digits are cut off.
pub fn parse_rfc3339(text: &str) -> Result<i64, BadTime> {
    // Nothing that RFC 3339 allows with a sensible number of fraction digits is longer, and the parser need not
    // walk through a kilobyte of zeros.
    if text.len() > 64 {
        return Err(BadTime::Unreadable);
    }
    let time = DateTime::parse_from_rfc3339(text).map_err(|_| BadTime::Unreadable)?;
    in_range(time.timestamp_millis())
}

/// Reads a number by the contract's rule: seconds below 10^11 (by absolute value), else milliseconds.
pub fn from_number(n: i64) -> Result<i64, BadTime> {
    if n.unsigned_abs() < SECONDS_BELOW.unsigned_abs() {
        in_range(n * 1_000)
    } else {
        in_range(n)
    }
}

/// Reads a time that had to be written as a text, as in a URL: RFC 3339, or a number by [`from_number`].
pub fn parse_time_text(text: &str) -> Result<i64, BadTime> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return from_number(text.parse().map_err(|_| BadTime::OutOfRange)?);
    }
    parse_rfc3339(text)
}

fn in_range(ms: i64) -> Result<i64, BadTime> {
    if (MIN_TIME_MS..=MAX_TIME_MS).contains(&ms) {
        Ok(ms)
    } else {
        Err(BadTime::OutOfRange)
    }
}

/// Writes an instant as RFC 3339 in UTC with milliseconds; outside the accepted years, their nearest end.
pub fn to_rfc3339(ms: i64) -> String {
    utc(ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// The offset in force in `tz` at an instant, in seconds east of UTC; before standard time, the local mean time
/// of the time zone database with its odd seconds.
pub fn offset_at(tz: Tz, ms: i64) -> i32 {
    tz.offset_from_utc_datetime(&utc(ms).naive_utc())
        .fix()
        .local_minus_utc()
}

fn utc(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(ms.clamp(MIN_TIME_MS, MAX_TIME_MS)).unwrap_or_default()
}

/// The UTC minute of an instant: whole minutes since the Unix epoch.
pub fn minute_of(ms: i64) -> i64 {
    ms.div_euclid(60_000)
}

/// The civil hour of an instant under an offset: the hour's start as UTC seconds, and the offset.
///
/// The offset belongs to the bucket's identity. When a clock is set back by half an hour, the half hour that
/// is lived twice starts at one label under the first offset and at another under the second.
pub fn hour_bucket(ms: i64, offset_s: i32) -> (i64, i32) {
    let offset = i64::from(offset_s);
    let local = ms.div_euclid(1_000) + offset;
    (local.div_euclid(3_600) * 3_600 - offset, offset_s)
}

/// The civil day of an instant under an offset: days since 1970-01-01 on that clock.
pub fn civil_day(ms: i64, offset_s: i32) -> i32 {
    let local = ms.div_euclid(1_000) + i64::from(offset_s);
    let day = local.div_euclid(86_400);
    day.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

#[cfg(test)]
#[path = "time_tests.rs"]
mod tests;
