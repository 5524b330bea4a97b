//! Summing blocks: columns to the rows of an answer, without an allocation a cell.
//!
//! Invariant: what is added is what the same cells as rows would add. A dimension's dictionary is filtered and
//! numbered once a block; then each metric's column is passed once. Cells are sorted by the cuboid's dimensions: where
//! a group's cells follow each other, each such stretch is summed into a row; else they add to the block's own small
//! sums by group, which go to the table at the end of a bucket.

use rustc_hash::FxHashMap;

use crate::block::{Block, BlockError, BlockKey, Values};
use crate::buckets::BucketKey;
use crate::cells::Bucket;
use crate::metrics::METRICS;
use crate::partial::{Dimension, Filter, Filters, PartialError, ShardSums};
use crate::sums::{Group, SumTable};
use crate::symbols::Symbol;

/// The most combinations of a block's symbols that are summed by an index instead of a hash.
const MAX_INDEXED: usize = 1 << 14;
/// A cell that a filter keeps out.
const OUT: u32 = u32::MAX;
/// Least values up to which a block's cells cannot come near the end of an i64 together.
const SMALL: i64 = 1 << 46;

/// The sums of a group's cells, and whether it has any.
type Sum = [i64; METRICS + 1];
/// Where the last one stands.
const TOUCHED: usize = METRICS;

/// What sums read of a block, whether it is as stored or was unpacked before.
pub trait ReadBlock {
    /// Where it stands.
    fn key(&self) -> &BlockKey;

    /// Its buckets in order, each with how many of the cells that follow each other are its own.
    fn buckets(&self) -> &[(Bucket, u32)];

    /// How many cells it has, at least 1.
    fn cells(&self) -> usize;

    /// A dimension: its symbols, ascending, and for each cell the place of its own among them.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged, or the cuboid has not got the dimension.
    fn dimension(
        &self,
        dimension: Dimension,
        scratch: &mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
        places: &mut Vec<u32>,
    ) -> Result<(), BlockError>;

    /// A metric; none when it is zero everywhere.
    ///
    /// # Errors
    /// [`BlockError`] when it is damaged.
    fn metric<'b>(
        &'b self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError>;
}

impl ReadBlock for Block<'_> {
    fn key(&self) -> &BlockKey {
        &self.key
    }

    fn buckets(&self) -> &[(Bucket, u32)] {
        &self.buckets
    }

    fn cells(&self) -> usize {
        Block::cells(self)
    }

    fn dimension(
        &self,
        dimension: Dimension,
        scratch: &mut Vec<u8>,
        symbols: &mut Vec<Symbol>,
        places: &mut Vec<u32>,
    ) -> Result<(), BlockError> {
        Block::dimension(self, dimension, scratch, symbols, places)
    }

    fn metric<'b>(
        &'b self,
        field: usize,
        scratch: &'b mut Vec<u8>,
    ) -> Result<Option<Values<'b>>, BlockError> {
        Block::metric(self, field, scratch)
    }
}

/// Memory of the sums of one shard's blocks, kept from block to block.
#[derive(Debug, Default)]
pub struct BlockSums {
    scratch: Vec<u8>,
    symbols: Vec<Symbol>,
    places: Vec<u32>,
    /// For each cell the place of its group among `groups`, or [`OUT`].
    of_cell: Vec<u32>,
    groups: Vec<Group>,
    /// The sums of a run, by group.
    sums: Vec<Sum>,
    /// The groups that the run has cells of.
    touched: Vec<u32>,
    /// Whether a group's cells follow each other.
    is_sorted: bool,
    /// The stretches of a run that are of one group each.
    stretches: Vec<(u32, u32)>,
    /// The table's numbers of the groups of the rows that are appended.
    appended: Vec<u32>,
    /// The table's numbers of the block's groups; [`OUT`] until one is asked for.
    numbers: Vec<u32>,
    columns: [Vec<u8>; METRICS],
}

