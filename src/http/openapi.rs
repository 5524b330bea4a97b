//! The API's description of itself, generated from the handlers.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};
use utoipa::{OpenApi as _, ToSchema};

use super::problem::Problem;
use super::{routes, schemas};

/// Where it is served.
pub const PATH: &str = "/api/openapi.json";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "adtally",
        description = "Ad clicks, impressions and conversions, counted exactly. Errors are problem documents (RFC 9457). Money is in micros, millionths of the advertiser's currency. Without any key made, the API answers on loopback only; once one exists, queries and POST /api/v1/events need one.",
    ),
    components(schemas(Problem, schemas::Advertiser, schemas::Campaign, schemas::Ad)),
    security((), ("key" = [])),
    tags(
        (name = "queries", description = "Counts and money"),
        (name = "catalogue", description = "Advertisers, campaigns and ads"),
        (name = "events", description = "What publishers and browsers send"),
        (name = "operations", description = "What operators' tools ask"),
    ),
)]
struct Base;

/// The whole description.
pub fn document() -> OpenApi {
    let mut document = Base::openapi();
    document.merge(routes::description());
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("`adtally keys create` prints one"))
        .build();
    document
        .components
        .get_or_insert_with(Components::new)
        .add_security_scheme("key", SecurityScheme::Http(scheme));
    document
}

/// Serves the description.
pub async fn serve() -> Response {
    static JSON: LazyLock<Bytes> = LazyLock::new(|| {
        Bytes::from(
            serde_json::to_vec(&document()).expect("a description of texts always has a JSON form"),
        )
    });
    ([(header::CONTENT_TYPE, "application/json")], JSON.clone()).into_response()
}
