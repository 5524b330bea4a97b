//! A request's body, read up to a limit. What is past it is not read, so no client can make this process hold more.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;

use crate::http::problem::Problem;

/// Reads a body of at most `limit` bytes; a larger one is 413, one that breaks off 400.
pub async fn read_body(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, Problem> {
    let too_large = || {
        Problem::too_large(format!(
            "the body of this request has at most {limit} bytes"
        ))
    };
    let declared = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large());
    }
    let mut chunks = body.into_data_stream();
    let mut read = BytesMut::with_capacity(declared.unwrap_or_default() as usize);
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| Problem::bad_request("the body broke off before its end"))?;
        if read.len() + chunk.len() > limit {
            return Err(too_large());
        }
        if read.is_empty() && declared == Some(chunk.len() as u64) {
            // The whole body in one piece, as small ones come.
            return Ok(chunk);
        }
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn declaring(length: &str) -> HeaderMap {
        [(header::CONTENT_LENGTH, length.parse().unwrap())]
            .into_iter()
            .collect()
    }

    #[tokio::test]
    async fn bodies_are_read_up_to_the_limit() {
        for (headers, bytes, expected) in [
            (HeaderMap::new(), 0, Ok(0)),
            (HeaderMap::new(), 10, Ok(10)),
            (declaring("10"), 10, Ok(10)),
            (HeaderMap::new(), 11, Err(413)),
            (declaring("11"), 11, Err(413)),
            (declaring("1000000000000"), 1, Err(413)),
            (declaring("nonsense"), 3, Ok(3)),
        ] {
            let result = read_body(&headers, Body::from(vec![b'x'; bytes]), 10).await;
            assert_eq!(
                result.map(|b| b.len()).map_err(|p| p.status().as_u16()),
                expected,
                "{headers:?} {bytes}"
            );
        }
    }

    #[tokio::test]
    async fn chunks_are_put_together_and_a_broken_body_is_a_problem() {
        let chunks = |parts: Vec<Result<&'static str, std::io::Error>>| {
            Body::from_stream(futures_util::stream::iter(parts))
        };
        let whole = read_body(&HeaderMap::new(), chunks(vec![Ok("ab"), Ok("c")]), 10).await;
        assert_eq!(whole.unwrap(), "abc");
        let long = read_body(
            &HeaderMap::new(),
            chunks(vec![Ok("abcdef"), Ok("ghijkl")]),
            10,
        )
        .await;
        assert_eq!(long.unwrap_err().status(), 413);
        let broken = chunks(vec![Ok("ab"), Err(std::io::Error::other("reset"))]);
        assert_eq!(
            read_body(&HeaderMap::new(), broken, 10)
                .await
                .unwrap_err()
                .status(),
            400
        );
    }
}
