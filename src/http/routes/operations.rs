//! What an operator's tools ask: is it alive, is it ready, what does it count.

use axum::Json;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::health::{Readiness, notes, reasons};
use crate::http::problem::Problem;

/// What these routes are made of.
#[derive(Clone)]
pub struct Operations {
    /// What `/readyz` looks at.
    pub readiness: Readiness,
    /// What `/metrics` prints.
    pub metrics: PrometheusHandle,
}

/// A process that is alive or ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct Health {
    /// `ok` or `ready`.
    status: &'static str,
    /// The program's version.
    version: &'static str,
    /// What should be known besides, such as that a verification found a difference; left out when there is nothing.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

fn health(status: &'static str, notes: Vec<String>) -> Response {
    let body = Json(Health {
        status,
        version: env!("CARGO_PKG_VERSION"),
        notes,
    });
    ([(header::CACHE_CONTROL, "no-store")], body).into_response()
}

/// Whether the process is alive.
#[utoipa::path(get, path = "/healthz", tag = "operations", responses((status = 200, description = "It is", body = Health)))]
pub async fn healthz() -> Response {
    health("ok", Vec::new())
}

/// Whether the process should get traffic. Not while it is far behind its streams, while the NATS server is gone,
/// or while a stream or an outbox is nearly full; the detail says why not.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses(
    (status = 200, description = "It should", body = Health),
    (status = 503, description = "It should not; `detail` says why", body = Problem, content_type = "application/problem+json"),
))]
pub async fn readyz(State(operations): State<Operations>) -> Result<Response, Problem> {
    let facts = (operations.readiness)();
    let (mut reasons, notes) = (reasons(&facts), notes(&facts));
    if reasons.is_empty() {
        Ok(health("ready", notes))
    } else {
        reasons.extend(notes);
        Err(Problem::unavailable(reasons.join("; ")))
    }
}

/// Metrics in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, description = "The metrics", body = String, content_type = "text/plain")))]
pub async fn metrics(State(operations): State<Operations>) -> Response {
    (
        [(
            header::CONTENT_TYPE,
            "text/plain; version=0.0.4; charset=utf-8",
        )],
        operations.metrics.render(),
    )
        .into_response()
}
