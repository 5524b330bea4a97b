//! Every field of every document: what it may be, and that a complaint names it.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(kind: DocumentKind, value: &Value) -> Result<Document, CatalogueError> {
    Document::from_json(kind, None, value.to_string().as_bytes())
}

fn text_of(document: &Document) -> String {
    String::from_utf8(document.to_json_bytes()).unwrap()
}

/// `base` with one field replaced, or left out for null.
fn with(base: &Value, path: &str, value: &Value) -> Value {
    let mut changed = base.clone();
    match path.split_once('.') {
        Some((outer, inner)) => changed[outer][inner] = value.clone(),
        None => changed[path] = value.clone(),
    }
    changed
}

fn an_advertiser() -> Value {
    json!({"advertiser_id": "acme", "name": "Acme", "currency_code": "USD", "time_zone": "America/New_York"})
}

fn a_campaign() -> Value {
    json!({
        "campaign_id": "k1", "advertiser_id": "acme", "name": "Spring", "status": "active",
        "pricing": {"model": "cpc", "price_micros": 250_000}, "daily_budget_micros": 50_000_000,
        "start": "2024-02-01T00:00:00Z", "end": "2024-03-01T00:00:00+01:00",
    })
}

fn an_ad() -> Value {
    json!({
        "ad_id": "a1", "campaign_id": "k1", "landing_url": "https://acme.example/?c={click_id}", "status": "paused",
        "creatives": ["blue", "red"], "spread": 4,
    })
}

fn a_key() -> Value {
    json!({
        "key_id": "key-1", "name": "n", "scope": {"advertiser": "acme"}, "created_at": "2024-02-01T00:00:00Z",
        "secret_sha256": "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF", "revoked": true,
    })
}

#[test]
fn a_document_is_shown_with_the_contract_s_names() {
    let shown = |kind, value: &Value| text_of(&read(kind, value).unwrap());
    assert_eq!(
        shown(DocumentKind::Advertiser, &an_advertiser()),
        r#"{"advertiser_id":"acme","name":"Acme","currency_code":"USD","time_zone":"America/New_York"}"#
    );
    assert_eq!(
        shown(DocumentKind::Campaign, &a_campaign()),
        r#"{"campaign_id":"k1","advertiser_id":"acme","name":"Spring","status":"active","pricing":{"model":"cpc","price_micros":250000},"daily_budget_micros":50000000,"start":"2024-02-01T00:00:00.000Z","end":"2024-02-29T23:00:00.000Z"}"#
    );
    assert_eq!(
        shown(DocumentKind::Ad, &an_ad()),
        r#"{"ad_id":"a1","campaign_id":"k1","landing_url":"https://acme.example/?c={click_id}","status":"paused","creatives":["blue","red"],"spread":4}"#
    );
    assert_eq!(
        shown(DocumentKind::Key, &a_key()),
        r#"{"key_id":"key-1","name":"n","scope":{"advertiser":"acme"},"secret_sha256":"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff","created_at":"2024-02-01T00:00:00.000Z","revoked":true}"#
    );
}

#[test]
fn what_may_be_left_out_has_its_default() {
    let campaign = json!({"campaign_id": "k1", "advertiser_id": "acme", "pricing": {"model": "cpm", "price_micros": 0}});
    assert_eq!(
        text_of(&read(DocumentKind::Campaign, &campaign).unwrap()),
        r#"{"campaign_id":"k1","advertiser_id":"acme","name":"k1","status":"active","pricing":{"model":"cpm","price_micros":0},"daily_budget_micros":null,"start":null,"end":null}"#
    );
    let ad = json!({"ad_id": "a1", "campaign_id": "k1", "landing_url": "http://acme.example", "surprise": {"x": 1}});
    assert_eq!(
        text_of(&read(DocumentKind::Ad, &ad).unwrap()),
        r#"{"ad_id":"a1","campaign_id":"k1","landing_url":"http://acme.example","status":"active","creatives":[]}"#
    );
    let ad = with(&an_ad(), "creatives", &json!(["blue", "red", "blue"]));
    let Document::Ad(ad) = read(DocumentKind::Ad, &ad).unwrap() else {
        panic!("an ad")
    };
    assert_eq!(ad.creatives, [Arc::from("blue"), Arc::from("red")]);
    let advertiser = with(&an_advertiser(), "currency_code", &json!("usd"));
    let Document::Advertiser(advertiser) = read(DocumentKind::Advertiser, &advertiser).unwrap()
    else {
        panic!("one")
    };
    assert_eq!(advertiser.currency_code.as_str(), "USD");
    let Document::Key(key) =
        read(DocumentKind::Key, &with(&a_key(), "scope", &json!("admin"))).unwrap()
    else {
        panic!()
    };
    assert_eq!(key.scope, Scope::Admin);
    assert_eq!(key.secret_sha256[..4], [0x00, 0x11, 0x22, 0x33]);
}

