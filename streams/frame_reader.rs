//! Reads frames: checks before it trusts.
//!
//! The checksum comes first, then the map, then what the parts declare, and only then are bytes reserved: at most
//! [`HOT_MAX_BYTES`] and [`COLD_MAX_BYTES`], and a few dozen for each of at most [`FRAME_MAX_EVENTS_READ`] events.
//! Of the cold part a fold reads the visitors only.

use std::cell::RefCell;

use zstd::bulk::Decompressor;
use zstd::zstd_safe::{DCtx, DParameter};

use crate::envelope::{ANNOUNCEMENT, COLD_PACKED, Envelope, HOT_PACKED, read_watermark};
use crate::event::Kind;
use crate::first_block;
use crate::frame::{COLD_MAX_BYTES, EventMessage, FoldMessage, Header, WholeMessage};
use crate::frame_error::FrameError;
use crate::frame_events::{ColdColumns, events_of};
use crate::frame_hot::read_hot;
use crate::id::{Epoch, Id};
use crate::names::{FRAME_MAX_EVENTS_READ, REASON_MAX_BYTES};
use crate::visitor::{NOBODY, read_visitors, visitor_of};
use crate::watermark::Watermark;

#[cfg(doc)]
use crate::frame::HOT_MAX_BYTES;

/// What a reader keeps from frame to frame: at most the two parts' limits a thread.
struct Scratch {
    zstd: Decompressor<'static>,
    beginnings: DCtx<'static>,
    hot: Vec<u8>,
    cold: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        zstd: Decompressor::new().expect("zstd's context takes some memory and nothing else"),
        beginnings: beginnings(),
        hot: Vec::new(),
        cold: Vec::new(),
    });
}

/// What a message's map says before its parts are read.
enum Opened<'a> {
    Frame(Header, Envelope<'a>),
    Announcement {
        producer: Id,
        epoch: Epoch,
        watermark: Watermark,
        retired: Option<Box<str>>,
    },
}

fn open(bytes: &[u8]) -> Result<Opened<'_>, FrameError> {
    let envelope = Envelope::open(bytes)?;
    let producer = Id::new(envelope.producer)?;
    let epoch = Epoch(envelope.epoch);
    let watermark = read_watermark(envelope.watermark)?;
    if envelope.kind == ANNOUNCEMENT {
        let reason = envelope.reason;
        return Ok(Opened::Announcement {
            producer,
            epoch,
            watermark,
            retired: (!reason.is_empty()).then(|| kept_reason(reason)),
        });
    }
    let kind = Kind::from_number(envelope.kind).ok_or(FrameError::UnknownKind(envelope.kind))?;
    let (first, count) = (envelope.first, envelope.count);
    if !(1..=FRAME_MAX_EVENTS_READ as u32).contains(&count)
        || first.checked_add(u64::from(count)).is_none()
    {
        return Err(FrameError::BadCount { first, count });
    }
    Ok(Opened::Frame(
        Header {
            kind,
            producer,
            epoch,
            first,
            count,
            watermark,
        },
        envelope,
    ))
}

/// A reason as it is kept: cut to [`REASON_MAX_BYTES`], whatever its writer took for a limit.
fn kept_reason(reason: &str) -> Box<str> {
    reason[..reason.floor_char_boundary(REASON_MAX_BYTES)].into()
}

/// Reads a message's header and none of its events; none for an announcement.
///
/// # Errors
/// When the bytes are not a message that this program can read; the checksum of the whole is checked.
pub fn decode_header(bytes: &[u8]) -> Result<Option<Header>, FrameError> {
    match open(bytes)? {
        Opened::Frame(header, _) => Ok(Some(header)),
        Opened::Announcement { .. } => Ok(None),
    }
}

/// Reads what a fold needs of a message, and passes over the rest.
///
/// # Errors
/// When the bytes are not a message that this program can read.
pub fn decode_for_fold(bytes: &[u8]) -> Result<FoldMessage, FrameError> {
    match open(bytes)? {
        Opened::Announcement {
            producer,
            epoch,
            watermark,
            retired,
        } => Ok(FoldMessage::Announcement {
            producer,
            epoch,
            watermark,
            retired,
        }),
        Opened::Frame(header, envelope) => SCRATCH.with_borrow_mut(|scratch| {
            let hot = unpack(&mut scratch.zstd, &mut scratch.hot, envelope.hot_part())?;
            let (mut fold, raw_cold) = read_hot(header, hot, envelope.raw)?;
            fold.visitor = match fold.header.kind {
                Kind::Impression | Kind::Click => {
                    let times = [fold.event_time_ms.as_slice(), &fold.arrival_ms];
                    let (zstd, cold) = (&mut scratch.zstd, &mut scratch.cold);
                    let part = envelope.cold_part();
                    beginning(&mut scratch.beginnings, cold, &part)
                        .and_then(|cold| read_visitors(cold, raw_cold, times).ok())
                        .or_else(|| {
                            read_visitors(unpack(zstd, cold, part).ok()?, raw_cold, times).ok()
                        })
                        .unwrap_or_else(|| vec![NOBODY; fold.id.len()])
                }
                Kind::Conversion => vec![NOBODY; fold.id.len()],
            };
            Ok(FoldMessage::Frame(Box::new(fold)))
        }),
    }
}

