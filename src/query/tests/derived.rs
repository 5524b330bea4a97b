//! Rolling windows and trending ads against counts over the plain events.

use std::collections::BTreeMap;

use adtally_projections::rolling::Windows;
use chrono_tz::Tz;
use proptest::prelude::*;

use super::*;
use crate::query::{rolling, trending};

const NOW: &str = "2024-03-05T15:37:20Z";
const MINUTE: i64 = 60_000;
const HOUR: i64 = 3_600_000;

fn events(back_ms: i64) -> impl Strategy<Value = Vec<Plain>> {
    let ago = prop_oneof![0..2 * HOUR, 0..back_ms];
    let one = (
        ago,
        proptest::sample::select(&["spring", "autumn"][..]),
        proptest::sample::select(&["banner", "tower", "board"][..]),
        0..4u8,
        proptest::option::weighted(0.1, Just(EdgeReason::KnownBot)),
    )
        .prop_map(|(ago, campaign, ad, kind, verdict)| Plain {
            kind: if kind == 0 {
                Kind::Impression
            } else {
                Kind::Click
            },
            time_ms: ms(NOW) - ago,
            verdict,
            ..click(campaign, ad, NOW)
        });
    proptest::collection::vec(one, 1..250)
}

/// Valid clicks and impressions of the events that pass.
fn counted(events: &[Plain], passes: impl Fn(&Plain) -> bool) -> (i64, i64) {
    let mut sums = (0, 0);
    for e in events.iter().filter(|e| e.verdict.is_none() && passes(e)) {
        match e.kind {
            Kind::Click => sums.0 += 1,
            _ => sums.1 += 1,
        }
    }
    sums
}

fn roll(set: &SnapshotSet<'_>, campaign: &str, minutes: i64) -> rolling::Answer {
    let catalogue = catalogue();
    let windows = Windows::until(ms(NOW), minutes * MINUTE).unwrap();
    let subject = named("campaign_id", &[campaign]);
    rolling::answer(subject, &windows, None, || &catalogue, set, &cancel()).unwrap()
}

fn trend(set: &SnapshotSet<'_>, advertiser: &str, now: &str) -> trending::Answer {
    let catalogue = catalogue();
    let subject = named("advertiser_id", &[advertiser]);
    trending::answer(subject, ms(now), None, 10, || &catalogue, set, &cancel()).unwrap()
}

/// What an answer says of each ad: campaign, clicks, impressions, past hours, their mean and the score, both in
/// thousandths.
type Said = BTreeMap<String, (String, i64, i64, usize, i64, i64)>;

fn said(answer: &trending::Answer) -> Said {
    let row = |t: &adtally_projections::trending::Trend| {
        let thousandths = |n: f64| (n * 1_000.0).round() as i64;
        let (mean, score) = (thousandths(t.baseline.mean), thousandths(t.score));
        let campaign = t.campaign_id.clone();
        (
            t.ad_id.clone(),
            (
                campaign,
                t.clicks,
                t.impressions,
                t.baseline.hours,
                mean,
                score,
            ),
        )
    };
    answer.rows.iter().map(row).collect()
}