#[test]
fn the_id_comes_from_inside_or_outside_and_may_not_disagree() {
    let given =
        |id, value: Value| Document::from_json(DocumentKind::Ad, id, value.to_string().as_bytes());
    assert_eq!(given(Some("a1"), an_ad()).unwrap().id().as_str(), "a1");
    assert_eq!(
        given(Some("a9"), with(&an_ad(), "ad_id", &Value::Null))
            .unwrap()
            .id()
            .as_str(),
        "a9"
    );
    assert_eq!(
        given(Some("a9"), an_ad()).unwrap_err().parameter(),
        Some("ad_id")
    );
    assert_eq!(
        given(None, with(&an_ad(), "ad_id", &Value::Null))
            .unwrap_err()
            .parameter(),
        Some("ad_id")
    );
    assert_eq!(
        given(Some("a b"), with(&an_ad(), "ad_id", &Value::Null))
            .unwrap_err()
            .parameter(),
        Some("ad_id")
    );
}

#[test]
fn a_complaint_names_the_field() {
    let long = "x".repeat(257);
    let many: Vec<String> = (0..257).map(|n| n.to_string()).collect();
    let table: Vec<(DocumentKind, Value, &str, Value)> = vec![
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "advertiser_id",
            json!("a b"),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "advertiser_id",
            json!(5),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "advertiser_id",
            Value::Null,
        ),
        (DocumentKind::Advertiser, an_advertiser(), "name", json!(5)),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "name",
            json!("a\nb"),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "name",
            json!(long),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "currency_code",
            json!("EURO"),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "currency_code",
            Value::Null,
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "time_zone",
            json!("Mars/Olympus"),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "time_zone",
            json!("+05:30"),
        ),
        (
            DocumentKind::Advertiser,
            an_advertiser(),
            "time_zone",
            Value::Null,
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "campaign_id",
            json!(""),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "advertiser_id",
            Value::Null,
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "status",
            json!("running"),
        ),
        (DocumentKind::Campaign, a_campaign(), "status", json!(true)),
        (DocumentKind::Campaign, a_campaign(), "pricing", Value::Null),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing",
            json!("cpc"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.model",
            json!("cpa"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.model",
            Value::Null,
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.price_micros",
            json!(-1),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.price_micros",
            json!(0.5),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.price_micros",
            json!("1"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.price_micros",
            json!(1_000_000_000_000_001_i64),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "pricing.price_micros",
            Value::Null,
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "daily_budget_micros",
            json!(-1),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "daily_budget_micros",
            json!("1"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "start",
            json!("2024-02-01"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "start",
            json!(1_706_745_600),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "end",
            json!("2024-02-01T00:00:00Z"),
        ),
        (
            DocumentKind::Campaign,
            a_campaign(),
            "end",
            json!("0000-02-01T00:00:00Z"),
        ),
        (DocumentKind::Ad, an_ad(), "campaign_id", Value::Null),
        (DocumentKind::Ad, an_ad(), "landing_url", Value::Null),
        (
            DocumentKind::Ad,
            an_ad(),
            "landing_url",
            json!("javascript:alert(1)"),
        ),
        (
            DocumentKind::Ad,
            an_ad(),
            "landing_url",
            json!("https://acme.example/\r\nX: y"),
        ),
        (
            DocumentKind::Ad,
            an_ad(),
            "landing_url",
            json!("https://{creative}/"),
        ),
        (DocumentKind::Ad, an_ad(), "status", json!("deleted")),
        (DocumentKind::Ad, an_ad(), "creatives", json!("blue")),
        (DocumentKind::Ad, an_ad(), "creatives", json!(many)),
        (DocumentKind::Ad, an_ad(), "spread", json!(0)),
        (DocumentKind::Ad, an_ad(), "spread", json!(257)),
        (DocumentKind::Ad, an_ad(), "spread", json!(65_537)),
        (DocumentKind::Ad, an_ad(), "spread", json!(1.5)),
        (DocumentKind::Ad, an_ad(), "spread", json!("2")),
        (DocumentKind::Key, a_key(), "scope", json!("root")),
        (DocumentKind::Key, a_key(), "scope", json!({})),
        (DocumentKind::Key, a_key(), "scope", Value::Null),
        (DocumentKind::Key, a_key(), "secret_sha256", json!("00")),
        (
            DocumentKind::Key,
            a_key(),
            "secret_sha256",
            json!("+0".repeat(32)),
        ),
        (DocumentKind::Key, a_key(), "created_at", Value::Null),
        (DocumentKind::Key, a_key(), "revoked", json!("no")),
    ];
    for (kind, base, field, value) in table {
        let error = read(kind, &with(&base, field, &value)).unwrap_err();
        assert_eq!(error.parameter(), Some(field), "{field} = {value}: {error}");
    }
    for (item, field) in [
        (json!(5), "creatives[1]"),
        (json!(""), "creatives[1]"),
        (json!("x".repeat(65)), "creatives[1]"),
    ] {
        let error = read(
            DocumentKind::Ad,
            &with(&an_ad(), "creatives", &json!(["a", item])),
        )
        .unwrap_err();
        assert_eq!(error.parameter(), Some(field));
    }
    let cpm = json!({"model": "cpm", "price_micros": 1_500});
    let error = read(
        DocumentKind::Campaign,
        &with(&a_campaign(), "pricing", &cpm),
    )
    .unwrap_err();
    assert_eq!(error.parameter(), Some("pricing.price_micros"));
    let scope = with(&a_key(), "scope", &json!({"advertiser": "a b"}));
    assert_eq!(
        read(DocumentKind::Key, &scope).unwrap_err().parameter(),
        Some("scope.advertiser")
    );
}

#[test]
fn what_is_not_an_object_is_refused() {
    for text in ["", "null", "[]", "5", "{", "{}x"] {
        let error = Document::from_json(DocumentKind::Ad, Some("a1"), text.as_bytes()).unwrap_err();
        assert!(
            matches!(error, CatalogueError::NotAnObject(_)),
            "{text}: {error}"
        );
    }
    let large = with(&an_ad(), "note", &json!("x".repeat(DOCUMENT_MAX_BYTES)));
    assert!(matches!(
        read(DocumentKind::Ad, &large),
        Err(CatalogueError::TooLarge(_))
    ));
}

#[test]
fn a_file_is_read_in_the_order_of_reference() {
    let file =
        json!({"ads": [an_ad()], "campaigns": [a_campaign()], "advertisers": [an_advertiser()]});
    let read = CatalogueFile::from_json(file.to_string().as_bytes()).unwrap();
    let subjects: Vec<_> = read.documents.iter().map(Document::subject).collect();
    assert_eq!(
        subjects,
        [
            "catalog.advertiser.acme",
            "catalog.campaign.k1",
            "catalog.ad.a1"
        ]
    );
    assert_eq!(read.unknown, []);
    let mut ad = an_ad();
    ad["landing_ulr"] = json!("https://a.example/");
    let read = CatalogueFile::from_json(json!({"ads": [an_ad(), ad]}).to_string().as_bytes());
    let unknown = &read.unwrap().unknown[0];
    assert_eq!(
        format!("{}{}", unknown.place, unknown.key),
        "ads[1].landing_ulr"
    );
    assert_eq!(CatalogueFile::from_json(b"{}").unwrap().documents, []);
    assert_eq!(
        CatalogueFile::from_json(br#"{"ads":null}"#)
            .unwrap()
            .documents,
        []
    );
    let table = [
        (json!({"ads": {}}), "ads"),
        (json!({"adverts": []}), "adverts"),
        (json!({"ads": [an_ad(), 5]}), "ads[1]"),
        (json!({"ads": [{"campaign_id": "k1"}]}), "ads[0].ad_id"),
        (
            json!({"campaigns": [with(&a_campaign(), "pricing.model", &json!("x"))]}),
            "campaigns[0].pricing.model",
        ),
    ];
    for (file, field) in table {
        let error = CatalogueFile::from_json(file.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.parameter(), Some(field), "{file}: {error}");
    }
    assert!(matches!(
        CatalogueFile::from_json(b"[]"),
        Err(CatalogueError::NotAnObject(_))
    ));
}

proptest! {
    #[test]
    fn what_is_shown_is_read_again(kind in 0..4usize, name in "\\PC{0,60}", micros in 0..=MAX_MICROS / 1_000, ms in proptest::option::of(crate::time::MIN_TIME_MS..crate::time::MAX_TIME_MS)) {
        let kind = DocumentKind::ALL[kind];
        let base = [an_advertiser(), a_campaign(), an_ad(), a_key()][kind as usize].clone();
        let mut value = with(&base, "name", &json!(name));
        if kind == DocumentKind::Campaign {
            value = with(&value, "pricing", &json!({"model": "cpm", "price_micros": micros * 1_000}));
            value = with(&value, "start", &json!(ms.map(crate::time::to_rfc3339)));
            value = with(&value, "end", &Value::Null);
        }
        let document = read(kind, &value).unwrap();
        prop_assert_eq!(Document::from_json(kind, Some(document.id().as_str()), &document.to_json_bytes()), Ok(document));
    }

    #[test]
    fn no_bytes_whatever_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 0..4usize, at in any::<prop::sample::Index>()) {
        let kind = DocumentKind::ALL[kind];
        let _ = Document::from_json(kind, Some("x"), &bytes);
        let _ = CatalogueFile::from_json(&bytes);
        let mut text = a_campaign().to_string().into_bytes();
        let at = at.index(text.len());
        text.splice(at..at, bytes);
        let _ = Document::from_json(kind, None, &text);
    }
}
