//! `GET /api/v1/uniques`: how many distinct visitors clicked and were reached.

use std::collections::BTreeSet;

use adtally_projections::sketch::{Estimate, RELATIVE_STANDARD_ERROR};
use adtally_streams::id::Id;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::{at, confine, span, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas::{QuestionProblems, UniquesAnswer};
use crate::query::Cancel;
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};
use crate::query::uniques::answer;

const KNOWN: [&str; 3] = ["campaign_id", "start", "end"];

#[derive(Serialize)]
struct Counted {
    estimate: u64,
    lower: u64,
    upper: u64,
}

impl From<Estimate> for Counted {
    fn from(e: Estimate) -> Self {
        Self {
            estimate: e.estimate,
            lower: e.lower,
            upper: e.upper,
        }
    }
}

/// The campaign that was asked about, or all of several.
#[derive(Serialize)]
#[serde(untagged)]
enum Campaigns {
    One(String),
    Several(Vec<String>),
}

impl Campaigns {
    fn of(ids: &BTreeSet<Id>) -> Self {
        let mut names: Vec<String> = ids.iter().map(ToString::to_string).collect();
        match names.len() {
            1 => Self::One(names.remove(0)),
            _ => Self::Several(names),
        }
    }
}

/// The answer, as [`UniquesAnswer`] describes it.
#[derive(Serialize)]
pub struct Uniques {
    campaign_id: Campaigns,
    start: String,
    end: String,
    time_zone: &'static str,
    unique_clickers: Counted,
    users_reached: Counted,
    relative_standard_error: f64,
    as_of: AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
}

/// Distinct visitors who clicked and who were reached, by HyperLogLog.
///
/// Over whole civil days of the campaign's time zone; several campaigns are counted together, a visitor of two of them
/// once. A visitor is a user id, or where none is given the hashed address, whose key changes with each UTC day. What
/// the border judged invalid does not count; a verdict that comes later changes nothing here.
#[utoipa::path(
    get, path = "/api/v1/uniques", tag = "queries",
    params(
        ("campaign_id" = Vec<String>, Query, description = "What is counted"),
        ("start" = Option<String>, Query, description = "First instant: RFC 3339, or without an offset on the campaign's clock; a day before `end` when absent. Widened to whole days"),
        ("end" = Option<String>, Query, description = "Instant after the last; now when absent"),
    ),
    responses((status = 200, description = "How many there are", body = UniquesAnswer), QuestionProblems),
)]
pub async fn uniques(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<Uniques>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let campaigns = params.required_ids("campaign_id")?;
    let campaign_id = Campaigns::of(&campaigns);
    let subject = Subject {
        campaigns,
        ..Subject::default()
    };
    let span = span(&params)?;
    let subject = confine(subject, &access, &state.catalogue.read())?;
    let catalogue = state.catalogue;
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        answer(&subject, &span, || catalogue.read(), set, cancel)
    };
    let found = state.engine.run("uniques", run).await?;
    Ok(Json(Uniques {
        campaign_id,
        start: at(found.start_ms, found.zone),
        end: at(found.end_ms, found.zone),
        time_zone: found.zone.name(),
        unique_clickers: found.clickers.into(),
        users_reached: found.reached.into(),
        relative_standard_error: RELATIVE_STANDARD_ERROR,
        complete_through: found.as_of.complete_through_ms.map(utc),
        judged_through: None,
        as_of: found.as_of,
    }))
}
