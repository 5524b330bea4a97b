//! `GET /api/v1/statements/{advertiser_id}/{yyyy-mm}`: what an advertiser owes for a month, and the proof.

use adtally_projections::month::Month;
use adtally_streams::time::parse_time_text;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use crate::http::AppState;
use crate::http::auth::Access;
use crate::http::params::{Params, id};
use crate::http::problem::Problem;
use crate::http::schemas::{LookUpProblems, StatementAnswer};
use crate::replay::ReplayError;
use crate::statement::{Asked, StatementError};

const KNOWN: [&str; 1] = ["as_of"];

impl From<StatementError> for Problem {
    fn from(error: StatementError) -> Self {
        match error {
            StatementError::NoAdvertiser { .. } => Problem::not_found(error.to_string()),
            StatementError::NotYet { .. } => Problem::bad_parameter("as_of", error.to_string()),
            StatementError::Query(error) => error.into(),
            StatementError::Replay(error @ ReplayError::Purged { .. }) => {
                Problem::bad_parameter("as_of", error.to_string())
            }
            StatementError::Folding | StatementError::Busy => {
                Problem::unavailable(error.to_string())
            }
            error => {
                tracing::error!(%error, "a statement could not be made");
                Problem::unavailable(
                    "the statement could not be made; the operator finds the cause in the log",
                )
            }
        }
    }
}

/// What an advertiser owes for a civil month of its time zone, and the hash that proves it.
///
/// As of a log time (`as_of`) the answer is the same bytes for ever; without one it is as of now. A closed month is
/// answered as it was closed. `sha256` is that of the object without `sha256` and `closed`, without white space. A
/// past time may have to be read from the log first: 503 says that this is under way.
#[utoipa::path(
    get, path = "/api/v1/statements/{advertiser_id}/{month}", tag = "queries",
    params(
        ("advertiser_id" = String, Path, description = "Whose"),
        ("month" = String, Path, description = "YYYY-MM"),
        ("as_of" = Option<String>, Query, description = "A log time, RFC 3339, at least 2 s ago; now when absent"),
    ),
    responses((status = 200, description = "The statement", body = StatementAnswer), LookUpProblems),
)]
pub async fn statement(
    State(state): State<AppState>,
    access: Access,
    path: Result<Path<(String, String)>, PathRejection>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let Path((advertiser, month)) = path
        .map_err(|_| Problem::bad_parameter("advertiser_id", "the path is not UTF-8".to_owned()))?;
    let params = Params::read(query.as_deref(), &KNOWN)?;
    let advertiser = id("advertiser_id", &advertiser)?;
    let month: Month = month
        .parse()
        .map_err(|error| Problem::bad_parameter("month", format!("`month`: {error}")))?;
    let as_of_ms = match params.one("as_of")? {
        None => None,
        Some(text) => Some(
            parse_time_text(text)
                .map_err(|error| Problem::bad_parameter("as_of", format!("`as_of`: {error}")))?,
        ),
    };
    if access.sight()?.is_some() {
        access.require_sight_of(Some(&advertiser))?;
    }
    let document = state
        .statements
        .statement(Asked { advertiser, month }, as_of_ms)
        .await?;
    Ok((
        [(header::CONTENT_TYPE, "application/json")],
        document.json(),
    )
        .into_response())
}
