//! Summing blocks: columns to the rows of an answer, without an allocation a cell.
//!
//! Invariant: what is added is what the same cells as rows would add. A dimension's dictionary is filtered and
//! numbered once a block; what the filters keep out is left out before anything else is looked at; then the column of
//! each wanted counter is passed once. Where cells are rows already, or few of them would be added up, they are appended to the
//! table as they are, and add up where shards meet; else each adds to the row of its bucket and group.

use std::ops::Range;

use rustc_hash::FxHashMap;

use crate::block::{BlockError, Values};
use crate::buckets::BucketKey;
use crate::cells::Bucket;
use crate::metrics::Fields;
use crate::narrow::{Narrow, Numbers};
use crate::origins::Origin;
use crate::partial::{Dimension, Filter, Filters, PartialError, ShardSums};
use crate::read_block::ReadBlock;
use crate::sums::{Group, SumTable, fits};
use crate::symbols::Symbol;

/// The most combinations of a block's symbols that are summed by an index instead of a hash.
const MAX_INDEXED: usize = 1 << 14;
/// Nothing that has a number.
const NONE: u32 = u32::MAX;
/// Cells for each row that they would be, up to which they are not added up here.
const MANY_A_ROW: usize = 2;

/// The cells of a block that are added.
#[derive(Debug)]
enum Cells {
    /// Those that follow each other.
    All(Range<usize>),
    /// Those of such numbers.
    Some(Vec<u32>),
}

impl Cells {
    fn len(&self) -> usize {
        match self {
            Cells::All(range) => range.len(),
            Cells::Some(cells) => cells.len(),
        }
    }
}

/// Cells of one bucket that follow each other.
#[derive(Clone, Debug)]
struct Run {
    cells: Range<usize>,
    bucket: BucketKey,
}

