//! Tests of merging and filling: tables written by hand, and a property against a plain map.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::buckets::Slot;
use crate::cells::Bucket;
use crate::merged::Merged;
use crate::metrics::{Metrics, encode_sums};
use crate::table::{Row, Table};

fn key(at: i64) -> BucketKey {
    BucketKey { at, offset_s: 0 }
}

fn slots(n: i64) -> Vec<Slot> {
    (0..n)
        .map(|at| Slot {
            key: key(at),
            time_ms: at * 60_000,
            offset_s: 0,
        })
        .collect()
}

fn cell(campaign: u32, ad: u32, device: u8) -> CellKey {
    CellKey {
        campaign,
        bucket: Bucket::Minute(0),
        ad,
        creative: 0,
        region: 0,
        device,
    }
}

fn clicks(n: i64) -> Vec<u8> {
    let mut out = Vec::new();
    encode_sums(
        &Metrics {
            gross_clicks: n,
            ..Metrics::default()
        }
        .fields(),
        &mut out,
    );
    out
}

fn names(of: &[&[(u32, &str)]]) -> Names {
    of.iter()
        .map(|names| {
            names
                .iter()
                .map(|(n, name)| (*n, Arc::from(*name)))
                .collect()
        })
        .collect()
}

fn printed(table: &Table) -> Vec<(i64, Vec<String>, i64)> {
    let group = |row: &Row| table.group(row).map(|(_, name)| name.to_owned()).collect();
    table
        .rows()
        .map(|r| (table.slot(&r).key.at, group(&r), r.metrics.gross_clicks))
        .collect()
}

fn row(at: i64, group: &[&str], n: i64) -> (i64, Vec<String>, i64) {
    (at, group.iter().map(|g| (*g).to_owned()).collect(), n)
}

/// Cells of one shard: bucket, ad, clicks.
type Cells<'c> = &'c [(i64, u32, i64)];

