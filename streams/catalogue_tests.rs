//! The catalogue as a fold: what is refused, what is fixed, and that splitting the stream changes nothing.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn advertiser(id: &str, currency: &str, zone: &str) -> (String, Value) {
    let value =
        json!({"advertiser_id": id, "name": id, "currency_code": currency, "time_zone": zone});
    (format!("catalog.advertiser.{id}"), value)
}

fn campaign(id: &str, advertiser: &str, price: i64) -> (String, Value) {
    let pricing = json!({"model": "cpc", "price_micros": price});
    let value =
        json!({"campaign_id": id, "advertiser_id": advertiser, "name": id, "pricing": pricing});
    (format!("catalog.campaign.{id}"), value)
}

fn ad(id: &str, campaign: &str, spread: u16) -> (String, Value) {
    let value = json!({"ad_id": id, "campaign_id": campaign, "landing_url": "https://x.example/", "spread": spread});
    (format!("catalog.ad.{id}"), value)
}

fn key(id: &str, digit: char, scope: &str, revoked: bool) -> (String, Value) {
    let hash: String = std::iter::repeat_n(digit, 64).collect();
    let value = json!({"key_id": id, "scope": scope, "secret_sha256": hash, "created_at": "2024-02-01T00:00:00Z", "revoked": revoked});
    (format!("catalog.key.{id}"), value)
}

/// Applies at the next sequence.
fn apply(
    catalogue: &mut Catalogue,
    (subject, value): (String, Value),
) -> Result<Applied, CatalogueError> {
    catalogue.apply(
        catalogue.revision() + 1,
        &subject,
        value.to_string().as_bytes(),
    )
}

fn sample() -> Catalogue {
    let mut catalogue = Catalogue::default();
    for message in [
        advertiser("acme", "USD", "UTC"),
        campaign("k1", "acme", 5),
        ad("a1", "k1", 2),
        key("x", '1', "admin", false),
    ] {
        assert!(matches!(
            apply(&mut catalogue, message),
            Ok(Applied::Changed(_))
        ));
    }
    catalogue
}

#[test]
fn documents_come_into_force_one_by_one() {
    let mut catalogue = sample();
    assert_eq!(catalogue.revision(), 4);
    assert_eq!(
        catalogue.advertiser("acme").unwrap().currency_code.as_str(),
        "USD"
    );
    assert_eq!(catalogue.campaign("k1").unwrap().pricing.price_micros, 5);
    assert_eq!(catalogue.ad("a1").unwrap().spread(), 2);
    assert!(catalogue.ad("a2").is_none());
    assert_eq!(
        apply(&mut catalogue, campaign("k1", "acme", 5)),
        Ok(Applied::Unchanged)
    );
    assert!(matches!(
        apply(&mut catalogue, campaign("k1", "acme", 6)),
        Ok(Applied::Changed(_))
    ));
    assert_eq!(catalogue.campaign("k1").unwrap().pricing.price_micros, 6);
    // An ad may move, also to another advertiser's campaign.
    apply(&mut catalogue, advertiser("beta", "EUR", "Asia/Kolkata")).unwrap();
    apply(&mut catalogue, campaign("k2", "beta", 9)).unwrap();
    assert!(matches!(
        apply(&mut catalogue, ad("a1", "k2", 2)),
        Ok(Applied::Changed(_))
    ));
    assert_eq!(catalogue.ad("a1").unwrap().campaign_id.as_str(), "k2");
    let counts = (
        catalogue.advertisers().len(),
        catalogue.campaigns().len(),
        catalogue.ads().len(),
        catalogue.keys().len(),
    );
    assert_eq!(counts, (2, 2, 1, 1));
    let shown = catalogue.document(DocumentKind::Campaign, "k2").unwrap();
    assert_eq!(
        (shown.kind(), shown.id().as_str()),
        (DocumentKind::Campaign, "k2")
    );
}

#[test]
fn what_is_fixed_stays_and_the_earlier_document_stands() {
    let mut catalogue = sample();
    apply(&mut catalogue, advertiser("beta", "EUR", "UTC")).unwrap();
    let before = catalogue.clone();
    let table = [
        (advertiser("acme", "EUR", "UTC"), "currency_code"),
        (advertiser("acme", "USD", "Europe/Berlin"), "time_zone"),
        (campaign("k1", "beta", 5), "advertiser_id"),
        (ad("a1", "k1", 3), "spread"),
        (ad("a1", "k1", 1), "spread"),
        (key("x", '1', "publisher", false), "scope"),
        (key("x", '2', "admin", false), "secret_sha256"),
    ];
    for (message, field) in table {
        let error = apply(&mut catalogue, message).unwrap_err();
        assert!(
            matches!(&error, CatalogueError::Immutable { field: f, .. } if *f == field),
            "{error}"
        );
        assert_eq!(error.parameter(), Some(field));
    }
    assert_eq!(catalogue.revision(), before.revision() + 7);
    assert_eq!(
        Catalogue {
            revision: before.revision(),
            ..catalogue
        },
        before
    );
}

