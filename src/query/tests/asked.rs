//! What a question matches and what it is refused for; spend, top and fraud by hand.

use adtally_projections::buckets::Granularity;
use adtally_projections::plan::Source;
use chrono_tz::Tz;

use super::*;
use crate::query::fraud::{self, Cursor};
use crate::query::spend::{self, Budget};
use crate::query::top::{By, pick};
use adtally_projections::partial::Dimension;

const NOON: &str = "2024-03-01T12:00:00Z";

fn refused(question: &Question, set: &SnapshotSet<'_>) -> (Option<&'static str>, String) {
    match ask(question, set, &catalogue()) {
        Err(QueryError::Asked { parameter, detail }) => (parameter, detail),
        other => panic!("{other:?}"),
    }
}

#[test]
fn different_currencies_or_clocks_are_not_summed() {
    let set = folded(
        &[
            click("spring", "banner", NOON),
            click("ghost", "banner", NOON),
        ],
        &catalogue(),
        0,
    );
    let day = span("2024-03-01", "2024-03-02");
    let (parameter, detail) = refused(
        &question(named("campaign_id", &["spring", "surf"]), day),
        &set,
    );
    assert!(
        parameter.is_none() && detail.contains("AUD") && detail.contains("USD"),
        "{detail}"
    );
    let clocks = question(named("campaign_id", &["spring", "noon"]), day);
    assert_eq!(refused(&clocks, &set).0, Some("time_zone"));
    let asked = Question {
        time_zone: Some(Tz::Europe__Berlin),
        ..clocks
    };
    let answer = ask(&asked, &set, &catalogue()).unwrap();
    assert_eq!(
        (answer.plan.zone, answer.table.totals.gross_clicks),
        (Tz::Europe__Berlin, 1)
    );
    // Money without a known currency is not summed with dollars either.
    let (_, detail) = refused(&question(named("ad_id", &["banner"]), day), &set);
    assert!(detail.contains("none known"), "{detail}");
}

#[test]
fn what_the_catalogue_does_not_know_is_utc_and_has_no_currency() {
    let set = folded(
        &[click("ghost", "banner", "2024-03-01T23:30:00Z")],
        &catalogue(),
        0,
    );
    let asked = Question {
        granularity: Some(Granularity::Day),
        ..question(
            named("campaign_id", &["ghost"]),
            span("2024-03-01", "2024-03-03"),
        )
    };
    let answer = ask(&asked, &set, &catalogue()).unwrap();
    assert_eq!(
        (answer.plan.zone, answer.plan.source, answer.currency),
        (Tz::UTC, Source::Civil, None)
    );
    assert_eq!(answer.table.totals.gross_clicks, 1);
    // Never seen and in no catalogue: zeros, and a row for every bucket.
    let nothing = Question {
        fill: true,
        ..question(
            named("campaign_id", &["never"]),
            span("2024-03-01", "2024-03-03"),
        )
    };
    let answer = ask(&nothing, &set, &catalogue()).unwrap();
    assert_eq!(
        (answer.table.len(), answer.table.totals.gross_clicks),
        (48, 0)
    );
}

#[test]
fn a_campaign_that_was_counted_before_it_was_known_is_read_by_minutes() {
    let (early, late) = (
        click("spring", "banner", NOON),
        click("spring", "banner", "2024-03-01T13:00:00Z"),
    );
    // The first click came when the catalogue was empty: it stands on UTC, without an advertiser.
    let mut set = folded(&[early], &Catalogue::default(), 0);
    let also = folded(&[late], &catalogue(), 0);
    set.shards.extend(also.shards.into_iter().map(|s| Shard {
        number: s.number + SHARDS,
        ..s
    }));
    let asked = Question {
        granularity: Some(Granularity::Hour),
        ..question(
            named("campaign_id", &["spring"]),
            span("2024-03-01", "2024-03-02"),
        )
    };
    let answer = ask(&asked, &set, &catalogue()).unwrap();
    assert_eq!(
        (answer.plan.source, answer.read.cells.minute),
        (Source::Minutes, 2)
    );
    let times: Vec<_> = answer
        .table
        .rows()
        .map(|r| answer.table.slot(&r).time_ms)
        .collect();
    assert_eq!(times, [ms(NOON), ms("2024-03-01T13:00:00Z")]);
}

