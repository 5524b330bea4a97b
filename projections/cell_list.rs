//! The value of a row of cells: its cells by creative, region and device, each with its stored sum.
//!
//! Invariant: merging lists is summing their cells: associative and commutative up to saturation, in any grouping,
//! and fields that a newer writer added are kept. A cell stands once in a list, and cells ascend. A cell takes
//! seven or eight bytes: a varint of the distance from the place before, and its sum as
//! [`crate::metrics::encode_sums`] writes it.

use adtally_streams::event::Device;

use crate::codec::{Damaged, Reader, put_varint};
use crate::metrics::encode_merged;
use crate::symbols::{MAX_SYMBOLS, Symbol};

const DEVICE_BITS: u32 = 4;
const SYMBOL_BITS: u32 = 30;
const _: () = assert!(Device::ALL.len() <= 1 << DEVICE_BITS && MAX_SYMBOLS == 1 << SYMBOL_BITS);

/// Where a cell stands in its row: creative, region and device in one number that sorts as they do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place(u64);

impl Place {
    /// The place of those symbols, which are below [`MAX_SYMBOLS`], and of that device number, which is below 16.
    pub fn new(creative: Symbol, region: Symbol, device: u8) -> Self {
        debug_assert!(creative < MAX_SYMBOLS && region < MAX_SYMBOLS && device < 1 << DEVICE_BITS);
        Self(
            (u64::from(creative) << (SYMBOL_BITS + DEVICE_BITS))
                | (u64::from(region) << DEVICE_BITS)
                | u64::from(device),
        )
    }

    /// The creative variant.
    pub fn creative(self) -> Symbol {
        (self.0 >> (SYMBOL_BITS + DEVICE_BITS)) as u32
    }

    /// The region.
    pub fn region(self) -> Symbol {
        (self.0 >> DEVICE_BITS) as u32 & (MAX_SYMBOLS - 1)
    }

    /// Number of the device class.
    pub fn device(self) -> u8 {
        self.0 as u8 & ((1 << DEVICE_BITS) - 1)
    }
}

/// Writes a list, cell by cell.
#[derive(Debug, Default)]
pub struct ListWriter {
    last: Option<u64>,
}

impl ListWriter {
    /// Appends a cell, whose place is past that of the one before; `sums` writes its stored sum.
    pub fn push(&mut self, out: &mut Vec<u8>, place: Place, sums: impl FnOnce(&mut Vec<u8>)) {
        debug_assert!(self.last.is_none_or(|last| last < place.0));
        put_varint(out, place.0 - self.last.unwrap_or(0));
        self.last = Some(place.0);
        sums(out);
    }
}

/// The cells of a list with their stored sums. After an error there are no more.
#[derive(Clone, Debug)]
pub struct CellList<'a> {
    rest: Reader<'a>,
    last: Option<u64>,
}

impl<'a> CellList<'a> {
    /// Reads a row's value.
    pub fn of(value: &'a [u8]) -> Self {
        Self {
            rest: Reader::new(value, "cell list"),
            last: None,
        }
    }

    fn read(&mut self) -> Result<(Place, &'a [u8]), Damaged> {
        let step = self.rest.varint()?;
        let place = match self.last {
            Some(_) if step == 0 => return Err(self.rest.damaged()),
            Some(last) => last.checked_add(step).ok_or(self.rest.damaged())?,
            None => step,
        };
        self.last = Some(place);
        let before = self.rest.rest();
        let fields = self.rest.varint()?.count_ones();
        self.rest.skip_varints(fields)?;
        let sums = &before[..before.len() - self.rest.rest().len()];
        Ok((Place(place), sums))
    }
}

impl<'a> Iterator for CellList<'a> {
    type Item = Result<(Place, &'a [u8]), Damaged>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.rest().is_empty() {
            return None;
        }
        let read = self.read();
        if read.is_err() {
            self.rest = Reader::new(&[], "cell list");
        }
        Some(read)
    }
}

/// The merge of RocksDB's operands: one list of the cells of all of them; none when one is damaged, which RocksDB
/// then reports as corruption instead of counting something else.
pub fn merge_lists<'a>(
    existing: Option<&'a [u8]>,
    operands: impl Iterator<Item = &'a [u8]>,
) -> Option<Vec<u8>> {
    let mut lists = existing.into_iter().chain(operands);
    let merged = match (lists.next(), lists.next(), lists.next()) {
        (Some(one), Some(other), None) => merge_two(one, other),
        (first, second, third) => {
            let first = [first, second, third].into_iter().flatten();
            merge_many(first.chain(lists))
        }
    };
    merged.ok()
}

