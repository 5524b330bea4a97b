//! Sealing: rows of cells of a span's closed sections, and the blocks it has already, into new blocks of every cuboid.
//!
//! Invariant: blocks and rows of a span add up to the same cells before and after, at every cuboid, whenever and in
//! whatever order its sections are sealed and in however many pieces; the caller writes a piece's changes all at once. The blocks of a campaign, span
//! and cuboid hold disjoint ranges of buckets (those of one bucket that needs several, the same one), so a new block
//! never takes the key of one that stays. A late event is a row again, and the next sealing adds it to its block.

use std::ops::ControlFlow;

use crate::block::{self, Block, BlockError, BlockKey, MAX_CELLS};
use crate::block_cells::{Symbols, each_cell};
use crate::block_writer;
use crate::cells::{self, CellKey, RowKey};
use crate::codec::Damaged;
use crate::cuboid::Cuboid;
use crate::family::{Changes, Family};
use crate::metrics::encode_used;
use crate::partial::Dimension;
use crate::seal_cells::{Cell, Cells, Summed};
use crate::sections::{OpenSection, Section};
use crate::spans::{DELETED_KEY, Horizon, Place, Span};
use crate::symbols::Symbol;

/// Cells of rows after which a piece ends with its bucket: about 10 ms of work.
pub const PIECE_CELLS: usize = MAX_CELLS;
/// Cells of rows after which a piece ends wherever it is.
const PIECE_MAX_CELLS: usize = 4 * PIECE_CELLS;
/// Blocks that a piece adds rows to before it ends with its bucket: a few late events all over a large span are many
/// small pieces of work instead of a long one.
const PIECE_BLOCKS: usize = 2;

/// Cells up to which a span is sealed in one block that is read whatever is asked: reading it takes no longer than a
/// cuboid of it would, and most spans of most campaigns have so few that a block of each cuboid would be mostly headers.
pub const FEW_CELLS: usize = if cfg!(test) { 3 } else { 128 };

/// What a row of a scan is given to.
pub type EachRow<'f> = &'f mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// A state of which ranges of rows can be visited.
pub trait Rows {
    /// Why a row cannot be read.
    type Error;

    /// Visits the rows of a family with keys in `[from, to)`, in order, until `row` breaks.
    ///
    /// # Errors
    /// When the state cannot be read.
    fn range(
        &self,
        family: Family,
        from: &[u8],
        to: &[u8],
        row: EachRow<'_>,
    ) -> Result<(), Self::Error>;
}

/// Why a span cannot be sealed.
#[derive(Debug, thiserror::Error)]
pub enum SealError<E> {
    /// The state cannot be read.
    #[error("the state could not be read: {0}")]
    Read(E),
    /// A row is damaged.
    #[error(transparent)]
    Damaged(#[from] Damaged),
    /// A block that rows were to be added to is damaged.
    #[error("the block of {} is damaged: {error}", .key.span)]
    Block {
        /// Which one.
        key: BlockKey,
        /// How.
        error: BlockError,
    },
}

/// What sealing a piece came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sealed {
    /// Rows of cells that were taken away.
    pub rows: u64,
    /// Cells of these rows.
    pub cells: u64,
    /// Blocks written, of all cuboids.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// How many of the sections, from the first one on, have no rows any more; their markers then go with them.
    pub done: usize,
}

