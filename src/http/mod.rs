//! The HTTP surface of the queries: routes, keys, problems, health and the API's own description.
//!
//! Nothing here knows how the pieces were started: the runner hands in handles and gets a router back. Every error
//! that leaves is a problem document, whatever the path, the method or the body.

pub mod auth;
mod gzip;
pub mod health;
pub mod openapi;
pub mod params;
pub mod problem;
mod render;
mod routes;
mod schemas;

use std::net::SocketAddr;

use axum::Router;
use axum::extract::{ConnectInfo, FromRequestParts};
use axum::http::request::Parts;
use axum::http::{Method, Uri};
use metrics_exporter_prometheus::PrometheusHandle;

use crate::catalogue_feed::CatalogueHandle;
use crate::http::auth::{Access, access_of};
use crate::http::problem::{Problem, quote};
use crate::query::{Engine, QueryError};
use crate::statement::Desk;

/// What the routes are made of.
#[derive(Clone)]
pub struct AppState {
    /// The catalogue of this process.
    pub catalogue: CatalogueHandle,
    /// Answers questions.
    pub engine: Engine,
    /// Answers for statements.
    pub statements: Desk,
}

/// The routes of the role `api`, without what answers unknown paths: see [`finish`].
pub fn api_router(state: AppState) -> Router {
    routes::router(state)
}

/// The routes that every role has: `/healthz`, `/readyz` and `/metrics`.
pub fn operations_router(readiness: health::Readiness, metrics: PrometheusHandle) -> Router {
    routes::operations(readiness, metrics).method_not_allowed_fallback(method_not_allowed)
}

/// Puts a problem document where axum would answer with an empty body. Called once, on all routes together.
pub fn finish(router: Router) -> Router {
    router
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
}

async fn not_found(uri: Uri) -> Problem {
    Problem::not_found(format!(
        "there is nothing at {}; /api/openapi.json lists what there is",
        quote(uri.path())
    ))
}

async fn method_not_allowed(method: Method) -> Problem {
    // The router adds the Allow header.
    Problem::method_not_allowed(method.as_str(), None)
}

impl FromRequestParts<AppState> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &AppState) -> Result<Self, Problem> {
        if !state.catalogue.is_warm() {
            // Without the catalogue nobody knows whether a key was made.
            return Err(Problem::unavailable("the catalogue has not been read yet"));
        }
        let peer = parts
            .extensions
            .get::<ConnectInfo<SocketAddr>>()
            .map(|c| c.0.ip());
        access_of(&state.catalogue.read(), &parts.headers, peer)
    }
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        match error {
            QueryError::Asked {
                parameter: Some(parameter),
                detail,
            } => Problem::bad_parameter(parameter, detail),
            QueryError::Asked {
                parameter: None,
                detail,
            } => Problem::bad_request(detail),
            QueryError::NotFound(detail) => Problem::not_found(detail),
            error @ (QueryError::Busy
            | QueryError::Unread
            | QueryError::TookTooLong
            | QueryError::ShardsAway(_)
            | QueryError::Block { .. }) => Problem::unavailable(error.to_string()),
            // What the store says is in the log; it is nothing that a client can act on.
            QueryError::Store(_) | QueryError::Damaged(_) => Problem::unavailable(
                "the state could not be read; the operator finds the cause in the log",
            ),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;
    use axum::http::Request;
    use metrics_exporter_prometheus::PrometheusBuilder;
    use tower::ServiceExt;

    use super::*;
    use crate::http::health::Facts;

    async fn ask(
        method: &str,
        path: &str,
        facts: Facts,
    ) -> (u16, axum::http::HeaderMap, serde_json::Value) {
        let metrics = PrometheusBuilder::new().build_recorder().handle();
        // As `serve` puts them together.
        let operations = operations_router(std::sync::Arc::new(move || facts.clone()), metrics);
        let router = finish(Router::new()).merge(operations);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .body(Body::empty())
            .unwrap();
        let response = router.oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        (
            parts.status.as_u16(),
            parts.headers,
            serde_json::from_slice(&body).unwrap_or_default(),
        )
    }

    #[tokio::test]
    async fn unknown_paths_and_methods_are_problems() {
        let (status, headers, body) = ask("GET", "/nothing", Facts::default()).await;
        assert_eq!(
            (status, &headers["content-type"], body["status"].as_u64()),
            (404, &problem::PROBLEM_JSON.parse().unwrap(), Some(404))
        );
        let (status, headers, body) = ask("DELETE", "/healthz", Facts::default()).await;
        assert_eq!((status, body["status"].as_u64()), (405, Some(405)));
        assert_eq!(headers["content-type"], problem::PROBLEM_JSON);
        assert!(
            headers["allow"].to_str().unwrap().contains("GET"),
            "{headers:?}"
        );
    }

    #[tokio::test]
    async fn readiness_says_why_not() {
        let (status, headers, body) = ask("GET", "/readyz", Facts::default()).await;
        assert_eq!(status, 503);
        assert!(
            headers.contains_key("retry-after")
                && body["detail"].as_str().unwrap().contains("NATS"),
            "{body}"
        );
        let ready = Facts {
            has_catalogue: true,
            broker_connected: true,
            ..Facts::default()
        };
        assert_eq!(ask("GET", "/readyz", ready).await.0, 200);
        assert_eq!(ask("GET", "/healthz", Facts::default()).await.0, 200);
    }
}