#[test]
fn what_is_fixed_may_be_left_out() {
    let mut catalogue = sample();
    let bare = |id: &str, status: &str| {
        let value =
            json!({"campaign_id": "k1", "landing_url": "https://x.example/", "status": status});
        (format!("catalog.ad.{id}"), value)
    };
    let Applied::Changed(Document::Ad(ad)) = apply(&mut catalogue, bare("a1", "paused")).unwrap()
    else {
        panic!()
    };
    assert_eq!((ad.status, ad.spread), (Status::Paused, Some(2)));
    assert_eq!(catalogue.ad("a1"), Some(&ad));
    assert_eq!(
        apply(&mut catalogue, bare("a1", "paused")),
        Ok(Applied::Unchanged)
    );
    apply(&mut catalogue, bare("a2", "active")).unwrap();
    assert_eq!(catalogue.ad("a2").unwrap().spread, Some(1));
    let shown = catalogue
        .document(DocumentKind::Ad, "a2")
        .unwrap()
        .to_json_bytes();
    assert!(
        String::from_utf8(shown)
            .unwrap()
            .ends_with(r#""creatives":[],"spread":1}"#)
    );
    let error = apply(&mut catalogue, ad_with_spread_2("a2")).unwrap_err();
    assert_eq!(error.parameter(), Some("spread"));
    // The same within one file.
    let read = |(_, value): (String, Value), id| {
        Document::from_value(DocumentKind::Ad, Some(id), &value).unwrap()
    };
    let file = [
        read(bare("a3", "active"), "a3"),
        read(ad_with_spread_2("a3"), "a3"),
    ];
    assert!(matches!(
        catalogue.check_all(&file),
        Err(CatalogueError::Immutable {
            field: "spread",
            ..
        })
    ));
}

fn ad_with_spread_2(id: &str) -> (String, Value) {
    ad(id, "k1", 2)
}

#[test]
fn a_reference_to_nothing_is_refused() {
    let mut catalogue = sample();
    let error = apply(&mut catalogue, campaign("k9", "nobody", 5)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "advertiser_id: there is no advertiser nobody; publish it first"
    );
    let error = apply(&mut catalogue, ad("a9", "k9", 1)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "campaign_id: there is no campaign k9; publish it first"
    );
    assert_eq!(error.parameter(), Some("campaign_id"));
    assert!(catalogue.campaign("k9").is_none() && catalogue.ad("a9").is_none());
}

#[test]
fn keys_are_found_by_their_hash_until_they_are_revoked() {
    let mut catalogue = sample();
    assert_eq!(
        catalogue.key_by_hash(&[0x11; 32]).unwrap().scope,
        Scope::Admin
    );
    assert!(catalogue.key_by_hash(&[0x22; 32]).is_none());
    let error = apply(&mut catalogue, key("y", '1', "publisher", false)).unwrap_err();
    assert_eq!(error.parameter(), Some("secret_sha256"));
    apply(&mut catalogue, key("x", '1', "admin", true)).unwrap();
    assert!(catalogue.key_by_hash(&[0x11; 32]).is_none());
    assert!(catalogue.key("x").unwrap().revoked);
    let error = apply(&mut catalogue, key("x", '1', "admin", false)).unwrap_err();
    assert_eq!(error.parameter(), Some("revoked"));
    assert_eq!(catalogue.keys().len(), 1);
}

#[test]
fn the_revision_advances_whatever_the_message_was() {
    let mut catalogue = Catalogue::default();
    assert!(catalogue.apply(1, "catalog.ad.a1", b"not json").is_err());
    assert_eq!(
        catalogue.apply(2, "catalog.rule.x", b"{}"),
        Ok(Applied::OtherKind)
    );
    assert_eq!(
        catalogue.apply(3, "catalog.ad", b"{}"),
        Ok(Applied::OtherKind)
    );
    assert!(
        catalogue
            .apply(
                4,
                "catalog.advertiser.a.b",
                br#"{"currency_code":"USD","time_zone":"UTC"}"#
            )
            .is_err()
    );
    let fine = br#"{"currency_code":"USD","time_zone":"UTC"}"#;
    // Sequences may skip.
    assert!(matches!(
        catalogue.apply(9, "catalog.advertiser.a", fine),
        Ok(Applied::Changed(_))
    ));
    assert_eq!(
        catalogue.apply(9, "catalog.advertiser.b", fine),
        Ok(Applied::Stale)
    );
    assert_eq!(
        catalogue.apply(5, "catalog.advertiser.b", fine),
        Ok(Applied::Stale)
    );
    assert_eq!(
        (catalogue.revision(), catalogue.advertisers().len()),
        (9, 1)
    );
    assert!(
        catalogue
            .apply(
                10,
                "catalog.advertiser.c",
                br#"{"advertiser_id":"d","currency_code":"USD","time_zone":"UTC"}"#
            )
            .is_err()
    );
}

#[test]
fn a_file_is_checked_on_top_of_itself() {
    let file = json!({
        "ads": [ad("a1", "k1", 1).1], "campaigns": [campaign("k1", "acme", 5).1],
        "advertisers": [advertiser("acme", "USD", "UTC").1],
    });
    let file = CatalogueFile::from_json(file.to_string().as_bytes()).unwrap();
    let empty = Catalogue::default();
    assert_eq!(empty.check_all(&file.documents), Ok(()));
    assert!(matches!(
        empty.check_all(file.documents.iter().rev()),
        Err(CatalogueError::Dangling { .. })
    ));
    assert_eq!(empty, Catalogue::default());
}

#[test]
fn a_saved_catalogue_is_read_whole_or_not_at_all() {
    let catalogue = sample();
    let saved = catalogue.to_snapshot();
    assert_eq!(Catalogue::from_snapshot(&saved), Ok(catalogue.clone()));
    assert!(catalogue.key_by_hash(&[0x11; 32]).is_some());
    for at in 0..saved.len() {
        let mut torn = saved.clone();
        torn[at] ^= 0x40;
        assert!(
            matches!(
                Catalogue::from_snapshot(&torn),
                Err(CatalogueError::Snapshot(_))
            ),
            "byte {at}"
        );
        assert!(
            matches!(
                Catalogue::from_snapshot(&saved[..at]),
                Err(CatalogueError::Snapshot(_))
            ),
            "cut at {at}"
        );
    }
}

/// A stream of messages over few names, so that documents meet: good, bad, moving and contradicting ones.
fn any_message() -> impl Strategy<Value = (String, Vec<u8>)> {
    let few = |prefix: &'static str| (0..3u8).prop_map(move |n| format!("{prefix}{n}"));
    let text = |(subject, value): (String, Value)| (subject, value.to_string().into_bytes());
    prop_oneof![
        (few("v"), prop::sample::select(&["USD", "EUR"][..]))
            .prop_map(move |(id, c)| text(advertiser(&id, c, "UTC"))),
        (few("k"), few("v"), 0..3i64)
            .prop_map(move |(id, v, price)| text(campaign(&id, &v, price))),
        (few("a"), few("k"), 1..3u16).prop_map(move |(id, k, spread)| text(ad(&id, &k, spread))),
        (few("x"), 0..3u32, any::<bool>()).prop_map(move |(id, digit, revoked)| {
            text(key(
                &id,
                char::from_digit(digit, 10).unwrap(),
                "admin",
                revoked,
            ))
        }),
        (
            few("catalog.ad.a"),
            prop::collection::vec(any::<u8>(), 0..20)
        ),
        ("[a-z.]{0,20}", prop::collection::vec(any::<u8>(), 0..20)),
    ]
}

proptest! {
    #[test]
    fn any_split_of_the_stream_makes_the_same_state(messages in prop::collection::vec(any_message(), 0..60), cut in any::<prop::sample::Index>()) {
        let mut whole = Catalogue::default();
        let cut = cut.index(messages.len() + 1);
        let mut saved = Catalogue::default().to_snapshot();
        for (at, (subject, payload)) in messages.iter().enumerate() {
            let _ = whole.apply(at as u64 + 1, subject, payload);
            if at + 1 == cut {
                saved = whole.to_snapshot();
            }
        }
        // From the saved state on, with everything before it read once more.
        let mut resumed = Catalogue::from_snapshot(&saved).unwrap();
        for (at, (subject, payload)) in messages.iter().enumerate() {
            let _ = resumed.apply(at as u64 + 1, subject, payload);
        }
        prop_assert_eq!(&whole, &resumed);
        for ad in whole.ads() {
            let campaign = whole.campaign(ad.campaign_id.as_str());
            prop_assert!(campaign.is_some_and(|c| whole.advertiser(c.advertiser_id.as_str()).is_some()));
        }
    }

    #[test]
    fn what_is_fixed_never_changes(messages in prop::collection::vec(any_message(), 0..60)) {
        let mut catalogue = Catalogue::default();
        for (at, (subject, payload)) in messages.iter().enumerate() {
            let before = catalogue.clone();
            let _ = catalogue.apply(at as u64 + 1, subject, payload);
            for old in before.advertisers() {
                let new = catalogue.advertiser(old.advertiser_id.as_str()).unwrap();
                prop_assert_eq!((old.currency_code, old.time_zone), (new.currency_code, new.time_zone));
            }
            for old in before.campaigns() {
                prop_assert_eq!(&old.advertiser_id, &catalogue.campaign(old.campaign_id.as_str()).unwrap().advertiser_id);
            }
            for old in before.ads() {
                prop_assert_eq!(old.spread, catalogue.ad(old.ad_id.as_str()).unwrap().spread);
            }
            for old in before.keys() {
                let new = catalogue.key(old.key_id.as_str()).unwrap();
                prop_assert!(old.secret_sha256 == new.secret_sha256 && old.scope == new.scope && (new.revoked || !old.revoked));
            }
        }
    }
}
