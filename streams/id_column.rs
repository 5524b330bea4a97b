//! The column of ids: canonical UUID text as 16 bytes or fewer, everything else as it is.
//!
//! A UUIDv7 begins with the millisecond in which it was made, which is nearly always that of the event or of its
//! arrival: it costs the small difference from that and ten bytes. Only text that is exactly what those bytes
//! would print as is packed, so that every id comes back to the letter.

use crate::columns::{Reader, put_bytes, put_texts, put_zigzag, zigzag};
use crate::frame::EventId;
use crate::frame_error::FrameError;
use crate::id::Id;
use crate::view::IdView;

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

impl EventId {
    /// How a frame stores that id.
    pub fn of(id: &Id) -> Self {
        match id.to_uuid() {
            Some(bytes) => EventId::Uuid(bytes),
            None => EventId::Text(id.clone()),
        }
    }

    /// The id.
    pub fn to_id(&self) -> Id {
        match self {
            EventId::Uuid(bytes) => Id::from_uuid(bytes),
            EventId::Text(id) => id.clone(),
        }
    }
}

/// The leading 48 bits of a UUID, which are a v7's milliseconds.
fn stamp(uuid: &[u8; 16]) -> i64 {
    let mut wide = [0u8; 8];
    wide[8 - STAMP_BYTES..].copy_from_slice(&uuid[..STAMP_BYTES]);
    i64::from_be_bytes(wide)
}

/// The difference of a UUID's time from its reference, when it is near enough to pay.
fn near_delta(uuid: &[u8; 16], reference: i64) -> Option<i64> {
    let delta = stamp(uuid).wrapping_sub(reference);
    (zigzag(delta) < NEAR_MAX).then_some(delta)
}

/// The one of `references` that most of the UUIDs were made at exactly.
fn best_reference(ids: &[Option<IdView<'_>>], references: [&[i64]; 2]) -> u8 {
    let hits = references.map(|times| {
        let made_then = |(id, time): &(&Option<IdView<'_>>, &i64)| matches!(id, Some(IdView::Uuid(u)) if stamp(u) == **time);
        ids.iter().zip(times).filter(made_then).count()
    });
    u8::from(hits[1] > hits[0])
}

/// Appends a column of ids to `out` and their random bytes to `raw`. Near either of `references` the ids were
/// probably made.
pub(crate) fn put_ids(
    out: &mut Vec<u8>,
    raw: &mut Vec<u8>,
    ids: &[Option<IdView<'_>>],
    references: [&[i64]; 2],
) {
    let chosen = best_reference(ids, references);
    let times = references[usize::from(chosen)];
    let modes = ids.iter().zip(times).map(|(id, time)| match id {
        None => NONE,
        Some(IdView::Uuid(uuid)) if near_delta(uuid, *time).is_some() => NEAR,
        Some(IdView::Uuid(_)) => WHOLE,
        Some(IdView::Text(_)) => TEXT,
    });
    put_bytes(out, &modes.collect::<Vec<u8>>());
    out.push(chosen);
    let texts = ids.iter().filter_map(|id| match id {
        Some(IdView::Text(text)) => Some(*text),
        _ => None,
    });
    put_texts(out, texts);
    for (id, time) in ids.iter().zip(times) {
        let Some(IdView::Uuid(uuid)) = id else {
            continue;
        };
        match near_delta(uuid, *time) {
            Some(delta) => {
                put_zigzag(out, delta);
                raw.extend_from_slice(&uuid[STAMP_BYTES..]);
            }
            None => raw.extend_from_slice(uuid),
        }
    }
}

/// The UUID of that time and those other ten bytes.
fn near(reference: i64, delta: i64, rest: &[u8; NEAR_RAW]) -> Result<[u8; 16], FrameError> {
    let time = reference.wrapping_add(delta);
    if time >> STAMP_BITS != 0 {
        return Err(FrameError::BadNumber);
    }
    let mut uuid = [0u8; 16];
    uuid[..STAMP_BYTES].copy_from_slice(&time.to_be_bytes()[8 - STAMP_BYTES..]);
    uuid[STAMP_BYTES..].copy_from_slice(rest);
    Ok(uuid)
}

/// Reads a column of ids from `from` and `raw`, as many as each of `references` has times, and makes of each what
/// `make` does.
pub(crate) fn read_ids<T>(
    from: &mut Reader<'_>,
    raw: &mut Reader<'_>,
    references: [&[i64]; 2],
    make: impl Fn(Option<Found<'_>>) -> Result<T, FrameError>,
) -> Result<Vec<T>, FrameError> {
    let count = references[0].len();
    let modes = from.bytes(count)?;
    let chosen = usize::from(from.byte()?);
    let times = references.get(chosen).ok_or(FrameError::UnknownNumber)?;
    let mut texts = from.texts(modes.count_of(TEXT, count))?.into_iter();
    let mut ids = Vec::with_capacity(count);
    for (i, time) in times.iter().enumerate() {
        let found = match modes.at(i) {
            NONE => None,
            NEAR => Some(Found::Uuid(near(
                *time,
                from.zigzag()?,
                raw.array::<NEAR_RAW>()?,
            )?)),
            WHOLE => Some(Found::Uuid(*raw.array::<WHOLE_RAW>()?)),
            TEXT => texts.next().map(Found::Text),
            _ => return Err(FrameError::UnknownNumber),
        };
        ids.push(make(found)?);
    }
    Ok(ids)
}

/// An id as its column has it.
pub(crate) enum Found<'a> {
    /// The bytes of a UUID.
    Uuid([u8; 16]),
    /// A text that has still to be checked.
    Text(&'a str),
}

/// An id that every event has.
#[inline]
pub(crate) fn event_id(found: Option<Found<'_>>) -> Result<EventId, FrameError> {
    match found {
        Some(Found::Uuid(bytes)) => Ok(EventId::Uuid(bytes)),
        Some(Found::Text(text)) => Ok(EventId::Text(Id::new(text)?)),
        None => Err(FrameError::UnknownNumber),
    }
}

/// An id that an event may have.
#[inline]
pub(crate) fn optional_id(found: Option<Found<'_>>) -> Result<Option<EventId>, FrameError> {
    match found {
        Some(Found::Uuid(bytes)) => Ok(Some(EventId::Uuid(bytes))),
        Some(Found::Text(text)) => Ok(Some(EventId::Text(Id::new(text)?))),
        None => Ok(None),
    }
}
