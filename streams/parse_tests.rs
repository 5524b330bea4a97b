//! What a payload may say, by tables of hand-written expectations, and that no bytes whatever panic.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

fn pack(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).unwrap()
}

/// The event of these fields, which JSON and MessagePack must agree on.
fn both(
    kind: Kind,
    key: Option<&str>,
    msg_id: Option<&str>,
    value: &Value,
) -> Result<RawEvent, Refusal> {
    let json = RawEvent::from_payload(kind, key, msg_id, value.to_string().as_bytes());
    let packed = RawEvent::from_payload(kind, key, msg_id, &pack(value));
    assert_eq!(json, packed, "{value}");
    json
}

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

#[test]
fn a_full_click_is_read_field_by_field() {
    let value = json!({
        "click_id": "c1", "ad_id": "a1", "campaign_id": "k1", "creative": "blue", "user_id": "u1", "device": "iOS",
        "geo": "us-ca", "ts": 1_707_487_500, "ip": "192.0.2.7", "ip_hash": "abc", "user_agent": "UA",
        "referrer": "https://r.example/", "cost_micros": 150_000, "impression_id": "i1",
        "landing_url": "https://l.example/", "value_micros": "of another kind", "x": {"deep": [1, {"y": null}]},
    });
    let mut expected = RawEvent::new(Kind::Click, id("c1"), id("a1"));
    // From hashlib over the fields, lengths and values, see `RawEvent::content_hash`.
    assert_eq!(expected.content_hash(), HASH_OF_THE_LEAST_CLICK);
    expected.ts_ms = Some(1_707_487_500_000);
    expected.campaign_id = Some(id("k1"));
    expected.creative = Some("blue".into());
    expected.user_id = Some(id("u1"));
    expected.device = Some(Device::Ios);
    expected.region = Some("US-CA".into());
    expected.ip = Some("192.0.2.7".parse().unwrap());
    expected.ip_hash = Some("abc".into());
    expected.user_agent = Some("UA".into());
    expected.referrer = Some("https://r.example/".into());
    expected.cost_micros = Some(150_000);
    expected.impression_id = Some(id("i1"));
    expected.landing_url = Some("https://l.example/".into());
    let read = both(Kind::Click, Some("a1"), None, &value).unwrap();
    assert_eq!(read, expected);
    assert_eq!(read.content_hash(), HASH_OF_THE_FULL_CLICK);
}

#[test]
fn a_full_conversion_is_read_field_by_field() {
    let value = json!({
        "conversion_id": "v1", "advertiser_id": "adv1", "click_id": "c1", "user_id": "u1", "value_micros": 25_000_000,
        "currency_code": "eur", "order_id": "o-9", "ad_id": 7, "geo": 8, "cost_micros": -1,
    });
    let mut expected = RawEvent::new(Kind::Conversion, id("v1"), id("adv1"));
    expected.click_id = Some(id("c1"));
    expected.user_id = Some(id("u1"));
    expected.value_micros = Some(25_000_000);
    expected.currency = Some(Currency::new("EUR").unwrap());
    expected.order_id = Some(id("o-9"));
    let read = both(Kind::Conversion, Some("adv1"), None, &value).unwrap();
    assert_eq!(read, expected);
    assert_eq!(read.content_hash(), HASH_OF_THE_CONVERSION);
}

const HASH_OF_THE_LEAST_CLICK: u64 = 0xca52_799a_ff6a_06a2;
const HASH_OF_THE_FULL_CLICK: u64 = 0x586e_11c4_56e6_d495;
const HASH_OF_THE_CONVERSION: u64 = 0x8b33_c402_622d_a20e;

