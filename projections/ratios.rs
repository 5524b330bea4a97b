//! The metrics of an answer, by the contract's names: counts as they were summed, and what is computed from them.
//!
//! Invariant: a ratio over zero is null and never 0 or infinite; money stays an integer of micros, rounded half
//! up once, computed in 128 bits so that no sum of clicks overflows it.

use serde::{Serialize, Serializer};

use crate::metrics::{Fields, Metrics};

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

/// What an answer says of a row, or of all of them. Money is in micros of the advertiser's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Metric {
    /// Valid impressions.
    Impressions,
    /// Impressions that the border judged invalid.
    InvalidImpressions,
    /// Valid, billed clicks.
    Clicks,
    /// All clicks.
    GrossClicks,
    /// Clicks that are not billed.
    InvalidClicks,
    /// Those of them that a rule of the class general found.
    GeneralInvalidClicks,
    /// Those of them that a rule of the class sophisticated found.
    SophisticatedInvalidClicks,
    /// invalid_clicks / gross_clicks.
    InvalidClickRate,
    /// clicks / impressions.
    Ctr,
    /// What is charged.
    CostMicros,
    /// cost_micros / clicks.
    AverageCpcMicros,
    /// cost_micros * 1000 / impressions.
    AverageCpmMicros,
    /// Credited conversions; null, as no attribution runs.
    Conversions,
    /// Their value; null likewise.
    ConversionsValueMicros,
    /// cost_micros / conversions; null likewise.
    CostPerConversionMicros,
    /// Events that arrived more than five minutes after their time.
    LateEvents,
}

impl Metric {
    /// Every metric, in the order in which an answer has them.
    pub const ALL: [Metric; 16] = [
        Metric::Impressions,
        Metric::InvalidImpressions,
        Metric::Clicks,
        Metric::GrossClicks,
        Metric::InvalidClicks,
        Metric::GeneralInvalidClicks,
        Metric::SophisticatedInvalidClicks,
        Metric::InvalidClickRate,
        Metric::Ctr,
        Metric::CostMicros,
        Metric::AverageCpcMicros,
        Metric::AverageCpmMicros,
        Metric::Conversions,
        Metric::ConversionsValueMicros,
        Metric::CostPerConversionMicros,
        Metric::LateEvents,
    ];

    /// The contract's names, in the same order.
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

    /// The contract's name.
    pub fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The metric of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|metric| metric.name() == name)
    }

    /// The counters that it is made of, by their places in [`Metrics::fields`].
    pub const fn fields(self) -> Fields {
        match self {
            Metric::Impressions => Fields::of(&[0]),
            Metric::InvalidImpressions => Fields::of(&[1]),
            Metric::Clicks | Metric::InvalidClickRate => Fields::of(&[2, 3, 4]),
            Metric::GrossClicks => Fields::of(&[2]),
            Metric::InvalidClicks => Fields::of(&[3, 4]),
            Metric::GeneralInvalidClicks => Fields::of(&[3]),
            Metric::SophisticatedInvalidClicks => Fields::of(&[4]),
            Metric::Ctr => Fields::of(&[0, 2, 3, 4]),
            Metric::CostMicros => Fields::of(&[5, 6]),
            Metric::AverageCpcMicros => Fields::of(&[2, 3, 4, 5, 6]),
            Metric::AverageCpmMicros => Fields::of(&[0, 5, 6]),
            Metric::Conversions => Fields::of(&[7]),
            Metric::ConversionsValueMicros => Fields::of(&[8]),
            Metric::CostPerConversionMicros => Fields::of(&[5, 6, 7]),
            Metric::LateEvents => Fields::of(&[9]),
        }
    }

    /// Its figure of some sums.
    #[inline]
    pub fn of(self, m: &Metrics) -> Figure {
        let whole = |n: i64| Figure::Whole(Some(n));
        match self {
            Metric::Impressions => whole(m.impressions),
            Metric::InvalidImpressions => whole(m.invalid_impressions),
            Metric::Clicks => whole(m.clicks()),
            Metric::GrossClicks => whole(m.gross_clicks),
            Metric::InvalidClicks => whole(m.invalid_clicks()),
            Metric::GeneralInvalidClicks => whole(m.general_invalid_clicks),
            Metric::SophisticatedInvalidClicks => whole(m.sophisticated_invalid_clicks),
            Metric::InvalidClickRate => Figure::Ratio(ratio(m.invalid_clicks(), m.gross_clicks)),
            Metric::Ctr => Figure::Ratio(ratio(m.clicks(), m.impressions)),
            Metric::CostMicros => whole(m.cost_micros()),
            Metric::AverageCpcMicros => {
                Figure::Whole(average(i128::from(m.cost_micros()), m.clicks()))
            }
            Metric::AverageCpmMicros => {
                let thousand = i128::from(m.cost_micros()) * 1_000;
                Figure::Whole(average(thousand, m.impressions))
            }
            Metric::Conversions
            | Metric::ConversionsValueMicros
            | Metric::CostPerConversionMicros => Figure::Whole(None),
            Metric::LateEvents => whole(m.late_events),
        }
    }
}

