//! Tests of the plan: every event of the widened range is counted once, in the bucket that chrono says.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use chrono::{DateTime, FixedOffset, NaiveDate, Offset, TimeZone, Timelike};
use proptest::prelude::*;

use super::*;

fn ms(text: &str) -> i64 {
    DateTime::parse_from_rfc3339(text)
        .unwrap()
        .timestamp_millis()
}

fn at(t: i64, offset_s: i32) -> DateTime<FixedOffset> {
    FixedOffset::east_opt(offset_s)
        .unwrap()
        .timestamp_millis_opt(t)
        .unwrap()
}

fn bounds(plan: &Plan) -> (i64, i64) {
    (plan.start_ms, plan.end_ms)
}

/// Cells of one event each, made with chrono's calendar and not with the code under test.
struct Cells {
    minutes: Vec<i64>,
    hours: Vec<(i64, i32)>,
    days: Vec<i64>,
}

fn cells(zone: Tz, times: &[i64]) -> Cells {
    let mut cells = Cells {
        minutes: vec![],
        hours: vec![],
        days: vec![],
    };
    for t in times {
        let local = zone.timestamp_millis_opt(*t).unwrap();
        let offset_s = local.offset().fix().local_minus_utc();
        cells.minutes.push(t.div_euclid(60_000) * 60_000);
        let hour = local
            .naive_local()
            .with_minute(0)
            .unwrap()
            .with_second(0)
            .unwrap()
            .with_nanosecond(0)
            .unwrap();
        cells.hours.push((
            hour.and_utc().timestamp_millis() - i64::from(offset_s) * 1_000,
            offset_s,
        ));
        cells.days.push(
            local
                .date_naive()
                .signed_duration_since(NaiveDate::default())
                .num_days(),
        );
    }
    cells
}

/// What a plan reads of the cells, by the printed time of the bucket.
fn answer(plan: &Plan, cells: &Cells) -> BTreeMap<(i64, i32), usize> {
    let mut keys = Vec::new();
    keys.extend(
        cells
            .days
            .iter()
            .filter(|d| plan.days.contains(d))
            .map(|d| plan.place_day(*d)),
    );
    for range in &plan.hours {
        let mine = |(label, offset): &&(i64, i32)| {
            (range.from_ms..range.to_ms).contains(label) && *offset == range.offset_s
        };
        keys.extend(
            cells
                .hours
                .iter()
                .filter(mine)
                .map(|(label, offset)| plan.place_hour(*label, *offset)),
        );
    }
    let mut hint = 0;
    for range in &plan.minutes {
        keys.extend(
            cells
                .minutes
                .iter()
                .filter(|m| range.contains(m))
                .filter_map(|m| plan.place_minute(*m, &mut hint)),
        );
    }
    let mut out = BTreeMap::new();
    for key in keys {
        let slot = plan
            .slots
            .iter()
            .find(|s| s.key == key)
            .expect("every bucket is listed");
        *out.entry((slot.time_ms, slot.offset_s)).or_default() += 1;
    }
    out
}

/// The same by the calendar alone: how many of the times fall on each label.
fn expected(plan: &Plan, times: &[i64]) -> BTreeMap<(i64, i32), usize> {
    let mut out = BTreeMap::new();
    for t in times
        .iter()
        .filter(|t| (plan.start_ms..plan.end_ms).contains(t))
    {
        let local = plan.zone.timestamp_millis_opt(*t).unwrap();
        let offset_s = local.offset().fix().local_minus_utc();
        let naive = local.naive_local();
        let label = match plan.granularity {
            Granularity::Minute => naive.with_second(0).unwrap().with_nanosecond(0).unwrap(),
            Granularity::Hour => naive.date().and_hms_opt(naive.hour(), 0, 0).unwrap(),
            Granularity::Day => {
                // The first minute of the day that the clock shows: walk back from midnight on.
                let midnight = naive.date().and_hms_opt(0, 0, 0).unwrap();
                let first = (0..36 * 60)
                    .map(|m| {
                        midnight.and_utc().timestamp_millis() - 26 * 3_600_000 + m * 60_000 * 2
                    })
                    .flat_map(|m| [m, m + 60_000])
                    .find(|m| {
                        plan.zone.timestamp_millis_opt(*m).unwrap().date_naive() == naive.date()
                    })
                    .unwrap();
                let local = plan.zone.timestamp_millis_opt(first).unwrap();
                *out.entry((first, local.offset().fix().local_minus_utc()))
                    .or_default() += 1;
                continue;
            }
            Granularity::Total => {
                let start = plan.zone.timestamp_millis_opt(plan.start_ms).unwrap();
                *out.entry((plan.start_ms, start.offset().fix().local_minus_utc()))
                    .or_default() += 1;
                continue;
            }
        };
        let time = label.and_utc().timestamp_millis() - i64::from(offset_s) * 1_000;
        *out.entry((time, offset_s)).or_default() += 1;
    }
    out
}

