//! The id index: the same event by two ways counts once, the first time.
//!
//! Invariant: the first sequence wins for [`ID_HORIZON_MS`] of log time. The horizon is logical: a record past it
//! is a miss even where it is still stored, so dropping a day's family whole changes no result.
//!
//! The id stands first in a key and its owner last. A UUIDv7 begins with its time, so new keys are past those of
//! every older file: a lookup passes over such files by their range, without their filters, and rows are appended
//! where the last ones went. By owner first, a new id would fall into every file. Random ids cost what they would
//! in any order.

use adtally_streams::event::Kind;
use adtally_streams::frame::EventId;
use adtally_streams::names::ID_HORIZON_MS;

use crate::codec::{Damaged, Reader, put_u32, put_varint};
use crate::symbols::{Space, Symbol};

/// First byte of a packed id: sixteen bytes of a UUID follow, or a text.
pub(crate) const UUID: u8 = 0;
pub(crate) const TEXT: u8 = 1;
const DAY_MS: i64 = 86_400_000;

/// Appends an event's id: a tag and 16 bytes of a UUID or the text.
pub fn pack(out: &mut Vec<u8>, id: &EventId) {
    match id {
        EventId::Uuid(bytes) => {
            out.push(UUID);
            out.extend_from_slice(bytes);
        }
        EventId::Text(text) => {
            out.push(TEXT);
            out.extend_from_slice(text.as_str().as_bytes());
        }
    }
}

/// The text of a packed id.
pub fn unpack(packed: &[u8]) -> Option<String> {
    match packed {
        [UUID, bytes @ ..] if bytes.len() == 16 => {
            let mut out = String::with_capacity(36);
            for (i, byte) in bytes.iter().enumerate() {
                if matches!(i, 4 | 6 | 8 | 10) {
                    out.push('-');
                }
                for nibble in [byte >> 4, byte & 15] {
                    out.push(char::from(b"0123456789abcdef"[usize::from(nibble)]));
                }
            }
            Some(out)
        }
        [TEXT, text @ ..] => std::str::from_utf8(text).ok().map(str::to_owned),
        _ => None,
    }
}

/// Appends a key of the index: kind, id, symbol of the ad (of a conversion: the advertiser).
pub fn key(out: &mut Vec<u8>, kind: Kind, owner: Symbol, id: &EventId) {
    out.push(kind as u8);
    pack(out, id);
    put_u32(out, owner);
}

/// The parts of a key of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdKey<'a> {
    /// The kind of the event.
    pub kind: Kind,
    /// Symbol of the ad (of a conversion: the advertiser).
    pub owner: Symbol,
    /// The id as [`pack`] writes it, of which it is known that it can be unpacked.
    pub id: &'a [u8],
}

impl<'a> IdKey<'a> {
    /// Reads a key.
    ///
    /// # Errors
    /// [`Damaged`] when it is none.
    pub fn decode(key: &'a [u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "id");
        let kind = Kind::from_number(r.u8()?).ok_or(r.damaged())?;
        let (id, owner) = r
            .rest()
            .split_last_chunk::<{ size_of::<Symbol>() }>()
            .ok_or(r.damaged())?;
        let is_id = match id {
            [UUID, bytes @ ..] => bytes.len() == 16,
            [TEXT, text @ ..] => std::str::from_utf8(text).is_ok(),
            _ => false,
        };
        match is_id {
            true => Ok(Self {
                kind,
                owner: Symbol::from_be_bytes(*owner),
                id,
            }),
            false => Err(r.damaged()),
        }
    }

    /// The space of its owner's symbol.
    pub fn owner_space(&self) -> Space {
        match self.kind {
            Kind::Conversion => Space::Advertiser,
            Kind::Impression | Kind::Click => Space::Ad,
        }
    }

    /// The id's text.
    pub fn text(&self) -> String {
        unpack(self.id).unwrap_or_default()
    }
}

/// Who has an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdRecord {
    /// Log time at which it was applied, Unix milliseconds.
    pub log_time_ms: i64,
    /// Sequence of the frame in which it was.
    pub sequence: u64,
    /// Hash of what the publisher gave.
    pub content_hash: u64,
}