impl Sealed {
    /// Adds another piece's; how much of that is done is its own.
    pub fn add(&mut self, other: &Sealed) {
        self.rows += other.rows;
        self.cells += other.cells;
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

/// Seals a piece of sections of one span of a campaign, which are in order. Rows before the horizon, which is never
/// before one that was deleted up to, are deleted instead.
///
/// # Errors
/// [`SealError`] when the state cannot be read or a block is damaged; `out` is then of no use.
pub fn seal<R: Rows>(
    rows: &R,
    campaign: Symbol,
    sections: &[Section],
    horizon: &Horizon,
    out: &mut Changes,
) -> Result<Sealed, SealError<R::Error>> {
    let (Some(first), Some(last)) = (sections.first(), sections.last()) else {
        return Ok(Sealed::default());
    };
    let span = first.span();
    debug_assert!(sections.iter().all(|section| section.span() == span));
    let mut piece = Piece {
        campaign,
        span,
        sections,
        hot: Cells::default(),
        rows: 0,
        begins: Vec::new(),
        stopped_in: None,
    };
    piece.read_rows(rows, (first.first, last.end()), out)?;
    let done = match piece.stopped_in {
        Some(section) => sections.partition_point(|s| *s < section),
        None => sections.len(),
    };
    let mut sealed = Sealed {
        rows: piece.rows,
        cells: piece.hot.cells.len() as u64,
        done,
        ..Sealed::default()
    };
    if horizon.keeps(span) && !piece.hot.cells.is_empty() {
        let mut made: Vec<(Cuboid, Cells)> = Vec::new();
        for cuboid in piece.cuboids(rows, out)? {
            let whole = made
                .iter()
                .find(|(whole, _)| Some(*whole) == cuboid.made_of());
            let own = match whole {
                Some((whole, cells)) => cells.summed_over(*whole, *cuboid)?,
                None => std::mem::take(&mut piece.hot),
            };
            piece.write(rows, *cuboid, &own, out, &mut sealed)?;
            made.push((*cuboid, own));
        }
    }
    if !horizon.keeps(span) {
        note_deleted(horizon, out);
    }
    for section in &sections[..done] {
        let open = OpenSection {
            campaign,
            section: *section,
        };
        out.delete(Family::OpenSpans, |k| open.encode(k));
    }
    Ok(sealed)
}

/// Notes that rows before the horizon may be gone.
pub(crate) fn note_deleted(horizon: &Horizon, out: &mut Changes) {
    out.put(
        Family::Meta,
        |k| k.extend_from_slice(DELETED_KEY),
        |v| horizon.encode(v),
    );
}

/// The rows of sections that are sealed at once.
struct Piece<'a> {
    campaign: Symbol,
    span: Span,
    sections: &'a [Section],
    hot: Cells,
    rows: u64,
    /// The keys of the full blocks that the span has.
    begins: Vec<BlockKey>,
    /// The section in which it ended before all rows were read.
    stopped_in: Option<Section>,
}

impl Piece<'_> {
    fn blocks(&self, cuboid: Cuboid) -> (Vec<u8>, Vec<u8>) {
        let number = self.span.number;
        block::range(self.campaign, cuboid, number, number)
    }

