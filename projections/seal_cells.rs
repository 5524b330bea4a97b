//! The cells of a piece while it is sealed: gathered, summed and cut into blocks.
//!
//! Invariant: a cell stands once in what comes out, with the sum of all its parts and every field of them; no block
//! has more than [`MAX_CELLS`] cells, and only the parts of one bucket share their first bucket.

use crate::block::{BlockKey, MAX_CELLS};
use crate::block_cells::Symbols;
use crate::block_writer::Columns;
use crate::codec::{Damaged, Reader};
use crate::cuboid::Cuboid;
use crate::metrics::{MAX_FIELDS, add_sums, encode_used};
use crate::spans::{Place, Span};
use crate::symbols::Symbol;

/// A cell of a block to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) place: Place,
    pub(crate) symbols: Symbols,
    /// Where its stored sum begins.
    pub(crate) sums: u32,
}

impl Cell {
    /// Whether both are parts of one cell.
    fn is_same(&self, other: &Cell) -> bool {
        (self.place, self.symbols) == (other.place, other.symbols)
    }
}

/// Cells and their stored sums.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cells {
    pub(crate) cells: Vec<Cell>,
    pub(crate) bytes: Vec<u8>,
}

impl Cells {
    pub(crate) fn push(&mut self, place: Place, symbols: Symbols, sums: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len() as u32;
        sums(&mut self.bytes);
        self.cells.push(Cell {
            place,
            symbols,
            sums: at,
        });
    }

    /// The cells of a cuboid, of one whose dimensions are among theirs: sorted, each with the sum of all of its parts.
    pub(crate) fn summed_over(&self, whole: Cuboid, cuboid: Cuboid) -> Result<Cells, Damaged> {
        let kept = |dimension| whole.dimensions().iter().position(|d| d == dimension);
        let kept: Vec<usize> = cuboid.dimensions().iter().filter_map(kept).collect();
        debug_assert_eq!(kept.len(), cuboid.dimensions().len());
        let project = |cell: &Cell| {
            let mut symbols = Symbols::default();
            for (symbol, at) in symbols.iter_mut().zip(&kept) {
                *symbol = cell.symbols[*at];
            }
            Cell { symbols, ..*cell }
        };
        let mut cells: Vec<Cell> = self.cells.iter().map(project).collect();
        cells.sort_by_key(|cell| (cell.place, cell.symbols));
        let mut out = Cells::default();
        for same in cells.chunk_by(Cell::is_same) {
            let mut fields = [0i64; MAX_FIELDS];
            for cell in same {
                add_sums(&mut fields, self.sums(cell.sums)?)?;
            }
            out.push(same[0].place, same[0].symbols, |v| encode_used(&fields, v));
        }
        Ok(out)
    }

    /// The stored sum that begins there: a mask, and a number for each of its fields.
    fn sums(&self, at: u32) -> Result<&[u8], Damaged> {
        let bytes = &self.bytes[at as usize..];
        let mut r = Reader::new(bytes, "sum");
        let fields = r.varint()?.count_ones();
        r.skip_varints(fields)?;
        Ok(&bytes[..bytes.len() - r.rest().len()])
    }
}

/// Cells in columns, each once.
pub(crate) struct Summed {
    places: Vec<Place>,
    dimensions: Vec<Vec<Symbol>>,
    metrics: Vec<(usize, Vec<i64>)>,
}

impl Summed {
    /// Sums what is of one cell; the cells are sorted.
    pub(crate) fn of(all: &Cells, cuboid: Cuboid) -> Result<Self, Damaged> {
        let mut mask = 0;
        for cell in &all.cells {
            mask |= Reader::new(&all.bytes[cell.sums as usize..], "sum").varint()?;
        }
        let fields = (0..MAX_FIELDS).filter(|field| mask >> field & 1 == 1);
        let mut out = Self {
            places: Vec::new(),
            dimensions: vec![Vec::new(); cuboid.dimensions().len()],
            metrics: fields.map(|field| (field, Vec::new())).collect(),
        };
        for same in all.cells.chunk_by(Cell::is_same) {
            let mut fields = [0i64; MAX_FIELDS];
            for cell in same {
                add_sums(&mut fields, all.sums(cell.sums)?)?;
            }
            out.places.push(same[0].place);
            for (column, symbol) in out.dimensions.iter_mut().zip(same[0].symbols) {
                column.push(symbol);
            }
            for (field, column) in &mut out.metrics {
                column.push(fields[*field]);
            }
        }
        Ok(out)
    }

    /// Cuts the cells into blocks: whole buckets, as many as fit; a bucket that is too large, into parts.
    pub(crate) fn blocks(
        &self,
        campaign: Symbol,
        span: Span,
        cuboid: Cuboid,
    ) -> Vec<(BlockKey, Columns)> {
        let mut cuts: Vec<(usize, usize, u16)> = Vec::new();
        let mut at = 0;
        for bucket in self.places.chunk_by(|a, b| a == b) {
            let end = at + bucket.len();
            match cuts.last_mut() {
                Some((begin, last, 0)) if end - *begin <= MAX_CELLS && bucket.len() < MAX_CELLS => {
                    *last = end;
                }
                _ => {
                    for (part, begin) in (at..end).step_by(MAX_CELLS).enumerate() {
                        let part_end = end.min(begin + MAX_CELLS);
                        cuts.push((begin, part_end, part as u16));
                    }
                }
            }
            at = end;
        }
        let block = |(begin, end, part): (usize, usize, u16)| {
            let key = BlockKey {
                campaign,
                cuboid,
                span,
                first: self.places[begin],
                part,
            };
            let buckets = self.places[begin..end].chunk_by(|a, b| a == b);
            let columns = Columns {
                buckets: buckets.map(|same| (same[0], same.len() as u32)).collect(),
                dimensions: self
                    .dimensions
                    .iter()
                    .map(|c| c[begin..end].to_vec())
                    .collect(),
                metrics: self
                    .metrics
                    .iter()
                    .map(|(field, c)| (*field, c[begin..end].to_vec()))
                    .collect(),
            };
            (key, columns)
        };
        cuts.into_iter().map(block).collect()
    }
}
