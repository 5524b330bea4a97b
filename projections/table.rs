//! The table of an answer's rows, as those read it who print or send it.
//!
//! Rows stand in parts, each made by itself, in the order of time and then of the groups' names: [`crate::merged`]
//! makes them so.

use std::ops::Range;
use std::sync::Arc;

use crate::buckets::Slot;
use crate::metrics::Metrics;
use crate::partial::Dimension;
use crate::sums::{Columns, Group};

/// A part of a table's rows.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// By row the place of its bucket.
    pub(crate) slots: Vec<u32>,
    /// By row the place of its group.
    pub(crate) groups: Vec<u32>,
    pub(crate) rows: Columns,
}

impl Part {
    /// Sorts rows of several buckets of one time by group, and then by bucket.
    pub(crate) fn interleave(&mut self, from: usize) {
        let mut order: Vec<usize> = (0..self.rows.len() - from).collect();
        order.sort_by_key(|row| (self.groups[from + row], self.slots[from + row]));
        for column in [&mut self.slots, &mut self.groups] {
            let sorted: Vec<u32> = order.iter().map(|row| column[from + row]).collect();
            column[from..].copy_from_slice(&sorted);
        }
        self.rows.reorder(from, &order);
    }
}

/// One row of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Place of its bucket in [`Table::slots`].
    pub slot: u32,
    /// Place of its group among the table's, which are in the order of their names.
    pub group: u32,
    /// Its sums.
    pub metrics: Metrics,
}

/// An answer's rows.
#[derive(Clone, Debug)]
pub struct Table {
    /// What the rows are grouped by, in the order in which they are sorted.
    pub group_by: Vec<Dimension>,
    pub(crate) names: Vec<Vec<Arc<str>>>,
    pub(crate) groups: Vec<Group>,
    /// The buckets.
    pub slots: Vec<Slot>,
    pub(crate) parts: Vec<Part>,
    /// By part the number of its first row.
    pub(crate) begins: Vec<usize>,
    pub(crate) rows: usize,
    /// The sums over all rows.
    pub totals: Metrics,
}

impl Table {
    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows == 0
    }

    /// The rows, sorted by time and then by the group's names.
    pub fn rows(&self) -> impl Iterator<Item = Row> {
        self.some_rows(0..self.len())
    }

    /// Those of a range of them.
    pub fn some_rows(&self, range: Range<usize>) -> impl Iterator<Item = Row> {
        let parts = self.parts.iter().zip(&self.begins);
        parts.flat_map(move |(part, begin)| {
            let within = |row: usize| row.saturating_sub(*begin).min(part.slots.len());
            (within(range.start)..within(range.end)).map(|row| Row {
                slot: part.slots[row],
                group: part.groups[row],
                metrics: Metrics::from_fields(part.rows.sums(row)),
            })
        })
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// A row's group, in the order of `group_by`.
    pub fn group<'a>(&'a self, row: &Row) -> impl Iterator<Item = (Dimension, &'a str)> + use<'a> {
        self.names_of(row.group)
    }

    /// The names of a group by its place, in the order of `group_by`.
    pub fn names_of(&self, group: u32) -> impl Iterator<Item = (Dimension, &str)> {
        self.group_by
            .iter()
            .zip(&self.names)
            .zip(self.groups[group as usize])
            .map(|((dimension, names), n)| (*dimension, &*names[n as usize]))
    }

    /// A row's bucket.
    pub fn slot(&self, row: &Row) -> &Slot {
        &self.slots[row.slot as usize]
    }
}
