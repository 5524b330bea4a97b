//! `POST /api/v1/events`: many events in one request, each with an outcome of its own, one fsync for all.
//!
//! Invariant: 202 leaves after every accepted event is durable and every rejected one has its record. The request
//! as a whole is refused only for what concerns it as a whole: its size, its form, its key.

mod split;

use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::parse::RawEvent;
use adtally_streams::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::border::facts::Sender;
use crate::border::{Border, Incoming, Outcome};
use crate::collector::peer_of;
use crate::http::auth::{Access, access_of};
use crate::http::problem::Problem;
use crate::quarantine::{Source, Way};
use crate::read_body::read_body;
use split::{BadBody, split};

/// The path.
pub const PATH: &str = "/api/v1/events";
/// The largest body, in bytes; a larger one is 413.
pub const BODY_MAX_BYTES: usize = 8 << 20;

/// An event that was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rejected {
    /// Its place in the request, from 0.
    #[schema(example = 3)]
    pub index: usize,
    /// Why, by the name that its record in QUARANTINE has.
    #[schema(example = "bad_id")]
    pub reason: String,
    /// What is wrong with which field.
    #[schema(example = "click_id: an id is 1 to 64 of A-Z a-z 0-9 _ : -, and this has 0 bytes")]
    pub detail: String,
}

/// What became of a request's events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Posted {
    /// How many are on disk and will be counted.
    #[schema(example = 250)]
    pub accepted: usize,
    /// Those that are not, in the request's order.
    pub rejected: Vec<Rejected>,
}

/// The route, over the collector's outbox.
pub fn router(border: Border) -> Router {
    Router::new()
        .route(PATH, post(post_events).fallback(method_not_allowed))
        .with_state(Arc::new(border))
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::method_not_allowed(method.as_str(), Some(HeaderValue::from_static("POST")))
}

/// Posts events.
#[utoipa::path(
    post, path = PATH, tag = "events",
    request_body(
        content((serde_json::Value = "application/json"), (String = "application/x-ndjson")),
        description = "A JSON array of events, or one event a line. Each has `kind` and the fields of its kind.",
    ),
    responses(
        (status = 202, description = "The accepted events are durable and will be counted", body = Posted),
        (status = 400, description = "The body is not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No key", body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not post these events", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "More than 8 MiB or 10,000 events", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "Nothing was taken; send it again", body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn post_events(
    State(border): State<Arc<Border>>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let access = access_of(
        &border.catalogue().read(),
        &parts.headers,
        Some(peer_of(&parts)),
    )?;
    let body = read_body(&parts.headers, body, BODY_MAX_BYTES).await?;
    let items = split(&body, is_ndjson(&parts)).map_err(|error| match error {
        BadBody::TooMany => Problem::too_large(error.to_string()),
        BadBody::NotJson(_) => Problem::bad_request(error.to_string()),
    })?;
    let read: Vec<_> = items
        .into_iter()
        .map(|item| (RawEvent::from_json_object(item), body.slice_ref(item)))
        .collect();
    if let Some(index) = first_forbidden(&access, read.iter().map(|(raw, _)| raw)) {
        return Err(Problem::forbidden(format!(
            "an advertiser's key posts conversions of its own advertiser only, and event {index} is not one"
        )));
    }
    let entry = border.enter().await.map_err(|error| error.problem())?;
    let subject: Arc<str> = Arc::from(format!("http:POST {PATH}"));
    let batch = read.into_iter().map(|(raw, payload)| Incoming {
        raw,
        sender: Sender::default(),
        source: Source {
            subject: subject.clone(),
            stored: None,
            payload,
        },
        arrival_ms: None,
        landing_url: None,
    });
    let outcomes = border
        .admit_batch(entry, Way::Post, batch.collect())
        .await
        .map_err(|error| error.problem())?;
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::ACCEPTED, headers, Json(posted(outcomes))).into_response())
}

/// Whether the media type says that every line is an event.
fn is_ndjson(parts: &Parts) -> bool {
    let media_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    matches!(
        essence.as_str(),
        "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-lines"
    )
}

/// The place of the first event that the key may not post: an advertiser's key posts conversions of its own
/// advertiser. One such event refuses the whole request: nothing of it is an honest mistake of data.
fn first_forbidden<'a>(
    access: &Access,
    mut events: impl Iterator<Item = &'a Result<RawEvent, Refusal>>,
) -> Option<usize> {
    if access.may_post_events() {
        return None;
    }
    let is_own = |raw: &RawEvent| {
        raw.kind == Kind::Conversion && access.may_post_conversion_of(raw.key.as_str())
    };
    events.position(|raw| raw.as_ref().is_ok_and(|raw| !is_own(raw)))
}

fn posted(outcomes: Vec<Outcome>) -> Posted {
    let total = outcomes.len();
    let rejected: Vec<Rejected> = outcomes
        .into_iter()
        .enumerate()
        .filter_map(|(index, outcome)| {
            let refusal = outcome.err()?;
            Some(Rejected {
                index,
                reason: refusal.reason.name().to_owned(),
                detail: refusal.detail,
            })
        })
        .collect();
    Posted {
        accepted: total - rejected.len(),
        rejected,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use adtally_streams::id::Id;
    use adtally_streams::refusal::Reason;
    use axum::body::Body;

    use super::*;

    fn read(items: &[&str]) -> Vec<Result<RawEvent, Refusal>> {
        items
            .iter()
            .map(|item| RawEvent::from_json_object(item.as_bytes()))
            .collect()
    }

    #[test]
    fn an_advertisers_key_posts_its_own_conversions_only() {
        let own =
            r#"{"kind":"conversion","conversion_id":"v1","advertiser_id":"acme","click_id":"c1"}"#;
        let foreign =
            r#"{"kind":"conversion","conversion_id":"v1","advertiser_id":"other","click_id":"c1"}"#;
        let click = r#"{"kind":"click","click_id":"c1","ad_id":"ad1"}"#;
        let acme = Access::Advertiser(Id::new("acme").unwrap());
        for (access, items, forbidden) in [
            (&acme, vec![own, own], None),
            (&acme, vec![own, "{}"], None),
            (&acme, vec![], None),
            (&acme, vec![own, foreign], Some(1)),
            (&acme, vec![click], Some(0)),
            (&Access::Publisher, vec![own, foreign, click], None),
            (&Access::Admin, vec![click], None),
            (&Access::Loopback, vec![click, foreign], None),
        ] {
            let first = first_forbidden(access, read(&items).iter());
            assert_eq!(first, forbidden, "{items:?}");
        }
    }

    #[test]
    fn outcomes_are_numbered_by_their_place() {
        let refused = Err(Refusal::new(Reason::BadTs, "ts: not a time"));
        let answer = posted(vec![Ok(()), refused, Ok(())]);
        assert_eq!(
            serde_json::to_string(&answer).unwrap(),
            r#"{"accepted":2,"rejected":[{"index":1,"reason":"bad_ts","detail":"ts: not a time"}]}"#
        );
    }

    #[test]
    fn media_types_of_lines() {
        for (value, expected) in [
            ("application/x-ndjson", true),
            ("Application/NDJSON; charset=utf-8", true),
            ("application/jsonl", true),
            ("application/json", false),
            ("text/plain", false),
        ] {
            let request = Request::builder()
                .header(header::CONTENT_TYPE, value)
                .body(Body::empty())
                .unwrap();
            assert_eq!(is_ndjson(&request.into_parts().0), expected, "{value}");
        }
        assert!(!is_ndjson(&Request::new(Body::empty()).into_parts().0));
    }
}