/// Two lists, which are the most that are merged wherever a row is read.
fn merge_two(one: &[u8], other: &[u8]) -> Result<Vec<u8>, Damaged> {
    let mut out = Vec::with_capacity(one.len() + other.len());
    let (mut writer, mut lists) = (ListWriter::default(), [one, other].map(CellList::of));
    let [mut a, mut b] = [lists[0].next().transpose()?, lists[1].next().transpose()?];
    while let Some((place, sums)) = [a, b].into_iter().flatten().min_by_key(|cell| cell.0) {
        let is_next = |cell: Option<(Place, _)>| cell.is_some_and(|cell| cell.0 == place);
        let (of_a, of_b) = (is_next(a), is_next(b));
        let mut merged = Ok(());
        writer.push(&mut out, place, |v| match (a, b) {
            (Some((_, a)), Some((_, b))) if of_a && of_b => {
                merged = encode_merged([a, b].into_iter(), v);
            }
            _ => v.extend_from_slice(sums),
        });
        merged?;
        if of_a {
            a = lists[0].next().transpose()?;
        }
        if of_b {
            b = lists[1].next().transpose()?;
        }
    }
    Ok(out)
}

fn merge_many<'a>(lists: impl Iterator<Item = &'a [u8]>) -> Result<Vec<u8>, Damaged> {
    let mut cells: Vec<(Place, &[u8])> = Vec::new();
    let mut bytes = 0;
    for list in lists {
        bytes += list.len();
        for cell in CellList::of(list) {
            cells.push(cell?);
        }
    }
    // The sort that finds ascending runs, of which each list is one.
    cells.sort_by_key(|(place, _)| *place);
    let mut out = Vec::with_capacity(bytes);
    let mut writer = ListWriter::default();
    for same in cells.chunk_by(|a, b| a.0 == b.0) {
        let (place, first) = same[0];
        let mut merged = Ok(());
        writer.push(&mut out, place, |v| match same {
            [_] => v.extend_from_slice(first),
            _ => merged = encode_merged(same.iter().map(|(_, sums)| *sums), v),
        });
        merged?;
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::metrics::{METRICS, add_sums, encode_sums};

    type Cells = BTreeMap<(u32, u32, u8), [i64; METRICS]>;

    fn cells() -> impl Strategy<Value = Cells> {
        let symbol = prop_oneof![0u32..4, Just(MAX_SYMBOLS - 1)];
        proptest::collection::btree_map(
            (symbol.clone(), symbol, 0u8..7),
            proptest::array::uniform10(prop_oneof![Just(0i64), -1_000_000i64..1_000_000_000_000]),
            0..12,
        )
    }

    fn encoded(cells: &Cells) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = ListWriter::default();
        for ((creative, region, device), sums) in cells {
            writer.push(&mut out, Place::new(*creative, *region, *device), |v| {
                encode_sums(sums, v)
            });
        }
        out
    }

    fn decoded(list: &[u8]) -> Cells {
        let cell = |cell: Result<(Place, &[u8]), Damaged>| {
            let (place, bytes) = cell.unwrap();
            let mut sums = [0; METRICS];
            add_sums(&mut sums, bytes).unwrap();
            ((place.creative(), place.region(), place.device()), sums)
        };
        CellList::of(list).map(cell).collect()
    }

    #[test]
    fn a_list_is_steps_and_sums() {
        let one = |creative, region, device, n| Cells::from([((creative, region, device), n)]);
        let sums = [3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        // Region 2 and device 1 are place 33; one impression is written 2, so three are 6.
        assert_eq!(encoded(&one(0, 2, 1, sums)), [33, 1, 6]);
        let two: Cells = one(0, 2, 1, sums)
            .into_iter()
            .chain(one(0, 2, 3, sums))
            .collect();
        assert_eq!(encoded(&two), [33, 1, 6, 2, 1, 6]);
        for damaged in [&[33, 1][..], &[33, 1, 6, 0, 1, 6], &[33]] {
            assert_eq!(merge_lists(None, [damaged].into_iter()), None);
        }
    }

    proptest! {
        #[test]
        fn merging_in_any_grouping_is_summing_each_cell(
            all in proptest::collection::vec(cells(), 1..8),
            cut in 0usize..8,
        ) {
            let mut want = Cells::new();
            for (place, sums) in all.iter().flatten() {
                let sum = want.entry(*place).or_default();
                sum.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
            }
            let lists: Vec<Vec<u8>> = all.iter().map(encoded).collect();
            let (left, right) = lists.split_at(cut.min(lists.len()));
            let partial = merge_lists(None, left.iter().map(Vec::as_slice)).unwrap();
            let merged = merge_lists(Some(&partial), right.iter().map(Vec::as_slice)).unwrap();
            prop_assert_eq!(decoded(&merged), want);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = CellList::of(&bytes).count();
            let _ = merge_lists(None, [bytes.as_slice()].into_iter());
        }
    }
}
