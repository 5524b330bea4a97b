//! How batches are gathered: what a replay waits for, and where a batch ends.

use adtally_streams::event::Kind;
use bytes::Bytes;

use super::*;
use crate::projector::figures::{self, Load};

/// Events of the frames that are gathered.
const FRAME_EVENTS: u32 = 1_024;

fn frame() -> Bytes {
    let frames = figures::frames(Load {
        kind: Kind::Click,
        events: u64::from(FRAME_EVENTS),
        frame_events: FRAME_EVENTS,
        seed: 3,
    });
    frames.concat().into()
}

fn sequences(gathered: &Gathered) -> Vec<u64> {
    gathered
        .entries
        .iter()
        .map(|entry| entry.sequence)
        .collect()
}

/// Gathers messages that are there one after the other up to `last`, and answers whether `until` has ended it.
fn gather(gathered: &mut Gathered, payload: &Bytes, until: Until, last: u64) -> bool {
    let message = |sequence| LogMessage::made(sequence, "events.0.click", payload.clone());
    let mut asked_after = 0;
    gathered.gather_with(message(1), &until, |after, left| {
        assert_eq!(after, asked_after + 1);
        asked_after = after;
        assert!(!left.is_zero() && left <= BATCH_MAX_TIME);
        (after < last).then(|| message(after + 1))
    })
}

#[test]
fn who_waits_for_what_comes_next_gets_a_full_batch() {
    let mut gathered = Gathered::default();
    assert!(!gather(&mut gathered, &frame(), Until::default(), u64::MAX));
    let full = BATCH_MAX_EVENTS as u64 / u64::from(FRAME_EVENTS);
    assert_eq!(sequences(&gathered), (1..=full).collect::<Vec<_>>());
    gathered.clear();
    // Messages without events are limited by their number.
    let empty = Bytes::from_static(b"?");
    assert!(!gather(&mut gathered, &empty, Until::default(), u64::MAX));
    assert_eq!(gathered.entries.len(), BATCH_MAX_MESSAGES);
}

#[test]
fn a_batch_ends_where_nothing_comes_and_where_the_fold_ends() {
    let (mut gathered, payload) = (Gathered::default(), frame());
    assert!(!gather(&mut gathered, &payload, Until::default(), 3));
    assert_eq!(sequences(&gathered), [1, 2, 3]);
    gathered.clear();
    let until = Until {
        sequence: Some(2),
        time_ms: None,
    };
    assert!(gather(&mut gathered, &payload, until, u64::MAX));
    assert_eq!(sequences(&gathered), [1, 2]);
}

#[test]
fn a_batch_that_has_gathered_for_its_time_is_not_waited_with() {
    let mut gathered = Gathered::default();
    let message = |sequence| LogMessage::made(sequence, "events.0.click", Bytes::from_static(b"?"));
    let ended = gathered.gather_with(message(1), &Until::default(), |after, left| {
        std::thread::sleep(left);
        Some(message(after + 1))
    });
    assert!(!ended);
    assert_eq!(sequences(&gathered), [1, 2]);
}