    /// Reads rows as far as a piece goes, and deletes them.
    fn read_rows<R: Rows>(
        &mut self,
        rows: &R,
        (from, to): (i64, i64),
        out: &mut Changes,
    ) -> Result<(), SealError<R::Error>> {
        let (span, grain) = (self.span, self.span.grain);
        self.begins = self.block_keys(rows, Cuboid::Full)?;
        let (from, to) = cells::range(grain, self.campaign, from, to);
        let mut damaged = None;
        let mut first: Option<Place> = None;
        let mut visit = |key: &[u8], value: &[u8]| -> Result<ControlFlow<()>, Damaged> {
            let row = RowKey::decode(grain, key)?;
            let section = Section::of(row.bucket);
            // Rows that are not sealed yet, and of another clock's hours, lie among them.
            if self.sections.binary_search(&section).is_err() {
                return Ok(ControlFlow::Continue(()));
            }
            let place = span.place(row.bucket);
            let taken = self.hot.cells.len();
            let crossed = || {
                let passed = |place| self.begins.partition_point(|begin| begin.first <= place);
                passed(place) - first.map_or(0, passed)
            };
            let is_next = self
                .hot
                .cells
                .last()
                .is_some_and(|cell| cell.place != place);
            if taken >= PIECE_MAX_CELLS
                || (is_next && (taken >= PIECE_CELLS || crossed() >= PIECE_BLOCKS))
            {
                self.stopped_in = Some(section);
                return Ok(ControlFlow::Break(()));
            }
            first = first.or(Some(place));
            cells::each(grain, key, value, |cell, sums| {
                let symbols = [cell.ad, cell.creative, cell.region, cell.device.into()];
                self.hot.push(place, symbols, |v| v.extend_from_slice(sums));
                Ok::<_, Damaged>(())
            })?;
            self.rows += 1;
            out.delete(grain.family(), |k| k.extend_from_slice(key));
            Ok(ControlFlow::Continue(()))
        };
        rows.range(grain.family(), &from, &to, &mut |key, value| {
            visit(key, value).unwrap_or_else(|error| {
                damaged = Some(error);
                ControlFlow::Break(())
            })
        })
        .map_err(SealError::Read)?;
        damaged.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The cuboids that the piece is written in, which then has the span's few cells if there were some.
    fn cuboids<R: Rows>(
        &mut self,
        rows: &R,
        out: &mut Changes,
    ) -> Result<&'static [Cuboid], SealError<R::Error>> {
        let mut few = Cells::default();
        for key in self.block_keys(rows, Cuboid::Few)? {
            self.take(rows, &key, &mut few, out, &|_| true)?;
        }
        let at = self.hot.bytes.len() as u32;
        self.hot.bytes.append(&mut few.bytes);
        self.hot
            .cells
            .extend(few.cells.into_iter().map(|cell| Cell {
                sums: cell.sums + at,
                ..cell
            }));
        self.hot.cells.sort_by_key(|cell| cell.place);
        let is_few = self.hot.cells.len() <= FEW_CELLS && self.stopped_in.is_none();
        match is_few && self.begins.is_empty() {
            true => Ok(&[Cuboid::Few]),
            false => Ok(&Cuboid::SEPARATE),
        }
    }

    /// The keys of the blocks that the span has already of a cuboid, in order.
    fn block_keys<R: Rows>(
        &self,
        rows: &R,
        cuboid: Cuboid,
    ) -> Result<Vec<BlockKey>, SealError<R::Error>> {
        let grain = self.span.grain;
        let (from, to) = self.blocks(cuboid);
        let mut keys = Vec::new();
        let mut damaged = None;
        rows.range(grain.blocks(), &from, &to, &mut |key, _| {
            match BlockKey::decode(grain, key) {
                Ok(key) => keys.push(key),
                Err(error) => damaged = Some(error),
            }
            ControlFlow::Continue(())
        })
        .map_err(SealError::Read)?;
        damaged.map_or(Ok(keys), |error| Err(error.into()))
    }

    /// Writes the blocks of a cuboid: the piece's own cells of it, which are in the order of their buckets, and those of
    /// the blocks whose buckets they fall among.
    fn write<R: Rows>(
        &self,
        rows: &R,
        cuboid: Cuboid,
        own: &Cells,
        out: &mut Changes,
        sealed: &mut Sealed,
    ) -> Result<(), SealError<R::Error>> {
        let mut all = own.clone();
        // The few were taken before.
        if cuboid != Cuboid::Few {
            self.add_blocks(rows, cuboid, &mut all, out)?;
        }
        all.cells.sort_by_key(|cell| (cell.place, cell.symbols));
        let summed = Summed::of(&all, cuboid)?;
        for (key, columns) in summed.blocks(self.campaign, self.span, cuboid) {
            let mut value = Vec::new();
            block_writer::write(&key, &columns, &mut value);
            sealed.blocks += 1;
            sealed.bytes += value.len() as u64;
            out.put(
                key.span.grain.blocks(),
                |k| key.encode(k),
                |v| v.append(&mut value),
            );
        }
        Ok(())
    }

