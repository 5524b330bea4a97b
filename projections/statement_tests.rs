//! Statements against a calculator: rounding, sums, what is owed of closed months, and the hash.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

fn month(text: &str) -> Month {
    text.parse().unwrap()
}

#[test]
fn decimals_are_those_of_iso_4217() {
    for (code, digits) in [
        ("USD", 2),
        ("EUR", 2),
        ("JPY", 0),
        ("KWD", 3),
        ("CLF", 4),
        ("QQQ", 2),
    ] {
        assert_eq!(minor_digits(Currency::new(code).unwrap()), digits, "{code}");
    }
}

#[test]
fn an_amount_is_rounded_half_away_from_zero() {
    for (micros, digits, want) in [
        (0, 2, "0.00"),
        (4_999, 2, "0.00"),
        (5_000, 2, "0.01"),
        (-5_000, 2, "-0.01"),
        (-4_999, 2, "0.00"),
        (1_234_565_000, 2, "1234.57"),
        (-12_050_000, 2, "-12.05"),
        (1_500_000, 0, "2"),
        (-500_000, 0, "-1"),
        (1_234_500, 3, "1.235"),
        (50, 4, "0.0001"),
        (1, 6, "0.000001"),
        (i64::MAX, 2, "9223372036854.78"),
        (i64::MIN, 0, "-9223372036855"),
    ] {
        assert_eq!(
            decimal(to_minor(micros, digits), digits),
            want,
            "{micros} {digits}"
        );
    }
}

fn counted(clicks: i64, impressions: i64, cost: i64) -> Counted {
    Counted {
        metrics: Metrics {
            gross_clicks: clicks,
            impressions,
            gross_cost_micros: cost,
            ..Metrics::default()
        },
        days: BTreeMap::from([(3, cost / 2), (4, cost - cost / 2)]),
    }
}

fn line(campaign: &str, clicks: i64, cost_micros: i64) -> Line {
    Line {
        campaign_id: id(campaign),
        pricing_model: PricingModel::Cpc,
        clicks,
        impressions: None,
        cost_micros,
        amount: decimal(to_minor(cost_micros, 2), 2),
        invalid_clicks: 0,
        invalid_clicks_by_reason: vec![],
        over_delivery_micros: 0,
    }
}

fn statement(of: &str, lines: Vec<Line>, adjustments: Vec<Adjustment>) -> Statement {
    Statement {
        advertiser_id: id("acme"),
        month: month(of),
        time_zone: "UTC".into(),
        start: "2024-02-01T00:00:00Z".into(),
        end: "2024-03-01T00:00:00Z".into(),
        currency_code: Currency::new("USD").unwrap(),
        totals: totals(&lines, &adjustments, 2),
        lines,
        adjustments,
        as_of: "2024-03-02T00:00:00.000Z".into(),
        complete_through: None,
        positions: BTreeMap::from([("events.0".into(), 7)]),
    }
}

#[test]
fn lines_are_rounded_each_and_then_summed() {
    // Three thirds of a cent are each nothing; the plain sum would be a cent.
    let lines = ["a", "b", "c"].map(|c| line(c, 1, 3_400));
    let sums = totals(&lines, &[], 2);
    assert_eq!(
        (sums.cost_micros, sums.clicks, sums.amount.as_str()),
        (10_200, 3, "0.00")
    );
}

#[test]
fn days_over_their_budget_are_over_delivery_and_others_do_not_make_up_for_them() {
    let spent = Counted {
        days: BTreeMap::from([(1, 150), (2, 50), (3, 101), (4, 900)]),
        ..Counted::default()
    };
    assert_eq!(spent.over_delivery(|day| (day < 4).then_some(100)), 51);
    assert_eq!(spent.over_delivery(|_| None), 0);
}

#[test]
fn a_closed_month_is_adjusted_once() {
    let january = month("2024-01");
    let closed = statement(
        "2024-01",
        vec![line("a", 10, 1_000_000), line("gone", 1, 5)],
        vec![],
    );
    let now = BTreeMap::from([
        (id("a"), counted(12, 90, 1_200_000)),
        (id("new"), counted(1, 0, 7_000)),
    ]);
    let first = adjustments(january, &now, std::slice::from_ref(&closed), 2);
    let short: Vec<_> = first
        .iter()
        .map(|a| {
            (
                a.campaign_id.as_str(),
                a.clicks,
                a.cost_micros,
                a.amount.as_str(),
            )
        })
        .collect();
    assert_eq!(
        short,
        [
            ("a", 2, 200_000, "0.20"),
            ("gone", -1, -5, "0.00"),
            ("new", 1, 7_000, "0.01")
        ]
    );
    // On February's statement it is billed; March's holds only what came later, here a credit.
    let february = statement("2024-02", vec![], first);
    let both = [closed, february];
    assert_eq!(adjustments(january, &now, &both, 2), []);
    let later = BTreeMap::from([
        (id("a"), counted(11, 90, 1_100_000)),
        (id("new"), counted(1, 0, 7_000)),
    ]);
    let second = adjustments(january, &later, &both, 2);
    assert_eq!(second.len(), 1);
    assert_eq!(
        (
            second[0].clicks,
            second[0].cost_micros,
            second[0].amount.as_str()
        ),
        (-1, -100_000, "-0.10")
    );
    assert_eq!(
        adjustments(month("2023-12"), &BTreeMap::new(), &both, 2),
        []
    );
}

proptest! {
    /// Whatever is counted whenever, closed statements together come to what is counted in the end.
    #[test]
    fn all_that_was_billed_is_what_was_counted(costs in proptest::collection::vec(0i64..10_000_000, 1..6)) {
        let january = month("2024-01");
        let mut closed = vec![statement("2024-01", vec![line("a", 1, costs[0])], vec![])];
        for (n, cost) in costs.iter().enumerate() {
            let now = BTreeMap::from([(id("a"), counted(1 + n as i64, 0, *cost))]);
            let adjusted = adjustments(january, &now, &closed, 2);
            closed.push(statement(&format!("2024-{:02}", n + 2), vec![], adjusted));
        }
        let billed: i64 = closed.iter().map(|s| s.totals.cost_micros + s.totals.adjustments_micros).sum();
        prop_assert_eq!(billed, *costs.last().unwrap());
    }
}

#[test]
fn a_sealed_statement_returns_and_a_changed_one_does_not() {
    let written = statement("2024-02", vec![line("a", 10, 1_000_000)], vec![]);
    let bytes = sealed(&written);
    assert_eq!(open(&bytes), Ok(written));
    let text = String::from_utf8(bytes).unwrap();
    assert!(
        text.starts_with(r#"{"advertiser_id":"acme","month":"2024-02","time_zone":"UTC","#),
        "{text}"
    );
    let forged = text.replace("1000000", "1000001");
    assert!(matches!(
        open(forged.as_bytes()),
        Err(BadStatement::OtherHash { .. })
    ));
    for bad in ["", "{}", &text[..text.len() - 1], &format!("{text} ")] {
        assert!(
            matches!(open(bad.as_bytes()), Err(BadStatement::Unreadable(_))),
            "{bad}"
        );
    }
    // The hash is what anyone computes of the text before it.
    let (head, tail) = text.split_once(",\"sha256\":\"").unwrap();
    let digest = Sha256::digest(format!("{head}}}").as_bytes());
    let digest: String = digest.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(tail, format!("{digest}\"}}"));
}