/// Memory of the sums of one shard's blocks, kept from block to block.
#[derive(Debug, Default)]
pub struct BlockSums {
    scratch: Vec<u8>,
    symbols: Vec<Symbol>,
    runs: Vec<Run>,
    /// Whether a cell passes the filters.
    passes: Vec<bool>,
    chosen: Vec<u32>,
    /// For each added cell the place of its group among `groups`.
    of_cell: Vec<u32>,
    groups: Vec<Group>,
    /// The table's numbers of the block's groups; [`NONE`] until one is asked for.
    numbers: Vec<u32>,
    /// The table's numbers of the groups of the rows that are appended.
    appended: Vec<u32>,
    /// The rows of a run's groups, counted from the run's first one; [`NONE`] where there is none.
    places: Vec<u32>,
    /// For each added cell its row, counted from the block's first one.
    rows: Vec<u32>,
    /// A metric of the added cells.
    column: Vec<i64>,
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
        self.find_runs(block, place);
        let read: usize = self.runs.iter().map(|run| run.cells.len()).sum();
        let cells = self.choose(block, filters)?;
        if cells.len() > 0 {
            self.find_groups(block, &cells, sums.group_by())?;
            let fields = sums.fields();
            self.append(block, &cells, fields, sums.table())?;
        }
        if let Cells::Some(chosen) = cells {
            self.chosen = chosen;
        }
        Ok(read as u64)
    }

    fn find_runs(
        &mut self,
        block: &impl ReadBlock,
        place: &mut dyn FnMut(Bucket) -> Option<BucketKey>,
    ) {
        self.runs.clear();
        let mut at = 0;
        for (bucket, n) in block.buckets() {
            let cells = at..at + *n as usize;
            at = cells.end;
            let Some(bucket) = place(*bucket) else {
                continue;
            };
            match self.runs.last_mut() {
                Some(last) if last.bucket == bucket && last.cells.end == cells.start => {
                    last.cells.end = cells.end;
                }
                _ => self.runs.push(Run { cells, bucket }),
            }
        }
    }

    /// Finds the cells of the runs that pass the filters, by whose numbers the runs' cells then go.
    fn choose(&mut self, block: &impl ReadBlock, filters: &Filters) -> Result<Cells, BlockError> {
        let (Some(first), Some(last)) = (self.runs.first(), self.runs.last()) else {
            return Ok(Cells::All(0..0));
        };
        let all = first.cells.start..last.cells.end;
        let dimensions = block.key().cuboid.dimensions();
        let mut filtered = dimensions.iter().filter(|d| filters.of(**d).is_some());
        let follow = |pair: &[Run]| pair[0].cells.end == pair[1].cells.start;
        if filtered.clone().next().is_none() && self.runs.windows(2).all(follow) {
            for run in &mut self.runs {
                run.cells = run.cells.start - all.start..run.cells.end - all.start;
            }
            return Ok(Cells::All(all));
        }
        self.passes.clear();
        self.passes.resize(block.cells(), true);
        filtered.try_for_each(|d| self.keep_out(block, *d, filters.of(*d)))?;
        let mut chosen = std::mem::take(&mut self.chosen);
        // One more than there can be, so that each is written before it is known whether it stays.
        chosen.clear();
        chosen.resize(all.len() + 1, 0);
        let mut n = 0;
        for run in &mut self.runs {
            let from = n;
            for (cell, passes) in (run.cells.start as u32..).zip(&self.passes[run.cells.clone()]) {
                chosen[n] = cell;
                n += usize::from(*passes);
            }
            run.cells = from..n;
        }
        chosen.truncate(n);
        self.runs.retain(|run| !run.cells.is_empty());
        Ok(Cells::Some(chosen))
    }

    /// Notes which cells a filter keeps out.
    fn keep_out(
        &mut self,
        block: &impl ReadBlock,
        dimension: Dimension,
        filter: &Filter,
    ) -> Result<(), BlockError> {
        let places = block.dimension(dimension, &mut self.scratch, &mut self.symbols)?;
        let passes = |symbol: &Symbol| filter.as_ref().is_none_or(|set| set.contains(symbol));
        let kept: Vec<bool> = self.symbols.iter().map(passes).collect();
        fn keep<T: Narrow>(passes: &mut [bool], places: &[T], kept: &[bool]) {
            let mut which = (0..).zip(kept).filter(|(_, is)| **is).map(|(n, _)| n);
            match (which.next(), which.next()) {
                (Some(only), None) => {
                    let cells = passes.iter_mut().zip(places);
                    cells.for_each(|(passes, place)| *passes &= place.wide() == only);
                }
                _ => {
                    let cells = passes.iter_mut().zip(places);
                    cells.for_each(|(passes, place)| *passes &= kept[place.wide() as usize]);
                }
            }
        }
        match places {
            Numbers::Zero if kept[0] => {}
            Numbers::Zero => self.passes.fill(false),
            Numbers::One(places) => keep(&mut self.passes, places, &kept),
            Numbers::Two(places) => keep(&mut self.passes, places, &kept),
            Numbers::Four(places) => keep(&mut self.passes, places, &kept),
            Numbers::Eight(places) => keep(&mut self.passes, places, &kept),
        }
        Ok(())
    }

    /// Gives every added cell the place of its group.
    fn find_groups(
        &mut self,
        block: &impl ReadBlock,
        cells: &Cells,
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
        self.of_cell.resize(cells.len(), 0);
        for dimension in block.key().cuboid.dimensions() {
            let Some(at) = group_by.iter().position(|d| d == dimension) else {
                continue;
            };
            let places = block.dimension(*dimension, &mut self.scratch, &mut self.symbols)?;
            let symbols = &self.symbols;
            if let Numbers::Zero = places {
                for group in &mut self.groups {
                    group[at] = symbols[0];
                }
                continue;
            }
            let groups = &mut self.groups;
            match places {
                Numbers::Zero => {}
                Numbers::One(places) => {
                    divide(&mut self.of_cell, groups, cells, places, (at, symbols))
                }
                Numbers::Two(places) => {
                    divide(&mut self.of_cell, groups, cells, places, (at, symbols))
                }
                Numbers::Four(places) => {
                    divide(&mut self.of_cell, groups, cells, places, (at, symbols))
                }
                Numbers::Eight(places) => {
                    divide(&mut self.of_cell, groups, cells, places, (at, symbols))
                }
            }
        }
        Ok(())
    }

    /// Appends rows of the added cells, each run's to its bucket.
    fn append(
        &mut self,
        block: &impl ReadBlock,
        cells: &Cells,
        fields: Fields,
        table: &mut SumTable,
    ) -> Result<(), PartialError> {
        self.numbers.clear();
        self.numbers.resize(self.groups.len(), NONE);
        table.make_room(cells.len(), self.runs.len())?;
        let first = table.columns().len();
        let groups = self.groups.len();
        let rows = self.runs.iter().map(|run| run.cells.len().min(groups));
        let is_each = cells.len() <= MANY_A_ROW * rows.sum::<usize>();
        match (is_each, groups) {
            (true, _) => {
                self.each_a_row(table);
                if let (Some(block), Cells::All(all)) = (block.known_as(), cells) {
                    let cell = all.start as u32;
                    table.note_origin(first, Origin { block, cell });
                }
            }
            (false, 1) => self.one_a_run(table),
            (false, _) => self.one_a_group(table),
        }
        for field in fields.places() {
            let Some(values) = block.metric(field, &mut self.scratch)? else {
                continue;
            };
            let reach = values.reach().saturating_mul(cells.len() as u64);
            let columns = table.columns();
            let rows = columns.len() - first;
            let out = columns.column_from(field, first, reach);
            if is_each {
                read_values(&values, cells, out);
                continue;
            }
            self.column.clear();
            read_values(&values, cells, &mut self.column);
            if groups == 1 {
                let runs = self.runs.iter().map(|run| &self.column[run.cells.clone()]);
                out.extend(runs.map(|cells| total(cells, fits(reach))));
                continue;
            }
            out.resize(first + rows, 0);
            let out = &mut out[first..];
            let cells = self.rows.iter().zip(&self.column);
            match fits(reach) {
                true => cells.for_each(|(row, n)| {
                    let sum = &mut out[*row as usize];
                    *sum = sum.wrapping_add(*n);
                }),
                false => cells.for_each(|(row, n)| {
                    let sum = &mut out[*row as usize];
                    *sum = sum.saturating_add(*n);
                }),
            }
        }
        Ok(())
    }

    /// Appends a row for each cell.
    fn each_a_row(&mut self, table: &mut SumTable) {
        let mut last: Option<&Run> = None;
        for run in &self.runs {
            let of_cell = &self.of_cell[run.cells.clone()];
            // In most buckets of a large campaign are the cells of the one before.
            if last.is_none_or(|last| self.of_cell[last.cells.clone()] != *of_cell) {
                self.appended.clear();
                for group in of_cell {
                    let number = number(*group, &self.groups, &mut self.numbers, table);
                    self.appended.push(number);
                }
            }
            last = Some(run);
            let bucket = table.bucket(run.bucket);
            table.append(bucket, &self.appended);
        }
    }

    /// Appends a row for each run, of the only group.
    fn one_a_run(&mut self, table: &mut SumTable) {
        let number = table.group(self.groups[0]);
        for run in &self.runs {
            let bucket = table.bucket(run.bucket);
            table.append(bucket, &[number]);
        }
    }

    /// Appends a row for each group of a run, and notes which cells add to it.
    fn one_a_group(&mut self, table: &mut SumTable) {
        self.places.clear();
        self.places.resize(self.groups.len(), NONE);
        self.rows.clear();
        let mut first = 0;
        for run in &self.runs {
            let of_cell = &self.of_cell[run.cells.clone()];
            self.appended.clear();
            for group in of_cell {
                let place = &mut self.places[*group as usize];
                if *place == NONE {
                    *place = self.appended.len() as u32;
                    let number = number(*group, &self.groups, &mut self.numbers, table);
                    self.appended.push(number);
                }
                self.rows.push(first + *place);
            }
            first += self.appended.len() as u32;
            for group in of_cell {
                self.places[*group as usize] = NONE;
            }
            let bucket = table.bucket(run.bucket);
            table.append(bucket, &self.appended);
        }
    }
}

