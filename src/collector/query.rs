//! A request's parameters, decoded without ever failing: what is not text is told apart, not refused.
//!
//! A link may have passed through many hands. So repeated names are no error (the first one stands), `+` is a
//! space as in every HTML form, and a value that is not UTF-8 is known to be there but has no text. Names other
//! than ours are passed over.

use std::borrow::Cow;

use percent_encoding::percent_decode;

/// The parameters that the collector knows.
pub const NAMES: [&str; 17] = [
    "ad_id",
    "advertiser_id",
    "campaign_id",
    "click_id",
    "conversion_id",
    "creative",
    "currency_code",
    "device",
    "exp",
    "geo",
    "impression_id",
    "order_id",
    "sig",
    "ts",
    "url",
    "user_id",
    "value_micros",
];

/// What was given for a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Given<'a> {
    /// Nothing, or an empty value, as templates leave it.
    #[default]
    Absent,
    /// A text.
    Text(Cow<'a, str>),
    /// Bytes that are not UTF-8.
    NotText,
}

impl Given<'_> {
    /// The text, where there is one.
    pub fn text(&self) -> Option<&str> {
        match self {
            Given::Text(text) => Some(text),
            Given::Absent | Given::NotText => None,
        }
    }
}

/// The known parameters of a request.
#[derive(Clone, Debug, Default)]
pub struct Params<'a> {
    values: [Given<'a>; NAMES.len()],
}

impl<'a> Params<'a> {
    /// Reads a query string.
    pub fn parse(query: &'a str) -> Self {
        let mut params = Self::default();
        params.add(query.as_bytes());
        params
    }

    /// Adds parameters in the form of a query string; those already there stand.
    pub fn add(&mut self, encoded: &'a [u8]) {
        for pair in encoded.split(|b| *b == b'&') {
            let (name, value) = match pair.iter().position(|b| *b == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[pair.len()..]),
            };
            let name = decode(name);
            let Some(at) = place(&name) else {
                continue;
            };
            if self.values[at] == Given::Absent && !value.is_empty() {
                self.values[at] = given(value);
            }
        }
    }

    /// What was given for one of [`NAMES`].
    pub fn get(&self, name: &str) -> &Given<'a> {
        static ABSENT: Given<'static> = Given::Absent;
        place(name.as_bytes()).map_or(&ABSENT, |at| &self.values[at])
    }

    /// The text given for one of [`NAMES`].
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).text()
    }
}

/// The place of a name among [`NAMES`]. A request asks for a dozen names, and this is compiled to a few comparisons
/// where a search of the list would be as many calls as it has names.
fn place(name: &[u8]) -> Option<usize> {
    Some(match name {
        b"ad_id" => 0,
        b"advertiser_id" => 1,
        b"campaign_id" => 2,
        b"click_id" => 3,
        b"conversion_id" => 4,
        b"creative" => 5,
        b"currency_code" => 6,
        b"device" => 7,
        b"exp" => 8,
        b"geo" => 9,
        b"impression_id" => 10,
        b"order_id" => 11,
        b"sig" => 12,
        b"ts" => 13,
        b"url" => 14,
        b"user_id" => 15,
        b"value_micros" => 16,
        _ => return None,
    })
}

/// Decodes one value.
pub fn given(value: &[u8]) -> Given<'_> {
    match decode(value) {
        Cow::Borrowed([]) => Given::Absent,
        Cow::Borrowed(bytes) => {
            std::str::from_utf8(bytes).map_or(Given::NotText, |t| Given::Text(Cow::Borrowed(t)))
        }
        Cow::Owned(bytes) => {
            String::from_utf8(bytes).map_or(Given::NotText, |t| Given::Text(Cow::Owned(t)))
        }
    }
}

/// Decodes a segment of a path, where `+` is itself.
pub fn given_in_path(segment: &str) -> Given<'_> {
    match percent_decode(segment.as_bytes()).decode_utf8() {
        Ok(text) if text.is_empty() => Given::Absent,
        Ok(text) => Given::Text(text),
        Err(_) => Given::NotText,
    }
}

