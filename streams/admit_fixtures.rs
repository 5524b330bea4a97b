//! A small catalogue with every case that admission tells apart.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};

use super::*;

/// 2024-02-09T14:05:00Z.
pub(super) const NOON: i64 = 1_707_487_500_000;
pub(super) const FIVE_MINUTES: i64 = 300_000;

pub(super) fn catalogue() -> Catalogue {
    let zones = [
        ("acme", "USD", "America/New_York"),
        ("howe", "AUD", "Australia/Lord_Howe"),
        ("ind", "INR", "Asia/Kolkata"),
    ];
    let campaign = |id: &str, advertiser: &str, rest: Value| {
        let mut value = json!({"campaign_id": id, "advertiser_id": advertiser, "pricing": {"model": "cpc", "price_micros": 250_000}});
        value
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        ("campaign", value)
    };
    let ad = |id: &str, campaign: &str, rest: Value| {
        let mut value =
            json!({"ad_id": id, "campaign_id": campaign, "landing_url": "https://acme.example/"});
        value
            .as_object_mut()
            .unwrap()
            .extend(rest.as_object().unwrap().clone());
        ("ad", value)
    };
    let mut documents: Vec<(&str, Value)> = zones
        .iter()
        .map(|(id, currency, zone)| {
            (
                "advertiser",
                json!({"advertiser_id": id, "currency_code": currency, "time_zone": zone}),
            )
        })
        .collect();
    documents.extend([
        campaign("cpc", "acme", json!({})),
        campaign(
            "cpm",
            "acme",
            json!({"pricing": {"model": "cpm", "price_micros": 2_000_000}}),
        ),
        campaign("paused", "acme", json!({"status": "paused"})),
        campaign("ended", "acme", json!({"status": "ended"})),
        campaign(
            "dated",
            "acme",
            json!({"start": "2024-02-09T14:00:00Z", "end": "2024-02-09T15:00:00Z"}),
        ),
        campaign("howe", "howe", json!({})),
        campaign("ind", "ind", json!({})),
        ad(
            "a-cpc",
            "cpc",
            json!({"creatives": ["blue", "red"], "spread": 4}),
        ),
        ad("a-cpm", "cpm", json!({})),
        ad("a-paused", "paused", json!({})),
        ad("a-ended", "ended", json!({})),
        ad("a-dated", "dated", json!({})),
        ad("a-off", "cpc", json!({"status": "paused"})),
        ad("a-howe", "howe", json!({})),
        ad("a-ind", "ind", json!({})),
    ]);
    let mut catalogue = Catalogue::default();
    for (kind, value) in documents {
        let id = value[format!("{kind}_id")].as_str().unwrap().to_owned();
        catalogue
            .apply(
                catalogue.revision() + 1,
                &format!("catalog.{kind}.{id}"),
                value.to_string().as_bytes(),
            )
            .unwrap();
    }
    catalogue
}

pub(super) fn facts() -> Facts {
    Facts {
        arrival_ms: NOON,
        ..Facts::default()
    }
}

pub(super) fn raw(kind: Kind, key: &str, fields: Value) -> RawEvent {
    RawEvent::from_payload(kind, Some(key), Some("e1"), fields.to_string().as_bytes()).unwrap()
}
