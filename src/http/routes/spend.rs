//! `GET /api/v1/campaigns/{id}/spend`: what a campaign has cost, beside its daily budget.

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::{path_id, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas::LookUpProblems;
use crate::query::shard::AsOf;
use crate::query::spend::{Budget, answer};

/// What a campaign has cost. Money is in micros of the advertiser's currency.
#[derive(Debug, Serialize, ToSchema)]
pub struct SpendAnswer {
    /// The campaign.
    campaign_id: String,
    /// Whose it is; null when the catalogue does not know the campaign.
    advertiser_id: Option<String>,
    /// The currency; null likewise.
    currency_code: Option<String>,
    /// The clock of its days; UTC when the catalogue does not know it.
    time_zone: String,
    /// The civil day that is today there.
    #[schema(example = "2024-02-09")]
    day: String,
    /// Charged today.
    today_cost_micros: i64,
    /// Charged in all.
    total_cost_micros: i64,
    /// What the campaign may cost a day.
    daily_budget_micros: Option<i64>,
    /// today_cost_micros / daily_budget_micros; null without a budget.
    share: Option<f64>,
    /// Planned over actual spend so far today, where the plan spends the budget evenly over the civil day; from 0
    /// (the budget is spent) to 2; 1 is on plan; null without a budget.
    pacing_multiplier: Option<f64>,
    /// The one state that the answer is made of.
    #[schema(value_type = Object)]
    as_of: AsOf,
    /// Everything that arrived up to then is counted.
    complete_through: Option<String>,
    /// Null, as no judge runs.
    judged_through: Option<String>,
}

/// What a campaign has cost today and in all.
#[utoipa::path(
    get, path = "/api/v1/campaigns/{id}/spend", tag = "queries",
    params(("id" = String, Path, description = "The campaign")),
    responses((status = 200, description = "Its spend", body = SpendAnswer), LookUpProblems),
)]
pub async fn spend(
    State(state): State<AppState>,
    access: Access,
    path: Result<Path<String>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Json<SpendAnswer>, Problem> {
    Params::read(query.as_deref(), &[])?;
    let id = path_id(path, "id")?;
    let budget = Budget::of(&state.catalogue.read(), &id);
    access.require_sight_of(budget.as_ref().map(|b| &b.advertiser_id))?;
    let (campaign, asked) = (id.clone(), budget.clone());
    let now_ms = chrono::Utc::now().timestamp_millis();
    let found = state
        .engine
        .run("spend", move |set, _| {
            answer(&campaign, asked.as_ref(), now_ms, set)
        })
        .await?;
    let day = chrono::DateTime::from_timestamp(found.day * 86_400, 0).unwrap_or_default();
    Ok(Json(SpendAnswer {
        campaign_id: id.to_string(),
        advertiser_id: budget.as_ref().map(|b| b.advertiser_id.to_string()),
        currency_code: budget.as_ref().map(|b| b.currency.to_string()),
        time_zone: budget.as_ref().map_or("UTC", |b| b.zone.name()).to_owned(),
        day: day.format("%Y-%m-%d").to_string(),
        today_cost_micros: found.today_micros,
        total_cost_micros: found.total_micros,
        daily_budget_micros: budget.and_then(|b| b.daily_budget_micros),
        share: found.share,
        pacing_multiplier: found.pacing_multiplier,
        complete_through: found.as_of.complete_through_ms.map(utc),
        judged_through: None,
        as_of: found.as_of,
    }))
}