/// The table's number of a block's group.
fn number(group: u32, groups: &[Group], numbers: &mut [u32], table: &mut SumTable) -> u32 {
    let number = &mut numbers[group as usize];
    if *number == NONE {
        *number = table.group(groups[group as usize]);
    }
    *number
}

/// Divides groups by a dimension, at a place of their names, by the places of the block's cells among its symbols.
fn divide<T: Narrow>(
    of_cell: &mut [u32],
    groups: &mut Vec<Group>,
    cells: &Cells,
    places: &[T],
    (at, symbols): (usize, &[Symbol]),
) {
    match cells {
        Cells::All(range) => {
            let places = places[range.clone()]
                .iter()
                .map(|place| place.wide() as u32);
            divide_by(of_cell, groups, places, (at, symbols));
        }
        Cells::Some(cells) => {
            let places = cells
                .iter()
                .map(|cell| places[*cell as usize].wide() as u32);
            divide_by(of_cell, groups, places, (at, symbols));
        }
    }
}

#[inline]
fn divide_by(
    of_cell: &mut [u32],
    groups: &mut Vec<Group>,
    places: impl Iterator<Item = u32>,
    (at, symbols): (usize, &[Symbol]),
) {
    let named = |before: &Group, symbol: Symbol| {
        let mut group = *before;
        group[at] = symbol;
        group
    };
    let width = symbols.len();
    if groups.len() * width <= MAX_INDEXED {
        let divided = groups
            .iter()
            .flat_map(|group| symbols.iter().map(move |symbol| named(group, *symbol)));
        *groups = divided.collect();
        for (cell, place) in of_cell.iter_mut().zip(places) {
            *cell = cell.wrapping_mul(width as u32).wrapping_add(place);
        }
        return;
    }
    // Most combinations of so many symbols are not there.
    let mut numbers: FxHashMap<u64, u32> = FxHashMap::default();
    let mut divided: Vec<Group> = Vec::new();
    for (cell, place) in of_cell.iter_mut().zip(places) {
        let both = (u64::from(*cell) << 32) | u64::from(place);
        let before = &groups[*cell as usize];
        *cell = *numbers.entry(both).or_insert_with(|| {
            divided.push(named(before, symbols[place as usize]));
            divided.len() as u32 - 1
        });
    }
    *groups = divided;
}

