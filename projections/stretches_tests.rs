//! Texts of stretches, held against the printing of all rows, and against each other where their keys are the same.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::buckets::{BucketKey, Slot, day_slots, hour_slots, minute_slots};
use crate::cells::{Bucket, CellKey};
use crate::merged::Merged;
use crate::metrics::{METRICS, encode_sums};
use crate::partial::{Dimension, ShardSums};
use crate::printed::Printer;
use crate::ratios::Metric;

/// A Saturday.
const FROM_MS: i64 = 1_774_656_000_000;
/// Lord Howe's clock goes back by half an hour eight days later, Nepal's is at 05:45.
const ZONES: [Tz; 4] = [
    Tz::UTC,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Asia__Kathmandu,
];

fn slots(granularity: Granularity, zone: Tz, from: i64, many: i64) -> Vec<Slot> {
    let at = |length: i64, n: i64| FROM_MS + length * n;
    match granularity {
        Granularity::Minute => minute_slots(zone, at(MINUTE_MS, from), at(MINUTE_MS, from + many)),
        Granularity::Hour => hour_slots(zone, at(HOUR_MS, from), at(HOUR_MS, from + many)),
        Granularity::Day => {
            let first = FROM_MS / DAY_MS + from;
            day_slots(zone, &(first..first + many))
        }
        Granularity::Total => vec![Slot {
            key: BucketKey::TOTAL,
            time_ms: FROM_MS,
            offset_s: 0,
        }],
    }
}

/// What is counted of a bucket and region; nothing for a row that is not there.
type Count<'a> = &'a dyn Fn(BucketKey, u32) -> Option<[i64; METRICS]>;

/// A table of slots by region, of those names.
fn table(slots: &[Slot], names: &[String], fill: bool, count: Count<'_>) -> Table {
    merged(slots, names, count).finish(slots, fill).unwrap()
}

fn merged(slots: &[Slot], names: &[String], count: Count<'_>) -> Merged {
    let by = [Dimension::Region];
    let mut sums = ShardSums::new(&by);
    for slot in slots {
        for region in 0..names.len() as u32 {
            let Some(fields) = count(slot.key, region) else {
                continue;
            };
            let mut value = Vec::new();
            encode_sums(&fields, &mut value);
            let cell = CellKey {
                campaign: 0,
                bucket: Bucket::Day(0),
                ad: 0,
                creative: 0,
                region,
                device: 0,
            };
            sums.add(slot.key, &cell, &value).unwrap();
        }
    }
    let named = names.iter().map(|name| Arc::from(name.as_str()));
    let mut merged = Merged::new(&by);
    merged.add(sums, &vec![(0..).zip(named).collect()]).unwrap();
    merged
}

pub(super) type Form = (Format, Tz, Chosen);

/// All rows as they are printed without any cutting.
pub(super) fn whole(table: &Table, (format, zone, metrics): Form) -> Vec<u8> {
    let mut printer = Printer::new(format, zone, metrics, table.groups());
    let mut out = Vec::new();
    table
        .rows()
        .for_each(|row| printer.row(table, &row, &mut out));
    out
}

/// Each stretch's key and text, printed by itself.
pub(super) fn cut(
    table: &Table,
    granularity: Granularity,
    form: Form,
) -> Vec<(Option<u128>, Vec<u8>)> {
    let Some(stretches) = Stretches::of(table, granularity, form) else {
        return Vec::new();
    };
    let (mut out, mut at) = (Vec::new(), 0);
    while let Some(stretch) = stretches.at(table, at) {
        assert!(stretch.rows.start == at && !stretch.rows.is_empty());
        let mut printer = Printer::new(form.0, form.1, form.2, table.groups()).behind_others();
        let mut text = Vec::new();
        table
            .some_rows(stretch.rows.clone())
            .for_each(|row| printer.row(table, &row, &mut text));
        at = stretch.rows.end;
        out.push((stretch.key, text));
    }
    assert_eq!(at, table.len());
    out
}