#[test]
fn ranges_widen_to_whole_buckets_of_the_zone() {
    let ny = Tz::America__New_York;
    let plan = |start, end, granularity, zone| {
        bounds(&Plan::new(ms(start), ms(end), granularity, zone, Source::Civil).unwrap())
    };
    let (a, b) = ("2024-03-09T13:14:15Z", "2024-03-10T15:16:17Z");
    assert_eq!(
        plan(a, b, Granularity::Minute, ny),
        (ms("2024-03-09T13:14:00Z"), ms("2024-03-10T15:17:00Z"))
    );
    assert_eq!(
        plan(a, b, Granularity::Total, ny),
        (ms("2024-03-09T13:14:00Z"), ms("2024-03-10T15:17:00Z"))
    );
    assert_eq!(
        plan(a, b, Granularity::Hour, ny),
        (ms("2024-03-09T13:00:00Z"), ms("2024-03-10T16:00:00Z"))
    );
    assert_eq!(
        plan(a, b, Granularity::Hour, Tz::Asia__Kolkata),
        (ms("2024-03-09T12:30:00Z"), ms("2024-03-10T15:30:00Z"))
    );
    assert_eq!(
        plan(a, b, Granularity::Day, ny),
        (
            ms("2024-03-09T00:00:00-05:00"),
            ms("2024-03-11T00:00:00-04:00")
        )
    );
    // Already whole: nothing is added.
    let day = ("2024-03-10T00:00:00-05:00", "2024-03-11T00:00:00-04:00");
    for granularity in Granularity::ALL {
        assert_eq!(plan(day.0, day.1, granularity, ny), (ms(day.0), ms(day.1)));
    }
    // The half hour that Lord Howe's clock leaves is a whole bucket.
    assert_eq!(
        plan(
            "2024-04-06T15:10:00Z",
            "2024-04-06T15:11:00Z",
            Granularity::Hour,
            Tz::Australia__Lord_Howe
        ),
        (ms("2024-04-06T15:00:00Z"), ms("2024-04-06T15:30:00Z"))
    );
}

#[test]
fn a_total_reads_days_inside_and_finer_cells_at_the_edges() {
    let (start, end) = (
        ms("2024-02-09T22:58:00+05:30"),
        ms("2024-02-13T01:02:00+05:30"),
    );
    let plan = Plan::new(
        start,
        end,
        Granularity::Total,
        Tz::Asia__Kolkata,
        Source::Civil,
    )
    .unwrap();
    // 2024-02-10 is day 19,763 of the Unix epoch (`date -ud @$((19763*86400))`).
    assert_eq!(plan.days, 19_763..19_766);
    let hour = |from: &str, to: &str| HourRange {
        from_ms: ms(from),
        to_ms: ms(to),
        offset_s: 19_800,
    };
    assert_eq!(
        plan.hours,
        [
            hour("2024-02-09T23:00:00+05:30", "2024-02-10T00:00:00+05:30"),
            hour("2024-02-13T00:00:00+05:30", "2024-02-13T01:00:00+05:30")
        ]
    );
    assert_eq!(
        plan.minutes,
        [
            start..ms("2024-02-09T23:00:00+05:30"),
            ms("2024-02-13T01:00:00+05:30")..end
        ]
    );
    // Another clock's days do not help.
    let other = Plan::new(
        start,
        end,
        Granularity::Total,
        Tz::Asia__Kolkata,
        Source::Minutes,
    )
    .unwrap();
    assert!(other.days.is_empty() && other.hours.is_empty());
    assert_eq!((other.minutes.len(), &other.minutes[0]), (1, &(start..end)));
    // A hundred years are a day range and nothing else.
    let century = Plan::new(
        ms("1950-01-01T00:00:00Z"),
        ms("2050-01-01T00:00:00Z"),
        Granularity::Total,
        Tz::UTC,
        Source::Civil,
    )
    .unwrap();
    assert_eq!(
        (century.days.end - century.days.start, century.minutes.len()),
        (36_525, 0)
    );
}

#[test]
fn the_limits_answer_with_what_to_do() {
    let (start, end) = (ms("1950-01-01T00:00:00Z"), ms("2050-01-01T00:00:00Z"));
    let new = |start, end, granularity| {
        Plan::new(
            start,
            end,
            granularity,
            Tz::America__New_York,
            Source::Civil,
        )
    };
    for granularity in [Granularity::Minute, Granularity::Hour, Granularity::Day] {
        let error = new(start, end, granularity).unwrap_err();
        assert_eq!(error, PlanError::TooManyBuckets(granularity));
        assert!(error.to_string().contains("total"), "{error}");
    }
    assert_eq!(new(start, end, Granularity::Total).unwrap().slots.len(), 1);
    assert_eq!(
        new(end, end, Granularity::Total).unwrap_err(),
        PlanError::Empty
    );
    assert_eq!(
        new(start, start + 10_000 * 60_000, Granularity::Minute)
            .unwrap()
            .slots
            .len(),
        10_000
    );
    assert!(new(start, start + 10_001 * 60_000, Granularity::Minute).is_err());
    assert_eq!(
        new(start, start + 10_000 * 3_600_000, Granularity::Hour)
            .unwrap()
            .slots
            .len(),
        10_000
    );
    assert!(new(start, start + 10_001 * 3_600_000, Granularity::Hour).is_err());
    let (first, days) = (ms("2000-01-01T00:00:00-05:00"), |n: i64| {
        ms("2000-01-01T00:00:00-05:00") + n * 86_400_000
    });
    assert_eq!(
        new(first, days(10_000) - 3_600_000, Granularity::Day)
            .unwrap()
            .slots
            .len(),
        10_000
    );
    assert!(new(first, days(10_001) + 3_600_000, Granularity::Day).is_err());
    for length in [
        1,
        6 * 3_600_000,
        7 * 86_400_000,
        9_998 * 86_400_000,
        4_000_000 * 86_400_000,
    ] {
        assert!(
            new(
                start,
                start + length,
                default_granularity(start, start + length)
            )
            .is_ok(),
            "{length}"
        );
    }
}

