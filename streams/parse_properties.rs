//! What holds for any payload: nothing panics, and format and order of keys do not matter.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

/// A value of any type that JSON and MessagePack share.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(Value::from),
        "[A-Za-z0-9_:-]{1,64}".prop_map(Value::from),
        "(?s).{0,100}".prop_map(Value::from),
        (time::MIN_TIME_MS..=time::MAX_TIME_MS).prop_map(|ms| Value::from(time::to_rfc3339(ms))),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map("[a-z]{1,4}", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

const NAMES: [&str; 22] = [
    "kind",
    "impression_id",
    "click_id",
    "conversion_id",
    "ad_id",
    "advertiser_id",
    "ts",
    "campaign_id",
    "creative",
    "user_id",
    "device",
    "geo",
    "ip",
    "ip_hash",
    "user_agent",
    "referrer",
    "cost_micros",
    "landing_url",
    "value_micros",
    "currency_code",
    "order_id",
    "unknown",
];

fn any_object() -> impl Strategy<Value = Value> {
    proptest::collection::hash_map(proptest::sample::select(&NAMES[..]), any_value(), 0..12)
        .prop_map(|map| Value::Object(map.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()))
}

fn any_kind() -> impl Strategy<Value = Kind> {
    proptest::sample::select(&Kind::ALL[..])
}

/// A payload that is accepted, in either format, for what mutations make of it.
fn good_payload() -> impl Strategy<Value = Vec<u8>> {
    let value = json!({
        "impression_id": "i1", "click_id": "c1", "conversion_id": "v1", "ad_id": "a1", "advertiser_id": "a1",
        "ts": "2024-02-09T14:05:00Z", "campaign_id": "k1", "creative": "blue", "geo": "DE", "device": "tv",
        "cost_micros": 5, "user_agent": "x", "value_micros": 7, "currency_code": "EUR", "x": [{"y": [null, 1.5]}],
    });
    any::<bool>().prop_map(move |packed| {
        if packed {
            pack(&value)
        } else {
            value.to_string().into_bytes()
        }
    })
}

proptest! {
    #[test]
    fn no_bytes_whatever_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300), kind in any_kind(), key in ".{0,70}", msg in ".{0,70}") {
        let _ = RawEvent::from_payload(kind, Some(&key), Some(&msg), &bytes);
        let _ = RawEvent::from_json_object(&bytes);
        let _ = parse_subject(&key);
        let packed: Vec<u8> = std::iter::once(0x80 | (bytes.len() % 16) as u8).chain(bytes).collect();
        let _ = RawEvent::from_payload(kind, Some(&key), None, &packed);
    }

    #[test]
    fn no_mutation_panics(mut payload in good_payload(), kind in any_kind(), cuts in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..6)) {
        for (at, byte, what) in cuts {
            if payload.is_empty() { break }
            let at = at.index(payload.len());
            match what {
                0 => payload[at] = byte,
                1 => payload.insert(at, byte),
                2 => { payload.remove(at); }
                _ => payload.truncate(at),
            }
        }
        let _ = RawEvent::from_payload(kind, Some("a1"), None, &payload).map(|raw| raw.content_hash());
    }

    #[test]
    fn both_formats_make_the_same_event_of_any_fields(value in any_object(), kind in any_kind(), key in proptest::option::of("[A-Za-z0-9]{1,8}")) {
        let json = RawEvent::from_payload(kind, key.as_deref(), Some("m1"), value.to_string().as_bytes());
        let packed = RawEvent::from_payload(kind, key.as_deref(), Some("m1"), &pack(&value));
        prop_assert_eq!(&json, &packed);
        if let Ok(raw) = json {
            prop_assert_eq!(raw.content_hash(), packed.unwrap().content_hash());
        }
    }

    #[test]
    fn the_order_of_keys_does_not_matter(seed in any::<u64>()) {
        let mut fields = vec![
            ("click_id", json!("c1")), ("ad_id", json!("a1")), ("ts", json!(5)), ("geo", json!("DE")),
            ("creative", json!("x")), ("cost_micros", json!(9)), ("user_id", json!("u")), ("unknown", json!([1])),
        ];
        let plain = RawEvent::from_payload(Kind::Click, None, None, object(&fields).as_bytes()).unwrap();
        fields.sort_by_key(|(name, _)| crate::names::fnv1a32(format!("{seed}{name}").as_bytes()));
        let mixed = RawEvent::from_payload(Kind::Click, None, None, object(&fields).as_bytes()).unwrap();
        prop_assert_eq!(&plain, &mixed);
        prop_assert_eq!(plain.content_hash(), mixed.content_hash());
    }
}

fn object(fields: &[(&str, Value)]) -> String {
    let inner: Vec<_> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", inner.join(","))
}