pub(super) fn names(many: usize) -> Vec<String> {
    (0..many).map(|n| format!("R{n:03}")).collect()
}

/// Counts that are a function of what they are counted of.
fn plain(bucket: BucketKey, region: u32) -> Option<[i64; METRICS]> {
    let n = bucket.at / 1_000 + i64::from(bucket.offset_s) + i64::from(region) * 7_919;
    Some([n % 9_973, 0, n % 101, n % 3, 0, n % 77_777, 0, 0, 0, n % 2])
}

#[test]
fn a_range_that_has_moved_on_shares_all_but_its_ends() {
    let form = (Format::Json, Tz::UTC, Chosen::ALL);
    for (granularity, many, regions, steps) in [
        (Granularity::Day, 365, 240, 1),
        (Granularity::Hour, 720, 60, 1),
        (Granularity::Hour, 720, 60, 24),
        (Granularity::Minute, 5_000, 3, 1),
        // More than one stretch of each bucket.
        (Granularity::Day, 30, 3_000, 1),
    ] {
        let names = names(regions);
        let asked = |from: i64| {
            let slots = slots(granularity, Tz::UTC, from, many);
            cut(&table(&slots, &names, false, &plain), granularity, form)
        };
        let before: HashSet<u128> = asked(0).into_iter().filter_map(|(key, _)| key).collect();
        let after = asked(steps);
        let bytes = |all: &[&Vec<u8>]| all.iter().map(|text| text.len()).sum::<usize>();
        let found = |key: &Option<u128>| key.is_some_and(|key| before.contains(&key));
        let all: Vec<&Vec<u8>> = after.iter().map(|(_, text)| text).collect();
        let anew: Vec<&Vec<u8>> = after
            .iter()
            .filter(|(key, _)| !found(key))
            .map(|(_, text)| text)
            .collect();
        let new_rows = bytes(&all) * steps as usize / many as usize;
        assert!(
            bytes(&anew) <= new_rows + 5 * STRETCH_BYTES,
            "{granularity:?}: {} of {} bytes",
            bytes(&anew),
            bytes(&all)
        );
        // And they are neither much smaller nor much larger than is meant.
        let most = all.iter().map(|text| text.len()).max().unwrap();
        assert!(most < 3 * STRETCH_BYTES, "{granularity:?}: {most}");
        let mean = bytes(&all) / all.len();
        assert!(mean > STRETCH_BYTES / 3, "{granularity:?}: {mean}");
    }
}

#[test]
fn a_count_that_changes_makes_the_key_of_its_own_stretch_another() {
    let form = (Format::Csv, Tz::Asia__Kathmandu, Chosen::ALL);
    let (slots, names) = (slots(Granularity::Hour, form.1, 0, 720), names(60));
    let counted = |changed: Option<(BucketKey, u32, usize)>| {
        let count = |bucket, region| {
            let mut fields = plain(bucket, region)?;
            if let Some((_, _, field)) = changed.filter(|c| (c.0, c.1) == (bucket, region)) {
                fields[field] += 1;
            }
            Some(fields)
        };
        cut(
            &table(&slots, &names, false, &count),
            Granularity::Hour,
            form,
        )
    };
    let before = counted(None);
    // The first and the last one may be of so few rows that they have none.
    let keys = before.iter().filter(|(key, _)| key.is_some()).count();
    assert!(keys > 40 && keys >= before.len() - 2);
    for (slot, region, field) in [
        (20, 0, 0),
        (300, 59, 2),
        (700, 59, 9),
        (700, 0, 1),
        (55, 7, 5),
    ] {
        let after = counted(Some((slots[slot].key, region, field)));
        let changed = before.iter().zip(&after).filter(|(a, b)| a.0 != b.0);
        assert_eq!(changed.count(), 1, "{slot} {region} {field}");
        for (a, b) in before.iter().zip(&after) {
            assert_eq!(a.0 == b.0, a.1 == b.1, "{slot} {region} {field}");
        }
    }
}

