//! Names that people mistype, and which known one they are likely to have meant.

use adtally_streams::document_keys::UnknownKey;

/// How far a name may be from a known one to be taken for it, in edits.
const MAX_EDITS: usize = 3;
/// How much of a name that came from outside is looked at and said, in characters.
const MAX_CHARS: usize = 64;

/// The known name that a text is likely to be meant for.
pub fn nearest<'k>(text: &str, known: &[&'k str]) -> Option<&'k str> {
    let short: String = text.chars().take(MAX_CHARS).collect();
    let edits = |k: &&'k str| (strsim::damerau_levenshtein(&short, k), *k);
    let (edits, near) = known.iter().map(edits).min()?;
    // A name of which nothing is left is no name that was meant.
    (edits <= MAX_EDITS && edits < short.chars().count()).then_some(near)
}

/// A key of a catalogue document that is no field, in printable ASCII: `pricing.prize_micros (did you mean
/// price_micros?)`.
pub fn told(unknown: &UnknownKey) -> String {
    let key: String = unknown.key.chars().take(MAX_CHARS).collect();
    let hint = nearest(&unknown.key, unknown.known)
        .map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
    format!("{}{}{hint}", unknown.place, key.escape_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_told_with_what_was_meant_and_in_a_header_s_characters() {
        let unknown = |key: &str| UnknownKey {
            place: "ads[1].".into(),
            key: key.into(),
            known: &["ad_id", "landing_url"],
        };
        for (key, expected) in [
            (
                "landing_ulr",
                "ads[1].landing_ulr (did you mean landing_url?)",
            ),
            ("weather", "ads[1].weather"),
            ("ä\r\n", "ads[1].\\u{e4}\\r\\n"),
            ("", "ads[1]."),
        ] {
            assert_eq!(told(&unknown(key)), expected);
        }
        assert!(told(&unknown(&"x".repeat(1_000))).len() < 100);
    }
}
