//! Every granularity, grouping, filter and clock against a sum over the plain events with chrono's calendar.

use std::collections::BTreeMap;

use adtally_projections::bounds::print;
use adtally_projections::buckets::Granularity;
use adtally_projections::metrics::Metrics;
use adtally_projections::partial::Dimension;
use adtally_projections::ratios::{Chosen, Figure, Metric};
use chrono::{Datelike, NaiveDate, Offset, TimeZone, Timelike};
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;

type Sums = BTreeMap<(String, Vec<String>), Metrics>;

fn sums(answer: &Answer) -> Sums {
    let zone = answer.plan.zone;
    let key = |row: &adtally_projections::table::Row| {
        let slot = answer.table.slot(row);
        let group = answer
            .table
            .group(row)
            .map(|(_, name)| name.to_owned())
            .collect();
        (print(slot.time_ms, slot.offset_s, zone), group)
    };
    answer
        .table
        .rows()
        .map(|row| (key(&row), row.metrics))
        .collect()
}

/// The bucket's printed time, by the calendar. Days of the zones used here begin at midnight.
fn label(t: i64, granularity: Granularity, zone: Tz, start_ms: i64) -> String {
    let local = zone.timestamp_millis_opt(t).unwrap();
    let offset = local.offset().fix();
    let naive = local.naive_local();
    let stamp = |naive: chrono::NaiveDateTime, offset: chrono::FixedOffset| {
        let offset = if zone == Tz::UTC {
            "Z".to_owned()
        } else {
            offset.to_string()
        };
        format!("{}{offset}", naive.format("%Y-%m-%dT%H:%M:%S"))
    };
    match granularity {
        Granularity::Minute => stamp(
            naive
                .date()
                .and_hms_opt(naive.hour(), naive.minute(), 0)
                .unwrap(),
            offset,
        ),
        Granularity::Hour => stamp(
            naive.date().and_hms_opt(naive.hour(), 0, 0).unwrap(),
            offset,
        ),
        Granularity::Day => {
            let midnight = NaiveDate::from_ymd_opt(naive.year(), naive.month(), naive.day())
                .unwrap()
                .and_hms_opt(0, 0, 0)
                .unwrap();
            let first = zone.from_local_datetime(&midnight).earliest().unwrap();
            stamp(midnight, first.offset().fix())
        }
        Granularity::Total => {
            let start = zone.timestamp_millis_opt(start_ms).unwrap();
            stamp(start.naive_local(), start.offset().fix())
        }
    }
}

fn expected(question: &Question, answer: &Answer, events: &[Plain]) -> Sums {
    let mut out = Sums::new();
    let (start, end, zone) = (answer.plan.start_ms, answer.plan.end_ms, answer.plan.zone);
    let lets = |set: &BTreeSet<String>, value: &str| set.is_empty() || set.contains(value);
    for e in events.iter().filter(|e| (start..end).contains(&e.time_ms)) {
        let passes = (question.subject.campaigns.is_empty()
            || question.subject.campaigns.contains(&id(e.campaign)))
            && (question.subject.ads.is_empty() || question.subject.ads.contains(&id(e.ad)))
            && lets(&question.creatives, e.creative)
            && lets(&question.regions, e.region)
            && (question.devices.is_empty() || question.devices.contains(&e.device));
        if !passes {
            continue;
        }
        let group = question.group_by.iter().map(|d| match d {
            Dimension::CampaignId => e.campaign.to_owned(),
            Dimension::AdId => e.ad.to_owned(),
            Dimension::Creative => e.creative.to_owned(),
            Dimension::Region => e.region.to_owned(),
            Dimension::Device => e.device.name().to_owned(),
        });
        let key = (
            label(e.time_ms, answer.plan.granularity, zone, start),
            group.collect(),
        );
        let m = out.entry(key).or_default();
        m.gross_cost_micros += e.cost_micros;
        match (e.kind, e.verdict.is_some()) {
            (Kind::Impression, false) => m.impressions += 1,
            (Kind::Impression, true) => m.invalid_impressions += 1,
            (_, invalid) => {
                m.gross_clicks += 1;
                m.general_invalid_clicks += i64::from(invalid);
            }
        }
        if e.verdict.is_some() {
            m.cost_not_charged_micros += e.cost_micros;
        }
    }
    out
}

