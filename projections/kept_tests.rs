//! Plans against what is kept, as a table: what is read in the place of what is gone, and what is refused.
#![allow(clippy::unwrap_used)]

use chrono_tz::Tz;

use super::*;
use crate::plan::HourRange;
use crate::spans::Retention;

fn ms(text: &str) -> i64 {
    chrono::DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

/// What is kept on 2026-11-27T06:40Z by default: minutes from 08-29T06:00Z, hours from 2024-11-27.
fn horizon() -> Horizon {
    Retention::OF_QUARTERS.horizon(ms("2026-11-27T06:40:00Z"))
}

fn plan(start: &str, end: &str, granularity: Granularity, zone: Tz, source: Source) -> Plan {
    Plan::new(ms(start), ms(end), granularity, zone, source).unwrap()
}

const NEW_YORK: Tz = Tz::America__New_York;

#[test]
fn what_is_gone_is_refused_with_its_time_and_what_is_there_is_read() {
    use Granularity::{Day, Hour, Minute, Total};
    let table = [
        // Minutes: from the horizon's own hour on.
        ("2026-08-29T06:00:00Z", "2026-08-29T09:00:00Z", Minute, None),
        (
            "2026-08-29T05:59:00Z",
            "2026-08-29T09:00:00Z",
            Minute,
            Some(
                "minute counts are kept from 2026-08-29T06:00:00Z on; ask for granularity=hour or coarser, or begin there",
            ),
        ),
        // Hours of New York's 27 November 2024 on.
        ("2024-11-27T05:00:00Z", "2024-12-01T05:00:00Z", Hour, None),
        (
            "2024-11-27T04:00:00Z",
            "2024-12-01T05:00:00Z",
            Hour,
            Some(
                "hour counts are kept from 2024-11-27 on; ask for granularity=day or total, or begin there",
            ),
        ),
        ("2001-01-01T00:00:00Z", "2026-01-01T00:00:00Z", Day, None),
        // A total of whole days, of whole hours, and with minutes at its ends.
        ("2001-01-01T05:00:00Z", "2026-01-01T05:00:00Z", Total, None),
        ("2025-01-01T09:00:00Z", "2026-01-01T11:00:00Z", Total, None),
        (
            "2025-01-01T09:10:00Z",
            "2026-01-01T11:00:00Z",
            Total,
            Some(
                "minute counts are kept from 2026-08-29T06:00:00Z on; begin and end at whole hours, or begin there",
            ),
        ),
        (
            "2023-01-01T09:00:00Z",
            "2026-01-01T05:00:00Z",
            Total,
            Some(
                "hour counts are kept from 2024-11-27 on; begin and end at whole days, or begin there",
            ),
        ),
        ("2025-01-01T09:00:00Z", "2026-11-01T11:07:00Z", Total, None),
    ];
    for (start, end, granularity, refused) in table {
        let planned = plan(start, end, granularity, NEW_YORK, Source::Civil);
        let read = planned.clone().within(&horizon());
        let read = read.unwrap();
        let said: Vec<String> = read.gone.iter().map(|g| g.refusal.to_string()).collect();
        assert_eq!(said.first().map(String::as_str), refused, "{start} {end}");
        if refused.is_none() {
            assert_eq!(
                (
                    &read.days,
                    &read.hours,
                    &read.minutes,
                    read.whole_hours.len()
                ),
                (&planned.days, &planned.hours, &planned.minutes, 0),
                "{start}"
            );
        }
        // What is gone and what is read make up what was planned.
        let instants = |plan: &Plan| -> i64 {
            let hours = plan.hours.iter().map(|h| h.to_ms - h.from_ms);
            let minutes = plan.minutes.iter().map(|m| m.end - m.start);
            hours.chain(minutes).sum()
        };
        let gone: i64 = read.gone.iter().map(|g| g.part.end - g.part.start).sum();
        assert_eq!(instants(&planned), instants(&read) + gone, "{start} {end}");
    }
    let all = plan(
        "2001-01-01T00:00:00Z",
        "2001-01-02T00:00:00Z",
        Hour,
        NEW_YORK,
        Source::Civil,
    );
    assert!(all.within(&Horizon::default()).is_ok());
    let months = Retention {
        keep_ms: [None, None, Some(40 * 86_400_000)],
    };
    let days = plan(
        "2026-09-30T00:00:00Z",
        "2026-11-01T00:00:00Z",
        Day,
        Tz::UTC,
        Source::Civil,
    );
    let error = days
        .within(&months.horizon(ms("2026-11-27T00:00:00Z")))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "day counts are kept from 2026-10-01 on; begin there"
    );
}

