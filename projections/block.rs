//! A block: sealed cells of one campaign, span and cuboid in columns, as they are stored and read.
//!
//! Invariant: nothing of a block is believed before its checksum, its key and its every length have been checked, so
//! that a damaged one is an error and never an answer. Columns are compressed each by itself, and a reader unpacks
//! those that its question is about.
//!
//! Layout: version, grain, cuboid, campaign, span, part; the table of buckets, each with the number of its cells,
//! which are sorted by bucket and then by the cuboid's dimensions; for each dimension a dictionary of symbols and a
//! column of places in it; a mask of the metrics that are not zero everywhere, and for each its least value and a
//! column of what the cells have above it; the columns' bytes; CRC-32C over all of that.

use crate::cells::{Bucket, Grain};
use crate::codec::{Damaged, Reader, put_i32, put_u32};
use crate::cuboid::Cuboid;
use crate::metrics::MAX_FIELDS;
use crate::narrow::Numbers;
use crate::partial::Dimension;
use crate::spans::{Place, Span};
use crate::symbols::Symbol;

/// How blocks are written. One of another number is damaged to this reader.
pub const BLOCK_VERSION: u8 = 1;
/// The most cells of a block: a column of it, at most eight bytes each, fits a processor's second cache.
pub const MAX_CELLS: usize = 65_536;
/// Bytes of a key.
pub const KEY_BYTES: usize = 19;
/// Bytes of the checksum.
pub(crate) const CRC_BYTES: usize = 4;

/// Where a block stands. Blocks of a campaign and cuboid lie side by side in the order of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockKey {
    /// The campaign.
    pub campaign: Symbol,
    /// The dimensions of its cells.
    pub cuboid: Cuboid,
    /// The span.
    pub span: Span,
    /// Its first bucket.
    pub first: Place,
    /// Counts the blocks of a bucket with more than [`MAX_CELLS`] cells, else 0.
    pub part: u16,
}

impl BlockKey {
    /// Appends the key in the blocks' family of its grain.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_u32(out, self.campaign);
        out.push(self.cuboid as u8);
        put_i32(out, self.span.number);
        put_i32(out, self.first.at);
        put_i32(out, self.first.offset_s);
        out.extend_from_slice(&self.part.to_be_bytes());
    }

    /// Reads a key of that grain's family.
    ///
    /// # Errors
    /// [`Damaged`] when it is none.
    pub fn decode(grain: Grain, key: &[u8]) -> Result<Self, Damaged> {
        let mut r = Reader::new(key, "block's key");
        let campaign = r.u32()?;
        let cuboid = Cuboid::from_number(r.u8()?).ok_or(r.damaged())?;
        let number = r.i32()?;
        let (at, offset_s) = (r.i32()?, r.i32()?);
        let part = u16::from_be_bytes([r.u8()?, r.u8()?]);
        r.end()?;
        Ok(Self {
            campaign,
            cuboid,
            span: Span { grain, number },
            first: Place { at, offset_s },
            part,
        })
    }
}

/// The half-open range of keys of the blocks of a campaign and cuboid in spans with numbers in `[first, last]`.
pub fn range(campaign: Symbol, cuboid: Cuboid, first: i32, last: i32) -> (Vec<u8>, Vec<u8>) {
    let key = |number: i32| {
        let mut out = Vec::with_capacity(19);
        put_u32(&mut out, campaign);
        out.push(cuboid as u8);
        put_i32(&mut out, number);
        out
    };
    let mut to = key(last);
    // Longer than what follows the span in any key, and not less than it.
    to.extend_from_slice(&[0xff; 11]);
    (key(first), to)
}

/// Why a block cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BlockError(pub &'static str);

impl From<Damaged> for BlockError {
    fn from(_: Damaged) -> Self {
        BlockError("its header does not end where it should")
    }
}

/// How the bytes of a column are stored.
pub(crate) const RAW: u8 = 0;
/// As one LZ4 block.
pub(crate) const LZ4: u8 = 1;

/// A column that has not been unpacked.
#[derive(Clone, Copy, Debug)]
struct Column<'a> {
    /// Bytes of a value: 0 where all are 0, else 1, 2, 4 or 8, least first.
    width: usize,
    codec: u8,
    bytes: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct DimensionColumn<'a> {
    entries: usize,
    dictionary: &'a [u8],
    column: Column<'a>,
}

#[derive(Clone, Copy, Debug)]
struct MetricColumn<'a> {
    field: usize,
    least: i64,
    column: Column<'a>,
}