#[test]
fn different_names_are_and_and_a_confined_asker_sees_its_own() {
    let events = [
        click("spring", "banner", NOON),
        click("autumn", "banner", NOON),
        click("autumn", "tower", NOON),
    ];
    let set = folded(&events, &catalogue(), 0);
    let clicks = |subject| {
        let asked = question(subject, span("2024-03-01", "2024-03-02"));
        ask(&asked, &set, &catalogue())
            .unwrap()
            .table
            .totals
            .gross_clicks
    };
    assert_eq!(
        clicks(named("advertiser_id", &["acme", "zulu"]).and_campaign("autumn")),
        2
    );
    assert_eq!(
        clicks(named("ad_id", &["banner"]).and_campaign("autumn")),
        1
    );
    assert_eq!(clicks(named("ad_id", &["banner", "tower"])), 3);
    assert_eq!(
        clicks(Subject {
            advertisers: [id("island")].into(),
            ..named("ad_id", &["banner"])
        }),
        0
    );
    assert_eq!(
        clicks(Subject {
            confined_to: Some(id("acme")),
            ..named("ad_id", &["banner"])
        }),
        2
    );
    assert_eq!(
        clicks(Subject {
            confined_to: Some(id("island")),
            ..named("ad_id", &["banner"])
        }),
        0
    );
}

impl Subject {
    fn and_campaign(mut self, campaign: &str) -> Self {
        self.campaigns.insert(id(campaign));
        self
    }
}

#[test]
fn a_range_of_nothing_or_of_too_much_is_refused() {
    let set = folded(&[], &catalogue(), 0);
    let by = |granularity, start, end| Question {
        granularity: Some(granularity),
        ..question(named("campaign_id", &["spring"]), span(start, end))
    };
    assert_eq!(
        refused(&by(Granularity::Hour, "2024-03-02", "2024-03-01"), &set).0,
        Some("end")
    );
    let (parameter, detail) = refused(&by(Granularity::Minute, "1924-03-02", "2024-03-01"), &set);
    assert!(
        parameter == Some("granularity") && detail.contains("10000"),
        "{detail}"
    );
    assert!(
        ask(
            &by(Granularity::Total, "1924-03-02", "2024-03-01"),
            &set,
            &catalogue()
        )
        .is_ok()
    );
    // Without bounds: the last 24 hours.
    let open = Question {
        span: Span {
            start: None,
            end: None,
            now_ms: ms(NOON),
        },
        ..by(Granularity::Total, "2024-01-01", "2024-01-02")
    };
    let plan = ask(&open, &set, &catalogue()).unwrap().plan;
    assert_eq!(
        (plan.start_ms, plan.end_ms),
        (ms("2024-02-29T12:00:00Z"), ms(NOON))
    );
}

#[test]
fn work_that_nobody_waits_for_stops() {
    let set = folded(&[click("spring", "banner", NOON)], &catalogue(), 0);
    let asked = question(
        named("campaign_id", &["spring"]),
        span("2024-03-01", "2024-03-02"),
    );
    let catalogue = catalogue();
    let late = answer(&asked, || &catalogue, &set, &Cancel::after(Duration::ZERO));
    assert_eq!(late.unwrap_err(), QueryError::TookTooLong);
}

#[test]
fn spend_is_todays_on_the_advertisers_clock() {
    let invalid = Plain {
        verdict: Some(EdgeReason::KnownBot),
        ..click("spring", "banner", "2024-03-02T00:10:00Z")
    };
    // 00:10 UTC is still the evening of the first in New York.
    let events = [
        click("spring", "banner", "2024-03-01T12:00:00Z"),
        click("spring", "tower", "2024-03-02T00:10:00Z"),
        invalid,
        click("spring", "banner", "2024-02-01T12:00:00Z"),
    ];
    let set = folded(&events, &catalogue(), 0);
    let budget = Budget::of(&catalogue(), &id("spring"));
    let now = ms("2024-03-01T12:00:00-05:00");
    let found = spend::answer(&id("spring"), budget.as_ref(), now, &set).unwrap();
    assert_eq!((found.today_micros, found.total_micros), (2_000, 3_000));
    assert_eq!(
        (found.share, found.pacing_multiplier),
        (Some(0.2), Some(2.0))
    );
    let none = spend::answer(&id("never"), None, now, &set);
    assert!(matches!(none, Err(QueryError::NotFound(_))));
    let other = spend::answer(
        &id("autumn"),
        Budget::of(&catalogue(), &id("autumn")).as_ref(),
        now,
        &set,
    )
    .unwrap();
    assert_eq!(
        (other.total_micros, other.share, other.pacing_multiplier),
        (0, None, None)
    );
}

