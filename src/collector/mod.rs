//! The collector: what browsers and servers call. It answers a redirect, a pixel or nothing, and only after the
//! event is on disk.
//!
//! Invariants: a person who clicks on a known ad always arrives; an answer of 302, 200 or 204 to anything but HEAD
//! means that the event will be counted; nothing that is refused is refused without a counter and a record.

mod answer;
mod groups;
mod lenient;
mod openapi;
mod plan;
mod query;
mod signed;
mod visit;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::catalogue::Catalogue;
use adtally_streams::id::Id;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;

pub use answer::Answer;
pub use groups::GROUP_MAX_VISITS;
pub use openapi::CollectorApi;
pub use signed::Signer;
pub use visit::{Visit, peer_of};

use crate::border::facts::Texts;
use crate::border::headers::Headers;
use crate::border::{Border, Unavailable};
use crate::http::problem::Problem;
use crate::read_body::read_body;
use groups::{Groups, Kept};
use openapi::{
    ClickByPathParams, ClickParams, CollectorProblems, ConversionParams, ImpressionParams,
};
use plan::{Context, Planned, Refused, plan_click, plan_conversion, plan_impression};
use query::Params;
use visit::{Asks, Route};

/// The largest form that POST /conversion reads, in bytes; a larger one is 413.
const FORM_MAX_BYTES: usize = 64 * 1024;

/// What the collector is made of.
pub struct Collector {
    /// The border, over the collector's outbox.
    pub border: Border,
    /// Checks signed landing URLs; without one they are refused.
    pub signer: Option<Signer>,
    /// How old a given time may be.
    pub max_age: Duration,
}

/// The collector at work. Clones share it.
#[derive(Clone)]
pub struct Desk {
    collector: Arc<Collector>,
    groups: Groups,
}

/// The collector's routes.
pub fn router(desk: Desk) -> Router {
    let conversion = get(conversion)
        .post(conversion_by_form)
        .fallback(method_not_allowed_with_post);
    Router::new()
        .route("/click", get(click).fallback(method_not_allowed))
        .route(
            "/c/{ad_id}",
            get(click_by_path).fallback(method_not_allowed),
        )
        .route("/i", get(impression).fallback(method_not_allowed))
        .route("/conversion", conversion)
        .with_state(desk)
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::method_not_allowed(method.as_str(), Some(HeaderValue::from_static("GET, HEAD")))
}

async fn method_not_allowed_with_post(method: Method) -> Problem {
    Problem::method_not_allowed(
        method.as_str(),
        Some(HeaderValue::from_static("GET, HEAD, POST")),
    )
}

/// Why a request is answered with a problem.
pub enum Failure {
    /// Nothing can be kept now.
    Unavailable(Unavailable),
    /// There is a reason, and a record of it.
    Refused(Box<Refused>),
    /// Anything else.
    Problem(Problem),
}

impl Failure {
    /// Whoever was to answer has ended, by a panic or with the process.
    pub fn ended() -> Self {
        Failure::Problem(Problem::unavailable(
            "this request could not be answered; the operator's log says why",
        ))
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        Failure::Unavailable(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response<Body> {
        match self {
            Failure::Unavailable(error) => error.problem().into_response(),
            Failure::Refused(refused) => refused.problem.into_response(),
            Failure::Problem(problem) => problem.into_response(),
        }
    }
}

/// Records a click and redirects to the ad's landing page.
#[utoipa::path(
    get, path = "/click", tag = "events", security(()), params(ClickParams),
    responses(
        (status = 302, description = "To the landing page; `X-Click-Id` names the click. It is on disk, unless the request was HEAD", headers(("Location" = String), ("X-Click-Id" = String))),
        CollectorProblems,
    ),
)]
async fn click(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    desk.answer(Route::Click, &parts, Bytes::new()).await
}

