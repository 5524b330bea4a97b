//! United blocks against the blocks that they are made of, added one by one under each shard's own numbers.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use rustc_hash::{FxHashMap, FxHashSet};

use super::*;
use crate::block_sums::BlockSums;
use crate::cells::Grain;
use crate::metrics::Fields;
use crate::partial::{Filters, device_name};

const SPAN: Span = Span {
    grain: Grain::Minute,
    number: 480_000,
};
const NAMES: [&str; 5] = ["", "DE", "FR", "US-CA", "other"];

/// A cell: its minute, the place of each name in [`NAMES`] and its device, and its sums.
type Cells = BTreeMap<(i32, [usize; 3], u32), [i64; METRICS]>;

/// The number that a shard has of a name.
fn numbered(shard: usize, name: usize) -> Symbol {
    ((name * (2 + shard) + 3 * shard) % 7) as Symbol + 10 * shard as Symbol
}

/// A shard's cells of a cuboid as it stores them; none where it has none.
fn stored(cuboid: Cuboid, shard: usize, cells: &Cells) -> Option<(Vec<u8>, Vec<u8>)> {
    let mut summed: BTreeMap<(i32, Vec<Symbol>), [i64; METRICS]> = BTreeMap::new();
    for ((minute, names, device), sums) in cells {
        let symbol = |dimension: &Dimension| match dimension {
            Dimension::Device => *device,
            Dimension::AdId => numbered(shard, names[0]),
            Dimension::Creative => numbered(shard, names[1]),
            _ => numbered(shard, names[2]),
        };
        let symbols = cuboid.dimensions().iter().map(symbol).collect();
        let row = summed.entry((*minute, symbols)).or_default();
        row.iter_mut().zip(sums).for_each(|(a, b)| *a += b);
    }
    let mut columns = Columns {
        dimensions: vec![Vec::new(); cuboid.dimensions().len()],
        metrics: (0..METRICS).map(|field| (field, Vec::new())).collect(),
        ..Columns::default()
    };
    for ((at, symbols), sums) in summed {
        let place = Place { at, offset_s: 0 };
        match columns.buckets.last_mut() {
            Some((last, n)) if *last == place => *n += 1,
            _ => columns.buckets.push((place, 1)),
        }
        let dimensions = columns.dimensions.iter_mut().zip(symbols);
        dimensions.for_each(|(column, symbol)| column.push(symbol));
        let metrics = columns.metrics.iter_mut().zip(sums);
        metrics.for_each(|((_, column), n)| column.push(n));
    }
    let key = BlockKey {
        campaign: 5 + shard as Symbol,
        cuboid,
        span: SPAN,
        first: columns.buckets.first()?.0,
        part: 0,
    };
    let (mut k, mut v) = (Vec::new(), Vec::new());
    key.encode(&mut k);
    write(&key, &columns, &mut v);
    Some((k, v))
}

/// The names of a shard's numbers.
fn names(shard: usize, group_by: &[Dimension]) -> Names {
    let of = |dimension: &Dimension| -> FxHashMap<Symbol, Arc<str>> {
        match dimension {
            Dimension::Device => (0..7).map(|n| (n, device_name(n).into())).collect(),
            Dimension::CampaignId => [(5 + shard as Symbol, "spring".into())]
                .into_iter()
                .collect(),
            _ => (0..NAMES.len())
                .map(|name| (numbered(shard, name), NAMES[name].into()))
                .collect(),
        }
    };
    group_by.iter().map(of).collect()
}

fn minute(bucket: Bucket) -> BucketKey {
    let Bucket::Minute(at) = bucket else {
        panic!("{bucket:?}")
    };
    BucketKey {
        at: at / 7,
        offset_s: 0,
    }
}

fn slots() -> Vec<Slot> {
    let first = i64::from(SPAN.number) * 60 / 7;
    (first..first + 10)
        .map(|at| Slot {
            key: BucketKey { at, offset_s: 0 },
            time_ms: at,
            offset_s: 0,
        })
        .collect()
}

