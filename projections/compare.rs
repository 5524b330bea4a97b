//! Whether two states dump equally, and where they do not, in memory that does not grow with them.
//!
//! Invariant: every line of both dumps is taken in. Lines are sorted into a fixed number of slots by a hash of what
//! they are about, and each slot holds the sum of its lines' hashes: a sum, because the two states need not give
//! their lines in the same order. What is hashed are a line's bytes, which are equal exactly when its text is. Where no
//! slot differs, the dumps are equal, but for a collision of 128 bits of XXH3, a hash against faults and not against
//! somebody who looks for a collision: whoever can write a state at will can also write the one that is true. Of the
//! slots that differ, a second visit takes the lines themselves.

use twox_hash::XxHash3_128;

use crate::differences::{Difference, Kept, differences};
use crate::dump::{DumpError, Line, Source, visit};

/// Slots of a fingerprint: 4 MiB of memory, and few equal lines beside one that differs.
const SLOTS: usize = 1 << 18;
/// Lines that wait to be added to their slots. The slots are more than a processor's caches hold, and it fetches those
/// of many lines at once where nothing else stands between them.
const WAITING: usize = 256;
/// Lines that a second visit holds at most, of each state.
pub const MAX_LINES_HELD: usize = 20_000;

/// What a dump comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    slots: Vec<u128>,
    /// How many lines it has.
    pub lines: u64,
}

impl Fingerprint {
    /// Of a state.
    ///
    /// # Errors
    /// [`DumpError`] when it cannot be read.
    pub fn of<S: Source>(source: &S) -> Result<Self, DumpError<S::Error>> {
        let mut print = Self {
            slots: vec![0; SLOTS],
            lines: 0,
        };
        let (mut bytes, mut waiting) = (Vec::new(), Vec::with_capacity(WAITING));
        visit(source, &mut |line| {
            let slot = slot_of(&line, &mut bytes);
            waiting.push((slot, XxHash3_128::oneshot(&bytes)));
            if waiting.len() == WAITING {
                print.add(&mut waiting);
            }
        })?;
        print.add(&mut waiting);
        Ok(print)
    }

    fn add(&mut self, lines: &mut Vec<(usize, u128)>) {
        self.lines += lines.len() as u64;
        for (slot, hash) in lines.drain(..) {
            let sum = &mut self.slots[slot];
            *sum = sum.wrapping_add(hash);
        }
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

/// The slot of a line, by what it is about; `bytes` then holds the line's.
fn slot_of(line: &Line<'_>, bytes: &mut Vec<u8>) -> usize {
    bytes.clear();
    let about = line.put_bytes(bytes);
    XxHash3_128::oneshot(&bytes[..about]) as usize % SLOTS
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
        let (mut held, mut bytes) = (Held::default(), Vec::new());
        visit(source, &mut |line| {
            let slot = slot_of(&line, &mut bytes);
            if self.looked_at.binary_search(&slot).is_err() {
                return;
            }
            match held.lines.len() < MAX_LINES_HELD {
                true => held.lines.push(Kept::of(&line)),
                false => held.more = true,
            }
        })?;
        held.lines.sort_unstable();
        Ok(held)
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