impl BlockSums {
    /// Adds those cells of a block that pass the filters and whose bucket `place` puts somewhere; answers how many
    /// cells were read.
    ///
    /// # Errors
    /// [`PartialError`] when the block is damaged or the sums are too many; they are then of no use.
    pub fn add(
        &mut self,
        block: &impl ReadBlock,
        filters: &Filters,
        place: &mut dyn FnMut(Bucket) -> Option<BucketKey>,
        sums: &mut ShardSums,
    ) -> Result<u64, PartialError> {
        let mut runs: Vec<(usize, usize, BucketKey)> = Vec::new();
        let mut at = 0;
        for (bucket, n) in block.buckets() {
            let end = at + *n as usize;
            if let Some(key) = place(*bucket) {
                match runs.last_mut() {
                    Some((_, last, same)) if *same == key && *last == at => *last = end,
                    _ => runs.push((at, end, key)),
                }
            }
            at = end;
        }
        if runs.is_empty() {
            return Ok(0);
        }
        self.find_groups(block, filters, sums.group_by())?;
        self.sum(block, &runs, sums)?;
        Ok(runs.iter().map(|(from, to, _)| (to - from) as u64).sum())
    }

    /// Gives every cell the place of its group.
    fn find_groups(
        &mut self,
        block: &impl ReadBlock,
        filters: &Filters,
        group_by: &[Dimension],
    ) -> Result<(), BlockError> {
        let mut group = Group::default();
        for (at, dimension) in group_by.iter().enumerate() {
            if *dimension == Dimension::CampaignId {
                group[at] = block.key().campaign;
            }
        }
        self.groups.clear();
        self.groups.push(group);
        self.of_cell.clear();
        self.of_cell.resize(block.cells(), 0);
        let dimensions = block.key().cuboid.dimensions();
        let is_grouped = |dimension: &Dimension| group_by.contains(dimension);
        let leading = dimensions.iter().take_while(|d| is_grouped(d)).count();
        self.is_sorted = dimensions[leading..].iter().all(|d| !is_grouped(d));
        for dimension in dimensions {
            let filter = filters.of(*dimension);
            let grouped = group_by.iter().position(|d| d == dimension);
            if filter.is_none() && grouped.is_none() {
                continue;
            }
            block.dimension(
                *dimension,
                &mut self.scratch,
                &mut self.symbols,
                &mut self.places,
            )?;
            self.divide(filter, grouped);
        }
        Ok(())
    }

    /// Divides the groups by the dimension that was unpacked last.
    fn divide(&mut self, filter: &Filter, grouped: Option<usize>) {
        let passes = |symbol: &Symbol| filter.as_ref().is_none_or(|set| set.contains(symbol));
        let Some(at) = grouped else {
            let kept: Vec<bool> = self.symbols.iter().map(passes).collect();
            for (cell, place) in self.of_cell.iter_mut().zip(&self.places) {
                if !kept[*place as usize] {
                    *cell = OUT;
                }
            }
            return;
        };
        let named = |before: &Group, symbol: Symbol| {
            let mut group = *before;
            group[at] = symbol;
            group
        };
        let width = self.symbols.len();
        let kept: Vec<u32> = (0..)
            .zip(&self.symbols)
            .map(|(n, symbol)| if passes(symbol) { n } else { OUT })
            .collect();
        if self.groups.len() * width <= MAX_INDEXED {
            let (groups, symbols) = (&self.groups, &self.symbols);
            let divided = groups
                .iter()
                .flat_map(|group| symbols.iter().map(move |symbol| named(group, *symbol)))
                .collect();
            for (cell, place) in self.of_cell.iter_mut().zip(&self.places) {
                *cell = match (*cell, kept[*place as usize]) {
                    (OUT, _) | (_, OUT) => OUT,
                    (group, n) => group * width as u32 + n,
                };
            }
            self.groups = divided;
            return;
        }
        // Most combinations of so many symbols are not there.
        let mut numbers: FxHashMap<u64, u32> = FxHashMap::default();
        let mut divided: Vec<Group> = Vec::new();
        for (cell, place) in self.of_cell.iter_mut().zip(&self.places) {
            if *cell == OUT || kept[*place as usize] == OUT {
                *cell = OUT;
                continue;
            }
            let both = (u64::from(*cell) << 32) | u64::from(*place);
            let (before, symbol) = (*cell as usize, self.symbols[*place as usize]);
            *cell = *numbers.entry(both).or_insert_with(|| {
                divided.push(named(&self.groups[before], symbol));
                divided.len() as u32 - 1
            });
        }
        self.groups = divided;
    }

