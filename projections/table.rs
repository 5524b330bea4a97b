//! The table of an answer's rows, as those read it who print or send it.
//!
//! Rows stand in parts, each made by itself, in the order of time and then of the groups' names: [`crate::merged`]
//! makes them so.

use std::ops::Range;
use std::sync::Arc;

use crate::buckets::Slot;
use crate::metrics::Metrics;
use crate::partial::Dimension;
use crate::sums::{Group, Run, Runs};

/// A part of a table's rows: runs of one bucket each, by the places of their buckets and groups.
#[derive(Clone, Debug, Default)]
pub struct Part {
    pub(crate) runs: Runs,
}

impl Part {
    /// Sorts the rows of the last runs, of several buckets of one time, by group, and then by bucket.
    pub(crate) fn interleave(&mut self, first_run: usize) {
        let Some(first) = self.runs.runs.get(first_run) else {
            return;
        };
        let from = first.from;
        self.runs.origins.forget_from(from);
        let mut rows: Vec<(u32, u32, u32)> = Vec::new();
        for run in self.runs.runs.drain(first_run..).collect::<Vec<_>>() {
            let groups = self.runs.groups_of(&run).iter().zip(run.from..);
            rows.extend(groups.map(|(group, row)| (*group, run.bucket, row)));
        }
        rows.sort_unstable();
        let order: Vec<usize> = rows
            .iter()
            .map(|(_, _, row)| (row - from) as usize)
            .collect();
        self.runs.rows.reorder(from as usize, &order);
        for ((group, slot, _), row) in rows.into_iter().zip(from..) {
            self.runs.groups.push(group);
            self.runs.runs.push(Run {
                bucket: slot,
                groups: self.runs.groups.len() as u32 - 1,
                from: row,
                to: row + 1,
            });
        }
    }

    /// How many rows there are.
    pub(crate) fn len(&self) -> usize {
        self.runs.rows.len()
    }

    /// The runs that have rows of a range.
    pub(crate) fn some_runs(&self, rows: Range<usize>) -> &[Run] {
        let runs = &self.runs.runs;
        let first = runs.partition_point(|run| run.to as usize <= rows.start);
        let behind = runs.partition_point(|run| (run.from as usize) < rows.end);
        &runs[first..behind.max(first)]
    }

    fn some_rows(&self, rows: Range<usize>) -> impl Iterator<Item = Row> {
        let (from, to) = (rows.start as u32, rows.end as u32);
        self.some_runs(rows).iter().flat_map(move |run| {
            let within = run.from.max(from)..run.to.min(to);
            let groups = &self.runs.groups_of(run)[(within.start - run.from) as usize..];
            within.zip(groups).map(move |(row, group)| Row {
                slot: run.bucket,
                group: *group,
                metrics: Metrics::from_fields(self.runs.rows.sums(row as usize)),
            })
        })
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
            let within = |row: usize| row.saturating_sub(*begin).min(part.len());
            part.some_rows(within(range.start)..within(range.end))
        })
    }

    /// The part that has the row of that number, and the number of its first row; none behind the last one.
    pub(crate) fn part_of(&self, row: usize) -> Option<(&Part, usize)> {
        let behind = self.begins.partition_point(|begin| *begin <= row);
        let at = behind.checked_sub(1).filter(|_| row < self.rows)?;
        Some((&self.parts[at], self.begins[at]))
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