#[test]
fn top_ads_are_picked_from_all_shards_with_ties_by_id() {
    let mut events = vec![];
    for (ad, n) in [("c", 2), ("a", 2), ("b", 3), ("d", 1)] {
        events.extend((0..n).map(|_| click("spring", ad, NOON)));
    }
    let set = folded(&events, &catalogue(), 0);
    let asked = Question {
        granularity: Some(Granularity::Total),
        group_by: vec![Dimension::AdId],
        ..question(
            named("advertiser_id", &["acme"]),
            span("2024-03-01", "2024-03-02"),
        )
    };
    let answer = ask(&asked, &set, &catalogue()).unwrap();
    let top: Vec<_> = pick(&answer, By::Clicks, 3)
        .into_iter()
        .map(|(ad, m)| (ad, m.clicks()))
        .collect();
    assert_eq!(
        top,
        [
            ("b".to_owned(), 3),
            ("a".to_owned(), 2),
            ("c".to_owned(), 2)
        ]
    );
}

#[test]
fn invalid_clicks_are_summed_and_paged_over_all_shards() {
    let mut events = vec![click("spring", "banner", NOON)];
    for n in 0..25 {
        let reason = [EdgeReason::KnownBot, EdgeReason::Prefetch][n % 2];
        let ad = ["banner", "tower", "a", "b", "c"][n % 5];
        // Five share each instant, so pages end in the middle of one.
        let time = format!("2024-03-01T12:00:0{}Z", n / 5);
        events.push(Plain {
            verdict: Some(reason),
            ..click("spring", ad, &time)
        });
    }
    events.push(Plain {
        kind: Kind::Impression,
        verdict: Some(EdgeReason::KnownBot),
        ..click("spring", "banner", NOON)
    });
    let (catalogue, set) = (catalogue(), folded(&events, &catalogue(), 0));
    let asked = |reason| fraud::Question {
        subject: named("campaign_id", &["spring"]),
        span: span("2024-03-01T12:00Z", "2024-03-01T12:01Z"),
        reason,
    };
    let (_, sums) = fraud::sums(&asked(None), || &catalogue, &set, &cancel()).unwrap();
    let sums: Vec<_> = sums
        .into_iter()
        .map(|(key, s)| (key, s.invalid_clicks, s.cost_micros))
        .collect();
    assert_eq!(
        sums,
        [
            (("known_bot", 0, "general"), 13, 13_000),
            (("prefetch", 0, "general"), 12, 12_000)
        ]
    );

    for (reason, total) in [(None, 25), (Some(EdgeReason::Prefetch), 12)] {
        let (mut all, mut cursor): (Vec<_>, Option<Cursor>) = (vec![], None);
        loop {
            let page = fraud::page(
                &asked(reason),
                cursor.as_ref(),
                4,
                || &catalogue,
                &set,
                &cancel(),
            )
            .unwrap();
            assert!(page.clicks.len() <= 4);
            all.extend(page.clicks);
            match page.next {
                Some(next) => cursor = Some(next.to_string().parse().unwrap()),
                None => break,
            }
        }
        assert_eq!(all.len(), total);
        assert!(
            all.windows(2).all(|w| w[0].at < w[1].at),
            "in order, none twice"
        );
    }
    for bad in ["", "x", "1.a", "1.a.", "x.a.b", "1.a b.c"] {
        assert!(bad.parse::<Cursor>().is_err(), "{bad}");
    }
}
