//! The column of ids: canonical UUID text as 16 bytes or fewer, everything else as it is.
//!
//! A UUIDv7 begins with the millisecond in which it was made, which is nearly always that of the event or of its
//! arrival: it costs the small difference from that and ten bytes. Only text that is exactly what those bytes
//! would print as is packed, so that every id comes back to the letter.

use crate::columns::{Reader, put_bytes, put_varint, put_zigzag, zigzag};
use crate::frame::EventId;
use crate::frame_error::FrameError;
use crate::id::Id;

/// No id.
const NONE: u8 = 0;
/// A UUID whose leading 48 bits are near the reference time: the difference, and ten raw bytes.
const NEAR: u8 = 1;
/// Any other UUID: sixteen raw bytes.
const WHOLE: u8 = 2;
/// Any other id: its text.
const TEXT: u8 = 3;

/// Bytes of the time at the head of a UUIDv7.
const STAMP_BYTES: usize = 6;
/// Bits of that time.
const STAMP_BITS: u32 = 48;
/// Raw bytes of a near UUID.
const NEAR_RAW: usize = WHOLE_RAW - STAMP_BYTES;
/// Raw bytes of any other UUID.
const WHOLE_RAW: usize = 16;
/// Up to this difference from its reference a UUID counts as near: half a year either way, so that the varint has
/// at most five of the six bytes that it saves.
const NEAR_MAX: u64 = 1 << 35;

/// Where the hyphens of UUID text stand.
const HYPHENS: [usize; 4] = [8, 13, 18, 23];
/// Bytes of UUID text.
const UUID_TEXT: usize = 36;
/// Where the two digits of each byte stand in UUID text.
const DIGITS: [usize; 16] = [0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34];

