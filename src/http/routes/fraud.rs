//! `GET /api/v1/fraud` and `/api/v1/fraud/clicks`: invalid clicks by reason, and one by one.

use adtally_projections::verdicts::FraudSum;
use adtally_streams::event::EdgeReason;
use axum::Json;
use axum::extract::{RawQuery, State};
use serde::Serialize;

use super::{at, confine, span, utc};
use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::Params;
use crate::http::problem::Problem;
use crate::http::schemas::{FraudAnswer, FraudClicksAnswer, QuestionProblems};
use crate::query::Cancel;
use crate::query::fraud::{self, Cursor, DEFAULT_LIMIT, Frame, MAX_LIMIT, Question};
use crate::query::scope::Subject;
use crate::query::shard::{AsOf, SnapshotSet};

const KNOWN_SUMS: [&str; 4] = ["campaign_id", "start", "end", "reason"];
const KNOWN_CLICKS: [&str; 6] = ["campaign_id", "start", "end", "reason", "limit", "cursor"];

/// What every answer about invalid clicks says of itself.
#[derive(Serialize)]
struct Framed<R, M> {
    start: String,
    end: String,
    time_zone: &'static str,
    currency_code: Option<String>,
    rows: Vec<R>,
    #[serde(flatten)]
    more: M,
    as_of: AsOf,
    complete_through: Option<String>,
    judged_through: Option<String>,
}

impl<R, M> Framed<R, M> {
    fn new(frame: Frame, rows: Vec<R>, more: M) -> Self {
        Self {
            start: at(frame.start_ms, frame.zone),
            end: at(frame.end_ms, frame.zone),
            time_zone: frame.zone.name(),
            currency_code: frame.currency.map(|c| c.to_string()),
            rows,
            more,
            complete_through: frame.as_of.complete_through_ms.map(utc),
            judged_through: None,
            as_of: frame.as_of,
        }
    }
}

#[derive(Serialize)]
struct ReasonRow {
    reason: &'static str,
    rule_version: u32,
    class: &'static str,
    invalid_clicks: i64,
    cost_micros: i64,
}

#[derive(Serialize)]
struct Totals {
    totals: TotalsRow,
}

#[derive(Serialize)]
struct TotalsRow {
    invalid_clicks: i64,
    cost_micros: i64,
}

#[derive(Serialize)]
struct ClickRow {
    click_id: String,
    time: String,
    ad_id: String,
    campaign_id: String,
    reason: &'static str,
    rule_version: u32,
    class: &'static str,
    score: Option<f64>,
    cost_micros: i64,
}

#[derive(Serialize)]
struct Next {
    next: Option<String>,
}

fn question(params: &Params, access: &Access, state: &AppState) -> Result<Question, Problem> {
    let subject = Subject {
        campaigns: params.required_ids("campaign_id")?,
        ..Subject::default()
    };
    let names = EdgeReason::ALL.map(EdgeReason::name);
    Ok(Question {
        subject: confine(subject, access, &state.catalogue.read())?,
        span: span(params)?,
        reason: params.choice("reason", &names, |name| {
            EdgeReason::ALL.into_iter().find(|r| r.name() == name)
        })?,
    })
}

/// Invalid clicks by reason, and their cost, which is not charged. Impressions are no part of it.
#[utoipa::path(
    get, path = "/api/v1/fraud", tag = "queries",
    params(
        ("campaign_id" = Vec<String>, Query, description = "Whose clicks"),
        ("start" = Option<String>, Query, description = "As for analytics; widened to whole minutes"),
        ("end" = Option<String>, Query, description = "As for analytics"),
        ("reason" = Option<String>, Query, description = "Only this reason: known_bot, prefetch, campaign_inactive or address_limit"),
    ),
    responses((status = 200, description = "The reasons", body = FraudAnswer), QuestionProblems),
)]
pub async fn fraud(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<impl Serialize>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN_SUMS)?;
    let question = question(&params, &access, &state)?;
    let catalogue = state.catalogue;
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        fraud::sums(&question, || catalogue.read(), set, cancel)
    };
    let (frame, sums) = state.engine.run("fraud", run).await?;
    let mut total = FraudSum::default();
    sums.values().for_each(|sum| fraud::add(&mut total, sum));
    let rows = sums
        .into_iter()
        .map(|((reason, rule_version, class), sum)| ReasonRow {
            reason,
            rule_version,
            class,
            invalid_clicks: sum.invalid_clicks,
            cost_micros: sum.cost_micros,
        });
    let totals = TotalsRow {
        invalid_clicks: total.invalid_clicks,
        cost_micros: total.cost_micros,
    };
    Ok(Json(Framed::new(frame, rows.collect(), Totals { totals })))
}

/// Invalid clicks, one by one, in order of time.
#[utoipa::path(
    get, path = "/api/v1/fraud/clicks", tag = "queries",
    params(
        ("campaign_id" = Vec<String>, Query, description = "Whose clicks"),
        ("start" = Option<String>, Query, description = "As for analytics; not widened"),
        ("end" = Option<String>, Query, description = "As for analytics; give it when paging, since it is now when absent"),
        ("reason" = Option<String>, Query, description = "Only this reason"),
        ("limit" = Option<u32>, Query, description = "How many clicks, at most 1,000; 100 when absent"),
        ("cursor" = Option<String>, Query, description = "`next` of the page before"),
    ),
    responses((status = 200, description = "A page of clicks", body = FraudClicksAnswer), QuestionProblems),
)]
pub async fn fraud_clicks(
    State(state): State<AppState>,
    access: Access,
    RawQuery(query): RawQuery,
) -> Result<Json<impl Serialize>, Problem> {
    let params = Params::read(query.as_deref(), &KNOWN_CLICKS)?;
    let question = question(&params, &access, &state)?;
    let limit = params.limit("limit", DEFAULT_LIMIT, MAX_LIMIT)?;
    let cursor = params.one("cursor")?.map(str::parse::<Cursor>).transpose();
    let cursor = cursor
        .map_err(|()| Problem::bad_parameter("cursor", "`cursor` is `next` of the page before"))?;
    let catalogue = state.catalogue;
    let run = move |set: &SnapshotSet<'_>, cancel: &Cancel| {
        fraud::page(
            &question,
            cursor.as_ref(),
            limit,
            || catalogue.read(),
            set,
            cancel,
        )
    };
    let page = state.engine.run("fraud_clicks", run).await?;
    let rows = page.clicks.iter().map(|click| ClickRow {
        click_id: click.click_id().to_owned(),
        time: click.time(),
        ad_id: click.ad_id().to_owned(),
        campaign_id: click.campaign_id.clone(),
        reason: click.reason.name(),
        rule_version: click.revision,
        class: click.class.name(),
        score: None,
        cost_micros: click.cost_micros,
    });
    Ok(Json(Framed::new(
        page.frame,
        rows.collect(),
        Next {
            next: page.next.map(|c| c.to_string()),
        },
    )))
}
