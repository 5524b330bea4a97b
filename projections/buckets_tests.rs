//! Tests of the buckets: tables written by hand from the zones' published rules, and properties against chrono.
#![allow(clippy::unwrap_used)]

use chrono::{DateTime, Datelike, Offset, TimeZone, Timelike};
use proptest::prelude::*;

use super::*;

fn ms(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

/// A slot as it is printed, by chrono and not by the code under test.
fn shown(slots: &[Slot]) -> Vec<String> {
    slots
        .iter()
        .map(|s| {
            let zone = chrono::FixedOffset::east_opt(s.offset_s).unwrap();
            zone.timestamp_millis_opt(s.time_ms)
                .unwrap()
                .format("%Y-%m-%dT%H:%M:%S%:z")
                .to_string()
        })
        .collect()
}

#[test]
fn hours_of_new_york_over_both_changes() {
    let spring = hour_slots(
        Tz::America__New_York,
        ms("2024-03-10T00:00:00-05:00"),
        ms("2024-03-10T05:00:00-04:00"),
    );
    assert_eq!(
        shown(&spring),
        [
            "2024-03-10T00:00:00-05:00",
            "2024-03-10T01:00:00-05:00",
            "2024-03-10T03:00:00-04:00",
            "2024-03-10T04:00:00-04:00"
        ]
    );
    let autumn = hour_slots(
        Tz::America__New_York,
        ms("2024-11-03T00:00:00-04:00"),
        ms("2024-11-03T03:00:00-05:00"),
    );
    assert_eq!(
        shown(&autumn),
        [
            "2024-11-03T00:00:00-04:00",
            "2024-11-03T01:00:00-04:00",
            "2024-11-03T01:00:00-05:00",
            "2024-11-03T02:00:00-05:00"
        ]
    );
}

#[test]
fn half_hours_of_lord_howe_stand_under_their_own_label() {
    let zone = Tz::Australia__Lord_Howe;
    // 02:00+10:30 becomes 02:30+11:00: the hour 02 has its second half only.
    let spring = hour_slots(
        zone,
        ms("2023-10-01T01:00:00+10:30"),
        ms("2023-10-01T04:00:00+11:00"),
    );
    assert_eq!(
        shown(&spring),
        [
            "2023-10-01T01:00:00+10:30",
            "2023-10-01T02:00:00+11:00",
            "2023-10-01T03:00:00+11:00"
        ]
    );
    assert_eq!(
        hour_extent(zone, ms("2023-10-01T02:45:00+11:00")),
        ms("2023-10-01T02:30:00+11:00")..ms("2023-10-01T03:00:00+11:00")
    );
    // 02:00+11:00 becomes 01:30+10:30: the hour 01 of the new offset has its second half only.
    let autumn = hour_slots(
        zone,
        ms("2024-04-07T00:00:00+11:00"),
        ms("2024-04-07T03:00:00+10:30"),
    );
    assert_eq!(
        shown(&autumn),
        [
            "2024-04-07T00:00:00+11:00",
            "2024-04-07T01:00:00+11:00",
            "2024-04-07T01:00:00+10:30",
            "2024-04-07T02:00:00+10:30"
        ]
    );
    assert_eq!(
        hour_extent(zone, ms("2024-04-07T01:30:00+10:30")),
        ms("2024-04-07T02:00:00+11:00")..ms("2024-04-07T02:00:00+10:30")
    );
}

#[test]
fn hours_of_kolkata_begin_at_half_past() {
    let slots = hour_slots(
        Tz::Asia__Kolkata,
        ms("2024-02-09T03:30:00Z"),
        ms("2024-02-09T05:30:00Z"),
    );
    assert_eq!(
        shown(&slots),
        ["2024-02-09T09:00:00+05:30", "2024-02-09T10:00:00+05:30"]
    );
    assert_eq!(slots[0].time_ms, ms("2024-02-09T03:30:00Z"));
}

#[test]
fn days_have_23_to_25_hours() {
    for (zone, day, hours) in [
        (Tz::America__New_York, "2024-03-10", 23.0),
        (Tz::America__New_York, "2024-11-03", 25.0),
        (Tz::America__New_York, "2024-07-04", 24.0),
        (Tz::Australia__Lord_Howe, "2023-10-01", 23.5),
        (Tz::Australia__Lord_Howe, "2024-04-07", 24.5),
        (Tz::Asia__Kolkata, "2024-03-10", 24.0),
        (Tz::UTC, "2024-03-10", 24.0),
    ] {
        let date = chrono::NaiveDate::parse_from_str(day, "%Y-%m-%d").unwrap();
        let n = date
            .signed_duration_since(chrono::NaiveDate::default())
            .num_days();
        assert_eq!(
            (day_start(zone, n + 1) - day_start(zone, n)) as f64 / HOUR_MS as f64,
            hours,
            "{zone} {day}"
        );
    }
}

#[test]
fn a_day_begins_where_its_clock_first_shows_it() {
    // Havana goes from 00:00-05:00 to 01:00-04:00, so that day begins at one o'clock.
    let n = |y, m, d| {
        chrono::NaiveDate::from_ymd_opt(y, m, d)
            .unwrap()
            .signed_duration_since(chrono::NaiveDate::default())
            .num_days()
    };
    let havana = day_slots(Tz::America__Havana, &(n(2024, 3, 10)..n(2024, 3, 11)));
    assert_eq!(shown(&havana), ["2024-03-10T01:00:00-04:00"]);
    // Samoa had no 30 December 2011.
    let apia = day_slots(Tz::Pacific__Apia, &(n(2011, 12, 29)..n(2012, 1, 1)));
    assert_eq!(
        shown(&apia),
        ["2011-12-29T00:00:00-10:00", "2011-12-31T00:00:00+14:00"]
    );
    // St. John's was set back at one minute past midnight, into the evening before.
    let johns = Tz::America__St_Johns;
    let slots = day_slots(johns, &(n(2010, 11, 6)..n(2010, 11, 9)));
    assert_eq!(
        shown(&slots),
        [
            "2010-11-06T00:00:00-02:30",
            "2010-11-07T00:00:00-02:30",
            "2010-11-08T00:00:00-03:30"
        ]
    );
    assert_eq!(
        day_close(johns, n(2010, 11, 7)),
        ms("2010-11-07T00:00:00-03:30")
    );
    let first_minute = ms("2010-11-07T00:00:30-02:30");
    assert_eq!(
        days_of(johns, first_minute, first_minute + HOUR_MS / 2),
        n(2010, 11, 6)..n(2010, 11, 8)
    );
    assert_eq!(
        days_of(johns, first_minute, first_minute + 1),
        n(2010, 11, 6)..n(2010, 11, 8)
    );
}

#[test]
fn a_time_shown_twice_is_the_first_and_a_skipped_one_the_change() {
    let zone = Tz::America__New_York;
    let local = |text: &str| ms(&format!("{text}Z"));
    assert_eq!(
        first_showing(zone, local("2024-11-03T01:30:00")),
        ms("2024-11-03T01:30:00-04:00")
    );
    assert_eq!(
        first_showing(zone, local("2024-03-10T02:30:00")),
        ms("2024-03-10T03:00:00-04:00")
    );
    assert_eq!(
        first_showing(zone, local("2024-07-01T12:00:00")),
        ms("2024-07-01T12:00:00-04:00")
    );
}

const ZONES: [Tz; 8] = [
    Tz::UTC,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Asia__Kolkata,
    Tz::America__Havana,
    Tz::Asia__Kathmandu,
    Tz::Africa__Casablanca,
    Tz::Antarctica__Troll,
];

proptest! {
    /// Each instant stands in exactly one listed hour and day, and it is the one that chrono's fields say.
    #[test]
    fn every_instant_stands_in_the_bucket_that_its_clock_shows(
        zone in proptest::sample::select(&ZONES[..]),
        t in ms("2015-01-01T00:00:00Z")..ms("2026-01-01T00:00:00Z"),
        before in 0i64..3 * DAY_MS,
        after in 1i64..3 * DAY_MS,
    ) {
        let local = zone.timestamp_millis_opt(t).unwrap();
        let offset_s = local.offset().fix().local_minus_utc();
        let (from, to) = (hour_extent(zone, t - before).start, hour_extent(zone, t + after - 1).end);
        prop_assert!(from <= t - before && t + after <= to);
        let hours = hour_slots(zone, from, to);
        let mine: Vec<_> = hours
            .iter()
            .filter(|s| {
                let shown = chrono::FixedOffset::east_opt(s.offset_s).unwrap().timestamp_millis_opt(s.time_ms).unwrap();
                s.offset_s == offset_s && (shown.date_naive(), shown.hour()) == (local.date_naive(), local.hour())
            })
            .collect();
        prop_assert_eq!(mine.len(), 1);
        prop_assert_eq!(mine[0].key, BucketKey { at: hour_label(t, offset_s), offset_s });
        prop_assert!(hour_extent(zone, t).contains(&t));

        let days = days_of(zone, t - before, t + after);
        let slots = day_slots(zone, &days);
        let number = i64::from(local.date_naive().num_days_from_ce()) - 719_163;
        prop_assert_eq!(slots.iter().filter(|s| s.key.at == number).count(), 1);
        let slot = slots.iter().find(|s| s.key.at == number).unwrap();
        let first = zone.timestamp_millis_opt(slot.time_ms).unwrap();
        let instant_before = zone.timestamp_millis_opt(slot.time_ms - 1).unwrap();
        prop_assert_eq!(first.date_naive(), local.date_naive());
        prop_assert_ne!(instant_before.date_naive(), local.date_naive());
        prop_assert!(slots.windows(2).all(|w| w[0].time_ms < w[1].time_ms && w[0].key < w[1].key));
    }

    /// Stretches cover the range without a seam, and their offset is chrono's at both ends.
    #[test]
    fn stretches_cover_the_range(
        zone in proptest::sample::select(&ZONES[..]),
        from in ms("1990-01-01T00:00:00Z")..ms("2030-01-01T00:00:00Z"),
        length in 1i64..400 * DAY_MS,
    ) {
        let list = stretches(zone, from, from + length);
        prop_assert_eq!((list[0].from_ms, list[list.len() - 1].to_ms), (from, from + length));
        prop_assert!(list.windows(2).all(|w| w[0].to_ms == w[1].from_ms && w[0].offset_s != w[1].offset_s));
        for s in &list {
            for t in [s.from_ms, s.to_ms - 1] {
                prop_assert_eq!(zone.timestamp_millis_opt(t).unwrap().offset().fix().local_minus_utc(), s.offset_s);
            }
        }
    }
}