/// Records a click and redirects, with the ad in the path.
#[utoipa::path(
    get, path = "/c/{ad_id}", tag = "events", security(()),
    params(("ad_id" = String, Path, description = "The ad"), ClickByPathParams),
    responses(
        (status = 302, description = "To the landing page; `X-Click-Id` names the click. It is on disk, unless the request was HEAD", headers(("Location" = String), ("X-Click-Id" = String))),
        CollectorProblems,
    ),
)]
async fn click_by_path(
    State(desk): State<Desk>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    desk.answer(Route::ClickByPath, &parts, Bytes::new()).await
}

/// Records an impression.
#[utoipa::path(
    get, path = "/i", tag = "events", security(()), params(ImpressionParams),
    responses(
        (status = 200, description = "A transparent GIF of 43 bytes; the impression is on disk", content_type = "image/gif", body = [u8]),
        CollectorProblems,
    ),
)]
async fn impression(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    desk.answer(Route::Impression, &parts, Bytes::new()).await
}

/// Records a conversion whose parameters are in a form, in the query, or in both.
#[utoipa::path(
    post, path = "/conversion", tag = "events", security(()), params(ConversionParams),
    responses(
        (status = 204, description = "It is on disk"),
        (status = 200, description = "A transparent GIF, where `Accept` wants an image; it is on disk", content_type = "image/gif", body = [u8]),
        (status = 413, description = "The form is larger than 64 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not a form", body = Problem, content_type = "application/problem+json"),
        CollectorProblems,
    ),
)]
async fn conversion_by_form(
    State(desk): State<Desk>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let form = read_form(&parts, body).await?;
    desk.answer(Route::Conversion, &parts, form).await
}

/// Records a conversion.
#[utoipa::path(
    get, path = "/conversion", tag = "events", security(()), params(ConversionParams),
    responses(
        (status = 204, description = "It is on disk"),
        (status = 200, description = "A transparent GIF, where `Accept` wants an image; it is on disk", content_type = "image/gif", body = [u8]),
        CollectorProblems,
    ),
)]
async fn conversion(State(desk): State<Desk>, request: Request) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    desk.answer(Route::Conversion, &parts, Bytes::new()).await
}

/// The body of POST /conversion: a form, or nothing.
async fn read_form(parts: &Parts, body: Body) -> Result<Bytes, Failure> {
    let bytes = read_body(&parts.headers, body, FORM_MAX_BYTES)
        .await
        .map_err(Failure::Problem)?;
    let media_type = parts
        .headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let is_form = media_type.is_none_or(|t| {
        t.to_ascii_lowercase()
            .starts_with("application/x-www-form-urlencoded")
    });
    if !bytes.is_empty() && !is_form {
        let detail = "a conversion is posted as application/x-www-form-urlencoded, or with its parameters in the URL";
        return Err(Failure::Problem(Problem::unsupported_media_type(detail)));
    }
    Ok(bytes)
}

impl Desk {
    /// Opens the collector: from now on groups of visits are kept.
    pub fn open(collector: Collector) -> Self {
        let collector = Arc::new(collector);
        Self {
            groups: Groups::start(collector.clone()),
            collector,
        }
    }

    /// How many hold the collector, this desk among them.
    #[cfg(test)]
    pub fn holders(&self) -> usize {
        Arc::strong_count(&self.collector)
    }

    /// The visit that a GET request without a body makes; none where its path is none of the collector's.
    pub fn visit(
        &self,
        target: PathAndQuery,
        headers: &(impl Headers + ?Sized),
        peer: IpAddr,
        texts: &mut Texts,
    ) -> Option<Visit> {
        let route = Route::of_path(target.path())?;
        let trusted = self.collector.border.facts().trusted();
        let request = (Method::GET, target);
        Some(Visit::new(route, request, headers, peer, trusted, texts))
    }

    /// Keeps visits that came together and says how each is answered, in their order.
    pub async fn keep_group(&self, visits: Vec<Visit>) -> Vec<Result<Answer, Failure>> {
        let asked: Vec<_> = visits.iter().map(Visit::asks).collect();
        let outcomes = self.collector.keep_group(visits).await;
        let answers = asked.into_iter().zip(outcomes);
        answers
            .map(|(asks, outcome)| outcome.map(|kept| asks.answer(kept)))
            .collect()
    }

