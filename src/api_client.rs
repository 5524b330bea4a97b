//! How commands talk to the HTTP API of a deployment.
//!
//! A problem document becomes an error that says what the server said; nothing else of the API is known here.

use std::time::Duration;

use serde_json::Value;

/// How long one question may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Not an address of an HTTP API.
    #[error("`{url}` is not an http:// address: {detail}")]
    BadUrl {
        /// What was given.
        url: String,
        /// Why.
        detail: String,
    },
    /// Nothing answered, or not in HTTP.
    #[error("the API at {url} did not answer: {detail}; is `adtally serve` running there?")]
    Unreachable {
        /// The URL asked.
        url: String,
        /// The client's error.
        detail: String,
    },
    /// It answered with an error.
    #[error("the API answered {status} to {url}: {detail}{}", hint(*.status))]
    Refused {
        /// The URL asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// Title and detail of the problem document, or the body.
        detail: String,
    },
    /// It answered with what is not JSON.
    #[error("the API's answer to {url} is not JSON: {detail}")]
    NotJson {
        /// The URL asked.
        url: String,
        /// The parser's error.
        detail: String,
    },
}

fn hint(status: u16) -> &'static str {
    match status {
        401 => "; name a key with --key or ADTALLY_HTTP_KEY",
        _ => "",
    }
}

/// The API of one deployment.
#[derive(Clone, Debug)]
pub struct Api {
    base: String,
    key: Option<String>,
    client: reqwest::Client,
}

impl Api {
    /// The API at `url`, asked with `key` where there is one.
    pub fn new(url: &str, key: Option<String>) -> Result<Self, ApiError> {
        let bad = |detail: String| ApiError::BadUrl {
            url: url.into(),
            detail,
        };
        let parsed = url::Url::parse(url).map_err(|e| bad(e.to_string()))?;
        if parsed.scheme() != "http" || parsed.host_str().is_none() {
            return Err(bad(
                "this client speaks plain HTTP; behind TLS, use the address behind the proxy"
                    .into(),
            ));
        }
        crate::tls::provide();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .build()
            .map_err(|e| bad(e.to_string()))?;
        Ok(Self {
            base: url.trim_end_matches('/').into(),
            key,
            client,
        })
    }

    /// Where it is, without a slash at the end.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The key it is asked with.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }

    /// JSON of a GET.
    pub async fn get(&self, path: &str, query: &[(&str, &str)]) -> Result<Value, ApiError> {
        self.send(self.client.get(format!("{}{path}", self.base)).query(query))
            .await
    }

    /// JSON of a PUT.
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value, ApiError> {
        self.send(self.client.put(format!("{}{path}", self.base)).json(body))
            .await
    }

    /// Text of a GET whose path has its query.
    pub async fn get_text(&self, path: &str) -> Result<String, ApiError> {
        let (_, body) = self
            .exchange(self.client.get(format!("{}{path}", self.base)))
            .await?;
        Ok(body)
    }

    /// The body of a GET's answer, which is read as it comes and forgotten but for its end; it may be packed, where `takes` says
    /// how.
    pub async fn get_end(&self, path: &str, takes: Option<&str>) -> Result<End, ApiError> {
        let url = format!("{}{path}", self.base);
        let mut request = self.with_key(self.client.get(&url));
        if let Some(takes) = takes {
            request = request.header(reqwest::header::ACCEPT_ENCODING, takes);
        }
        let unreachable = |e: reqwest::Error| self.unreachable(&e);
        let mut answer = request.send().await.map_err(unreachable)?;
        let status = answer.status().as_u16();
        if status >= 300 {
            let body = answer.text().await.map_err(unreachable)?;
            return Err(refused(url, status, &body));
        }
        let mut end = End::default();
        while let Some(chunk) = answer.chunk().await.map_err(unreachable)? {
            end.add(&chunk);
        }
        Ok(end)
    }

    fn with_key(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    fn unreachable(&self, error: &reqwest::Error) -> ApiError {
        ApiError::Unreachable {
            url: self.base.clone(),
            detail: root_cause(error),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<Value, ApiError> {
        let (url, body) = self.exchange(request).await?;
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&body).map_err(|e| ApiError::NotJson {
            url,
            detail: e.to_string(),
        })
    }

    /// Where the answer came from, and its body.
    async fn exchange(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<(String, String), ApiError> {
        let unreachable = |e: reqwest::Error| self.unreachable(&e);
        let answer = self.with_key(request).send().await.map_err(unreachable)?;
        let url = answer.url().to_string();
        let status = answer.status().as_u16();
        let body = answer.text().await.map_err(unreachable)?;
        if status >= 300 {
            return Err(refused(url, status, &body));
        }
        Ok((url, body))
    }
}

/// The end of a body that was not kept.
#[derive(Clone, Debug, Default)]
pub struct End {
    /// How many bytes the body has.
    pub bytes: usize,
    /// The last of them, no more than [`END_BYTES`].
    pub last: Vec<u8>,
}

/// Bytes at the end of a body that are kept.
pub const END_BYTES: usize = 8 << 10;

impl End {
    fn add(&mut self, chunk: &[u8]) {
        self.bytes += chunk.len();
        let of_chunk = &chunk[chunk.len().saturating_sub(END_BYTES)..];
        let before = self.last.len();
        self.last
            .drain(..before.saturating_sub(END_BYTES - of_chunk.len()));
        self.last.extend_from_slice(of_chunk);
    }
}

fn refused(url: String, status: u16, body: &str) -> ApiError {
    ApiError::Refused {
        url,
        status,
        detail: problem_text(body),
    }
}

/// The innermost error: the outer ones of an HTTP client only say that there was one.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

fn problem_text(body: &str) -> String {
    let Ok(problem) = serde_json::from_str::<Value>(body) else {
        return body.chars().take(300).collect();
    };
    let text = |name: &str| {
        problem
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_string()
    };
    match (text("detail"), text("parameter")) {
        (detail, parameter) if parameter.is_empty() => detail,
        (detail, parameter) => format!("{parameter}: {detail}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_body_is_kept_whatever_it_comes_in() {
        let body: Vec<u8> = (0..3 * END_BYTES).map(|n| (n % 251) as u8).collect();
        for (many, of) in [
            (0, 1),
            (100, 7),
            (body.len(), 1_000),
            (body.len(), body.len()),
        ] {
            let mut end = End::default();
            body[..many].chunks(of).for_each(|chunk| end.add(chunk));
            assert_eq!(end.bytes, many);
            assert_eq!(end.last, body[many.saturating_sub(END_BYTES)..many]);
        }
    }
}