/// Appends a metric of the added cells.
fn read_values(values: &Values<'_>, cells: &Cells, out: &mut Vec<i64>) {
    fn read<T: Narrow>(numbers: &[T], least: i64, cells: &Cells, out: &mut Vec<i64>) {
        let value = |n: &T| least.wrapping_add(n.wide() as i64);
        match cells {
            Cells::All(range) => out.extend(numbers[range.clone()].iter().map(value)),
            Cells::Some(cells) => {
                out.extend(cells.iter().map(|cell| value(&numbers[*cell as usize])));
            }
        }
    }
    match values.numbers {
        Numbers::Zero => out.resize(out.len() + cells.len(), values.least),
        Numbers::One(numbers) => read(numbers, values.least, cells, out),
        Numbers::Two(numbers) => read(numbers, values.least, cells, out),
        Numbers::Four(numbers) => read(numbers, values.least, cells, out),
        Numbers::Eight(numbers) => read(numbers, values.least, cells, out),
    }
}

fn total(cells: &[i64], fits: bool) -> i64 {
    match fits {
        true => cells.iter().fold(0, |sum, n| sum.wrapping_add(*n)),
        false => cells.iter().fold(0, |sum, n| sum.saturating_add(*n)),
    }
}

#[cfg(test)]
#[path = "block_sums_tests.rs"]
mod tests;
