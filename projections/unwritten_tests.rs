//! Parts of cells, and what no fold writes.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::cell_list::{ListWriter, Place};
use crate::cells::{Bucket, Grain, RowKey};
use crate::compare::Fingerprint;
use crate::dump_cells::TakesCells as _;
use crate::family::{Changes, Op};
use crate::memory::Memory;
use crate::metrics::{METRICS, encode_sums};
use crate::sections::{OpenSection, Section};

fn cell(changes: &mut Changes, minute: i64, sums: [i64; METRICS]) {
    let key = RowKey {
        campaign: 20,
        bucket: Bucket::Minute(minute),
        ad: 30,
    };
    let open = OpenSection {
        campaign: key.campaign,
        section: Section::of(key.bucket),
    };
    changes.put(Family::OpenSpans, |k| open.encode(k), |_| ());
    changes.push_with(
        Target::Family(Family::CellsMinute),
        Op::Merge,
        |k| key.encode(k),
        |v| ListWriter::default().push(v, Place::new(2, 3, 1), |v| encode_sums(&sums, v)),
    );
}

/// Takes rows of minutes as they are, in parts.
fn take(unwritten: &mut Unwritten, changes: &Changes) {
    let minutes = Target::Family(Family::CellsMinute);
    for change in changes.iter().filter(|change| change.target == minutes) {
        let row = RowKey::decode(Grain::Minute, change.key).unwrap();
        if unwritten.horizon.keeps(Span::of(row.bucket)) {
            unwritten.taker().row(&row, change.value, true).unwrap();
        }
    }
}

#[test]
fn parts_of_a_cell_add_up_and_cells_before_the_horizon_are_none() {
    let mut first = [0; METRICS];
    (first[0], first[5]) = (7, -3);
    let second = [i64::MAX / 4; METRICS];
    let mut changes = Changes::default();
    cell(&mut changes, 600, first);
    cell(&mut changes, 600, second);
    cell(&mut changes, 601, first);
    let mut whole = Memory::default();
    whole.write(&changes);
    let empty = Memory::default();
    let mut unwritten = Unwritten::begin(&empty, Horizon::default(), None).unwrap();
    take(&mut unwritten, &changes);
    let print = unwritten.finish(&empty).unwrap().print;
    let of_whole = Fingerprint::of(&whole).unwrap();
    assert!(of_whole.differing(&print).is_empty());
    assert_eq!((of_whole.lines, print.lines), (2, 3));

    let keep = crate::spans::Retention {
        keep_ms: [Some(0), None, None],
    };
    let later = keep.horizon(86_400_000);
    let mut unwritten = Unwritten::begin(&empty, later, None).unwrap();
    take(&mut unwritten, &changes);
    let print = unwritten.finish(&empty).unwrap().print;
    assert_eq!(print, Fingerprint::of(&empty).unwrap());
}

#[test]
fn a_block_is_nothing_that_a_fold_writes() {
    let mut changes = Changes::default();
    changes.put(Family::BlocksDay, |k| k.push(1), |v| v.push(1));
    let mut unwritten = Unwritten::begin(&Memory::default(), Horizon::default(), None).unwrap();
    let folded = Folded {
        changes,
        ..Folded::default()
    };
    assert!(unwritten.take(&folded).is_err());
}
