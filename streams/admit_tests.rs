//! The rules of admission, each by a hand-written expectation.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixtures::{FIVE_MINUTES, NOON, catalogue, facts, raw};
use super::*;

fn admitted(kind: Kind, key: &str, fields: Value) -> Admitted {
    admit(raw(kind, key, fields), &facts(), &catalogue()).unwrap()
}

fn placement(kind: Kind, key: &str, fields: Value) -> Placement {
    admitted(kind, key, fields)
        .event
        .placement()
        .unwrap()
        .clone()
}

fn id(text: &str) -> Id {
    Id::new(text).unwrap()
}

#[test]
fn a_click_is_stamped_with_all_that_the_fold_needs() {
    let raw = raw(
        Kind::Click,
        "a-cpc",
        json!({"creative": "blue", "geo": "us-ca", "device": "tv", "user_id": "u1", "impression_id": "i1",
               "landing_url": "https://l.example/", "user_agent": "UA", "referrer": "https://r.example/", "ts": NOON - 1}),
    );
    let hash = raw.content_hash();
    let facts = Facts {
        address_hash: Some(77),
        ..facts()
    };
    let admitted = admit(raw, &facts, &catalogue()).unwrap();
    let placement = Placement {
        ad_id: id("a-cpc"),
        campaign_id: id("cpc"),
        creative: "blue".into(),
        region: "US-CA".into(),
        device: Device::Tv,
        cost_micros: 250_000,
        verdict: None,
    };
    let detail = ClickDetail {
        impression_id: Some(id("i1")),
        landing_url: Some("https://l.example/".into()),
    };
    let event = Event {
        id: id("e1"),
        event_time_ms: NOON - 1,
        arrival_ms: NOON,
        advertiser_id: Some(id("acme")),
        currency: Some(Currency::new("USD").unwrap()),
        utc_offset_s: -18_000,
        catalogue_revision: 18,
        content_hash: hash,
        flags: Flags::default(),
        address_hash: Some(77),
        user_id: Some(id("u1")),
        user_agent: Some("UA".into()),
        referrer: Some("https://r.example/".into()),
        body: Body::Click(placement, detail),
    };
    assert_eq!(admitted, Admitted { event, spread: 4 });
}

#[test]
fn the_price_is_the_event_s_or_the_campaign_s() {
    let table = [
        (Kind::Click, "a-cpc", json!({}), 250_000),
        (Kind::Impression, "a-cpc", json!({}), 0),
        (Kind::Click, "a-cpm", json!({}), 0),
        (Kind::Impression, "a-cpm", json!({}), 2_000),
        (Kind::Click, "a-cpc", json!({"cost_micros": 7}), 7),
        (Kind::Impression, "a-cpc", json!({"cost_micros": 7}), 7),
        (Kind::Click, "a-cpm", json!({"cost_micros": 7}), 7),
        (Kind::Impression, "a-cpm", json!({"cost_micros": 0}), 0),
        (Kind::Click, "nowhere", json!({"campaign_id": "cpc"}), 0),
        (
            Kind::Click,
            "nowhere",
            json!({"campaign_id": "cpc", "cost_micros": 9}),
            9,
        ),
        (Kind::Click, "nowhere", json!({"campaign_id": "unheard"}), 0),
        (
            Kind::Impression,
            "nowhere",
            json!({"campaign_id": "unheard", "cost_micros": 9}),
            9,
        ),
        (Kind::Click, "a-paused", json!({}), 250_000),
    ];
    for (kind, ad, fields, cost) in table {
        assert_eq!(
            placement(kind, ad, fields.clone()).cost_micros,
            cost,
            "{kind} {ad} {fields}"
        );
    }
}