/// Whether the rows of some shards are taken as they stand, for so many buckets, and what the table is in either case.
fn taken(shards: &[Cells<'_>], buckets: i64, fill: bool) -> (bool, Vec<(i64, Vec<String>, i64)>) {
    let by = [Dimension::AdId];
    let merged = || {
        let mut merged = Merged::new(&by);
        for cells in shards {
            let mut sums = ShardSums::new(&by);
            for (at, ad, n) in *cells {
                sums.add(key(*at), &cell(5, *ad, 0), &clicks(*n)).unwrap();
            }
            let names = names(&[&[(7, "a"), (8, "b")]]);
            merged.add(sums, &names).unwrap();
        }
        merged
    };
    let slots = slots(buckets);
    let want = printed(&merged().finish(&slots, fill).unwrap());
    let mut finish = merged().in_order(&slots, fill).unwrap();
    let taken = finish.taken();
    let is_taken = taken.is_some();
    if let Some(part) = taken {
        assert_eq!(printed(&finish.table([part]).unwrap()), want);
    }
    (is_taken, want)
}

const ONE_GROUP_LESS: &[Cells<'_>] = &[&[(0, 7, 1), (0, 8, 2), (1, 7, 3)]];
const ONE_BUCKET_LESS: &[Cells<'_>] = &[&[(0, 7, 1), (2, 7, 3)]];

#[test]
fn rows_are_taken_as_they_stand_where_nothing_is_to_be_done() {
    let (a, b) = (|at, n| row(at, &["a"], n), |at, n| row(at, &["b"], n));
    let full: &[Cells<'_>] = &[&[(0, 7, 1), (0, 8, 2), (1, 7, 3), (1, 8, 4)]];
    let all = vec![a(0, 1), b(0, 2), a(1, 3), b(1, 4)];
    assert_eq!(taken(full, 2, false), (true, all.clone()));
    assert_eq!(taken(full, 2, true), (true, all));
    let want = vec![a(0, 1), b(0, 2), a(1, 3)];
    assert_eq!(taken(ONE_GROUP_LESS, 2, false), (true, want));
    let want = vec![a(0, 1), a(2, 3)];
    assert_eq!(taken(ONE_BUCKET_LESS, 3, false), (true, want));
}

#[test]
fn rows_are_not_taken_where_something_is_to_be_filled_added_up_or_put_in_order() {
    let (a, b) = (|at, n| row(at, &["a"], n), |at, n| row(at, &["b"], n));
    let want = vec![a(0, 1), b(0, 2), a(1, 3), b(1, 0)];
    assert_eq!(taken(ONE_GROUP_LESS, 2, true), (false, want));
    let want = vec![a(0, 1), a(1, 0), a(2, 3)];
    assert_eq!(taken(ONE_BUCKET_LESS, 3, true), (false, want));
    let want = vec![a(0, 1), b(0, 2)];
    assert_eq!(taken(&[&[(0, 8, 2), (0, 7, 1)]], 1, false), (false, want));
    let want = vec![a(0, 1), a(1, 3)];
    assert_eq!(taken(&[&[(1, 7, 3), (0, 7, 1)]], 2, false), (false, want));
    let two_shards: &[Cells<'_>] = &[&[(0, 7, 1)], &[(0, 7, 2)]];
    assert_eq!(taken(two_shards, 1, false), (false, vec![a(0, 3)]));
    // One of them is in none of the buckets.
    let outside: &[Cells<'_>] = &[&[(0, 7, 1), (5, 7, 9)]];
    assert_eq!(taken(outside, 1, false), (false, vec![a(0, 1)]));
}

#[test]
fn shards_number_names_differently_and_still_meet() {
    let by = [Dimension::AdId];
    let (mut one, mut two) = (ShardSums::new(&by), ShardSums::new(&by));
    one.add(key(1), &cell(5, 7, 0), &clicks(3)).unwrap();
    one.add(key(0), &cell(5, 8, 0), &clicks(1)).unwrap();
    two.add(key(1), &cell(9, 8, 0), &clicks(4)).unwrap();
    let mut merged = Merged::new(&by);
    merged.add(one, &names(&[&[(7, "b"), (8, "a")]])).unwrap();
    merged.add(two, &names(&[&[(8, "b")]])).unwrap();
    let table = merged.finish(&slots(2), false).unwrap();
    assert_eq!(printed(&table), [row(0, &["a"], 1), row(1, &["b"], 7)]);
    assert_eq!(table.totals.gross_clicks, 8);
}

#[test]
fn filling_gives_every_bucket_to_every_group_that_was_seen() {
    let by = [Dimension::Device, Dimension::AdId];
    let mut shard = ShardSums::new(&by);
    shard.add(key(1), &cell(5, 7, 4), &clicks(3)).unwrap();
    shard.add(key(0), &cell(5, 7, 0), &clicks(2)).unwrap();
    let mut merged = Merged::new(&by);
    merged
        .add(shard, &names(&[&[(4, "desktop"), (0, "ios")], &[(7, "x")]]))
        .unwrap();
    assert_eq!(
        printed(&merged.finish(&slots(2), true).unwrap()),
        [
            row(0, &["desktop", "x"], 0),
            row(0, &["ios", "x"], 2),
            row(1, &["desktop", "x"], 3),
            row(1, &["ios", "x"], 0)
        ]
    );
    // Without grouping every bucket has its row, even when nothing was seen.
    assert_eq!(
        printed(&Merged::new(&[]).finish(&slots(2), true).unwrap()),
        [row(0, &[], 0), row(1, &[], 0)]
    );
    // With grouping and nothing seen there is no group to fill, and fill=none adds nothing.
    assert!(Merged::new(&by).finish(&slots(2), true).unwrap().is_empty());
    assert!(
        Merged::new(&[])
            .finish(&slots(2), false)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn an_answer_has_a_million_rows_at_most() {
    let by = [Dimension::AdId];
    let mut shard = ShardSums::new(&by);
    for ad in 0..101 {
        shard.add(key(0), &cell(1, ad, 0), &clicks(1)).unwrap();
    }
    let names: Names = vec![(0..101).map(|n| (n, Arc::from(n.to_string()))).collect()];
    let mut merged = Merged::new(&by);
    merged.add(shard, &names).unwrap();
    assert_eq!(
        merged.finish(&slots(10_000), true).unwrap_err(),
        TooManyRows
    );
    let mut full = ShardSums::new(&by);
    let n = MAX_ROWS as u32;
    (0..n).for_each(|ad| full.add(key(0), &cell(1, ad, 0), &clicks(1)).unwrap());
    full.add(key(0), &cell(1, 0, 0), &clicks(1)).unwrap();
    assert_eq!(
        full.add(key(0), &cell(1, n, 0), &clicks(1)).unwrap_err(),
        PartialError::TooManyRows(TooManyRows)
    );
}

#[test]
fn filters_of_different_names_are_and_of_one_name_or() {
    let set = |values: &[u32]| Some(values.iter().copied().collect::<FxHashSet<u32>>());
    let filters = Filters {
        ad: set(&[7, 8]),
        device: set(&[4]),
        ..Filters::default()
    };
    assert!(filters.pass(&cell(1, 7, 4)) && filters.pass(&cell(2, 8, 4)));
    assert!(!filters.pass(&cell(1, 9, 4)) && !filters.pass(&cell(1, 7, 0)));
    // A filter none of whose values the shard knows lets nothing through.
    assert!(
        !Filters {
            region: set(&[]),
            ..Filters::default()
        }
        .pass(&cell(1, 7, 4))
    );
}

#[test]
fn a_damaged_cell_is_an_error_and_no_count() {
    let mut shard = ShardSums::new(&[]);
    assert!(matches!(
        shard.add(key(0), &cell(1, 1, 0), &[1]),
        Err(PartialError::Damaged(_))
    ));
}

proptest! {
    /// However cells are spread over shards and in whatever order shards come, the table is the plain sum, filled or not.
    #[test]
    fn merging_is_the_plain_sum(
        cells in proptest::collection::vec((0u8..3, 0i64..4, 0u32..4, 0u8..7, 1i64..100), 0..80),
        turn in 0usize..3,
        of in 1u8..4,
        fill in any::<bool>(),
    ) {
        let by = [Dimension::CampaignId, Dimension::Device];
        let mut want: BTreeMap<(i64, String, String), i64> = BTreeMap::new();
        let mut shards: Vec<ShardSums> = (0..3).map(|_| ShardSums::new(&by)).collect();
        for (shard, at, campaign, device, n) in &cells {
            let shard = shard % of;
            // Each shard numbers the campaigns its own way.
            let symbol = campaign + 10 * u32::from(shard);
            shards[usize::from(shard)].add(key(*at), &cell(symbol, 0, *device), &clicks(*n)).unwrap();
            let device = Device::from_number(*device).unwrap().name().to_owned();
            *want.entry((*at, format!("c{campaign}"), device)).or_default() += n;
        }
        shards.rotate_left(turn);
        let mut merged = Merged::new(&by);
        for shard in shards {
            let names = shard
                .symbols()
                .into_iter()
                .map(|(d, used)| {
                    let name = |n: u32| match d {
                        Dimension::Device => Arc::from(device_name(n)),
                        _ => Arc::from(format!("c{}", n % 10)),
                    };
                    used.into_iter().map(|n| (n, name(n))).collect()
                })
                .collect();
            merged.add(shard, &names).unwrap();
        }
        if fill {
            let groups: BTreeSet<(String, String)> = want.keys().map(|(_, c, d)| (c.clone(), d.clone())).collect();
            for (at, (campaign, device)) in (0..4).flat_map(|at| groups.iter().map(move |group| (at, group))) {
                want.entry((at, campaign.clone(), device.clone())).or_default();
            }
        }
        let table = merged.finish(&slots(4), fill).unwrap();
        let got: Vec<_> = printed(&table).into_iter().map(|(at, g, n)| ((at, g[0].clone(), g[1].clone()), n)).collect();
        prop_assert_eq!(got, want.into_iter().collect::<Vec<_>>());
    }
}

/// What stands under one bucket and group in many pieces is added up on the way, and the table is the same in parts.
#[test]
fn rows_in_many_pieces_are_collapsed_and_tables_are_made_in_parts() {
    let by = [Dimension::AdId];
    let (groups, buckets, rounds) = (300u32, 7i64, 200u32);
    let name = |n: u32| -> Arc<str> { Arc::from(format!("{:03}", (n * 7) % groups)) };
    let names: Names = vec![(0..groups).map(|n| (n, name(n))).collect()];
    let mut merged = Merged::new(&by);
    let mut want: BTreeMap<(i64, String), i64> = BTreeMap::new();
    for shard in 0..2i64 {
        let mut sums = ShardSums::new(&by);
        for round in 0..rounds {
            for at in 0..buckets {
                let key = BucketKey { at, offset_s: 0 };
                let bucket = sums.table().bucket(key);
                let numbers: Vec<u32> = (0..groups)
                    .map(|n| sums.table().group([n, 0, 0, 0, 0]))
                    .filter(|n| (n + round) % 3 > 0)
                    .collect();
                sums.table().make_room(numbers.len(), 1).unwrap();
                let row = sums.table().columns().len();
                sums.table().append(bucket, &numbers);
                let counts = numbers.iter().map(|n| i64::from(*n) + shard);
                let column = sums.table().columns().column_from(2, row, 1 << 20);
                column.extend(counts);
                for n in &numbers {
                    *want.entry((at, name(*n).to_string())).or_default() += i64::from(*n) + shard;
                }
            }
        }
        merged.add(sums, &names).unwrap();
    }
    // Of 560,000 rows that were appended most are added up already.
    assert!(merged.rows() < 350_000, "{}", merged.rows());
    let finish = merged.in_order(&slots(buckets), false).unwrap();
    let parts: Vec<_> = finish
        .ranges(3)
        .into_iter()
        .map(|range| finish.part(range).unwrap())
        .collect();
    assert_eq!(parts.len(), 3);
    let table = finish.table(parts).unwrap();
    let got: Vec<((i64, String), i64)> = printed(&table)
        .into_iter()
        .map(|(at, mut group, n)| ((at, group.remove(0)), n))
        .collect();
    assert_eq!(table.totals.gross_clicks, want.values().sum::<i64>());
    assert_eq!(got, want.into_iter().collect::<Vec<_>>());
}

#[test]
fn buckets_of_one_time_are_sorted_by_group_first_and_stay_in_one_part() {
    let by = [Dimension::AdId];
    let mut shard = ShardSums::new(&by);
    let twice = |offset_s| BucketKey {
        at: 60_000,
        offset_s,
    };
    let rows = [
        (twice(3_600), 1, 5),
        (twice(0), 1, 3),
        (twice(0), 2, 4),
        (key(9), 2, 7),
    ];
    for (bucket, ad, n) in rows {
        shard.add(bucket, &cell(1, ad, 0), &clicks(n)).unwrap();
    }
    let slot = |key: BucketKey| Slot {
        key,
        time_ms: key.at,
        offset_s: key.offset_s,
    };
    let slots = [slot(twice(0)), slot(twice(3_600))];
    let mut merged = Merged::new(&by);
    merged.add(shard, &names(&[&[(1, "b"), (2, "a")]])).unwrap();
    let finish = merged.in_order(&slots, false).unwrap();
    let ranges = finish.ranges(2);
    assert!(ranges.contains(&(0..2)), "{ranges:?}");
    let parts: Vec<_> = ranges
        .into_iter()
        .map(|r| finish.part(r).unwrap())
        .collect();
    let table = finish.table(parts).unwrap();
    let got: Vec<(i32, String, i64)> = table
        .rows()
        .map(|row| {
            let (_, name) = table.group(&row).next().unwrap();
            (
                table.slot(&row).offset_s,
                name.to_owned(),
                row.metrics.gross_clicks,
            )
        })
        .collect();
    let want = [(0, "a", 4), (0, "b", 3), (3_600, "b", 5)];
    assert_eq!(got, want.map(|(at, name, n)| (at, name.to_owned(), n)));
    // What has no slot is in no row, and in the totals.
    assert_eq!(table.totals.gross_clicks, 19);
}
