//! Stretches of an answer's rows, and what the text of each is known by.
//!
//! Invariant: a stretch's key is a 128-bit hash of all that [`crate::printed::Printer`] makes the text of its rows of, and
//! its beginning and end follow from its own rows. So stretches of one key are printed alike, whichever answers they are of,
//! and a count that changes makes another key: a text that is kept under one is never taken back. Of rows that are cells
//! of a known block as they are ([`crate::origins`]), the block and the first cell stand for all counts. Stretches are cut by the
//! clock and not by an answer's first row, so that nearly all of those of a range that has moved on were in the one before.

use std::ops::Range;

use chrono_tz::Tz;
use twox_hash::xxhash3_128::Hasher;
use zerocopy::IntoBytes;

use crate::buckets::{DAY_MS, Granularity, HOUR_MS, MINUTE_MS};
use crate::metrics::Fields;
use crate::printed::{Format, row_bytes};
use crate::ratios::Chosen;
use crate::sums::Run;
use crate::table::{Part, Table};

/// Bytes of text that a stretch has at least where buckets have about as many rows each, and at most twice as many: large
/// enough that to find it costs little, and so small that little is printed anew for one count that has changed.
pub const STRETCH_BYTES: usize = 64 << 10;
/// Bytes of text up to which an answer is printed as quickly as its stretches are found.
const SMALL_BYTES: usize = 4 * STRETCH_BYTES;
/// Rows of a stretch below which its text is not worth keeping.
const FEW_ROWS: usize = 64;

/// Rows that follow each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// Their numbers.
    pub rows: Range<usize>,
    /// What their text is known by, a comma before the first one of JSON included; none where it is not worth keeping.
    pub key: Option<u128>,
}

/// What is known of a run's rows without their own groups and counts.
enum Known {
    Nothing,
    /// The groups are those of the run before.
    GroupsBefore,
    /// They are cells of a known block.
    Block,
}

/// Cuts an answer into stretches.
#[derive(Clone, Copy, Debug)]
pub struct Stretches {
    /// Hash of what the text of all rows depends on.
    common: u128,
    /// The counters that are printed.
    fields: Fields,
    /// The length of time that a stretch is about.
    width_ms: i64,
    /// Rows of a stretch at most.
    most: usize,
}

impl Stretches {
    /// Those of an answer as it is printed; none where it is small.
    pub fn of(
        table: &Table,
        granularity: Granularity,
        (format, zone, metrics): (Format, Tz, Chosen),
    ) -> Option<Self> {
        let row_bytes = row_bytes(format, metrics, table.group_by.len());
        if table.len().saturating_mul(row_bytes) < SMALL_BYTES {
            return None;
        }
        let of_slot = table.len().div_ceil(table.slots.len().max(1)) * row_bytes;
        // A power of two, so that one more group seldom moves the ends of all.
        let slots = STRETCH_BYTES.div_ceil(of_slot.max(1)).next_power_of_two();
        let slot_ms = match granularity {
            Granularity::Minute => MINUTE_MS,
            Granularity::Hour => HOUR_MS,
            Granularity::Day => DAY_MS,
            Granularity::Total => i64::MAX,
        };
        Some(Self {
            common: common(table, format, zone, metrics),
            fields: metrics.fields(),
            width_ms: slot_ms.saturating_mul(slots as i64),
            most: (2 * STRETCH_BYTES / row_bytes).max(FEW_ROWS),
        })
    }

    /// The stretch that begins with the row of that number; none behind the last one.
    pub fn at(&self, table: &Table, row: usize) -> Option<Stretch> {
        let (part, begin) = table.part_of(row)?;
        let from = row - begin;
        let number = |run: &Run| {
            table.slots[run.bucket as usize]
                .time_ms
                .div_euclid(self.width_ms)
        };
        let runs = part.some_runs(from..part.len());
        let own = number(runs.first()?);
        let of_own = runs.iter().take_while(|run| number(run) == own);
        let to = of_own.last()?.to as usize;
        let rows = from..to.min(from + self.most);
        Some(Stretch {
            rows: begin + rows.start..begin + rows.end,
            key: (rows.len() >= FEW_ROWS).then(|| self.key(table, part, rows)),
        })
    }

    fn key(&self, table: &Table, part: &Part, rows: Range<usize>) -> u128 {
        let mut hasher = Hasher::new();
        hasher.write(self.common.as_bytes());
        let mut before: &[u32] = &[];
        // Rows that follow each other whose counts nothing else stands for.
        let mut counted: Vec<Range<usize>> = Vec::new();
        for run in part.some_runs(rows.clone()) {
            let slot = &table.slots[run.bucket as usize];
            let of_run = rows.start.max(run.from as usize)..rows.end.min(run.to as usize);
            let own = of_run.start as u32..of_run.end as u32;
            let origin = part.runs.origins.of(own);
            let first = run.groups as usize + (of_run.start - run.from as usize);
            let groups = &part.runs.groups[first..first + of_run.len()];
            let known = match origin {
                // The groups follow from the block and from the names, as the counts do.
                Some(_) => Known::Block,
                None if groups == before => Known::GroupsBefore,
                None => Known::Nothing,
            };
            let head = [
                slot.time_ms,
                slot.offset_s.into(),
                of_run.len() as i64,
                known as i64,
            ];
            hasher.write(head.as_bytes());
            if let Some(origin) = origin {
                hasher.write(origin.block.as_bytes());
                hasher.write(origin.cell.as_bytes());
                continue;
            }
            if groups != before {
                hasher.write(groups.as_bytes());
            }
            before = groups;
            match counted.last_mut() {
                Some(last) if last.end == of_run.start => last.end = of_run.end,
                _ => counted.push(of_run),
            }
        }
        for rows in counted {
            self.write_counts(part, &rows, &mut hasher);
        }
        hasher.finish_128()
    }

    fn write_counts(&self, part: &Part, rows: &Range<usize>, hasher: &mut Hasher) {
        for field in self.fields.places() {
            let column = part.runs.rows.column(field);
            // What a column ends before is zero, and whether it ends there depends on other rows.
            let sums = &column[rows.start.min(column.len())..rows.end.min(column.len())];
            let used = sums
                .iter()
                .rposition(|n| *n != 0)
                .map_or(0, |last| last + 1);
            let sums = &sums[..used];
            hasher.write(sums.len().as_bytes());
            hasher.write(sums.as_bytes());
        }
    }
}

/// Hash of what the text of all rows of an answer depends on: the form, and the names of the groups by their numbers.
fn common(table: &Table, format: Format, zone: Tz, metrics: Chosen) -> u128 {
    let mut hasher = Hasher::new();
    let mut text = |text: &str| {
        hasher.write(text.len().as_bytes());
        hasher.write(text.as_bytes());
    };
    text(format.name());
    text(zone.name());
    // The number of each before what they are: nothing that follows can be taken for one of them.
    text(&metrics.metrics().count().to_string());
    metrics.metrics().for_each(|metric| text(metric.name()));
    text(&table.group_by.len().to_string());
    let dimensions = table.group_by.iter();
    dimensions.for_each(|dimension| text(dimension.name()));
    for group in 0..table.groups() as u32 {
        table.names_of(group).for_each(|(_, name)| text(name));
    }
    hasher.finish_128()
}

#[cfg(test)]
#[path = "stretches_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "stretches_of_blocks_tests.rs"]
mod of_blocks_tests;