#[test]
fn the_catalogue_s_campaign_wins_and_an_unknown_ad_keeps_its_own() {
    let same = admitted(Kind::Click, "a-cpc", json!({"campaign_id": "cpc"})).event;
    assert_eq!(
        (same.placement().unwrap().campaign_id.as_str(), same.flags),
        ("cpc", Flags::default())
    );
    let other = admitted(Kind::Click, "a-cpc", json!({"campaign_id": "cpm"})).event;
    assert_eq!(
        (other.placement().unwrap().campaign_id.as_str(), other.flags),
        ("cpc", Flags::CAMPAIGN_MISMATCH)
    );
    assert_eq!(other.placement().unwrap().cost_micros, 250_000);

    let known = admitted(Kind::Click, "nowhere", json!({"campaign_id": "ind"}));
    assert_eq!((known.event.flags, known.spread), (Flags::UNKNOWN_AD, 1));
    assert_eq!(known.event.advertiser_id, Some(id("ind")));
    assert_eq!(known.event.currency, Some(Currency::new("INR").unwrap()));
    assert_eq!(known.event.utc_offset_s, 19_800);

    let unknown = admitted(
        Kind::Impression,
        "nowhere",
        json!({"campaign_id": "unheard"}),
    )
    .event;
    assert_eq!(unknown.flags, Flags::UNKNOWN_AD);
    assert_eq!(
        (
            unknown.advertiser_id,
            unknown.currency,
            unknown.utc_offset_s
        ),
        (None, None, 0)
    );

    let refusal = admit(
        raw(Kind::Click, "nowhere", json!({})),
        &facts(),
        &catalogue(),
    )
    .unwrap_err();
    assert_eq!(refusal.reason, Reason::UnknownAd);
}

#[test]
fn dimensions_come_from_the_event_then_from_the_request() {
    let request = Facts {
        region_from_address: Some("FR".into()),
        device_from_agent: Some(Device::Ios),
        ..facts()
    };
    let of = |fields: Value, facts: &Facts| {
        let event = admit(raw(Kind::Click, "a-cpc", fields), facts, &catalogue())
            .unwrap()
            .event;
        let p = event.placement().unwrap().clone();
        (p.region.to_string(), p.device, p.creative.to_string())
    };
    let expect =
        |region: &str, device, creative: &str| (region.to_owned(), device, creative.to_owned());
    assert_eq!(of(json!({}), &facts()), expect("", Device::Other, ""));
    assert_eq!(of(json!({}), &request), expect("FR", Device::Ios, ""));
    assert_eq!(
        of(json!({"geo": "", "device": ""}), &request),
        expect("FR", Device::Ios, "")
    );
    assert_eq!(
        of(json!({"geo": "DE", "device": "tablet"}), &request),
        expect("DE", Device::Tablet, "")
    );
    assert_eq!(
        of(json!({"geo": "Mars", "device": "toaster"}), &request),
        expect("other", Device::Other, "")
    );
    // The ad lists blue and red; any other variant is `other`.
    assert_eq!(of(json!({"creative": "red"}), &facts()).2, "red");
    assert_eq!(of(json!({"creative": "green"}), &facts()).2, "other");
    assert_eq!(of(json!({"creative": "x".repeat(65)}), &facts()).2, "other");
    assert_eq!(
        &*placement(Kind::Click, "a-cpm", json!({"creative": "green"})).creative,
        "green"
    );
    assert_eq!(
        &*placement(Kind::Click, "a-cpm", json!({"creative": "a\tb"})).creative,
        "other"
    );
    assert_eq!(
        &*placement(
            Kind::Click,
            "nowhere",
            json!({"campaign_id": "k", "creative": "green"})
        )
        .creative,
        "green"
    );
}

