//! From a body to its items: a JSON array or NDJSON, cut without being understood.
//!
//! Items stay slices of the body, so that a refused one is kept byte for byte and the others are parsed once.

use serde::de::IgnoredAny;

/// The most items of one request; more is 413.
pub const MAX_ITEMS: usize = 10_000;

/// A body that cannot be cut into items.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Neither an array, nor an object, nor lines.
    #[error("the body is neither a JSON array of events nor NDJSON, one event a line: {0}")]
    NotJson(String),
    /// More than [`MAX_ITEMS`].
    #[error("one request takes at most {MAX_ITEMS} events; send the rest in another one")]
    TooMany,
}

/// Cuts a body into items. A line that is no JSON is an item like any other, where the media type says NDJSON or
/// where the body begins with an object; an array must be JSON as a whole.
pub fn split(body: &[u8], is_ndjson: bool) -> Result<Vec<&[u8]>, BadBody> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let trimmed = body.trim_ascii();
    match trimmed.first() {
        None => Err(BadBody::NotJson("it is empty".to_owned())),
        Some(b'[') if !is_ndjson => split_array(trimmed),
        Some(b'{') if !is_ndjson => split_objects(trimmed),
        _ if is_ndjson => split_lines(trimmed),
        Some(_) => Err(BadBody::NotJson(
            "it begins with neither [ nor {".to_owned(),
        )),
    }
}

/// One object over any number of lines, or an object a line.
fn split_objects(body: &[u8]) -> Result<Vec<&[u8]>, BadBody> {
    let mut values = serde_json::Deserializer::from_slice(body).into_iter::<IgnoredAny>();
    match values.next() {
        Some(Ok(_)) if values.byte_offset() == body.len() => Ok(vec![body]),
        Some(Ok(_)) => split_lines(body),
        Some(Err(error)) if !body.contains(&b'\n') => Err(BadBody::NotJson(error.to_string())),
        // A first line that is broken off is an item, as it would be in the middle, if any other is whole.
        Some(Err(error)) => {
            let lines = split_lines(body)?;
            let is_whole = |line: &&[u8]| serde_json::from_slice::<IgnoredAny>(line).is_ok();
            if lines.iter().any(is_whole) {
                Ok(lines)
            } else {
                Err(BadBody::NotJson(error.to_string()))
            }
        }
        None => Err(BadBody::NotJson("it is empty".to_owned())),
    }
}

fn split_lines(body: &[u8]) -> Result<Vec<&[u8]>, BadBody> {
    let lines = body
        .split(|b| *b == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty());
    let items: Vec<&[u8]> = lines.take(MAX_ITEMS + 1).collect();
    if items.len() > MAX_ITEMS {
        Err(BadBody::TooMany)
    } else {
        Ok(items)
    }
}

fn split_array(body: &[u8]) -> Result<Vec<&[u8]>, BadBody> {
    let not_json = |why: &str| BadBody::NotJson(why.to_owned());
    let mut items = Vec::new();
    let mut rest = body[1..].trim_ascii_start();
    if rest == b"]" {
        return Ok(items);
    }
    loop {
        let mut values = serde_json::Deserializer::from_slice(rest).into_iter::<IgnoredAny>();
        match values.next() {
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                return Err(BadBody::NotJson(format!("item {}: {error}", items.len())));
            }
            None => return Err(not_json("the array does not end")),
        }
        let (item, after) = rest.split_at(values.byte_offset());
        items.push(item.trim_ascii());
        if items.len() > MAX_ITEMS {
            return Err(BadBody::TooMany);
        }
        let (mark, after) = after
            .trim_ascii_start()
            .split_first()
            .ok_or_else(|| not_json("the array does not end"))?;
        match (mark, after.trim_ascii_start()) {
            (b',', next) => rest = next,
            (b']', b"") => return Ok(items),
            (b']', _) => return Err(not_json("something follows the array")),
            _ => return Err(not_json("items of an array are separated by commas")),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn items(body: &str, is_ndjson: bool) -> Result<Vec<&str>, BadBody> {
        split(body.as_bytes(), is_ndjson).map(|items| {
            items
                .into_iter()
                .map(|i| std::str::from_utf8(i).unwrap())
                .collect()
        })
    }

    #[test]
    fn arrays_lines_and_single_objects_are_cut() {
        for (body, ndjson, expected) in [
            ("[]", false, vec![]),
            (" [ ] ", false, vec![]),
            (
                r#"[{"a":"],["},{"b":[1,2]}]"#,
                false,
                vec![r#"{"a":"],["}"#, r#"{"b":[1,2]}"#],
            ),
            ("[1 , null,\n\"x\" ]\n", false, vec!["1", "null", "\"x\""]),
            ("\u{feff}[1]", false, vec!["1"]),
            (r#"{"a":1}"#, false, vec![r#"{"a":1}"#]),
            ("{\n \"a\": 1\n}\n", false, vec!["{\n \"a\": 1\n}"]),
            (
                "{\"a\":1}\n{\"b\":2}\n",
                false,
                vec![r#"{"a":1}"#, r#"{"b":2}"#],
            ),
            (
                "{\"a\":1}\r\n\r\n{\"b\":2}",
                false,
                vec![r#"{"a":1}"#, r#"{"b":2}"#],
            ),
            (
                "{\"a\":1}\nnonsense\n{\"b\"",
                false,
                vec![r#"{"a":1}"#, "nonsense", r#"{"b""#],
            ),
            ("{\"a\":\n{\"b\":2}", false, vec![r#"{"a":"#, r#"{"b":2}"#]),
            ("nonsense\n[1]\n", true, vec!["nonsense", "[1]"]),
            ("{broken", true, vec!["{broken"]),
        ] {
            assert_eq!(items(body, ndjson), Ok(expected), "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_refused_as_a_whole() {
        for body in [
            "",
            "  \n ",
            "hello",
            "<xml/>",
            "{broken",
            "{broken\nhello",
            "[1,2",
            "[1,]",
            "[1 2]",
            "[1]x",
            "[,1]",
            "[",
            "[{\"a\":}]",
        ] {
            assert!(
                matches!(items(body, false), Err(BadBody::NotJson(_))),
                "{body}"
            );
        }
        assert!(matches!(items(" ", true), Err(BadBody::NotJson(_))));
    }

    #[test]
    fn the_number_of_items_is_bounded() {
        let array = |n: usize| format!("[{}]", vec!["1"; n].join(","));
        assert_eq!(items(&array(10_000), false).unwrap().len(), 10_000);
        assert_eq!(items(&array(10_001), false), Err(BadBody::TooMany));
        assert_eq!(items(&"{}\n".repeat(10_001), false), Err(BadBody::TooMany));
        assert_eq!(items(&"{}\n".repeat(10_000), true).unwrap().len(), 10_000);
    }

    proptest! {
        #[test]
        fn no_bytes_whatever_can_break_it(body in proptest::collection::vec(any::<u8>(), 0..300), lines in any::<bool>()) {
            let _ = split(&body, lines);
        }

        #[test]
        fn an_array_comes_apart_into_what_it_was_made_of(
            values in proptest::collection::vec("[a-z\\[\\]{},\"\\\\]{0,12}", 0..20),
        ) {
            let whole = serde_json::to_string(&values).unwrap();
            let cut = split(whole.as_bytes(), false).unwrap();
            let read: Vec<String> = cut.into_iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
            prop_assert_eq!(read, values);
        }
    }
}
