//! Plans as tables: what was asked for beside what comes of it.

#![allow(clippy::unwrap_used)]

use adtally_streams::event::Device;

use super::*;

/// 2024-02-09T14:05:00Z.
const NOW: i64 = 1_707_487_500_000;
const DAY: i64 = 86_400_000;

fn catalogue() -> Catalogue {
    let mut catalogue = Catalogue::default();
    for (sequence, (subject, document)) in [
        ("catalog.advertiser.acme", r#"{"advertiser_id":"acme","name":"A","currency_code":"USD","time_zone":"UTC"}"#),
        (
            "catalog.campaign.k1",
            r#"{"campaign_id":"k1","advertiser_id":"acme","name":"K","status":"paused","pricing":{"model":"cpc","price_micros":250000}}"#,
        ),
        (
            "catalog.ad.ad1",
            r#"{"ad_id":"ad1","campaign_id":"k1","landing_url":"https://shop.example/{ad_id}?c={campaign_id}&v={creative}&k={click_id}"}"#,
        ),
    ]
    .into_iter()
    .enumerate()
    {
        catalogue.apply(sequence as u64 + 1, subject, document.as_bytes()).unwrap();
    }
    catalogue
}

fn minted() -> Id {
    Id::new("minted").unwrap()
}

fn click_with(query: &str, signer: Option<&Signer>) -> Result<Planned, Box<Refused>> {
    let params = Params::parse(query);
    let context = Context {
        params: &params,
        now_ms: NOW,
        max_age_ms: 7 * DAY,
    };
    plan_click(
        &context,
        &params.get("ad_id").clone(),
        signer,
        &catalogue(),
        minted,
    )
}

fn click(query: &str) -> Result<Planned, Box<Refused>> {
    click_with(query, None)
}

fn impression(query: &str) -> Result<Planned, Box<Refused>> {
    let params = Params::parse(query);
    let context = Context {
        params: &params,
        now_ms: NOW,
        max_age_ms: 7 * DAY,
    };
    plan_impression(&context, &catalogue(), minted)
}

fn conversion(query: &str) -> Result<Planned, Box<Refused>> {
    let params = Params::parse(query);
    plan_conversion(
        &Context {
            params: &params,
            now_ms: NOW,
            max_age_ms: 7 * DAY,
        },
        minted,
    )
}

/// Status, parameter and reason of a refusal.
fn refused(result: Result<Planned, Box<Refused>>) -> (u16, Option<String>, &'static str) {
    let refused = result.expect_err("refused");
    let parameter = refused.problem.parameter().map(str::to_owned);
    (
        refused.problem.status().as_u16(),
        parameter,
        refused.refusal.reason.name(),
    )
}

fn refusal(
    status: u16,
    parameter: &str,
    reason: &'static str,
) -> (u16, Option<String>, &'static str) {
    (status, Some(parameter.to_owned()), reason)
}

#[test]
fn a_click_on_a_known_ad_leads_to_its_landing_page_with_macros_filled() {
    let planned = click(
        "ad_id=ad1&creative=blue+sky&click_id=c:1&user_id=u1&device=IOS&geo=us-ca&ts=1707487400",
    )
    .unwrap();
    assert_eq!(
        planned.location.as_deref(),
        Some("https://shop.example/ad1?c=k1&v=blue%20sky&k=c%3A1")
    );
    assert_eq!(
        (planned.mended, planned.has_minted_id),
        (Flags::default(), false)
    );
    let raw = planned.raw;
    assert_eq!(
        (raw.kind, raw.id.as_str(), raw.key.as_str()),
        (Kind::Click, "c:1", "ad1")
    );
    assert_eq!(
        (raw.creative.as_deref(), raw.region.as_deref()),
        (Some("blue sky"), Some("US-CA"))
    );
    assert_eq!(
        (raw.device, raw.ts_ms),
        (Some(Device::Ios), Some(1_707_487_400_000))
    );
    assert_eq!(
        raw.landing_url, None,
        "where the visitor is sent is no part of what the publisher said"
    );
}

#[test]
fn whatever_else_is_wrong_a_person_arrives() {
    let long = "x".repeat(10_240);
    for (query, flags) in [
        ("ad_id=ad1".to_owned(), Flags::default()),
        ("ad_id=ad1&click_id=".to_owned(), Flags::default()),
        ("ad_id=ad1&click_id=a.b".to_owned(), Flags::BAD_ID),
        (format!("ad_id=ad1&click_id={long}"), Flags::BAD_ID),
        ("ad_id=ad1&click_id=%FF".to_owned(), Flags::BAD_ID),
        ("ad_id=ad1&impression_id=%20".to_owned(), Flags::BAD_ID),
        (
            "ad_id=ad1&campaign_id=k%201".to_owned(),
            Flags::BAD_PARAMETER,
        ),
        (format!("ad_id=ad1&user_id={long}"), Flags::BAD_PARAMETER),
        ("ad_id=ad1&creative=%FF".to_owned(), Flags::BAD_PARAMETER),
        ("ad_id=ad1&device=%C3%28".to_owned(), Flags::BAD_PARAMETER),
        ("ad_id=ad1&geo=%ff".to_owned(), Flags::BAD_PARAMETER),
        (
            format!("ad_id=ad1&creative={long}&geo={long}&device={long}"),
            Flags::default(),
        ),
        ("ad_id=ad1&ts=yesterday".to_owned(), Flags::BAD_TIME),
        ("ad_id=ad1&ts=%ff".to_owned(), Flags::BAD_TIME),
        (
            "ad_id=ad1&ts=99999999999999999999".to_owned(),
            Flags::BAD_TIME,
        ),
        ("ad_id=ad1&exp=1&sig=zz".to_owned(), Flags::default()),
        ("ad_id=ad1&url=".to_owned(), Flags::default()),
    ] {
        let planned = click(&query).unwrap_or_else(|refused| panic!("{query}: {refused:?}"));
        assert!(
            planned
                .location
                .unwrap()
                .starts_with("https://shop.example/ad1?c=k1"),
            "{query}"
        );
        assert_eq!(planned.mended, flags, "{query}");
        assert!(
            planned.has_minted_id && planned.raw.id == minted(),
            "{query}"
        );
    }
}

#[test]
fn a_time_is_taken_from_seven_days_ago_to_five_minutes_ahead() {
    for (ms, expected) in [
        (NOW, Some(NOW)),
        (NOW - 7 * DAY, Some(NOW - 7 * DAY)),
        (NOW - 7 * DAY - 1, None),
        (NOW + 300_000, Some(NOW + 300_000)),
        (NOW + 300_001, None),
    ] {
        let planned = click(&format!("ad_id=ad1&ts={ms}")).unwrap();
        assert_eq!(planned.raw.ts_ms, expected, "{ms}");
        assert_eq!(
            planned.mended.has(Flags::BAD_TIME),
            expected.is_none(),
            "{ms}"
        );
    }
    for text in ["2024-02-09T15:04:00%2B01:00", "2024-02-09T15:04:00+01:00"] {
        let planned = click(&format!("ad_id=ad1&ts={text}")).unwrap();
        assert_eq!(planned.raw.ts_ms, Some(NOW - 60_000), "{text}");
        assert_eq!(planned.mended, Flags::default(), "{text}");
    }
    let unreadable = click("ad_id=ad1&ts=2024-02-09+15:04:00").unwrap();
    assert!(unreadable.mended.has(Flags::BAD_TIME));
}

#[test]
fn a_click_without_a_usable_ad_is_refused() {
    let long = format!("ad_id={}", "x".repeat(10_240));
    for (query, expected) in [
        ("", refusal(400, "ad_id", "missing_ad_id")),
        ("ad_id=", refusal(400, "ad_id", "missing_ad_id")),
        ("ad_id=a%20b", refusal(400, "ad_id", "bad_id")),
        ("ad_id=%FF", refusal(400, "ad_id", "bad_id")),
        (&long, refusal(400, "ad_id", "bad_id")),
        ("ad_id=nobody", refusal(404, "ad_id", "unknown_ad")),
        (
            "ad_id=nobody&campaign_id=k1",
            refusal(404, "ad_id", "unknown_ad"),
        ),
    ] {
        assert_eq!(refused(click(query)), expected, "{query}");
    }
    assert!(click("").unwrap_err().is_about_nothing());
    assert!(!click("ad_id=a%20b").unwrap_err().is_about_nothing());
}

fn signed(ad_id: &str, url: &str, exp: i64, rest: &str) -> String {
    let sig = Signer::new(b"s3cret").sign(ad_id, url, exp);
    let url = percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC);
    format!("ad_id={ad_id}&url={url}&exp={exp}&sig={sig}{rest}")
}

