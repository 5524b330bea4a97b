//! The ledger beside the API's answer: equal, or where not.
//!
//! The API is asked once everything acknowledged must be visible (`complete_through` has passed the last
//! acknowledgement), and then until it agrees or the patience is over; only the last answer counts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use super::ledger::{Counts, Ledger};
use super::sample::Sample;
use crate::api_client::{Api, ApiError};

/// Between two questions.
const ASK_EVERY: Duration = Duration::from_millis(250);
/// How far back the question reaches: past the oldest late event.
const BACK_MS: i64 = 5 * 86_400_000;
/// And ahead: past every arrival.
const AHEAD_MS: i64 = 2 * 86_400_000;

/// One metric that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The campaign.
    pub campaign_id: String,
    /// The ad.
    pub ad_id: String,
    /// The metric, by the API's name.
    pub metric: &'static str,
    /// What the ledger holds.
    pub expected: i64,
    /// What the API answers.
    pub answered: i64,
}

/// One campaign's line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The campaign.
    pub campaign_id: String,
    /// Its advertiser's currency.
    pub currency_code: String,
    /// By the ledger.
    pub expected: Counts,
    /// By the API.
    pub answered: Counts,
}

/// Both sides, and where they differ.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// By campaign.
    pub campaigns: Vec<Line>,
    /// By ad and metric; empty when all are equal.
    pub differences: Vec<Difference>,
    /// Whether the API said that everything acknowledged is counted.
    pub complete: bool,
    /// How long after the last acknowledgement the two agreed, in milliseconds; none when they do not.
    pub visible_after_ms: Option<i64>,
}

/// Asks until ledger and API agree, or for `patience`.
pub async fn compare(
    api: &Api,
    sample: &Sample,
    ledger: &Ledger,
    patience: Duration,
) -> Result<Comparison, ApiError> {
    let began = Instant::now();
    loop {
        let asked_at = Utc::now().timestamp_millis();
        let (answered, complete) = ask(api, sample, ledger.last_acknowledged_ms()).await?;
        let mut comparison = beside(sample, &ledger.expected_by_ad(), &answered);
        comparison.complete = complete;
        if comparison.differences.is_empty() && complete {
            comparison.visible_after_ms = Some(asked_at - ledger.last_acknowledged_ms());
            return Ok(comparison);
        }
        if began.elapsed() >= patience {
            return Ok(comparison);
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

/// What the API says of every ad of the sample, and whether it says that all up to `through_ms` is counted.
async fn ask(
    api: &Api,
    sample: &Sample,
    through_ms: i64,
) -> Result<(BTreeMap<String, Counts>, bool), ApiError> {
    let now = Utc::now().timestamp_millis();
    let at = |ms: i64| {
        DateTime::from_timestamp_millis(ms)
            .unwrap_or_default()
            .to_rfc3339()
    };
    let (start, end) = (at(now - BACK_MS), at(now + AHEAD_MS));
    let mut by_ad = BTreeMap::new();
    let mut complete = true;
    for advertiser in &sample.advertisers {
        let query = [
            ("advertiser_id", advertiser.advertiser_id.as_str()),
            ("start", &start),
            ("end", &end),
            ("granularity", "total"),
            ("group_by", "campaign_id,ad_id"),
        ];
        let answer = api.get("/api/v1/analytics", &query).await?;
        complete &= is_complete(&answer, through_ms);
        for row in answer
            .get("rows")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let ad = row
                .get("ad_id")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_string();
            by_ad
                .entry(ad)
                .or_insert_with(Counts::default)
                .add(&counts_of(row));
        }
    }
    Ok((by_ad, complete))
}

fn is_complete(answer: &Value, through_ms: i64) -> bool {
    let through = answer.get("complete_through").and_then(Value::as_str);
    through
        .and_then(|t| DateTime::parse_from_rfc3339(t).ok())
        .is_some_and(|t| t.timestamp_millis() >= through_ms)
}

fn counts_of(row: &Value) -> Counts {
    let n = |name: &str| row.get(name).and_then(Value::as_i64).unwrap_or_default();
    Counts {
        impressions: n("impressions"),
        invalid_impressions: n("invalid_impressions"),
        clicks: n("clicks"),
        invalid_clicks: n("invalid_clicks"),
        cost_micros: n("cost_micros"),
        late_events: n("late_events"),
    }
}

fn beside(sample: &Sample, expected: &[Counts], answered: &BTreeMap<String, Counts>) -> Comparison {
    let mut lines: Vec<Line> = sample
        .campaigns
        .iter()
        .map(|c| Line {
            campaign_id: c.campaign_id.clone(),
            currency_code: sample.advertisers[c.advertiser].currency.into(),
            expected: Counts::default(),
            answered: Counts::default(),
        })
        .collect();
    let mut differences = Vec::new();
    for (index, ad) in sample.ads.iter().enumerate() {
        let theirs = answered.get(&ad.ad_id).copied().unwrap_or_default();
        let line = &mut lines[ad.campaign];
        line.expected.add(&expected[index]);
        line.answered.add(&theirs);
        for ((metric, ours), (_, theirs)) in expected[index].named().into_iter().zip(theirs.named())
        {
            if ours != theirs {
                differences.push(Difference {
                    campaign_id: line.campaign_id.clone(),
                    ad_id: ad.ad_id.clone(),
                    metric,
                    expected: ours,
                    answered: theirs,
                });
            }
        }
    }
    Comparison {
        campaigns: lines,
        differences,
        complete: false,
        visible_after_ms: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_click_too_many_is_named() {
        let sample = Sample::new("");
        let mut expected = vec![Counts::default(); sample.ads.len()];
        expected[2].clicks = 4;
        let answered = BTreeMap::from([(
            sample.ads[2].ad_id.clone(),
            Counts {
                clicks: 5,
                ..Counts::default()
            },
        )]);
        let comparison = beside(&sample, &expected, &answered);
        let [difference] = comparison.differences.as_slice() else {
            panic!("{:?}", comparison.differences);
        };
        assert_eq!(
            (difference.metric, difference.expected, difference.answered),
            ("clicks", 4, 5)
        );
        assert_eq!(difference.ad_id, sample.ads[2].ad_id);
        expected[2].clicks = 5;
        assert!(beside(&sample, &expected, &answered).differences.is_empty());
    }
}
