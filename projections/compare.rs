//! Whether two states dump equally, and where they do not, in memory that does not grow with them.
//!
//! Invariant: every line of both dumps is taken in. Lines are sorted into a fixed number of slots by a hash of what
//! they are about, and each slot holds the sum of its lines' hashes: a sum, because the two states need not give
//! their lines in the same order. Where no slot differs, the dumps are equal, but for a collision of 128 bits of
//! SHA-256. Of the slots that differ, a second visit takes the lines themselves.

use std::collections::BTreeMap;
use std::hash::Hasher;

use rustc_hash::FxHasher;
use sha2::{Digest, Sha256};

use crate::dump::{DumpError, Line, Source, visit};

/// Slots of a fingerprint: 4 MiB of memory, and few equal lines beside one that differs.
const SLOTS: usize = 1 << 18;
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
        visit(source, &mut |line| print.add(line.text))?;
        Ok(print)
    }

    fn add(&mut self, text: &str) {
        let hash = Sha256::digest(text.as_bytes());
        let mut first = [0; 16];
        first.copy_from_slice(&hash[..16]);
        let slot = &mut self.slots[slot_of(text)];
        *slot = slot.wrapping_add(u128::from_be_bytes(first));
        self.lines += 1;
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

fn slot_of(text: &str) -> usize {
    let (key, _) = parts(text);
    let mut hasher = FxHasher::default();
    hasher.write(key.as_bytes());
    (hasher.finish() >> 32) as usize % SLOTS
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
        let mut held = Held::default();
        visit(source, &mut |line| {
            if self.looked_at.binary_search(&slot_of(line.text)).is_err() {
                return;
            }
            match held.lines.len() < MAX_LINES_HELD {
                true => held.lines.push(Kept::of(line)),
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

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Kept {
    section: &'static str,
    campaign: Option<String>,
    day: Option<i32>,
    text: String,
}

impl Kept {
    fn of(line: Line<'_>) -> Self {
        Self {
            section: line.section,
            campaign: line.campaign.map(str::to_owned),
            day: line.day,
            text: line.text.to_owned(),
        }
    }
}

/// What differs between two states.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The family.
    pub section: &'static str,
    /// The campaign, where the line is about one.
    pub campaign: Option<String>,
    /// The day, counted from 1970-01-01, where the line is about one.
    pub day: Option<i32>,
    /// What the line is about.
    pub key: String,
    /// What one state says; none: it has no such line.
    pub one: Option<String>,
    /// What the other state says.
    pub other: Option<String>,
}

/// The differences between two states.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// They.
    pub list: Vec<Difference>,
    /// Whether there may be more of them.
    pub more: bool,
}

/// What differs between the lines of two states in the same slots.
pub fn differences(slots: &Slots, one: &Held, other: &Held) -> Differences {
    let mut list = Vec::new();
    let surplus = |of: &Held, than: &Held| -> Vec<Kept> {
        let is_missing = |line: &&Kept| than.lines.binary_search(line).is_err();
        of.lines.iter().filter(is_missing).cloned().collect()
    };
    let mut others: BTreeMap<(&str, String), Vec<Kept>> = BTreeMap::new();
    for line in surplus(other, one) {
        let key = (line.section, parts(&line.text).0.to_owned());
        others.entry(key).or_default().push(line);
    }
    for line in surplus(one, other) {
        let (key, value) = parts(&line.text);
        let pair = others.get_mut(&(line.section, key.to_owned()));
        let pair = pair.and_then(Vec::pop);
        list.push(Difference {
            key: key.to_owned(),
            one: Some(value.to_owned()),
            other: pair.map(|o| parts(&o.text).1.to_owned()),
            section: line.section,
            campaign: line.campaign,
            day: line.day,
        });
    }
    list.extend(others.into_values().flatten().map(|line| {
        let (key, value) = parts(&line.text);
        Difference {
            key: key.to_owned(),
            one: None,
            other: Some(value.to_owned()),
            section: line.section,
            campaign: line.campaign,
            day: line.day,
        }
    }));
    list.sort_by(|a, b| {
        (a.section, &a.campaign, a.day, &a.key).cmp(&(b.section, &b.campaign, b.day, &b.key))
    });
    Differences {
        more: one.more || other.more || slots.differing > slots.looked_at.len() as u64,
        list,
    }
}

/// A line's key and value. The value is a printed structure, an id's record, or a list; a line without any is all
/// key. Two lines of one key are parted alike, whatever stands in the key.
fn parts(text: &str) -> (&str, &str) {
    let at = structure(text)
        .or_else(|| text.find(" log_time="))
        .or_else(|| text.find(" ["));
    match at {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    }
}

/// Where ` Name {` begins.
fn structure(text: &str) -> Option<usize> {
    text.match_indices(" {").find_map(|(brace, _)| {
        let at = text[..brace].rfind(' ')?;
        let name = &text[at + 1..brace];
        let is_name = name.starts_with(|c: char| c.is_ascii_uppercase())
            && name.bytes().all(|b| b.is_ascii_alphanumeric());
        is_name.then_some(at)
    })
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
        differences(
            &slots,
            &slots.lines(one).unwrap(),
            &slots.lines(other).unwrap(),
        )
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

    #[test]
    fn a_line_is_parted_before_its_value() {
        for (line, key) in [
            (
                "cell c day=1 ad=a creative=\"v {\" Metrics { a: 1 }",
                "cell c day=1 ad=a creative=\"v {\"",
            ),
            ("ledger 00ab click [(0, 7)]", "ledger 00ab click"),
            (
                "conflict [0, 1] click ad x Conflict { a: [] }",
                "conflict [0, 1] click ad x",
            ),
            (
                "id click ad x log_time=7 sequence=1 hash=0",
                "id click ad x",
            ),
            ("directory ad a under c", "directory ad a under c"),
        ] {
            assert_eq!(parts(line).0, key);
        }
    }
}