/// The value of a lower-case hexadecimal digit, 255 of any other byte.
const HEX_VALUES: [u8; 256] = {
    let mut values = [255u8; 256];
    let mut i = 0;
    while i < 16 {
        values[b"0123456789abcdef"[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// The bytes of canonical lower-case hyphenated UUID text; none of any other text.
pub(crate) fn uuid_bytes(text: &str) -> Option<[u8; 16]> {
    let text: &[u8; UUID_TEXT] = text.as_bytes().try_into().ok()?;
    if HYPHENS.iter().any(|at| text[*at] != b'-') {
        return None;
    }
    let mut seen = 0u8;
    let bytes = DIGITS.map(|at| {
        let (high, low) = (
            HEX_VALUES[usize::from(text[at])],
            HEX_VALUES[usize::from(text[at + 1])],
        );
        seen |= high | low;
        high << 4 | (low & 0x0f)
    });
    (seen < 16).then_some(bytes)
}

/// The canonical text of those bytes.
pub(crate) fn uuid_text(bytes: &[u8; 16]) -> [u8; UUID_TEXT] {
    let mut text = [b'-'; UUID_TEXT];
    for (byte, at) in bytes.iter().zip(DIGITS) {
        text[at] = b"0123456789abcdef"[usize::from(byte >> 4)];
        text[at + 1] = b"0123456789abcdef"[usize::from(byte & 0x0f)];
    }
    text
}

impl EventId {
    /// How a frame stores that id.
    pub fn of(id: &Id) -> Self {
        match uuid_bytes(id.as_str()) {
            Some(bytes) => EventId::Uuid(bytes),
            None => EventId::Text(id.clone()),
        }
    }

    /// The id.
    pub fn to_id(&self) -> Id {
        match self {
            EventId::Uuid(bytes) => uuid_id(bytes),
            EventId::Text(id) => id.clone(),
        }
    }
}

fn uuid_id(bytes: &[u8; 16]) -> Id {
    let text = uuid_text(bytes);
    std::str::from_utf8(&text)
        .ok()
        .and_then(|t| Id::new(t).ok())
        .expect("hexadecimal digits and hyphens make an id")
}

/// The leading 48 bits of a UUID, which are a v7's milliseconds.
fn stamp(uuid: &[u8; 16]) -> i64 {
    let mut wide = [0u8; 8];
    wide[8 - STAMP_BYTES..].copy_from_slice(&uuid[..STAMP_BYTES]);
    i64::from_be_bytes(wide)
}

/// What a column does with each id.
enum Plan<'a> {
    None,
    Uuid([u8; 16]),
    Text(&'a str),
}

fn plan(id: Option<&str>) -> Plan<'_> {
    match id.map(|id| (id, uuid_bytes(id))) {
        None => Plan::None,
        Some((_, Some(uuid))) => Plan::Uuid(uuid),
        Some((id, None)) => Plan::Text(id),
    }
}

/// The difference of a UUID's time from its reference, when it is near enough to pay.
fn near_delta(uuid: &[u8; 16], reference: i64) -> Option<i64> {
    let delta = stamp(uuid).wrapping_sub(reference);
    (zigzag(delta) < NEAR_MAX).then_some(delta)
}

/// The one of `references` that most of the UUIDs were made at exactly.
fn best_reference(plans: &[Plan<'_>], references: [&[i64]; 2]) -> u8 {
    let hits = references.map(|times| {
        let made_then =
            |(plan, time): &(&Plan<'_>, &i64)| matches!(plan, Plan::Uuid(u) if stamp(u) == **time);
        plans.iter().zip(times).filter(made_then).count()
    });
    u8::from(hits[1] > hits[0])
}

/// Appends a column of ids to `out` and their random bytes to `raw`. Near either of `references` the ids were
/// probably made.
pub(crate) fn put_ids<'a>(
    out: &mut Vec<u8>,
    raw: &mut Vec<u8>,
    ids: impl Iterator<Item = Option<&'a str>>,
    references: [&[i64]; 2],
) {
    let plans: Vec<Plan<'_>> = ids.map(plan).collect();
    let chosen = best_reference(&plans, references);
    let times = references[usize::from(chosen)];
    let modes = plans.iter().zip(times).map(|(plan, time)| match plan {
        Plan::None => NONE,
        Plan::Uuid(uuid) if near_delta(uuid, *time).is_some() => NEAR,
        Plan::Uuid(_) => WHOLE,
        Plan::Text(_) => TEXT,
    });
    put_bytes(out, &modes.collect::<Vec<u8>>());
    out.push(chosen);
    for (plan, time) in plans.iter().zip(times) {
        match plan {
            Plan::None => {}
            Plan::Uuid(uuid) => match near_delta(uuid, *time) {
                Some(delta) => {
                    put_zigzag(out, delta);
                    raw.extend_from_slice(&uuid[STAMP_BYTES..]);
                }
                None => raw.extend_from_slice(uuid),
            },
            Plan::Text(text) => put_varint(out, text.len() as u64),
        }
    }
    for plan in &plans {
        if let Plan::Text(text) = plan {
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// The UUID of that time and those other ten bytes.
fn near(reference: i64, delta: i64, rest: &[u8]) -> Result<[u8; 16], FrameError> {
    let time = reference.wrapping_add(delta);
    if time >> STAMP_BITS != 0 {
        return Err(FrameError::BadNumber);
    }
    let mut uuid = [0u8; 16];
    uuid[..STAMP_BYTES].copy_from_slice(&time.to_be_bytes()[8 - STAMP_BYTES..]);
    uuid[STAMP_BYTES..].copy_from_slice(rest);
    Ok(uuid)
}

/// Reads a column of ids from `from` and `raw`, as many as each of `references` has times.
pub(crate) fn read_ids(
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
    references: [&[i64]; 2],
) -> Result<Vec<Option<EventId>>, FrameError> {
    let modes = from.bytes(references[0].len())?;
    let times = references
        .get(usize::from(from.byte()?))
        .ok_or(FrameError::UnknownNumber)?;
    let mut ids = Vec::with_capacity(times.len());
    let mut texts: Vec<(usize, usize)> = Vec::new();
    for (i, time) in times.iter().enumerate() {
        ids.push(match modes.at(i) {
            NONE => None,
            NEAR => Some(EventId::Uuid(near(
                *time,
                from.zigzag()?,
                raw.take(NEAR_RAW)?,
            )?)),
            WHOLE => {
                let bytes = raw.take(WHOLE_RAW)?;
                Some(EventId::Uuid(
                    bytes.try_into().map_err(|_| FrameError::Short)?,
                ))
            }
            TEXT => {
                texts.push((
                    i,
                    usize::try_from(from.varint()?).map_err(|_| FrameError::BadNumber)?,
                ));
                None
            }
            _ => return Err(FrameError::UnknownNumber),
        });
    }
    for (i, length) in texts {
        let text = crate::columns::text(from.take(length)?)?;
        ids[i] = Some(EventId::Text(Id::new(text)?));
    }
    Ok(ids)
}
