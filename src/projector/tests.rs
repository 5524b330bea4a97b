//! Whether a stream is taken for the one that was folded, and that a load is folded whole.

#![allow(clippy::unwrap_used)]

use adtally_projections::position::Position;
use adtally_streams::event::Kind;

use super::ProjectorError;
use super::check::{Facts, check};
use super::figures::{self, Load};
use super::reports;
use crate::store::{Limits, Memory, Shard};

const GOOD: Facts = Facts {
    created_ns: 5,
    first: 1,
    last: 20,
    crc: Some(9),
};

fn at(sequence: u64) -> Option<Position> {
    Some(Position {
        sequence,
        stream_created_ns: 5,
        crc: 9,
        log_time_ms: 0,
    })
}

#[test]
fn only_the_stream_that_was_folded_is_folded_on() {
    assert!(check(3, at(10), &GOOD).is_ok());
    assert!(check(3, at(20), &GOOD).is_ok());
    assert!(check(3, None, &GOOD).is_ok());
    assert!(
        check(
            3,
            None,
            &Facts {
                first: 1,
                last: 0,
                crc: None,
                ..GOOD
            }
        )
        .is_ok()
    );
    // All of it purged, up to the position: nothing is missing.
    assert!(
        check(
            3,
            at(20),
            &Facts {
                first: 21,
                crc: None,
                ..GOOD
            }
        )
        .is_ok()
    );
    let refused = |position, facts: Facts| check(3, position, &facts).unwrap_err();
    assert!(matches!(
        refused(
            at(10),
            Facts {
                created_ns: 6,
                ..GOOD
            }
        ),
        ProjectorError::OtherStream { .. }
    ));
    assert!(matches!(
        refused(at(21), Facts { crc: None, ..GOOD }),
        ProjectorError::Shorter { .. }
    ));
    assert!(matches!(
        refused(
            at(10),
            Facts {
                crc: Some(8),
                ..GOOD
            }
        ),
        ProjectorError::OtherMessage { .. }
    ));
    assert!(matches!(
        refused(
            at(10),
            Facts {
                first: 12,
                crc: None,
                ..GOOD
            }
        ),
        ProjectorError::Purged { .. }
    ));
    assert!(matches!(
        refused(None, Facts { first: 2, ..GOOD }),
        ProjectorError::Purged { before: 1, .. }
    ));
}

#[test]
fn a_measured_load_is_folded_whole() {
    let folder = tempfile::tempdir().unwrap();
    let load = Load {
        kind: Kind::Click,
        events: 5_000,
        frame_events: 256,
        seed: 1,
    };
    let figures = figures::measure(folder.path(), load).unwrap();
    assert!(figures.folded_per_s() > 0.0 && figures.rows > 5_000);
    let shard = Shard::open(
        0,
        "g-figures",
        folder.path(),
        &Memory::new(Limits::default()).unwrap(),
    )
    .unwrap();
    let snapshot = shard.snapshot().unwrap();
    let clicks = reports::totals(&snapshot).unwrap()[Kind::Click as usize];
    assert_eq!(
        (clicks.frames, clicks.events, clicks.applied),
        (20, 5_000, 5_000)
    );
    let producers = reports::producers(&snapshot).unwrap();
    assert_eq!(
        (producers.len(), producers[0].applied[Kind::Click as usize]),
        (1, 5_000)
    );
    assert!(
        reports::bad_frames(&snapshot).unwrap().is_empty()
            && reports::conflicts(&snapshot).unwrap().is_empty()
    );
}