#[test]
fn the_edge_s_verdict_is_the_first_reason() {
    let all = Facts {
        is_bot: true,
        is_prefetch: true,
        over_address_limit: true,
        ..facts()
    };
    let of = |ad: &str, fields: Value, facts: &Facts| {
        admit(raw(Kind::Click, ad, fields), facts, &catalogue())
            .unwrap()
            .event
            .placement()
            .unwrap()
            .verdict
    };
    assert_eq!(of("a-cpc", json!({}), &facts()), None);
    assert_eq!(of("a-paused", json!({}), &all), Some(EdgeReason::KnownBot));
    assert_eq!(
        of(
            "a-paused",
            json!({}),
            &Facts {
                is_bot: false,
                ..all.clone()
            }
        ),
        Some(EdgeReason::Prefetch)
    );
    let rest = Facts {
        is_bot: false,
        is_prefetch: false,
        ..all
    };
    assert_eq!(
        of("a-paused", json!({}), &rest),
        Some(EdgeReason::CampaignInactive)
    );
    assert_eq!(
        of("a-cpc", json!({}), &rest),
        Some(EdgeReason::AddressLimit)
    );
    let inactive = Some(EdgeReason::CampaignInactive);
    assert_eq!(of("a-ended", json!({}), &facts()), inactive);
    assert_eq!(of("a-off", json!({}), &facts()), inactive);
    assert_eq!(
        of("nowhere", json!({"campaign_id": "paused"}), &facts()),
        inactive
    );
    assert_eq!(
        of("nowhere", json!({"campaign_id": "unheard"}), &facts()),
        None
    );
    // From 14:00 up to, and without, 15:00, by the event's own time.
    let dated = [
        ("13:59:59.999", inactive),
        ("14:00:00", None),
        ("14:59:59.999", None),
        ("15:00:00", inactive),
    ];
    for (time, verdict) in dated {
        let facts = Facts {
            arrival_ms: NOON + 86_400_000,
            ..facts()
        };
        assert_eq!(
            of(
                "a-dated",
                json!({"ts": format!("2024-02-09T{time}Z")}),
                &facts
            ),
            verdict,
            "{time}"
        );
    }
    let impression = admit(
        raw(Kind::Impression, "a-paused", json!({})),
        &facts(),
        &catalogue(),
    )
    .unwrap()
    .event;
    assert_eq!(impression.placement().unwrap().verdict, inactive);
}

#[test]
fn a_time_is_the_event_s_or_its_arrival_s_and_not_far_ahead() {
    let of = |fields: Value| {
        admit(raw(Kind::Click, "a-cpc", fields), &facts(), &catalogue())
            .map(|a| a.event.event_time_ms)
    };
    assert_eq!(of(json!({})), Ok(NOON));
    assert_eq!(
        of(json!({"ts": NOON + FIVE_MINUTES})),
        Ok(NOON + FIVE_MINUTES)
    );
    assert_eq!(
        of(json!({"ts": NOON + FIVE_MINUTES + 1}))
            .unwrap_err()
            .reason,
        Reason::TsInFuture
    );
    assert_eq!(
        of(json!({"ts": "9999-12-31T23:59:59Z"}))
            .unwrap_err()
            .reason,
        Reason::TsInFuture
    );
    assert_eq!(
        of(json!({"ts": "0001-01-01T00:00:00Z"})),
        Ok(-62_135_596_800_000)
    );
    assert_eq!(of(json!({"ts": 0})), Ok(0));
}

#[test]
fn the_offset_is_the_advertiser_s_at_the_event_s_time() {
    let table = [
        ("a-cpc", "2024-03-10T06:59:59Z", -18_000),
        ("a-cpc", "2024-03-10T07:00:00Z", -14_400),
        ("a-cpc", "2023-11-05T05:59:59Z", -14_400),
        ("a-cpc", "2023-11-05T06:00:00Z", -18_000),
        ("a-cpc", "0001-01-01T00:00:00Z", -17_762),
        ("a-howe", "2023-04-01T14:59:59Z", 39_600),
        ("a-howe", "2023-04-01T15:00:00Z", 37_800),
        ("a-ind", "2024-01-01T00:00:00Z", 19_800),
        ("a-ind", "1943-01-01T00:00:00Z", 23_400),
    ];
    for (ad, ts, offset) in table {
        let facts = Facts {
            arrival_ms: NOON + 40 * 86_400_000,
            ..facts()
        };
        let event = admit(
            raw(Kind::Click, ad, json!({"ts": ts})),
            &facts,
            &catalogue(),
        )
        .unwrap()
        .event;
        assert_eq!(event.utc_offset_s, offset, "{ad} {ts}");
    }
}

