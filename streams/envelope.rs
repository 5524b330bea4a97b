//! The envelope: the MessagePack map around a frame's parts, and the checksum that closes it.
//!
//! A named map, so that an old reader passes over a key that a later writer adds (always before the checksum,
//! which stays last). Nothing in it is a sequence of structs: a hostile count would make serde reserve for it.
//! The checksum is not optional: without it a third of blind mutations would be believed.

use serde::{Deserialize, Serialize, Serializer};

use crate::columns::{Reader, put_varint, put_zigzag};
use crate::event::Kind;
use crate::frame::{COLD_MAX_BYTES, HOT_MAX_BYTES, VERSION};
use crate::frame_error::FrameError;
use crate::names::REASON_MAX_BYTES;
use crate::watermark::Watermark;

/// The number in the kind's place that marks an announcement, far from any kind of event.
pub(crate) const ANNOUNCEMENT: u8 = 127;
/// Codec bit: the hot part is one zstd frame.
pub(crate) const HOT_PACKED: u8 = 1;
/// Codec bit: the cold part is one zstd frame.
pub(crate) const COLD_PACKED: u8 = 2;
/// Bytes of the checksum, the last ones of every message.
const CHECKSUM_BYTES: usize = 4;
/// The deepest nesting that a reader follows through keys that it does not know.
const MAX_DEPTH: usize = 32;
/// The most lanes whose counters a watermark may hold: more than there will be kinds.
const MAX_LANES: usize = 64;

/// What stands between a message's first and last byte.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Envelope<'a> {
    /// [`VERSION`].
    #[serde(rename = "v")]
    pub(crate) version: u8,
    /// Number of the kind, or [`ANNOUNCEMENT`].
    #[serde(rename = "k")]
    pub(crate) kind: u8,
    /// Who wrote it.
    #[serde(rename = "p", borrow)]
    pub(crate) producer: &'a str,
    /// Under which opening of its outbox.
    #[serde(rename = "e")]
    pub(crate) epoch: u64,
    /// Counter of the first event.
    #[serde(rename = "f", default, skip_serializing_if = "is_zero")]
    pub(crate) first: u64,
    /// How many events.
    #[serde(rename = "n", default, skip_serializing_if = "is_zero")]
    pub(crate) count: u32,
    /// The watermark, as [`put_watermark`] writes it.
    #[serde(rename = "w", borrow, serialize_with = "as_bytes")]
    pub(crate) watermark: &'a [u8],
    /// Which parts are packed.
    #[serde(rename = "c", default, skip_serializing_if = "is_zero")]
    pub(crate) codec: u8,
    /// Unpacked length of the hot part.
    #[serde(rename = "hn", default, skip_serializing_if = "is_zero")]
    pub(crate) hot_len: u64,
    /// What a fold needs.
    #[serde(
        rename = "h",
        default,
        borrow,
        serialize_with = "as_bytes",
        skip_serializing_if = "is_empty"
    )]
    pub(crate) hot: &'a [u8],
    /// Unpacked length of the cold part.
    #[serde(rename = "on", default, skip_serializing_if = "is_zero")]
    pub(crate) cold_len: u64,
    /// What only archive and judge need.
    #[serde(
        rename = "o",
        default,
        borrow,
        serialize_with = "as_bytes",
        skip_serializing_if = "is_empty"
    )]
    pub(crate) cold: &'a [u8],
    /// Random bytes of ids and hashes, never packed.
    #[serde(
        rename = "r",
        default,
        borrow,
        serialize_with = "as_bytes",
        skip_serializing_if = "is_empty"
    )]
    pub(crate) raw: &'a [u8],
    /// Why an operator declared that nothing more will come from the epoch; only in an announcement, and empty
    /// where the producer speaks for itself.
    #[serde(rename = "y", default, borrow, skip_serializing_if = "is_blank")]
    pub(crate) reason: &'a str,
    /// CRC-32C of every byte before these four, most significant first.
    #[serde(rename = "s", borrow, serialize_with = "as_bytes")]
    pub(crate) checksum: &'a [u8],
}

fn is_zero<T: Default + PartialEq>(n: &T) -> bool {
    *n == T::default()
}

fn is_empty(bytes: &&[u8]) -> bool {
    bytes.is_empty()
}

fn is_blank(text: &&str) -> bool {
    text.is_empty()
}

fn as_bytes<S: Serializer>(bytes: &&[u8], s: S) -> Result<S::Ok, S::Error> {
    s.serialize_bytes(bytes)
}

