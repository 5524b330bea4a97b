//! Writing a block: columns of cells to bytes.
//!
//! Invariant: what is written is what [`crate::block::Block::parse`] reads, cell by cell, fields that this version
//! does not know included.

use rustc_hash::FxHashMap;

use crate::block::{BLOCK_VERSION, BlockKey, LZ4, MAX_CELLS, RAW, width_of};
use crate::codec::{put_i32, put_signed, put_u32, put_varint};
use crate::spans::Place;
use crate::symbols::Symbol;

/// The cells of a block in columns, sorted by bucket and then by the cuboid's dimensions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Columns {
    /// The buckets' places, each with the number of its cells.
    pub buckets: Vec<(Place, u32)>,
    /// A column of symbols for each dimension of the cuboid.
    pub dimensions: Vec<Vec<Symbol>>,
    /// Metrics, by the place of their field, ascending.
    pub metrics: Vec<(usize, Vec<i64>)>,
}

impl Columns {
    /// How many cells there are.
    pub fn cells(&self) -> usize {
        self.buckets.iter().map(|(_, n)| *n as usize).sum()
    }
}

/// The fewest bytes that LZ4 can make shorter: its last 12 bytes always stand as they are.
const LZ4_LEAST_BYTES: usize = 13;

/// A column's bytes, compressed where that saves an eighth: unpacking costs more than so little reading.
struct Packed {
    codec: u8,
    bytes: Vec<u8>,
}

impl Packed {
    fn of(raw: Vec<u8>) -> Self {
        // Most columns of most campaigns are that short, and the compressor's table is 8 KiB.
        if raw.len() >= LZ4_LEAST_BYTES {
            let packed = lz4_flex::block::compress(&raw);
            if packed.len() < raw.len() - raw.len() / 8 {
                return Self {
                    codec: LZ4,
                    bytes: packed,
                };
            }
        }
        Self {
            codec: RAW,
            bytes: raw,
        }
    }

    fn describe(&self, out: &mut Vec<u8>) {
        out.push(self.codec);
        put_varint(out, self.bytes.len() as u64);
    }
}

/// Appends a block of 1 to [`MAX_CELLS`] cells.
pub fn write(key: &BlockKey, columns: &Columns, out: &mut Vec<u8>) {
    debug_assert!((1..=MAX_CELLS).contains(&columns.cells()));
    let begin = out.len();
    put_head(key, columns.buckets.iter().copied(), out);
    let mut bodies: Vec<Packed> = Vec::new();
    for symbols in &columns.dimensions {
        let packed = Packed::of(dictionary(symbols, out));
        packed.describe(out);
        bodies.push(packed);
    }
    let used = |column: &&(usize, Vec<i64>)| column.1.iter().any(|n| *n != 0);
    let metrics = columns.metrics.iter().filter(used);
    put_varint(
        out,
        metrics
            .clone()
            .fold(0, |mask, (field, _)| mask | (1 << field)),
    );
    for (_, values) in metrics {
        let least = values.iter().copied().min().unwrap_or(0);
        let above = |n: &i64| n.wrapping_sub(least) as u64;
        let width = width_of(values.iter().map(above).max().unwrap_or(0));
        put_signed(out, least);
        out.push(width as u8);
        let packed = Packed::of(numbers(values.iter().map(above), width));
        packed.describe(out);
        bodies.push(packed);
    }
    for body in &bodies {
        out.extend_from_slice(&body.bytes);
    }
    let crc = crc32c::crc32c(&out[begin..]);
    put_u32(out, crc);
}

/// Appends what stands before the columns: which block it is, and its buckets with their numbers of cells.
pub(crate) fn put_head(
    key: &BlockKey,
    buckets: impl ExactSizeIterator<Item = (Place, u32)>,
    out: &mut Vec<u8>,
) {
    out.extend_from_slice(&[BLOCK_VERSION, key.span.grain as u8, key.cuboid as u8]);
    put_u32(out, key.campaign);
    put_i32(out, key.span.number);
    out.extend_from_slice(&key.part.to_be_bytes());
    put_varint(out, buckets.len() as u64);
    for (place, count) in buckets {
        put_signed(out, i64::from(place.at));
        put_signed(out, i64::from(place.offset_s));
        put_varint(out, u64::from(count));
    }
}

/// Appends a dictionary: distinct symbols, ascending.
pub(crate) fn put_dictionary(distinct: &[Symbol], out: &mut Vec<u8>) {
    put_varint(out, distinct.len() as u64);
    let mut last = 0;
    for symbol in distinct {
        put_varint(out, u64::from(symbol - last));
        last = *symbol;
    }
}

/// Appends the dictionary of a column; answers the column of places in it.
fn dictionary(symbols: &[Symbol], out: &mut Vec<u8>) -> Vec<u8> {
    let mut distinct: Vec<Symbol> = symbols.to_vec();
    distinct.sort_unstable();
    distinct.dedup();
    put_dictionary(&distinct, out);
    let places: FxHashMap<Symbol, u64> = distinct.iter().copied().zip(0..).collect();
    let width = width_of(distinct.len() as u64 - 1);
    numbers(symbols.iter().map(|symbol| places[symbol]), width)
}

fn numbers(numbers: impl ExactSizeIterator<Item = u64>, width: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(numbers.len() * width);
    for n in numbers {
        out.extend_from_slice(&n.to_le_bytes()[..width]);
    }
    out
}