/// Every row by time and names.
fn rows(table: &Table) -> Vec<(i64, Vec<String>, [i64; METRICS])> {
    let row = |row: crate::table::Row| {
        let group = table.group(&row).map(|(_, name)| name.to_owned()).collect();
        (table.slot(&row).time_ms, group, row.metrics.fields())
    };
    table.rows().map(row).collect()
}

fn cells() -> impl Strategy<Value = Cells> {
    let names = proptest::array::uniform3(0..NAMES.len());
    let sum = prop_oneof![4 => 0i64..3, 1 => -1_000_000i64..1_000_000_000_000];
    proptest::collection::btree_map(
        (0i32..60, names, 0u32..7),
        proptest::array::uniform10(sum),
        0..200,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]
    #[test]
    fn a_united_block_adds_what_its_blocks_add(
        shards in proptest::collection::vec(cells(), 1..4),
        cuboid in proptest::sample::select(Cuboid::ALL.to_vec()),
        by in proptest::sample::subsequence(Dimension::ALL.to_vec(), 0..=5).prop_shuffle(),
        region in proptest::option::of(0..NAMES.len() + 1),
        device in proptest::option::of(0u32..7),
        wanted in proptest::sample::subsequence((0..METRICS).collect::<Vec<_>>(), 0..=METRICS),
        skipped in 0i64..60,
    ) {
        let has = |dimension: &Dimension| cuboid.dimensions().contains(dimension);
        let by: Vec<Dimension> = by.into_iter().filter(|d| *d == Dimension::CampaignId || has(d)).collect();
        let (region, device) = (region.filter(|_| has(&Dimension::Region)), device.filter(|_| has(&Dimension::Device)));
        let one = |symbol: Option<Symbol>| symbol.map(|symbol| [symbol].into_iter().collect::<FxHashSet<_>>());
        let place = |bucket: Bucket| {
            (bucket != Bucket::Minute(i64::from(SPAN.number) * 60 + skipped)).then(|| minute(bucket))
        };
        let (mut one_by_one, mut uniting) = (Merged::new(&by), Uniting::new(cuboid, SPAN));
        for (shard, cells) in shards.iter().enumerate() {
            let Some((key, value)) = stored(cuboid, shard, cells) else { continue };
            let block = Block::parse(SPAN.grain, &key, &value).unwrap();
            let mut sums = ShardSums::of(&by, Fields::of(&wanted));
            let filters = Filters {
                region: one(region.map(|name| if name < NAMES.len() { numbered(shard, name) } else { 99 })),
                device: one(device),
                ..Filters::default()
            };
            BlockSums::default().add(&block, &filters, &mut |b| place(b), &mut sums).unwrap();
            one_by_one.add(sums, &names(shard, &by)).unwrap();
            let mut sums = uniting.sums();
            let every = Filters::default();
            BlockSums::default().add(&block, &every, &mut |b| Some(uniting.place(b)), &mut sums).unwrap();
            uniting.add(sums, &names(shard, cuboid.dimensions())).unwrap();
        }
        let united = uniting.finish().unwrap();
        let mut numbering = Numbering::default();
        let spring = numbering.number(Dimension::CampaignId, &"spring".into());
        // Of names that a question has met before, this one's have other numbers.
        numbering.number(Dimension::Region, &"JP".into());
        let filters = Filters {
            region: one(region.map(|name| {
                let name = NAMES.get(name).copied().unwrap_or("never");
                numbering.number(Dimension::Region, &name.into())
            })),
            device: one(device),
            ..Filters::default()
        };
        let mut sums = ShardSums::of(&by, Fields::of(&wanted));
        let block = united.numbered(7, spring, &mut numbering);
        prop_assert_eq!(block.is_some(), shards.iter().any(|cells| !cells.is_empty()));
        if let Some(block) = block {
            BlockSums::default().add(&block, &filters, &mut |b| place(b), &mut sums).unwrap();
        }
        let mut at_once = Merged::new(&by);
        at_once.add(sums, &numbering.names(&by)).unwrap();
        let (have, want) = (at_once.finish(&slots(), false).unwrap(), one_by_one.finish(&slots(), false).unwrap());
        prop_assert_eq!(rows(&have), rows(&want));
        prop_assert_eq!(have.totals, want.totals);
    }
}
