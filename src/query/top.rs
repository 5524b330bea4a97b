//! The top ads of an advertiser: exact, because they are picked from the same sums that analytics answers with.

use std::cmp::Ordering;

use adtally_projections::metrics::Metrics;
use adtally_projections::table::Row;
use serde::{Deserialize, Serialize};

use super::analytics::Answer;

/// How many ads are answered when no limit is asked for.
pub const DEFAULT_LIMIT: usize = 10;
/// The most ads that can be asked for.
pub const MAX_LIMIT: usize = 1_000;

/// What makes an ad a top one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// What it is charged.
    #[default]
    CostMicros,
    /// Its valid clicks.
    Clicks,
    /// Its click-through rate; ads without impressions have none and come last.
    Ctr,
}

impl By {
    /// Every order.
    pub const ALL: [By; 3] = [By::CostMicros, By::Clicks, By::Ctr];

    /// The contract's name.
    pub fn name(self) -> &'static str {
        match self {
            By::CostMicros => "cost_micros",
            By::Clicks => "clicks",
            By::Ctr => "ctr",
        }
    }

    /// The order of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|by| by.name() == name)
    }

    /// Greater comes first.
    fn compare(self, a: &Metrics, b: &Metrics) -> Ordering {
        match self {
            By::CostMicros => b.cost_micros().cmp(&a.cost_micros()),
            By::Clicks => b.clicks().cmp(&a.clicks()),
            By::Ctr => match (a.impressions > 0, b.impressions > 0) {
                (true, true) => {
                    // a/x > b/y as a*y > b*x: two ratios are equal exactly when they are.
                    let cross = |m: &Metrics, other: &Metrics| {
                        i128::from(m.clicks()) * i128::from(other.impressions)
                    };
                    cross(b, a).cmp(&cross(a, b))
                }
                (a, b) => b.cmp(&a),
            },
        }
    }
}

/// The top rows of an answer that is grouped by ad, ties by ad id.
pub fn pick(answer: &Answer, by: By, limit: usize) -> Vec<(String, Metrics)> {
    let ad = |row: &Row| answer.table.group(row).next().map_or("", |(_, name)| name);
    let mut rows: Vec<(&str, Metrics)> = answer
        .table
        .rows()
        .map(|row| (ad(&row), row.metrics))
        .collect();
    rows.sort_by(|a, b| by.compare(&a.1, &b.1).then_with(|| a.0.cmp(b.0)));
    rows.truncate(limit);
    rows.into_iter()
        .map(|(ad, metrics)| (ad.to_owned(), metrics))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ad(clicks: i64, impressions: i64, cost: i64) -> Metrics {
        Metrics {
            gross_clicks: clicks,
            impressions,
            gross_cost_micros: cost,
            ..Metrics::default()
        }
    }

    #[test]
    fn each_order_puts_the_greater_first_and_what_has_no_ratio_last() {
        let order = |by: By, a: Metrics, b: Metrics| by.compare(&a, &b);
        assert_eq!(order(By::Clicks, ad(2, 0, 0), ad(1, 0, 9)), Ordering::Less);
        assert_eq!(
            order(By::CostMicros, ad(2, 0, 0), ad(1, 0, 9)),
            Ordering::Greater
        );
        assert_eq!(order(By::Ctr, ad(1, 3, 0), ad(2, 7, 0)), Ordering::Less);
        assert_eq!(order(By::Ctr, ad(1, 3, 0), ad(2, 6, 0)), Ordering::Equal);
        assert_eq!(order(By::Ctr, ad(0, 1, 0), ad(5, 0, 0)), Ordering::Less);
        assert_eq!(order(By::Ctr, ad(1, 0, 0), ad(5, 0, 0)), Ordering::Equal);
    }
}