#[test]
fn a_signed_url_leads_there_and_nowhere_else() {
    let signer = Signer::new(b"s3cret");
    let until = NOW / 1_000 + 60;
    let url = "https://other.example/p?x={click_id}&y=ü";
    for ad_id in ["ad1", "nobody"] {
        let planned =
            click_with(&signed(ad_id, url, until, "&campaign_id=k9"), Some(&signer)).unwrap();
        assert_eq!(
            planned.location.as_deref(),
            Some("https://other.example/p?x={click_id}&y=%C3%BC")
        );
        assert_eq!(planned.raw.campaign_id.unwrap().as_str(), "k9");
    }
    let good = signed("ad1", url, until, "");
    for (query, parameter) in [
        (good.replace("ad_id=ad1", "ad_id=ad2"), "sig"),
        (good.replace("other", "evil"), "sig"),
        (good.replace("&exp=17", "&exp=27"), "sig"),
        (good.split("&sig=").next().unwrap().to_owned(), "sig"),
        (good.replace("&sig=", "&sig=%FF"), "sig"),
        (good.split("&exp=").next().unwrap().to_owned(), "exp"),
        (signed("ad1", url, NOW / 1_000 - 1, ""), "exp"),
        (signed("ad1", "javascript:alert(1)", until, ""), "url"),
        (
            signed("ad1", "https://e.com/\r\nSet-Cookie: a=b", until, ""),
            "url",
        ),
        (
            signed(
                "ad1",
                &format!("https://e.com/{}", "x".repeat(2_048)),
                until,
                "",
            ),
            "url",
        ),
        ("ad_id=ad1&url=%FF&exp=1&sig=00".to_owned(), "url"),
    ] {
        assert_eq!(
            refused(click_with(&query, Some(&signer))),
            refusal(400, parameter, "bad_signature"),
            "{query}"
        );
    }
    assert_eq!(
        refused(click(&good)),
        refusal(400, "url", "bad_signature"),
        "no secret is configured"
    );
}

