//! Large spans: pieces, parts of a bucket, and damaged blocks. Sealing against an oracle is in the model's worlds.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::cell_list::{ListWriter, Place as ListPlace};
use crate::cells::{Bucket, Grain};
use crate::family::{Op, Target};
use crate::memory::Memory;
use crate::metrics::{METRICS, encode_sums};
use crate::symbols::Symbol;

const CAMPAIGN: Symbol = 3;
const HOUR: i64 = 480_000;

fn hour() -> Section {
    Section::of(Bucket::Minute(HOUR * 60))
}

/// Adds a row of one impression in each of some cells.
fn add(state: &mut Memory, minute: i64, ad: Symbol, cells: std::ops::Range<u32>) {
    let mut changes = Changes::default();
    let key = RowKey {
        campaign: CAMPAIGN,
        bucket: Bucket::Minute(HOUR * 60 + minute),
        ad,
    };
    changes.push_with(
        Target::Family(Family::CellsMinute),
        Op::Merge,
        |k| key.encode(k),
        |v| {
            let mut list = ListWriter::default();
            for region in cells {
                list.push(v, ListPlace::new(1, region, 2), |v| encode_sums(&[1], v));
            }
        },
    );
    mark(&mut changes, hour());
    state.write(&changes);
}

fn mark(changes: &mut Changes, section: Section) {
    let open = OpenSection {
        campaign: CAMPAIGN,
        section,
    };
    changes.put(Family::OpenSpans, |k| open.encode(k), |_| ());
}

/// Seals until nothing is left, and answers how many pieces that took.
fn seal_all(state: &mut Memory) -> usize {
    for piece in 1.. {
        let mut changes = Changes::default();
        let sealed = seal(
            state,
            CAMPAIGN,
            &[hour()],
            &Horizon::default(),
            &mut changes,
        )
        .unwrap();
        state.write(&changes);
        if sealed.done == 1 {
            return piece;
        }
        assert!(sealed.rows > 0);
    }
    unreachable!("it ends when there are no rows")
}

/// Impressions by minute, ad and region, and the blocks' first buckets and parts.
type Found = (BTreeMap<(i32, Symbol, Symbol), i64>, Vec<(i32, u16, usize)>);

fn found(state: &Memory) -> Found {
    let (mut cells, mut blocks) = (BTreeMap::new(), Vec::new());
    let Ok(()) = state.range(Family::BlocksMinute, &[], &[0xff; 32], &mut |key, value| {
        let block = Block::parse(Grain::Minute, key, value).unwrap();
        if block.key.cuboid == Cuboid::Full {
            blocks.push((block.key.first.at, block.key.part, block.cells()));
            each_cell(&block, |place, [ad, _, region, _], fields| {
                assert!(fields[METRICS..].iter().all(|n| *n == 0));
                let before = cells.insert((place.at, ad, region), fields[0]);
                assert_eq!(before, None, "a cell stands in one block");
            })
            .unwrap();
        }
        ControlFlow::Continue(())
    });
    let Ok(()) = state.range(Family::CellsMinute, &[], &[0xff; 32], &mut |_, _| {
        panic!("a row was left")
    });
    (cells, blocks)
}

#[test]
fn a_large_span_is_sealed_in_pieces_and_a_large_bucket_in_parts() {
    let mut state = Memory::default();
    let mut want: BTreeMap<(i32, Symbol, Symbol), i64> = BTreeMap::new();
    let mut put = |state: &mut Memory, minute: i32, ad, regions: std::ops::Range<u32>| {
        add(state, i64::from(minute), ad, regions.clone());
        for region in regions {
            *want.entry((minute, ad, region)).or_default() += 1;
        }
    };
    for minute in 0..6 {
        put(&mut state, minute, 1, 0..30_000);
    }
    // More than a block holds in one minute.
    (0..3).for_each(|ad| put(&mut state, 7, ad, 0..40_000));
    assert_eq!(seal_all(&mut state), 3);
    // Late events: in a minute that has cells, beside them, and all over the hour.
    put(&mut state, 7, 1, 39_990..40_010);
    put(&mut state, 6, 9, 0..5);
    (0..6).for_each(|minute| put(&mut state, minute, 2, 7..8));
    assert!(seal_all(&mut state) > 1);
    let (cells, blocks) = found(&state);
    assert!(
        cells == want,
        "{} cells, {} wanted",
        cells.len(),
        want.len()
    );
    assert!(
        blocks.iter().all(|(_, _, cells)| *cells <= MAX_CELLS),
        "{blocks:?}"
    );
    assert!(blocks.iter().any(|(_, part, _)| *part > 0), "{blocks:?}");
    assert!(blocks.len() <= 7, "{blocks:?}");
}

