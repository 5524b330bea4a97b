//! Statements over states that the fold made of plain events, summed by the test; and when a month may be closed.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use adtally_projections::statement::{Statement, open};
use adtally_streams::event::{EdgeReason, Kind};

use super::closed::Closed;
use super::compute::{Computed, Ground, compute, fit_to_close};
use super::history::History;
use super::{Asked, StatementError};
use crate::query::tests::{Plain, cancel, catalogue, click, folded, id, ms};

fn asked(month: &str) -> Asked {
    Asked {
        advertiser: id("acme"),
        month: month.parse().unwrap(),
    }
}

fn ground(closed: Closed) -> Ground {
    let budgets = BTreeMap::from([(
        id("spring"),
        vec![
            (ms("2024-01-01T00:00:00Z"), Some(5_000)),
            (ms("2024-03-20T12:00:00Z"), Some(2_500)),
            (ms("2024-03-25T12:00:00Z"), None),
        ],
    )]);
    Ground {
        history: History::of(catalogue(), 9, budgets),
        closed,
        as_of_ms: Some(ms("2024-05-01T00:00:00Z")),
    }
}

fn made(events: &[Plain], through_ms: i64, month: &str, closed: Closed) -> Computed {
    let set = folded(events, &catalogue(), through_ms);
    compute(&set, &ground(closed), &asked(month), &cancel()).unwrap()
}

/// Clicks around March 2024 in New York: winter ends on the 10th.
fn events() -> Vec<Plain> {
    let at = |campaign, time: &str| click(campaign, "banner", time);
    let mut out = vec![
        at("spring", "2024-03-01T04:59:59Z"),
        at("spring", "2024-03-01T05:00:00Z"),
        at("spring", "2024-04-01T03:59:59Z"),
        at("spring", "2024-04-01T04:00:00Z"),
        at("surf", "2024-03-15T00:00:00Z"),
    ];
    // Six on the 5th (budget 5), four on the 20th (2.5 at its end), nine on the 26th (none).
    for (day, count) in [(5, 6), (20, 4), (26, 9)] {
        out.extend((0..count).map(|_| at("spring", &format!("2024-03-{day:02}T13:00:00-04:00"))));
    }
    out.push(Plain {
        verdict: Some(EdgeReason::Prefetch),
        ..at("autumn", "2024-03-07T12:00:00Z")
    });
    out.push(Plain {
        verdict: Some(EdgeReason::KnownBot),
        ..at("autumn", "2024-03-07T12:00:00Z")
    });
    out.push(Plain {
        kind: Kind::Impression,
        cost_micros: 0,
        ..at("autumn", "2024-03-08T12:00:00Z")
    });
    out
}

#[test]
fn a_line_is_the_campaigns_month_on_the_advertisers_clock() {
    let march = made(&events(), 5, "2024-03", Closed::default()).statement;
    let short: Vec<_> = march
        .lines
        .iter()
        .map(|l| {
            (
                l.campaign_id.as_str(),
                l.clicks,
                l.cost_micros,
                l.invalid_clicks,
                l.over_delivery_micros,
            )
        })
        .collect();
    // Over its budget by 1,000 on the 5th and 1,500 on the 20th.
    assert_eq!(
        short,
        [("autumn", 0, 0, 2, 0), ("spring", 21, 21_000, 0, 2_500)]
    );
    let reasons: Vec<_> = march.lines[0]
        .invalid_clicks_by_reason
        .iter()
        .map(|r| (r.reason.as_str(), r.invalid_clicks, r.cost_micros))
        .collect();
    assert_eq!(reasons, [("known_bot", 1, 1_000), ("prefetch", 1, 1_000)]);
    assert_eq!(
        (march.start.as_str(), march.end.as_str()),
        ("2024-03-01T00:00:00-05:00", "2024-04-01T00:00:00-04:00")
    );
    assert_eq!(march.positions["catalog"], 9);
    assert_eq!(march.positions.len(), 4, "{:?}", march.positions);
}

#[test]
fn what_a_closed_month_lacks_is_on_the_next_one() {
    let mut then = events();
    then.truncate(8);
    let closed = made(&then, 5, "2024-03", Closed::default());
    let statement: Statement = open(&closed.document().sealed).unwrap();
    let closed = Closed::of(vec![statement.clone()]);
    let april = made(&events(), 5, "2024-04", closed).statement;
    let counted = made(&events(), 5, "2024-03", Closed::default()).statement;
    let difference = counted.totals.cost_micros - statement.totals.cost_micros;
    assert!(difference > 0);
    assert_eq!(april.totals.adjustments_micros, difference);
    assert_eq!(april.totals.cost_micros, 1_000);
}

#[test]
fn a_month_is_closed_when_it_is_over_and_complete() {
    let end = ms("2024-04-01T04:00:00Z");
    let fit = |through_ms: i64, as_of_ms: i64| {
        // Something on every shard.
        let ads = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let later = |ad| click("spring", ad, "2024-05-01T00:00:00Z");
        let events = [events(), ads.map(later).to_vec()].concat();
        let computed = made(&events, through_ms, "2024-03", Closed::default());
        fit_to_close(&computed, &asked("2024-03"), as_of_ms)
    };
    assert!(fit(end, end).is_ok());
    assert!(matches!(
        fit(end, end - 1),
        Err(StatementError::NotOver { .. })
    ));
    let error = fit(end - 1, end).unwrap_err().to_string();
    assert!(
        error.contains("collector-1 (epoch 0000000000000007) is at 2024-04-01T03:59:59.999Z"),
        "{error}"
    );
    let nobody = made(&[], end, "2024-03", Closed::default());
    let error = fit_to_close(&nobody, &asked("2024-03"), end)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no producer has written to shard 0, 1, 2"),
        "{error}"
    );
}

#[test]
fn an_advertiser_that_the_catalogue_did_not_know_has_no_statement() {
    let set = folded(&[], &catalogue(), 5);
    let nobody = Asked {
        advertiser: id("nobody"),
        ..asked("2024-03")
    };
    let error = compute(&set, &ground(Closed::default()), &nobody, &cancel())
        .err()
        .unwrap();
    assert!(
        matches!(error, StatementError::NoAdvertiser { .. }),
        "{error}"
    );
}