#[test]
fn subject_and_header_fill_what_is_missing_and_may_not_disagree() {
    let of = |kind, key, msg, value: Value| {
        both(kind, key, msg, &value).map(|raw| (raw.id.to_string(), raw.key.to_string()))
    };
    let ok = |id: &str, key: &str| Ok((id.to_owned(), key.to_owned()));
    let reason = |r: Result<_, Refusal>| r.map(|_: (String, String)| ()).unwrap_err().reason;
    assert_eq!(
        of(Kind::Click, Some("a1"), Some("m1"), json!({})),
        ok("m1", "a1")
    );
    assert_eq!(
        of(Kind::Click, Some("a1"), Some("click:m1"), json!({})),
        ok("m1", "a1")
    );
    assert_eq!(
        of(Kind::Click, Some("a1"), Some("impression:m1"), json!({})),
        ok("impression:m1", "a1")
    );
    assert_eq!(
        of(
            Kind::Impression,
            Some("a1"),
            Some("impression:m1"),
            json!({})
        ),
        ok("m1", "a1")
    );
    assert_eq!(
        of(
            Kind::Conversion,
            Some("v"),
            Some("conversion:m1"),
            json!({})
        ),
        ok("m1", "v")
    );
    assert_eq!(
        of(
            Kind::Click,
            Some("a1"),
            Some("m1"),
            json!({"click_id": "c1"})
        ),
        ok("c1", "a1")
    );
    assert_eq!(
        of(
            Kind::Click,
            Some("a1"),
            Some("m1"),
            json!({"click_id": null})
        ),
        ok("m1", "a1")
    );
    assert_eq!(
        of(Kind::Click, None, Some("m1"), json!({"ad_id": "a2"})),
        ok("m1", "a2")
    );
    assert_eq!(
        reason(of(
            Kind::Click,
            Some("a1"),
            Some("m1"),
            json!({"ad_id": "a2"})
        )),
        Reason::SubjectMismatch
    );
    assert_eq!(
        reason(of(
            Kind::Conversion,
            Some("a1"),
            Some("m1"),
            json!({"advertiser_id": "a2"})
        )),
        Reason::SubjectMismatch
    );
    assert_eq!(
        reason(of(Kind::Click, None, Some("m1"), json!({}))),
        Reason::MissingAdId
    );
    assert_eq!(
        reason(of(
            Kind::Impression,
            None,
            Some("m1"),
            json!({"advertiser_id": "x"})
        )),
        Reason::MissingAdId
    );
    assert_eq!(
        reason(of(
            Kind::Conversion,
            None,
            Some("m1"),
            json!({"ad_id": "a1"})
        )),
        Reason::MissingAdvertiserId
    );
    assert_eq!(
        reason(of(
            Kind::Click,
            Some("a1"),
            None,
            json!({"impression_id": "i"})
        )),
        Reason::MissingEventId
    );
    assert_eq!(
        reason(of(Kind::Click, Some("a1"), Some(""), json!({}))),
        Reason::MissingEventId
    );
    assert_eq!(
        reason(of(Kind::Click, Some("a1"), Some("click:"), json!({}))),
        Reason::BadId
    );
    assert_eq!(
        reason(of(Kind::Click, Some("a1"), Some("m 1"), json!({}))),
        Reason::BadId
    );
    assert_eq!(
        reason(of(Kind::Click, Some("a$1"), Some("m1"), json!({}))),
        Reason::BadId
    );
}