impl IdRecord {
    /// Appends the row's value.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.content_hash.to_be_bytes());
        put_varint(out, self.log_time_ms as u64);
        put_varint(out, self.sequence);
    }

    /// Reads a row's value.
    pub fn decode(value: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(value, "id");
        let content_hash = r.u64()?;
        let record = Self {
            content_hash,
            log_time_ms: r.varint()? as i64,
            sequence: r.varint()?,
        };
        r.end()?;
        Ok(record)
    }

    /// Whether the record still holds at that log time.
    pub fn holds_at(&self, log_time_ms: i64) -> bool {
        log_time_ms.saturating_sub(self.log_time_ms) <= ID_HORIZON_MS
    }
}

/// The log day (day number of the Unix epoch) whose family takes what is applied at that log time.
pub fn log_day(log_time_ms: i64) -> i32 {
    log_time_ms
        .div_euclid(DAY_MS)
        .clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
}

/// Whether every record of that day is past the horizon by a day, so that its family may be dropped.
pub fn may_drop(day: i32, log_time_ms: i64) -> bool {
    (i64::from(day) + 1) * DAY_MS + ID_HORIZON_MS + DAY_MS < log_time_ms
}

const FAMILY_PREFIX: &str = "ids_";

/// The name of a log day's family: `ids_<yyyymmdd>`, or the day's number where that is no date of four digits.
pub fn day_family(day: i32) -> String {
    match chrono::NaiveDate::from_epoch_days(day) {
        Some(date) if (0..=9_999).contains(&chrono::Datelike::year(&date)) => {
            format!("{FAMILY_PREFIX}{}", date.format("%Y%m%d"))
        }
        _ => format!("{FAMILY_PREFIX}day{day}"),
    }
}

/// The log day of a family's name; none for other families.
pub fn day_of_family(name: &str) -> Option<i32> {
    let rest = name.strip_prefix(FAMILY_PREFIX)?;
    match rest.strip_prefix("day") {
        Some(number) => number.parse().ok(),
        None => chrono::NaiveDate::parse_from_str(rest, "%Y%m%d")
            .ok()
            .map(|date| date.to_epoch_days()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use adtally_streams::id::Id;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn keys_and_records_return(owner: u32, id in "[A-Za-z0-9_:-]{1,64}", at in 0i64.., sequence: u64, hash: u64) {
            let mut k = Vec::new();
            key(&mut k, Kind::Click, owner, &EventId::Text(Id::new(&id).unwrap()));
            let decoded = IdKey::decode(&k).unwrap();
            prop_assert_eq!((decoded.kind, decoded.owner, decoded.text()), (Kind::Click, owner, id));
            let record = IdRecord { log_time_ms: at, sequence, content_hash: hash };
            let mut v = Vec::new();
            record.encode(&mut v);
            prop_assert_eq!(IdRecord::decode(&v), Ok(record));
        }

        #[test]
        fn family_names_return(day: i32) {
            prop_assert_eq!(day_of_family(&day_family(day)), Some(day));
        }
    }

    #[test]
    fn a_packed_uuid_is_its_text() {
        let mut out = Vec::new();
        pack(
            &mut out,
            &EventId::Uuid([
                0x01, 0x8f, 2, 3, 4, 5, 0x76, 7, 8, 9, 10, 11, 12, 13, 14, 0xff,
            ]),
        );
        assert_eq!(
            unpack(&out).unwrap(),
            "018f0203-0405-7607-0809-0a0b0c0d0eff"
        );
        assert_eq!(day_family(19_762), "ids_20240209");
    }

    #[test]
    fn keys_of_uuids_stand_in_the_order_of_their_times_whatever_their_ads() {
        let at = |ms: u64, owner| {
            let mut bytes = [0x7f; 16];
            bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
            let mut k = Vec::new();
            key(&mut k, Kind::Click, owner, &EventId::Uuid(bytes));
            k
        };
        assert!(at(1_767_225_600_000, 9) < at(1_767_225_600_001, 2));
        assert!(at(1_767_225_600_001, 2) < at(1_767_225_600_001, 3));
    }

    #[test]
    fn a_day_may_be_dropped_a_day_after_its_last_record_is_past_the_horizon() {
        let end = 20_000 * DAY_MS;
        assert!(!may_drop(19_999, end + ID_HORIZON_MS + DAY_MS));
        assert!(may_drop(19_999, end + ID_HORIZON_MS + DAY_MS + 1));
    }
}