#[test]
fn a_conversion_names_a_click_or_a_user() {
    let of = |advertiser: &str, fields: Value| {
        admit(
            raw(Kind::Conversion, advertiser, fields),
            &facts(),
            &catalogue(),
        )
    };
    assert_eq!(
        of("acme", json!({"order_id": "o1"})).unwrap_err().reason,
        Reason::MissingClickOrUser
    );
    let known = of(
        "ind",
        json!({"click_id": "c1", "value_micros": 5, "order_id": "o1"}),
    )
    .unwrap();
    assert_eq!(known.spread, 1);
    let known = known.event;
    assert_eq!(
        (known.advertiser_id.as_ref(), known.utc_offset_s),
        (Some(&id("ind")), 19_800)
    );
    assert_eq!(known.currency, Some(Currency::new("INR").unwrap()));
    assert_eq!(known.key(), "ind");
    let detail = ConversionDetail {
        click_id: Some(id("c1")),
        order_id: Some(id("o1")),
        value_micros: 5,
    };
    assert_eq!(known.body, Body::Conversion(detail));
    let foreign = of("ind", json!({"user_id": "u1", "currency_code": "eur"}))
        .unwrap()
        .event;
    assert_eq!(
        (foreign.currency, foreign.user_id),
        (Some(Currency::new("EUR").unwrap()), Some(id("u1")))
    );
    let unknown = of("stranger", json!({"user_id": "u1"})).unwrap().event;
    assert_eq!(
        (
            unknown.advertiser_id,
            unknown.currency,
            unknown.utc_offset_s
        ),
        (Some(id("stranger")), None, 0)
    );
    assert_eq!(unknown.flags, Flags::default());
}

#[test]
fn what_the_border_noticed_becomes_flags() {
    let mut mended = Flags::BAD_TIME;
    mended.set(Flags::BAD_ID);
    let facts = Facts {
        no_address_key: true,
        minted_id: true,
        mended,
        user_agent: Some("é".repeat(2_000).into()),
        referrer: Some("".into()),
        ..facts()
    };
    let event = admit(
        raw(Kind::Click, "a-cpc", json!({"campaign_id": "x"})),
        &facts,
        &catalogue(),
    )
    .unwrap()
    .event;
    // 1 (campaign) + 2 (time) + 4 (id) + 32 (address key) + 64 (minted).
    assert_eq!(event.flags, Flags(103));
    assert_eq!(event.user_agent.unwrap().len(), 2_048);
    assert_eq!(event.referrer, None);
    // The event's own word comes first, and the request's is no part of what the publisher gave.
    let own = admit(
        raw(Kind::Click, "a-cpc", json!({"user_agent": "own"})),
        &facts,
        &catalogue(),
    )
    .unwrap()
    .event;
    assert_eq!(own.user_agent.as_deref(), Some("own"));
    assert_eq!(
        event.content_hash,
        raw(Kind::Click, "a-cpc", json!({"campaign_id": "x"})).content_hash()
    );
}

proptest! {
    #[test]
    fn admission_is_total(
        kind in prop::sample::select(&Kind::ALL[..]),
        ad in prop::sample::select(&["a-cpc", "a-dated", "a-howe", "acme", "nowhere"][..]),
        campaign in prop::option::of(prop::sample::select(&["cpc", "unheard"][..])),
        ts in prop::option::of(crate::time::MIN_TIME_MS..=crate::time::MAX_TIME_MS),
        arrival in any::<i64>(),
        cost in prop::option::of(0..=crate::money::MAX_MICROS),
        user in any::<bool>(),
        marks in any::<[bool; 5]>(),
    ) {
        let mut raw = RawEvent::new(kind, id("e1"), id(ad));
        raw.ts_ms = ts;
        raw.campaign_id = campaign.map(id);
        raw.cost_micros = cost;
        raw.user_id = user.then(|| id("u1"));
        let [is_bot, is_prefetch, over_address_limit, no_address_key, minted_id] = marks;
        let facts = Facts { arrival_ms: arrival, is_bot, is_prefetch, over_address_limit, no_address_key, minted_id, ..Facts::default() };
        let hash = raw.content_hash();
        match admit(raw, &facts, &catalogue()) {
            Ok(admitted) => {
                let event = admitted.event;
                prop_assert_eq!(event.kind(), kind);
                prop_assert_eq!(event.key(), ad);
                prop_assert_eq!(event.content_hash, hash);
                prop_assert_eq!(event.event_time_ms, ts.unwrap_or(arrival));
                prop_assert!(admitted.spread >= 1);
            }
            Err(refusal) => {
                let reasons = [Reason::TsInFuture, Reason::UnknownAd, Reason::MissingClickOrUser];
                prop_assert!(reasons.contains(&refusal.reason));
            }
        }
    }
}