#[test]
fn a_wrong_field_is_refused_by_name() {
    let long = "x".repeat(65);
    let table = [
        (json!({"click_id": ""}), Reason::BadId, "click_id"),
        (json!({"click_id": long}), Reason::BadId, "click_id"),
        (json!({"click_id": "a.b"}), Reason::BadId, "click_id"),
        (json!({"click_id": "é"}), Reason::BadId, "click_id"),
        (json!({"click_id": 5}), Reason::BadType, "click_id"),
        (json!({"click_id": true}), Reason::BadType, "click_id"),
        (json!({"click_id": ["c1"]}), Reason::BadType, "click_id"),
        (json!({"ad_id": 5}), Reason::BadType, "ad_id"),
        (json!({"ad_id": "a 1"}), Reason::BadId, "ad_id"),
        (json!({"campaign_id": "a/b"}), Reason::BadId, "campaign_id"),
        (
            json!({"campaign_id": {"a": 1}}),
            Reason::BadType,
            "campaign_id",
        ),
        (json!({"user_id": "a@b"}), Reason::BadId, "user_id"),
        (json!({"user_id": 1.5}), Reason::BadType, "user_id"),
        (
            json!({"impression_id": "\u{0}"}),
            Reason::BadId,
            "impression_id",
        ),
        (json!({"ts": "yesterday"}), Reason::BadTs, "ts"),
        (json!({"ts": ""}), Reason::BadTs, "ts"),
        (json!({"ts": "1707487500"}), Reason::BadTs, "ts"),
        (json!({"ts": "2024-02-30T00:00:00Z"}), Reason::BadTs, "ts"),
        (
            json!({"ts": 99_999_999_999_999_999_i64}),
            Reason::BadTs,
            "ts",
        ),
        (json!({"ts": -99_999_999_999_i64}), Reason::BadTs, "ts"),
        (json!({"ts": u64::MAX}), Reason::BadTs, "ts"),
        (json!({"ts": 1_707_487_500.5}), Reason::BadType, "ts"),
        (json!({"ts": false}), Reason::BadType, "ts"),
        (json!({"cost_micros": -1}), Reason::BadAmount, "cost_micros"),
        (
            json!({"cost_micros": 1_000_000_000_000_001_i64}),
            Reason::BadAmount,
            "cost_micros",
        ),
        (
            json!({"cost_micros": u64::MAX}),
            Reason::BadAmount,
            "cost_micros",
        ),
        (json!({"cost_micros": 1.5}), Reason::BadType, "cost_micros"),
        (json!({"cost_micros": "5"}), Reason::BadType, "cost_micros"),
        (json!({"creative": 5}), Reason::BadType, "creative"),
        (json!({"device": []}), Reason::BadType, "device"),
        (json!({"geo": {}}), Reason::BadType, "geo"),
        (json!({"ip": "localhost"}), Reason::BadText, "ip"),
        (json!({"ip": "192.0.2.7:80"}), Reason::BadText, "ip"),
        (json!({"ip": 1}), Reason::BadType, "ip"),
        (json!({"ip_hash": 1}), Reason::BadType, "ip_hash"),
        (json!({"user_agent": 1}), Reason::BadType, "user_agent"),
        (json!({"referrer": true}), Reason::BadType, "referrer"),
        (json!({"landing_url": 1}), Reason::BadType, "landing_url"),
    ];
    for (value, reason, field) in table {
        let refusal = both(Kind::Click, Some("a1"), Some("m1"), &value).unwrap_err();
        assert_eq!(refusal.reason, reason, "{value}: {refusal}");
        assert!(
            refusal.detail.starts_with(&format!("{field}: ")),
            "{value}: {refusal}"
        );
    }
    let table = [
        (
            json!({"conversion_id": 1}),
            Reason::BadType,
            "conversion_id",
        ),
        (
            json!({"advertiser_id": "a b"}),
            Reason::BadId,
            "advertiser_id",
        ),
        (json!({"click_id": "a b"}), Reason::BadId, "click_id"),
        (json!({"order_id": "a b"}), Reason::BadId, "order_id"),
        (json!({"order_id": 77}), Reason::BadType, "order_id"),
        (
            json!({"value_micros": -5}),
            Reason::BadAmount,
            "value_micros",
        ),
        (
            json!({"value_micros": "5"}),
            Reason::BadType,
            "value_micros",
        ),
        (
            json!({"currency_code": "EURO"}),
            Reason::BadCurrency,
            "currency_code",
        ),
        (
            json!({"currency_code": ""}),
            Reason::BadCurrency,
            "currency_code",
        ),
        (
            json!({"currency_code": "E1R"}),
            Reason::BadCurrency,
            "currency_code",
        ),
        (
            json!({"currency_code": 978}),
            Reason::BadType,
            "currency_code",
        ),
    ];
    for (value, reason, field) in table {
        let refusal = both(Kind::Conversion, Some("v1"), Some("m1"), &value).unwrap_err();
        assert_eq!(refusal.reason, reason, "{value}: {refusal}");
        assert!(
            refusal.detail.starts_with(&format!("{field}: ")),
            "{value}: {refusal}"
        );
    }
}

