//! What a fold reads and writes: the families of rows of a shard's state, as plain data.
//!
//! Invariant: the fold touches state only through [`Reads`], [`Values`] and [`Changes`], so that the same code
//! runs on RocksDB, in a test's map and in a replay, and nothing in this crate does IO.

use crate::cell_list::merge_lists;
use crate::ids::IdRecord;
use crate::metrics::merge_sums;
use crate::sketch::merge_sketches;

/// The families of rows, each a column family of the shard's RocksDB. The id index is apart, since it has one
/// family a log day: [`crate::ids::day_family`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Family {
    /// The position, see [`crate::position`].
    Meta,
    /// Applied counters, see [`crate::ledger`].
    Ledger,
    /// Names and their numbers, see [`crate::symbols`].
    Symbols,
    /// Which names were seen together, see [`crate::directory`].
    Directory,
    /// Cells by UTC minute, see [`crate::cells`].
    CellsMinute,
    /// Cells by civil hour.
    CellsHour,
    /// Cells by civil day.
    CellsDay,
    /// Money by campaign and civil day, see [`crate::spend`].
    Spend,
    /// Sums of invalid clicks, see [`crate::verdicts`].
    FraudSums,
    /// Every invalid click.
    FraudClicks,
    /// Recorded conversions, see [`crate::conversions`].
    Conversions,
    /// Producers and their watermarks, see [`crate::completeness`].
    Completeness,
    /// Events whose id was taken by other content, see [`crate::incidents`].
    Conflicts,
    /// Messages that could not be applied, see [`crate::incidents`].
    BadFrames,
    /// Sums over everything, see [`crate::totals`].
    Totals,
    /// Sketches of visitors by campaign and civil day, see [`crate::uniques`].
    Uniques,
    /// Sections of spans that have rows of cells which are not sealed, see [`crate::sections`].
    OpenSpans,
    /// Sealed cells by UTC minute, see [`crate::block`].
    BlocksMinute,
    /// Sealed cells by civil hour.
    BlocksHour,
    /// Sealed cells by civil day.
    BlocksDay,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 20] = [
        Family::Meta,
        Family::Ledger,
        Family::Symbols,
        Family::Directory,
        Family::CellsMinute,
        Family::CellsHour,
        Family::CellsDay,
        Family::Spend,
        Family::FraudSums,
        Family::FraudClicks,
        Family::Conversions,
        Family::Completeness,
        Family::Conflicts,
        Family::BadFrames,
        Family::Totals,
        Family::Uniques,
        Family::OpenSpans,
        Family::BlocksMinute,
        Family::BlocksHour,
        Family::BlocksDay,
    ];

    /// The column family's name.
    pub fn name(self) -> &'static str {
        match self {
            Family::Meta => "meta",
            Family::Ledger => "ledger",
            Family::Symbols => "symbols",
            Family::Directory => "directory",
            Family::CellsMinute => "cells_minute",
            Family::CellsHour => "cells_hour",
            Family::CellsDay => "cells_day",
            Family::Spend => "spend",
            Family::FraudSums => "fraud_sums",
            Family::FraudClicks => "fraud_clicks",
            Family::Conversions => "conversions",
            Family::Completeness => "completeness",
            Family::Conflicts => "conflicts",
            Family::BadFrames => "bad_frames",
            Family::Totals => "totals",
            Family::Uniques => "uniques",
            Family::OpenSpans => "open_spans",
            Family::BlocksMinute => "blocks_minute",
            Family::BlocksHour => "blocks_hour",
            Family::BlocksDay => "blocks_day",
        }
    }

    /// How the family's values are merged; none where they are put.
    pub fn merge(self) -> Option<Merge> {
        match self {
            Family::CellsMinute | Family::CellsHour | Family::CellsDay => Some(Merge::Cells),
            Family::Spend | Family::FraudSums | Family::Conversions | Family::Totals => {
                Some(Merge::Sums)
            }
            Family::Uniques => Some(Merge::Sketches),
            _ => None,
        }
    }
}

/// How values are merged, without being read first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Sums, by [`merge_sums`].
    Sums,
    /// Lists of cells, by [`merge_lists`].
    Cells,
    /// Sketches, by [`merge_sketches`].
    Sketches,
}

