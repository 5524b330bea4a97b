//! One file for each kind of question. Each handler reads its parameters, checks what the key may see, asks the
//! engine, and prints.

mod analytics;
mod catalog;
mod fraud;
mod operations;
mod rolling;
mod spend;
mod statements;
mod top;
mod trending;
mod uniques;

use adtally_projections::bounds::print;
use adtally_streams::catalogue::Catalogue;
use adtally_streams::id::Id;
use axum::Router;
use axum::extract::Path;
use axum::extract::rejection::PathRejection;
use chrono_tz::Tz;
use metrics_exporter_prometheus::PrometheusHandle;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate as _, SizeAbove};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Access;
use super::health::Readiness;
use super::params::{Params, id};
use super::problem::{Problem, quote};
use super::{AppState, gzip, openapi};
use crate::query::analytics::Span;
use crate::query::scope::Subject;

/// Every documented route of the role `api`.
fn documented() -> OpenApiRouter<AppState> {
    OpenApiRouter::new()
        .routes(routes!(analytics::analytics))
        .routes(routes!(spend::spend))
        .routes(routes!(top::top))
        .routes(routes!(rolling::rolling))
        .routes(routes!(trending::trending))
        .routes(routes!(uniques::uniques))
        .routes(routes!(statements::statement))
        .routes(routes!(fraud::fraud))
        .routes(routes!(fraud::fraud_clicks))
        .merge(catalog::router())
}

/// Every documented route that all roles have.
fn documented_operations() -> OpenApiRouter<operations::Operations> {
    OpenApiRouter::new()
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
}

pub(super) fn router(state: AppState) -> Router {
    let (router, _) = documented().split_for_parts();
    let router = router
        .route(openapi::PATH, axum::routing::get(openapi::serve))
        .with_state(state);
    packed(router)
}

/// Packs what is answered to a client that takes gzip, where it is worth it and has not been packed already.
fn packed(router: Router) -> Router {
    let is_worth_it = DefaultPredicate::new().and(SizeAbove::new(gzip::MIN_BYTES as u64));
    let layer = CompressionLayer::new()
        .quality(CompressionLevel::Fastest)
        .compress_when(is_worth_it);
    router
        .layer(layer)
        .layer(axum::middleware::map_request(gzip::decided))
}

pub(super) fn operations(readiness: Readiness, metrics: PrometheusHandle) -> Router {
    let (router, _) = documented_operations().split_for_parts();
    packed(router.with_state(operations::Operations { readiness, metrics }))
}

/// What the routes say of themselves.
pub(super) fn description() -> utoipa::openapi::OpenApi {
    let mut description = documented().into_openapi();
    description.merge(documented_operations().into_openapi());
    description
}

/// The range of a question, from `start` and `end`.
fn span(params: &Params) -> Result<Span, Problem> {
    Ok(Span {
        start: params.bound("start")?,
        end: params.bound("end")?,
        now_ms: chrono::Utc::now().timestamp_millis(),
    })
}

/// The clock that a question names.
fn time_zone(params: &Params) -> Result<Option<Tz>, Problem> {
    let Some(name) = params.one("time_zone")? else {
        return Ok(None);
    };
    let zone = name.parse().map_err(|_| {
        let name = quote(name);
        Problem::bad_parameter(
            "time_zone",
            format!("`{name}` is no IANA time zone, such as Europe/Berlin"),
        )
    })?;
    Ok(Some(zone))
}

/// Confines a subject to what the key may see, and refuses names that are another advertiser's.
fn confine(
    mut subject: Subject,
    access: &Access,
    catalogue: &Catalogue,
) -> Result<Subject, Problem> {
    let Some(own) = access.sight()? else {
        return Ok(subject);
    };
    let owner_of_campaign = |id: &Id| catalogue.campaign(id.as_str()).map(|c| &c.advertiser_id);
    let owner_of_ad = |id: &Id| {
        catalogue
            .ad(id.as_str())
            .and_then(|ad| owner_of_campaign(&ad.campaign_id))
    };
    for campaign in &subject.campaigns {
        access
            .require_sight_of(owner_of_campaign(campaign))
            .map_err(|p| p.blaming("campaign_id"))?;
    }
    // An ad may have been moved away from what was counted, or never have been in the catalogue: with a campaign or an
    // advertiser beside it, it only narrows what is seen already.
    if subject.campaigns.is_empty() && subject.advertisers.is_empty() {
        for ad in &subject.ads {
            access
                .require_sight_of(owner_of_ad(ad))
                .map_err(|p| p.blaming("ad_id"))?;
        }
    }
    for advertiser in &subject.advertisers {
        access
            .require_sight_of(Some(advertiser))
            .map_err(|p| p.blaming("advertiser_id"))?;
    }
    subject.confined_to = Some(own.clone());
    Ok(subject)
}

/// The id in a path.
fn path_id(path: Result<Path<String>, PathRejection>, name: &str) -> Result<Id, Problem> {
    let Path(text) = path
        .map_err(|_| Problem::bad_parameter(name, format!("`{name}` in the path is not UTF-8")))?;
    id(name, &text)
}

/// An instant on a zone's clock.
fn at(ms: i64, zone: Tz) -> String {
    print(ms, adtally_streams::time::offset_at(zone, ms), zone)
}

/// An instant in UTC.
fn utc(ms: i64) -> String {
    print(ms, 0, Tz::UTC)
}
