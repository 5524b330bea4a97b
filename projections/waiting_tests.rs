//! What is due when, as a table.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::cells::Bucket;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2024-03-01, of which the month has 31 days.
const MARCH: i64 = 19_783;

fn day(n: i64) -> OpenSection {
    OpenSection {
        campaign: 7,
        section: Section::of(Bucket::Day((MARCH + n) as i32)),
    }
}

fn waiting(most: usize) -> Waiting {
    let margins = Margins {
        after_ms: [HOUR / 6, HOUR, DAY],
    };
    Waiting::new(margins, most)
}

/// The days that are due `hours` after the beginning of March, from its first one on.
fn due(waiting: &Waiting, hours: i64) -> Vec<i64> {
    let due = waiting.due(MARCH * DAY + hours * HOUR);
    due.map_or_else(Vec::new, |(campaign, sections)| {
        assert_eq!(campaign, 7);
        sections.iter().map(|s| s.first - MARCH).collect()
    })
}

#[test]
fn a_day_is_due_a_margin_after_its_end_or_after_what_came_late() {
    let at = |hours: i64| MARCH * DAY + hours * HOUR;
    // Which days were opened at which hour of the month; at which hour it is looked; what is sealed then.
    type Case<'a> = (&'a [(i64, i64)], i64, &'a [i64]);
    let table: [Case<'_>; 9] = [
        (&[(0, 1)], 47, &[]),
        (&[(0, 1)], 48, &[0]),
        (&[(0, 1), (1, 25)], 48, &[0]),
        (&[(0, 1), (1, 25)], 72, &[0, 1]),
        // Late for the first day, when the fifth is not over.
        (&[(0, 100)], 123, &[]),
        (&[(0, 100)], 124, &[0]),
        // What came later than that is sealed with it, and what is not over is not.
        (&[(0, 100), (1, 110), (5, 121)], 124, &[0, 1]),
        // The third day is due, and takes with it what came a minute ago.
        (&[(2, 50), (1, 95)], 96, &[1, 2]),
        // Another month by itself: its first day is the last one of February.
        (&[(-1, 90), (0, 1), (1, 30)], 114, &[0, 1]),
    ];
    for (opened, hours, want) in table {
        let mut waiting = waiting(100);
        for (n, opened) in opened {
            waiting.add(day(*n), Some(0), at(*opened));
        }
        assert_eq!(due(&waiting, hours), want, "{opened:?} at {hours}");
        assert_eq!(waiting.is_due(at(hours)), !want.is_empty());
    }
}

#[test]
fn an_hour_of_todays_is_due_while_the_day_goes_on() {
    let mut waiting = waiting(100);
    let hour = |n: i64| OpenSection {
        campaign: 7,
        section: Section::of(Bucket::Hour {
            start_s: MARCH * 86_400 + n * 3_600,
            offset_s: 0,
        }),
    };
    let at = |hours: i64| MARCH * DAY + hours * HOUR;
    (0..4).for_each(|n| waiting.add(hour(n), None, at(n)));
    let due = |waiting: &Waiting, hours| {
        waiting.due(at(hours)).map(|(_, sections)| {
            sections
                .iter()
                .map(|s| (s.first / 3_600) % 24)
                .collect::<Vec<_>>()
        })
    };
    assert_eq!(due(&waiting, 1), None);
    assert_eq!(due(&waiting, 2), Some(vec![0]));
    assert_eq!(due(&waiting, 4), Some(vec![0, 1, 2]));
    assert_eq!(waiting.behind(at(4)), 3);
    (0..3).for_each(|n| waiting.remove(&hour(n)));
    assert_eq!(due(&waiting, 4), None);
    // A section that was sealed waits again once it has a row again.
    waiting.add(hour(1), None, at(4));
    assert_eq!(due(&waiting, 5), Some(vec![1, 3]));
    waiting.remove_span(7, hour(1).section.span());
    assert_eq!((waiting.behind(i64::MAX), waiting.due(i64::MAX)), (0, None));
}

#[test]
fn those_due_last_make_room_and_are_looked_for_again() {
    let mut waiting = waiting(4);
    for n in [6, 2, 9, 1, 4, 3] {
        waiting.add(day(n), Some(0), i64::MIN);
    }
    let known = |waiting: &Waiting| due(waiting, 10_000);
    assert_eq!(known(&waiting), [1, 2, 3, 4]);
    assert!(!waiting.has_room_for_more());
    waiting.remove(&day(1));
    assert!(!waiting.has_room_for_more());
    waiting.remove(&day(2));
    assert!(waiting.has_room_for_more());
    waiting.look_again();
    for n in [3, 4, 6, 9] {
        waiting.add(day(n), Some(0), i64::MIN);
    }
    assert_eq!(known(&waiting), [3, 4, 6, 9]);
    assert!(!waiting.has_room_for_more());
}