#[test]
fn a_damaged_block_is_named_and_nothing_is_lost() {
    let mut state = Memory::default();
    add(&mut state, 4, 1, 0..10);
    seal_all(&mut state);
    add(&mut state, 4, 1, 0..10);
    let mut changes = Changes::default();
    let Ok(()) = state.range(Family::BlocksMinute, &[], &[0xff; 32], &mut |key, value| {
        let mut value = value.to_vec();
        let last = value.len() / 2;
        value[last] ^= 1;
        changes.put(
            Family::BlocksMinute,
            |k| k.extend_from_slice(key),
            |v| v.append(&mut value),
        );
        ControlFlow::Continue(())
    });
    state.write(&changes);
    let error = seal(
        &state,
        CAMPAIGN,
        &[hour()],
        &Horizon::default(),
        &mut Changes::default(),
    )
    .unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("minutes of 2024-10-04T00Z") && said.contains("checksum"),
        "{said}"
    );
}

/// Adds a row of impressions of some regions on a day, and its marker.
fn add_day(state: &mut Memory, day: i32, regions: std::ops::Range<u32>) {
    let mut changes = Changes::default();
    let bucket = Bucket::Day(day);
    let key = RowKey {
        campaign: CAMPAIGN,
        bucket,
        ad: 1,
    };
    changes.push_with(
        Target::Family(Family::CellsDay),
        Op::Merge,
        |k| key.encode(k),
        |v| {
            let mut list = ListWriter::default();
            for region in regions {
                list.push(v, ListPlace::new(1, region, 2), |v| encode_sums(&[1], v));
            }
        },
    );
    mark(&mut changes, Section::of(bucket));
    state.write(&changes);
}

fn seal_days(state: &mut Memory, days: impl IntoIterator<Item = i32>) -> Sealed {
    let sections: Vec<Section> = days
        .into_iter()
        .map(|day| Section::of(Bucket::Day(day)))
        .collect();
    let mut changes = Changes::default();
    let sealed = seal(
        state,
        CAMPAIGN,
        &sections,
        &Horizon::default(),
        &mut changes,
    )
    .unwrap();
    state.write(&changes);
    assert_eq!(sealed.done, sections.len());
    sealed
}

/// The cells of the full blocks of days, block by block.
fn blocks_of_days(state: &Memory) -> Vec<usize> {
    let mut blocks = Vec::new();
    let Ok(()) = state.range(Family::BlocksDay, &[], &[0xff; 32], &mut |key, value| {
        let block = Block::parse(Grain::Day, key, value).unwrap();
        if block.key.cuboid == Cuboid::Full {
            blocks.push(block.cells());
        }
        ControlFlow::Continue(())
    });
    blocks
}

fn count(state: &Memory, family: Family) -> usize {
    let mut rows = 0;
    let Ok(()) = state.range(family, &[], &[0xff; 32], &mut |_, _| {
        rows += 1;
        ControlFlow::Continue(())
    });
    rows
}

/// 2024-03-01, the first of 31 days.
const MARCH: i32 = 19_783;

#[test]
fn days_of_a_month_sealed_one_by_one_are_few_blocks_seldom_written_again() {
    let mut state = Memory::default();
    let mut written = 0;
    for day in 0..31i32 {
        add_day(&mut state, MARCH + day, 0..100);
        // The day that is not over stays a row, and keeps its marker.
        if let Some(over) = day.checked_sub(1).filter(|over| *over >= 0) {
            let sealed = seal_days(&mut state, [MARCH + over]);
            assert_eq!((sealed.rows, sealed.blocks), (1, 6));
            let blocks = blocks_of_days(&state);
            // As many blocks as the number of sealed days has ones, the largest first.
            let want: Vec<usize> = (0..5)
                .rev()
                .filter(|bit| (over + 1) >> bit & 1 == 1)
                .map(|bit| 100 << bit)
                .collect();
            assert_eq!(blocks, want, "day {over}");
            written += blocks.last().copied().unwrap_or_default();
        }
        assert_eq!(count(&state, Family::CellsDay), 1);
        assert_eq!(count(&state, Family::OpenSpans), 1);
    }
    // 3,000 cells, each written by every block that it was carried into.
    assert!(written <= 3_000 * 5, "{written}");
    // The last day of the month takes everything in.
    seal_days(&mut state, [MARCH + 30]);
    assert_eq!(blocks_of_days(&state), [3_100]);
    assert_eq!(count(&state, Family::CellsDay), 0);
    assert_eq!(count(&state, Family::OpenSpans), 0);
    // What comes late is added to its day.
    add_day(&mut state, MARCH + 4, 99..102);
    assert_eq!(count(&state, Family::OpenSpans), 1);
    seal_days(&mut state, [MARCH + 4]);
    assert_eq!(blocks_of_days(&state), [3_102]);
}

