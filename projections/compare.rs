//! Whether two states dump equally, and where they do not, in memory that does not grow with them.
//!
//! Invariant: every line of both dumps is taken in. Lines are sorted into a fixed number of slots by a hash of what
//! they are about, and each slot holds the sum of what its lines add, see [`crate::line_hash`]: a sum, because the two
//! states need not give their lines in the same order, and one of them may give its cells in parts. Where no slot
//! differs, the dumps are equal, but for a collision of 128 bits, of a hash against faults and not against somebody who
//! looks for a collision: whoever can write a state at will can also write the one that is true. Of the slots that
//! differ, a second visit takes the lines themselves, and they decide.

use rustc_hash::FxHashMap;

use crate::cells::{CellKey, RowKey};
use crate::codec::Damaged;
use crate::counted::Cell;
use crate::differences::{Difference, Kept, differences};
use crate::dump::{DumpError, Line, Source, visit, visit_cells_of, visit_rows};
use crate::dump_cells::{Sums, TakesCells, each_of_row};
use crate::dump_line::Content;
use crate::dump_names::Names;
use crate::line_hash::{Hashed, LineHasher};

/// Slots of a fingerprint: 4 MiB of memory, and few equal lines beside one that differs.
const SLOTS: usize = 1 << 18;
/// Lines that wait to be added to their slots. The slots are more than a processor's caches hold, and it fetches those
/// of many lines at once where nothing else stands between them.
const WAITING: usize = 256;
/// Lines that a second visit holds at most, of each state.
pub const MAX_LINES_HELD: usize = 20_000;

fn slot_of(place: u64) -> usize {
    place as usize % SLOTS
}

/// What a dump comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    slots: Vec<u128>,
    /// How many lines it has, those of a cell that was given in parts once for each part.
    pub lines: u64,
}

impl Fingerprint {
    /// Of a state.
    ///
    /// # Errors
    /// [`DumpError`] when it cannot be read.
    pub fn of<S: Source>(source: &S) -> Result<Self, DumpError<S::Error>> {
        let names = Names::read(source).map_err(DumpError::Read)?;
        let mut printer = Printer::default();
        visit_rows(source, &names, &mut |line| printer.line(&line))?;
        let mut cells = Cells {
            names: &names,
            printer: &mut printer,
            holder: None,
        };
        visit_cells_of(source, &mut cells)?;
        Ok(printer.finish())
    }

    /// All of it in 32 hexadecimal digits: equal for equal states, whichever process has them.
    pub fn hash(&self) -> String {
        let all = self.slots.iter().fold(0u128, |a, b| a.wrapping_add(*b));
        format!("{all:032x}")
    }

    /// Which slots differ.
    pub fn differing(&self, other: &Self) -> Slots {
        let pairs = self.slots.iter().zip(&other.slots).enumerate();
        let differing: Vec<usize> = pairs.filter(|(_, (a, b))| a != b).map(|(i, _)| i).collect();
        // So many that their lines can be held.
        let lines_a_slot = (self.lines.max(other.lines) as usize)
            .div_ceil(SLOTS)
            .max(1);
        let mut looked_at = differing.clone();
        looked_at.truncate((MAX_LINES_HELD / 2 / lines_a_slot).max(1));
        Slots {
            differing: differing.len() as u64,
            looked_at,
        }
    }
}

/// Makes a fingerprint, line by line, of one state.
#[derive(Debug)]
pub(crate) struct Printer {
    print: Fingerprint,
    hasher: LineHasher,
    waiting: Vec<(usize, u128)>,
}

impl Default for Printer {
    fn default() -> Self {
        Self {
            print: Fingerprint {
                slots: vec![0; SLOTS],
                lines: 0,
            },
            hasher: LineHasher::default(),
            waiting: Vec::with_capacity(WAITING),
        }
    }
}

impl Printer {
    pub(crate) fn line(&mut self, line: &Line<'_>) {
        let hashed = self.hasher.of(line);
        self.take(hashed);
    }

    /// The cells of a row.
    pub(crate) fn row(
        &mut self,
        names: &Names,
        row: &RowKey,
        list: &[u8],
        is_read: bool,
    ) -> Result<(), Damaged> {
        LineHasher::of_row(names, row, list, is_read, |hashed| self.take(hashed))
    }

