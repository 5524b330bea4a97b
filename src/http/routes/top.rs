//! `GET /api/v1/top`: the top ads of an advertiser.

use adtally_projections::buckets::Granularity;
use adtally_projections::metrics::Metrics;
use adtally_projections::partial::Dimension;
use adtally_projections::ratios::Chosen;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::{at, confine, span, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::render::serialize_figures;
use crate::http::schemas::{QuestionProblems, TopAnswer};
use crate::query::Cancel;
use crate::query::analytics::{Question, answer};
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};
use crate::query::top::{By, DEFAULT_LIMIT, MAX_LIMIT, pick};

const KNOWN: [&str; 5] = ["advertiser_id", "start", "end", "by", "limit"];

struct TopRow {
    ad_id: String,
    metrics: Metrics,
}

impl Serialize for TopRow {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("ad_id", &self.ad_id)?;
        serialize_figures(Chosen::ALL, &self.metrics, &mut map)?;
        map.end()
    }
}

/// The answer, as [`TopAnswer`] describes it.
#[derive(Serialize)]
pub struct Top {
    start: String,
    end: String,
    time_zone: &'static str,
    currency_code: Option<String>,
    by: By,
    rows: Vec<TopRow>,
    as_of: AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
}

/// The top ads of an advertiser, exactly; ties by ad id.
#[utoipa::path(
    get, path = "/api/v1/top", tag = "queries",
    params(
        ("advertiser_id" = Vec<String>, Query, description = "Whose ads"),
        ("start" = Option<String>, Query, description = "As for analytics; widened to whole minutes"),
        ("end" = Option<String>, Query, description = "As for analytics"),
        ("by" = Option<String>, Query, description = "cost_micros (default), clicks or ctr; ads without impressions have no ctr and come last"),
        ("limit" = Option<u32>, Query, description = "How many ads, at most 1,000; 10 when absent"),
    ),
    responses((status = 200, description = "The ads", body = TopAnswer), QuestionProblems),
)]
pub async fn top(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<Top>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let subject = Subject {
        advertisers: params.required_ids("advertiser_id")?,
        ..Subject::default()
    };
    let by = params
        .choice("by", &By::ALL.map(By::name), By::from_name)?
        .unwrap_or_default();
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let subject = confine(subject, &access, &state.catalogue.read())?;
    let question = Question {
        granularity: Some(Granularity::Total),
        group_by: vec![Dimension::AdId],
        ..Question::of(subject, span(&params)?)
    };
    let catalogue = state.catalogue;
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        let answer = answer(&question, || catalogue.read(), set, cancel)?;
        let rows = pick(&answer, by, limit);
        Ok((answer, rows))
    };
    let (answer, rows) = state.engine.run("top", run).await?;
    Ok(Json(Top {
        start: at(answer.plan.start_ms, answer.plan.zone),
        end: at(answer.plan.end_ms, answer.plan.zone),
        time_zone: answer.plan.zone.name(),
        currency_code: answer.currency.map(|c| c.to_string()),
        by,
        rows: rows
            .into_iter()
            .map(|(ad_id, metrics)| TopRow { ad_id, metrics })
            .collect(),
        complete_through: answer.as_of.complete_through_ms.map(utc),
        judged_through: None,
        as_of: answer.as_of,
    }))
}