/// New York's clock goes forward then, and Lord Howe's back four weeks later.
const AROUND: [&str; 2] = ["2024-03-10T07:00:00Z", "2024-04-06T15:00:00Z"];

fn events(campaigns: &'static [&'static str]) -> impl Strategy<Value = Vec<Plain>> {
    let one = (
        proptest::sample::select(campaigns),
        (0usize..2, 0usize..3, 0usize..2, 0usize..3),
        0usize..2,
        -40 * 3_600_000i64..40 * 3_600_000,
        0i64..5_000,
        proptest::option::weighted(0.2, proptest::sample::select(&EdgeReason::ALL[..])),
        any::<bool>(),
    )
        .prop_map(
            |(
                campaign,
                (ad, creative, region, device),
                around,
                from,
                cost_micros,
                verdict,
                is_click,
            )| Plain {
                kind: if is_click {
                    Kind::Click
                } else {
                    Kind::Impression
                },
                campaign,
                ad: ["banner", "tower"][ad],
                creative: ["", "red", "blue"][creative],
                region: ["US-CA", "DE"][region],
                device: [Device::Ios, Device::Desktop, Device::Other][device],
                time_ms: ms(AROUND[around]) + from,
                cost_micros,
                verdict,
                user: 0,
            },
        );
    proptest::collection::vec(one, 1..150)
}

