//! The metrics of an answer, by the contract's names: counts as they were summed, and what is computed from them.
//!
//! Invariant: a ratio over zero is null and never 0 or infinite; money stays an integer of micros, rounded half
//! up once, computed in 128 bits so that no sum of clicks overflows it.

use serde::Serialize;

use crate::metrics::Metrics;

/// One figure, as an answer writes it; an absent ratio is null, and empty in a table of text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Figure {
    /// A count, or micros.
    Whole(Option<i64>),
    /// A ratio.
    Ratio(Option<f64>),
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Figure::Whole(Some(n)) => write!(f, "{n}"),
            Figure::Ratio(Some(n)) => write!(f, "{n}"),
            Figure::Whole(None) | Figure::Ratio(None) => Ok(()),
        }
    }
}

/// What an answer says of one row, or of all of them. Money is in micros of the advertiser's currency.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Valid impressions.
    pub impressions: i64,
    /// Impressions that the border judged invalid.
    pub invalid_impressions: i64,
    /// Valid, billed clicks.
    pub clicks: i64,
    /// All clicks.
    pub gross_clicks: i64,
    /// Clicks that are not billed.
    pub invalid_clicks: i64,
    /// Those of them that a rule of the class general found.
    pub general_invalid_clicks: i64,
    /// Those of them that a rule of the class sophisticated found.
    pub sophisticated_invalid_clicks: i64,
    /// invalid_clicks / gross_clicks.
    pub invalid_click_rate: Option<f64>,
    /// clicks / impressions.
    pub ctr: Option<f64>,
    /// What is charged.
    pub cost_micros: i64,
    /// cost_micros / clicks.
    pub average_cpc_micros: Option<i64>,
    /// cost_micros * 1000 / impressions.
    pub average_cpm_micros: Option<i64>,
    /// Credited conversions; null, as no attribution runs.
    pub conversions: Option<i64>,
    /// Their value; null likewise.
    pub conversions_value_micros: Option<i64>,
    /// cost_micros / conversions; null likewise.
    pub cost_per_conversion_micros: Option<i64>,
    /// Events that arrived more than five minutes after their time.
    pub late_events: i64,
}

impl Figures {
    /// The names, in the order in which an answer has them.
    pub const NAMES: [&'static str; 16] = [
        "impressions",
        "invalid_impressions",
        "clicks",
        "gross_clicks",
        "invalid_clicks",
        "general_invalid_clicks",
        "sophisticated_invalid_clicks",
        "invalid_click_rate",
        "ctr",
        "cost_micros",
        "average_cpc_micros",
        "average_cpm_micros",
        "conversions",
        "conversions_value_micros",
        "cost_per_conversion_micros",
        "late_events",
    ];

    /// The figures in the order of their names.
    pub fn values(&self) -> [Figure; 16] {
        let whole = |n: i64| Figure::Whole(Some(n));
        [
            whole(self.impressions),
            whole(self.invalid_impressions),
            whole(self.clicks),
            whole(self.gross_clicks),
            whole(self.invalid_clicks),
            whole(self.general_invalid_clicks),
            whole(self.sophisticated_invalid_clicks),
            Figure::Ratio(self.invalid_click_rate),
            Figure::Ratio(self.ctr),
            whole(self.cost_micros),
            Figure::Whole(self.average_cpc_micros),
            Figure::Whole(self.average_cpm_micros),
            Figure::Whole(self.conversions),
            Figure::Whole(self.conversions_value_micros),
            Figure::Whole(self.cost_per_conversion_micros),
            whole(self.late_events),
        ]
    }

    /// The figures of some sums.
    pub fn of(m: &Metrics) -> Self {
        let (clicks, cost) = (m.clicks(), m.cost_micros());
        Self {
            impressions: m.impressions,
            invalid_impressions: m.invalid_impressions,
            clicks,
            gross_clicks: m.gross_clicks,
            invalid_clicks: m.invalid_clicks(),
            general_invalid_clicks: m.general_invalid_clicks,
            sophisticated_invalid_clicks: m.sophisticated_invalid_clicks,
            invalid_click_rate: ratio(m.invalid_clicks(), m.gross_clicks),
            ctr: ratio(clicks, m.impressions),
            cost_micros: cost,
            average_cpc_micros: average(i128::from(cost), clicks),
            average_cpm_micros: average(i128::from(cost) * 1_000, m.impressions),
            conversions: None,
            conversions_value_micros: None,
            cost_per_conversion_micros: None,
            late_events: m.late_events,
        }
    }
}

/// A ratio; none over zero.
pub fn ratio(part: i64, whole: i64) -> Option<f64> {
    (whole != 0).then(|| part as f64 / whole as f64)
}

