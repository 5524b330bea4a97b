//! Stretches of rows that are cells of known blocks, held against the printing of the same cells added one by one.
#![allow(clippy::unwrap_used)]

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use adtally_streams::event::Device;
use proptest::prelude::*;
use proptest::sample::select;

use super::tests::{Form, cut, names, whole};
use super::*;
use crate::block_sums::BlockSums;
use crate::buckets::{BucketKey, Slot, hour_slots};
use crate::cells::{Bucket, CellKey, Grain};
use crate::cuboid::Cuboid;
use crate::merged::Merged;
use crate::metrics::{METRICS, encode_sums};
use crate::partial::{Dimension, Filters, Names, ShardSums};
use crate::spans::Span;
use crate::united::{Numbering, United, Uniting};

/// A UTC day, and so many after it.
const FIRST_DAY: i32 = 20_540;
const DAYS: i32 = 13;
const REGIONS: u32 = 40;
const DEVICES: u32 = 3;
/// How many contents a day may have, one after the other.
const VERSIONS: u8 = 3;

/// What a day has of an hour, region and device; none where it has no cell.
fn count(hour: i64, region: u32, device: u32, version: u8) -> Option<[i64; METRICS]> {
    let n = hour + i64::from(region * DEVICES + device);
    if (n + i64::from(version)) % 5 == 4 {
        return None;
    }
    let mut fields = [0; METRICS];
    // The versions differ in a cell here and there only.
    let is_other = n % 97 == 1;
    fields[0] = n % 3 + i64::from(is_other) * i64::from(version);
    fields[2] = n % 2;
    fields[5] = 1_000 * (n % 4);
    Some(fields)
}

fn hour(n: i64) -> Bucket {
    Bucket::Hour {
        start_s: n * 3_600,
        offset_s: 0,
    }
}

fn key(n: i64) -> BucketKey {
    BucketKey {
        at: n * HOUR_MS,
        offset_s: 0,
    }
}

fn cell(n: i64, region: u32, device: u32) -> CellKey {
    CellKey {
        campaign: 0,
        bucket: hour(n),
        ad: 0,
        creative: 0,
        region,
        device: device as u8,
    }
}

fn stored(fields: &[i64; METRICS]) -> Vec<u8> {
    let mut stored = Vec::new();
    encode_sums(fields, &mut stored);
    stored
}

/// Adds each cell of a day, in place of a block of it.
fn each_cell(day: i32, version: u8, add: &mut dyn FnMut(i64, &CellKey, &[u8])) {
    let first = i64::from(day) * 24;
    for n in first..first + 24 {
        for region in 0..REGIONS {
            for device in 0..DEVICES {
                let Some(fields) = count(n, region, device, version) else {
                    continue;
                };
                add(n, &cell(n, region, device), &stored(&fields));
            }
        }
    }
}

/// The names of regions by number, and of classes of devices.
fn named(by: &[Dimension], regions: &[String]) -> Names {
    let of = |dimension: &Dimension| match dimension {
        Dimension::Region => (0..)
            .zip(regions.iter().map(|n| Arc::from(n.as_str())))
            .collect(),
        _ => (0..DEVICES)
            .map(|n| (n, Arc::from(Device::from_number(n as u8).unwrap().name())))
            .collect(),
    };
    by.iter().map(of).collect()
}

fn united(day: i32, version: u8, regions: &[String]) -> United {
    let cuboid = Cuboid::RegionDevice;
    let span = Span {
        grain: Grain::Hour,
        number: day,
    };
    let mut uniting = Uniting::new(cuboid, span);
    let mut sums = uniting.sums();
    each_cell(day, version, &mut |n, cell, stored| {
        sums.add(uniting.place(hour(n)), cell, stored).unwrap();
    });
    uniting
        .add(sums, &named(cuboid.dimensions(), regions))
        .unwrap();
    uniting.finish().unwrap()
}

#[derive(Clone, Debug)]
struct Asked {
    form: Form,
    by: Vec<Dimension>,
    fill: bool,
    /// Hours from the beginning of the first day.
    from: i64,
    many: i64,
    names: usize,
    /// By day what it holds.
    versions: Vec<u8>,
    /// An hour and region that have a cell more beside the blocks, of another shard's rows.
    late: Option<(i64, u32)>,
}

impl Asked {
    fn slots(&self) -> Vec<Slot> {
        let first = i64::from(FIRST_DAY) * 24 + self.from;
        hour_slots(Tz::UTC, first * HOUR_MS, (first + self.many) * HOUR_MS)
    }

    fn names(&self) -> Vec<String> {
        let mut all = names(self.names);
        all.rotate_left(self.names - REGIONS as usize);
        all
    }

    fn late_sums(&self) -> ShardSums {
        let mut sums = ShardSums::new(&self.by);
        if let Some((n, region)) = self.late {
            let n = i64::from(FIRST_DAY) * 24 + n;
            if self.slots().iter().any(|slot| slot.key == key(n)) {
                sums.add(key(n), &cell(n, region, 1), &stored(&[1; METRICS]))
                    .unwrap();
            }
        }
        sums
    }

    fn finish(&self, mut merged: Merged) -> Table {
        let late = self.late_sums();
        merged.add(late, &named(&self.by, &self.names())).unwrap();
        let slots = self.slots();
        let mut finish = merged.in_order(&slots, self.fill).unwrap();
        let part = finish.taken();
        let part = part.unwrap_or_else(|| finish.part(0..finish.len()).unwrap());
        finish.table([part]).unwrap()
    }