    /// Keeps a visit, together with others that come at the same time, and says how it is answered.
    async fn keep(&self, visit: Visit) -> Result<Answer, Failure> {
        let asks = visit.asks();
        self.groups.keep(visit).await.map(|kept| asks.answer(kept))
    }

    async fn answer(
        &self,
        route: Route,
        parts: &Parts,
        form: Bytes,
    ) -> Result<Response<Body>, Failure> {
        let target = parts.uri.path_and_query().cloned();
        let target = target.unwrap_or_else(|| PathAndQuery::from_static("/"));
        let visit = Visit {
            form,
            ..Visit::new(
                route,
                (parts.method.clone(), target),
                &parts.headers,
                peer_of(parts),
                self.collector.border.facts().trusted(),
                &mut Texts::default(),
            )
        };
        let answer = self.keep(visit).await?;
        answer.response().ok_or_else(|| unfit(&answer))
    }
}

impl Asks {
    /// The answer, once the event is kept.
    fn answer(self, kept: Kept) -> Answer {
        match self.route {
            Route::Click | Route::ClickByPath => Answer::Redirect {
                location: kept.location.unwrap_or_default(),
                click_id: kept.id,
            },
            Route::Impression => Answer::Pixel,
            Route::Conversion if self.wants_image => Answer::Pixel,
            Route::Conversion => Answer::Nothing,
        }
    }
}

/// What is answered where a header cannot carry an answer's value.
pub fn unfit(answer: &Answer) -> Failure {
    tracing::error!(?answer, "a landing URL does not fit a header");
    Failure::Problem(Problem::not_found(
        "this ad's landing URL cannot be put into a redirect",
    ))
}

impl Collector {
    /// What a visit comes to, at `now_ms` (milliseconds of the Unix epoch).
    fn plan(
        &self,
        visit: &Visit,
        now_ms: i64,
        catalogue: &Catalogue,
    ) -> Result<Planned, Box<Refused>> {
        let params = visit.params();
        let context = self.context(&params, now_ms);
        let mint = || mint_id(now_ms);
        let signer = self.signer.as_ref();
        match visit.route {
            Route::Click => {
                let ad_id = params.get("ad_id");
                plan_click(&context, ad_id, signer, catalogue, mint)
            }
            Route::ClickByPath => {
                plan_click(&context, &visit.ad_in_path(), signer, catalogue, mint)
            }
            Route::Impression => plan_impression(&context, catalogue, mint),
            Route::Conversion => plan_conversion(&context, mint),
        }
    }

    fn context<'a>(&self, params: &'a Params<'a>, now_ms: i64) -> Context<'a> {
        let max_age_ms = i64::try_from(self.max_age.as_millis())
            .unwrap_or(i64::MAX / 4)
            .min(i64::MAX / 4);
        Context {
            params,
            now_ms,
            max_age_ms,
        }
    }
}

/// A new event id: UUIDv7 of the arrival, so that its time packs away in a frame.
fn mint_id(now_ms: i64) -> Id {
    let random: [u8; 10] = rand::random();
    let ms = u64::try_from(now_ms).unwrap_or_default();
    let uuid = uuid::Builder::from_unix_timestamp_millis(ms, &random).into_uuid();
    Id::from_uuid(uuid.as_bytes())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_minted_id_is_a_uuid_of_version_7_and_of_its_time() {
        let now_ms = 1_700_000_000_123;
        let (one, other) = (mint_id(now_ms), mint_id(now_ms));
        assert_ne!(one, other);
        let uuid: uuid::Uuid = one.as_str().parse().unwrap();
        assert_eq!(uuid.get_version_num(), 7);
        // RFC 9562: the first 48 bits are Unix milliseconds.
        assert_eq!(
            u64::from_be_bytes(uuid.as_bytes()[..8].try_into().unwrap()) >> 16,
            1_700_000_000_123
        );
    }
}