impl<'a> Envelope<'a> {
    /// The envelope of an announcement, to which a frame adds its parts.
    pub(crate) fn new(kind: u8, producer: &'a str, epoch: u64, watermark: &'a [u8]) -> Self {
        Self {
            version: VERSION,
            kind,
            producer,
            epoch,
            first: 0,
            count: 0,
            watermark,
            codec: 0,
            hot_len: 0,
            hot: &[],
            cold_len: 0,
            cold: &[],
            raw: &[],
            reason: "",
            checksum: &[0; CHECKSUM_BYTES],
        }
    }

    /// The message.
    pub(crate) fn seal(&self) -> Vec<u8> {
        let parts = self.hot.len() + self.cold.len() + self.raw.len();
        let mut out = Vec::with_capacity(parts + 192);
        self.serialize(&mut rmp_serde::Serializer::new(&mut out).with_struct_map())
            .expect("numbers, texts and bytes always serialize into memory");
        let body = out.len() - CHECKSUM_BYTES;
        let checksum = crc32c::crc32c(&out[..body]);
        out[body..].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Whether the message holds nothing besides what this program reads: written again, it is byte for byte the same.
    /// A later version's key or lane would make another message of it.
    pub(crate) fn is_all_of(&self, message: &[u8]) -> bool {
        let mut watermark = Vec::with_capacity(64);
        match read_watermark(self.watermark) {
            Ok(read) => put_watermark(&mut watermark, &read),
            Err(_) => return false,
        }
        let reason = self.reason.len() <= REASON_MAX_BYTES;
        reason && watermark == self.watermark && self.seal() == message
    }

    /// Checks the checksum, the map, the version, the codec and what the parts declare.
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (body, tail) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(FrameError::Short)?;
        let (said, found) = (u32::from_be_bytes(*tail), crc32c::crc32c(body));
        if said != found {
            return Err(FrameError::BadChecksum {
                said,
                found,
                bytes: bytes.len(),
            });
        }
        let mut map = rmp_serde::Deserializer::from_read_ref(bytes);
        map.set_max_depth(MAX_DEPTH);
        let envelope =
            Envelope::deserialize(&mut map).map_err(|e| FrameError::BadMap(e.to_string()))?;
        // The checksum closes the map and the map closes the message, so the one that was read must be those
        // very bytes and not others of the same value.
        if !std::ptr::eq(envelope.checksum, tail.as_slice()) {
            return Err(FrameError::Trailing);
        }
        if envelope.version != VERSION {
            return Err(FrameError::UnknownVersion(envelope.version));
        }
        if envelope.codec & !(HOT_PACKED | COLD_PACKED) != 0 {
            return Err(FrameError::UnknownCodec(envelope.codec));
        }
        declared("hot", envelope.hot_len, HOT_MAX_BYTES)?;
        declared("cold", envelope.cold_len, COLD_MAX_BYTES)?;
        Ok(envelope)
    }
}

fn declared(part: &'static str, said: u64, most: usize) -> Result<(), FrameError> {
    if said > most as u64 {
        Err(FrameError::TooLarge { part, said, most })
    } else {
        Ok(())
    }
}

/// Bit of a watermark's first byte: nothing more will come.
const DRAINED: u8 = 1;

impl Watermark {
    /// Its bytes, as a message's header has them.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        put_watermark(&mut out, self);
        out
    }

    /// Reads what [`Watermark::to_bytes`] wrote.
    ///
    /// # Errors
    /// When those are not such bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FrameError> {
        read_watermark(bytes)
    }
}

/// A watermark's bytes: flags, time, how many lanes, and for each what is acknowledged and how far ahead its head
/// is. A writer that knows more kinds writes more lanes; a reader that knows fewer passes over them.
pub(crate) fn put_watermark(out: &mut Vec<u8>, watermark: &Watermark) {
    out.push(if watermark.drained { DRAINED } else { 0 });
    put_zigzag(out, watermark.through_ms);
    put_varint(out, watermark.acked.len() as u64);
    for (acked, head) in watermark.acked.iter().zip(watermark.heads) {
        put_varint(out, *acked);
        put_zigzag(out, head.wrapping_sub(*acked) as i64);
    }
}

/// Reads what [`put_watermark`] wrote.
pub(crate) fn read_watermark(bytes: &[u8]) -> Result<Watermark, FrameError> {
    let mut from = Reader::new(bytes);
    let mut watermark = Watermark {
        drained: from.byte()? & DRAINED != 0,
        ..Watermark::default()
    };
    watermark.through_ms = from.zigzag()?;
    let lanes = from.len(0, MAX_LANES)?;
    for lane in 0..lanes {
        let acked = from.varint()?;
        let head = acked.wrapping_add(from.zigzag()? as u64);
        if lane < Kind::ALL.len() {
            (watermark.acked[lane], watermark.heads[lane]) = (acked, head);
        }
    }
    from.end()?;
    Ok(watermark)
}