    /// Adds the cells of the blocks that the piece's buckets fall among, and of small ones beside these, and deletes the
    /// blocks.
    ///
    /// A block beside them is taken in when it is not larger than what there is to write, as a binary counter carries:
    /// sections sealed one by one leave few blocks, and a cell is written about as often as the number of sections has
    /// bits. The last section of a span takes in all that fits.
    fn add_blocks<R: Rows>(
        &self,
        rows: &R,
        cuboid: Cuboid,
        all: &mut Cells,
        out: &mut Changes,
    ) -> Result<(), SealError<R::Error>> {
        let (Some(first), Some(last)) = (all.cells.first(), all.cells.last()) else {
            return Ok(());
        };
        let (first, last) = (first.place, last.place);
        let keys = self.block_keys(rows, cuboid)?;
        // The blocks of one bucket have the same first one.
        let before = keys.partition_point(|key| key.first < first);
        let mut from = keys.partition_point(|key| match before.checked_sub(1) {
            Some(before) => key.first < keys[before].first,
            None => false,
        });
        let mut to = keys.partition_point(|key| key.first <= last);
        let falls_among = |block: &Block<'_>| {
            let end = block
                .buckets
                .last()
                .map(|(bucket, _)| self.span.place(*bucket));
            end.is_some_and(|end| first <= end)
        };
        while from < to && !self.take(rows, &keys[from], all, out, &falls_among)? {
            from += 1;
        }
        for key in keys.iter().take(to).skip(from + 1) {
            self.take(rows, key, all, out, &|_| true)?;
        }
        let is_whole =
            |at: usize| keys[at].part == 0 && keys.get(at + 1).is_none_or(|next| next.part == 0);
        let is_end = self
            .sections
            .last()
            .is_some_and(|section| section.is_last());
        let mut cells = all.cells.len();
        let mut small = |at: usize, all: &mut Cells, out: &mut Changes| {
            let most = if is_end { MAX_CELLS } else { cells };
            let fits =
                |block: &Block<'_>| block.cells() <= most && cells + block.cells() <= MAX_CELLS;
            let is_taken = is_whole(at) && self.take(rows, &keys[at], all, out, &fits)?;
            cells = all.cells.len();
            Ok::<_, SealError<R::Error>>(is_taken)
        };
        while from > 0 && small(from - 1, all, out)? {
            from -= 1;
        }
        while to < keys.len() && small(to, all, out)? {
            to += 1;
        }
        Ok(())
    }

    /// Adds the cells of a block and deletes it, if it is such a one; answers whether it is.
    fn take<R: Rows>(
        &self,
        rows: &R,
        key: &BlockKey,
        all: &mut Cells,
        out: &mut Changes,
        is_taken: &dyn Fn(&Block<'_>) -> bool,
    ) -> Result<bool, SealError<R::Error>> {
        let grain = self.span.grain;
        let mut from = Vec::new();
        key.encode(&mut from);
        let mut to = from.clone();
        to.push(0);
        let mut taken = Ok(false);
        let mut add = |key: &[u8], value: &[u8]| -> Result<bool, BlockError> {
            let block = Block::parse(grain, key, value)?;
            if !is_taken(&block) {
                return Ok(false);
            }
            each_cell(&block, |place, symbols, fields| {
                all.push(place, symbols, |v| encode_used(fields, v));
            })?;
            out.delete(grain.blocks(), |k| k.extend_from_slice(key));
            Ok(true)
        };
        rows.range(grain.blocks(), &from, &to, &mut |key, value| {
            taken = add(key, value);
            ControlFlow::Break(())
        })
        .map_err(SealError::Read)?;
        taken.map_err(|error| SealError::Block { key: *key, error })
    }
}

/// The cell of a full block's symbols.
///
/// # Errors
/// [`BlockError`] when they are those of no cell.
pub fn cell_of(key: &BlockKey, place: Place, symbols: Symbols) -> Result<CellKey, BlockError> {
    debug_assert_eq!(key.cuboid.dimensions()[3], Dimension::Device);
    let [ad, creative, region, device] = symbols;
    let nothing = BlockError("it has a cell that cannot be");
    Ok(CellKey {
        campaign: key.campaign,
        bucket: key.span.bucket(place).ok_or(nothing)?,
        ad,
        creative,
        region,
        device: u8::try_from(device).map_err(|_| nothing)?,
    })
}

#[cfg(test)]
#[path = "seal_tests.rs"]
mod tests;
