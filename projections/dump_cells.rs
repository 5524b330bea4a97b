//! The cells of a state for its dump: rows and blocks added up, each cell once.
//!
//! Invariant: what is held in memory is which sections have rows, and the rows' cells of one span that has blocks too.
//! A cell stands once in the blocks of its span and once in its rows, so only what is in both must be added up. Cells
//! are taken from the blocks of all dimensions; the other cuboids are sums of the same. A row whose section has no
//! marker is one that no question would read: its lines say so, so that the state differs from one that is as it should
//! be.

use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::block::{self, Block, BlockError, BlockKey, Values};
use crate::cell_list::CellList;
use crate::cells::{self, CellKey, Grain, RowKey};
use crate::codec::Damaged;
use crate::cuboid::Cuboid;
use crate::dump::{DumpError, Source};
use crate::family::Family;
use crate::metrics::{METRICS, add_sums};
use crate::partial::Dimension;
use crate::sections::{OpenSection, Section};
use crate::spans::{Horizon, Span};
use crate::symbols::Symbol;

/// The counters of a cell.
pub(crate) type Sums = [i64; METRICS];

/// What cells are given to.
pub(crate) trait TakesCells {
    /// A cell, its counters, and whether a question would read it.
    fn cell(&mut self, cell: &CellKey, sums: &Sums, is_read: bool);

    /// The cells of a row, as its value lists them.
    ///
    /// # Errors
    /// [`Damaged`] when it is no list.
    fn row(&mut self, row: &RowKey, list: &[u8], is_read: bool) -> Result<(), Damaged> {
        each_of_row(row, list, &mut |cell, sums| self.cell(cell, sums, is_read))
    }
}

/// Visits every cell of a grain from the horizon on.
pub(crate) fn visit_cells<S: Source>(
    source: &S,
    grain: Grain,
    horizon: &Horizon,
    taker: &mut dyn TakesCells,
) -> Result<(), DumpError<S::Error>> {
    let open = open_sections(source, grain)?;
    let with_rows: FxHashSet<(Symbol, Span)> = open
        .iter()
        .map(|o| (o.campaign, o.section.span()))
        .collect();
    let mut tell = |cell: &CellKey, sums: &Sums| taker.cell(cell, sums, true);
    let (mut with_both, mut blocks) = (FxHashSet::default(), Ok(()));
    let mut block = |key: &[u8], value: &[u8]| {
        let read = BlockKey::decode(grain, key);
        if let Ok(key) = read
            && with_rows.contains(&(key.campaign, key.span))
        {
            with_both.insert((key.campaign, key.span));
            return;
        }
        let is_shown = read.is_ok_and(|key| horizon.keeps(key.span));
        let told = match is_shown {
            true => each_of_block(grain, key, value, &mut tell),
            // It is read all the same.
            false => each_of_block(grain, key, value, &mut |_, _| ()),
        };
        if let Err(error) = told {
            blocks = Err(damaged_block(grain, key, error));
        }
    };
    source
        .scan(grain.blocks(), &mut block)
        .map_err(DumpError::Read)?;
    blocks?;
    let mut rows = Ok(());
    let mut row = |key: &[u8], value: &[u8]| {
        let read = RowKey::decode(grain, key).and_then(|row| {
            let span = Span::of(row.bucket);
            let is_read = open.contains(&of_row(&row));
            if is_read && with_both.contains(&(row.campaign, span)) {
                return Ok(());
            }
            match horizon.keeps(span) {
                true => taker.row(&row, value, is_read),
                false => each_of_row(&row, value, &mut |_, _| ()),
            }
        });
        if read.is_err() {
            rows = read;
        }
    };
    source
        .scan(grain.family(), &mut row)
        .map_err(DumpError::Read)?;
    rows?;
    let mut tell = |cell: &CellKey, sums: &Sums| taker.cell(cell, sums, true);
    for (campaign, span) in with_both {
        match horizon.keeps(span) {
            true => added_up(source, campaign, span, &open, &mut tell)?,
            false => added_up(source, campaign, span, &open, &mut |_, _| ())?,
        }
    }
    Ok(())
}

fn of_row(row: &RowKey) -> OpenSection {
    OpenSection {
        campaign: row.campaign,
        section: Section::of(row.bucket),
    }
}

fn open_sections<S: Source>(
    source: &S,
    grain: Grain,
) -> Result<FxHashSet<OpenSection>, DumpError<S::Error>> {
    let (mut open, mut damaged) = (FxHashSet::default(), Ok(()));
    let mut marker = |key: &[u8], _: &[u8]| match OpenSection::decode(key) {
        Ok(marked) if marked.section.grain == grain => drop(open.insert(marked)),
        Ok(_) => {}
        Err(error) => damaged = Err(error),
    };
    source
        .scan(Family::OpenSpans, &mut marker)
        .map_err(DumpError::Read)?;
    damaged?;
    Ok(open)
}

