//! Sums of blocks against a plain map: every cuboid, grouping and filter, and blocks that are damaged.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use rustc_hash::FxHashSet;

use super::*;
use crate::block::{Block, BlockKey};
use crate::block_writer::{Columns, write};
use crate::cells::Grain;
use crate::cuboid::Cuboid;
use crate::metrics::METRICS;
use crate::spans::{Place, Span};
use crate::unpacked::Unpacked;

const SPAN: Span = Span {
    grain: Grain::Minute,
    number: 480_000,
};

type Cells = BTreeMap<(i32, [Symbol; 4]), [i64; METRICS]>;

fn stored(cuboid: Cuboid, cells: &Cells) -> (Vec<u8>, Vec<u8>) {
    let mut columns = Columns {
        dimensions: vec![Vec::new(); cuboid.dimensions().len()],
        metrics: (0..METRICS).map(|field| (field, Vec::new())).collect(),
        ..Columns::default()
    };
    for ((minute, symbols), sums) in cells {
        let place = Place {
            at: *minute,
            offset_s: 0,
        };
        match columns.buckets.last_mut() {
            Some((last, n)) if *last == place => *n += 1,
            _ => columns.buckets.push((place, 1)),
        }
        columns
            .dimensions
            .iter_mut()
            .zip(symbols)
            .for_each(|(c, s)| c.push(*s));
        columns
            .metrics
            .iter_mut()
            .zip(sums)
            .for_each(|((_, c), n)| c.push(*n));
    }
    let key = BlockKey {
        campaign: 5,
        cuboid,
        span: SPAN,
        first: columns.buckets[0].0,
        part: 0,
    };
    let (mut k, mut v) = (Vec::new(), Vec::new());
    key.encode(&mut k);
    write(&key, &columns, &mut v);
    (k, v)
}

fn cells(wide: bool) -> impl Strategy<Value = Cells> {
    let symbol = 0..if wide { 40_000u32 } else { 4 };
    let value = prop_oneof![4 => 0i64..3, 1 => -1_000_000i64..1_000_000_000_000, 1 => any::<i64>()];
    proptest::collection::btree_map(
        (0i32..60, proptest::array::uniform4(symbol)),
        proptest::array::uniform10(value),
        1..400,
    )
}

fn bucket(minute: i64) -> BucketKey {
    BucketKey {
        at: minute,
        offset_s: 0,
    }
}

/// The symbol that a cell of a cuboid has of one of its dimensions.
fn symbol(cuboid: Cuboid, symbols: &[Symbol; 4], dimension: Dimension) -> Symbol {
    let at = cuboid.dimensions().iter().position(|d| *d == dimension);
    symbols[at.unwrap()]
}

/// Rows by plain sums over the plain cells, in i128, cut to what an i64 holds.
fn plainly(
    cuboid: Cuboid,
    cells: &Cells,
    group_by: &[Dimension],
    passes: &dyn Fn(&[Symbol; 4]) -> bool,
    place: &dyn Fn(i64) -> Option<i64>,
) -> Rows {
    let mut rows = Rows::new();
    for ((minute, symbols), sums) in cells {
        let Some(at) = place(i64::from(SPAN.number) * 60 + i64::from(*minute)) else {
            continue;
        };
        if !passes(symbols) {
            continue;
        }
        let mut group = Group::default();
        for (name, dimension) in group.iter_mut().zip(group_by) {
            *name = match dimension {
                Dimension::CampaignId => 5,
                other => symbol(cuboid, symbols, *other),
            };
        }
        let row = rows.entry((at, group)).or_default();
        row.iter_mut()
            .zip(sums)
            .for_each(|(a, b)| *a += i128::from(*b));
    }
    rows
}

type Rows = BTreeMap<(i64, Group), [i128; METRICS]>;

/// What a block adds, and how many cells of it were read.
fn rows(
    block: &impl ReadBlock,
    filters: &Filters,
    (by, fields): (&[Dimension], Fields),
    place: &dyn Fn(i64) -> Option<i64>,
) -> (u64, Rows) {
    let mut sums = ShardSums::of(by, fields);
    let mut placed = |at| match at {
        Bucket::Minute(minute) => place(minute).map(bucket),
        _ => None,
    };
    let mut all = BlockSums::default();
    let read = all.add(block, filters, &mut placed, &mut sums).unwrap();
    let table = sums.table();
    let (buckets, groups) = (table.buckets().to_vec(), table.groups().to_vec());
    let row = |(at, group, sums): (u32, u32, [i64; METRICS])| {
        let key = (buckets[at as usize].at, groups[group as usize]);
        (key, sums.map(i128::from))
    };
    (read, table.rows().unwrap().map(row).collect())
}

