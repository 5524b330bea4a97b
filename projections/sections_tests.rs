//! Sections: which buckets are in which, when each is over, and their markers.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::symbols::Symbol;

fn ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

fn bucket() -> impl Strategy<Value = Bucket> {
    // Years 1900 to 2100, offsets to a quarter of an hour and some to the second.
    let offset = prop_oneof![(-56i32..=56).prop_map(|q| q * 900), -50_000i32..50_000];
    (-2_208_988_800i64..4_102_444_800, offset, 0usize..3)
        .prop_map(|(time_s, offset_s, grain)| Bucket::of(Grain::ALL[grain], time_s, offset_s))
}

fn number(bucket: Bucket) -> i64 {
    match bucket {
        Bucket::Minute(n) => n,
        Bucket::Hour { start_s, .. } => start_s,
        Bucket::Day(n) => i64::from(n),
    }
}

#[test]
fn a_section_is_over_with_its_hour_or_day() {
    let section =
        |grain, text: &str, offset_s| Section::of(Bucket::of(grain, ms(text) / 1_000, offset_s));
    let kolkata = 19_800;
    let table = [
        (
            Grain::Minute,
            "2026-03-08T11:59:59Z",
            0,
            "2026-03-08T12:00:00Z",
            false,
        ),
        // 22:30 to 23:30 of Kolkata's clock are 17:00 to 18:00 of UTC; its last hour of the day begins at 17:30.
        (
            Grain::Hour,
            "2026-03-07T17:10:00Z",
            kolkata,
            "2026-03-07T17:30:00Z",
            false,
        ),
        (
            Grain::Hour,
            "2026-03-07T17:40:00Z",
            kolkata,
            "2026-03-07T18:30:00Z",
            true,
        ),
        // New York's 7 March ends at 05:00 UTC of the 8th.
        (
            Grain::Day,
            "2026-03-08T04:59:59Z",
            -18_000,
            "2026-03-08T05:00:00Z",
            false,
        ),
        (
            Grain::Day,
            "2026-03-31T12:00:00Z",
            0,
            "2026-04-01T00:00:00Z",
            true,
        ),
    ];
    for (grain, at, offset_s, end, is_last) in table {
        let section = section(grain, at, offset_s);
        assert_eq!(section.end_ms(Some(offset_s)), ms(end), "{at}");
        assert_eq!(
            section.is_last() || grain == Grain::Minute,
            is_last || grain == Grain::Minute,
            "{at}"
        );
    }
    // Whoever does not know a day's offset waits for the date line; hours and minutes say when they end.
    let day = section(Grain::Day, "2026-03-07T12:00:00Z", 0);
    assert_eq!(day.end_ms(None), ms("2026-03-08T12:00:00Z"));
    let hour = section(Grain::Hour, "2026-03-07T12:00:00Z", 0);
    assert_eq!(hour.end_ms(None), hour.end_ms(Some(0)));
    assert!(section(Grain::Minute, "2026-03-07T12:00:00Z", 0).is_last());
}

#[test]
fn sections_that_follow_each_other_are_a_run() {
    let hour = |n: i64, offset_s| {
        Section::of(Bucket::Hour {
            start_s: n * 3_600 - i64::from(offset_s),
            offset_s,
        })
    };
    let sections = [
        hour(1, 0),
        hour(2, 0),
        hour(4, 0),
        hour(6, 3_600),
        hour(7, 3_600),
    ];
    let runs = Run::of(sections);
    let ranges: Vec<(i64, i64)> = runs.iter().map(Run::range).collect();
    assert_eq!(ranges, [(3_600, 7_201), (14_400, 14_401), (18_000, 21_601)]);
    let of = |start_s, offset_s| Bucket::Hour { start_s, offset_s };
    assert!(runs[2].holds(of(21_600, 3_600)) && !runs[2].holds(of(21_600, 0)));
    assert_eq!(Run::of([]), []);
}

proptest! {
    #[test]
    fn a_section_is_within_one_span_and_holds_its_buckets(a in bucket(), b in bucket()) {
        let section = Section::of(a);
        prop_assert_eq!(section.span(), Span::of(a));
        prop_assert!(section.first <= number(a) && number(a) < section.end());
        let (from, to) = section.span().hot_range();
        prop_assert!(from <= section.first && section.end() <= to);
        if a.grain() == b.grain() {
            let (x, y) = (section, Section::of(b));
            prop_assert!(x == y || x.cmp(&y) == a.cmp(&b));
        }
    }

    #[test]
    fn markers_return_and_are_found(a in bucket(), b in bucket(), campaign: Symbol) {
        let bytes = |bucket| {
            let mut key = Vec::new();
            OpenSection { campaign, section: Section::of(bucket) }.encode(&mut key);
            key
        };
        let open = OpenSection { campaign, section: Section::of(a) };
        prop_assert_eq!(OpenSection::decode(&bytes(a)), Ok(open));
        if a.grain() == b.grain() {
            let (from, to) = (number(a).min(number(b)), number(a).max(number(b)) + 1);
            let (from, to) = open_range(a.grain(), campaign, from, to);
            prop_assert!([a, b].into_iter().all(|n| bytes(n) >= from && bytes(n) < to));
            let other = OpenSection { campaign, section: Section::of(b) };
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), open.cmp(&other));
        }
    }

    #[test]
    fn no_number_panics(first: i64, offset_s: i32) {
        for grain in Grain::ALL {
            let section = Section { grain, first, offset_s };
            let _ = (section.span(), section.is_last(), section.end(), section.end_ms(Some(offset_s)));
            let _ = open_range(grain, 1, first, first);
        }
    }
}
