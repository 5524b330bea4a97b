//! The cells that a batch of events adds to, before they are rows.
//!
//! Invariant: a grain's cells stand in the order of their rows' keys, each once. Who writes a state makes rows of them;
//! who only compares adds them up as they are.

use crate::cell_list::Place;
use crate::cells::{Bucket, Grain, RowKey};
use crate::metrics::{METRICS, Metrics};
use crate::symbols::Symbol;

/// What a row takes from an event's ad: its names, and the offset that decides its civil buckets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Owner {
    pub(crate) campaign: Symbol,
    pub(crate) ad: Symbol,
    pub(crate) offset_s: i32,
}

/// The counters that events add to; the others of [`Metrics`] are decided later.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    pub(crate) impressions: u32,
    pub(crate) invalid_impressions: u32,
    pub(crate) gross_clicks: u32,
    pub(crate) general_invalid_clicks: u32,
    pub(crate) late_events: u32,
    /// Whether any of the events cost something, even if they come to nothing together.
    pub(crate) has_cost: bool,
    pub(crate) gross_cost_micros: i64,
    pub(crate) cost_not_charged_micros: i64,
}

impl Sum {
    pub(crate) fn add(&mut self, other: &Sum) {
        self.impressions += other.impressions;
        self.invalid_impressions += other.invalid_impressions;
        self.gross_clicks += other.gross_clicks;
        self.general_invalid_clicks += other.general_invalid_clicks;
        self.late_events += other.late_events;
        self.has_cost |= other.has_cost;
        let add = i64::saturating_add;
        self.gross_cost_micros = add(self.gross_cost_micros, other.gross_cost_micros);
        self.cost_not_charged_micros =
            add(self.cost_not_charged_micros, other.cost_not_charged_micros);
    }

    /// All counters, as [`Metrics::fields`].
    pub(crate) fn fields(&self) -> [i64; METRICS] {
        let metrics = Metrics {
            impressions: i64::from(self.impressions),
            invalid_impressions: i64::from(self.invalid_impressions),
            gross_clicks: i64::from(self.gross_clicks),
            general_invalid_clicks: i64::from(self.general_invalid_clicks),
            gross_cost_micros: self.gross_cost_micros,
            cost_not_charged_micros: self.cost_not_charged_micros,
            late_events: i64::from(self.late_events),
            ..Metrics::default()
        };
        metrics.fields()
    }
}

/// The sum of a cell, and an instant in its bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    pub(crate) owner: u32,
    pub(crate) place: Place,
    pub(crate) time_s: i64,
    pub(crate) sum: Sum,
}

/// The cells of a batch.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    pub(crate) owners: Vec<Owner>,
    /// By grain.
    pub(crate) cells: [Vec<Cell>; Grain::ALL.len()],
}

impl Counted {
    /// Visits the cells of each row.
    pub(crate) fn each_row(&self, mut row: impl FnMut(&RowKey, &[Cell])) {
        for (grain, cells) in Grain::ALL.into_iter().zip(&self.cells) {
            each_row(&self.owners, grain, cells, &mut row);
        }
    }
}

/// Visits the cells of each row of a grain, whose owners are given.
pub(crate) fn each_row(
    owners: &[Owner],
    grain: Grain,
    cells: &[Cell],
    mut row: impl FnMut(&RowKey, &[Cell]),
) {
    let key = |cell: &Cell| {
        let owner = &owners[cell.owner as usize];
        RowKey {
            campaign: owner.campaign,
            bucket: Bucket::of(grain, cell.time_s, owner.offset_s),
            ad: owner.ad,
        }
    };
    let mut rest = cells;
    while let Some(first) = rest.first() {
        let this = key(first);
        let is_other = |cell: &Cell| cell.owner != first.owner || key(cell).bucket != this.bucket;
        let end = rest.iter().position(is_other);
        let (same, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        row(&this, same);
    }
}