/// An unpacked block that was written and read.
fn again(block: &Block<'_>) -> Unpacked {
    let unpacked = Unpacked::of(block).unwrap();
    let mut bytes = Vec::new();
    unpacked.encode(&mut bytes);
    let again = Unpacked::decode(&bytes).unwrap();
    assert_eq!(again, unpacked);
    again
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]
    #[test]
    fn a_block_adds_what_its_cells_are(
        cells in any::<bool>().prop_flat_map(cells),
        cuboid in proptest::sample::select(Cuboid::ALL.to_vec()),
        by in proptest::sample::subsequence(Dimension::ALL.to_vec(), 0..=5),
        shuffled in any::<bool>(),
        ads in proptest::option::of(proptest::collection::hash_set(0u32..4, 0..3)),
        devices in proptest::option::of(proptest::collection::hash_set(0u32..4, 1..3)),
        minutes in prop_oneof![Just(1i64), Just(7), Just(60)],
        from in 0i64..60,
        skipped in proptest::option::of(0i64..60),
        fields in proptest::sample::subsequence((0..METRICS).collect::<Vec<_>>(), 0..=METRICS),
    ) {
        // Saturation depends on the order of sums; everything below it must be exact.
        let is_tame = |sums: &[i64; METRICS]| sums.iter().all(|n| n.unsigned_abs() < 1 << 62);
        let cells: Cells = match cells.values().filter(|sums| !is_tame(sums)).count() {
            0 | 1 => cells,
            _ => cells.into_iter().map(|(k, sums)| (k, sums.map(|n| n >> 10))).collect(),
        };
        let has = |dimension: &Dimension| cuboid.dimensions().contains(dimension);
        let cells: Cells = cells.into_iter().map(|((minute, mut symbols), sums)| {
            symbols[cuboid.dimensions().len()..].fill(0);
            ((minute, symbols), sums)
        }).collect();
        let mut by = by;
        by.retain(|dimension| *dimension == Dimension::CampaignId || has(dimension));
        if shuffled { by.reverse(); }
        let (ads, devices) = (ads.filter(|_| has(&Dimension::AdId)), devices.filter(|_| has(&Dimension::Device)));
        let first = i64::from(SPAN.number) * 60;
        let is_asked = |minute: i64| minute >= from && skipped != Some(minute);
        // Buckets of one minute, of several, and one of all.
        let place = |minute: i64| is_asked(minute - first).then_some((minute - first) / minutes);
        let filter = |set: &Option<std::collections::HashSet<u32>>| -> Filter {
            set.as_ref().map(|s| s.iter().copied().collect::<FxHashSet<u32>>())
        };
        let filters = Filters { ad: filter(&ads), device: filter(&devices), ..Filters::default() };
        let passes = |symbols: &[Symbol; 4]| {
            ads.as_ref().is_none_or(|s| s.contains(&symbol(cuboid, symbols, Dimension::AdId)))
                && devices.as_ref().is_none_or(|s| s.contains(&symbol(cuboid, symbols, Dimension::Device)))
        };
        let want = plainly(cuboid, &cells, &by, &passes, &place);
        let (key, value) = stored(cuboid, &cells);
        let block = Block::parse(Grain::Minute, &key, &value).unwrap();
        let counted = cells.keys().filter(|(minute, _)| is_asked(i64::from(*minute))).count();
        let have = [
            rows(&block, &filters, (&by, Fields::ALL), &place),
            rows(&Unpacked::of(&block).unwrap(), &filters, (&by, Fields::ALL), &place),
            rows(&again(&block), &filters, (&by, Fields::ALL), &place),
        ];
        let some = rows(&block, &filters, (&by, Fields::of(&fields)), &place);
        let cut = |n: i128| n.clamp(i128::from(i64::MIN), i128::from(i64::MAX));
        let want: Rows = want.into_iter().map(|(k, sums)| (k, sums.map(cut))).collect();
        for (read, have) in have {
            prop_assert_eq!(read as usize, counted);
            prop_assert_eq!(have, want.clone());
        }
        // The same rows of fewer counters.
        let wanted = |sums: [i128; METRICS]| {
            std::array::from_fn(|field| if fields.contains(&field) { sums[field] } else { 0 })
        };
        let want: Rows = want.into_iter().map(|(k, sums)| (k, wanted(sums))).collect();
        prop_assert_eq!(some, (counted as u64, want));
    }
}
