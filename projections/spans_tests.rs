//! Spans: which bucket is in which, when each is over, and what a retention keeps.
#![allow(clippy::unwrap_used)]

use chrono::Datelike;
use proptest::prelude::*;

use super::*;

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

#[test]
fn a_span_is_an_hour_a_civil_day_and_a_month() {
    let at = |grain, text: &str, offset_s| {
        Span::of(Bucket::of(grain, ms(text) / 1_000, offset_s)).to_string()
    };
    assert_eq!(
        at(Grain::Minute, "2026-03-08T11:59:59Z", -18_000),
        "minutes of 2026-03-08T11Z"
    );
    assert_eq!(
        at(Grain::Hour, "2026-03-08T04:59:59Z", -18_000),
        "hours of 2026-03-07"
    );
    assert_eq!(
        at(Grain::Day, "2026-03-01T04:59:59Z", -18_000),
        "days of 2026-02"
    );
}

#[test]
fn what_is_kept_begins_at_whole_spans() {
    let horizon = Retention::OF_QUARTERS.horizon(ms("2026-11-27T06:40:00Z"));
    assert_eq!(
        horizon.first_ms(Grain::Minute),
        Some(ms("2026-08-29T06:00:00Z"))
    );
    assert_eq!(
        horizon.first_ms(Grain::Hour),
        Some(ms("2024-11-27T00:00:00Z"))
    );
    assert_eq!(horizon.first_ms(Grain::Day), None);
    let minute = |text: &str| Span::of(Bucket::Minute(ms(text) / 60_000));
    assert!(horizon.keeps(minute("2026-08-29T06:00:00Z")));
    assert!(!horizon.keeps(minute("2026-08-29T05:59:00Z")));
    let months = Retention {
        keep_ms: [None, None, Some(40 * DAY_MS)],
    };
    assert_eq!(
        months
            .horizon(ms("2026-11-27T00:00:00Z"))
            .first_ms(Grain::Day),
        Some(ms("2026-10-01T00:00:00Z"))
    );
    assert_eq!(horizon.and(&Horizon::default()), horizon);
}

proptest! {
    #[test]
    fn a_bucket_returns_from_its_place(a in bucket(), b in bucket()) {
        let span = Span::of(a);
        prop_assert_eq!(span.bucket(span.place(a)), Some(a));
        let (from, to) = span.hot_range();
        let key = match a {
            Bucket::Minute(n) => n,
            Bucket::Hour { start_s, .. } => start_s,
            Bucket::Day(n) => i64::from(n),
        };
        prop_assert!(from <= key && key < to);
        if Span::of(b) == span {
            prop_assert_eq!(span.place(a).cmp(&span.place(b)), a.cmp(&b));
        }
    }

    #[test]
    fn months_are_those_of_the_calendar(day in -1_000_000i64..1_000_000) {
        let date = chrono::NaiveDate::from_num_days_from_ce_opt((day + 719_163) as i32).unwrap();
        let month = i64::from(date.year()) * 12 + i64::from(date.month0());
        prop_assert_eq!(month_of(day), month);
        prop_assert_eq!(first_day_of(month), day - i64::from(date.day0()));
    }

    #[test]
    fn horizons_return(at in 0i64..4_102_444_800_000) {
        let horizon = Retention::OF_QUARTERS.horizon(at);
        let mut row = Vec::new();
        horizon.encode(&mut row);
        prop_assert_eq!(Horizon::decode(&row), Ok(horizon));
    }

    #[test]
    fn no_number_panics(number: i32, at: i32, offset_s: i32, n: i64, day: i32) {
        for grain in Grain::ALL {
            let span = Span { grain, number };
            let _ = (span.bucket(Place { at, offset_s }), span.hot_range(), span.to_string());
        }
        for bucket in [Bucket::Minute(n), Bucket::Hour { start_s: n, offset_s }, Bucket::Day(day)] {
            let span = Span::of(bucket);
            let _ = span.place(bucket);
        }
    }
}