fn decode(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !bytes.contains(&b'+') {
        return match bytes.contains(&b'%') {
            true => percent_decode(bytes).into(),
            // Nearly all names and values, of which each byte need not be looked at once more.
            false => Cow::Borrowed(bytes),
        };
    }
    let spaced: Vec<u8> = bytes
        .iter()
        .map(|b| if *b == b'+' { b' ' } else { *b })
        .collect();
    Cow::Owned(percent_decode(&spaced).collect())
}

/// What the URL Standard's parser of forms reads must be what is read here: the first value that is not empty of each
/// known name. A fuzz target's body, and run over its kept corpus in every test run.
#[cfg(any(test, fuzzing))]
pub fn agrees_with_the_url_standard(query: &[u8]) {
    let mut params = Params::default();
    params.add(query);
    for name in NAMES {
        let expected = url::form_urlencoded::parse(query)
            .find(|(known, value)| known == name && !value.is_empty())
            .map(|(_, value)| value);
        match (params.get(name), expected) {
            (Given::Absent, None) => {}
            (Given::Text(text), Some(expected)) => assert_eq!(*text, expected, "{name}"),
            // The standard replaces what is not UTF-8, and here it is only known to be there.
            (Given::NotText, Some(expected)) => assert!(expected.contains('\u{fffd}'), "{name}"),
            (given, expected) => panic!("{name}: {given:?} where the standard reads {expected:?}"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(t: &str) -> Given<'_> {
        Given::Text(Cow::Borrowed(t))
    }

    #[test]
    fn values_are_decoded_and_the_first_one_stands() {
        for (query, name, expected) in [
            ("ad_id=a1", "ad_id", text("a1")),
            ("x=1&ad_id=a1&ad_id=a2", "ad_id", text("a1")),
            ("ad_id=&ad_id=a2", "ad_id", text("a2")),
            ("creative=blue+sky%21", "creative", text("blue sky!")),
            ("creative=a%2Bb", "creative", text("a+b")),
            ("creative=%C3%BC", "creative", text("ü")),
            ("creative=ü", "creative", text("ü")),
            ("creative=%FF", "creative", Given::NotText),
            ("creative=a+%FF", "creative", Given::NotText),
            ("creative=%FF&creative=b", "creative", Given::NotText),
            ("creative=100%", "creative", text("100%")),
            ("creative=%zz", "creative", text("%zz")),
            ("%61d_id=a1", "ad_id", text("a1")),
            ("ad_id", "ad_id", Given::Absent),
            ("ad_id=", "ad_id", Given::Absent),
            ("", "ad_id", Given::Absent),
            ("&&=&=x&ad_id=a=b", "ad_id", text("a=b")),
            ("AD_ID=a1", "ad_id", Given::Absent),
            ("ad_id=a1", "no_such_name", Given::Absent),
        ] {
            assert_eq!(Params::parse(query).get(name), &expected, "{query}");
        }
    }

    #[test]
    fn every_name_has_its_place() {
        for (at, name) in NAMES.iter().enumerate() {
            assert_eq!(place(name.as_bytes()), Some(at), "{name}");
        }
        assert_eq!(place(b"no_such_name"), None);
    }

    #[test]
    fn what_the_query_says_stands_before_the_body() {
        let mut params = Params::parse("click_id=c1");
        params.add(b"click_id=c2&user_id=u1");
        assert_eq!(
            (params.text("click_id"), params.text("user_id")),
            (Some("c1"), Some("u1"))
        );
    }

    #[test]
    fn a_plus_in_a_path_is_a_plus() {
        assert_eq!(given_in_path("a+b"), text("a+b"));
        assert_eq!(given_in_path("a%20b"), text("a b"));
        assert_eq!(given_in_path("%ff"), Given::NotText);
        assert_eq!(given_in_path(""), Given::Absent);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_can_break_it(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut params = Params::default();
            params.add(&bytes);
            for name in NAMES {
                prop_assert_ne!(params.text(name), Some(""));
            }
            agrees_with_the_url_standard(&bytes);
        }
    }

    #[test]
    fn the_kept_queries_read_as_the_url_standard_has_them() {
        let kept =
            std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/urls")).unwrap();
        let files = kept
            .map(|entry| {
                agrees_with_the_url_standard(&std::fs::read(entry.unwrap().path()).unwrap())
            })
            .count();
        assert!(files > 50, "fuzz/corpus/urls holds {files} files only");
    }
}