/// The metrics that an answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(u16);

impl Chosen {
    /// Every metric.
    pub const ALL: Chosen = Chosen(u16::MAX);

    /// Whether a metric is among them.
    pub fn has(self, metric: Metric) -> bool {
        self.0 & (1 << metric as u8) != 0
    }

    /// They, in the order in which an answer has them.
    pub fn metrics(self) -> impl Iterator<Item = Metric> {
        Metric::ALL
            .into_iter()
            .filter(move |metric| self.has(*metric))
    }

    /// The counters that they are made of.
    pub fn fields(self) -> Fields {
        let fields = self.metrics().map(Metric::fields);
        fields.fold(Fields::of(&[]), Fields::and)
    }
}

impl FromIterator<Metric> for Chosen {
    fn from_iter<T: IntoIterator<Item = Metric>>(metrics: T) -> Self {
        let metrics = metrics.into_iter();
        Self(metrics.fold(0, |mask, metric| mask | (1 << metric as u8)))
    }
}

/// As their names.
impl Serialize for Chosen {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_seq(self.metrics().map(Metric::name))
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

    fn some() -> Metrics {
        // 1,000 impressions, 25 clicks of which 4 + 1 are invalid; 20 valid clicks at 0.35 are 7 units.
        Metrics {
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
        }
    }

    #[test]
    fn figures_follow_the_contracts_formulas() {
        let table = [
            ("impressions", "1000"),
            ("invalid_impressions", "3"),
            ("clicks", "20"),
            ("gross_clicks", "25"),
            ("invalid_clicks", "5"),
            ("general_invalid_clicks", "4"),
            ("sophisticated_invalid_clicks", "1"),
            ("invalid_click_rate", "0.2"),
            ("ctr", "0.02"),
            ("cost_micros", "7000000"),
            ("average_cpc_micros", "350000"),
            ("average_cpm_micros", "7000000"),
            ("conversions", ""),
            ("conversions_value_micros", ""),
            ("cost_per_conversion_micros", ""),
            ("late_events", "2"),
        ];
        assert_eq!(table.map(|(name, _)| name), Metric::NAMES);
        for ((name, want), metric) in table.into_iter().zip(Metric::ALL) {
            assert_eq!(Metric::from_name(name), Some(metric));
            assert_eq!(metric.of(&some()).to_string(), want, "{name}");
        }
    }

    #[test]
    fn a_ratio_over_zero_is_null() {
        let none = Metrics {
            gross_cost_micros: 5,
            ..Metrics::default()
        };
        let null = |metric: Metric| serde_json::to_value(metric.of(&none)).unwrap().is_null();
        for metric in [
            Metric::Ctr,
            Metric::InvalidClickRate,
            Metric::AverageCpcMicros,
            Metric::AverageCpmMicros,
            Metric::Conversions,
        ] {
            assert!(null(metric), "{metric:?}");
        }
        assert!(!null(Metric::CostMicros));
        assert_eq!(Metric::CostMicros.of(&none).to_string(), "5");
    }

    #[test]
    fn a_metric_needs_no_other_counters_than_it_says() {
        let all = some().fields();
        for metric in Metric::ALL {
            let own = Metrics::from_fields(std::array::from_fn(|place| {
                let is_own = metric.fields().has(place);
                if is_own { all[place] } else { 0 }
            }));
            assert_eq!(metric.of(&own), metric.of(&some()), "{metric:?}");
        }
    }

    #[test]
    fn chosen_metrics_are_in_the_answers_order() {
        let chosen: Chosen = [Metric::Ctr, Metric::Impressions, Metric::Ctr]
            .into_iter()
            .collect();
        let metrics: Vec<Metric> = chosen.metrics().collect();
        assert_eq!(metrics, [Metric::Impressions, Metric::Ctr]);
        let places: Vec<usize> = chosen.fields().places().collect();
        assert_eq!(places, [0, 2, 3, 4]);
        assert_eq!(Chosen::ALL, Metric::ALL.into_iter().collect());
        assert_eq!(Chosen::ALL.fields(), Fields::ALL);
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
