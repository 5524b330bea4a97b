//! A block with its columns unpacked: what a cache keeps, so that a question need not check and unpack them again.
//!
//! Invariant: it is made of a block whose checksum and header held, and every place in a column was held against its
//! dictionary then, so reading it cannot fail. It has what sums are made of: the fields of a newer writer are left
//! out. Its encoding is a block's own with its columns as they are, so what is read back has been checked like any
//! other block.

use std::ops::Range;

use crate::block::{Block, BlockError, BlockKey, KEY_BYTES, RAW, Values};
use crate::block_writer::{put_dictionary, put_head};
use crate::cells::{Bucket, Grain};
use crate::codec::{put_signed, put_u32, put_varint};
use crate::metrics::METRICS;
use crate::narrow::Numbers;
use crate::partial::Dimension;
use crate::read_block::ReadBlock;
use crate::symbols::Symbol;

/// A dimension's dictionary, and where the cells' places in it stand among the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct DimensionColumn {
    symbols: Vec<Symbol>,
    width: usize,
    places: Range<usize>,
}

/// A metric's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct MetricColumn {
    field: usize,
    least: i64,
    width: usize,
    numbers: Range<usize>,
}

/// A block that stands by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpacked {
    key: BlockKey,
    buckets: Vec<(Bucket, u32)>,
    cells: usize,
    dimensions: Vec<DimensionColumn>,
    metrics: Vec<MetricColumn>,
    /// The columns, one behind the other.
    bytes: Box<[u8]>,
}

impl Unpacked {
    /// Unpacks every column of a block.
    ///
    /// # Errors
    /// [`BlockError`] when one is damaged.
    pub fn of(block: &Block<'_>) -> Result<Self, BlockError> {
        let mut bytes = Vec::with_capacity(block.cells() * block.cell_bytes());
        let mut scratch = Vec::new();
        let mut keep = |column: &[u8]| {
            let from = bytes.len();
            bytes.extend_from_slice(column);
            from..bytes.len()
        };
        let mut dimensions = Vec::new();
        for dimension in block.key.cuboid.dimensions() {
            let mut symbols = Vec::new();
            let places = block.places(*dimension, &mut scratch, &mut symbols)?;
            dimensions.push(DimensionColumn {
                width: width(&places, block.cells()),
                places: keep(places.bytes()),
                symbols,
            });
        }
        let mut metrics = Vec::new();
        for field in 0..METRICS {
            if let Some(values) = block.metric(field, &mut scratch)? {
                metrics.push(MetricColumn {
                    field,
                    least: values.least,
                    width: width(&values.numbers, block.cells()),
                    numbers: keep(values.numbers.bytes()),
                });
            }
        }
        Ok(Self {
            key: block.key,
            buckets: block.buckets.clone(),
            cells: block.cells(),
            dimensions,
            metrics,
            bytes: bytes.into_boxed_slice(),
        })
    }

    /// Bytes of memory that it takes, all in all.
    pub fn bytes(&self) -> usize {
        let symbols = self.dimensions.iter().map(|d| d.symbols.capacity());
        size_of::<Self>()
            + self.buckets.capacity() * size_of::<(Bucket, u32)>()
            + self.dimensions.capacity() * size_of::<DimensionColumn>()
            + symbols.sum::<usize>() * size_of::<Symbol>()
            + self.metrics.capacity() * size_of::<MetricColumn>()
            + self.bytes.len()
    }

    /// Appends what [`Unpacked::decode`] reads: its grain, its key, and a block with unpacked columns.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.key.span.grain as u8);
        self.key.encode(out);
        let begin = out.len();
        let span = self.key.span;
        let places = self.buckets.iter().map(|(b, n)| (span.place(*b), *n));
        put_head(&self.key, places, out);
        for dimension in &self.dimensions {
            put_dictionary(&dimension.symbols, out);
            out.push(RAW);
            put_varint(out, dimension.places.len() as u64);
        }
        let mask = self.metrics.iter().fold(0, |mask, m| mask | (1 << m.field));
        put_varint(out, mask);
        for metric in &self.metrics {
            put_signed(out, metric.least);
            out.push(metric.width as u8);
            out.push(RAW);
            put_varint(out, metric.numbers.len() as u64);
        }
        out.extend_from_slice(&self.bytes);
        let crc = crc32c::crc32c(&out[begin..]);
        put_u32(out, crc);
    }

    /// Reads what [`Unpacked::encode`] has written.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    pub fn decode(bytes: &[u8]) -> Result<Self, BlockError> {
        let short = BlockError("it is too short");
        let (grain, rest) = bytes.split_first().ok_or(short)?;
        let (key, value) = rest.split_at_checked(KEY_BYTES).ok_or(short)?;
        let grain = Grain::ALL.into_iter().find(|g| *g as u8 == *grain);
        let grain = grain.ok_or(BlockError("its grain is none"))?;
        Self::of(&Block::parse(grain, key, value)?)
    }
}

/// Bytes of each of so many numbers.
fn width(numbers: &Numbers<'_>, many: usize) -> usize {
    numbers.bytes().len() / many
}

impl ReadBlock for Unpacked {
    fn key(&self) -> &BlockKey {
        &self.key
    }

    fn buckets(&self) -> &[(Bucket, u32)] {
        &self.buckets
    }

    fn cells(&self) -> usize {
        self.cells
    }

    fn dimension<'b>(
        &'b self,
        dimension: Dimension,
        _scratch: &'b mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
    ) -> Result<Numbers<'b>, BlockError> {
        let dimensions = self.key.cuboid.dimensions();
        let mut columns = dimensions.iter().zip(&self.dimensions);
        let (_, column) = columns
            .find(|(d, _)| **d == dimension)
            .ok_or(BlockError("its cuboid has not got the dimension"))?;
        symbols.clear();
        symbols.extend_from_slice(&column.symbols);
        let bytes = &self.bytes[column.places.clone()];
        Ok(Numbers::of(column.width, bytes))
    }

    fn metric<'b>(
        &'b self,
        field: usize,
        _scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError> {
        let column = self.metrics.iter().find(|m| m.field == field);
        Ok(column.map(|m| Values {
            least: m.least,
            numbers: Numbers::of(m.width, &self.bytes[m.numbers.clone()]),
        }))
    }
}

#[cfg(test)]
#[path = "unpacked_tests.rs"]
mod tests;
