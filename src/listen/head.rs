//! The head of a plain request: a GET of HTTP/1.1 without a body, on a connection that stays.
//!
//! It says nothing about any other request, not even whether it is one: hyper reads those, with the same parser,
//! and answers what is wrong with them. So a request is understood in one way only, whoever answers it.

use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use httparse::{Header, Status};

/// Bytes within which a plain head ends; a longer one is not plain.
pub(super) const PLAIN_MAX_BYTES: usize = 8 * 1024;
/// Headers that a plain head has at most. Browsers send about fifteen.
const PLAIN_MAX_HEADERS: usize = 32;

/// Headers after which a request is not plain: it has a body, or wants something of the connection.
const NOT_PLAIN: [&str; 5] = [
    "content-length",
    "transfer-encoding",
    "expect",
    "upgrade",
    "http2-settings",
];

/// What stands at the beginning of the bytes that have been read.
pub(super) enum Read<T> {
    /// Nothing yet, or the beginning of what may be a plain head.
    Partial,
    /// A plain head: what was made of it, and its length in bytes.
    Plain(T, usize),
    /// Something else.
    Other,
}

/// Reads the head at the beginning of `bytes`, and makes something of a plain one's target and headers. Where
/// nothing is made, the request counts as another one.
pub(super) fn read<T>(
    bytes: &[u8],
    make: impl FnOnce(PathAndQuery, &[Header<'_>]) -> Option<T>,
) -> Read<T> {
    if bytes.is_empty() {
        return Read::Partial;
    }
    if bytes.iter().zip(b"GET /").any(|(is, plain)| is != plain) {
        return Read::Other;
    }
    let mut headers = [httparse::EMPTY_HEADER; PLAIN_MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(Status::Complete(length)) => length,
        Ok(Status::Partial) if bytes.len() < PLAIN_MAX_BYTES => return Read::Partial,
        Ok(Status::Partial) | Err(_) => return Read::Other,
    };
    let (Some(1), Some(target)) = (request.version, request.path) else {
        return Read::Other;
    };
    if !request.headers.iter().all(is_plain) {
        return Read::Other;
    }
    PathAndQuery::from_maybe_shared(Bytes::copy_from_slice(target.as_bytes()))
        .ok()
        .and_then(|target| make(target, request.headers))
        .map_or(Read::Other, |made| Read::Plain(made, length))
}

fn is_plain(header: &Header<'_>) -> bool {
    if header.name.eq_ignore_ascii_case("connection") {
        return header.value.eq_ignore_ascii_case(b"keep-alive");
    }
    !NOT_PLAIN
        .iter()
        .any(|name| header.name.eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The target, the names of the headers and the rest of the bytes.
    fn plain(bytes: &[u8]) -> Option<(String, Vec<String>, usize)> {
        let made = read(bytes, |target, headers| {
            let names = headers.iter().map(|h| h.name.to_owned()).collect();
            Some((target.to_string(), names))
        });
        match made {
            Read::Plain((target, names), length) => Some((target, names, bytes.len() - length)),
            Read::Partial | Read::Other => None,
        }
    }

    fn is_partial(bytes: &[u8]) -> bool {
        matches!(read(bytes, |_, _| Some(())), Read::Partial)
    }

    #[test]
    fn a_plain_get_is_read_and_what_follows_it_is_left() {
        let request =
            b"GET /click?ad_id=a%20b HTTP/1.1\r\nHost: h\r\nConnection: Keep-Alive\r\n\r\nGET /";
        let (target, names, rest) = plain(request).expect("a plain head");
        assert_eq!(target, "/click?ad_id=a%20b");
        assert_eq!(names, ["Host", "Connection"]);
        assert_eq!(rest, 5);
        for cut in 0..request.len() - 5 {
            assert!(is_partial(&request[..cut]), "{cut}");
        }
    }

    #[test]
    fn whatever_is_not_plain_is_left_to_hyper() {
        for head in [
            "HEAD /click HTTP/1.1\r\n\r\n",
            "POST /conversion HTTP/1.1\r\n\r\n",
            "GET /click HTTP/1.0\r\n\r\n",
            "GET http://h/click HTTP/1.1\r\n\r\n",
            "GET * HTTP/1.1\r\n\r\n",
            "GET /click HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
            "GET /click HTTP/1.1\r\ncontent-length: 0\r\n\r\n",
            "GET /click HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /click HTTP/1.1\r\nConnection: close\r\n\r\n",
            "GET /click HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: h2c\r\n\r\n",
            "GET /click HTTP/1.1\r\nExpect: 100-continue\r\n\r\n",
            "GET /click HTTP/1.1\r\nbad header\r\n\r\n",
            "GET /click HTTP/2\r\n\r\n",
            "GET  /click HTTP/1.1\r\n\r\n",
            "get /click HTTP/1.1\r\n\r\n",
            "\x16\x03\x01\x02\x00",
        ] {
            assert_eq!(plain(head.as_bytes()), None, "{head:?}");
            assert!(!is_partial(head.as_bytes()), "{head:?}");
        }
        let many = "X: 1\r\n".repeat(PLAIN_MAX_HEADERS + 1);
        let many = format!("GET /click HTTP/1.1\r\n{many}\r\n");
        assert!(plain(many.as_bytes()).is_none() && !is_partial(many.as_bytes()));
        let long = format!("GET /click?{}", "a".repeat(PLAIN_MAX_BYTES));
        assert!(!is_partial(long.as_bytes()));
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..300), as_get in any::<bool>()) {
            let mut request = if as_get { b"GET /".to_vec() } else { Vec::new() };
            request.extend(bytes);
            if let Some((_, _, rest)) = plain(&request) {
                prop_assert!(rest < request.len());
            }
        }
    }
}
