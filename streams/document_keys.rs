//! The keys of a catalogue document that are no fields, so that nothing is read from them.
//!
//! [`crate::document_json`] passes over them, and has to: an older program reads what a newer one has published. But
//! whoever writes a document today has more likely mistyped a field, and a budget that is lost without a word is
//! money; so it is told, by whoever takes the document from people.

use serde_json::Value;

use crate::documents::DocumentKind;

/// The most keys that are told of one file or document; who has mistyped more finds the rest after these.
pub const MAX_TOLD: usize = 20;

/// A key from which nothing is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownKey {
    /// The place of the object that has it: empty, or such as `campaigns[2].pricing.`.
    pub place: String,
    /// The key.
    pub key: String,
    /// The fields that the object may have.
    pub known: &'static [&'static str],
}

/// The fields of a document of that kind.
fn fields(kind: DocumentKind) -> &'static [&'static str] {
    match kind {
        DocumentKind::Advertiser => &["advertiser_id", "name", "currency_code", "time_zone"],
        DocumentKind::Campaign => &[
            "campaign_id",
            "advertiser_id",
            "name",
            "status",
            "pricing",
            "daily_budget_micros",
            "start",
            "end",
        ],
        DocumentKind::Ad => &[
            "ad_id",
            "campaign_id",
            "landing_url",
            "status",
            "creatives",
            "spread",
        ],
        DocumentKind::Key => &[
            "key_id",
            "name",
            "scope",
            "secret_sha256",
            "created_at",
            "revoked",
        ],
    }
}

/// The fields of the objects inside of documents.
const INSIDE: [(&str, &[&str]); 2] = [
    ("pricing", &["model", "price_micros"]),
    ("scope", &["advertiser"]),
];

/// The first [`MAX_TOLD`] unknown keys of a document that stands at `place`, such as `campaigns[2].`.
pub fn unknown_keys(kind: DocumentKind, document: &Value, place: &str) -> Vec<UnknownKey> {
    let known = fields(kind);
    let mut found = unknown_in(document, known, place.to_owned());
    for (name, fields) in INSIDE.iter().filter(|(name, _)| known.contains(name)) {
        if let Some(inside) = document.get(name) {
            found.extend(unknown_in(inside, fields, format!("{place}{name}.")));
        }
    }
    found.truncate(MAX_TOLD);
    found
}

fn unknown_in(object: &Value, known: &'static [&'static str], place: String) -> Vec<UnknownKey> {
    let keys = object.as_object().into_iter().flat_map(|o| o.keys());
    keys.filter(|key| !known.contains(&key.as_str()))
        .take(MAX_TOLD)
        .map(|key| UnknownKey {
            place: place.clone(),
            key: key.clone(),
            known,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::documents::Document;

    /// A document of each kind with everything that it can say.
    fn full() -> [(DocumentKind, Value); 4] {
        [
            (
                DocumentKind::Advertiser,
                json!({"advertiser_id": "acme", "name": "Acme", "currency_code": "USD", "time_zone": "UTC"}),
            ),
            (
                DocumentKind::Campaign,
                json!({"campaign_id": "c1", "advertiser_id": "acme", "name": "C", "status": "active",
                       "pricing": {"model": "cpc", "price_micros": 1}, "daily_budget_micros": 5,
                       "start": "2024-01-01T00:00:00Z", "end": "2025-01-01T00:00:00Z"}),
            ),
            (
                DocumentKind::Ad,
                json!({"ad_id": "a1", "campaign_id": "c1", "landing_url": "https://a.example/", "status": "paused",
                       "creatives": ["x"], "spread": 2}),
            ),
            (
                DocumentKind::Key,
                json!({"key_id": "k1", "name": "K", "scope": {"advertiser": "acme"}, "secret_sha256": "0".repeat(64),
                       "created_at": "2024-01-01T00:00:00Z", "revoked": false}),
            ),
        ]
    }

    /// What is known is what a document says of itself when it is written.
    #[test]
    fn every_field_is_known_and_nothing_else() {
        for (kind, document) in full() {
            assert_eq!(unknown_keys(kind, &document, ""), [], "{document}");
            let bytes = document.to_string().into_bytes();
            let read = Document::from_json(kind, None, &bytes).expect("a full document is right");
            let written = serde_json::to_value(&read).expect("a document has a JSON form");
            let mut written: Vec<_> = written.as_object().expect("one object").keys().collect();
            let mut known = fields(kind).to_vec();
            written.sort();
            known.sort_unstable();
            assert_eq!(written, known);
        }
    }

    #[test]
    fn a_mistyped_key_is_told_with_its_place() {
        let document =
            json!({"daily_budget_micro": 5, "pricing": {"model": "cpc", "price": 1}, "name": "C"});
        let told: Vec<_> = unknown_keys(DocumentKind::Campaign, &document, "campaigns[2].")
            .into_iter()
            .map(|u| format!("{}{}", u.place, u.key))
            .collect();
        assert_eq!(
            told,
            [
                "campaigns[2].daily_budget_micro",
                "campaigns[2].pricing.price"
            ]
        );
        // The same name means something elsewhere only.
        let ad = json!({"pricing": {"model": "cpc"}});
        assert_eq!(unknown_keys(DocumentKind::Ad, &ad, "")[0].key, "pricing");
    }

    #[test]
    fn what_is_no_object_has_no_keys_and_many_are_cut() {
        assert_eq!(unknown_keys(DocumentKind::Ad, &json!([1]), ""), []);
        let many: Value = (0..100).map(|n| (format!("k{n}"), Value::Null)).collect();
        assert_eq!(unknown_keys(DocumentKind::Ad, &many, "").len(), MAX_TOLD);
    }
}