/// Reads all of a message.
///
/// # Errors
/// When the bytes are not a message that this program can read.
pub fn decode_events(bytes: &[u8]) -> Result<EventMessage, FrameError> {
    match open(bytes)? {
        Opened::Announcement {
            producer,
            epoch,
            watermark,
            retired,
        } => Ok(EventMessage::Announcement {
            producer,
            epoch,
            watermark,
            retired,
        }),
        Opened::Frame(header, envelope) => SCRATCH.with_borrow_mut(|scratch| {
            let hot = unpack(&mut scratch.zstd, &mut scratch.hot, envelope.hot_part())?;
            let (fold, raw_cold) = read_hot(header, hot, envelope.raw)?;
            let cold = unpack(&mut scratch.zstd, &mut scratch.cold, envelope.cold_part())?;
            let cold = ColdColumns::read(&fold, cold, raw_cold)?;
            Ok(EventMessage::Frame(events_of(fold, cold)))
        }),
    }
}

/// Reads all of a message into columns, for whoever keeps it in another form, and says whether that would lose
/// something of it.
///
/// # Errors
/// When the bytes are not a message that this program can read.
pub fn decode_whole(bytes: &[u8]) -> Result<WholeMessage, FrameError> {
    let envelope = Envelope::open(bytes)?;
    let known = envelope.is_all_of(bytes);
    match open(bytes)? {
        Opened::Announcement {
            producer,
            epoch,
            watermark,
            retired,
        } => Ok(WholeMessage {
            fold: FoldMessage::Announcement {
                producer,
                epoch,
                watermark,
                retired,
            },
            cold: None,
            known,
        }),
        Opened::Frame(header, envelope) => SCRATCH.with_borrow_mut(|scratch| {
            let hot = unpack(&mut scratch.zstd, &mut scratch.hot, envelope.hot_part())?;
            let (mut fold, raw_cold) = read_hot(header, hot, envelope.raw)?;
            let cold = unpack(&mut scratch.zstd, &mut scratch.cold, envelope.cold_part())?;
            let cold = ColdColumns::read(&fold, cold, raw_cold)?;
            fold.visitor = match fold.header.kind {
                Kind::Impression | Kind::Click => {
                    let users = cold.user_id.iter().zip(&cold.address_hash);
                    users
                        .map(|(user, address)| visitor_of(user.as_ref(), *address))
                        .collect()
                }
                Kind::Conversion => vec![NOBODY; fold.id.len()],
            };
            let known = known && fold.is_as_written();
            Ok(WholeMessage {
                fold: FoldMessage::Frame(Box::new(fold)),
                cold: Some(Box::new(cold)),
                known,
            })
        }),
    }
}

/// A part as its envelope describes it.
struct Part<'a> {
    name: &'static str,
    bytes: &'a [u8],
    packed: bool,
    /// Checked against the part's limit when the envelope was opened.
    length: usize,
}

impl<'a> Envelope<'a> {
    fn hot_part(&self) -> Part<'a> {
        Part {
            name: "hot",
            bytes: self.hot,
            packed: self.codec & HOT_PACKED != 0,
            length: self.hot_len as usize,
        }
    }

    fn cold_part(&self) -> Part<'a> {
        Part {
            name: "cold",
            bytes: self.cold,
            packed: self.codec & COLD_PACKED != 0,
            length: self.cold_len as usize,
        }
    }
}

/// What unpacks beginnings; no frame makes it reserve for more than a part may have.
fn beginnings() -> DCtx<'static> {
    let mut zstd = DCtx::create();
    let limit = DParameter::WindowLogMax(COLD_MAX_BYTES.ilog2());
    zstd.set_parameter(limit)
        .expect("22 is a window that zstd knows");
    zstd
}

/// The plain bytes of a part's first block, in `buffer`; none where it has no such block.
fn beginning<'b>(
    zstd: &mut DCtx<'_>,
    buffer: &'b mut Vec<u8>,
    part: &Part<'_>,
) -> Option<&'b [u8]> {
    if !part.packed {
        return None;
    }
    if buffer.len() < part.length {
        buffer.resize(part.length, 0);
    }
    first_block::unpack(zstd, part.bytes, &mut buffer[..part.length])
}

/// The plain bytes of a part, in `buffer` where it was packed.
fn unpack<'b>(
    zstd: &mut Decompressor<'_>,
    buffer: &'b mut Vec<u8>,
    part: Part<'b>,
) -> Result<&'b [u8], FrameError> {
    let bad = FrameError::BadLength {
        part: part.name,
        said: part.length,
    };
    if !part.packed {
        return if part.bytes.len() == part.length {
            Ok(part.bytes)
        } else {
            Err(bad)
        };
    }
    if buffer.len() < part.length {
        buffer.resize(part.length, 0);
    }
    match zstd.decompress_to_buffer(part.bytes, &mut buffer[..part.length]) {
        Ok(found) if found == part.length => Ok(&buffer[..part.length]),
        _ => Err(bad),
    }
}