/// A block whose checksum and header hold; its columns are unpacked when they are asked for.
#[derive(Clone, Debug)]
pub struct Block<'a> {
    /// Where it stands.
    pub key: BlockKey,
    /// Its buckets in order, each with how many of the cells that follow each other are its own.
    pub buckets: Vec<(Bucket, u32)>,
    cells: usize,
    dimensions: Vec<DimensionColumn<'a>>,
    metrics: Vec<MetricColumn<'a>>,
}

/// The values of a metric's column: `least` plus an unsigned number for each cell.
#[derive(Clone, Copy, Debug)]
pub struct Values<'b> {
    /// What is added to every number.
    pub least: i64,
    /// The numbers; where all are zero every value is `least`.
    pub numbers: Numbers<'b>,
}

impl Values<'_> {
    /// The value of a cell below the block's number of cells.
    pub fn at(&self, cell: usize) -> i64 {
        self.least.wrapping_add(self.numbers.at(cell) as i64)
    }

    /// How far from zero a value can be.
    pub fn reach(&self) -> u64 {
        let most = i128::from(self.least) + i128::from(self.numbers.most());
        let reach = most.unsigned_abs().max(self.least.unsigned_abs().into());
        // A width has room for more than any value is.
        reach.min(1 << 63) as u64
    }
}

impl<'a> Block<'a> {
    /// Reads a stored block under its key.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged, or not the one that belongs there.
    pub fn parse(grain: Grain, key: &[u8], value: &'a [u8]) -> Result<Self, BlockError> {
        let key = BlockKey::decode(grain, key).map_err(|_| BlockError("its key is none"))?;
        let (body, crc) = value
            .split_last_chunk::<CRC_BYTES>()
            .ok_or(BlockError("it is too short"))?;
        if crc32c::crc32c(body) != u32::from_be_bytes(*crc) {
            return Err(BlockError("its checksum does not hold"));
        }
        let mut r = Reader::new(body, "block");
        if r.u8()? != BLOCK_VERSION {
            return Err(BlockError("it is of another version of adtally"));
        }
        let stands = (r.u8()?, r.u8()?, r.u32()?, r.i32()?);
        let part = u16::from_be_bytes([r.u8()?, r.u8()?]);
        let is_here = stands == (grain as u8, key.cuboid as u8, key.campaign, key.span.number);
        if !is_here || part != key.part {
            return Err(BlockError("it is another block than its key says"));
        }
        let (buckets, cells) = read_buckets(&mut r, &key)?;
        let mut block = Self {
            key,
            buckets,
            cells,
            dimensions: Vec::with_capacity(key.cuboid.dimensions().len()),
            metrics: Vec::new(),
        };
        block.read_columns(r)?;
        Ok(block)
    }

    fn read_columns(&mut self, mut r: Reader<'a>) -> Result<(), BlockError> {
        let mut columns: Vec<(usize, u8, usize)> = Vec::new();
        let mut dictionaries = Vec::new();
        for _ in self.key.cuboid.dimensions() {
            let entries = r.varint32()? as usize;
            if entries == 0 || entries > self.cells {
                return Err(BlockError(
                    "a dictionary has more entries than there are cells",
                ));
            }
            let before = r.rest();
            r.skip_varints(entries as u32)?;
            dictionaries.push((entries, &before[..before.len() - r.rest().len()]));
            columns.push((
                width_of(entries as u64 - 1),
                r.u8()?,
                r.varint32()? as usize,
            ));
        }
        let mut mask = r.varint()?;
        let mut fields = Vec::new();
        while mask != 0 {
            let (least, width) = (r.signed()?, usize::from(r.u8()?));
            if ![0, 1, 2, 4, 8].contains(&width) {
                return Err(BlockError("a column has an unknown width"));
            }
            fields.push((mask.trailing_zeros() as usize, least));
            columns.push((width, r.u8()?, r.varint32()? as usize));
            mask &= mask - 1;
        }
        let mut take = |(width, codec, length): (usize, u8, usize)| {
            let is_known = match codec {
                RAW => length == width * self.cells,
                LZ4 => width > 0 && length > 0,
                _ => false,
            };
            match is_known {
                true => Ok(Column {
                    width,
                    codec,
                    bytes: r.take(length)?,
                }),
                false => Err(BlockError("a column is not as long as it says")),
            }
        };
        let (of_dimensions, of_metrics) = columns.split_at(dictionaries.len());
        for ((entries, dictionary), column) in dictionaries.into_iter().zip(of_dimensions) {
            self.dimensions.push(DimensionColumn {
                entries,
                dictionary,
                column: take(*column)?,
            });
        }
        for ((field, least), column) in fields.into_iter().zip(of_metrics) {
            self.metrics.push(MetricColumn {
                field,
                least,
                column: take(*column)?,
            });
        }
        match r.rest().is_empty() {
            true => Ok(()),
            false => Err(BlockError("something follows its last column")),
        }
    }

