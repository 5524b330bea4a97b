//! Runs and rows return, and what recovery makes of them.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn a_run_gives_its_rows_back_in_their_order() {
    let mut builder = RunBuilder::default();
    builder.push(b"a", 30);
    builder.push(b"", 20);
    builder.push(b"ccc", 25);
    assert_eq!((builder.count(), builder.bytes()), (3, 3 * 4 + 4));
    let value = builder.finish().to_vec();
    assert_eq!(builder.count(), 0);
    let mut run = Run::parse(&value).unwrap();
    assert_eq!((run.count, run.oldest_ms), (3, 20));
    let rest = RunInfo {
        first: 8,
        count: 2,
        oldest_ms: 20,
        bytes: 2 * 4 + 3,
    };
    assert_eq!(run.info(7, 8), Some(rest));
    assert_eq!(run.next_row(), Some(&b"a"[..]));
    assert_eq!(run.next_row(), Some(&b""[..]));
    assert_eq!(run.next_row(), Some(&b"ccc"[..]));
    assert_eq!(run.next_row(), None);
    // The room is used again, and nothing of what was there before shows.
    builder.push(b"z", 9);
    let mut again = Run::parse(builder.finish()).unwrap();
    assert_eq!((again.count, again.oldest_ms), (1, 9));
    assert_eq!(
        (again.next_row(), again.next_row()),
        (Some(&b"z"[..]), None)
    );
}

#[test]
fn a_cut_run_is_noticed() {
    let mut builder = RunBuilder::default();
    builder.push(b"abc", 1);
    builder.push(b"def", 1);
    let value = builder.finish();
    for end in 0..value.len() {
        let Some(mut run) = Run::parse(&value[..end]) else {
            continue;
        };
        let rows = std::iter::from_fn(|| run.next_row()).count() as u64;
        assert!(rows < run.count, "{end} bytes");
        assert!(end >= RUN_HEADER_BYTES + 7 || run.info(0, 1).is_none());
    }
}

#[test]
fn a_refused_row_comes_apart() {
    let row = refused_row("bad_id", b"{}");
    assert_eq!(refused_parts(&row), Some(("bad_id", &b"{}"[..])));
    assert_eq!(refused_parts(&row[..4]), None);
    assert_eq!(refused_parts(&[]), None);
}

#[test]
fn a_lane_is_recovered_from_its_position_and_its_runs() {
    let run = |first, count, oldest_ms| RunInfo {
        first,
        count,
        oldest_ms,
        bytes: count * 10,
    };
    let lane = recovered_lane(4, &[run(4, 2, 70), run(6, 3, 60)]).unwrap();
    assert_eq!((lane.acked(), lane.next(), lane.head()), (4, 4, 9));
    assert_eq!(lane.oldest_ms(), Some(60));
    // Nothing is left: everything was acknowledged, and a head below it would be a second use of a counter.
    let lane = recovered_lane(4, &[]).unwrap();
    assert_eq!((lane.acked(), lane.head(), lane.oldest_ms()), (4, 4, None));
    // The position was not written before the kill, and what lies below the first run was evicted.
    let lane = recovered_lane(0, &[run(5, 1, 8)]).unwrap();
    assert_eq!((lane.acked(), lane.head()), (5, 6));
    assert_eq!(
        recovered_lane(0, &[run(0, 2, 1), run(3, 1, 1)]).unwrap_err(),
        MissingRun {
            expected: 2,
            found: 3
        }
    );
}