    fn counted(&mut self, names: &Names, row: &RowKey, cells: &[Cell]) {
        LineHasher::of_counted(names, row, cells, |hashed| self.take(hashed));
    }

    fn take(&mut self, hashed: Hashed) {
        self.waiting.push((slot_of(hashed.place), hashed.adds));
        if self.waiting.len() == WAITING {
            self.add();
        }
    }

    fn add(&mut self) {
        self.print.lines += self.waiting.len() as u64;
        for (slot, adds) in self.waiting.drain(..) {
            let sum = &mut self.print.slots[slot];
            *sum = sum.wrapping_add(adds);
        }
    }

    pub(crate) fn finish(mut self) -> Fingerprint {
        self.add();
        self.print
    }
}

/// Takes cells into a fingerprint, and into lines where some are held.
pub(crate) struct Cells<'c> {
    pub(crate) names: &'c Names,
    pub(crate) printer: &'c mut Printer,
    pub(crate) holder: Option<&'c mut Holder>,
}

impl Cells<'_> {
    /// Takes cells of a row that a fold has counted.
    pub(crate) fn counted(&mut self, row: &RowKey, cells: &[Cell]) {
        match self.holder {
            None => self.printer.counted(self.names, row, cells),
            Some(_) => cells.iter().for_each(|cell| {
                self.cell(&row.cell(cell.place), &cell.sum.fields(), true);
            }),
        }
    }
}

impl TakesCells for Cells<'_> {
    fn cell(&mut self, cell: &CellKey, sums: &Sums, is_read: bool) {
        let content = Content::Cell {
            cell,
            sums,
            is_read,
        };
        let names = self.names;
        let line = Line { names, content };
        self.printer.line(&line);
        if let Some(holder) = &mut self.holder {
            holder.line(&line);
        }
    }

    fn row(&mut self, row: &RowKey, list: &[u8], is_read: bool) -> Result<(), Damaged> {
        match self.holder {
            None => self.printer.row(self.names, row, list, is_read),
            Some(_) => each_of_row(row, list, &mut |cell, sums| self.cell(cell, sums, is_read)),
        }
    }
}

/// Slots that differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slots {
    /// How many.
    differing: u64,
    /// Those whose lines are held, in order.
    looked_at: Vec<usize>,
}

impl Slots {
    /// Whether none does.
    pub fn is_empty(&self) -> bool {
        self.differing == 0
    }

    /// The lines of a state in these slots, sorted, and whether that is all of them.
    ///
    /// # Errors
    /// [`DumpError`] when it cannot be read.
    pub fn lines<S: Source>(&self, source: &S) -> Result<Held, DumpError<S::Error>> {
        let names = Names::read(source).map_err(DumpError::Read)?;
        let mut holder = Holder::new(self.clone());
        visit(source, &mut |line| holder.line(&line))?;
        Ok(holder.finish(&names))
    }
}

/// Holds the lines of some slots of one state.
#[derive(Debug)]
pub(crate) struct Holder {
    slots: Slots,
    hasher: LineHasher,
    /// Cells, and whether a question would read them, with the sum of their parts.
    cells: FxHashMap<(CellKey, bool), Sums>,
    held: Held,
}

impl Holder {
    pub(crate) fn new(slots: Slots) -> Self {
        Self {
            slots,
            hasher: LineHasher::default(),
            cells: FxHashMap::default(),
            held: Held::default(),
        }
    }

    pub(crate) fn line(&mut self, line: &Line<'_>) {
        let slot = slot_of(self.hasher.of(line).place);
        if self.slots.looked_at.binary_search(&slot).is_err() {
            return;
        }
        let is_full = self.held.lines.len() + self.cells.len() >= MAX_LINES_HELD;
        match line.content {
            Content::Cell {
                cell,
                sums,
                is_read,
            } => match self.cells.get_mut(&(*cell, is_read)) {
                Some(sum) => crate::sums::add(sum, sums),
                None if is_full => self.held.more = true,
                None => drop(self.cells.insert((*cell, is_read), *sums)),
            },
            _ if is_full => self.held.more = true,
            _ => self.held.lines.push(Kept::of(line)),
        }
    }

