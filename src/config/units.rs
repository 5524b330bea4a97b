//! Sizes and spans of time as people write them: `64MiB`, `2GB`, `30s`, `7d`.
//!
//! One parser for flags, environment and TOML, so that a value means the same wherever it stands.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

/// A span of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// In milliseconds, as instants are counted.
    pub fn ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

/// How long something is kept: a span of time, or forever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(pub Option<Duration>);

/// A text that is not a size or not a span.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadUnit {
    /// Not a size.
    #[error(
        "`{0}` is not a size: write a whole number and a unit of B, KB, MB, GB, TB, KiB, MiB, GiB or TiB, such as 512MiB"
    )]
    Size(String),
    /// Not a span.
    #[error(
        "`{0}` is not a span of time: write a whole number and a unit of ms, s, m, h or d, such as 30s or 7d"
    )]
    Span(String),
    /// Neither a span nor forever.
    #[error(
        "`{0}` is not how long something is kept: write a whole number and a unit of ms, s, m, h or d, such as 90d, or forever"
    )]
    Keep(String),
}

const SIZE_UNITS: [(&str, u64); 10] = [
    ("", 1),
    ("b", 1),
    ("kb", 1_000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
    ("tb", 1_000_000_000_000),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
];

const SPAN_UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Splits `12MiB` into its number and its unit's factor; none when either is unreadable or the product overflows.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let text = text.trim();
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit = unit.trim().to_ascii_lowercase();
    let factor = units.iter().find(|(name, _)| *name == unit)?.1;
    number.parse::<u64>().ok()?.checked_mul(factor)
}

impl FromStr for Bytes {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        scaled(text, &SIZE_UNITS)
            .filter(|n| i64::try_from(*n).is_ok())
            .map(Bytes)
            .ok_or_else(|| BadUnit::Size(text.into()))
    }
}

impl FromStr for Span {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        scaled(text, &SPAN_UNITS)
            .map(|ms| Span(Duration::from_millis(ms)))
            .ok_or_else(|| BadUnit::Span(text.into()))
    }
}

/// What is written for [`Keep`] without an end.
const FOREVER: &str = "forever";

impl FromStr for Keep {
    type Err = BadUnit;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.trim().eq_ignore_ascii_case(FOREVER) {
            return Ok(Keep(None));
        }
        let span = text
            .parse::<Span>()
            .map_err(|_| BadUnit::Keep(text.into()))?;
        Ok(Keep(Some(span.0)))
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(span) => Span(span).fmt(f),
            None => f.write_str(FOREVER),
        }
    }
}

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

impl Serialize for Keep {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let best = SIZE_UNITS[6..]
            .iter()
            .rev()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match best {
            Some((_, factor)) => {
                let name =
                    ["KiB", "MiB", "GiB", "TiB"][(factor.trailing_zeros() / 10 - 1) as usize];
                write!(f, "{}{name}", self.0 / factor)
            }
            None => write!(f, "{}B", self.0),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis() as u64;
        let (name, factor) = SPAN_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| ms > 0 && ms.is_multiple_of(*factor))
            .copied()
            .unwrap_or(("ms", 1));
        write!(f, "{}{name}", ms / factor)
    }
}

/// What TOML may hold for a value with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = match Raw::deserialize(d)? {
            Raw::Number(n) => n.to_string(),
            Raw::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = match Raw::deserialize(d)? {
            Raw::Number(n) => n.to_string(),
            Raw::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans_mean_what_people_write() {
        for (text, bytes) in [
            ("512", 512),
            ("4 KiB", 4_096),
            ("2GB", 2_000_000_000),
            ("1gib", 1 << 30),
            ("0", 0),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap(), Bytes(bytes), "{text}");
        }
        for (text, ms) in [
            ("250ms", 250),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
        ] {
            assert_eq!(
                text.parse::<Span>().unwrap(),
                Span(Duration::from_millis(ms)),
                "{text}"
            );
        }
    }

    #[test]
    fn what_has_no_unit_or_no_number_is_refused() {
        for text in ["", "MiB", "-1", "1.5GiB", "10 parsecs", "99999999999TiB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        for text in ["", "30", "s", "-1s", "1.5h", "1y"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_printed_reads_back() {
        for n in [0, 1, 1_023, 1_024, 3 << 20, 5 << 30, 2_000_000_000] {
            assert_eq!(Bytes(n).to_string().parse::<Bytes>().unwrap(), Bytes(n));
        }
        for keep in [Keep(None), Keep(Some(Duration::from_secs(90 * 86_400)))] {
            assert_eq!(keep.to_string().parse::<Keep>().unwrap(), keep);
        }
        assert!("for ever".parse::<Keep>().is_err());
        for ms in [0, 1, 1_500, 60_000, 90_000, 86_400_000] {
            let span = Span(Duration::from_millis(ms));
            assert_eq!(span.to_string().parse::<Span>().unwrap(), span);
        }
    }
}
