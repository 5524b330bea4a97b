//! `GET /api/v1/trending`: the ads whose last hour stands out against their own past hours.

use adtally_projections::trending::{DEFAULT_LIMIT, MAX_LIMIT, Trend};
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::{at, confine, time_zone, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas::{QuestionProblems, TrendingAnswer};
use crate::query::Cancel;
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};
use crate::query::trending::answer;

const KNOWN: [&str; 3] = ["advertiser_id", "limit", "time_zone"];

#[derive(Serialize)]
struct TrendingRow {
    ad_id: String,
    campaign_id: String,
    clicks: i64,
    impressions: i64,
    baseline_clicks_per_hour: f64,
    baseline_hours: usize,
    score: f64,
}

impl From<Trend> for TrendingRow {
    fn from(trend: Trend) -> Self {
        Self {
            ad_id: trend.ad_id,
            campaign_id: trend.campaign_id,
            clicks: trend.clicks,
            impressions: trend.impressions,
            baseline_clicks_per_hour: trend.baseline.mean,
            baseline_hours: trend.baseline.hours,
            score: trend.score,
        }
    }
}

/// The answer, as [`TrendingAnswer`] describes it.
#[derive(Serialize)]
pub struct Trending {
    start: String,
    end: String,
    time_zone: &'static str,
    rows: Vec<TrendingRow>,
    as_of: AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
}

/// The ads whose last full hour stands out against their own past hours, by exact counts.
///
/// The clicks of the last 60 whole minutes are compared with those of the 24 whole hours before them, from the
/// ad's first event on. `score` counts standard deviations: Anscombe's variance-stabilised difference, over the
/// past hours' dispersion where that is more than a Poisson count has. An ad is mentioned from 5 clicks, 3 past
/// hours and a score of 3 on. Sorted by score, then by ad id.
#[utoipa::path(
    get, path = "/api/v1/trending", tag = "queries",
    params(
        ("advertiser_id" = Vec<String>, Query, description = "Whose ads"),
        ("limit" = Option<u32>, Query, description = "How many ads, at most 1,000; 10 when absent"),
        ("time_zone" = Option<String>, Query, description = "The clock of the past hours, by its IANA name; the advertiser's when absent"),
    ),
    responses((status = 200, description = "The ads", body = TrendingAnswer), QuestionProblems),
)]
pub async fn trending(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<Trending>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let subject = Subject {
        advertisers: params.required_ids("advertiser_id")?,
        ..Subject::default()
    };
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let zone = time_zone(&params)?;
    let subject = confine(subject, &access, &state.catalogue.read())?;
    let catalogue = state.catalogue;
    let now_ms = chrono::Utc::now().timestamp_millis();
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        answer(
            subject,
            now_ms,
            zone,
            limit,
            || catalogue.read(),
            set,
            cancel,
        )
    };
    let found = state.engine.run("trending", run).await?;
    Ok(Json(Trending {
        start: at(found.last_hour.start, found.zone),
        end: at(found.last_hour.end, found.zone),
        time_zone: found.zone.name(),
        rows: found.rows.into_iter().map(TrendingRow::from).collect(),
        complete_through: found.as_of.complete_through_ms.map(utc),
        judged_through: None,
        as_of: found.as_of,
    }))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_known_parameter_is_described_and_no_other() {
        let document = serde_json::to_value(crate::http::openapi::document()).unwrap();
        let described = &document["paths"]["/api/v1/trending"]["get"]["parameters"];
        let names = |p: &serde_json::Value| p["name"].as_str().unwrap().to_owned();
        let described: BTreeSet<_> = described.as_array().unwrap().iter().map(names).collect();
        assert_eq!(described, BTreeSet::from(KNOWN.map(str::to_owned)));
    }
}
