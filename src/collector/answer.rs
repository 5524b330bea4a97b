//! What the collector answers: a redirect, a pixel, nothing, or a problem. None of it may be cached.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};

/// The header that tells the id under which a click was recorded.
pub const CLICK_ID: HeaderName = HeaderName::from_static("x-click-id");

/// A transparent pixel, GIF89a, 43 bytes.
pub const PIXEL: [u8; 43] = [
    b'G', b'I', b'F', b'8', b'9', b'a', 1, 0, 1, 0, 0x80, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0x21,
    0xf9, 4, 1, 0, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 2, 2, 0x44, 1, 0, 0x3b,
];

fn uncached(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// 302 to `location`, which is visible ASCII by construction; were it not, the visitor gets no redirect at all
/// rather than a header that somebody else has written.
pub fn redirect(location: &str, click_id: &str) -> Option<Response<Body>> {
    let location = HeaderValue::from_str(location).ok()?;
    let click_id = HeaderValue::from_str(click_id).ok()?;
    let mut response = uncached(StatusCode::FOUND, Body::empty());
    response.headers_mut().insert(header::LOCATION, location);
    response.headers_mut().insert(CLICK_ID, click_id);
    Some(response)
}

/// 200 with the pixel. Any page may load it.
pub fn pixel() -> Response<Body> {
    let mut response = uncached(StatusCode::OK, Body::from(&PIXEL[..]));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("image/gif"));
    headers.insert(
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        HeaderValue::from_static("*"),
    );
    response
}

/// 204.
pub fn nothing() -> Response<Body> {
    uncached(StatusCode::NO_CONTENT, Body::empty())
}

/// Whether the client asked for an image: an `<img>` does, a server or a script that takes anything does not.
pub fn wants_image(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT).iter().any(|value| {
        let value = String::from_utf8_lossy(value.as_bytes()).to_ascii_lowercase();
        value
            .split(',')
            .any(|range| range.trim_start().starts_with("image/"))
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

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
        let response = redirect("https://e.com/?q=1", "c1").unwrap();
        assert_eq!(response.status(), 302);
        assert_eq!(response.headers()["location"], "https://e.com/?q=1");
        assert_eq!(response.headers()["x-click-id"], "c1");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert!(redirect("https://e.com/\r\nSet-Cookie: a=b", "c1").is_none());
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