    /// How many cells it has, at least 1.
    pub fn cells(&self) -> usize {
        self.cells
    }

    /// The metrics that are not zero everywhere, as places in [`crate::metrics::Metrics::fields`]. A newer writer may
    /// have put some beyond those.
    pub fn fields(&self) -> impl Iterator<Item = usize> {
        self.metrics.iter().map(|m| m.field)
    }

    /// Unpacks a dimension: its symbols, ascending, and for each cell the place of its own among them.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged, or the cuboid has not got the dimension.
    pub fn places<'b>(
        &self,
        dimension: Dimension,
        scratch: &'b mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
    ) -> Result<Numbers<'b>, BlockError>
    where
        'a: 'b,
    {
        let dimensions = self.key.cuboid.dimensions();
        let column = dimensions.iter().zip(&self.dimensions);
        let (_, stored) = column
            .into_iter()
            .find(|(d, _)| **d == dimension)
            .ok_or(BlockError("its cuboid has not got the dimension"))?;
        let mut r = Reader::new(stored.dictionary, "dictionary");
        symbols.clear();
        for _ in 0..stored.entries {
            let step = r.varint32()?;
            let symbol = match symbols.last() {
                None => Some(step),
                Some(_) if step == 0 => None,
                Some(last) => last.checked_add(step),
            };
            symbols.push(symbol.ok_or(BlockError("a dictionary does not ascend"))?);
        }
        let places = self.unpack(stored.column, scratch)?;
        match places.largest() < stored.entries as u64 {
            true => Ok(places),
            false => Err(BlockError(
                "a cell has a symbol that is not in the dictionary",
            )),
        }
    }

    /// Bytes that a cell takes unpacked.
    pub(crate) fn cell_bytes(&self) -> usize {
        let dimensions = self.dimensions.iter().map(|d| d.column.width);
        let metrics = self.metrics.iter().map(|m| m.column.width);
        dimensions.chain(metrics).sum()
    }

    /// Unpacks a metric; none when it is zero everywhere.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    pub fn metric<'b>(
        &self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError>
    where
        'a: 'b,
    {
        let Some(stored) = self.metrics.iter().find(|m| m.field == field) else {
            return Ok(None);
        };
        Ok(Some(Values {
            least: stored.least,
            numbers: self.unpack(stored.column, scratch)?,
        }))
    }

    fn unpack<'b>(
        &self,
        column: Column<'a>,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Numbers<'b>, BlockError>
    where
        'a: 'b,
    {
        if column.codec == RAW {
            return Ok(Numbers::of(column.width, column.bytes));
        }
        // At most eight bytes for each of MAX_CELLS cells, which were counted before.
        let length = column.width * self.cells;
        if scratch.len() < length {
            scratch.resize(length, 0);
        }
        let out = &mut scratch[..length];
        match lz4_flex::block::decompress_into(column.bytes, out) {
            Ok(n) if n == length => Ok(Numbers::of(column.width, out)),
            _ => Err(BlockError(
                "a column does not unpack to the length that it should",
            )),
        }
    }
}

const _: () = assert!(MAX_CELLS <= 1 << 16);

/// Bytes that an unsigned number takes in a column whose largest it is.
pub(crate) fn width_of(largest: u64) -> usize {
    match largest {
        0 => 0,
        1..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

fn read_buckets(
    r: &mut Reader<'_>,
    key: &BlockKey,
) -> Result<(Vec<(Bucket, u32)>, usize), BlockError> {
    let wrong = BlockError("its table of buckets is wrong");
    let n = r.varint32()? as usize;
    if n == 0 || n > MAX_CELLS {
        return Err(wrong);
    }
    // Three bytes a bucket at least: no more room than the bytes that are there.
    let mut buckets = Vec::with_capacity(n.min(r.rest().len() / 3 + 1));
    let mut cells = 0usize;
    let mut last: Option<Place> = None;
    for _ in 0..n {
        let (at, offset_s) = (r.signed()?, r.signed()?);
        let count = r.varint32()?;
        let place = Place {
            at: i32::try_from(at).map_err(|_| wrong)?,
            offset_s: i32::try_from(offset_s).map_err(|_| wrong)?,
        };
        let is_next = last.map_or(place == key.first, |last| last < place);
        cells = cells.saturating_add(count as usize);
        if !is_next || count == 0 || cells > MAX_CELLS {
            return Err(wrong);
        }
        last = Some(place);
        buckets.push((key.span.bucket(place).ok_or(wrong)?, count));
    }
    Ok((buckets, cells))
}

const _: () = assert!(MAX_FIELDS == u64::BITS as usize);

#[cfg(test)]
#[path = "block_tests.rs"]
mod tests;