fn some<T: Clone + std::fmt::Debug + Ord + 'static>(
    of: Vec<T>,
) -> impl Strategy<Value = BTreeSet<T>> {
    let most = of.len();
    proptest::sample::subsequence(of, 0..=most).prop_map(|v| v.into_iter().collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_answer_is_the_sum_of_its_events(
        events in events(&["spring", "autumn"]),
        by_ad in any::<bool>(),
        granularity in proptest::sample::select(&Granularity::ALL[..]),
        group_by in proptest::sample::subsequence(Dimension::ALL.to_vec(), 0..=5).prop_shuffle(),
        zone in proptest::option::of(proptest::sample::select(&[Tz::UTC, Tz::Asia__Kolkata, Tz::Australia__Lord_Howe, Tz::America__New_York][..])),
        creatives in some(vec!["red".to_owned(), String::new(), "never".to_owned()]),
        regions in some(vec!["DE".to_owned(), "US-CA".to_owned()]),
        devices in some(vec![Device::Ios, Device::Tv]),
        around in 0usize..2,
        from in -30 * 3_600_000i64..20 * 3_600_000,
        length in 1i64..60 * 3_600_000,
    ) {
        let catalogue = catalogue();
        let set = folded(&events, &catalogue, 0);
        let start = ms(AROUND[around]) + from;
        let subject = if by_ad { named("ad_id", &["banner"]) } else { named("campaign_id", &["spring"]) };
        let asked = Question {
            granularity: Some(granularity),
            group_by,
            creatives,
            regions,
            devices,
            time_zone: zone,
            span: Span { start: Some(Bound::Instant(start)), end: Some(Bound::Instant(start + length)), now_ms: 0 },
            ..question(subject, span("2024-01-01", "2024-01-02"))
        };
        let answer = ask(&asked, &set, &catalogue).unwrap();
        prop_assert_eq!(answer.plan.zone, zone.unwrap_or(Tz::America__New_York));
        let want = expected(&asked, &answer, &events);
        let mut total = Metrics::default();
        want.values().for_each(|m| total.add(m));
        prop_assert_eq!(sums(&answer), want);
        prop_assert_eq!(answer.table.totals, total);
    }
}

/// A row: its slot, its group's names, and its figures.
type Said = (u32, Vec<String>, Vec<Figure>);

/// What an answer says of its rows and of all of them, by those metrics.
fn said(answer: &Answer, chosen: Chosen) -> (Vec<Said>, Vec<Figure>) {
    let of = |sums: &Metrics| chosen.metrics().map(|metric| metric.of(sums)).collect();
    let row = |row: adtally_projections::table::Row| {
        let group = answer.table.group(&row);
        let group = group.map(|(_, name)| name.to_owned()).collect();
        (row.slot, group, of(&row.metrics))
    };
    (
        answer.table.rows().map(row).collect(),
        of(&answer.table.totals),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_choice_of_metrics_says_of_the_same_rows_what_all_of_them_say(
        events in events(&["spring", "autumn"]),
        granularity in proptest::sample::select(&Granularity::ALL[..]),
        group_by in proptest::sample::subsequence(Dimension::ALL.to_vec(), 0..=5).prop_shuffle(),
        zone in proptest::option::of(proptest::sample::select(&[Tz::Asia__Kolkata, Tz::Australia__Lord_Howe][..])),
        regions in some(vec!["DE".to_owned(), "US-CA".to_owned()]),
        fill in any::<bool>(),
        chosen in proptest::sample::subsequence(Metric::ALL.to_vec(), 1..=16),
        from in -30 * 3_600_000i64..20 * 3_600_000,
        length in 1i64..60 * 3_600_000,
    ) {
        let catalogue = catalogue();
        let set = folded(&events, &catalogue, 0);
        let start = ms(AROUND[0]) + from;
        let all = Question {
            granularity: Some(granularity),
            group_by,
            regions,
            fill,
            time_zone: zone,
            span: Span { start: Some(Bound::Instant(start)), end: Some(Bound::Instant(start + length)), now_ms: 0 },
            ..question(named("campaign_id", &["spring", "autumn"]), span("2024-01-01", "2024-01-02"))
        };
        let chosen: Chosen = chosen.into_iter().collect();
        let some = ask(&Question { metrics: chosen, ..all.clone() }, &set, &catalogue).unwrap();
        let all = ask(&all, &set, &catalogue).unwrap();
        prop_assert_eq!(said(&some, chosen), said(&all, chosen));
        prop_assert_eq!(some.read, all.read);
        // What nobody wants was not summed.
        let is_left_out = |m: &Metrics| (0..).zip(m.fields()).all(|(at, n)| n == 0 || chosen.fields().has(at));
        prop_assert!(is_left_out(&some.table.totals) && some.table.rows().all(|row| is_left_out(&row.metrics)));
    }
}

#[test]
fn half_hours_of_lord_howe_from_hours_and_from_minutes() {
    let catalogue = catalogue();
    let at = [
        "2024-04-06T14:45:00Z",
        "2024-04-06T15:10:00Z",
        "2024-04-06T15:45:00Z",
    ];
    let events: Vec<_> = at.iter().map(|t| click("surf", "board", t)).collect();
    let set = folded(&events, &catalogue, 0);
    let labels = |zone| {
        let asked = Question {
            granularity: Some(Granularity::Hour),
            time_zone: zone,
            ..question(
                named("campaign_id", &["surf"]),
                span("2024-04-06T13:00Z", "2024-04-06T17:00Z"),
            )
        };
        let answer = ask(&asked, &set, &catalogue).unwrap();
        (
            answer.read.cells,
            sums(&answer)
                .into_keys()
                .map(|(time, _)| time)
                .collect::<Vec<_>>(),
        )
    };
    let (cells, own) = labels(None);
    assert_eq!(
        own,
        [
            "2024-04-07T01:00:00+10:30",
            "2024-04-07T01:00:00+11:00",
            "2024-04-07T02:00:00+10:30"
        ]
    );
    assert!(
        cells.hour >= 3 && cells.day == 0 && cells.minute == 0,
        "{cells:?}"
    );
    let (cells, utc) = labels(Some(Tz::UTC));
    assert_eq!(utc, ["2024-04-06T14:00:00Z", "2024-04-06T15:00:00Z"]);
    assert_eq!((cells.day, cells.hour, cells.minute), (0, 0, 3));
}

#[test]
fn an_answer_says_what_it_is_as_of() {
    let catalogue = catalogue();
    let events: Vec<_> = ["ad1", "ad2", "ad3", "ad4", "ad5", "ad6"]
        .iter()
        .map(|ad| click("spring", ad, AROUND[0]))
        .collect();
    let set = folded(&events, &catalogue, ms("2024-03-10T08:00:00Z"));
    let as_of = set.as_of().unwrap();
    assert_eq!(as_of.complete_through_ms, Some(ms("2024-03-10T08:00:00Z")));
    assert_eq!(
        serde_json::to_value(&as_of).unwrap(),
        serde_json::json!({"generation": "g-1", "events.0": 1, "events.1": 1, "events.2": 1})
    );
    // A shard of which no producer has spoken is complete through nothing.
    let empty = folded(&events[..1], &catalogue, ms("2024-03-10T08:00:00Z"));
    assert_eq!(empty.as_of().unwrap().complete_through_ms, None);
    let begun = folded(&events, &catalogue, 0);
    assert_eq!(begun.as_of().unwrap().complete_through_ms, None);
}