#[test]
fn another_clocks_buckets_are_made_of_whole_hours_where_minutes_are_gone() {
    let (start, end) = ("2026-08-28T00:00:00Z", "2026-08-31T00:00:00Z");
    let read = plan(start, end, Granularity::Day, Tz::UTC, Source::Minutes)
        .within(&horizon())
        .unwrap();
    let seam = ms("2026-08-29T06:00:00Z");
    assert_eq!(
        read.whole_hours,
        vec![Range {
            start: ms(start),
            end: seam
        }]
    );
    assert_eq!(
        read.minutes,
        vec![Range {
            start: seam,
            end: ms(end)
        }]
    );
    assert_eq!(read.hours, Vec::<HourRange>::new());
    let hours = &read.whole_hours[0];
    let day = |text: &str| BucketKey {
        at: ms(text) / 86_400_000,
        offset_s: 0,
    };
    let placed = |text| read.place_whole_hour(hours, ms(text));
    assert_eq!(
        placed("2026-08-28T23:00:00Z"),
        Ok(Some(day("2026-08-28T00:00:00Z")))
    );
    assert_eq!(
        placed("2026-08-29T05:00:00Z"),
        Ok(Some(day("2026-08-29T00:00:00Z")))
    );
    // What is read by minutes, and what is before.
    assert_eq!(placed("2026-08-29T06:00:00Z"), Ok(None));
    assert_eq!(placed("2026-08-27T23:00:00Z"), Ok(None));
    // An hour of Kolkata's clock begins at half past: within a day of UTC, but not across midnight.
    assert_eq!(
        placed("2026-08-28T21:30:00Z"),
        Ok(Some(day("2026-08-28T00:00:00Z")))
    );
    for across in [
        "2026-08-28T23:30:00Z",
        "2026-08-29T05:30:00Z",
        "2026-08-27T23:30:00Z",
    ] {
        let error = placed(across).unwrap_err();
        assert!(
            error.to_string().contains("from 2026-08-29T06:00:00Z on"),
            "{error}"
        );
    }
    // Hours of UTC are not made of Kolkata's.
    let read = plan(start, end, Granularity::Hour, Tz::UTC, Source::Minutes)
        .within(&horizon())
        .unwrap();
    let hours = &read.whole_hours[0];
    assert!(
        read.place_whole_hour(hours, ms("2026-08-28T21:30:00Z"))
            .is_err()
    );
    assert!(
        read.place_whole_hour(hours, ms("2026-08-28T21:00:00Z"))
            .is_ok_and(|b| b.is_some())
    );
    // Lord Howe's clock goes to 11:00 at 02:00+10:30: its half hours are no whole ones.
    let change = Retention::OF_QUARTERS.horizon(ms("2027-01-10T00:00:00Z"));
    let howe = plan(
        "2026-10-03T00:00:00Z",
        "2026-10-05T00:00:00Z",
        Granularity::Hour,
        Tz::Australia__Lord_Howe,
        Source::Minutes,
    )
    .within(&change)
    .unwrap();
    let hours = &howe.whole_hours[0];
    assert!(
        howe.place_whole_hour(hours, ms("2026-10-03T13:30:00Z"))
            .is_ok_and(|b| b.is_some())
    );
    assert!(
        howe.place_whole_hour(hours, ms("2026-10-03T15:00:00Z"))
            .is_err()
    );
    // Hours are gone as well.
    let old = plan(
        "2024-11-01T00:00:00Z",
        "2024-12-31T00:00:00Z",
        Granularity::Day,
        Tz::UTC,
        Source::Minutes,
    );
    let old = old.within(&horizon()).unwrap();
    let [gone] = &old.gone[..] else {
        panic!("{:?}", old.gone);
    };
    // Somewhere on earth the 27th, whose hours are kept, begins at noon of UTC.
    assert_eq!(
        gone.part,
        ms("2024-11-01T00:00:00Z")..ms("2024-11-27T12:00:00Z")
    );
    assert_eq!((gone.told_by, old.whole_hours.len()), (Grain::Day, 1));
    let said = gone.refusal.to_string();
    assert!(
        said.contains("hour counts are kept from 2024-11-27 on"),
        "{said}"
    );
}