/// The rule, over the plain events. New York's hours are hours of UTC.
fn expected(events: &[Plain]) -> Said {
    let end = ms("2024-03-05T15:37:00Z");
    let past_end = ms("2024-03-05T14:00:00Z");
    let mut out = Said::new();
    for ad in ["banner", "tower", "board"] {
        let between =
            |from: i64, to: i64| counted(events, |e| e.ad == ad && (from..to).contains(&e.time_ms));
        let (clicks, impressions) = between(end - HOUR, end);
        let first = events
            .iter()
            .filter(|e| e.ad == ad)
            .map(|e| e.time_ms)
            .min();
        let past: Vec<f64> = (1..=24)
            .rev()
            .map(|back| past_end - back * HOUR)
            .filter(|from| first.is_some_and(|first| first < from + HOUR))
            .map(|from| between(from, from + HOUR).0 as f64)
            .collect();
        if past.len() < 3 || clicks < 5 {
            continue;
        }
        let n = past.len() as f64;
        let mean = past.iter().sum::<f64>() / n;
        let variance = past.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let over = if mean > 0.0 && variance > mean {
            variance / mean
        } else {
            1.0
        };
        let score = (2.0 * (clicks as f64 + 0.375).sqrt() - 2.0 * (mean + 0.375).sqrt())
            / (over * (n + 1.0) / n).sqrt();
        if score < 3.0 {
            continue;
        }
        let of_campaign = |campaign: &str| {
            let passes = |e: &Plain| {
                e.ad == ad && e.campaign == campaign && (end - HOUR..end).contains(&e.time_ms)
            };
            counted(events, passes).0
        };
        let campaign = if of_campaign("spring") > of_campaign("autumn") {
            "spring"
        } else {
            "autumn"
        };
        let thousandths = |n: f64| (n * 1_000.0).round() as i64;
        out.insert(
            ad.to_owned(),
            (
                campaign.to_owned(),
                clicks,
                impressions,
                past.len(),
                thousandths(mean),
                thousandths(score),
            ),
        );
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn every_window_holds_its_events(events in events(5 * HOUR), minutes in 1i64..200) {
        let set = folded(&events, &catalogue(), 0);
        let answer = roll(&set, "spring", minutes);
        prop_assert_eq!(answer.rows.len(), 60);
        for (n, (end, sum)) in answer.rows.iter().enumerate() {
            prop_assert_eq!(*end, ms("2024-03-05T14:38:00Z") + n as i64 * MINUTE);
            let within = |e: &Plain| e.campaign == "spring" && (end - minutes * MINUTE..*end).contains(&e.time_ms);
            prop_assert_eq!((sum.clicks(), sum.impressions), counted(&events, within));
        }
    }

    #[test]
    fn what_trends_is_what_the_rule_says_of_the_events(events in events(40 * HOUR)) {
        let answer = trend(&folded(&events, &catalogue(), 0), "acme", NOW);
        prop_assert_eq!(said(&answer), expected(&events));
        prop_assert!(answer.rows.windows(2).all(|w| w[0].score >= w[1].score));
    }
}

/// A click in each of the hours before the last one that are `back` hours of it away.
fn hourly(campaign: &'static str, ad: &'static str, back: std::ops::Range<i64>) -> Vec<Plain> {
    back.map(|hours| Plain {
        time_ms: ms("2024-03-05T14:10:00Z") - hours * HOUR,
        ..click(campaign, ad, NOW)
    })
    .collect()
}

fn burst(campaign: &'static str, ad: &'static str, time: &str, n: usize) -> Vec<Plain> {
    vec![click(campaign, ad, time); n]
}

#[test]
fn an_ad_of_several_shards_is_summed_before_it_is_scored() {
    let half = [
        hourly("spring", "banner", 1..25),
        burst("spring", "banner", "2024-03-05T15:00:00Z", 4),
    ]
    .concat();
    let mut set = folded(&half, &catalogue(), 0);
    // A half alone has too few clicks to be mentioned.
    assert!(trend(&set, "acme", NOW).rows.is_empty());
    let other = folded(&half, &catalogue(), 0);
    set.shards.extend(other.shards.into_iter().map(|s| Shard {
        number: s.number + SHARDS,
        ..s
    }));
    // 2 * (sqrt(8.375) - sqrt(2.375)) / sqrt(25 / 24) is 2.651: two of the past hours' clicks each.
    assert!(trend(&set, "acme", NOW).rows.is_empty());
    let more = folded(
        &burst("spring", "banner", "2024-03-05T15:00:00Z", 4),
        &catalogue(),
        0,
    );
    set.shards.extend(more.shards.into_iter().map(|s| Shard {
        number: s.number + 2 * SHARDS,
        ..s
    }));
    // 2 * (sqrt(12.375) - sqrt(2.375)) / sqrt(25 / 24) is 3.874.
    let want = ("spring".to_owned(), 12, 0, 24, 2_000, 3_874);
    assert_eq!(
        said(&trend(&set, "acme", NOW)),
        Said::from([("banner".to_owned(), want)])
    );
}

#[test]
fn silent_hours_count_for_an_ad_that_is_older_than_they_are() {
    let last = burst("spring", "banner", "2024-03-05T15:00:00Z", 9);
    let of = |past: Vec<Plain>| {
        let set = folded(&[last.clone(), past].concat(), &catalogue(), 0);
        said(&trend(&set, "acme", NOW)).remove("banner")
    };
    // Its first event was 4 hours before the last hour, or five days, or longer ago than is looked.
    assert_eq!(of(hourly("spring", "banner", 4..5)).unwrap().3, 4);
    assert_eq!(of(hourly("spring", "banner", 120..121)).unwrap().3, 24);
    assert_eq!(of(hourly("spring", "banner", 32 * 24..32 * 24 + 1)), None);
    // Another's click of the same campaign makes it no older.
    assert_eq!(of(hourly("spring", "tower", 120..121)), None);
}

#[test]
fn an_hour_that_a_change_of_the_clock_cut_short_is_left_out() {
    // Lord Howe's clock went back by half an hour at 15:00Z; the half hour up to 15:30Z stands under a label of its
    // own. The hours before are whole at :00 of UTC, those after it at :30.
    let mut events = burst("surf", "board", "2024-04-06T15:10:00Z", 40);
    for hour in 1..15 {
        events.extend(burst(
            "surf",
            "board",
            &format!("2024-04-06T{hour:02}:05:00Z"),
            1,
        ));
    }
    for back in 1..=10 {
        let time_ms = ms("2024-04-07T01:35:00Z") - back * HOUR;
        events.push(Plain {
            time_ms,
            ..click("surf", "board", NOW)
        });
    }
    events.extend(burst("surf", "board", "2024-04-07T02:05:00Z", 12));
    let answer = trend(
        &folded(&events, &catalogue(), 0),
        "island",
        "2024-04-07T03:00:00Z",
    );
    assert_eq!(answer.zone, Tz::Australia__Lord_Howe);
    let row = said(&answer).remove("board").unwrap();
    assert_eq!((row.1, row.3, row.4), (12, 24, 1_000));
}

#[test]
fn what_nobody_counted_has_zeros_and_no_trend() {
    let set = folded(&[], &catalogue(), 0);
    let answer = roll(&set, "never", 60);
    assert_eq!((answer.rows.len(), answer.zone), (60, Tz::UTC));
    assert!(
        answer
            .rows
            .iter()
            .all(|(_, m)| m.clicks() == 0 && m.impressions == 0)
    );
    assert_eq!(roll(&set, "spring", 60).zone, Tz::America__New_York);
    assert!(trend(&set, "acme", NOW).rows.is_empty());
    assert!(trend(&set, "nobody", NOW).rows.is_empty());
}

#[test]
fn advertisers_of_two_clocks_need_one_named_and_work_that_nobody_waits_for_stops() {
    let (catalogue, set) = (
        catalogue(),
        folded(
            &burst("spring", "banner", "2024-03-05T15:00:00Z", 9),
            &catalogue(),
            0,
        ),
    );
    let ask = |zone, cancel: &Cancel| {
        let subject = named("advertiser_id", &["acme", "zulu"]);
        trending::answer(subject, ms(NOW), zone, 10, || &catalogue, &set, cancel)
    };
    let refused = ask(None, &cancel()).unwrap_err();
    assert!(
        matches!(
            refused,
            QueryError::Asked {
                parameter: Some("time_zone"),
                ..
            }
        ),
        "{refused}"
    );
    assert_eq!(ask(Some(Tz::UTC), &cancel()).unwrap().zone, Tz::UTC);
    let late = ask(Some(Tz::UTC), &Cancel::after(Duration::ZERO));
    assert_eq!(late.unwrap_err(), QueryError::TookTooLong);
}