#[test]
fn an_impression_needs_an_ad_that_can_be_counted() {
    let planned = impression("ad_id=ad1&impression_id=i1&creative=blue").unwrap();
    assert_eq!(
        (planned.raw.kind, planned.raw.id.as_str()),
        (Kind::Impression, "i1")
    );
    assert_eq!(planned.location, None);
    assert!(impression("ad_id=nobody&campaign_id=k9").is_ok());
    let mended = impression("ad_id=ad1&impression_id=%20&ts=x&user_id=%FF").unwrap();
    for flag in [Flags::BAD_ID, Flags::BAD_TIME, Flags::BAD_PARAMETER] {
        assert!(mended.mended.has(flag));
    }
    for (query, expected) in [
        ("", refusal(400, "ad_id", "missing_ad_id")),
        ("ad_id=a/b", refusal(400, "ad_id", "bad_id")),
        ("ad_id=nobody", refusal(404, "ad_id", "unknown_ad")),
        (
            "ad_id=nobody&campaign_id=%FF",
            refusal(404, "ad_id", "unknown_ad"),
        ),
    ] {
        assert_eq!(refused(impression(query)), expected, "{query}");
    }
    assert_eq!(
        impression("ad_id=ad1&cost_micros=5")
            .unwrap()
            .raw
            .cost_micros,
        None,
        "a browser sets no price"
    );
}

#[test]
fn a_conversion_is_strict_about_everything_but_its_time() {
    let query = "advertiser_id=acme&click_id=c1&user_id=u1&value_micros=1990000&currency_code=eur&order_id=o-1&ts=x";
    let planned = conversion(query).unwrap();
    let raw = &planned.raw;
    assert_eq!(
        (raw.kind, raw.key.as_str(), raw.id.as_str()),
        (Kind::Conversion, "acme", "minted")
    );
    assert_eq!(
        (raw.value_micros, raw.currency.unwrap().as_str()),
        (Some(1_990_000), "EUR")
    );
    assert_eq!(
        (planned.mended, raw.ts_ms, planned.has_minted_id),
        (Flags::BAD_TIME, None, true)
    );
    assert_eq!(
        conversion("advertiser_id=who&user_id=u1&conversion_id=v1")
            .unwrap()
            .raw
            .id
            .as_str(),
        "v1"
    );
    for (query, expected) in [
        ("", refusal(400, "advertiser_id", "missing_advertiser_id")),
        (
            "advertiser_id=a%20b&click_id=c",
            refusal(400, "advertiser_id", "bad_id"),
        ),
        (
            "advertiser_id=acme",
            refusal(400, "click_id", "missing_click_or_user"),
        ),
        (
            "advertiser_id=acme&click_id=",
            refusal(400, "click_id", "missing_click_or_user"),
        ),
        (
            "advertiser_id=acme&click_id=a%20b",
            refusal(400, "click_id", "bad_id"),
        ),
        (
            "advertiser_id=acme&user_id=%FF",
            refusal(400, "user_id", "bad_id"),
        ),
        (
            "advertiser_id=acme&user_id=u&conversion_id=%20",
            refusal(400, "conversion_id", "bad_id"),
        ),
        (
            "advertiser_id=acme&user_id=u&order_id=a%20b",
            refusal(400, "order_id", "bad_id"),
        ),
        (
            "advertiser_id=acme&user_id=u&value_micros=1.5",
            refusal(400, "value_micros", "bad_amount"),
        ),
        (
            "advertiser_id=acme&user_id=u&value_micros=-1",
            refusal(400, "value_micros", "bad_amount"),
        ),
        (
            "advertiser_id=acme&user_id=u&value_micros=1000000000000001",
            refusal(400, "value_micros", "bad_amount"),
        ),
        (
            "advertiser_id=acme&user_id=u&currency_code=EURO",
            refusal(400, "currency_code", "bad_currency"),
        ),
    ] {
        assert_eq!(refused(conversion(query)), expected, "{query}");
    }
}

proptest::proptest! {
    #[test]
    fn a_known_ad_always_leads_to_its_host(rest in "[ -~]{0,200}") {
        // Whatever stands behind a known ad, but for a signed URL, which may be refused.
        let rest = rest.replace("url", "u");
        if let Ok(planned) = click(&format!("ad_id=ad1&{rest}")) {
            let location = planned.location.unwrap();
            proptest::prop_assert!(location.starts_with("https://shop.example/ad1?c=k1&v="));
            proptest::prop_assert!(location.bytes().all(|b| b.is_ascii_graphic()));
        } else {
            proptest::prop_assert!(false, "refused");
        }
    }
}