impl Merge {
    /// The merged value; none when one of several is damaged. One alone is what it is: RocksDB has each such row merged
    /// whenever it is read, and whoever reads it finds whether it is damaged.
    pub fn apply<'a>(
        self,
        existing: Option<&'a [u8]>,
        operands: impl Iterator<Item = &'a [u8]>,
    ) -> Option<Vec<u8>> {
        let mut all = existing.into_iter().chain(operands);
        let first = all.next().unwrap_or_default();
        let Some(second) = all.next() else {
            return Some(first.to_vec());
        };
        let operands = std::iter::once(second).chain(all);
        let existing = Some(first);
        match self {
            Merge::Sums => merge_sums(existing, operands),
            Merge::Cells => merge_lists(existing, operands),
            Merge::Sketches => merge_sketches(existing, operands),
        }
    }
}

/// A list of byte strings in one allocation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Keys {
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl Keys {
    /// Appends a key that `write` writes, and says its place.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len() as u32);
        self.ends.len() - 1
    }

    /// Appends a key.
    pub fn push(&mut self, key: &[u8]) -> usize {
        self.push_with(|out| out.extend_from_slice(key))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The key at a place below [`Keys::len`].
    pub fn get(&self, at: usize) -> &[u8] {
        let start = if at == 0 {
            0
        } else {
            self.ends[at - 1] as usize
        };
        &self.bytes[start..self.ends[at] as usize]
    }

    /// All of them, in the order of their places.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + Clone {
        (0..self.len()).map(|at| self.get(at))
    }

    /// Forgets all, keeping the memory.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
    }
}

/// Rows that a fold wants to read next, at most once each.
#[derive(Clone, Debug, Default)]
pub struct Reads {
    /// Rows of the families.
    pub rows: Vec<(Family, Keys)>,
    /// Keys of the id index, wanted from every day that exists, the latest day that has the key winning.
    pub ids: Keys,
    /// Places in `ids` of its distinct keys, in the order of keys; made by [`Reads::order_ids`].
    pub ids_order: Vec<u32>,
}

impl Reads {
    /// Asks for a row; places count from 0 in each family, in the order of asking.
    pub fn want(&mut self, family: Family, write: impl FnOnce(&mut Vec<u8>)) -> usize {
        let at = match self.rows.iter().position(|(f, _)| *f == family) {
            Some(at) => at,
            None => {
                self.rows.push((family, Keys::default()));
                self.rows.len() - 1
            }
        };
        self.rows[at].1.push_with(write)
    }

    /// Puts the distinct keys of the id index into order, once for everybody who needs it; answers for every place
    /// in `ids` which of the distinct keys it holds.
    pub fn order_ids(&mut self) -> Vec<u32> {
        let ids = &self.ids;
        // Of the first sixteen bytes, the sixty-four from the first bit in which any two keys differ: they
        // decide nearly always, and compare without a look at the keys.
        let prefix = |key: &[u8]| {
            let mut bytes = [0; 16];
            let n = key.len().min(16);
            bytes[..n].copy_from_slice(&key[..n]);
            u128::from_be_bytes(bytes)
        };
        let first = ids.iter().next().map_or(0, prefix);
        let differing = ids.iter().fold(0, |bits, key| bits | (prefix(key) ^ first));
        let alike = differing.leading_zeros().min(u64::BITS);
        let head = |key: &[u8]| ((prefix(key) << alike) >> u64::BITS) as u64;
        let mut all: Vec<(u64, u32)> = ids.iter().map(head).zip(0..).collect();
        all.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0)
                .then_with(|| ids.get(a.1 as usize).cmp(ids.get(b.1 as usize)))
        });
        let mut distinct = vec![0; ids.len()];
        self.ids_order.clear();
        for (_, place) in all {
            let key = ids.get(place as usize);
            if self
                .ids_order
                .last()
                .is_none_or(|last| ids.get(*last as usize) != key)
            {
                self.ids_order.push(place);
            }
            distinct[place as usize] = self.ids_order.len() as u32 - 1;
        }
        distinct
    }

    /// The distinct keys of the id index, in order.
    pub fn ordered_ids(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.ids_order
            .iter()
            .map(|place| self.ids.get(*place as usize))
    }

    /// Whether nothing is wanted.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty() && self.ids.is_empty()
    }
}