/// `sum / count` rounded half up; none over zero. Saturates at the ends of 64 bits.
pub fn average(sum: i128, count: i64) -> Option<i64> {
    // Division of 128 bits takes ten times as long, and hardly any sum needs it.
    const SMALL: i128 = 1 << 60;
    if count > 0 && i128::from(count) < SMALL && sum.abs() < SMALL {
        return Some((2 * sum as i64 + count).div_euclid(2 * count));
    }
    let count = i128::from(count);
    (count > 0).then(|| {
        let rounded = (2 * sum + count).div_euclid(2 * count);
        rounded.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    })
}

/// The furthest that pacing goes from standing still: twice the planned speed.
pub const PACING_MAX: f64 = 2.0;

/// The pacing multiplier of a day's budget: planned spend so far over actual spend so far, between 0 and
/// [`PACING_MAX`]; none without a budget.
///
/// The plan spends evenly over the civil day, so planned spend is `budget * elapsed / length`. 1 is on plan; above
/// it the campaign may bid faster, below it slower; 0 once the budget is spent. Nothing spent while something was
/// planned is [`PACING_MAX`], nothing planned and nothing spent is 1.
pub fn pacing(
    spent_micros: i64,
    budget_micros: Option<i64>,
    elapsed_ms: i64,
    length_ms: i64,
) -> Option<f64> {
    let budget = budget_micros?;
    if spent_micros >= budget {
        return Some(0.0);
    }
    let share = if length_ms > 0 {
        (elapsed_ms as f64 / length_ms as f64).clamp(0.0, 1.0)
    } else {
        1.0
    };
    let planned = budget as f64 * share;
    Some(match (spent_micros > 0, planned > 0.0) {
        (true, _) => (planned / spent_micros as f64).clamp(0.0, PACING_MAX),
        (false, true) => PACING_MAX,
        (false, false) => 1.0,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn figures_follow_the_contracts_formulas() {
        // 1,000 impressions, 25 clicks of which 4 + 1 are invalid; 20 valid clicks at 0.35 are 7 units.
        let f = Figures::of(&Metrics {
            impressions: 1_000,
            invalid_impressions: 3,
            gross_clicks: 25,
            general_invalid_clicks: 4,
            sophisticated_invalid_clicks: 1,
            gross_cost_micros: 8_750_000,
            cost_not_charged_micros: 1_750_000,
            conversions: 0,
            conversions_value_micros: 0,
            late_events: 2,
        });
        assert_eq!((f.clicks, f.gross_clicks, f.invalid_clicks), (20, 25, 5));
        assert_eq!((f.ctr, f.invalid_click_rate), (Some(0.02), Some(0.2)));
        assert_eq!(
            (f.cost_micros, f.average_cpc_micros, f.average_cpm_micros),
            (7_000_000, Some(350_000), Some(7_000_000))
        );
        assert_eq!((f.conversions, f.cost_per_conversion_micros), (None, None));
    }

    #[test]
    fn a_ratio_over_zero_is_null() {
        let f = Figures::of(&Metrics {
            gross_cost_micros: 5,
            ..Metrics::default()
        });
        assert_eq!(
            (
                f.ctr,
                f.invalid_click_rate,
                f.average_cpc_micros,
                f.average_cpm_micros
            ),
            (None, None, None, None)
        );
        let null = |name: &str| {
            let at = Figures::NAMES.iter().position(|n| *n == name).unwrap();
            serde_json::to_value(f.values()[at]).unwrap().is_null()
        };
        assert!(
            null("ctr")
                && null("average_cpc_micros")
                && null("conversions")
                && !null("cost_micros")
        );
        assert_eq!(f.values()[9].to_string(), "5");
    }

    #[test]
    fn averages_round_half_up_and_never_overflow() {
        for (sum, count, want) in [
            (10, 4, 3),
            (9, 4, 2),
            (11, 4, 3),
            (1, 2, 1),
            (1, 3, 0),
            (2, 3, 1),
            (-1, 2, 0),
        ] {
            assert_eq!(average(sum, count), Some(want), "{sum}/{count}");
        }
        assert_eq!(average(i128::from(i64::MAX) * 1_000, 1_000), Some(i64::MAX));
        assert_eq!(average(i128::from(i64::MAX) * 1_000, 1), Some(i64::MAX));
    }

    #[test]
    fn pacing_is_planned_over_actual_spend() {
        let day = 86_400_000;
        for (spent, budget, elapsed, want) in [
            (500, Some(1_000), day / 2, Some(1.0)),
            (250, Some(1_000), day / 2, Some(2.0)),
            (750, Some(1_000), day / 2, Some(2.0 / 3.0)),
            (10, Some(1_000), day / 2, Some(2.0)),
            (1_000, Some(1_000), day / 2, Some(0.0)),
            (0, Some(1_000), day / 2, Some(2.0)),
            (0, Some(1_000), 0, Some(1.0)),
            (0, Some(0), day / 2, Some(0.0)),
            (500, None, day / 2, None),
        ] {
            assert_eq!(
                pacing(spent, budget, elapsed, day),
                want,
                "{spent} of {budget:?} after {elapsed}"
            );
        }
    }
}