    pub(crate) fn finish(self, names: &Names) -> Held {
        let mut held = self.held;
        for ((cell, is_read), sums) in &self.cells {
            let content = Content::Cell {
                cell,
                sums,
                is_read: *is_read,
            };
            held.lines.push(Kept::of(&Line { names, content }));
        }
        held.lines.sort_unstable();
        held
    }
}

/// Lines of the slots that differ.
#[derive(Clone, Debug, Default)]
pub struct Held {
    lines: Vec<Kept>,
    /// There are more than can be held.
    more: bool,
}

/// The differences between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// They.
    pub list: Vec<Difference>,
    /// Whether there may be more of them.
    pub more: bool,
}

impl Differences {
    /// Between the lines of two states in the same slots.
    pub fn of(slots: &Slots, one: &Held, other: &Held) -> Self {
        Self {
            list: differences(&one.lines, &other.lines),
            more: one.more || other.more || slots.differing > slots.looked_at.len() as u64,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::family::{Changes, Family};
    use crate::memory::Memory;
    use crate::spend;
    use crate::symbols::{self, Space};

    /// A state of campaigns by symbol, name, and gross micros of days.
    fn state(campaigns: &[(u32, &str, &[i64])]) -> Memory {
        let mut changes = Changes::default();
        for (symbol, name, days) in campaigns {
            changes.put(
                Family::Symbols,
                |k| symbols::symbol_key(k, Space::Campaign, *symbol),
                |v| v.extend_from_slice(name.as_bytes()),
            );
            for (day, micros) in (0..).zip(*days) {
                changes.add(
                    Family::Spend,
                    |k| spend::day_key(k, *symbol, day),
                    &[*micros, 0],
                );
            }
        }
        let mut state = Memory::default();
        state.write(&changes);
        state
    }

    fn compare(one: &Memory, other: &Memory) -> Differences {
        let prints = [
            Fingerprint::of(one).unwrap(),
            Fingerprint::of(other).unwrap(),
        ];
        let slots = prints[0].differing(&prints[1]);
        assert_eq!(slots.is_empty(), prints[0].hash() == prints[1].hash());
        let lines = [slots.lines(one).unwrap(), slots.lines(other).unwrap()];
        Differences::of(&slots, &lines[0], &lines[1])
    }

    #[test]
    fn what_the_same_names_hold_is_equal_under_other_numbers_and_in_another_order() {
        let one = state(&[(20, "a", &[1, 2]), (21, "b", &[3])]);
        let other = state(&[(27, "b", &[3]), (23, "a", &[1, 2])]);
        assert_eq!(compare(&one, &other), Differences::default());
        assert_eq!(Fingerprint::of(&one).unwrap().lines, 3);
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let one = state(&[(20, "a", &[1, 2]), (21, "b", &[3]), (22, "only", &[7])]);
        let other = state(&[(20, "a", &[1, 9]), (21, "b", &[3, 4])]);
        let found = compare(&one, &other);
        assert!(!found.more);
        let told: Vec<_> = found
            .list
            .iter()
            .map(|d| (d.campaign.as_deref().unwrap(), d.day.unwrap(), d.section))
            .collect();
        assert_eq!(
            told,
            [("a", 1, "spend"), ("b", 1, "spend"), ("only", 0, "spend")]
        );
        let value = |gross| {
            Some(format!(
                "Spend {{ gross_micros: {gross}, not_charged_micros: 0 }}"
            ))
        };
        assert_eq!(
            (&found.list[0].one, &found.list[0].other),
            (&value(2), &value(9))
        );
        assert_eq!(
            (&found.list[1].one, &found.list[1].other),
            (&None, &value(4))
        );
        assert_eq!(
            (&found.list[2].one, &found.list[2].other),
            (&value(7), &None)
        );
        assert!(
            found.list[0].key.starts_with("spend a "),
            "{:?}",
            found.list[0]
        );
    }

    #[test]
    fn more_differences_than_can_be_held_are_said_to_be_more() {
        let days: Vec<i64> = (0..30_000).collect();
        let one = state(&[(20, "a", &days)]);
        let other = state(&[(20, "b", &days)]);
        let found = compare(&one, &other);
        assert!(
            found.more && found.list.len() > 1_000,
            "{}",
            found.list.len()
        );
        assert!(found.list.len() <= 2 * MAX_LINES_HELD);
    }
}
