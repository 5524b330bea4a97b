//! `POST /api/v1/events`: many events in one request, each with an outcome of its own, one fsync for all.
//!
//! Invariant: 202 leaves after every accepted event is durable and every rejected one has its record. The request
//! as a whole is refused only for what concerns it as a whole: its size, its form, its key.

use std::sync::Arc;

use adtally_streams::event::Kind;
use adtally_streams::items::{BadBody, split};
use adtally_streams::parse::RawEvent;
use adtally_streams::refusal::Refusal;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use utoipa::ToSchema;

use crate::border::facts::Sender;
use crate::border::{Border, Incoming, Outcome};
use crate::collector::peer_of;
use crate::http::auth::{Access, access_of};
use crate::http::problem::{Problem, quote};
use crate::quarantine::{Source, Way, begin_at_zero};
use crate::read_body::read_body;

/// The path.
pub const PATH: &str = "/api/v1/events";
/// The largest body, in bytes; a larger one is 413.
pub const BODY_MAX_BYTES: usize = 8 << 20;

/// Bodies up to this are read where they arrive, in bytes: a fraction of a millisecond. Larger ones go aside.
const AT_ONCE_MAX_BYTES: usize = 32 << 10;
/// Larger bodies that are read and kept at once; more wait their turn.
const ASIDE_MAX_BODIES: usize = 32;

static ASIDE: Semaphore = Semaphore::const_new(ASIDE_MAX_BODIES);

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
    begin_at_zero(Way::Post);
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
        (status = 415, description = "The body is compressed", body = Problem, content_type = "application/problem+json"),
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
    refuse_encoded(&parts.headers)?;
    let body = read_body(&parts.headers, body, BODY_MAX_BYTES).await?;
    let is_large = body.len() > AT_ONCE_MAX_BYTES;
    let taking = take_in(border, access, body, is_ndjson(&parts));
    let posted = if is_large {
        aside(taking).await?
    } else {
        taking.await?
    };
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::ACCEPTED, headers, Json(posted)).into_response())
}

/// Carries on in a thread of its own, so that whoever clicks meanwhile need not wait behind a large body.
async fn aside(
    taking: impl Future<Output = Result<Posted, Problem>> + Send + 'static,
) -> Result<Posted, Problem> {
    let ended = |_| Problem::unavailable("this request could not be answered; send it again");
    let place = ASIDE.acquire().await.map_err(ended)?;
    let runtime = tokio::runtime::Handle::current();
    let taken = tokio::task::spawn_blocking(move || {
        let _place = place;
        runtime.block_on(taking)
    });
    taken
        .await
        .unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(Problem::unavailable("adtally is stopping; send it again")),
        })
}

/// Reads, admits and keeps the events of a body.
async fn take_in(
    border: Arc<Border>,
    access: Access,
    body: Bytes,
    is_ndjson: bool,
) -> Result<Posted, Problem> {
    let items = split(&body, is_ndjson).map_err(|error| match error {
        BadBody::TooMany => Problem::too_large(error.to_string()),
        BadBody::NotJson(_) => Problem::bad_request(error.to_string()),
    })?;
    let subject: Arc<str> = Arc::from(format!("http:POST {PATH}"));
    let batch: Vec<Incoming> = items
        .into_iter()
        .map(|item| Incoming {
            raw: RawEvent::from_json_object(item),
            sender: Sender::default(),
            source: Source::Message {
                subject: subject.clone(),
                stored: None,
                payload: body.slice_ref(item),
            },
            arrival_ms: None,
            landing_url: None,
        })
        .collect();
    if let Some(index) = first_forbidden(&access, batch.iter().map(|incoming| &incoming.raw)) {
        return Err(Problem::forbidden(format!(
            "an advertiser's key posts conversions of its own advertiser only, and event {index} is not one"
        )));
    }
    let entry = border
        .enter(batch.len())
        .await
        .map_err(|error| error.problem())?;
    let outcomes = border
        .admit_batch(entry, Way::Post, batch)
        .await
        .map_err(|error| error.problem())?;
    Ok(posted(outcomes))
}

/// 415 for a body that is compressed: it would be read as if it were not, and refused in words that help nobody.
fn refuse_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    let mut encodings =
        encodings.filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    let Some(encoding) = encodings.next() else {
        return Ok(());
    };
    let encoding = quote(&String::from_utf8_lossy(encoding.as_bytes()));
    Err(Problem::unsupported_media_type(format!(
        "the body is encoded as {encoding}, and bodies are read as they are: send it without Content-Encoding"
    )))
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
    fn a_compressed_body_is_told_what_to_do() {
        for (value, expected) in [
            ("gzip", Some(415)),
            ("br, gzip", Some(415)),
            ("Identity", None),
        ] {
            let headers = [(header::CONTENT_ENCODING, value.parse().unwrap())];
            let refused = refuse_encoded(&headers.into_iter().collect()).err();
            assert_eq!(refused.map(|p| p.status().as_u16()), expected, "{value}");
        }
        assert_eq!(refuse_encoded(&HeaderMap::new()), Ok(()));
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
