//! What the collector answers: a redirect, a pixel, nothing, or a problem. None of it may be cached.

use std::sync::Arc;

use adtally_streams::id::Id;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::border::headers::Headers;

/// The header that tells the id under which a click was recorded.
pub const CLICK_ID: HeaderName = HeaderName::from_static("x-click-id");

/// A transparent pixel, GIF89a, 43 bytes.
pub const PIXEL: [u8; 43] = [
    b'G', b'I', b'F', b'8', b'9', b'a', 1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21,
    0xf9, 4, 1, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b,
];

/// What is answered once the event is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// 302 to a landing page, with the click's id.
    Redirect {
        /// The page; visible ASCII by construction.
        location: Arc<str>,
        /// The click.
        click_id: Id,
    },
    /// 200 with the pixel. Any page may load it.
    Pixel,
    /// 204.
    Nothing,
}

/// The headers of every answer, and those of the pixel.
const NO_STORE: (HeaderName, &str) = (header::CACHE_CONTROL, "no-store");
const GIF: (HeaderName, &str) = (header::CONTENT_TYPE, "image/gif");
const ANY_ORIGIN: (HeaderName, &str) = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");

impl Answer {
    fn status(&self) -> StatusCode {
        match self {
            Answer::Redirect { .. } => StatusCode::FOUND,
            Answer::Pixel => StatusCode::OK,
            Answer::Nothing => StatusCode::NO_CONTENT,
        }
    }

    fn headers(&self) -> impl Iterator<Item = (HeaderName, &str)> {
        let own = match self {
            Answer::Redirect { location, click_id } => [
                Some((header::LOCATION, &**location)),
                Some((CLICK_ID, click_id.as_str())),
            ],
            Answer::Pixel => [Some(GIF), Some(ANY_ORIGIN)],
            Answer::Nothing => [None, None],
        };
        std::iter::once(NO_STORE).chain(own.into_iter().flatten())
    }

    fn body(&self) -> &'static [u8] {
        match self {
            Answer::Pixel => &PIXEL,
            Answer::Redirect { .. } | Answer::Nothing => b"",
        }
    }

    /// The response; none where a header cannot carry its value: better no redirect at all than a header that
    /// somebody else has written.
    pub fn response(&self) -> Option<Response<Body>> {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        for (name, value) in self.headers() {
            let value = HeaderValue::from_str(value).ok()?;
            response.headers_mut().insert(name, value);
        }
        Some(response)
    }

    /// The same response as it goes over the wire, but for what is the connection's. Whether a header cannot carry
    /// its value: then nothing has been written.
    pub fn write(&self, wire: &mut Vec<u8>) -> bool {
        let Answer::Redirect { location, click_id } = self else {
            wire.extend_from_slice(match self {
                Answer::Pixel => b"HTTP/1.1 200 OK\r\ncache-control: no-store\r\ncontent-type: image/gif\r\naccess-control-allow-origin: *\r\n",
                _ => b"HTTP/1.1 204 No Content\r\ncache-control: no-store\r\n",
            });
            return true;
        };
        let fits = |byte: u8| byte == b'\t' || (b' '..=b'~').contains(&byte);
        let (location, click_id) = (location.as_bytes(), click_id.as_str().as_bytes());
        if !location.iter().chain(click_id).copied().all(fits) {
            return false;
        }
        for part in [
            b"HTTP/1.1 302 Found\r\ncache-control: no-store\r\nlocation: ",
            location,
            b"\r\nx-click-id: ",
            click_id,
            b"\r\n",
        ] {
            wire.extend_from_slice(part);
        }
        true
    }

    /// The length that is told and the bytes that follow the headers; 204 has neither.
    pub fn content(&self) -> Option<&'static [u8]> {
        (*self != Answer::Nothing).then(|| self.body())
    }
}

/// Whether the client asked for an image: an `<img>` does, a server or a script that takes anything does not.
pub fn wants_image(headers: &(impl Headers + ?Sized)) -> bool {
    headers.all("accept").any(|value| {
        let value = String::from_utf8_lossy(value).to_ascii_lowercase();
        value
            .split(',')
            .any(|range| range.trim_start().starts_with("image/"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::HeaderMap;

    use super::*;

    fn redirect(location: &str) -> Answer {
        Answer::Redirect {
            location: Arc::from(location),
            click_id: Id::new("c1").unwrap(),
        }
    }

    #[test]
    fn both_forms_of_an_answer_are_the_same() {
        for answer in [
            redirect("https://e.com/?q=1"),
            Answer::Pixel,
            Answer::Nothing,
        ] {
            let response = answer.response().unwrap();
            let mut wire = Vec::new();
            assert!(answer.write(&mut wire));
            wire.extend_from_slice(b"\r\n");
            let mut headers = [httparse::EMPTY_HEADER; 8];
            let mut parsed = httparse::Response::new(&mut headers);
            assert!(parsed.parse(&wire).unwrap().is_complete());
            assert_eq!(parsed.code, Some(response.status().as_u16()));
            assert_eq!(parsed.reason, response.status().canonical_reason());
            assert_eq!(parsed.headers.len(), response.headers().len());
            for header in parsed.headers {
                assert_eq!(response.headers()[header.name].as_bytes(), header.value);
            }
        }
        assert_eq!(
            Answer::Nothing.content(),
            None,
            "RFC 9110, 8.6: no Content-Length in a 204"
        );
        assert_eq!(Answer::Pixel.content(), Some(&PIXEL[..]));
        assert_eq!(redirect("https://e.com/").content(), Some(&b""[..]));
    }

    #[test]
    fn the_pixel_is_a_transparent_gif_of_43_bytes() {
        assert_eq!(PIXEL.len(), 43);
        assert_eq!(&PIXEL[..6], b"GIF89a");
        // Logical screen 1 x 1; graphic control extension with the transparency flag; trailer.
        assert_eq!(&PIXEL[6..10], &[1, 0, 1, 0]);
        assert_eq!(
            (&PIXEL[19..21], PIXEL[22] & 1, PIXEL[42]),
            (&[0x21, 0xf9][..], 1, 0x3b)
        );
    }

    #[test]
    fn a_location_that_a_header_cannot_carry_is_no_redirect() {
        let response = redirect("https://e.com/?q=1").response().unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["location"], "https://e.com/?q=1");
        assert_eq!(response.headers()["x-click-id"], "c1");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let forged = redirect("https://e.com/\r\nSet-Cookie: a=b");
        assert!(forged.response().is_none());
        let mut wire = Vec::new();
        assert!(!forged.write(&mut wire) && wire.is_empty());
    }

    #[test]
    fn only_an_image_element_gets_an_image() {
        for (accept, expected) in [
            (
                "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8",
                true,
            ),
            ("text/html, image/gif", true),
            ("IMAGE/*", true),
            ("*/*", false),
            ("application/json", false),
            ("", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            assert_eq!(wants_image(&headers), expected, "{accept}");
        }
        assert!(!wants_image(&HeaderMap::new()));
    }
}
