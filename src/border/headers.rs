//! A request's headers, as the border looks at them: by name, whoever has parsed them.

use axum::http::HeaderMap;

/// The headers of one request.
pub trait Headers {
    /// The values of a header, in their order. `name` is in lower case.
    fn all<'h>(&'h self, name: &'static str) -> impl DoubleEndedIterator<Item = &'h [u8]>;

    /// The first value of a header.
    fn one(&self, name: &'static str) -> Option<&[u8]> {
        self.all(name).next()
    }
}

impl Headers for HeaderMap {
    fn all<'h>(&'h self, name: &'static str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        self.get_all(name).iter().map(|value| value.as_bytes())
    }
}

impl Headers for [httparse::Header<'_>] {
    fn all<'h>(&'h self, name: &'static str) -> impl DoubleEndedIterator<Item = &'h [u8]> {
        self.iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_headers_say_the_same() {
        let given = [("X-A", "1"), ("x-b", "2"), ("x-a", "3")];
        let parsed: Vec<httparse::Header<'_>> = given
            .iter()
            .map(|(name, value)| httparse::Header {
                name,
                value: value.as_bytes(),
            })
            .collect();
        let map: HeaderMap = given
            .iter()
            .map(|(name, value)| {
                let name: axum::http::HeaderName = name.parse().expect("a name");
                (name, value.parse().expect("a value"))
            })
            .collect();
        for (name, expected) in [
            ("x-a", vec![&b"1"[..], b"3"]),
            ("x-b", vec![b"2"]),
            ("x-c", vec![]),
        ] {
            assert_eq!(parsed.all(name).collect::<Vec<_>>(), expected);
            assert_eq!(map.all(name).collect::<Vec<_>>(), expected);
            assert_eq!(map.one(name), parsed.one(name));
        }
    }
}