/// The cells of a span that has blocks and rows.
fn added_up<S: Source>(
    source: &S,
    campaign: Symbol,
    span: Span,
    open: &FxHashSet<OpenSection>,
    each: &mut dyn FnMut(&CellKey, &Sums),
) -> Result<(), DumpError<S::Error>> {
    let grain = span.grain;
    let mut of_rows: FxHashMap<CellKey, Sums> = FxHashMap::default();
    let mut add = |cell: &CellKey, sums: &Sums| {
        crate::sums::add(of_rows.entry(*cell).or_insert([0; METRICS]), sums);
    };
    let mut damaged: Option<DumpError<S::Error>> = None;
    let (from, to) = span.hot_range();
    let (from, to) = cells::range(grain, campaign, from, to);
    source
        .range(grain.family(), &from, &to, &mut |key, value| {
            // Rows of hours of the days beside it lie among them.
            let read = RowKey::decode(grain, key).and_then(|row| {
                let is_own = Span::of(row.bucket) == span && open.contains(&of_row(&row));
                match is_own {
                    true => each_of_row(&row, value, &mut add),
                    false => Ok(()),
                }
            });
            damaged = read.err().map(DumpError::from).or(damaged.take());
            ControlFlow::Continue(())
        })
        .map_err(DumpError::Read)?;
    let mut tell = |cell: &CellKey, sums: &Sums| match of_rows.remove(cell) {
        Some(mut both) => {
            crate::sums::add(&mut both, sums);
            each(cell, &both);
        }
        None => each(cell, sums),
    };
    for cuboid in WHOLE {
        let (from, to) = block::range(campaign, cuboid, span.number, span.number);
        source
            .range(grain.blocks(), &from, &to, &mut |key, value| {
                if let Err(error) = each_of_block(grain, key, value, &mut tell) {
                    damaged = Some(damaged_block(grain, key, error));
                }
                ControlFlow::Continue(())
            })
            .map_err(DumpError::Read)?;
    }
    of_rows.iter().for_each(|(cell, sums)| each(cell, sums));
    match damaged {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

/// Visits the cells of a row's value.
pub(crate) fn each_of_row(
    row: &RowKey,
    value: &[u8],
    each: &mut dyn FnMut(&CellKey, &Sums),
) -> Result<(), Damaged> {
    for listed in CellList::of(value) {
        let (place, stored) = listed?;
        let mut sums = [0; METRICS];
        add_sums(&mut sums, stored)?;
        each(&row.cell(place), &sums);
    }
    Ok(())
}

/// The cuboids whose blocks have all dimensions.
const WHOLE: [Cuboid; 2] = [Cuboid::Full, Cuboid::Few];

/// The cells of a block of all dimensions; none of another one, which is read all the same.
fn each_of_block(
    grain: Grain,
    key: &[u8],
    value: &[u8],
    each: &mut dyn FnMut(&CellKey, &Sums),
) -> Result<(), BlockError> {
    let block = Block::parse(grain, key, value)?;
    if !WHOLE.contains(&block.key.cuboid) {
        return Ok(());
    }
    let ads = Names::of(&block, Dimension::AdId)?;
    let creatives = Names::of(&block, Dimension::Creative)?;
    let regions = Names::of(&block, Dimension::Region)?;
    let devices = Names::of(&block, Dimension::Device)?;
    if devices.symbols.iter().any(|d| u8::try_from(*d).is_err()) {
        return Err(BlockError("it has a cell that cannot be"));
    }
    let fields: Vec<usize> = block.fields().filter(|field| *field < METRICS).collect();
    let mut columns: Vec<Vec<i64>> = Vec::with_capacity(fields.len());
    let mut scratch = Vec::new();
    for field in &fields {
        let values = block.metric(*field, &mut scratch)?;
        columns.push(values.map_or(Vec::new(), |values| column(&values, block.cells())));
    }
    let (mut sums, mut at) = ([0; METRICS], 0);
    for (bucket, cells) in &block.buckets {
        for _ in 0..*cells {
            for (field, column) in fields.iter().zip(&columns) {
                sums[*field] = column[at];
            }
            let cell = CellKey {
                campaign: block.key.campaign,
                bucket: *bucket,
                ad: ads.at(at),
                creative: creatives.at(at),
                region: regions.at(at),
                device: devices.at(at) as u8,
            };
            each(&cell, &sums);
            at += 1;
        }
    }
    Ok(())
}

/// A dimension of a block's cells.
struct Names {
    symbols: Vec<Symbol>,
    places: Vec<u32>,
}

impl Names {
    fn of(block: &Block<'_>, dimension: Dimension) -> Result<Self, BlockError> {
        let (mut symbols, mut scratch) = (Vec::new(), Vec::new());
        let numbers = block.places(dimension, &mut scratch, &mut symbols)?;
        let places = (0..block.cells())
            .map(|cell| numbers.at(cell) as u32)
            .collect();
        Ok(Self { symbols, places })
    }

    fn at(&self, cell: usize) -> Symbol {
        self.symbols[self.places[cell] as usize]
    }
}

fn column(values: &Values<'_>, cells: usize) -> Vec<i64> {
    (0..cells).map(|cell| values.at(cell)).collect()
}

fn damaged_block<E>(grain: Grain, key: &[u8], error: BlockError) -> DumpError<E> {
    let span = BlockKey::decode(grain, key).map(|key| key.span.to_string());
    DumpError::Block {
        span: span.unwrap_or_else(|_| "of an unknown span".to_owned()),
        error,
    }
}
