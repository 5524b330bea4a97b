//! Dimensions are bounded here, so that nobody can blow up the counters: regions are codes that exist, creatives
//! are short and plain.

use std::sync::{Arc, LazyLock};

use rustc_hash::FxHashMap;

use crate::documents::CREATIVE_MAX_BYTES;
use crate::names::OTHER;

/// The longest code of ISO 3166, in bytes: `US-CA`, `GB-ENG`.
const REGION_MAX_BYTES: usize = 6;

static OTHER_TEXT: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(OTHER));

/// Every code of ISO 3166-1 alpha-2 and ISO 3166-2, each as one shared text: an event's region costs no memory.
static REGIONS: LazyLock<FxHashMap<&'static str, Arc<str>>> = LazyLock::new(|| {
    let countries = rust_iso3166::ALL.iter().map(|country| country.alpha2);
    let subdivisions = rust_iso3166::iso3166_2::SUBDIVISION_MAP.keys().copied();
    countries
        .chain(subdivisions)
        .map(|code| (code, Arc::from(code)))
        .collect()
});

/// The shared text `other`.
pub fn other() -> Arc<str> {
    OTHER_TEXT.clone()
}

/// The region that `geo` names: its code of ISO 3166 in upper case, or `other`; none for an empty text.
pub fn region(geo: &str) -> Option<Arc<str>> {
    let code = geo.trim().as_bytes();
    if code.is_empty() {
        return None;
    }
    let mut upper = [0; REGION_MAX_BYTES];
    let Some(upper) = upper.get_mut(..code.len()) else {
        return Some(other());
    };
    upper.copy_from_slice(code);
    upper.make_ascii_uppercase();
    let known = std::str::from_utf8(upper)
        .ok()
        .and_then(|code| REGIONS.get(code));
    Some(known.cloned().unwrap_or_else(other))
}

/// The creative variant that a text names, or `other` when it is too long or has control characters; none for
/// an empty text.
pub fn creative(text: &str) -> Option<Arc<str>> {
    if text.is_empty() {
        return None;
    }
    if text.len() > CREATIVE_MAX_BYTES || text.chars().any(char::is_control) || text == OTHER {
        return Some(other());
    }
    Some(Arc::from(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_are_codes_that_exist() {
        let table = [
            ("US", Some("US")),
            ("us", Some("US")),
            (" de ", Some("DE")),
            ("US-CA", Some("US-CA")),
            ("us-ca", Some("US-CA")),
            ("GB-ENG", Some("GB-ENG")),
            ("FR-75C", Some("FR-75C")),
            ("AU-NSW", Some("AU-NSW")),
            ("IN-KA", Some("IN-KA")),
            ("UK", Some("other")),
            ("ZZ", Some("other")),
            ("US-ZZ", Some("other")),
            ("USA", Some("other")),
            ("840", Some("other")),
            ("California", Some("other")),
            ("{geo}", Some("other")),
            ("ß", Some("other")),
            ("US-CA\0", Some("other")),
            ("", None),
            ("   ", None),
        ];
        for (geo, expected) in table {
            assert_eq!(region(geo).as_deref(), expected, "{geo:?}");
        }
        assert_eq!(region(&"A".repeat(10_000)).as_deref(), Some("other"));
    }

    #[test]
    fn creatives_are_short_and_plain() {
        let long = "v".repeat(64);
        let table = [
            ("blue", Some("blue")),
            ("Blue Summer 2", Some("Blue Summer 2")),
            ("größer", Some("größer")),
            (&long, Some(long.as_str())),
            ("other", Some("other")),
            ("a\nb", Some("other")),
            ("a\u{85}b", Some("other")),
            ("", None),
        ];
        for (text, expected) in table {
            assert_eq!(creative(text).as_deref(), expected, "{text:?}");
        }
        assert_eq!(creative(&"v".repeat(65)).as_deref(), Some("other"));
    }
}