#[test]
fn null_and_empty_texts_are_absent_and_bounds_are_kept() {
    let least = RawEvent::new(Kind::Click, id("c1"), id("a1"));
    let names = [
        "campaign_id",
        "creative",
        "user_id",
        "device",
        "geo",
        "ts",
        "ip",
        "ip_hash",
        "user_agent",
        "referrer",
    ];
    for name in names.iter().chain(&[
        "cost_micros",
        "impression_id",
        "landing_url",
        "ad_id",
        "order_id",
        "unknown",
    ]) {
        assert_eq!(
            both(
                Kind::Click,
                Some("a1"),
                None,
                &json!({"click_id": "c1", *name: null})
            )
            .unwrap(),
            least,
            "{name}"
        );
    }
    for name in [
        "creative",
        "device",
        "geo",
        "ip",
        "ip_hash",
        "user_agent",
        "referrer",
        "landing_url",
    ] {
        assert_eq!(
            both(
                Kind::Click,
                Some("a1"),
                None,
                &json!({"click_id": "c1", name: ""})
            )
            .unwrap(),
            least,
            "{name}"
        );
    }
    let value = json!({
        "click_id": "c".repeat(64), "user_agent": "é".repeat(2_000), "referrer": format!("x{}", "é".repeat(2_000)),
        "creative": "v".repeat(65), "geo": "Atlantis", "device": "fridge", "cost_micros": 1_000_000_000_000_000_i64,
        "ip": " 2001:db8::1 ",
    });
    let raw = both(Kind::Click, Some("a1"), None, &value).unwrap();
    assert_eq!(raw.id.as_str().len(), 64);
    assert_eq!(raw.user_agent.unwrap().len(), 2_048);
    assert_eq!(raw.referrer.unwrap().len(), 2_047);
    assert_eq!(raw.creative.as_deref(), Some("other"));
    assert_eq!(raw.region.as_deref(), Some("other"));
    assert_eq!(raw.device, Some(Device::Other));
    assert_eq!(raw.cost_micros, Some(1_000_000_000_000_000));
    assert_eq!(raw.ip, Some("2001:db8::1".parse().unwrap()));
}

#[test]
fn subjects_have_three_tokens() {
    assert_eq!(
        parse_subject("ads.click.a1"),
        Ok(Subject {
            kind: Kind::Click,
            key: "a1"
        })
    );
    assert_eq!(
        parse_subject("ads.impression.a:1_-"),
        Ok(Subject {
            kind: Kind::Impression,
            key: "a:1_-"
        })
    );
    assert_eq!(
        parse_subject("ads.conversion.v"),
        Ok(Subject {
            kind: Kind::Conversion,
            key: "v"
        })
    );
    let table = [
        ("ads.view.a1", Reason::UnknownKind),
        ("ads.Click.a1", Reason::UnknownKind),
        ("ads.view", Reason::UnknownKind),
        ("ads.click", Reason::BadSubject),
        ("ads.click.", Reason::BadSubject),
        ("ads.click.a.b", Reason::BadSubject),
        ("ads", Reason::BadSubject),
        ("", Reason::BadSubject),
        ("events.0.click", Reason::BadSubject),
        ("xads.click.a1", Reason::BadSubject),
    ];
    for (subject, reason) in table {
        assert_eq!(
            parse_subject(subject).unwrap_err().reason,
            reason,
            "{subject}"
        );
    }
}

#[test]
fn an_object_of_a_post_says_its_kind() {
    let raw =
        RawEvent::from_json_object(br#"{"kind":"impression","impression_id":"i1","ad_id":"a1"}"#)
            .unwrap();
    assert_eq!(raw, RawEvent::new(Kind::Impression, id("i1"), id("a1")));
    let table: [(&[u8], Reason); 7] = [
        (
            br#"{"impression_id":"i1","ad_id":"a1"}"#,
            Reason::UnknownKind,
        ),
        (
            br#"{"kind":"view","impression_id":"i1","ad_id":"a1"}"#,
            Reason::UnknownKind,
        ),
        (
            br#"{"kind":1,"impression_id":"i1","ad_id":"a1"}"#,
            Reason::BadType,
        ),
        (
            br#"{"kind":"click","impression_id":"i1","ad_id":"a1"}"#,
            Reason::MissingEventId,
        ),
        (br#"{"kind":"click","click_id":"i1"}"#, Reason::MissingAdId),
        (b"\x81\xa4kind\xa5click", Reason::InvalidPayload),
        (b"[]", Reason::InvalidPayload),
    ];
    for (payload, reason) in table {
        assert_eq!(
            RawEvent::from_json_object(payload).unwrap_err().reason,
            reason,
            "{payload:?}"
        );
    }
}
