//! Writes frames: events into columns, columns into three parts, parts into an envelope.
//!
//! One layout for every size. Writing trusts its caller and checks what would make a frame that nobody can read:
//! such a frame would be acknowledged and then be lost.

use std::cell::RefCell;

use zstd::bulk::Compressor;

use crate::envelope::{COLD_PACKED, Envelope, HOT_PACKED, put_watermark};
use crate::event::{Event, Kind};
use crate::event_row::{BadRow, Rows};
use crate::first_block;
use crate::frame::{COLD_MAX_BYTES, HOT_MAX_BYTES, Header};
use crate::frame_columns::{Columns, Parts};
use crate::names::FRAME_MAX_EVENTS_READ;

/// Below so many events a frame's parts stay as they are: zstd would add more than it takes.
const PACK_FROM_EVENTS: usize = 4;
/// zstd's level: the next one costs twice the time for a byte an event.
const LEVEL: i32 = 1;

/// What a writer keeps from frame to frame: at most a few frames' worth of bytes a thread.
struct Scratch {
    zstd: Compressor<'static>,
    parts: Parts,
    hot_packed: Vec<u8>,
    cold_packed: Vec<u8>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::new(Scratch {
        zstd: Compressor::new(LEVEL).expect("zstd's context takes a megabyte of memory and nothing else"),
        parts: Parts::default(),
        hot_packed: Vec::new(),
        cold_packed: Vec::new(),
    });
}

/// The message of those events.
///
/// # Panics
/// When `header` does not describe `events`: other kinds, another count, none, more than
/// [`FRAME_MAX_EVENTS_READ`], or counters past the end of numbers; or when the events are larger than any reader
/// accepts, which those are not whose [`crate::frame::event_bound`] add up to at most
/// [`crate::names::FRAME_MAX_BYTES`].
pub fn encode(header: &Header, events: &[Event]) -> Vec<u8> {
    check(header, events.len());
    let mut columns = Columns::with_room(header.kind, events.len());
    events.iter().for_each(|event| columns.push(&event.view()));
    SCRATCH.with_borrow_mut(|scratch| scratch.encode(header, &columns))
}

/// The message of stored events, packed from where they lie.
///
/// # Errors
/// [`BadRow`] when one of them cannot be read.
///
/// # Panics
/// As [`encode`] does.
pub fn encode_rows(header: &Header, rows: &Rows) -> Result<Vec<u8>, BadRow> {
    check(header, rows.len());
    let mut columns = Columns::with_room(header.kind, rows.len());
    for view in rows.views() {
        columns.push(&view?);
    }
    Ok(SCRATCH.with_borrow_mut(|scratch| scratch.encode(header, &columns)))
}

fn check(header: &Header, events: usize) {
    assert!(
        header.count as usize == events && (1..=FRAME_MAX_EVENTS_READ).contains(&events),
        "a frame of {events} events says {}",
        header.count
    );
    assert!(
        header.first.checked_add(u64::from(header.count)).is_some(),
        "counters end before 2^64"
    );
}

impl Scratch {
    fn encode(&mut self, header: &Header, columns: &Columns<'_>) -> Vec<u8> {
        let parts = &mut self.parts;
        parts.fill(columns);
        assert!(
            parts.hot.len() <= HOT_MAX_BYTES && parts.cold.len() <= COLD_MAX_BYTES,
            "events no reader accepts"
        );
        let mut watermark = Vec::with_capacity(64);
        put_watermark(&mut watermark, &header.watermark);
        let mut envelope = Envelope::new(
            header.kind as u8,
            header.producer.as_str(),
            header.epoch.0,
            &watermark,
        );
        (envelope.first, envelope.count) = (header.first, header.count);
        (envelope.hot_len, envelope.hot) = (parts.hot.len() as u64, &parts.hot);
        (envelope.cold_len, envelope.cold) = (parts.cold.len() as u64, &parts.cold);
        envelope.raw = &parts.raw;
        if header.count as usize >= PACK_FROM_EVENTS {
            if pack(&mut self.zstd, &parts.hot, &mut self.hot_packed) {
                envelope.hot = &self.hot_packed;
                envelope.codec |= HOT_PACKED;
            }
            // A fold reads the visitors only, so they have a block of their own.
            let cold = &mut self.cold_packed;
            let packed = match header.kind {
                Kind::Impression | Kind::Click => {
                    first_block::pack(&mut self.zstd, &parts.cold, parts.visitors_end, cold)
                }
                Kind::Conversion => pack(&mut self.zstd, &parts.cold, cold),
            };
            if packed {
                envelope.cold = &self.cold_packed;
                envelope.codec |= COLD_PACKED;
            }
        }
        envelope.seal()
    }
}

/// Packs a part, and says whether that made it smaller.
fn pack(zstd: &mut Compressor<'_>, plain: &[u8], packed: &mut Vec<u8>) -> bool {
    packed.clear();
    packed.reserve(zstd::zstd_safe::compress_bound(plain.len()));
    zstd.compress_to_buffer(plain, packed)
        .expect("zstd packs any bytes into a buffer of its bound");
    packed.len() < plain.len()
}
