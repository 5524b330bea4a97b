//! `GET /api/v1/rolling`: counts of the window that ends at each of the last 60 minutes.

use adtally_projections::metrics::Metrics;
use adtally_projections::ratios::ratio;
use adtally_projections::rolling::{BadWindow, DEFAULT_WINDOW_MS, Windows};
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::{at, confine, time_zone, utc};
use crate::config::units;
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas::{QuestionProblems, RollingAnswer};
use crate::query::Cancel;
use crate::query::rolling::answer;
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};

const KNOWN: [&str; 3] = ["campaign_id", "window", "time_zone"];

#[derive(Serialize)]
struct RollingRow {
    time: String,
    impressions: i64,
    clicks: i64,
    ctr: Option<f64>,
}

/// The answer, as [`RollingAnswer`] describes it.
#[derive(Serialize)]
pub struct Rolling {
    window: String,
    time_zone: &'static str,
    rows: Vec<RollingRow>,
    as_of: AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
}

/// Impressions, clicks and click-through rate of the window that ends at each of the last 60 minutes, exactly.
///
/// Sixty rows in order of time, of whole minutes; the last window ends where the current minute began. Several
/// campaigns are counted together.
#[utoipa::path(
    get, path = "/api/v1/rolling", tag = "queries",
    params(
        ("campaign_id" = Vec<String>, Query, description = "What is counted"),
        ("window" = Option<String>, Query, description = "How long each window is, in whole minutes from 1m to 24h, such as 15m or 1h; 60m when absent"),
        ("time_zone" = Option<String>, Query, description = "The clock on which times are printed, by its IANA name; the advertiser's when absent"),
    ),
    responses((status = 200, description = "The windows", body = RollingAnswer), QuestionProblems),
)]
pub async fn rolling(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<Rolling>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let subject = Subject {
        campaigns: params.required_ids("campaign_id")?,
        ..Subject::default()
    };
    let windows = windows(&params, chrono::Utc::now().timestamp_millis())?;
    let zone = time_zone(&params)?;
    let subject = confine(subject, &access, &state.catalogue.read())?;
    let catalogue = state.catalogue;
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        answer(subject, &windows, zone, || catalogue.read(), set, cancel)
    };
    let found = state.engine.run("rolling", run).await?;
    let row = |(end, sum): &(i64, Metrics)| RollingRow {
        time: at(*end, found.zone),
        impressions: sum.impressions,
        clicks: sum.clicks(),
        ctr: ratio(sum.clicks(), sum.impressions),
    };
    Ok(Json(Rolling {
        window: format!("{}m", windows.minutes()),
        time_zone: found.zone.name(),
        rows: found.rows.iter().map(row).collect(),
        complete_through: found.as_of.complete_through_ms.map(utc),
        judged_through: None,
        as_of: found.as_of,
    }))
}

fn windows(params: &Params, now_ms: i64) -> Result<Windows, Problem> {
    let length_ms = match params.one("window")? {
        None => Ok(DEFAULT_WINDOW_MS),
        Some(text) => text
            .parse::<units::Span>()
            .ok()
            .and_then(|span| i64::try_from(span.0.as_millis()).ok())
            .ok_or(BadWindow),
    };
    length_ms
        .and_then(|length_ms| Windows::until(now_ms, length_ms))
        .map_err(|error| Problem::bad_parameter("window", format!("`window`: {error}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn minutes(query: &str) -> Result<i64, Problem> {
        windows(&Params::read(Some(query), &KNOWN)?, 0).map(|w| w.minutes())
    }

    #[test]
    fn a_window_is_minutes_or_hours_within_bounds() {
        for (query, want) in [
            ("", 60),
            ("window=1m", 1),
            ("window=15m", 15),
            ("window=60m", 60),
            ("window=1h", 60),
            ("window=24h", 1_440),
            ("window=1d", 1_440),
            ("window=120s", 2),
        ] {
            assert_eq!(minutes(query).unwrap(), want, "{query}");
        }
        for query in [
            "window=",
            "window=60",
            "window=0m",
            "window=-5m",
            "window=1.5h",
            "window=90s",
            "window=1441m",
            "window=25h",
            "window=18446744073709551615ms",
            "window=1w",
            "window=1h&window=1h",
        ] {
            let problem = minutes(query).unwrap_err();
            assert_eq!(
                (problem.status().as_u16(), problem.parameter()),
                (400, Some("window")),
                "{query}"
            );
        }
    }

    #[test]
    fn every_known_parameter_is_described_and_no_other() {
        let document = serde_json::to_value(crate::http::openapi::document()).unwrap();
        let described = &document["paths"]["/api/v1/rolling"]["get"]["parameters"];
        let names = |p: &serde_json::Value| p["name"].as_str().unwrap().to_owned();
        let described: BTreeSet<_> = described.as_array().unwrap().iter().map(names).collect();
        assert_eq!(described, BTreeSet::from(KNOWN.map(str::to_owned)));
    }
}