#[test]
fn days_sealed_from_the_last_one_back_and_full_blocks_are_joined_as_far_as_they_fit() {
    let mut state = Memory::default();
    for day in (0..30).rev() {
        add_day(&mut state, MARCH + day, 0..10);
        seal_days(&mut state, [MARCH + day]);
    }
    assert_eq!(blocks_of_days(&state), [20, 40, 80, 160]);
    let mut state = Memory::default();
    for day in 0..31 {
        add_day(&mut state, MARCH + day, 0..MAX_CELLS as u32 / 2);
        seal_days(&mut state, [MARCH + day]);
    }
    let blocks = blocks_of_days(&state);
    assert_eq!(blocks.len(), 16, "{blocks:?}");
    // A bucket of several blocks stays by itself.
    let mut state = Memory::default();
    add_day(&mut state, MARCH, 0..MAX_CELLS as u32 + 10);
    seal_days(&mut state, [MARCH]);
    add_day(&mut state, MARCH + 1, 0..100);
    seal_days(&mut state, [MARCH + 1]);
    add_day(&mut state, MARCH + 30, 0..10);
    seal_days(&mut state, [MARCH + 30]);
    assert_eq!(blocks_of_days(&state), [MAX_CELLS, 10, 110]);
}

#[test]
fn only_the_sections_that_are_named_are_sealed() {
    let mut state = Memory::default();
    for day in [0, 1, 5, 9] {
        add_day(&mut state, MARCH + day, 0..3);
    }
    let sealed = seal_days(&mut state, [MARCH, MARCH + 5]);
    assert_eq!((sealed.rows, sealed.cells), (2, 6));
    assert_eq!(blocks_of_days(&state), [6]);
    assert_eq!(count(&state, Family::CellsDay), 2);
    assert_eq!(count(&state, Family::OpenSpans), 2);
    // Days within the block that follow later.
    seal_days(&mut state, [MARCH + 1, MARCH + 9]);
    assert_eq!(blocks_of_days(&state), [12]);
    assert_eq!(count(&state, Family::OpenSpans), 0);
}

#[test]
fn few_cells_are_one_block_until_they_are_many() {
    let mut state = Memory::default();
    let blocks = |state: &Memory| {
        let mut blocks = Vec::new();
        let Ok(()) = state.range(Family::BlocksDay, &[], &[0xff; 32], &mut |key, value| {
            let block = Block::parse(Grain::Day, key, value).unwrap();
            blocks.push((block.key.cuboid, block.cells()));
            ControlFlow::Continue(())
        });
        blocks
    };
    add_day(&mut state, MARCH + 9, 0..1);
    seal_days(&mut state, [MARCH + 9]);
    assert_eq!(blocks(&state), [(Cuboid::Few, 1)]);
    // Before it, and in it.
    add_day(&mut state, MARCH + 2, 5..6);
    seal_days(&mut state, [MARCH + 2]);
    assert_eq!(blocks(&state), [(Cuboid::Few, 2)]);
    add_day(&mut state, MARCH + 9, 0..1);
    seal_days(&mut state, [MARCH + 9]);
    assert_eq!(blocks(&state), [(Cuboid::Few, 2)]);
    add_day(&mut state, MARCH + 4, 0..FEW_CELLS as u32 - 1);
    seal_days(&mut state, [MARCH + 4]);
    let many = FEW_CELLS + 1;
    let want = [
        (Cuboid::Full, many),
        (Cuboid::RegionDevice, many),
        (Cuboid::AdCreative, 3),
        (Cuboid::Region, many),
        (Cuboid::Device, 3),
        (Cuboid::Total, 3),
    ];
    assert_eq!(blocks(&state), want);
    // They do not become few again.
    add_day(&mut state, MARCH + 20, 0..1);
    seal_days(&mut state, [MARCH + 20]);
    assert!(
        blocks(&state)
            .iter()
            .all(|(cuboid, _)| *cuboid != Cuboid::Few)
    );
}
