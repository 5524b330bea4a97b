//! Large spans: pieces, parts of a bucket, and damaged blocks. Sealing against an oracle is in the model's worlds.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;
use crate::cell_list::{ListWriter, Place as ListPlace};
use crate::cells::Bucket;
use crate::family::{Op, Target};
use crate::memory::Memory;
use crate::metrics::{METRICS, encode_sums};
use crate::symbols::Symbol;

const CAMPAIGN: Symbol = 3;
const HOUR: i64 = 480_000;

fn open() -> OpenSpan {
    OpenSpan {
        span: Span {
            grain: Grain::Minute,
            number: HOUR as i32,
        },
        campaign: CAMPAIGN,
    }
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
    changes.put(Family::OpenSpans, |k| open().encode(k), |_| ());
    state.write(&changes);
}

/// Seals until nothing is left, and answers how many pieces that took.
fn seal_all(state: &mut Memory) -> usize {
    for piece in 1.. {
        let mut changes = Changes::default();
        let sealed = seal(state, open(), &Horizon::default(), &mut changes).unwrap();
        state.write(&changes);
        if sealed.is_done {
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
    let error = seal(&state, open(), &Horizon::default(), &mut Changes::default()).unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("minutes of 2024-10-04T00Z") && said.contains("checksum"),
        "{said}"
    );
}