    /// Adds the runs of cells, each to its bucket.
    fn sum(
        &mut self,
        block: &impl ReadBlock,
        runs: &[(usize, usize, BucketKey)],
        into: &mut ShardSums,
    ) -> Result<(), PartialError> {
        let groups = self.groups.len();
        self.sums.clear();
        self.sums.resize(groups, [0; METRICS + 1]);
        self.numbers.clear();
        self.numbers.resize(groups, OUT);
        let mut metrics: Vec<(usize, Values<'_>)> = Vec::with_capacity(METRICS);
        for (field, scratch) in self.columns.iter_mut().enumerate() {
            if let Some(values) = block.metric(field, scratch)? {
                metrics.push((field, values));
            }
        }
        let table = into.table();
        for (from, to, key) in runs {
            let of_cell = &self.of_cell[*from..*to];
            let bucket = table.bucket(*key);
            let number = |group: u32, numbers: &mut [u32], table: &mut SumTable| {
                let number = &mut numbers[group as usize];
                if *number == OUT {
                    *number = table.group(self.groups[group as usize]);
                }
                *number
            };
            self.appended.clear();
            if self.is_sorted {
                find_stretches(of_cell, &mut self.stretches);
                for (begin, _) in &self.stretches {
                    let group = of_cell[*begin as usize];
                    self.appended.push(number(group, &mut self.numbers, table));
                }
                let (row, rows) = table.append(bucket, &self.appended)?;
                for (field, values) in &metrics {
                    sum_stretches(&self.stretches, values, *from, rows.column(*field, row));
                }
                continue;
            }
            self.touched.clear();
            for group in of_cell {
                // A cell that is kept out has no such group.
                if let Some(sum) = self.sums.get_mut(*group as usize)
                    && sum[TOUCHED] == 0
                {
                    sum[TOUCHED] = 1;
                    self.touched.push(*group);
                }
            }
            for (field, values) in &metrics {
                add_column(&mut self.sums, *field, of_cell, values, *from);
            }
            for group in &self.touched {
                self.appended.push(number(*group, &mut self.numbers, table));
            }
            let (row, rows) = table.append(bucket, &self.appended)?;
            for (field, _) in &metrics {
                let sums = self
                    .touched
                    .iter()
                    .map(|group| self.sums[*group as usize][*field]);
                rows.column(*field, row).extend(sums);
            }
            for group in &self.touched {
                self.sums[*group as usize] = [0; METRICS + 1];
            }
        }
        Ok(())
    }
}

/// The stretches of cells that are of one group and not kept out.
fn find_stretches(of_cell: &[u32], out: &mut Vec<(u32, u32)>) {
    out.clear();
    let mut at = 0;
    for same in of_cell.chunk_by(|a, b| a == b) {
        let end = at + same.len() as u32;
        if same[0] != OUT {
            out.push((at, end));
        }
        at = end;
    }
}

/// Appends the sum of a metric over each of some stretches of the cells from `from` on.
fn sum_stretches(stretches: &[(u32, u32)], values: &Values<'_>, from: usize, out: &mut Vec<i64>) {
    let bytes = &values.bytes[from * values.width..];
    let least = values.least;
    let is_small = (-SMALL..=SMALL).contains(&least);
    match (values.width, is_small) {
        (0, true) => out.extend(
            stretches
                .iter()
                .map(|(begin, end)| i64::from(end - begin) * least),
        ),
        (1, true) => sum_small(stretches, bytes, least, out, |b: &u8| i64::from(*b)),
        (2, true) => sum_small(stretches, bytes.as_chunks::<2>().0, least, out, |b| {
            i64::from(u16::from_le_bytes(*b))
        }),
        (4, true) => sum_small(stretches, bytes.as_chunks::<4>().0, least, out, |b| {
            i64::from(u32::from_le_bytes(*b))
        }),
        _ => out.extend(stretches.iter().map(|(begin, end)| {
            let cells = (*begin as usize..*end as usize).map(|cell| values.at(from + cell));
            cells.fold(0i64, i64::saturating_add)
        })),
    }
}

/// The same for numbers whose sums cannot leave an i64.
#[inline]
fn sum_small<T>(
    stretches: &[(u32, u32)],
    numbers: &[T],
    least: i64,
    out: &mut Vec<i64>,
    number: impl Fn(&T) -> i64,
) {
    out.extend(stretches.iter().map(|(begin, end)| {
        let cells = &numbers[*begin as usize..*end as usize];
        let sum = match cells {
            [cell] => number(cell),
            cells => cells.iter().map(&number).sum(),
        };
        i64::from(end - begin) * least + sum
    }));
}

/// Adds a metric of the cells from `from` on, each to the sums of its group.
fn add_column(sums: &mut [Sum], field: usize, of_cell: &[u32], values: &Values<'_>, from: usize) {
    let bytes = &values.bytes[from * values.width..];
    let least = values.least;
    // At most 65,536 cells of less than 2^47 each.
    let is_small = (-SMALL..=SMALL).contains(&least);
    let mut each = |numbers: &mut dyn Iterator<Item = u64>| {
        for (group, n) in of_cell.iter().zip(numbers) {
            if let Some(sum) = sums.get_mut(*group as usize) {
                sum[field] = sum[field].saturating_add(least.wrapping_add(n as i64));
            }
        }
    };
    match (values.width, is_small) {
        (0, true) => add_small(sums, field, of_cell, std::iter::repeat(least)),
        (1, true) => add_small(
            sums,
            field,
            of_cell,
            bytes.iter().map(|b| least + i64::from(*b)),
        ),
        (2, true) => {
            let numbers = bytes.as_chunks::<2>().0.iter();
            let numbers = numbers.map(|b| least + i64::from(u16::from_le_bytes(*b)));
            add_small(sums, field, of_cell, numbers);
        }
        (4, true) => {
            let numbers = bytes.as_chunks::<4>().0.iter();
            let numbers = numbers.map(|b| least + i64::from(u32::from_le_bytes(*b)));
            add_small(sums, field, of_cell, numbers);
        }
        (0, false) => each(&mut std::iter::repeat(0)),
        (width, _) => each(&mut bytes.chunks_exact(width).map(|b| {
            let mut eight = [0; 8];
            eight[..width].copy_from_slice(b);
            u64::from_le_bytes(eight)
        })),
    }
}

/// The same for numbers whose sums cannot leave an i64.
#[inline]
fn add_small(sums: &mut [Sum], field: usize, of_cell: &[u32], numbers: impl Iterator<Item = i64>) {
    if let [sum] = sums {
        // One group: a plain sum of what is not kept out.
        let passed = of_cell.iter().zip(numbers);
        let total = passed.map(|(group, n)| if *group == 0 { n } else { 0 });
        sum[field] = sum[field].wrapping_add(total.fold(0i64, i64::wrapping_add));
        return;
    }
    for (group, n) in of_cell.iter().zip(numbers) {
        // A cell that is kept out has no such group.
        if let Some(sum) = sums.get_mut(*group as usize) {
            sum[field] = sum[field].wrapping_add(n);
        }
    }
}

#[cfg(test)]
#[path = "block_sums_tests.rs"]
mod tests;
