//! Problem documents (RFC 9457): the one form in which every HTTP surface says no.
//!
//! A problem can only be built with one of the statuses below, so no path of the program can answer a 5xx other
//! than 503 (contract). Every problem that leaves is counted.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of a problem document.
pub const PROBLEM_JSON: &str = "application/problem+json";
/// What `Retry-After` says when nothing better is known, in seconds.
pub const RETRY_AFTER_S: u32 = 1;
/// The longest piece of a client's own text that a problem repeats, in characters.
const QUOTE_MAX_CHARS: usize = 80;

/// A problem document, with the headers that go with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Problem {
    /// A URN that names the kind of problem; it does not change between versions.
    #[serde(rename = "type")]
    #[schema(rename = "type", example = "urn:adtally:problem:bad-request")]
    kind: &'static str,
    /// The kind of problem, in words.
    #[schema(example = "Bad request")]
    title: &'static str,
    /// The HTTP status.
    #[schema(minimum = 400, maximum = 503, example = 400)]
    status: u16,
    /// What is wrong with this request and what to do about it.
    #[schema(value_type = String)]
    detail: Box<str>,
    /// The parameter or field that is to blame, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    parameter: Option<Box<str>>,
    /// Seconds for `Retry-After`.
    #[serde(skip)]
    retry_after_s: Option<u32>,
    /// Methods for `Allow`.
    #[serde(skip)]
    allow: Option<Box<HeaderValue>>,
}

impl Problem {
    fn new(
        status: StatusCode,
        kind: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            title,
            status: status.as_u16(),
            detail: detail.into().into_boxed_str(),
            parameter: None,
            retry_after_s: None,
            allow: None,
        }
    }

    /// 400: the request cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "urn:adtally:problem:bad-request",
            "Bad request",
            detail,
        )
    }

    /// 400, and `parameter` is to blame.
    pub fn bad_parameter(parameter: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "urn:adtally:problem:bad-parameter",
            "Bad parameter",
            detail,
        )
        .blaming(parameter)
    }

    /// 401: no key was given and one is needed.
    pub fn unauthorized(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "urn:adtally:problem:no-key",
            "No key",
            detail,
        )
    }

    /// 403: the key given may not do this.
    pub fn forbidden(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "urn:adtally:problem:forbidden",
            "Forbidden",
            detail,
        )
    }

    /// 404: nothing such.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "urn:adtally:problem:not-found",
            "Not found",
            detail,
        )
    }

    /// 405: the path is known, the method is not one of its own. `allow` lists those that are.
    pub fn method_not_allowed(method: &str, allow: Option<HeaderValue>) -> Self {
        let detail = match allow.as_ref().and_then(|a| a.to_str().ok()) {
            Some(allowed) => format!("{} is not answered here; use {allowed}", quote(method)),
            None => format!("{} is not answered here", quote(method)),
        };
        let mut problem = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "urn:adtally:problem:method-not-allowed",
            "Method not allowed",
            detail,
        );
        problem.allow = allow.map(Box::new);
        problem
    }

    /// 408: the request did not come, or could not be answered, in time.
    pub fn timed_out(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "urn:adtally:problem:timed-out",
            "Timed out",
            detail,
        )
    }

    /// 413: the body, or what was asked for, is larger than a limit.
    pub fn too_large(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "urn:adtally:problem:too-large",
            "Too large",
            detail,
        )
    }

    /// 415: the body's media type is not one that is read here.
    pub fn unsupported_media_type(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "urn:adtally:problem:unsupported-media-type",
            "Unsupported media type",
            detail,
        )
    }

    /// 422: well formed, but its content breaks a rule.
    pub fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "urn:adtally:problem:invalid",
            "Invalid content",
            detail,
        )
    }

    /// 503: nothing is wrong with the request, and it may be sent again after [`RETRY_AFTER_S`].
    pub fn unavailable(detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "urn:adtally:problem:unavailable",
            "Temporarily unavailable",
            detail,
        );
        problem.retry_after_s = Some(RETRY_AFTER_S);
        problem
    }

    /// Names the parameter or field that is to blame.
    pub fn blaming(mut self, parameter: impl Into<String>) -> Self {
        self.parameter = Some(quote(&parameter.into()).into_boxed_str());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status)
            .expect("every constructor takes its status from StatusCode")
    }

    /// What is wrong, in words.
    #[cfg(test)]
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The parameter that is to blame.
    #[cfg(test)]
    pub fn parameter(&self) -> Option<&str> {
        self.parameter.as_deref()
    }
}

/// A client's own text, cut and without control characters, fit to be repeated in a problem's words.
pub fn quote(text: &str) -> String {
    let mut out: String = text
        .chars()
        .take(QUOTE_MAX_CHARS)
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect();
    if text.chars().nth(QUOTE_MAX_CHARS).is_some() {
        out.push('…');
    }
    out
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let name = self.kind.rsplit(':').next().unwrap_or(self.kind);
        metrics::counter!("adtally_http_problems_total", "status" => self.status.to_string(), "type" => name)
            .increment(1);
        let body = serde_json::to_vec(&self).expect("a problem holds texts and a number only");
        let mut response =
            (self.status(), [(header::CONTENT_TYPE, PROBLEM_JSON)], body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.status == StatusCode::UNAUTHORIZED.as_u16() {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"adtally\""),
            );
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, *allow);
        }
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_the_contracts_document() {
        let problem = Problem::bad_parameter("start", "`start` is not a time");
        assert_eq!(
            serde_json::to_value(&problem).unwrap(),
            serde_json::json!({
                "type": "urn:adtally:problem:bad-parameter", "title": "Bad parameter", "status": 400,
                "detail": "`start` is not a time", "parameter": "start",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.status(), 400);
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }

    #[test]
    fn headers_go_with_their_statuses() {
        assert_eq!(
            Problem::unauthorized("x").into_response().headers()["www-authenticate"],
            "Bearer realm=\"adtally\""
        );
        assert_eq!(
            Problem::unavailable("x").into_response().headers()["retry-after"],
            "1"
        );
        let allow = HeaderValue::from_static("GET,HEAD");
        let response = Problem::method_not_allowed("PUT", Some(allow)).into_response();
        assert_eq!(
            (
                response.status().as_u16(),
                response.headers()["allow"].to_str().unwrap()
            ),
            (405, "GET,HEAD")
        );
    }

    #[test]
    fn a_clients_text_is_cut_and_loses_its_control_characters() {
        let hostile = format!("a\r\nb{}", "x".repeat(1_000));
        let quoted = quote(&hostile);
        assert!(quoted.chars().count() == QUOTE_MAX_CHARS + 1 && !quoted.contains(['\r', '\n']));
    }
}
