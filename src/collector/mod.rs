//! The collector: what browsers and servers call. It answers a redirect, a pixel or nothing, and only after the
//! event is on disk.
//!
//! Invariants: a person who clicks on a known ad always arrives; an answer of 302, 200 or 204 to anything but HEAD
//! means that the event will be counted; nothing that is refused is refused without a counter and a record.

mod answer;
mod lenient;
mod openapi;
mod plan;
mod query;
mod signed;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use adtally_streams::event::Kind;
use adtally_streams::id::Id;
use adtally_streams::refusal::Reason;
use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, Method, Response, header};
use axum::response::IntoResponse;
use axum::routing::get;
use bytes::Bytes;

pub use openapi::CollectorApi;
pub use signed::Signer;

use crate::border::address::UNKNOWN;
use crate::border::facts::Sender;
use crate::border::{Border, Entry, Incoming, Unavailable};
use crate::http::problem::Problem;
use crate::quarantine::{Source, Way, count_refused};
use crate::read_body::read_body;
use openapi::{
    ClickByPathParams, ClickParams, CollectorProblems, ConversionParams, ImpressionParams,
};
use plan::{Context, Planned, Refused, plan_click, plan_conversion, plan_impression};
use query::{Given, Params, given_in_path};

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

/// The collector's routes.
pub fn router(collector: Collector) -> Router {
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
        .with_state(Arc::new(collector))
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
enum Failure {
    Unavailable(Unavailable),
    Refused(Box<Refused>),
    Problem(Problem),
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
async fn click(
    State(collector): State<Arc<Collector>>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    collector
        .click(&parts, |params| params.get("ad_id").clone())
        .await
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
    State(collector): State<Arc<Collector>>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    let segment = parts.uri.path().strip_prefix("/c/").unwrap_or_default();
    collector.click(&parts, |_| given_in_path(segment)).await
}

/// Records an impression.
#[utoipa::path(
    get, path = "/i", tag = "events", security(()), params(ImpressionParams),
    responses(
        (status = 200, description = "A transparent GIF of 43 bytes; the impression is on disk", content_type = "image/gif", body = [u8]),
        CollectorProblems,
    ),
)]
async fn impression(
    State(collector): State<Arc<Collector>>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, _) = request.into_parts();
    let params = Params::parse(parts.uri.query().unwrap_or_default());
    let entry = collector.border.enter().await?;
    let planned = {
        let catalogue = collector.border.catalogue().read();
        let now_ms = entry.arrival_ms();
        plan_impression(&collector.context(&params, now_ms), &catalogue, || {
            mint_id(now_ms)
        })
    };
    collector
        .record(entry, &parts, planned, Bytes::new())
        .await?;
    Ok(answer::pixel())
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
    collector: State<Arc<Collector>>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    conversion(collector, request).await
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
async fn conversion(
    State(collector): State<Arc<Collector>>,
    request: Request,
) -> Result<Response<Body>, Failure> {
    let (parts, body) = request.into_parts();
    let form = if parts.method == Method::POST {
        read_form(&parts, body).await?
    } else {
        Bytes::new()
    };
    let mut params = Params::parse(parts.uri.query().unwrap_or_default());
    params.add(&form);
    let entry = collector.border.enter().await?;
    let now_ms = entry.arrival_ms();
    let planned = plan_conversion(&collector.context(&params, now_ms), || mint_id(now_ms));
    collector
        .record(entry, &parts, planned, form.clone())
        .await?;
    Ok(if answer::wants_image(&parts.headers) {
        answer::pixel()
    } else {
        answer::nothing()
    })
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

impl Collector {
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

    async fn click<'r>(
        &self,
        parts: &'r Parts,
        ad_id: impl FnOnce(&Params<'r>) -> Given<'r>,
    ) -> Result<Response<Body>, Failure> {
        let params = Params::parse(parts.uri.query().unwrap_or_default());
        let ad_id = ad_id(&params);
        let entry = self.border.enter().await?;
        let planned = {
            let catalogue = self.border.catalogue().read();
            let now_ms = entry.arrival_ms();
            let context = self.context(&params, now_ms);
            plan_click(&context, &ad_id, self.signer.as_ref(), &catalogue, || {
                mint_id(now_ms)
            })
        };
        let (id, location) = self.record(entry, parts, planned, Bytes::new()).await?;
        let location = location.as_deref().unwrap_or_default();
        answer::redirect(location, id.as_str()).ok_or_else(|| {
            tracing::error!(location, "a landing URL does not fit a header");
            Failure::Problem(Problem::not_found(
                "this ad's landing URL cannot be put into a redirect",
            ))
        })
    }

    /// Makes an event durable, or keeps the record of a refusal; a HEAD request leaves no trace. Gives back the
    /// event's id and where the visitor is sent: also where admission refuses the event, since then only its
    /// record is kept, and the person still arrives.
    async fn record(
        &self,
        entry: Entry,
        parts: &Parts,
        planned: Result<Planned, Box<Refused>>,
        form: Bytes,
    ) -> Result<(Id, Option<Arc<str>>), Failure> {
        let source = || {
            Source::of_http(
                parts.method.as_str(),
                parts.uri.path(),
                payload_of(parts, &form),
            )
        };
        let is_head = parts.method == Method::HEAD;
        let planned = match planned {
            Ok(planned) => planned,
            Err(refused) => {
                self.refuse(entry, is_head, &refused, source).await?;
                return Err(Failure::Refused(refused));
            }
        };
        let answer = (planned.raw.id.clone(), planned.location.clone());
        if is_head {
            return Ok(answer);
        }
        let sender = Sender {
            is_limited: planned.raw.kind == Kind::Click,
            has_minted_id: planned.has_minted_id,
            mended: planned.mended,
            ..Sender::of_browser(
                peer_of(parts),
                &parts.headers,
                self.border.facts().trusted(),
            )
        };
        let incoming = Incoming {
            raw: Ok(planned.raw),
            sender,
            source: source(),
            arrival_ms: None,
            landing_url: planned.location,
        };
        self.border
            .admit_batch(entry, Way::Collector, vec![incoming])
            .await?;
        Ok(answer)
    }

    async fn refuse(
        &self,
        entry: Entry,
        is_head: bool,
        refused: &Refused,
        source: impl FnOnce() -> Source,
    ) -> Result<(), Failure> {
        if refused.refusal.reason == Reason::UnknownAd && !entry.is_current() {
            return Err(Unavailable::Stale.into());
        }
        if is_head {
            return Ok(());
        }
        if refused.is_about_nothing() {
            count_refused(Way::Collector, std::iter::once(refused.refusal.reason));
            return Ok(());
        }
        Ok(self
            .border
            .refuse(entry, Way::Collector, refused.refusal.clone(), source())
            .await?)
    }
}

/// What a record keeps of a request: its path and query, and a form below it.
fn payload_of(parts: &Parts, form: &Bytes) -> Bytes {
    let target = parts
        .uri
        .path_and_query()
        .map_or(parts.uri.path(), |target| target.as_str());
    if form.is_empty() {
        return Bytes::copy_from_slice(target.as_bytes());
    }
    Bytes::from([target.as_bytes(), b"\n", form].concat())
}

/// The other end of the connection.
pub fn peer_of(parts: &Parts) -> IpAddr {
    parts
        .extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map_or(UNKNOWN, |ConnectInfo(peer)| peer.ip())
}

/// A new event id: UUIDv7 of the arrival, so that its time packs away in a frame.
pub fn mint_id(now_ms: i64) -> Id {
    let random: [u8; 10] = rand::random();
    let ms = u64::try_from(now_ms).unwrap_or_default();
    let text = uuid::Builder::from_unix_timestamp_millis(ms, &random)
        .into_uuid()
        .to_string();
    Id::new(&text).expect("a UUID's text is an id")
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