/// What was read: parallel to a [`Reads`].
#[derive(Clone, Debug, Default)]
pub struct Values {
    /// Values of the rows, family by family.
    pub rows: Vec<(Family, Vec<Option<Vec<u8>>>)>,
    /// Records of the id index, parallel to [`Reads::ids_order`].
    pub ids: Vec<Option<IdRecord>>,
}

impl Values {
    /// The values of one family, in the order of asking; none when nothing of it was asked for.
    pub fn of(&self, family: Family) -> &[Option<Vec<u8>>] {
        self.rows
            .iter()
            .find(|(f, _)| *f == family)
            .map(|(_, v)| v.as_slice())
            .unwrap_or_default()
    }
}

/// What to do with a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Store the value.
    Put,
    /// Add the sums, cells or sketches to what is there, see [`Family::merge`].
    Merge,
    /// Remove the row.
    Delete,
}

/// Where a change goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// One of the families.
    Family(Family),
    /// The id index of a log day, as a day number of the Unix epoch.
    Ids(i32),
}

/// What a batch changes, in the order in which it is to be written, all of it or nothing.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    bytes: Vec<u8>,
    list: Vec<(Target, Op, u32, u32)>,
}

/// One change of a [`Changes`].
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Where.
    pub target: Target,
    /// What.
    pub op: Op,
    /// The row's key.
    pub key: &'a [u8],
    /// The value; empty for [`Op::Delete`].
    pub value: &'a [u8],
}

impl Changes {
    /// Appends a change whose key and value the two functions write.
    pub fn push_with(
        &mut self,
        target: Target,
        op: Op,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        key(&mut self.bytes);
        let middle = self.bytes.len() as u32;
        value(&mut self.bytes);
        self.list
            .push((target, op, middle, self.bytes.len() as u32));
    }

    /// Stores a row.
    pub fn put(
        &mut self,
        family: Family,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>),
    ) {
        self.push_with(Target::Family(family), Op::Put, key, value);
    }

    /// Adds sums to a row.
    pub fn add(&mut self, family: Family, key: impl FnOnce(&mut Vec<u8>), sums: &[i64]) {
        self.push_with(Target::Family(family), Op::Merge, key, |out| {
            crate::metrics::encode_sums(sums, out)
        });
    }

    /// Removes a row.
    pub fn delete(&mut self, family: Family, key: impl FnOnce(&mut Vec<u8>)) {
        self.push_with(Target::Family(family), Op::Delete, key, |_| ());
    }

    /// Takes back all but the first so many.
    pub fn truncate(&mut self, len: usize) {
        self.list.truncate(len);
        let end = self.list.last().map_or(0, |(_, _, _, end)| *end as usize);
        self.bytes.truncate(end);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Bytes of their keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Change<'_>> {
        let mut start = 0;
        self.list.iter().map(move |(target, op, middle, end)| {
            let key = &self.bytes[start..*middle as usize];
            let value = &self.bytes[*middle as usize..*end as usize];
            start = *end as usize;
            Change {
                target: *target,
                op: *op,
                key,
                value,
            }
        })
    }

    /// The log days whose id families are written to, each once.
    pub fn id_days(&self) -> Vec<i32> {
        let mut days: Vec<i32> = Vec::new();
        for (target, ..) in &self.list {
            if let Target::Ids(day) = target
                && !days.contains(day)
            {
                days.push(*day);
            }
        }
        days
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_alone_is_what_it_is_and_of_several_none_may_be_damaged() {
        // Two impressions; and a mask without its number.
        let (whole, damaged) = ([1, 4].as_slice(), [1].as_slice());
        let of = |existing, operands: &[&'static [u8]]| {
            Merge::Sums.apply(existing, operands.iter().copied())
        };
        assert_eq!(of(None, &[whole]), Some(whole.to_vec()));
        assert_eq!(of(Some(damaged), &[]), Some(damaged.to_vec()));
        assert_eq!(of(None, &[whole, whole]), Some(vec![1, 8]));
        assert_eq!(of(Some(whole), &[whole, whole]), Some(vec![1, 12]));
        assert_eq!(of(Some(damaged), &[whole]), None);
        assert_eq!(of(None, &[whole, damaged]), None);
        for merge in [Merge::Cells, Merge::Sketches] {
            let alone = merge.apply(None, std::iter::once(damaged));
            assert_eq!(alone, Some(damaged.to_vec()));
            assert_eq!(merge.apply(Some(damaged), std::iter::once(damaged)), None);
        }
    }
}
