//! The API's description of itself, generated from the handlers.

use std::sync::LazyLock;

use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::OpenApi as _;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, OpenApi};

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
    paths(crate::post_events::post_events),
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
    document.merge(crate::collector::CollectorApi::openapi());
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Everything that the description refers to stands in it.
    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|v| references(v, into));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }

    #[test]
    fn the_description_is_whole() {
        let document = serde_json::to_value(document()).unwrap();
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(all.len() > 50, "{}", all.len());
        for reference in all {
            let pointer = reference.trim_start_matches('#');
            assert!(
                document.pointer(pointer).is_some(),
                "{reference} leads nowhere"
            );
        }
        let paths = document["paths"].as_object().unwrap();
        let mut operations = std::collections::BTreeSet::new();
        for (path, item) in paths {
            for (method, operation) in item.as_object().unwrap() {
                let says = |name: &str| {
                    operation
                        .get(name)
                        .is_some_and(|v| !v.to_string().is_empty())
                };
                assert!(
                    says("summary") && says("responses") && says("operationId"),
                    "{method} {path}: {operation}"
                );
                assert!(
                    operations.insert(operation["operationId"].as_str().unwrap()),
                    "{method} {path}: a name twice"
                );
            }
        }
        for (path, methods) in [
            ("/click", &["get"][..]),
            ("/c/{ad_id}", &["get"]),
            ("/i", &["get"]),
            ("/conversion", &["get", "post"]),
            ("/api/v1/events", &["post"]),
            ("/api/v1/analytics", &["get"]),
            ("/api/v1/campaigns/{id}/spend", &["get"]),
            ("/api/v1/top", &["get"]),
            ("/api/v1/rolling", &["get"]),
            ("/api/v1/trending", &["get"]),
            ("/api/v1/uniques", &["get"]),
            ("/api/v1/statements/{advertiser_id}/{month}", &["get"]),
            ("/api/v1/fraud", &["get"]),
            ("/api/v1/fraud/clicks", &["get"]),
            ("/api/v1/catalog/advertisers", &["get", "put"]),
            ("/api/v1/catalog/campaigns/{id}", &["get", "put"]),
            ("/api/v1/catalog/ads/{id}", &["get", "put"]),
            ("/healthz", &["get"]),
            ("/readyz", &["get"]),
            ("/metrics", &["get"]),
        ] {
            for method in methods {
                assert!(
                    paths.get(path).and_then(|item| item.get(method)).is_some(),
                    "{method} {path}"
                );
            }
        }
        assert_eq!(
            document["components"]["securitySchemes"]["key"]["scheme"],
            "bearer"
        );
    }
}