    /// By blocks, each under what it is known by: its day, its content and the names.
    fn of_blocks(&self) -> Table {
        let slots: HashSet<BucketKey> = self.slots().iter().map(|slot| slot.key).collect();
        let place = |bucket: Bucket| {
            let Bucket::Hour { start_s, .. } = bucket else {
                panic!("{bucket:?}")
            };
            Some(key(start_s / 3_600)).filter(|key| slots.contains(key))
        };
        let (mut sums, mut numbering) = (ShardSums::new(&self.by), Numbering::default());
        let mut blocks = BlockSums::default();
        for (day, version) in (FIRST_DAY..).zip(&self.versions) {
            let united = united(day, *version, &self.names());
            let known_as = (day as u128) << 64 | (self.names as u128) << 8 | u128::from(*version);
            let block = united.numbered(known_as, 0, &mut numbering).unwrap();
            let every = Filters::default();
            blocks
                .add(&block, &every, &mut |b| place(b), &mut sums)
                .unwrap();
        }
        let mut merged = Merged::new(&self.by);
        merged.add(sums, &numbering.names(&self.by)).unwrap();
        self.finish(merged)
    }

    /// By the same cells, added one by one.
    fn of_cells(&self) -> Table {
        let slots: HashSet<BucketKey> = self.slots().iter().map(|slot| slot.key).collect();
        let mut sums = ShardSums::new(&self.by);
        for (day, version) in (FIRST_DAY..).zip(&self.versions) {
            each_cell(day, *version, &mut |n, cell, stored| {
                if slots.contains(&key(n)) {
                    sums.add(key(n), cell, stored).unwrap();
                }
            });
        }
        let mut merged = Merged::new(&self.by);
        merged.add(sums, &named(&self.by, &self.names())).unwrap();
        self.finish(merged)
    }
}

/// Answers of one form about nearly the same.
fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let form = (
        select(vec![Format::Json, Format::Csv, Format::Ndjson]),
        Just(Tz::UTC),
        Just(Chosen::ALL),
    );
    let (region, device) = (Dimension::Region, Dimension::Device);
    let by = select(vec![
        vec![region, device],
        vec![device, region],
        vec![region],
        vec![device],
    ]);
    let versions = proptest::collection::vec(0..VERSIONS, DAYS as usize);
    let late = proptest::option::of((0..300i64, 0..REGIONS));
    let each = (
        (0..3i64, 270..280i64),
        prop_oneof![6 => Just(40usize), 1 => Just(41)],
        (versions, late),
    );
    let all = proptest::collection::vec(each, 3..6);
    (form, by, any::<bool>(), all).prop_map(|(form, by, fill, all)| {
        let one = |((from, many), names, (versions, late))| Asked {
            form,
            by: by.clone(),
            fill,
            from,
            many,
            names,
            versions,
            late,
        };
        all.into_iter().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn texts_of_one_key_are_alike_and_together_they_are_the_answer(all in asked()) {
        let mut texts: HashMap<u128, Vec<u8>> = HashMap::new();
        for asked in &all {
            let expected = asked.of_cells();
            for table in [asked.of_blocks(), expected.clone()] {
                prop_assert_eq!(table.totals, expected.totals);
                let pieces = cut(&table, Granularity::Hour, asked.form);
                if pieces.is_empty() {
                    continue;
                }
                let together: Vec<u8> = pieces.iter().flat_map(|(_, text)| text.clone()).collect();
                let is_json = asked.form.0 == Format::Json;
                prop_assert!(together[usize::from(is_json)..] == whole(&expected, asked.form));
                for (key, text) in pieces {
                    if let Some(key) = key {
                        let known = texts.entry(key).or_insert_with(|| text.clone());
                        prop_assert!(*known == text, "{:?}", asked);
                    }
                }
            }
        }
    }
}

#[test]
fn only_the_stretches_about_what_has_changed_have_another_key() {
    let asked = |from: i64, changed: Option<usize>, late: Option<(i64, u32)>| {
        let mut versions = vec![0; DAYS as usize];
        if let Some(day) = changed {
            versions[day] = 1;
        }
        let asked = Asked {
            form: (Format::Json, Tz::UTC, Chosen::ALL),
            by: vec![Dimension::Region, Dimension::Device],
            fill: false,
            from,
            many: 240,
            names: 40,
            versions,
            late,
        };
        let table = asked.of_blocks();
        // Nothing is told of counts that a block stands for.
        let is_known = |part: &Part| {
            let runs = part.runs.runs.iter();
            let known = runs.filter(|run| part.runs.origins.of(run.from..run.to).is_some());
            (known.count(), part.runs.runs.len())
        };
        let runs: Vec<(usize, usize)> = table.parts.iter().map(is_known).collect();
        let pieces = cut(&table, Granularity::Hour, asked.form);
        let keys: HashSet<u128> = pieces.into_iter().filter_map(|(key, _)| key).collect();
        (keys, runs)
    };
    let (before, runs) = asked(3, None, None);
    assert_eq!(runs, [(240, 240)]);
    // Stretches of two hours.
    assert_eq!(before.len(), 121);
    let left = |after: &HashSet<u128>| after.difference(&before).count();
    assert_eq!(asked(3, None, None).0, before);
    // The range has moved on: its ends are others.
    assert!(left(&asked(4, None, None).0) <= 2);
    // A day has other counts: its own stretches are others.
    let (after, _) = asked(3, Some(5), None);
    assert_eq!(left(&after), 12);
    // A late event adds to one hour, which is no block's any more.
    let (after, runs) = asked(3, None, Some((100, 7)));
    assert_eq!((left(&after), runs), (1, vec![(239, 240)]));
}
