//! Whether a browser said that nobody has clicked yet: prefetch, prerender and preview requests.
//!
//! Browsers announce such a request in a header (`Sec-Purpose` today, `Purpose`, `X-Purpose` and `X-Moz` before).
//! It is answered like any other, recorded, and not billed.

use super::headers::Headers;

/// Headers in which browsers announce the purpose of a request.
const HEADERS: [&str; 4] = ["sec-purpose", "purpose", "x-purpose", "x-moz"];
/// Purposes that are no visit.
const PURPOSES: [&str; 3] = ["prefetch", "prerender", "preview"];

/// Whether the request is a prefetch.
pub fn is_prefetch(headers: &(impl Headers + ?Sized)) -> bool {
    HEADERS
        .iter()
        .flat_map(|name| headers.all(name))
        .any(|value| {
            let value = String::from_utf8_lossy(value).to_ascii_lowercase();
            PURPOSES.iter().any(|purpose| value.contains(purpose))
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    #[test]
    fn the_headers_that_browsers_send() {
        for (name, value, expected) in [
            ("Sec-Purpose", "prefetch", true),
            ("Sec-Purpose", "prefetch;prerender", true),
            ("sec-purpose", "prefetch;anonymous-client-ip", true),
            ("Purpose", "prefetch", true),
            ("X-Purpose", "preview", true),
            ("X-moz", "prefetch", true),
            ("X-Moz", "PreFetch", true),
            ("Purpose", "navigation", false),
            ("Sec-Fetch-Dest", "prefetch", false),
            ("Sec-Purpose", "", false),
        ] {
            let name = axum::http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            let mut headers = HeaderMap::new();
            headers.insert(name.clone(), value.parse().unwrap());
            assert_eq!(is_prefetch(&headers), expected, "{name}: {value}");
        }
        assert!(!is_prefetch(&HeaderMap::new()));
    }
}