#[test]
fn what_is_small_is_not_cut() {
    let form = (Format::Json, Tz::UTC, Chosen::ALL);
    for (many, is_cut) in [(20, false), (720, true)] {
        let slots = slots(Granularity::Hour, form.1, 0, many);
        let table = table(&slots, &names(20), false, &plain);
        let stretches = Stretches::of(&table, Granularity::Hour, form);
        assert_eq!(stretches.is_some(), is_cut);
        assert_eq!(
            stretches.is_some(),
            whole(&table, form).len() > 4 * STRETCH_BYTES
        );
    }
    let none = table(&[], &[], true, &plain);
    assert!(Stretches::of(&none, Granularity::Hour, form).is_none());
}

/// What is asked, and what is counted: of so few values that parts of two answers are often the same, and nearly the same.
#[derive(Clone, Debug)]
struct Asked {
    granularity: Granularity,
    form: Form,
    from: i64,
    fill: bool,
    /// The names of the regions.
    names: Vec<String>,
    /// In how many parts the table is made.
    parts: usize,
    /// By residue of time and region what is counted; none where nothing is.
    counts: Vec<Option<[i64; METRICS]>>,
}

fn asked() -> impl Strategy<Value = Asked> {
    let form = (
        prop_oneof![Just(Format::Json), Just(Format::Csv), Just(Format::Ndjson)],
        proptest::sample::select(&ZONES[..]),
        prop_oneof![
            Just(Chosen::ALL),
            subsequence(Metric::ALL.to_vec(), 1..4).prop_map(|m| m.into_iter().collect())
        ],
    );
    let counts = proptest::option::weighted(0.9, 0..3i64).prop_map(|n| {
        n.map(|n| {
            let mut fields = [0; METRICS];
            (fields[0], fields[2], fields[5]) = (n, n / 2, n * 1_000);
            fields
        })
    });
    let names = prop_oneof![
        Just(names(40)),
        Just(names(41)),
        // As long together, cut otherwise.
        Just((0..40).map(|n| format!("R0{n:02}\"")).collect::<Vec<_>>()),
    ];
    (
        proptest::sample::select(&Granularity::ALL[..3]),
        form,
        0..3i64,
        any::<bool>(),
        (names, 1..4usize),
        proptest::collection::vec(counts, 1..3),
    )
        .prop_map(
            |(granularity, form, from, fill, (names, parts), counts)| Asked {
                granularity,
                form,
                from,
                fill,
                names,
                parts,
                counts,
            },
        )
}

/// The table as several threads make it, and as one does.
fn answered(asked: &Asked) -> (Table, Table) {
    let slots = slots(asked.granularity, asked.form.1, asked.from, 300);
    let count = |bucket: BucketKey, region: u32| {
        let at = bucket.at / 60_000 + i64::from(region);
        asked.counts[at as usize % asked.counts.len()]
    };
    let finish = merged(&slots, &asked.names, &count)
        .in_order(&slots, asked.fill)
        .unwrap();
    let ranges = finish.ranges(asked.parts).into_iter();
    let parts: Vec<Part> = ranges.map(|range| finish.part(range).unwrap()).collect();
    let one = table(&slots, &asked.names, asked.fill, &count);
    (finish.table(parts).unwrap(), one)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn texts_of_one_key_are_alike_and_together_they_are_the_answer(
        all in proptest::collection::vec(asked(), 2..6),
    ) {
        let mut texts: HashMap<u128, Vec<u8>> = HashMap::new();
        for asked in &all {
            let (table, one) = answered(asked);
            let pieces = cut(&table, asked.granularity, asked.form);
            if pieces.is_empty() {
                continue;
            }
            let together: Vec<u8> = pieces.iter().flat_map(|(_, text)| text.clone()).collect();
            let is_json = asked.form.0 == Format::Json;
            prop_assert!(together[usize::from(is_json)..] == whole(&one, asked.form));
            for (key, text) in pieces {
                if let Some(key) = key {
                    let known = texts.entry(key).or_insert_with(|| text.clone());
                    prop_assert!(*known == text, "{:?}", asked);
                }
            }
        }
    }
}
