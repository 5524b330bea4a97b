//! The cells of a state for its dump: rows and blocks added up, each cell once.
//!
//! Invariant: what is held in memory is which sections have rows, and the cells of one span with some at a time. Cells
//! are taken from the blocks of all dimensions; the other cuboids are sums of the same. A row whose section has no
//! marker is one that no question would read: it stands in a line of its own, so that the state differs from one that is
//! as it should be.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::block::{self, Block, BlockError, BlockKey};
use crate::block_cells::each_cell;
use crate::cells::{self, CellKey, Grain, RowKey};
use crate::codec::Damaged;
use crate::cuboid::Cuboid;
use crate::dump::{DumpError, Source};
use crate::family::Family;
use crate::metrics::{METRICS, Metrics, add_sums};
use crate::seal::cell_of;
use crate::sections::{OpenSection, Section};
use crate::spans::{Horizon, Span};
use crate::symbols::Symbol;

type Sums = [i64; METRICS];

/// Visits every cell of a grain from the horizon on, with its counters.
pub(crate) fn visit_cells<S: Source>(
    source: &S,
    grain: Grain,
    horizon: &Horizon,
    each: &mut dyn FnMut(&CellKey, &Metrics),
) -> Result<(), DumpError<S::Error>> {
    let open = open_sections(source, grain)?;
    let spans: BTreeSet<(Symbol, Span)> = open
        .iter()
        .map(|o| (o.campaign, o.section.span()))
        .collect();
    let mut tell = |cell: &CellKey, sums: &Sums| {
        if horizon.keeps(Span::of(cell.bucket)) {
            each(cell, &Metrics::from_fields(*sums));
        }
    };
    let mut rows = Ok(());
    let mut unmarked = |key: &[u8], value: &[u8]| {
        let row = RowKey::decode(grain, key).and_then(|row| match open.contains(&of_row(&row)) {
            true => Ok(()),
            false => each_of_row(grain, key, value, &mut tell),
        });
        if row.is_err() {
            rows = row;
        }
    };
    source
        .scan(grain.family(), &mut unmarked)
        .map_err(DumpError::Read)?;
    rows?;
    let mut blocks = Ok(());
    let mut closed = |key: &[u8], value: &[u8]| {
        if BlockKey::decode(grain, key).is_ok_and(|key| spans.contains(&(key.campaign, key.span))) {
            return;
        }
        if let Err(error) = each_of_block(grain, key, value, &mut tell) {
            blocks = Err(damaged_block(grain, key, error));
        }
    };
    source
        .scan(grain.blocks(), &mut closed)
        .map_err(DumpError::Read)?;
    blocks?;
    for (campaign, span) in &spans {
        for (cell, sums) in added_up(source, *campaign, *span, &open)? {
            tell(&cell, &sums);
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

/// The cells of a span that has rows.
fn added_up<S: Source>(
    source: &S,
    campaign: Symbol,
    span: Span,
    open: &FxHashSet<OpenSection>,
) -> Result<FxHashMap<CellKey, Sums>, DumpError<S::Error>> {
    let grain = span.grain;
    let mut all: FxHashMap<CellKey, Sums> = FxHashMap::default();
    let mut add = |cell: &CellKey, sums: &Sums| {
        crate::sums::add(all.entry(*cell).or_insert([0; METRICS]), sums);
    };
    let mut damaged: Option<DumpError<S::Error>> = None;
    let (from, to) = span.hot_range();
    let (from, to) = cells::range(grain, campaign, from, to);
    source
        .range(grain.family(), &from, &to, &mut |key, value| {
            // Rows of hours of the days beside it lie among them.
            let is_own = RowKey::decode(grain, key)
                .map(|row| Span::of(row.bucket) == span && open.contains(&of_row(&row)));
            let read = is_own.and_then(|is_own| match is_own {
                true => each_of_row(grain, key, value, &mut add),
                false => Ok(()),
            });
            damaged = read.err().map(DumpError::from).or(damaged.take());
            ControlFlow::Continue(())
        })
        .map_err(DumpError::Read)?;
    for cuboid in [Cuboid::Full, Cuboid::Few] {
        let (from, to) = block::range(campaign, cuboid, span.number, span.number);
        source
            .range(grain.blocks(), &from, &to, &mut |key, value| {
                if let Err(error) = each_of_block(grain, key, value, &mut add) {
                    damaged = Some(damaged_block(grain, key, error));
                }
                ControlFlow::Continue(())
            })
            .map_err(DumpError::Read)?;
    }
    match damaged {
        Some(error) => Err(error),
        None => Ok(all),
    }
}

fn each_of_row(
    grain: Grain,
    key: &[u8],
    value: &[u8],
    each: &mut dyn FnMut(&CellKey, &Sums),
) -> Result<(), Damaged> {
    cells::each(grain, key, value, |cell, stored| {
        let mut sums = [0; METRICS];
        add_sums(&mut sums, stored)?;
        each(cell, &sums);
        Ok(())
    })
}

/// The cells of a block of all dimensions; none of another one, which is read all the same.
fn each_of_block(
    grain: Grain,
    key: &[u8],
    value: &[u8],
    each: &mut dyn FnMut(&CellKey, &Sums),
) -> Result<(), BlockError> {
    let block = Block::parse(grain, key, value)?;
    if ![Cuboid::Full, Cuboid::Few].contains(&block.key.cuboid) {
        return Ok(());
    }
    let mut wrong = Ok(());
    each_cell(&block, |place, symbols, fields| {
        let mut sums = [0; METRICS];
        sums.copy_from_slice(&fields[..METRICS]);
        match cell_of(&block.key, place, symbols) {
            Ok(cell) => each(&cell, &sums),
            Err(error) => wrong = Err(error),
        }
    })?;
    wrong
}

fn damaged_block<E>(grain: Grain, key: &[u8], error: BlockError) -> DumpError<E> {
    let span = BlockKey::decode(grain, key).map(|key| key.span.to_string());
    DumpError::Block {
        span: span.unwrap_or_else(|_| "of an unknown span".to_owned()),
        error,
    }
}
