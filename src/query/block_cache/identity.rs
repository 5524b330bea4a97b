//! What a kept block is known by.
//!
//! Invariant: two blocks of one identity are the same stored bytes under the same key of the same generation of a
//! shard. The hash has 128 bits, so that two versions of a block share one with less than one in 10^38; the checksum
//! in a block has 32, which is enough against damage and not to tell all versions apart that there will ever be.

use std::io::{Read, Write};
use std::sync::Arc;

use adtally_projections::block::{BlockKey, KEY_BYTES};
use adtally_projections::cells::Grain;
use adtally_projections::metrics::METRICS;
use foyer::{Code, Error, ErrorKind};
use twox_hash::XxHash3_128;

/// The longest name of a generation.
const MAX_GENERATION_BYTES: usize = 255;
/// Bytes of an identity on disk, without the name of the generation.
const FIXED_BYTES: usize = 1 + 2 + 1 + KEY_BYTES + 16 + 1;

/// What a kept block is known by.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// How many metrics whoever unpacked it knew: one who knows more must not take it for the whole.
    metrics: u8,
    shard: u16,
    grain: u8,
    key: [u8; KEY_BYTES],
    /// Hash of the stored bytes.
    content: u128,
    generation: Arc<str>,
}

impl Identity {
    /// That of a stored block; none when its key is no block's.
    pub fn of(
        shard: u16,
        generation: &Arc<str>,
        grain: Grain,
        key: &[u8],
        value: &[u8],
    ) -> Option<Self> {
        if generation.len() > MAX_GENERATION_BYTES {
            return None;
        }
        Some(Self {
            metrics: METRICS as u8,
            shard,
            grain: grain as u8,
            key: key.try_into().ok()?,
            content: XxHash3_128::oneshot(value),
            generation: generation.clone(),
        })
    }

    /// Whether a block stands where this one does.
    pub fn is_of(&self, key: &BlockKey) -> bool {
        let mut encoded = Vec::with_capacity(KEY_BYTES);
        key.encode(&mut encoded);
        encoded == self.key && key.span.grain as u8 == self.grain
    }

    /// The hash of the stored bytes.
    pub fn content(&self) -> u128 {
        self.content
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>()
    }
}

impl Code for Identity {
    fn encode(&self, writer: &mut impl Write) -> foyer::Result<()> {
        let mut out = Vec::with_capacity(FIXED_BYTES + self.generation.len());
        out.push(self.metrics);
        out.extend_from_slice(&self.shard.to_be_bytes());
        out.push(self.grain);
        out.extend_from_slice(&self.key);
        out.extend_from_slice(&self.content.to_be_bytes());
        out.push(self.generation.len() as u8);
        out.extend_from_slice(self.generation.as_bytes());
        writer.write_all(&out).map_err(Error::io_error)
    }

    fn decode(reader: &mut impl Read) -> foyer::Result<Self> {
        let mut fixed = [0; FIXED_BYTES];
        reader.read_exact(&mut fixed).map_err(Error::io_error)?;
        let mut generation = vec![0; usize::from(fixed[FIXED_BYTES - 1])];
        reader
            .read_exact(&mut generation)
            .map_err(Error::io_error)?;
        let generation = String::from_utf8(generation)
            .map_err(|_| Error::new(ErrorKind::Parse, "a kept block has no generation"))?;
        let (mut key, mut content) = ([0; KEY_BYTES], [0; 16]);
        key.copy_from_slice(&fixed[4..4 + KEY_BYTES]);
        content.copy_from_slice(&fixed[4 + KEY_BYTES..][..16]);
        Ok(Self {
            metrics: fixed[0],
            shard: u16::from_be_bytes([fixed[1], fixed[2]]),
            grain: fixed[3],
            key,
            content: u128::from_be_bytes(content),
            generation: generation.into(),
        })
    }

    fn estimated_size(&self) -> usize {
        FIXED_BYTES + self.generation.len()
    }
}