const ZONES: [Tz; 9] = [
    Tz::UTC,
    Tz::America__New_York,
    Tz::Australia__Lord_Howe,
    Tz::Asia__Kolkata,
    Tz::America__Havana,
    Tz::America__St_Johns,
    Tz::Pacific__Apia,
    Tz::Africa__Casablanca,
    Tz::Europe__Dublin,
];

/// Around these, a clock of the list above changes.
const CHANGES: [&str; 6] = [
    "2024-03-10T07:00:00Z",
    "2024-11-03T05:00:00Z",
    "2024-04-06T15:00:00Z",
    "2010-11-07T02:31:00Z",
    "2011-12-30T10:00:00Z",
    "2023-09-30T15:30:00Z",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever the granularity and whichever cells are read, the answer is the calendar's count.
    #[test]
    fn every_event_is_counted_once_in_its_bucket(
        zone in proptest::sample::select(&ZONES[..]),
        granularity in proptest::sample::select(&Granularity::ALL[..]),
        source in proptest::sample::select(&[Source::Civil, Source::Minutes][..]),
        change in proptest::sample::select(&CHANGES[..]),
        from in -3 * DAY_MS..2 * DAY_MS,
        length in prop_oneof![1i64..2 * HOUR_MS, 1i64..4 * DAY_MS],
        offsets in proptest::collection::vec(-4 * DAY_MS..7 * DAY_MS, 1..120),
    ) {
        let start = ms(change) + from;
        let times: Vec<i64> = offsets.iter().map(|o| ms(change) + o).collect();
        let plan = Plan::new(start, start + length, granularity, zone, source).unwrap();
        prop_assert!(plan.start_ms <= start && start + length <= plan.end_ms);
        prop_assert_eq!(answer(&plan, &cells(zone, &times)), expected(&plan, &times));
    }

    /// Minutes, hours, days and total of one widened range are the same number.
    #[test]
    fn all_granularities_agree(
        zone in proptest::sample::select(&ZONES[..]),
        change in proptest::sample::select(&CHANGES[..]),
        from in -3 * DAY_MS..2 * DAY_MS,
        length in 1i64..3 * DAY_MS,
        offsets in proptest::collection::vec(-4 * DAY_MS..7 * DAY_MS, 1..120),
    ) {
        let start = ms(change) + from;
        let stock = cells(zone, &offsets.iter().map(|o| ms(change) + o).collect::<Vec<_>>());
        let by = |start, end, granularity, source| Plan::new(start, end, granularity, zone, source).unwrap();
        let days = by(start, start + length, Granularity::Day, Source::Civil);
        let sum = |plan: &Plan| answer(plan, &stock).values().sum::<usize>();
        for granularity in Granularity::ALL {
            for source in [Source::Civil, Source::Minutes] {
                let plan = by(days.start_ms, days.end_ms, granularity, source);
                prop_assert_eq!(sum(&plan), sum(&days), "{:?} {:?}", granularity, source);
            }
        }
    }
}

#[test]
fn printed_times_are_the_labels() {
    let plan = Plan::new(
        ms("2024-04-06T13:30:00Z"),
        ms("2024-04-06T16:30:00Z"),
        Granularity::Hour,
        Tz::Australia__Lord_Howe,
        Source::Minutes,
    )
    .unwrap();
    let labels: Vec<String> = plan
        .slots
        .iter()
        .map(|s| at(s.time_ms, s.offset_s).to_rfc3339())
        .collect();
    assert_eq!(
        labels,
        [
            "2024-04-07T00:00:00+11:00",
            "2024-04-07T01:00:00+11:00",
            "2024-04-07T01:00:00+10:30",
            "2024-04-07T02:00:00+10:30"
        ]
    );
    // 15:10 UTC is 01:40 on the clock that was set back, in the half hour that it leaves.
    let mut hint = 0;
    let placed = plan
        .place_minute(ms("2024-04-06T15:10:00Z"), &mut hint)
        .unwrap();
    assert_eq!(
        placed,
        BucketKey {
            at: ms("2024-04-07T01:00:00+10:30"),
            offset_s: 37_800
        }
    );
}
